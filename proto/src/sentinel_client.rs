//! Calls to the `Sentinel` service, over any number of sentinels.
//!
//! A call goes to the sentinel that answered last; a member that is not the leader names it in the
//! metadata key [`LEADER_HINT`] and the call follows. Sentinels that do not answer are passed over.
//! Nothing here is needed to serve clients: when no sentinel answers, callers keep what they have
//! and [`SentinelClient::watch_topology`] goes on trying for ever.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::v1;
use crate::v1::sentinel_client::SentinelClient as Stub;

/// Metadata key of a `FAILED_PRECONDITION` answer: the leader's api address, empty if unknown.
pub const LEADER_HINT: &str = "holdfast-leader";

/// Of one attempt at one sentinel. A sentinel answers in a few milliseconds; its leader needs one
/// round of fsyncs for a change. A guess with much room.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(1);
/// Of a planned failover, which waits for the new primary.
const FAILOVER_TIMEOUT: Duration = Duration::from_secs(15);
/// Of a whole call over all sentinels: one election of the sentinels' group (1 to 2 s) fits.
const CALL_DEADLINE: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// A watch whose sentinel answers no HTTP/2 ping for this long moves on to another sentinel.
const WATCH_PING: Duration = Duration::from_secs(2);
/// Topologies of large clusters (hundreds of nodes) stay far below this.
const MESSAGE_LEN_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Why a call gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A sentinel understood the request and refuses it: retrying does not help.
    #[error("{}", .0.message())]
    Refused(Status),
    /// No sentinel could serve the request in time. A change may or may not have been made.
    #[error("no sentinel of [{addrs}] could answer: {last}")]
    Unavailable { addrs: String, last: String },
}

/// A cheap handle; clones share connections and what is known about the leader.
#[derive(Clone)]
pub struct SentinelClient {
    shared: Arc<Shared>,
}

struct Shared {
    cluster_id: Bytes,
    secret: Bytes,
    state: Mutex<State>,
}

struct State {
    /// Configured addresses first, then those learnt from topologies.
    addrs: Vec<String>,
    channels: BTreeMap<String, Channel>,
    /// Where the next call goes first.
    preferred: Option<String>,
}

impl std::fmt::Debug for SentinelClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SentinelClient").field("addrs", &self.addrs()).finish_non_exhaustive()
    }
}

/// What one attempt means for the call.
enum Verdict {
    Final(ClientError),
    /// Go to this address now.
    Follow(String),
    /// Try the next one.
    Next(String),
}

impl SentinelClient {
    /// `addrs` are the sentinels' api addresses (`host:port`). Connects lazily.
    pub fn new(
        cluster_id: impl Into<Bytes>,
        secret: impl Into<Bytes>,
        addrs: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        let state = State {
            addrs: addrs.into_iter().map(Into::into).collect(),
            channels: BTreeMap::new(),
            preferred: None,
        };
        let shared = Shared {
            cluster_id: cluster_id.into(),
            secret: secret.into(),
            state: Mutex::new(state),
        };
        Self { shared: Arc::new(shared) }
    }

    /// All known api addresses.
    pub fn addrs(&self) -> Vec<String> {
        self.state().addrs.clone()
    }

    /// `node.id` 0 registers a new node; a known instance gets its id again.
    pub async fn register_node(
        &self,
        node: v1::NodeInfo,
    ) -> Result<v1::RegisterNodeReply, ClientError> {
        let request = v1::RegisterNodeRequest {
            cluster_id: self.shared.cluster_id.clone(),
            secret: self.shared.secret.clone(),
            node: Some(node),
        };
        self.change(request, |mut stub, r| async move { stub.register_node(r).await }).await
    }

    /// Gets a new proxy id and `workers` new worker ids. A repeated call wastes ids, nothing else.
    pub async fn register_proxy(
        &self,
        client_addr: impl Into<String>,
        admin_addr: impl Into<String>,
        workers: u32,
    ) -> Result<v1::RegisterProxyReply, ClientError> {
        let request = v1::RegisterProxyRequest {
            cluster_id: self.shared.cluster_id.clone(),
            secret: self.shared.secret.clone(),
            client_addr: client_addr.into(),
            admin_addr: admin_addr.into(),
            workers,
        };
        self.change(request, |mut stub, r| async move { stub.register_proxy(r).await }).await
    }

    /// Keeps the proxy's workers alive; `failovers` are what it saw since the last call.
    pub async fn proxy_heartbeat(
        &self,
        proxy_id: u64,
        failovers: Vec<v1::ProxyFailoverReport>,
    ) -> Result<v1::ProxyHeartbeatReply, ClientError> {
        let secret = self.shared.secret.clone();
        let request = v1::ProxyHeartbeatRequest { proxy_id, failovers, secret };
        self.change(request, |mut stub, r| async move { stub.proxy_heartbeat(r).await }).await
    }

