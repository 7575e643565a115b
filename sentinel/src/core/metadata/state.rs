//! Applies commands to the metadata. Deterministic: equal logs give equal states.

use std::collections::BTreeMap;

use bytes::Bytes;
use holdfast_proto::slot::SLOT_COUNT;
use holdfast_proto::{acl, parameters, v1};
use prost::Message;

use super::command::{
    AmendFailover, ChangeUsers, Command, CreateShards, Found, LeaderIs, LogRecord, PrimaryIs,
    PromoteReplica, RecordEvent, RecordFailover, RegisterNode, RegisterProxy, ReplaceReplica,
    RetireProxy, SetHealth, SetSettings,
};

/// How many events the history keeps: weeks of an ordinary cluster in about a megabyte.
pub const EVENTS_MAX: usize = 4096;
/// More worker threads than any machine has cores; a bound against nonsense.
pub const PROXY_WORKERS_MAX: u32 = 1024;

/// ACL users of a cluster; the whole topology goes to every proxy and node.
pub const USERS_MAX: usize = 10_000;
/// Name and rules of one user together, bytes.
pub const USER_LEN_MAX: usize = 64 * 1024;

/// The state itself; also the content of snapshots. Tags are part of the disk format.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Metadata {
    #[prost(message, optional, tag = "1")]
    topology_field: Option<v1::Topology>,
    /// Oldest first; ids ascend without gaps.
    #[prost(message, repeated, tag = "2")]
    events: Vec<v1::Event>,
    #[prost(uint64, tag = "3")]
    last_event_id: u64,
    #[prost(uint64, tag = "4")]
    last_node_id: u64,
    #[prost(uint64, tag = "5")]
    last_raft_id: u64,
    #[prost(uint64, tag = "6")]
    last_proxy_id: u64,
    #[prost(uint64, tag = "7")]
    last_worker_id: u64,
    /// Greatest time of an applied record.
    #[prost(uint64, tag = "8")]
    time_ms: u64,
}

/// What an accepted command gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// Already so: nothing changed.
    Unchanged,
    NodeRegistered {
        id: u64,
    },
    ProxyRegistered {
        id: u64,
        workers: Vec<u64>,
    },
    ReplicaAdded {
        raft_id: u64,
    },
}

/// Why a command did nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error("the cluster is already founded")]
    AlreadyFounded,
    #[error("the cluster is not founded yet")]
    NotFounded,
    #[error("the log names another cluster than the configuration")]
    AnotherCluster,
    #[error("the shards exist already")]
    ShardsExist,
    #[error("shard {shard} is at epoch {actual}, the change assumed {expected}")]
    StaleEpoch { shard: u32, expected: u64, actual: u64 },
    #[error("shard {shard} already has a primary of term {actual}, not {given}")]
    StaleTerm { shard: u32, given: u64, actual: u64 },
    #[error("node {node} runs incarnation {actual} by now, not {given}")]
    StaleIncarnation { node: u64, given: u64, actual: u64 },
    #[error("there is no node {0}")]
    UnknownNode(u64),
    #[error("there is no shard {0}")]
    UnknownShard(u32),
    #[error("shard {shard} has no replica {raft_id}")]
    UnknownReplica { shard: u32, raft_id: u64 },
    #[error("there is no proxy {0}")]
    UnknownProxy(u64),
    #[error("there is no failover of shard {shard} to term {term} in the history")]
    UnknownFailover { shard: u32, term: u64 },
    #[error(
        "node {id} is the data directory of instance {known}, not {given}: \
         it was copied, or identity.json belongs to another node"
    )]
    WrongInstance { id: u64, known: String, given: String },
    #[error(
        "DATA-LOSS-POSSIBLE: shard {shard} has {intact} intact replica(s) besides {raft_id} \
         and needs {needed} to go on without losing acknowledged writes"
    )]
    TooFewIntact { shard: u32, raft_id: u64, intact: usize, needed: usize },
    #[error("user '{0}' was changed by somebody else meanwhile")]
    StaleUser(String),
    #[error("{0}")]
    Invalid(String),
}

