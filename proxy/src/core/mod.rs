//! Everything one worker decides, without a socket or a clock.
//!
//! The shell tells what happened ([`WorkerCore::client_data`], [`WorkerCore::link_up`],
//! [`WorkerCore::tick`] …) and when ([`Now`]); then it writes out the buffers of the clients and links
//! named by [`WorkerCore::take_dirty`] and carries out the [`Action`]s. A command's way through the
//! modules: [`session`] decodes and checks it, [`router`] finds the shard, [`flow`] sends it (and
//! sends it again after a failover), [`client`] puts the reply in order.

mod client;
mod flow;
mod lane;
mod link;
mod local;
mod monitor;
mod open_reads;
mod peers;
mod profile;
mod proposals;
mod pubsub;
mod redirect;
mod request;
mod respond;
mod router;
mod scatter;
mod script;
mod session;
mod stats;
#[cfg(test)]
mod tests;
mod tracking;
mod transaction;
mod users;

pub use proposals::{Change, ChangeError};
pub use redirect::Redirected;
pub use respond::TOO_MANY_CLIENTS;
pub use router::Outage as OutageReport;
pub use stats::Stats;

use bytes::{Buf, BytesMut};
use client::{Client, Clients, Stall};
use holdfast_proto::frame::{AnswerRef, FrameError, Response};
use holdfast_proto::ids::{NodeId, ShardId, Term, WorkerId};
use holdfast_proto::placement::{self, Placement};
use holdfast_proto::resp::{Limits, encode};
use holdfast_proto::{parameters, v1};
use link::{Link, LinkState};
use request::{Handle, Requests};
use router::Router;
use scatter::Scatters;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// The time of an event.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Since an arbitrary origin; never goes back.
    pub monotonic: Duration,
    /// Wall clock in microseconds since the Unix epoch; only shown to clients.
    pub unix_us: u64,
}

/// What a worker needs to know from its configuration.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    pub cluster_id: [u8; 16],
    pub secret: [u8; 32],
    /// Given by the sentinels at start.
    pub proxy_id: u64,
    /// This worker among those of the process, from 0.
    pub worker_index: u32,
    pub worker_count: u32,
    /// What clients are told to connect to.
    pub announce_host: String,
    pub announce_port: u16,
    /// 0: no such listener.
    pub tls_port: u16,
    pub plain_port: u16,
    /// Most clients of this worker (REQUIREMENTS C4 divided by the workers).
    pub clients_max: usize,
    /// Most clients as INFO and CONFIG show it.
    pub clients_max_shown: usize,
    /// How long a request waits for a primary before its client gets an error, microseconds.
    pub hold_deadline_us: u64,
    /// Requests of one shard hold at most about this many bytes; beyond it, clients that want to
    /// send to the shard are not read from.
    pub held_bytes_max: usize,
    /// Seed of what little randomness there is (RANDOMKEY's choice of a shard).
    pub seed: u64,
    pub process_id: u32,
}

/// A client that does not authenticate within this time is closed: strangers must not hold
/// connections. A guess; libraries authenticate at once.
const UNAUTHENTICATED_TIMEOUT_US: u64 = 30_000_000;

/// Names a client to the core.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClientKey {
    pub index: u32,
    generation: u32,
}

/// What the shell is to do besides writing buffers.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// A new link was made known: keep it connected to its address from now on.
    OpenLink { link: usize },
    /// Drop the connection of a link; connect again if it has an address.
    CloseLink { link: usize },
    /// Have the other workers of the process carry out a command ([`WorkerCore::answer_peer`]) and
    /// bring back their answers ([`WorkerCore::peers_answered`]).
    AskPeers { ask: usize, request: bytes::Bytes },
    /// Clients of this worker began or ceased to watch commands: the other workers are to know.
    Monitoring { on: bool },
    /// A line for the watching clients of other workers.
    Monitored { line: bytes::Bytes },
    /// About a tracking client whose invalidations go to a client of another worker: for the other
    /// workers of the process ([`WorkerCore::redirected`]).
    Redirect(Redirected),
    /// Bring a change to the sentinels and tell [`WorkerCore::proposed`] what came of it.
    Propose { ask: usize, change: Change },
    /// Get a new worker id and call [`WorkerCore::new_session`].
    RenewSession,
    /// A shard answers again after an outage.
    OutageOver { shard: ShardId, term: Term, outage: OutageReport },
}

/// What the process has used so far; shown by INFO.
#[derive(Clone, Copy, Default, Debug)]
pub struct Usage {
    pub cpu_user_us: u64,
    pub cpu_sys_us: u64,
    pub resident_bytes: u64,
}