    /// From a node whose replica of `shard` now serves as primary of `term`.
    pub async fn report_primary(
        &self,
        shard: u32,
        term: u64,
        node: u64,
        unix_ms: u64,
    ) -> Result<v1::ReportPrimaryReply, ClientError> {
        let secret = self.shared.secret.clone();
        let request = v1::ReportPrimaryRequest { secret, shard, term, node, unix_ms };
        self.change(request, |mut stub, r| async move { stub.report_primary(r).await }).await
    }

    /// From a node whose replica may have lost acknowledged entries and therefore does not run.
    pub async fn report_amnesia(
        &self,
        node: u64,
        shard: u32,
        raft_id: u64,
        reason: impl Into<String>,
    ) -> Result<v1::ReportAmnesiaReply, ClientError> {
        let secret = self.shared.secret.clone();
        let reason = reason.into();
        let request = v1::ReportAmnesiaRequest { secret, node, shard, raft_id, reason };
        self.change(request, |mut stub, r| async move { stub.report_amnesia(r).await }).await
    }

    /// The leader's view of the cluster.
    pub async fn status(&self) -> Result<v1::StatusReply, ClientError> {
        let request = v1::StatusRequest { secret: self.shared.secret.clone() };
        self.change(request, |mut stub, r| async move { stub.status(r).await }).await
    }

    /// Events with an id above `after_id`, oldest first; `limit` 0 means all that are kept.
    pub async fn events(&self, after_id: u64, limit: u32) -> Result<v1::EventsReply, ClientError> {
        let request = v1::EventsRequest { secret: self.shared.secret.clone(), after_id, limit };
        self.change(request, |mut stub, r| async move { stub.events(r).await }).await
    }

    /// A planned failover of `shard`; `to_node` 0 lets the sentinel choose.
    pub async fn failover(
        &self,
        shard: u32,
        to_node: u64,
    ) -> Result<v1::FailoverReply, ClientError> {
        let request = v1::FailoverRequest { secret: self.shared.secret.clone(), shard, to_node };
        self.call(FAILOVER_TIMEOUT, FAILOVER_TIMEOUT, request, |mut stub, r| async move {
            stub.failover(r).await
        })
        .await
    }

    /// Restarts one replica on its node, in place.
    pub async fn restart_replica(
        &self,
        shard: u32,
        node: u64,
    ) -> Result<v1::RestartReplicaReply, ClientError> {
        let secret = self.shared.secret.clone();
        let request = v1::RestartReplicaRequest { secret, shard, node };
        self.call(FAILOVER_TIMEOUT, FAILOVER_TIMEOUT, request, |mut stub, r| async move {
            stub.restart_replica(r).await
        })
        .await
    }

    /// Changes settings of the whole cluster.
    pub async fn set_settings(
        &self,
        settings: impl IntoIterator<Item = (String, String)>,
    ) -> Result<v1::SetSettingsReply, ClientError> {
        let request = v1::SetSettingsRequest {
            secret: self.shared.secret.clone(),
            settings: settings.into_iter().collect(),
        };
        self.change(request, |mut stub, r| async move { stub.set_settings(r).await }).await
    }

    /// Changes, adds or deletes ACL users, all of them or none.
    pub async fn change_users(
        &self,
        changes: Vec<v1::UserChange>,
    ) -> Result<v1::ChangeUsersReply, ClientError> {
        let request = v1::ChangeUsersRequest { secret: self.shared.secret.clone(), changes };
        self.change(request, |mut stub, r| async move { stub.change_users(r).await }).await
    }

    /// Follows the topology from any sentinel, for as long as a receiver lives. The first value has
    /// version 0 and is empty unless `known` is given; after that only newer versions come.
    ///
    /// Must be called inside a tokio runtime.
    pub fn watch_topology(
        &self,
        known: Option<v1::Topology>,
    ) -> watch::Receiver<Arc<v1::Topology>> {
        let (sender, receiver) = watch::channel(Arc::new(known.unwrap_or_default()));
        let client = self.clone();
        tokio::spawn(async move { client.follow_topology(sender).await });
        receiver
    }

    async fn follow_topology(&self, sender: watch::Sender<Arc<v1::Topology>>) {
        let mut backoff = BACKOFF_FIRST;
        for turn in 0_usize.. {
            let addrs = self.addrs();
            let Some(addr) = addrs.get(turn % addrs.len().max(1)).cloned() else { return };
            tokio::select! {
                () = sender.closed() => return,
                got_any = self.follow_one(&addr, &sender) => {
                    if got_any { backoff = BACKOFF_FIRST; }
                }
            }
            tokio::select! {
                () = sender.closed() => return,
                () = sleep(backoff) => {}
            }
            // A whole round without an answer makes the next one slower.
            if (turn + 1) % addrs.len().max(1) == 0 {
                backoff = (backoff * 2).min(BACKOFF_MAX);
            }
        }
    }