type Applied = Result<Outcome, Rejection>;

impl Metadata {
    /// The state of a snapshot.
    pub fn decode_snapshot(bytes: &[u8]) -> Result<Self, prost::DecodeError> {
        Self::decode(bytes)
    }

    pub fn encode_snapshot(&self) -> Bytes {
        self.encode_to_vec().into()
    }

    pub fn is_founded(&self) -> bool {
        self.topology_field.is_some()
    }

    /// `None` until the cluster is founded.
    pub fn topology(&self) -> Option<&v1::Topology> {
        self.topology_field.as_ref()
    }

    pub fn version(&self) -> u64 {
        self.topology().map_or(0, |t| t.version)
    }

    /// Events with an id above `after`, oldest first, at most `limit` (0: all) of the newest.
    pub fn events_after(&self, after: u64, limit: usize) -> impl Iterator<Item = &v1::Event> {
        let from = self.events.partition_point(|e| e.id <= after);
        let count = self.events.len() - from;
        let skip = if limit == 0 { 0 } else { count.saturating_sub(limit) };
        self.events[from + skip..].iter()
    }

    pub fn last_event_id(&self) -> u64 {
        self.last_event_id
    }

    /// The epoch of a shard, for commands that assume it.
    pub fn shard_epoch(&self, shard: u32) -> Option<u64> {
        self.topology()?.shards.iter().find(|s| s.id == shard).map(|s| s.epoch)
    }

    /// Applies one entry of the log. A rejected command changes nothing but the clock.
    pub fn apply(&mut self, record: &LogRecord) -> Applied {
        self.time_ms = self.time_ms.max(record.time_ms);
        let Some(command) = &record.command else { return Ok(Outcome::Unchanged) };
        let applied = match command {
            Command::Found(c) => return self.found(c),
            Command::LeaderIs(c) => self.leader_is(c),
            Command::RegisterNode(c) => self.register_node(c),
            Command::CreateShards(c) => self.create_shards(c),
            Command::PrimaryIs(c) => self.primary_is(c),
            Command::SetHealth(c) => self.set_health(c),
            Command::RegisterProxy(c) => self.register_proxy(c),
            Command::RetireProxy(c) => self.retire_proxy(c),
            Command::SetSettings(c) => self.set_settings(c),
            Command::ChangeUsers(c) => self.change_users(c),
            Command::ReplaceReplica(c) => self.replace_replica(c),
            Command::PromoteReplica(c) => self.promote_replica(c),
            // History is not part of the topology: its version stays.
            Command::RecordFailover(c) => return self.record_failover(c),
            Command::AmendFailover(c) => return self.amend_failover(c),
            Command::RecordEvent(c) => return self.record_event(c),
        };
        if !matches!(applied, Err(_) | Ok(Outcome::Unchanged)) {
            self.topology_mut()?.version += 1;
        }
        applied
    }

    fn found(&mut self, command: &Found) -> Applied {
        if let Some(topology) = self.topology() {
            return if topology.cluster_id == command.cluster_id {
                Err(Rejection::AlreadyFounded)
            } else {
                Err(Rejection::AnotherCluster)
            };
        }
        let spec = command.spec.clone().unwrap_or_default();
        check_spec(&spec)?;
        let text =
            format!("cluster founded: {} shard(s), {} replica(s)", spec.shards, spec.replicas);
        self.topology_field = Some(v1::Topology {
            cluster_id: command.cluster_id.clone(),
            version: 1,
            spec: Some(spec),
            ..Default::default()
        });
        self.event("cluster-founded", 0, 0, text);
        Ok(Outcome::Done)
    }

    fn leader_is(&mut self, command: &LeaderIs) -> Applied {
        let topology = self.topology_mut()?;
        let known = topology.sentinel_leader;
        if known == command.sentinel && topology.sentinels == command.sentinels {
            return Ok(Outcome::Unchanged);
        }
        topology.sentinel_leader = command.sentinel;
        topology.sentinels.clone_from(&command.sentinels);
        if known != command.sentinel {
            let text = format!("sentinel {} leads", command.sentinel);
            self.event("sentinel-leader", 0, 0, text);
        }
        Ok(Outcome::Done)
    }

