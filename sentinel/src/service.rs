//! The `Sentinel` gRPC service. Any member serves the topology and the history; everything that
//! changes or judges goes to the leader, whose address a follower puts into its refusal.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use holdfast_proto::sentinel_client::LEADER_HINT;
use holdfast_proto::v1;
use holdfast_proto::v1::sentinel_server::Sentinel as Api;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::caretaker;
use crate::core::balance;
use crate::core::metadata::command::{
    AmendFailover, ChangeUsers, RecordEvent, RegisterNode, RegisterProxy, ReplaceReplica,
    SetSettings,
};
use crate::core::metadata::{Command, Outcome, Rejection};
use crate::core::quorum::Verdict;
use crate::core::view::Primary;
use crate::group::{ProposeError, Published};
use crate::shared::{Sentinel, Told};
use holdfast_consensus::clock;

/// Settings in one request; Redis has some 200 parameters.
const SETTINGS_MAX: usize = 512;
const SETTING_LEN_MAX: usize = 64 * 1024;

/// Longer than an election of the sentinels.
const LEADERLESS_MAX: Duration = Duration::from_secs(5);

pub(crate) struct Service {
    sentinel: Arc<Sentinel>,
}

type Answer<T> = Result<Response<T>, Status>;

impl Service {
    pub(crate) fn new(sentinel: Arc<Sentinel>) -> Self {
        Self { sentinel }
    }

    fn check(&self, secret: &[u8]) -> Result<(), Status> {
        if same_secret(secret, &self.sentinel.secret) {
            Ok(())
        } else {
            Err(Status::unauthenticated("wrong cluster secret"))
        }
    }

    fn check_cluster(&self, secret: &[u8], cluster_id: &[u8]) -> Result<(), Status> {
        if cluster_id != self.sentinel.cluster_id {
            let (theirs, ours) = (hex(cluster_id), hex(&self.sentinel.cluster_id));
            let text = format!("this is a sentinel of cluster {ours}, not of {theirs}");
            return Err(Status::permission_denied(text));
        }
        self.check(secret)
    }

    fn check_leader(&self) -> Result<(), Status> {
        if self.sentinel.group.leads() { Ok(()) } else { Err(self.not_leader()) }
    }

    fn not_leader(&self) -> Status {
        let own = self.sentinel.config.id;
        let mut status = Status::failed_precondition(format!("sentinel {own} does not lead"));
        let hint = self.sentinel.leader_addr().unwrap_or_default();
        if let Ok(hint) = hint.parse() {
            status.metadata_mut().insert(LEADER_HINT, hint);
        }
        status
    }

    async fn propose(&self, command: Command) -> Result<Outcome, Status> {
        self.sentinel.propose(command).await.map_err(|error| match error {
            ProposeError::NotLeader => self.not_leader(),
            ProposeError::Busy | ProposeError::Unknown => Status::unavailable(error.to_string()),
            ProposeError::Rejected(rejection) => refusal(&rejection),
        })
    }

    fn topology(&self) -> v1::Topology {
        let mut topology = (*self.sentinel.group.published().topology).clone();
        let (seen, now, wall) =
            (self.sentinel.proxies_seen(), clock::monotonic(), clock::wall_ms());
        for proxy in &mut topology.proxies {
            if let Some(at) = seen.get(&proxy.id) {
                proxy.last_seen_ms = wall - now.saturating_sub(*at).as_millis() as u64;
            }
        }
        topology
    }

    fn node_statuses(&self) -> Vec<v1::NodeStatus> {
        let now = clock::monotonic();
        let view = self.sentinel.view();
        let nodes = view.nodes.iter().map(|(id, node)| v1::NodeStatus {
            node: *id,
            health: match node.verdict {
                Verdict::Unknown => v1::NodeHealth::Unspecified,
                Verdict::Up => v1::NodeHealth::Up,
                Verdict::SubjectivelyDown => v1::NodeHealth::SubjectivelyDown,
                Verdict::ObjectivelyDown { .. } => v1::NodeHealth::ObjectivelyDown,
            }
            .into(),
            last_seen_ms_ago: now.saturating_sub(node.last_reply).as_millis() as u64,
            replicas: node.replicas.clone(),
        });
        nodes.collect()
    }