    /// Follows one sentinel until it fails; true if it sent anything.
    async fn follow_one(&self, addr: &str, sender: &watch::Sender<Arc<v1::Topology>>) -> bool {
        let Ok(endpoint) = endpoint(addr) else { return false };
        let channel = endpoint
            .http2_keep_alive_interval(WATCH_PING)
            .keep_alive_timeout(WATCH_PING)
            .keep_alive_while_idle(true)
            .connect_lazy();
        let request = v1::WatchTopologyRequest {
            cluster_id: self.shared.cluster_id.clone(),
            secret: self.shared.secret.clone(),
            from_version: sender.borrow().version,
        };
        let mut stub = Stub::new(channel).max_decoding_message_size(MESSAGE_LEN_BYTES_MAX);
        let opened = timeout(ATTEMPT_TIMEOUT, stub.watch_topology(request)).await;
        let Ok(Ok(reply)) = opened else { return false };
        let mut stream = reply.into_inner();
        let mut got_any = false;
        while let Ok(Some(topology)) = stream.message().await {
            got_any = true;
            self.learn(&topology);
            if topology.cluster_id == self.shared.cluster_id {
                sender.send_if_modified(|current| {
                    let newer = topology.version > current.version;
                    if newer {
                        *current = Arc::new(topology);
                    }
                    newer
                });
            }
        }
        got_any
    }

    /// Adds sentinels that the configuration did not name.
    fn learn(&self, topology: &v1::Topology) {
        let mut state = self.state();
        for sentinel in &topology.sentinels {
            if !sentinel.api_addr.is_empty() && !state.addrs.contains(&sentinel.api_addr) {
                state.addrs.push(sentinel.api_addr.clone());
            }
        }
    }

    async fn change<Q, A, F, Fut>(&self, request: Q, send: F) -> Result<A, ClientError>
    where
        Q: Clone,
        F: Fn(Stub<Channel>, Q) -> Fut,
        Fut: Future<Output = Result<tonic::Response<A>, Status>>,
    {
        self.call(ATTEMPT_TIMEOUT, CALL_DEADLINE, request, send).await
    }