    fn register_node(&mut self, command: &RegisterNode) -> Applied {
        let mut node = command.node.clone().unwrap_or_default();
        check_node(&node)?;
        let topology = self.topology_mut()?;
        let known = match node.id {
            0 => topology.nodes.iter_mut().find(|n| n.instance == node.instance),
            id => Some(
                topology.nodes.iter_mut().find(|n| n.id == id).ok_or(Rejection::UnknownNode(id))?,
            ),
        };
        node.health = v1::NodeHealth::Up.into();
        if let Some(known) = known {
            if known.instance != node.instance {
                return Err(Rejection::WrongInstance {
                    id: known.id,
                    known: known.instance.clone(),
                    given: node.instance,
                });
            }
            if known.incarnation > node.incarnation {
                return Err(Rejection::StaleIncarnation {
                    node: known.id,
                    given: node.incarnation,
                    actual: known.incarnation,
                });
            }
            node.id = known.id;
            let id = node.id;
            if *known != node {
                let restarted = known.incarnation != node.incarnation;
                *known = node;
                if restarted {
                    self.event("node-started", 0, id, format!("node {id} started again"));
                }
            }
            return Ok(Outcome::NodeRegistered { id });
        }
        self.add_node(node)
    }

    fn add_node(&mut self, mut node: v1::NodeInfo) -> Applied {
        self.last_node_id += 1;
        let id = self.last_node_id;
        node.id = id;
        // The same address with another data directory: the former owner cannot come back.
        let mut replaced = Vec::new();
        let topology = self.topology_mut()?;
        for old in topology.nodes.iter_mut().filter(|n| n.peer_addr == node.peer_addr) {
            replaced.push(old.id);
            *old = v1::NodeInfo {
                id: old.id,
                instance: std::mem::take(&mut old.instance),
                zone: std::mem::take(&mut old.zone),
                incarnation: old.incarnation,
                health: v1::NodeHealth::ObjectivelyDown.into(),
                ..Default::default()
            };
        }
        let text = format!("node {id} registered: {}, zone {:?}", node.link_addr, node.zone);
        topology.nodes.push(node);
        self.event("node-registered", 0, id, text);
        for old in replaced {
            let text =
                format!("node {old} is gone: node {id} has its address and an empty directory");
            self.event("node-replaced", 0, old, text);
        }
        Ok(Outcome::NodeRegistered { id })
    }

    fn create_shards(&mut self, command: &CreateShards) -> Applied {
        let mut last_raft_id = self.last_raft_id;
        let topology = self.topology_mut()?;
        if !topology.shards.is_empty() {
            return Err(Rejection::ShardsExist);
        }
        let spec = topology.spec.clone().unwrap_or_default();
        if command.shards.len() != spec.shards as usize {
            let text = format!("{} shards placed, {} wanted", command.shards.len(), spec.shards);
            return Err(Rejection::Invalid(text));
        }
        let mut shards = Vec::with_capacity(command.shards.len());
        for (at, placed) in command.shards.iter().enumerate() {
            check_placed(topology, &spec, &placed.nodes)?;
            let replicas = placed.nodes.iter().map(|node| {
                last_raft_id += 1;
                v1::ReplicaInfo {
                    raft_id: last_raft_id,
                    node: *node,
                    role: v1::ReplicaRole::Voter.into(),
                    founding: true,
                }
            });
            shards.push(v1::ShardInfo {
                id: at as u32 + 1,
                replicas: replicas.collect(),
                slots: vec![even_slots(at as u32, spec.shards)],
                epoch: 1,
                ..Default::default()
            });
        }
        topology.shards.clone_from(&shards);
        self.last_raft_id = last_raft_id;
        for shard in &shards {
            let nodes: Vec<String> = shard.replicas.iter().map(|r| r.node.to_string()).collect();
            let slots = shard.slots.first().copied().unwrap_or_default();
            let text = format!(
                "shard {} created: slots {}-{} on node(s) {}",
                shard.id,
                slots.first,
                slots.last,
                nodes.join(", ")
            );
            self.event("shard-created", shard.id, 0, text);
        }
        Ok(Outcome::Done)
    }

