//! The services that sentinels and other nodes call: orders, and checkpoints to fetch.

use crate::checkpoint_files::{self, CheckpointFile};
use crate::consensus_loop::{Input, Order, OrderReply, OrderResult};
use crate::executor;
use crate::host::HostEvent;
use crate::identity::DataDir;
use crate::link_server::same_secret;
use crate::shared::NodeShared;
use holdfast_consensus::MembershipChange;
use holdfast_proto::ids::{LogIndex, RaftId, ShardId, Term};
use holdfast_proto::settings::to_hex;
use holdfast_proto::v1;
use holdfast_proto::v1::checkpoint_source_server::{CheckpointSource, CheckpointSourceServer};
use holdfast_proto::v1::node_control_server::{NodeControl, NodeControlServer};
use std::convert::Infallible;
use std::io::Read;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::{Request, Response, Status};

/// Bytes per message of a checkpoint transfer.
const CHUNK_BYTES: usize = 256 * 1024;
/// Chunks read ahead of the receiver.
const CHUNKS_AHEAD: usize = 8;
/// A membership change that takes longer is answered "not done"; it may still happen.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(30);
/// A transfer ends by itself well before this.
const ORDER_TIMEOUT: Duration = Duration::from_secs(5);
const CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(600);

pub(crate) struct Control {
    pub(crate) node: Arc<NodeShared>,
    pub(crate) data: Arc<DataDir>,
    pub(crate) events: UnboundedSender<HostEvent>,
}

impl Control {
    #[allow(clippy::result_large_err)] // Tonic's error type.
    fn check(&self, secret: &[u8]) -> Result<(), Status> {
        if same_secret(secret, &self.node.secret) {
            return Ok(());
        }
        let cluster = to_hex(&self.node.cluster_id);
        Err(Status::permission_denied(format!("wrong secret for cluster {cluster}")))
    }

    async fn order(
        &self,
        shard: u32,
        order: Order,
        timeout: Duration,
    ) -> Result<OrderResult, Status> {
        let (sender, receiver) = oneshot::channel();
        let (shard, reply) = (ShardId(shard), OrderReply(sender));
        self.node.consensus.send(Input::Order { shard, order, reply });
        match tokio::time::timeout(timeout, receiver).await {
            Ok(Ok(OrderResult::NoReplica)) => Err(Status::not_found("no such replica here")),
            Ok(Ok(result)) => Ok(result),
            Ok(Err(_)) => Err(Status::unavailable("the replica was closed")),
            Err(_) => Err(Status::deadline_exceeded("not done in time")),
        }
    }
}

#[tonic::async_trait]
impl NodeControl for Control {
    async fn forget_leader(
        &self,
        request: Request<v1::ForgetLeaderRequest>,
    ) -> Result<Response<v1::ForgetLeaderReply>, Status> {
        let request = request.into_inner();
        self.check(&request.secret)?;
        let leader = RaftId(request.leader_raft_id);
        let order = Order::ForgetLeader { term: Term(request.term), leader };
        let reply = match self.order(request.shard, order, ORDER_TIMEOUT).await? {
            OrderResult::Done { status, .. } => {
                v1::ForgetLeaderReply { obeyed: true, status: Some(status), ..Default::default() }
            }
            OrderResult::Refused { reason, retry_after, status } => v1::ForgetLeaderReply {
                obeyed: false,
                retry_after_us: retry_after.as_micros() as u64,
                reason,
                status: Some(status),
            },
            OrderResult::NoReplica => return Err(Status::not_found("no such replica here")),
        };
        Ok(Response::new(reply))
    }

    async fn campaign(
        &self,
        request: Request<v1::CampaignRequest>,
    ) -> Result<Response<v1::CampaignReply>, Status> {
        let request = request.into_inner();
        self.check(&request.secret)?;
        let order = Order::Campaign { term: Term(request.term) };
        let result = self.order(request.shard, order, ORDER_TIMEOUT).await?;
        let started = matches!(result, OrderResult::Done { .. });
        Ok(Response::new(v1::CampaignReply { started }))
    }

    async fn transfer_leader(
        &self,
        request: Request<v1::TransferLeaderRequest>,
    ) -> Result<Response<v1::TransferLeaderReply>, Status> {
        let request = request.into_inner();
        self.check(&request.secret)?;
        let order = Order::TransferLeader { to: RaftId(request.to_raft_id) };
        let reply = match self.order(request.shard, order, ORDER_TIMEOUT).await? {
            OrderResult::Done { term, .. } => {
                v1::TransferLeaderReply { done: true, reason: String::new(), term: term.0 }
            }
            OrderResult::Refused { reason, status, .. } => {
                v1::TransferLeaderReply { done: false, reason, term: status.term }
            }
            OrderResult::NoReplica => return Err(Status::not_found("no such replica here")),
        };
        Ok(Response::new(reply))
    }

    async fn change_membership(
        &self,
        request: Request<v1::ChangeMembershipRequest>,
    ) -> Result<Response<v1::ChangeMembershipReply>, Status> {
        let request = request.into_inner();
        self.check(&request.secret)?;
        let ids = |ids: Vec<u64>| ids.into_iter().map(RaftId).collect();
        let order = Order::ChangeMembership(MembershipChange {
            add_voters: ids(request.add_voters),
            add_learners: ids(request.add_learners),
            remove: ids(request.remove),
        });
        let reply = match self.order(request.shard, order, CHANGE_TIMEOUT).await? {
            OrderResult::Done { .. } => {
                v1::ChangeMembershipReply { done: true, reason: String::new() }
            }
            OrderResult::Refused { reason, .. } => {
                v1::ChangeMembershipReply { done: false, reason }
            }
            OrderResult::NoReplica => return Err(Status::not_found("no such replica here")),
        };
        Ok(Response::new(reply))
    }

