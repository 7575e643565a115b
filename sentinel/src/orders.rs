//! Orders to nodes and opinions to other sentinels: gRPC clients with short deadlines.
//!
//! A connection that broke or did not answer in time is not used again: a machine that lost power, or
//! a container that came back with another address, never says that it is gone, and TCP alone would
//! wait for it for a quarter of an hour.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use holdfast_proto::v1;
use holdfast_proto::v1::node_control_client::NodeControlClient;
use holdfast_proto::v1::sentinel_client::SentinelClient;
use tokio::time::{Instant, timeout_at};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

const CONNECT_TIMEOUT: Duration = Duration::from_millis(300);
/// While a call waits, its connection must answer a ping this often, and as quickly.
const PING: Duration = Duration::from_millis(500);
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
        self.ask(addr, FAST, request, |channel, request| async move {
            NodeControlClient::new(channel).forget_leader(request).await
        })
        .await
    }

    pub(crate) async fn campaign(
        &self,
        addr: &str,
        shard: u32,
        term: u64,
    ) -> Result<v1::CampaignReply, Status> {
        let request = v1::CampaignRequest { secret: self.secret.clone(), shard, term };
        self.ask(addr, FAST, request, |channel, request| async move {
            NodeControlClient::new(channel).campaign(request).await
        })
        .await
    }

    pub(crate) async fn transfer_leader(
        &self,
        addr: &str,
        shard: u32,
        to_raft_id: u64,
    ) -> Result<v1::TransferLeaderReply, Status> {
        let request = v1::TransferLeaderRequest { secret: self.secret.clone(), shard, to_raft_id };
        self.ask(addr, TRANSFER, request, |channel, request| async move {
            NodeControlClient::new(channel).transfer_leader(request).await
        })
        .await
    }

    pub(crate) async fn change_membership(
        &self,
        addr: &str,
        mut request: v1::ChangeMembershipRequest,
    ) -> Result<v1::ChangeMembershipReply, Status> {
        request.secret = self.secret.clone();
        self.ask(addr, CHANGE, request, |channel, request| async move {
            NodeControlClient::new(channel).change_membership(request).await
        })
        .await
    }

    pub(crate) async fn restart_replica(
        &self,
        addr: &str,
        shard: u32,
    ) -> Result<v1::NodeRestartReplicaReply, Status> {
        let request = v1::NodeRestartReplicaRequest { secret: self.secret.clone(), shard };
        self.ask(addr, CHANGE, request, |channel, request| async move {
            NodeControlClient::new(channel).restart_replica(request).await
        })
        .await
    }

    pub(crate) async fn share_opinion(
        &self,
        addr: &str,
        opinion: v1::SentinelOpinion,
    ) -> Result<v1::SentinelOpinion, Status> {
        self.ask(addr, FAST, opinion, |channel, opinion| async move {
            SentinelClient::new(channel).share_opinion(opinion).await
        })
        .await
    }

    /// Sends a request; once more over a new connection if the old one turns out to be broken. All that
    /// is asked here bears that: the second time it is refused or changes nothing, and a replica that
    /// starts twice is only slower.
    async fn ask<Q, A, F>(
        &self,
        addr: &str,
        limit: Duration,
        request: Q,
        send: impl Fn(Channel, Q) -> F,
    ) -> Result<A, Status>
    where
        Q: Clone,
        F: Future<Output = Result<tonic::Response<A>, Status>>,
    {
        let deadline = Instant::now() + limit;
        let mut attempts = 2;
        loop {
            attempts -= 1;
            let call = send(self.channel(addr)?, request.clone());
            let Ok(result) = timeout_at(deadline, call).await else {
                self.forget(addr);
                return Err(Status::deadline_exceeded("no answer in time"));
            };
            match result {
                // What the other side says has no source; what happens to the connection has.
                Err(status) if status.source().is_some() => {
                    self.forget(addr);
                    if attempts == 0 {
                        return Err(status);
                    }
                }
                other => return other.map(tonic::Response::into_inner),
            }
        }
    }

    fn forget(&self, addr: &str) {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner).remove(addr);
    }

    fn channel(&self, addr: &str) -> Result<Channel, Status> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(addr) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{addr}"))
            .map_err(|e| Status::invalid_argument(format!("{addr} is not an address: {e}")))?;
        let channel = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .connect_lazy();
        channels.insert(addr.to_owned(), channel.clone());
        Ok(channel)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    /// As a machine that lost power: the connection stands, nobody answers.
    #[tokio::test]
    async fn a_connection_that_does_not_answer_is_not_used_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let orders = Orders::new(Bytes::new());
        const LIMIT: Duration = Duration::from_secs(10);
        let mut silent = Vec::new();
        for _ in 0..2 {
            let order = orders.campaign(&addr, 1, 1);
            let (result, accepted) = tokio::join!(order, timeout(LIMIT, listener.accept()));
            assert_eq!(result.unwrap_err().code(), tonic::Code::DeadlineExceeded);
            silent.push(accepted.expect("a new connection").unwrap());
        }
    }

    #[tokio::test]
    async fn a_broken_connection_is_made_anew_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let orders = Orders::new(Bytes::new());
        let accept = async {
            drop(listener.accept().await.unwrap());
            let again = timeout(Duration::from_secs(10), listener.accept()).await;
            again.expect("a new connection").unwrap()
        };
        let (result, _second) = tokio::join!(orders.campaign(&addr, 1, 1), accept);
        assert_eq!(result.unwrap_err().code(), tonic::Code::DeadlineExceeded);
    }
}