    fn primary_is(&mut self, command: &PrimaryIs) -> Applied {
        let shard = self.shard_mut(command.shard)?;
        if command.term < shard.term
            || (command.term == shard.term && shard.primary_node != command.node)
        {
            return Err(Rejection::StaleTerm {
                shard: command.shard,
                given: command.term,
                actual: shard.term,
            });
        }
        if command.term == shard.term {
            return Ok(Outcome::Unchanged);
        }
        if !shard.replicas.iter().any(|r| r.node == command.node) {
            let text = format!("node {} has no replica of shard {}", command.node, command.shard);
            return Err(Rejection::Invalid(text));
        }
        shard.term = command.term;
        let former = std::mem::replace(&mut shard.primary_node, command.node);
        if former != command.node {
            let text = format!(
                "node {} is primary of shard {} (term {})",
                command.node, command.shard, command.term
            );
            self.event("primary", command.shard, command.node, text);
        }
        Ok(Outcome::Done)
    }

    fn set_health(&mut self, command: &SetHealth) -> Applied {
        let id = command.node;
        let topology = self.topology_mut()?;
        let node =
            topology.nodes.iter_mut().find(|n| n.id == id).ok_or(Rejection::UnknownNode(id))?;
        if command.incarnation < node.incarnation {
            return Err(Rejection::StaleIncarnation {
                node: id,
                given: command.incarnation,
                actual: node.incarnation,
            });
        }
        if node.health == command.health && node.incarnation == command.incarnation {
            return Ok(Outcome::Unchanged);
        }
        node.incarnation = command.incarnation;
        let former = std::mem::replace(&mut node.health, command.health);
        if former != command.health {
            let (kind, what) = match v1::NodeHealth::try_from(command.health) {
                Ok(v1::NodeHealth::Up) => ("node-up", "up"),
                _ => ("node-down", "down"),
            };
            self.event(kind, 0, id, format!("node {id} is {what}: {}", command.reason));
        }
        Ok(Outcome::Done)
    }

    fn register_proxy(&mut self, command: &RegisterProxy) -> Applied {
        if command.workers == 0 || command.workers > PROXY_WORKERS_MAX {
            let text =
                format!("a proxy has 1 to {PROXY_WORKERS_MAX} workers, not {}", command.workers);
            return Err(Rejection::Invalid(text));
        }
        if !self.is_founded() {
            return Err(Rejection::NotFounded);
        }
        self.last_proxy_id += 1;
        let id = self.last_proxy_id;
        let first = self.last_worker_id + 1;
        self.last_worker_id += u64::from(command.workers);
        let workers: Vec<u64> = (first..=self.last_worker_id).collect();
        let now = self.time_ms;
        self.topology_mut()?.proxies.push(v1::ProxyInfo {
            id,
            client_addr: command.client_addr.clone(),
            admin_addr: command.admin_addr.clone(),
            workers: workers.clone(),
            last_seen_ms: now,
        });
        let text = format!("proxy {id} registered: {}", command.client_addr);
        self.event("proxy-registered", 0, 0, text);
        Ok(Outcome::ProxyRegistered { id, workers })
    }

    fn retire_proxy(&mut self, command: &RetireProxy) -> Applied {
        let next_worker = self.last_worker_id + 1;
        let topology = self.topology_mut()?;
        let at = topology
            .proxies
            .iter()
            .position(|p| p.id == command.proxy)
            .ok_or(Rejection::UnknownProxy(command.proxy))?;
        let proxy = topology.proxies.remove(at);
        topology.retired_workers.extend(&proxy.workers);
        // Everything below the oldest worker that still lives is retired; the list stays short.
        let floor = topology.proxies.iter().flat_map(|p| &p.workers).copied().min();
        let floor = floor.unwrap_or(next_worker);
        topology.retired_workers_below = floor;
        topology.retired_workers.retain(|w| *w >= floor);
        topology.retired_workers.sort_unstable();
        let text =
            format!("proxy {} ({}) retired: {}", proxy.id, proxy.client_addr, command.reason);
        self.event("proxy-retired", 0, 0, text);
        Ok(Outcome::Done)
    }