    /// Another raft id takes the lost replica's place on the same node.
    async fn replace(&self, report: &v1::ReportAmnesiaRequest) -> Result<(), Status> {
        let topology = self.sentinel.group.published().topology;
        let shard = topology.shards.iter().find(|s| s.id == report.shard);
        let shard = shard.ok_or_else(|| refusal(&Rejection::UnknownShard(report.shard)))?;
        let lost = shard.replicas.iter().find(|r| r.raft_id == report.raft_id);
        let Some(lost) = lost else { return Ok(()) };
        if lost.node != report.node {
            let text = format!("replica {} is not on node {}", report.raft_id, report.node);
            return Err(Status::invalid_argument(text));
        }
        let command = ReplaceReplica {
            shard: shard.id,
            expected_epoch: shard.epoch,
            old_raft_id: report.raft_id,
            node: report.node,
            reason: report.reason.clone(),
        };
        match self.sentinel.propose(Command::ReplaceReplica(command)).await {
            Ok(_) => {
                self.sentinel.chores.notify_one();
                Ok(())
            }
            Err(ProposeError::Rejected(rejection @ Rejection::TooFewIntact { .. })) => {
                tracing::error!(shard = shard.id, %rejection, "an operator must decide");
                self.note("data-loss-possible", shard.id, report.node, rejection.to_string()).await;
                Err(refusal(&rejection))
            }
            Err(ProposeError::NotLeader) => Err(self.not_leader()),
            Err(error) => Err(Status::unavailable(error.to_string())),
        }
    }

    async fn note(&self, kind: &str, shard: u32, node: u64, text: String) {
        let kind = kind.to_owned();
        let event = Command::RecordEvent(RecordEvent { kind, shard, node, text });
        if let Err(error) = self.sentinel.propose(event).await {
            tracing::info!(%error, "event not recorded");
        }
    }
}

#[tonic::async_trait]
impl Api for Service {
    async fn register_node(
        &self,
        request: Request<v1::RegisterNodeRequest>,
    ) -> Answer<v1::RegisterNodeReply> {
        let request = request.into_inner();
        self.check_cluster(&request.secret, &request.cluster_id)?;
        let command = Command::RegisterNode(RegisterNode { node: request.node });
        let Outcome::NodeRegistered { id } = self.propose(command).await? else {
            return Err(Status::internal("registration gave no id"));
        };
        self.sentinel.chores.notify_one();
        let topology = Some(self.topology());
        Ok(Response::new(v1::RegisterNodeReply { id, topology }))
    }

    async fn register_proxy(
        &self,
        request: Request<v1::RegisterProxyRequest>,
    ) -> Answer<v1::RegisterProxyReply> {
        let request = request.into_inner();
        self.check_cluster(&request.secret, &request.cluster_id)?;
        let command = Command::RegisterProxy(RegisterProxy {
            client_addr: request.client_addr,
            admin_addr: request.admin_addr,
            workers: request.workers,
        });
        let Outcome::ProxyRegistered { id, workers } = self.propose(command).await? else {
            return Err(Status::internal("registration gave no id"));
        };
        self.sentinel.proxies_seen().insert(id, clock::monotonic());
        let topology = Some(self.topology());
        Ok(Response::new(v1::RegisterProxyReply { proxy_id: id, workers, topology }))
    }

    type WatchTopologyStream = Pin<Box<dyn Stream<Item = Result<v1::Topology, Status>> + Send>>;

