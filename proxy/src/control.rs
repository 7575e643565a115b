//! The control thread: registers the workers, follows the topology, renews sessions, reports
//! failovers. Nothing here is on a command's way; when no sentinel answers, workers go on with
//! what they know.

use crate::core::{Change, ChangeError, Stats};
use crate::tls::{TlsFiles, TlsSettings};
use crate::worker::{FromWorker, ToWorker};
use holdfast_proto::ids::WorkerId;
use holdfast_proto::sentinel_client::{ClientError, SentinelClient};
use holdfast_proto::v1;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// Between heartbeats to the sentinels; they retire workers that are silent for much longer than
/// any hold deadline.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
/// Between looks at the certificate files.
const CERTIFICATE_INTERVAL: Duration = Duration::from_secs(2);
/// Between attempts to register.
const REGISTER_RETRY: Duration = Duration::from_millis(500);

/// Handles of the workers.
#[derive(Clone)]
pub(crate) struct Workers(Arc<Vec<mpsc::UnboundedSender<ToWorker>>>);

impl Workers {
    pub(crate) fn new(senders: Vec<mpsc::UnboundedSender<ToWorker>>) -> Self {
        Self(Arc::new(senders))
    }

    fn tell(&self, worker: usize, message: ToWorker) {
        // A worker that is gone has been drained.
        let _ = self.0[worker].send(message);
    }

    fn tell_all(&self, message: impl Fn() -> ToWorker) {
        for worker in 0..self.0.len() {
            self.tell(worker, message());
        }
    }

    pub(crate) fn drain(&self) {
        self.tell_all(|| ToWorker::Drain);
    }

    /// Has every worker carry out a command of another proxy's client.
    pub(crate) async fn carry_out(&self, request: &bytes::Bytes) -> Vec<bytes::Bytes> {
        let mut answers = Vec::new();
        for worker in self.0.iter() {
            let (reply, answer) = oneshot::channel();
            if worker.send(ToWorker::Peer { request: request.clone(), reply }).is_ok()
                && let Ok(answer) = answer.await
            {
                answers.push(answer);
            }
        }
        answers
    }

    /// The numbers of all workers together.
    pub(crate) async fn stats(&self) -> Stats {
        let mut sum = Stats::default();
        for worker in self.0.iter() {
            let (sender, receiver) = oneshot::channel();
            if worker.send(ToWorker::Stats(sender)).is_ok()
                && let Ok(stats) = receiver.await
            {
                sum.merge(&stats);
            }
        }
        sum
    }
}

/// Asks for ids until a sentinel answers.
pub(crate) async fn register(
    sentinels: &SentinelClient,
    client_addr: &str,
    admin_addr: &str,
    workers: u32,
) -> v1::RegisterProxyReply {
    let mut complained = false;
    loop {
        match sentinels.register_proxy(client_addr, admin_addr, workers).await {
            Ok(reply) if reply.workers.len() >= workers as usize => return reply,
            Ok(_) => tracing::warn!("sentinel gave too few worker ids"),
            Err(error) if !complained => {
                complained = true;
                tracing::warn!(%error, "cannot register yet");
            }
            Err(error) => tracing::debug!(%error, "cannot register yet"),
        }
        tokio::time::sleep(REGISTER_RETRY).await;
    }
}

/// What the control loop works with.
pub(crate) struct Control {
    pub(crate) sentinels: SentinelClient,
    pub(crate) workers: Workers,
    pub(crate) proxy_id: u64,
    pub(crate) client_addr: String,
    pub(crate) admin_addr: String,
    /// Proves to other proxies that this one is of the cluster.
    pub(crate) token: String,
    pub(crate) topology: watch::Receiver<Arc<v1::Topology>>,
    pub(crate) inbox: mpsc::UnboundedReceiver<FromWorker>,
}