    fn set_settings(&mut self, command: &SetSettings) -> Applied {
        let topology = self.topology_mut()?;
        let spec = topology.spec.get_or_insert_default();
        let present = |name: &str| spec.settings.get(name).cloned();
        let checked =
            parameters::check_all(&command.settings, present).map_err(Rejection::Invalid)?;
        let before = spec.clone();
        let names: Vec<String> = checked.keys().cloned().collect();
        for (name, value) in checked {
            // The password is a credential: it has its own field and stays out of the history.
            if name == parameters::REQUIREPASS {
                if let Some(rules) = spec.users.get_mut("default")
                    && let Ok(mut user) = acl::User::parse(rules)
                {
                    user.set_password(&value);
                    *rules = user.describe();
                }
                spec.password = value;
            } else {
                spec.settings.insert(name, value);
            }
        }
        if *spec == before {
            return Ok(Outcome::Unchanged);
        }
        self.event("settings", 0, 0, format!("settings changed: {}", names.join(", ")));
        Ok(Outcome::Done)
    }

    fn change_users(&mut self, command: &ChangeUsers) -> Applied {
        let topology = self.topology_mut()?;
        let spec = topology.spec.get_or_insert_default();
        for change in &command.changes {
            let present = spec.users.get(&change.name).map_or("", String::as_str);
            if present != change.expected {
                return Err(Rejection::StaleUser(change.name.clone()));
            }
            if let Err(error) = acl::User::parse(&change.rules) {
                let text = format!("the rules of user '{}' are wrong: {error}", change.name);
                return Err(Rejection::Invalid(text));
            }
            if change.name.is_empty() || change.name.len() + change.rules.len() > USER_LEN_MAX {
                let text = "a user needs a name, and rules of a bearable length".to_owned();
                return Err(Rejection::Invalid(text));
            }
        }
        let before = spec.users.clone();
        for change in &command.changes {
            if change.rules.is_empty() {
                spec.users.remove(&change.name);
            } else {
                spec.users.insert(change.name.clone(), change.rules.clone());
            }
        }
        if spec.users.len() > USERS_MAX {
            spec.users = before;
            return Err(Rejection::Invalid(format!("more than {USERS_MAX} users")));
        }
        if spec.users == before {
            return Ok(Outcome::Unchanged);
        }
        // Rules hold hashes of passwords: the history names the users only.
        let names: Vec<&str> = command.changes.iter().map(|c| c.name.as_str()).collect();
        self.event("users", 0, 0, format!("users changed: {}", names.join(", ")));
        Ok(Outcome::Done)
    }

    fn replace_replica(&mut self, command: &ReplaceReplica) -> Applied {
        let raft_id = self.last_raft_id + 1;
        let topology = self.topology_mut()?;
        if !topology.nodes.iter().any(|n| n.id == command.node) {
            return Err(Rejection::UnknownNode(command.node));
        }
        let shard = shard_at_epoch(topology, command.shard, command.expected_epoch)?;
        let unknown =
            Rejection::UnknownReplica { shard: command.shard, raft_id: command.old_raft_id };
        let at = shard.replicas.iter().position(|r| r.raft_id == command.old_raft_id);
        let at = at.ok_or(unknown)?;
        let voter = i32::from(v1::ReplicaRole::Voter);
        // A learner never voted: replacing it needs no majority. A voter does, of the voters that
        // the group may still count: all replicas but learners that were added for lost ones.
        if shard.replicas[at].role == voter {
            let needed = shard.replicas.len() / 2 + 1;
            let intact = shard.replicas.iter().filter(|r| r.role == voter).count() - 1;
            if intact < needed {
                return Err(Rejection::TooFewIntact {
                    shard: command.shard,
                    raft_id: command.old_raft_id,
                    intact,
                    needed,
                });
            }
        }
        let elsewhere = shard.replicas.iter().enumerate();
        if elsewhere.into_iter().any(|(i, r)| i != at && r.node == command.node) {
            let text = format!("node {} has a replica of shard {}", command.node, command.shard);
            return Err(Rejection::Invalid(text));
        }
        shard.replicas[at] = v1::ReplicaInfo {
            raft_id,
            node: command.node,
            role: v1::ReplicaRole::Learner.into(),
            founding: false,
        };
        shard.epoch += 1;
        self.last_raft_id = raft_id;
        let text = format!(
            "replica {} of shard {} is replaced by {raft_id} on node {}: {}",
            command.old_raft_id, command.shard, command.node, command.reason
        );
        self.event("replica-replaced", command.shard, command.node, text);
        Ok(Outcome::ReplicaAdded { raft_id })
    }

