//! Orders to nodes and opinions to other sentinels: gRPC clients with short deadlines.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use holdfast_proto::v1;
use holdfast_proto::v1::node_control_client::NodeControlClient;
use holdfast_proto::v1::sentinel_client::SentinelClient;
use tokio::time::timeout;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

const CONNECT_TIMEOUT: Duration = Duration::from_millis(300);
/// Of orders within a failover; as long as the core waits for an answer.
const FAST: Duration = Duration::from_millis(200);
/// Of a planned hand-over: raft's own abort timer is much shorter.
const TRANSFER: Duration = Duration::from_secs(5);
/// Of a membership change, which waits for its commit.
const CHANGE: Duration = Duration::from_secs(10);

/// Connections by address; they are made on first use and stay.
pub(crate) struct Orders {
    secret: Bytes,
    channels: Mutex<BTreeMap<String, Channel>>,
}

impl Orders {
    pub(crate) fn new(secret: Bytes) -> Self {
        Self { secret, channels: Mutex::default() }
    }

    pub(crate) async fn forget_leader(
        &self,
        addr: &str,
        shard: u32,
        term: u64,
        leader_raft_id: u64,
    ) -> Result<v1::ForgetLeaderReply, Status> {
        let secret = self.secret.clone();
        let request = v1::ForgetLeaderRequest { secret, shard, term, leader_raft_id };
        let mut node = self.node(addr)?;
        within(FAST, node.forget_leader(request)).await
    }

    pub(crate) async fn campaign(
        &self,
        addr: &str,
        shard: u32,
        term: u64,
    ) -> Result<v1::CampaignReply, Status> {
        let request = v1::CampaignRequest { secret: self.secret.clone(), shard, term };
        let mut node = self.node(addr)?;
        within(FAST, node.campaign(request)).await
    }

    pub(crate) async fn transfer_leader(
        &self,
        addr: &str,
        shard: u32,
        to_raft_id: u64,
    ) -> Result<v1::TransferLeaderReply, Status> {
        let request = v1::TransferLeaderRequest { secret: self.secret.clone(), shard, to_raft_id };
        let mut node = self.node(addr)?;
        within(TRANSFER, node.transfer_leader(request)).await
    }

    pub(crate) async fn change_membership(
        &self,
        addr: &str,
        mut request: v1::ChangeMembershipRequest,
    ) -> Result<v1::ChangeMembershipReply, Status> {
        request.secret = self.secret.clone();
        let mut node = self.node(addr)?;
        within(CHANGE, node.change_membership(request)).await
    }

    pub(crate) async fn restart_replica(
        &self,
        addr: &str,
        shard: u32,
    ) -> Result<v1::NodeRestartReplicaReply, Status> {
        let request = v1::NodeRestartReplicaRequest { secret: self.secret.clone(), shard };
        let mut node = self.node(addr)?;
        within(CHANGE, node.restart_replica(request)).await
    }

    pub(crate) async fn share_opinion(
        &self,
        addr: &str,
        opinion: v1::SentinelOpinion,
    ) -> Result<v1::SentinelOpinion, Status> {
        let mut sentinel = SentinelClient::new(self.channel(addr)?);
        within(FAST, sentinel.share_opinion(opinion)).await
    }

    fn node(&self, addr: &str) -> Result<NodeControlClient<Channel>, Status> {
        Ok(NodeControlClient::new(self.channel(addr)?))
    }

    fn channel(&self, addr: &str) -> Result<Channel, Status> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(addr) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{addr}"))
            .map_err(|e| Status::invalid_argument(format!("{addr} is not an address: {e}")))?;
        let channel = endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true).connect_lazy();
        channels.insert(addr.to_owned(), channel.clone());
        Ok(channel)
    }
}

async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    match timeout(limit, call).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("no answer in time")),
    }
}