impl Control {
    /// Runs for as long as the process lives.
    pub(crate) async fn run(mut self) {
        let mut heartbeat = tokio::time::interval(HEARTBEAT_INTERVAL);
        heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut failovers = Vec::new();
        loop {
            tokio::select! {
                changed = self.topology.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let topology = self.topology.borrow_and_update().clone();
                    if topology.version > 0 {
                        self.workers.tell_all(|| ToWorker::Topology(topology.clone()));
                    }
                }
                Some(message) = self.inbox.recv() => self.handle(message, &mut failovers),
                _ = heartbeat.tick() => self.beat(std::mem::take(&mut failovers)),
            }
        }
    }

    fn handle(&self, message: FromWorker, failovers: &mut Vec<v1::ProxyFailoverReport>) {
        match message {
            FromWorker::OutageOver { shard, term, outage, unix_ms } => {
                tracing::info!(
                    %shard, %term, held = outage.held, retried = outage.retried,
                    failed = outage.failed, "shard answers again"
                );
                failovers.push(v1::ProxyFailoverReport {
                    shard: shard.0,
                    term: term.0,
                    first_reply_unix_ms: unix_ms,
                    held: outage.held,
                    retried: outage.retried,
                    failed: outage.failed,
                });
            }
            FromWorker::AskProxies { request, reply } => {
                let topology = self.topology.borrow().clone();
                let (own, token) = (self.admin_addr.clone(), self.token.clone());
                tokio::spawn(async move {
                    let _ =
                        reply.send(crate::siblings::ask(&topology, &own, &token, request).await);
                });
            }
            FromWorker::Propose { worker, ask, change } => {
                let (sentinels, workers) = (self.sentinels.clone(), self.workers.clone());
                tokio::spawn(async move {
                    let result = propose(&sentinels, change).await;
                    workers.tell(worker, ToWorker::Proposed { ask, result });
                });
            }
            FromWorker::RenewSession { worker } => {
                let sentinels = self.sentinels.clone();
                let workers = self.workers.clone();
                let (client_addr, admin_addr) = (self.client_addr.clone(), self.admin_addr.clone());
                tokio::spawn(async move {
                    let reply = register(&sentinels, &client_addr, &admin_addr, 1).await;
                    let id = WorkerId(reply.workers[0]);
                    workers.tell(worker, ToWorker::NewSession(id));
                });
            }
        }
    }

    /// Sends a heartbeat without waiting for it here: a sentinel that is away must not keep the
    /// topology from the workers.
    fn beat(&self, failovers: Vec<v1::ProxyFailoverReport>) {
        let sentinels = self.sentinels.clone();
        let proxy_id = self.proxy_id;
        tokio::spawn(async move {
            match sentinels.proxy_heartbeat(proxy_id, failovers).await {
                // Its workers may have been retired; the shards tell each worker that is.
                Ok(reply) if !reply.known => {
                    tracing::warn!(proxy_id, "sentinels do not know this proxy");
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "heartbeat failed"),
            }
        });
    }
}

/// Brings a client's change to the sentinels; the version of a topology that has it.
async fn propose(sentinels: &SentinelClient, change: Change) -> Result<u64, ChangeError> {
    let answer = match change {
        Change::Settings(settings) => {
            sentinels.set_settings(settings).await.map(|reply| reply.version)
        }
        Change::Users(changes) => sentinels.change_users(changes).await.map(|reply| reply.version),
    };
    answer.map_err(|error| match error {
        ClientError::Refused(status) if status.code() == tonic::Code::Aborted => ChangeError::Stale,
        ClientError::Refused(status) => ChangeError::Refused(status.message().to_owned()),
        ClientError::Unavailable { .. } => ChangeError::Unavailable,
    })
}

/// Reads the certificate again whenever its files change.
pub(crate) async fn watch_certificates(files: TlsFiles, settings: TlsSettings) {
    let mut known = files.stamp();
    loop {
        tokio::time::sleep(CERTIFICATE_INTERVAL).await;
        let stamp = files.stamp();
        if stamp == known {
            continue;
        }
        match settings.reload(&files) {
            Ok(()) => tracing::info!(file = %files.cert.display(), "certificate reloaded"),
            // Tried again at the next change: certificate and key are replaced one after the other.
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "certificate cannot be used; the old one stays"
                );
            }
        }
        known = stamp;
    }
}