    fn promote_replica(&mut self, command: &PromoteReplica) -> Applied {
        let topology = self.topology_mut()?;
        let shard = shard_at_epoch(topology, command.shard, command.expected_epoch)?;
        let unknown = Rejection::UnknownReplica { shard: command.shard, raft_id: command.raft_id };
        let replica = shard.replicas.iter_mut().find(|r| r.raft_id == command.raft_id);
        let replica = replica.ok_or(unknown)?;
        if replica.role == i32::from(v1::ReplicaRole::Voter) {
            return Ok(Outcome::Unchanged);
        }
        replica.role = v1::ReplicaRole::Voter.into();
        let node = replica.node;
        shard.epoch += 1;
        let text = format!(
            "replica {} of shard {} on node {node} has caught up and votes",
            command.raft_id, command.shard
        );
        self.event("replica-promoted", command.shard, node, text);
        Ok(Outcome::Done)
    }

    fn record_failover(&mut self, command: &RecordFailover) -> Applied {
        let report = command.report.unwrap_or_default();
        if self.failover_mut(report.shard, report.term).is_some() {
            return Ok(Outcome::Unchanged);
        }
        let text = failover_text(&report);
        let kind = if report.planned { "planned-failover" } else { "failover" };
        let event = self.event(kind, report.shard, report.new_node, text);
        // So that amendments can find what the report's times count from.
        event.time_ms = command.last_alive_ms + report.elected_ms as u64;
        event.failover = Some(report);
        Ok(Outcome::Done)
    }

    fn amend_failover(&mut self, command: &AmendFailover) -> Applied {
        let seen = command.seen.unwrap_or_default();
        let unknown = Rejection::UnknownFailover { shard: seen.shard, term: seen.term };
        let event = self.failover_mut(seen.shard, seen.term).ok_or(unknown)?;
        let report = event.failover.as_mut().expect("failover_mut finds events with a report");
        let base = event.time_ms.saturating_sub(report.elected_ms as u64);
        let reply_ms = seen.first_reply_unix_ms.saturating_sub(base) as f64;
        if seen.first_reply_unix_ms != 0
            && !(report.first_reply_ms > 0.0 && report.first_reply_ms <= reply_ms)
        {
            report.first_reply_ms = reply_ms;
        }
        report.requests_held += seen.held;
        report.requests_retried += seen.retried;
        report.requests_failed += seen.failed;
        event.text = failover_text(report);
        Ok(Outcome::Done)
    }

    fn record_event(&mut self, command: &RecordEvent) -> Applied {
        self.event(&command.kind, command.shard, command.node, command.text.clone());
        Ok(Outcome::Done)
    }

    fn failover_mut(&mut self, shard: u32, term: u64) -> Option<&mut v1::Event> {
        let is_it = |e: &&mut v1::Event| {
            e.failover.as_ref().is_some_and(|f| f.shard == shard && f.term == term)
        };
        self.events.iter_mut().rev().find(is_it)
    }