/// How far the worker's session with the shards is.
enum Session {
    Active,
    /// A shard said that it expired; a new id is asked for.
    Renewing,
    /// The new id is here; answers to what was sent under the old one may still come.
    Draining {
        worker: WorkerId,
        since_us: u64,
    },
}

/// The whole state of one worker.
pub struct WorkerCore {
    config: CoreConfig,
    /// Of the present event, from [`Now`].
    now_us: u64,
    unix_us: u64,
    started_us: u64,
    topology: Arc<v1::Topology>,
    router: Router,
    links: Vec<Link>,
    requests: Requests,
    next_order: u64,
    lanes: lane::Lanes,
    session: Session,
    clients: Clients,
    scatters: Scatters,
    scripts: script::Scripts,
    next_client: u64,
    /// CLIENT PAUSE until then; the flag says writes only.
    client_pause: Option<(u64, bool)>,
    /// Of authenticated clients' requests.
    limits: Limits,
    /// Most bytes that wait to be read by a normal client before it is cut; 0: no limit.
    output_hard_bytes: u64,
    /// Co-location rules.
    placement: Placement,
    /// Commands that the profile refuses, by index in the table; empty: none.
    refused: Vec<bool>,
    monitors: monitor::Monitors,
    latency_monitor: local::LatencyMonitor,
    /// `latency-monitor-threshold`; the greatest number when it is off.
    latency_threshold_us: u64,
    /// Of the process, as the shell measured it last.
    usage: Usage,
    users: users::Users,
    refusals: users::RefusalLog,
    /// By ACL GENPASS, so that none comes twice.
    passwords_generated: u64,
    stats: Stats,
    /// Of the other workers, as of a moment ago.
    peer_stats: Stats,
    peer_asks: slab::Slab<peers::PeerAsk>,
    proposals: slab::Slab<proposals::Proposal>,
    pubsub: pubsub::PubSub,
    tracking: tracking::TrackingTable,
    /// The link whose answer is being handled.
    answering: Option<usize>,
    /// Clients in DEBUG SLEEP: until when, client, generation, reply.
    sleepers: Vec<(u64, u32, u32, u32)>,
    actions: Vec<Action>,
    dirty_clients: Vec<u32>,
    dirty_links: Vec<usize>,
    /// Clients whose input can be processed further.
    resumable: Vec<(u32, u32)>,
    /// Clients whose shard has room again.
    freed: Vec<(u32, u32)>,
    /// Blocking commands in flight whose client left.
    orphans: Vec<Handle>,
    /// Ticks are needed in a millisecond rather than in a tenth of a second.
    hurry: bool,
    random: u64,
    /// When idle clients were looked for last.
    idle_check_us: u64,
    /// Commands at the last look, and the rate since the one before.
    commands_at_check: u64,
    ops_per_second: u64,
}

/// The low bits of a client's id: a count that tells the worker; the proxy stands above.
const CLIENT_COUNT_BITS: u32 = 36;
const CLIENT_COUNT_MASK: u64 = (1 << CLIENT_COUNT_BITS) - 1;

impl WorkerCore {
    pub fn new(
        config: CoreConfig,
        worker: WorkerId,
        topology: Arc<v1::Topology>,
        now: Now,
    ) -> Self {
        let random = config.seed | 1;
        let mut core = Self {
            config,
            now_us: 0,
            unix_us: 0,
            started_us: 0,
            topology: Arc::default(),
            router: Router::new(),
            links: Vec::new(),
            requests: Requests::new(),
            next_order: 0,
            lanes: lane::Lanes::new(worker),
            session: Session::Active,
            clients: Clients::new(),
            scatters: Scatters::default(),
            scripts: script::Scripts::default(),
            next_client: 0,
            client_pause: None,
            limits: Limits::AUTHENTICATED,
            output_hard_bytes: 0,
            placement: Placement::default(),
            refused: Vec::new(),
            monitors: monitor::Monitors::default(),
            latency_monitor: local::LatencyMonitor::default(),
            latency_threshold_us: u64::MAX,
            usage: Usage::default(),
            users: users::Users::new(),
            refusals: users::RefusalLog::default(),
            passwords_generated: 0,
            stats: Stats::default(),
            peer_stats: Stats::default(),
            peer_asks: slab::Slab::new(),
            proposals: slab::Slab::new(),
            pubsub: pubsub::PubSub::new(worker.0),
            tracking: tracking::TrackingTable::default(),
            answering: None,
            sleepers: Vec::new(),
            actions: Vec::new(),
            dirty_clients: Vec::new(),
            dirty_links: Vec::new(),
            resumable: Vec::new(),
            freed: Vec::new(),
            orphans: Vec::new(),
            hurry: false,
            random,
            idle_check_us: 0,
            commands_at_check: 0,
            ops_per_second: 0,
        };
        core.set_now(now);
        core.started_us = core.now_us;
        core.topology(topology, now);
        core
    }