    async fn call<Q, A, F, Fut>(
        &self,
        attempt: Duration,
        deadline: Duration,
        request: Q,
        send: F,
    ) -> Result<A, ClientError>
    where
        Q: Clone,
        F: Fn(Stub<Channel>, Q) -> Fut,
        Fut: Future<Output = Result<tonic::Response<A>, Status>>,
    {
        let deadline = Instant::now() + deadline;
        let mut backoff = BACKOFF_FIRST;
        let mut last = "no address is configured".to_owned();
        loop {
            let mut queue = self.order();
            queue.reverse();
            let mut follows = 0;
            while let Some(addr) = queue.pop() {
                let outcome = match self.stub(&addr) {
                    Ok(stub) => timeout(attempt, send(stub, request.clone())).await,
                    Err(error) => Ok(Err(error)),
                };
                if is_broken(&outcome) {
                    self.state().channels.remove(&addr);
                }
                match judge(&addr, outcome) {
                    Ok(answer) => {
                        self.state().preferred = Some(addr);
                        return Ok(answer);
                    }
                    Err(Verdict::Final(error)) => return Err(error),
                    // Two members may name each other during an election: follow twice at most.
                    Err(Verdict::Follow(leader)) if follows < 2 => {
                        follows += 1;
                        last = format!("{addr}: not the leader, {leader} is");
                        queue.push(leader);
                    }
                    Err(Verdict::Follow(leader)) => last = format!("{addr}: leader {leader}?"),
                    Err(Verdict::Next(why)) => {
                        last = why;
                        self.forget_preferred(&addr);
                    }
                }
                if Instant::now() >= deadline {
                    return Err(self.unavailable(last));
                }
            }
            if Instant::now() + backoff >= deadline {
                return Err(self.unavailable(last));
            }
            sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    /// Addresses in the order of trying.
    fn order(&self) -> Vec<String> {
        let state = self.state();
        let mut order: Vec<String> = state.preferred.iter().cloned().collect();
        order.extend(state.addrs.iter().filter(|a| Some(*a) != state.preferred.as_ref()).cloned());
        order
    }

    fn forget_preferred(&self, addr: &str) {
        let mut state = self.state();
        if state.preferred.as_deref() == Some(addr) {
            state.preferred = None;
        }
    }

    fn stub(&self, addr: &str) -> Result<Stub<Channel>, Status> {
        let mut state = self.state();
        let channel = match state.channels.get(addr) {
            Some(channel) => channel.clone(),
            None => {
                let channel = endpoint(addr)?.connect_lazy();
                state.channels.insert(addr.to_owned(), channel.clone());
                channel
            }
        };
        Ok(Stub::new(channel).max_decoding_message_size(MESSAGE_LEN_BYTES_MAX))
    }

    fn unavailable(&self, last: String) -> ClientError {
        ClientError::Unavailable { addrs: self.addrs().join(", "), last }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn endpoint(addr: &str) -> Result<Endpoint, Status> {
    let endpoint = Endpoint::from_shared(format!("http://{addr}"))
        .map_err(|e| Status::invalid_argument(format!("{addr} is not an address: {e}")))?;
    Ok(endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true))
}

type Attempt<A> = Result<Result<tonic::Response<A>, Status>, tokio::time::error::Elapsed>;

/// Whether the connection is not to be used again: it broke, or it is silent, as that to a machine which
/// lost power or came back with another address. What a sentinel says has no source, what happens to a
/// connection has.
fn is_broken<A>(outcome: &Attempt<A>) -> bool {
    match outcome {
        Err(_) => true,
        Ok(Err(status)) => status.source().is_some(),
        Ok(Ok(_)) => false,
    }
}

fn judge<A>(addr: &str, outcome: Attempt<A>) -> Result<A, Verdict> {
    let status = match outcome {
        Ok(Ok(response)) => return Ok(response.into_inner()),
        Ok(Err(status)) => status,
        Err(_) => return Err(Verdict::Next(format!("{addr}: no answer in time"))),
    };
    if let Some(hint) = status.metadata().get(LEADER_HINT) {
        return Err(match hint.to_str() {
            Ok(leader) if !leader.is_empty() && leader != addr => {
                Verdict::Follow(leader.to_owned())
            }
            _ => Verdict::Next(format!("{addr}: no leader is known")),
        });
    }
    Err(match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown => {
            Verdict::Next(format!("{addr}: {}", status.message()))
        }
        _ => Verdict::Final(ClientError::Refused(status)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn not_leader(hint: &str) -> Status {
        let mut status = Status::failed_precondition("not the leader");
        status.metadata_mut().insert(LEADER_HINT, hint.parse().unwrap());
        status
    }

    #[test]
    fn hints_are_followed_but_not_to_the_same_address() {
        let follow = judge::<()>("a:1", Ok(Err(not_leader("b:2"))));
        assert!(matches!(follow, Err(Verdict::Follow(to)) if to == "b:2"));
        assert!(matches!(judge::<()>("a:1", Ok(Err(not_leader("a:1")))), Err(Verdict::Next(_))));
        assert!(matches!(judge::<()>("a:1", Ok(Err(not_leader("")))), Err(Verdict::Next(_))));
    }

    #[test]
    fn a_refusal_is_final_and_an_absence_is_not() {
        let refused = Status::permission_denied("another cluster");
        assert!(matches!(judge::<()>("a:1", Ok(Err(refused))), Err(Verdict::Final(_))));
        let absent = Status::unavailable("connection refused");
        assert!(matches!(judge::<()>("a:1", Ok(Err(absent))), Err(Verdict::Next(_))));
    }

    #[tokio::test]
    async fn nobody_there_is_an_error_that_names_the_addresses() {
        // Port 1 of the loopback refuses.
        let client = SentinelClient::new(vec![0; 16], vec![0; 32], ["127.0.0.1:1"]);
        let request = v1::StatusRequest::default();
        let short = Duration::from_millis(100);
        let error = client
            .call(short, short, request, |mut stub, r| async move { stub.status(r).await })
            .await
            .unwrap_err();
        assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
    }

    /// As a machine that lost power: the connection stands, nobody answers.
    #[tokio::test]
    async fn a_connection_that_does_not_answer_is_not_used_again() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let client = SentinelClient::new(vec![0; 16], vec![0; 32], [addr]);
        let short = Duration::from_millis(100);
        const LIMIT: Duration = Duration::from_secs(10);
        let mut silent = Vec::new();
        for _ in 0..2 {
            let request = v1::StatusRequest::default();
            let ask = |mut stub: Stub<Channel>, r| async move { stub.status(r).await };
            let call = client.call(short, short, request, ask);
            let (result, accepted) = tokio::join!(call, timeout(LIMIT, listener.accept()));
            assert!(result.is_err());
            silent.push(accepted.expect("a new connection").unwrap());
        }
    }

    #[tokio::test]
    async fn a_watch_without_sentinels_keeps_what_is_known() {
        let client = SentinelClient::new(vec![0; 16], vec![0; 32], ["127.0.0.1:1"]);
        let known = v1::Topology { version: 7, ..Default::default() };
        let receiver = client.watch_topology(Some(known));
        assert_eq!(receiver.borrow().version, 7);
    }
}