    async fn watch_topology(
        &self,
        request: Request<v1::WatchTopologyRequest>,
    ) -> Answer<Self::WatchTopologyStream> {
        let request = request.into_inner();
        self.check_cluster(&request.secret, &request.cluster_id)?;
        let (to, stream) = mpsc::channel(1);
        tokio::spawn(feed(self.sentinel.group.watch(), request.from_version, to));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn proxy_heartbeat(
        &self,
        request: Request<v1::ProxyHeartbeatRequest>,
    ) -> Answer<v1::ProxyHeartbeatReply> {
        let request = request.into_inner();
        self.check(&request.secret)?;
        self.check_leader()?;
        let id = request.proxy_id;
        let known =
            self.sentinel.group.published().topology.proxies.iter().any(|proxy| proxy.id == id);
        if known {
            self.sentinel.proxies_seen().insert(id, clock::monotonic());
        }
        for seen in request.failovers {
            let amend = Command::AmendFailover(AmendFailover { seen: Some(seen) });
            if let Err(error) = self.sentinel.propose(amend).await {
                tracing::debug!(proxy = id, %error, "failover report not recorded");
            }
        }
        Ok(Response::new(v1::ProxyHeartbeatReply { known }))
    }

    async fn report_primary(
        &self,
        request: Request<v1::ReportPrimaryRequest>,
    ) -> Answer<v1::ReportPrimaryReply> {
        let request = request.into_inner();
        self.check(&request.secret)?;
        self.check_leader()?;
        let primary = Primary { term: request.term, node: request.node };
        tracing::info!(shard = request.shard, ?primary, "primary reported");
        let told = Told::Primary { shard: request.shard, primary };
        let sent = self.sentinel.told.send(told).await;
        sent.map_err(|_| Status::unavailable("the sentinel is ending"))?;
        Ok(Response::new(v1::ReportPrimaryReply {}))
    }

    async fn report_amnesia(
        &self,
        request: Request<v1::ReportAmnesiaRequest>,
    ) -> Answer<v1::ReportAmnesiaReply> {
        let request = request.into_inner();
        self.check(&request.secret)?;
        self.check_leader()?;
        tracing::warn!(
            node = request.node,
            shard = request.shard,
            raft_id = request.raft_id,
            reason = request.reason,
            "replica lost its data"
        );
        self.replace(&request).await?;
        Ok(Response::new(v1::ReportAmnesiaReply {}))
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Answer<v1::StatusReply> {
        self.check(&request.into_inner().secret)?;
        // Without any leader this sentinel's own view is better than none.
        if !self.sentinel.group.leads() && self.sentinel.leader_addr().is_some() {
            return Err(self.not_leader());
        }
        let reply =
            v1::StatusReply { topology: Some(self.topology()), nodes: self.node_statuses() };
        Ok(Response::new(reply))
    }

    async fn events(&self, request: Request<v1::EventsRequest>) -> Answer<v1::EventsReply> {
        let request = request.into_inner();
        self.check(&request.secret)?;
        let metadata = self.sentinel.group.published().metadata;
        let events = metadata.events_after(request.after_id, request.limit as usize);
        Ok(Response::new(v1::EventsReply { events: events.cloned().collect() }))
    }

    async fn failover(&self, request: Request<v1::FailoverRequest>) -> Answer<v1::FailoverReply> {
        let request = request.into_inner();
        self.check(&request.secret)?;
        self.check_leader()?;
        if self.sentinel.busy_shards().contains(&request.shard) {
            let text = format!("a failover of shard {} is under way", request.shard);
            return Err(Status::aborted(text));
        }
        let transfer = balance::planned(&self.sentinel.view(), request.shard, request.to_node);
        let transfer = transfer.map_err(|e| Status::aborted(e.to_string()))?;
        let report = caretaker::hand_over(&self.sentinel, transfer).await;
        let report = report.map_err(Status::aborted)?;
        Ok(Response::new(v1::FailoverReply { report: Some(report) }))
    }

    async fn restart_replica(
        &self,
        request: Request<v1::RestartReplicaRequest>,
    ) -> Answer<v1::RestartReplicaReply> {
        let request = request.into_inner();
        let (shard, node) = (request.shard, request.node);
        self.check(&request.secret)?;
        self.check_leader()?;
        let hosts = self
            .sentinel
            .view()
            .shard(shard)
            .is_some_and(|s| s.replicas.iter().any(|r| r.node == node));
        if !hosts {
            let text = format!("node {node} has no replica of shard {shard}");
            return Err(Status::not_found(text));
        }
        let addr = self.sentinel.control_addr(node);
        let addr = addr.ok_or_else(|| Status::not_found(format!("node {node} is gone")))?;
        self.sentinel
            .orders
            .restart_replica(&addr, shard)
            .await
            .map_err(|status| Status::aborted(format!("node {node}: {}", status.message())))?;
        let text = format!("replica of shard {shard} on node {node} restarted by an operator");
        self.note("replica-restarted", shard, node, text).await;
        Ok(Response::new(v1::RestartReplicaReply {}))
    }

    async fn set_settings(
        &self,
        request: Request<v1::SetSettingsRequest>,
    ) -> Answer<v1::SetSettingsReply> {
        let request = request.into_inner();
        self.check(&request.secret)?;
        let too_long = |(k, v): (&String, &String)| k.len() + v.len() > SETTING_LEN_MAX;
        if request.settings.len() > SETTINGS_MAX || request.settings.iter().any(too_long) {
            return Err(Status::invalid_argument("too many settings, or too long ones"));
        }
        let settings: BTreeMap<String, String> = request.settings.into_iter().collect();
        self.propose(Command::SetSettings(SetSettings { settings })).await?;
        let version = self.sentinel.group.published().topology.version;
        Ok(Response::new(v1::SetSettingsReply { version }))
    }

    async fn change_users(
        &self,
        request: Request<v1::ChangeUsersRequest>,
    ) -> Answer<v1::ChangeUsersReply> {
        let request = request.into_inner();
        self.check(&request.secret)?;
        if request.changes.len() > SETTINGS_MAX {
            return Err(Status::invalid_argument("too many users at once"));
        }
        self.propose(Command::ChangeUsers(ChangeUsers { changes: request.changes })).await?;
        let version = self.sentinel.group.published().topology.version;
        Ok(Response::new(v1::ChangeUsersReply { version }))
    }

    async fn share_opinion(
        &self,
        request: Request<v1::SentinelOpinion>,
    ) -> Answer<v1::SentinelOpinion> {
        let opinion = request.into_inner();
        self.check(&opinion.secret)?;
        // Full only when the control task is stuck; opinions are repeated.
        let _ = self.sentinel.told.try_send(Told::Opinion(opinion));
        Ok(Response::new(self.sentinel.own_opinion().clone()))
    }
}

/// Sends each topology newer than `sent`; a slow watcher skips some, they do not queue. Ends when
/// this sentinel has known no leader for a while: another one may be on the better side of a
/// partition.
async fn feed(
    mut published: watch::Receiver<Published>,
    mut sent: u64,
    to: mpsc::Sender<Result<v1::Topology, Status>>,
) {
    let mut leaderless_since = None;
    loop {
        if published.borrow_and_update().topology.version > sent {
            let Ok(room) = to.reserve().await else { return };
            let topology = Arc::clone(&published.borrow_and_update().topology);
            sent = topology.version;
            room.send(Ok((*topology).clone()));
        }
        leaderless_since = match published.borrow().leader {
            Some(_) => None,
            None => leaderless_since.or_else(|| Some(Instant::now())),
        };
        let patience = leaderless_since.map(|since| since + LEADERLESS_MAX);
        tokio::select! {
            changed = published.changed() => if changed.is_err() { return },
            () = to.closed() => return,
            () = sleep_until(patience.unwrap_or_else(Instant::now)), if patience.is_some() => {
                // Without room the watcher is stuck; dropping the sender ends the stream as well.
                let _ = to.try_send(Err(Status::unavailable("this sentinel knows no leader")));
                return;
            }
        }
    }
}

fn refusal(rejection: &Rejection) -> Status {
    let text = rejection.to_string();
    match rejection {
        Rejection::NotFounded => Status::unavailable(text),
        Rejection::UnknownNode(_)
        | Rejection::UnknownShard(_)
        | Rejection::UnknownReplica { .. }
        | Rejection::UnknownProxy(_)
        | Rejection::UnknownFailover { .. } => Status::not_found(text),
        Rejection::AlreadyFounded | Rejection::ShardsExist => Status::already_exists(text),
        Rejection::WrongInstance { .. } | Rejection::AnotherCluster => {
            Status::permission_denied(text)
        }
        Rejection::Invalid(_) => Status::invalid_argument(text),
        Rejection::StaleEpoch { .. }
        | Rejection::StaleTerm { .. }
        | Rejection::StaleIncarnation { .. }
        | Rejection::StaleUser(_)
        | Rejection::TooFewIntact { .. } => Status::aborted(text),
    }
}

/// Takes as long for a wrong secret as for the right one.
fn same_secret(given: &[u8], expected: &[u8]) -> bool {
    let differences = given.iter().zip(expected).fold(0, |all, (a, b)| all | (a ^ b));
    given.len() == expected.len() && differences == 0
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