    fn event(&mut self, kind: &str, shard: u32, node: u64, text: String) -> &mut v1::Event {
        self.last_event_id += 1;
        if self.events.len() >= EVENTS_MAX {
            self.events.drain(..EVENTS_MAX / 4);
        }
        self.events.push(v1::Event {
            id: self.last_event_id,
            time_ms: self.time_ms,
            kind: kind.to_owned(),
            shard,
            node,
            text,
            failover: None,
        });
        self.events.last_mut().expect("an event was pushed just now")
    }

    fn topology_mut(&mut self) -> Result<&mut v1::Topology, Rejection> {
        self.topology_field.as_mut().ok_or(Rejection::NotFounded)
    }

    fn shard_mut(&mut self, id: u32) -> Result<&mut v1::ShardInfo, Rejection> {
        let shards = &mut self.topology_mut()?.shards;
        shards.iter_mut().find(|s| s.id == id).ok_or(Rejection::UnknownShard(id))
    }
}

fn shard_at_epoch(
    topology: &mut v1::Topology,
    id: u32,
    expected: u64,
) -> Result<&mut v1::ShardInfo, Rejection> {
    let shard = topology.shards.iter_mut().find(|s| s.id == id);
    let shard = shard.ok_or(Rejection::UnknownShard(id))?;
    if shard.epoch != expected {
        return Err(Rejection::StaleEpoch { shard: id, expected, actual: shard.epoch });
    }
    Ok(shard)
}

/// Slots of shard number `at` (from 0) of `count`: sizes differ by one at most.
pub fn even_slots(at: u32, count: u32) -> v1::SlotRange {
    let slots = u32::from(SLOT_COUNT);
    v1::SlotRange { first: at * slots / count, last: (at + 1) * slots / count - 1 }
}

fn check_spec(spec: &v1::ClusterSpec) -> Result<(), Rejection> {
    if spec.shards == 0 || spec.shards > u32::from(SLOT_COUNT) || spec.replicas == 0 {
        let text = format!("{} shards of {} replicas cannot be", spec.shards, spec.replicas);
        return Err(Rejection::Invalid(text));
    }
    Ok(())
}

fn check_node(node: &v1::NodeInfo) -> Result<(), Rejection> {
    let fields = [
        ("instance", &node.instance),
        ("link_addr", &node.link_addr),
        ("peer_addr", &node.peer_addr),
        ("heartbeat_addr", &node.heartbeat_addr),
        ("control_addr", &node.control_addr),
    ];
    match fields.iter().find(|(_, value)| value.is_empty()) {
        Some((name, _)) => Err(Rejection::Invalid(format!("the node has no {name}"))),
        None => Ok(()),
    }
}

fn check_placed(
    topology: &v1::Topology,
    spec: &v1::ClusterSpec,
    nodes: &[u64],
) -> Result<(), Rejection> {
    let mut seen = BTreeMap::new();
    for node in nodes {
        if !topology.nodes.iter().any(|n| n.id == *node) {
            return Err(Rejection::UnknownNode(*node));
        }
        if seen.insert(node, ()).is_some() {
            return Err(Rejection::Invalid(format!("node {node} twice in one shard")));
        }
    }
    if nodes.len() != spec.replicas as usize {
        let text = format!("{} replicas placed, {} wanted", nodes.len(), spec.replicas);
        return Err(Rejection::Invalid(text));
    }
    Ok(())
}

/// One sentence for people.
fn failover_text(report: &v1::FailoverReport) -> String {
    let kind = if report.planned { "planned failover" } else { "failover" };
    let mut text = format!(
        "{kind} of shard {}: node {} to node {} (term {}), detected after {:.0} ms, elected after {:.0} ms",
        report.shard,
        report.old_node,
        report.new_node,
        report.term,
        report.detected_ms,
        report.elected_ms
    );
    if report.first_reply_ms > 0.0 {
        text += &format!(", first reply after {:.0} ms", report.first_reply_ms);
    }
    let requests = report.requests_held + report.requests_retried + report.requests_failed;
    if requests > 0 {
        text += &format!(
            "; requests held {}, retried {}, failed {}",
            report.requests_held, report.requests_retried, report.requests_failed
        );
    }
    text
}