    async fn restart_replica(
        &self,
        request: Request<v1::NodeRestartReplicaRequest>,
    ) -> Result<Response<v1::NodeRestartReplicaReply>, Status> {
        let request = request.into_inner();
        self.check(&request.secret)?;
        let (done, restarted) = oneshot::channel();
        let event = HostEvent::Restart { shard: ShardId(request.shard), done };
        // The host lives as long as this service.
        let _ = self.events.send(event);
        match restarted.await {
            Ok(Ok(())) => Ok(Response::new(v1::NodeRestartReplicaReply {})),
            Ok(Err(reason)) => Err(Status::failed_precondition(reason)),
            Err(_) => Err(Status::unavailable("the node stops")),
        }
    }

    async fn checkpoint(
        &self,
        request: Request<v1::CheckpointRequest>,
    ) -> Result<Response<v1::CheckpointReply>, Status> {
        let request = request.into_inner();
        self.check(&request.secret)?;
        let handle = self.node.shards.get(ShardId(request.shard));
        let handle = handle.ok_or_else(|| Status::not_found("no such replica here"))?;
        let (answer, taken) = oneshot::channel();
        handle.executor.send(executor::Input::Checkpoint(Some(answer)));
        match tokio::time::timeout(CHECKPOINT_TIMEOUT, taken).await {
            Ok(Ok(index)) => Ok(Response::new(v1::CheckpointReply { index: index.0 })),
            Ok(Err(_)) => Err(Status::unavailable("the replica was closed")),
            Err(_) => Err(Status::deadline_exceeded("not done in time")),
        }
    }
}

#[tonic::async_trait]
impl CheckpointSource for Control {
    type PullStream = ReceiverStream<Result<v1::PullChunk, Status>>;

    /// Streams the newest checkpoint at or after the index asked for.
    async fn pull(
        &self,
        request: Request<v1::PullRequest>,
    ) -> Result<Response<Self::PullStream>, Status> {
        let request = request.into_inner();
        self.check(&request.secret)?;
        let folder = self.data.shard_dir(request.shard);
        let index = LogIndex(request.index);
        let metas = checkpoint_files::list(&folder).map_err(|e| Status::internal(e.to_string()))?;
        let meta = metas.into_iter().find(|meta| meta.index == index);
        let meta = meta.ok_or_else(|| Status::not_found(format!("no checkpoint at {index}")))?;
        let file = std::fs::File::open(checkpoint_files::rdb_path(&folder, index))
            .map_err(|error| Status::internal(error.to_string()))?;
        let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
        let executor = self.node.shards.get(ShardId(request.shard)).map(|handle| handle.executor);
        tokio::task::spawn_blocking(move || {
            if send_chunks(file, meta, &sender).is_err()
                && let Some(executor) = executor
            {
                executor.send(executor::Input::CheckpointDamaged(index));
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// Both services on one port: tonic's router would bring a web framework along.
#[derive(Clone)]
pub(crate) struct Services {
    control: NodeControlServer<Control>,
    source: CheckpointSourceServer<Control>,
}

impl Services {
    pub(crate) fn new(control: Control) -> Self {
        let control = Arc::new(control);
        Self {
            control: NodeControlServer::from_arc(Arc::clone(&control)),
            source: CheckpointSourceServer::from_arc(control),
        }
    }
}

impl Service<http::Request<Body>> for Services {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path().starts_with("/holdfast.v1.CheckpointSource/") {
            self.source.call(request)
        } else {
            // This one also answers "unimplemented" to what is neither.
            self.control.call(request)
        }
    }
}

/// The bytes on this disk are not those that were written.
struct Damaged;

fn send_chunks(
    mut file: std::fs::File,
    meta: CheckpointFile,
    chunks: &mpsc::Sender<Result<v1::PullChunk, Status>>,
) -> Result<(), Damaged> {
    let total_len = meta.len_bytes;
    let (mut offset, mut crc) = (0, crc32fast::Hasher::new());
    loop {
        let mut data = Vec::with_capacity(CHUNK_BYTES);
        let chunk = match (&mut file).take(CHUNK_BYTES as u64).read_to_end(&mut data) {
            Ok(0) if crc.clone().finalize() == meta.crc32 => return Ok(()),
            Ok(0) => {
                // Whoever pulls must not take it for a whole one.
                let _ = chunks.blocking_send(Err(Status::data_loss("the checkpoint is damaged")));
                return Err(Damaged);
            }
            Ok(len) => {
                crc.update(&data);
                let crc32 = crc32fast::hash(&data);
                let total_len = if offset == 0 { total_len } else { 0 };
                let chunk = v1::PullChunk { offset, data: data.into(), total_len, crc32 };
                offset += len as u64;
                Ok(chunk)
            }
            Err(error) => Err(Status::internal(error.to_string())),
        };
        let failed = chunk.is_err();
        // A receiver that went away pulls again when it wants.
        if chunks.blocking_send(chunk).is_err() || failed {
            return Ok(());
        }
    }
}