    /// Takes over newer metadata.
    pub fn topology(&mut self, topology: Arc<v1::Topology>, now: Now) {
        self.set_now(now);
        self.router.update(&topology);
        for node in &topology.nodes {
            self.upsert_link(NodeId(node.id), &node.link_addr);
        }
        for link in 0..self.links.len() {
            let node = self.links[link].node;
            if !topology.nodes.iter().any(|info| info.id == node.0)
                && !self.links[link].addr.is_empty()
            {
                self.links[link].addr.clear();
                self.actions.push(Action::CloseLink { link });
            }
        }
        for shard in &topology.shards {
            if shard.primary_node != 0 {
                let (term, node) = (Term(shard.term), NodeId(shard.primary_node));
                self.learn_primary(ShardId(shard.id), term, node);
            }
        }
        self.topology = topology;
        self.take_settings();
        self.take_users();
        self.finish_proposals();
        self.configure_pubsub();
        self.settle();
    }

    fn upsert_link(&mut self, node: NodeId, addr: &str) {
        match self.link_index(node) {
            Some(link) if self.links[link].addr != addr => {
                addr.clone_into(&mut self.links[link].addr);
                self.actions.push(Action::CloseLink { link });
            }
            Some(_) => {}
            None => {
                self.links.push(Link::new(node, addr.to_owned()));
                self.actions.push(Action::OpenLink { link: self.links.len() - 1 });
            }
        }
    }

    /// The new worker id that [`Action::RenewSession`] asked for.
    pub fn new_session(&mut self, worker: WorkerId, now: Now) {
        self.set_now(now);
        self.session = Session::Draining { worker, since_us: self.now_us };
        self.hurry = true;
    }

    /// The worker id of the present session.
    pub fn worker(&self) -> WorkerId {
        self.lanes.worker
    }

    /// A client connected. `None`: there are too many; write [`respond::TOO_MANY_CLIENTS`].
    pub fn client_connected(
        &mut self,
        addr: SocketAddr,
        local_addr: SocketAddr,
        now: Now,
    ) -> Option<ClientKey> {
        self.set_now(now);
        if self.clients.len() >= self.clients_max() {
            self.stats.connections_rejected += 1;
            return None;
        }
        self.stats.connections_received += 1;
        let id = self.fresh_client_id();
        let now_us = self.now_us;
        let open = self.is_open();
        let account = self.users.default_user().clone();
        let index = self.clients.insert(|generation| {
            let mut client = Client::new(id, generation, addr, local_addr, account, now_us);
            client.authenticated = open;
            client
        });
        let generation = self.clients.get(index).map_or(0, |client| client.generation);
        Some(ClientKey { index, generation })
    }

    /// Unique over the processes and workers of a cluster, below 2^53 so that every client library
    /// can hold it: proxy id, then a count that the workers of the process share out.
    fn fresh_client_id(&mut self) -> u64 {
        self.next_client += 1;
        let workers = u64::from(self.config.worker_count.max(1));
        let count = self.next_client * workers + u64::from(self.config.worker_index);
        (self.config.proxy_id & 0xffff) << CLIENT_COUNT_BITS | (count & CLIENT_COUNT_MASK)
    }

    /// Bytes of a client. Takes what can be processed now and keeps the rest.
    pub fn client_data(&mut self, key: ClientKey, chunk: BytesMut, now: Now) {
        self.set_now(now);
        let Some(client) = self.clients.of_generation(key.index, key.generation) else { return };
        client.active_us = self.now_us;
        self.stats.net_input_bytes += chunk.len() as u64;
        let stalled = client.stall != Stall::None;
        if client.input.is_empty() && !stalled {
            self.process_input(key.index, chunk);
        } else {
            client.input.extend_from_slice(&chunk);
            if !stalled {
                self.process_kept_input(key.index);
            }
        }
        self.settle();
    }

    /// May the shell read more from this client? Not while its requests cannot be processed and
    /// enough of its bytes wait already.
    pub fn wants_input(&self, key: ClientKey) -> bool {
        const UNPROCESSED_BYTES_MAX: usize = 64 * 1024;
        const OUTPUT_BYTES_MAX: usize = 64 * 1024 * 1024;
        self.clients.get(key.index).is_some_and(|client| {
            client.generation == key.generation
                && !client.closing
                && client.parked.is_none()
                && (client.stall == Stall::None || client.input.len() < UNPROCESSED_BYTES_MAX)
                && client.output.len() < OUTPUT_BYTES_MAX
        })
    }

    /// The bytes to write to a client, and whether it is to be closed after them. `None`: it is gone
    /// or to be closed at once.
    pub fn client_output(&mut self, key: ClientKey) -> Option<(&mut BytesMut, bool)> {
        let client = self.clients.of_generation(key.index, key.generation)?;
        client.dirty = false;
        if client.cut {
            return None;
        }
        let closing = client.closing;
        Some((&mut client.output, closing))
    }

    /// The client's output has been written: gives memory back and lets it go on.
    pub fn client_written(&mut self, key: ClientKey, bytes: usize) {
        self.stats.net_output_bytes += bytes as u64;
        if let Some(client) = self.clients.of_generation(key.index, key.generation) {
            client.shrink_if_idle();
        }
    }

    /// The connection of a client is gone.
    pub fn client_gone(&mut self, key: ClientKey, now: Now) {
        self.set_now(now);
        if self.clients.of_generation(key.index, key.generation).is_none() {
            return;
        }
        self.end_monitor(key.index, key.generation);
        if let Some(mut client) = self.clients.remove(key.index) {
            self.forget_subscriptions(key.index, client.subscriptions.take());
            self.stop_tracking(key.index, client.tracking.take());
            if let Some(blocked) = client.blocked {
                self.abandon_blocked(blocked);
            }
        }
        self.settle();
    }

    /// Closes the clients that wait for nothing; how many are left.
    pub fn close_idle_for_drain(&mut self) -> usize {
        let idle: Vec<u32> = self
            .clients
            .iter()
            .filter(|(_, client)| client.outstanding() == 0 && !client.closing)
            .map(|(index, _)| index)
            .collect();
        for index in idle {
            if let Some(client) = self.clients.get_mut(index) {
                client.closing = true;
            }
            self.mark_client(index);
        }
        self.clients.len()
    }

    /// Where a link is to connect to; `None` while its node is not in the cluster.
    pub fn link_addr(&self, link: usize) -> Option<&str> {
        let addr = self.links[link].addr.as_str();
        (!addr.is_empty()).then_some(addr)
    }

    /// A link's connection stands.
    pub fn link_up(&mut self, link: usize, now: Now) {
        self.set_now(now);
        let (cluster_id, secret) = (self.config.cluster_id, self.config.secret);
        self.links[link].greet(self.now_us, cluster_id, secret, self.lanes.worker);
        self.mark_link(link);
    }

    /// Bytes of a node. An error: the connection is to be closed.
    pub fn link_data(
        &mut self,
        link: usize,
        buffer: &mut BytesMut,
        now: Now,
    ) -> Result<(), FrameError> {
        self.set_now(now);
        loop {
            // Answers are borrowed from the buffer: counting references would cost more than
            // copying most of them.
            let mut at = 0;
            while let Some((answer, len)) = AnswerRef::decode(&buffer[at..])? {
                self.handle_answer(link, &answer);
                at += len;
            }
            buffer.advance(at);
            match Response::decode(buffer)? {
                Some(frame) => self.handle_frame(link, frame),
                None => break,
            }
        }
        self.settle();
        Ok(())
    }

    /// The bytes to write to a node.
    pub fn link_output(&mut self, link: usize) -> &mut BytesMut {
        self.links[link].dirty = false;
        &mut self.links[link].out
    }

    /// A link's connection is gone, or could not be made.
    pub fn link_down(&mut self, link: usize, now: Now) {
        self.set_now(now);
        if self.links[link].state != LinkState::Down {
            self.handle_link_lost(link);
        }
        self.settle();
    }

    /// Lets time pass; to be called after [`WorkerCore::tick_interval`].
    pub fn tick(&mut self, now: Now) {
        self.set_now(now);
        self.tick_flow();
        self.tick_clients();
        self.finish_proposals();
        self.tick_pubsub();
        self.wake_sleepers();
        self.settle();
    }

    /// When the next tick is due.
    pub fn tick_interval(&self) -> Duration {
        Duration::from_millis(if self.hurry { 1 } else { 50 })
    }

    /// Hands out what is to be written and done. The vectors are the caller's, so that their memory
    /// is used again.
    pub fn take_dirty(
        &mut self,
        clients: &mut Vec<u32>,
        links: &mut Vec<usize>,
        actions: &mut Vec<Action>,
    ) {
        clients.append(&mut self.dirty_clients);
        links.append(&mut self.dirty_links);
        actions.append(&mut self.actions);
    }

    /// What the process has used so far.
    pub fn set_usage(&mut self, usage: Usage) {
        self.usage = usage;
    }

    /// Numbers since the start, and the present gauges.
    pub fn stats(&mut self) -> &Stats {
        self.stats.clients = self.clients.len();
        self.stats.requests_unanswered = self.requests.len();
        self.stats.requests_held = self
            .router
            .shards
            .iter()
            .filter(|shard| shard.down_since_us.is_some())
            .map(|shard| shard.unanswered)
            .sum();
        self.stats.clients_blocked =
            self.clients.iter().filter(|(_, client)| client.blocked.is_some()).count();
        &self.stats
    }

    fn set_now(&mut self, now: Now) {
        self.now_us = self.now_us.max(now.monotonic.as_micros() as u64);
        self.unix_us = now.unix_us;
    }

    fn mark_link(&mut self, link: usize) {
        if !self.links[link].dirty {
            self.links[link].dirty = true;
            self.dirty_links.push(link);
        }
    }

    fn mark_client(&mut self, index: u32) {
        if let Some(client) = self.clients.get_mut(index)
            && !client.dirty
        {
            client.dirty = true;
            self.dirty_clients.push(index);
        }
    }

    /// Processes the input of clients that became able to go on.
    fn settle(&mut self) {
        loop {
            let freed = std::mem::take(&mut self.freed);
            self.unstall(freed);
            let Some((index, generation)) = self.resumable.pop() else { break };
            self.resume_client(index, generation);
        }
        self.register_changes();
    }

    /// xorshift64: good enough to pick a shard.
    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// Of the user "default"; empty: none needed.
    fn password(&self) -> &str {
        self.topology.spec.as_ref().map_or("", |spec| &spec.password)
    }

    fn setting(&self, name: &str) -> Option<&str> {
        self.topology.spec.as_ref()?.settings.get(name).map(String::as_str)
    }

    /// What is used for each command or byte is kept as numbers.
    fn take_settings(&mut self) {
        let number = |name: &str| self.setting(name)?.parse::<u64>().ok();
        let longest = Limits::AUTHENTICATED.bulk_len_max;
        let bulk_len_max = number("proto-max-bulk-len").map_or(longest, |max| max as usize);
        let outputs = self.setting("client-output-buffer-limit").map(parameters::buffer_limits);
        let rules = self.setting(placement::SETTING).map(Placement::parse);
        let managed = self.setting("command-profile") == Some("managed");
        let scripting = self.setting("scripting") != Some("no");
        let latency_threshold_us = match number("latency-monitor-threshold") {
            None | Some(0) => u64::MAX,
            Some(milliseconds) => milliseconds.saturating_mul(1000),
        };
        match rules {
            None => self.placement = Placement::default(),
            Some(Ok(rules)) => self.placement = rules,
            // The sentinels check what they store; a newer version may know more.
            Some(Err(error)) => tracing::error!(%error, "co-location rules make no sense"),
        }
        self.refused = profile::refused(managed, scripting);
        self.limits.bulk_len_max = bulk_len_max.min(longest);
        self.latency_threshold_us = latency_threshold_us;
        self.output_hard_bytes = outputs.map_or(0, |[normal, ..]| normal.hard_bytes);
    }

    /// `tcp-keepalive`: idle time before the first probe on a client's connection.
    pub fn keepalive(&self) -> Option<Duration> {
        let seconds = self.setting("tcp-keepalive").and_then(|text| text.parse().ok());
        Some(seconds.unwrap_or(60)).filter(|seconds| *seconds > 0).map(Duration::from_secs)
    }

    /// DEBUG SLEEP: the client alone waits.
    fn sleep(&mut self, index: u32, seconds: f64) {
        let until_us = self.now_us.saturating_add((seconds * 1e6) as u64);
        let Some(client) = self.clients.get_mut(index) else { return };
        let reply = client.expect_reply();
        client.stall = Stall::Reply(reply);
        self.sleepers.push((until_us, index, client.generation, reply));
    }

    fn wake_sleepers(&mut self) {
        let now_us = self.now_us;
        let due: Vec<_> = self.sleepers.extract_if(.., |(until, ..)| *until <= now_us).collect();
        for (_, index, generation, reply) in due {
            if self.clients.of_generation(index, generation).is_some() {
                self.answer_client(index, reply, encode::OK);
            }
        }
    }

    /// Number of logical databases.
    fn databases(&self) -> u32 {
        match self.topology.spec.as_ref().map_or(0, |spec| spec.databases) {
            0 => 16,
            databases => databases,
        }
    }
}
