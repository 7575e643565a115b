//! The shell without Raft: a metadata group of one that applies at once, and fake nodes with real
//! sockets. What is tested is the way from a closed socket to a recorded failover.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast_proto::v1;
use holdfast_proto::v1::node_control_server::{NodeControl, NodeControlServer};
use holdfast_proto::v1::sentinel_server::Sentinel as Api;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::caretaker;
use crate::config::Config;
use crate::control::Control;
use crate::core::metadata::{LogRecord, Metadata};
use crate::group::{INPUTS_MAX, Input, MetadataGroup, Published};
use crate::service::Service;
use crate::shared::Sentinel;
use crate::sight::{Identity, Sight, watch_nodes};
use holdfast_consensus::clock;

/// Lease and drift margin of the nodes.
const VETO: Duration = Duration::from_millis(275);
const SHARD: u32 = 1;

fn config() -> Config {
    let text = format!(
        "id = 1\ncluster-id = \"{}\"\nsecret = \"{}\"\ndata-dir = \"/nowhere\"\n\
         api-listen = \"127.0.0.1:0\"\npeer-listen = \"127.0.0.1:0\"\n\
         [cluster]\nshards = 1\nreplicas = 3\n\
         [[members]]\nid = 1\napi-addr = \"127.0.0.1:1\"\npeer-addr = \"127.0.0.1:2\"\n",
        "0a".repeat(16),
        "0b".repeat(32)
    );
    Config::from_text("test".as_ref(), &text).unwrap()
}

/// Applies what is proposed, at once and alone.
fn group_of_one() -> MetadataGroup {
    let (inputs, received) = crossbeam_channel::bounded(INPUTS_MAX);
    let published = Published { leads: true, leader: Some(1), ..Default::default() };
    let (sender, receiver) = watch::channel(published);
    std::thread::spawn(move || {
        let mut metadata = Metadata::default();
        for input in received {
            let Input::Propose(proposal) = input else { continue };
            let time_ms = clock::wall_ms();
            let outcome = metadata.apply(&LogRecord { time_ms, command: Some(proposal.command) });
            sender.send_modify(|p| {
                p.metadata = Arc::new(metadata.clone());
                p.topology = Arc::new(metadata.topology().cloned().unwrap_or_default());
            });
            let _ = proposal.reply.send(outcome.map_err(Into::into));
        }
    });
    MetadataGroup::new(inputs, receiver)
}

fn start_sentinel() -> (Arc<Sentinel>, Arc<Service>) {
    let config = config();
    let secret = config.load_secret().unwrap();
    let identity = Identity {
        sentinel: 1,
        cluster_id: config.cluster_id.0.to_vec().into(),
        secret: secret.to_vec().into(),
    };
    let group = group_of_one();
    let sight = Arc::new(Sight::new());
    tokio::spawn(watch_nodes(Arc::clone(&sight), identity, group.watch()));
    let (told, received) = mpsc::channel(64);
    let sentinel = Arc::new(Sentinel::new(config, secret, group, sight, told));
    tokio::spawn(Control::new(Arc::clone(&sentinel), received).run());
    tokio::spawn(caretaker::run(Arc::clone(&sentinel)));
    let service = Arc::new(Service::new(Arc::clone(&sentinel)));
    (sentinel, service)
}

/// The one shard, as all fake nodes together hold it.
struct FakeShard {
    term: u64,
    leader: u64,
    /// When the leader was last heard by the others; it is "heard" until its node is killed.
    silent_since: Option<Instant>,
    forgotten: Vec<u64>,
    /// So many hand-overs are refused.
    refusals: u32,
}

#[derive(Clone)]
struct FakeNode {
    id: u64,
    incarnation: u64,
    shard: Arc<Mutex<FakeShard>>,
    service: Arc<Service>,
}

impl FakeNode {
    fn status(&self) -> v1::ReplicaStatus {
        let shard = self.shard.lock().unwrap();
        let leads = shard.leader == self.id;
        let forgotten = shard.forgotten.contains(&self.id);
        let role = if leads { v1::RaftRole::Leader } else { v1::RaftRole::Follower };
        v1::ReplicaStatus {
            shard: SHARD,
            raft_id: self.id,
            role: role.into(),
            term: shard.term,
            leader_raft_id: if forgotten { 0 } else { shard.leader },
            last_term: shard.term,
            last_index: 10,
            serving: leads,
            ..Default::default()
        }
    }

    async fn heartbeats(self, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let node = self.clone();
            connections.spawn(async move {
                while let Ok(len) = stream.read_u32_le().await {
                    let mut bytes = vec![0; len as usize];
                    stream.read_exact(&mut bytes).await.unwrap();
                    let request = v1::HeartbeatRequest::decode(&bytes[..]).unwrap();
                    let reply = v1::HeartbeatReply {
                        node: node.id,
                        incarnation: node.incarnation,
                        sequence: request.sequence,
                        replicas: vec![node.status()],
                        ..Default::default()
                    };
                    let mut out = (reply.encoded_len() as u32).to_le_bytes().to_vec();
                    reply.encode(&mut out).unwrap();
                    stream.write_all(&out).await.unwrap();
                }
            });
        }
    }
}

fn unused<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not in this test"))
}

#[tonic::async_trait]
impl NodeControl for FakeNode {
    async fn forget_leader(
        &self,
        request: Request<v1::ForgetLeaderRequest>,
    ) -> Result<Response<v1::ForgetLeaderReply>, Status> {
        let request = request.into_inner();
        {
            let mut shard = self.shard.lock().unwrap();
            assert_eq!((request.term, request.leader_raft_id), (shard.term, shard.leader));
            let silent = shard.silent_since.map_or(Duration::ZERO, |since| since.elapsed());
            if silent < VETO {
                let retry_after_us = (VETO - silent).as_micros() as u64;
                let reply = v1::ForgetLeaderReply { retry_after_us, ..Default::default() };
                return Ok(Response::new(reply));
            }
            shard.forgotten.push(self.id);
        }
        let status = Some(self.status());
        Ok(Response::new(v1::ForgetLeaderReply { obeyed: true, status, ..Default::default() }))
    }

    async fn campaign(
        &self,
        request: Request<v1::CampaignRequest>,
    ) -> Result<Response<v1::CampaignReply>, Status> {
        let term = {
            let mut shard = self.shard.lock().unwrap();
            assert_eq!(request.get_ref().term, shard.term);
            shard.term += 1;
            shard.leader = self.id;
            shard.forgotten.clear();
            shard.term
        };
        report_primary(&self.service, term, self.id).await;
        Ok(Response::new(v1::CampaignReply { started: true }))
    }

    async fn transfer_leader(
        &self,
        request: Request<v1::TransferLeaderRequest>,
    ) -> Result<Response<v1::TransferLeaderReply>, Status> {
        let mut shard = self.shard.lock().unwrap();
        assert_eq!(shard.leader, self.id);
        if let Some(left) = shard.refusals.checked_sub(1) {
            shard.refusals = left;
            let reason = "not heard recently".to_owned();
            return Ok(Response::new(v1::TransferLeaderReply { reason, ..Default::default() }));
        }
        shard.term += 1;
        shard.leader = request.get_ref().to_raft_id;
        let (done, term) = (true, shard.term);
        Ok(Response::new(v1::TransferLeaderReply { done, term, ..Default::default() }))
    }

    async fn change_membership(
        &self,
        _: Request<v1::ChangeMembershipRequest>,
    ) -> Result<Response<v1::ChangeMembershipReply>, Status> {
        unused()
    }

    async fn restart_replica(
        &self,
        _: Request<v1::NodeRestartReplicaRequest>,
    ) -> Result<Response<v1::NodeRestartReplicaReply>, Status> {
        unused()
    }

    async fn checkpoint(
        &self,
        _: Request<v1::CheckpointRequest>,
    ) -> Result<Response<v1::CheckpointReply>, Status> {
        unused()
    }
}

async fn report_primary(service: &Service, term: u64, node: u64) {
    let secret = vec![11; 32].into();
    let report = v1::ReportPrimaryRequest { secret, shard: SHARD, term, node, unix_ms: 0 };
    service.report_primary(Request::new(report)).await.unwrap();
}

/// Registers a node that listens on free ports; its life hangs on the returned set.
async fn start_node(shard: &Arc<Mutex<FakeShard>>, service: &Arc<Service>) -> (u64, JoinSet<()>) {
    let heartbeat = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let control = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let control_addr = control.local_addr().unwrap().to_string();
    let info = v1::NodeInfo {
        instance: control_addr.clone(),
        link_addr: format!("link of {control_addr}"),
        peer_addr: format!("peer of {control_addr}"),
        heartbeat_addr: heartbeat.local_addr().unwrap().to_string(),
        control_addr,
        incarnation: 7,
        ..Default::default()
    };
    let request = v1::RegisterNodeRequest {
        cluster_id: vec![10; 16].into(),
        secret: vec![11; 32].into(),
        node: Some(info),
    };
    let id = service.register_node(Request::new(request)).await.unwrap().into_inner().id;
    let (shard, service) = (Arc::clone(shard), Arc::clone(service));
    let node = FakeNode { id, incarnation: 7, shard, service };
    let mut tasks = JoinSet::new();
    tasks.spawn(node.clone().heartbeats(heartbeat));
    let server = tonic::transport::Server::builder()
        .serve_with_incoming(NodeControlServer::new(node), TcpListenerStream::new(control));
    tasks.spawn(async move { server.await.unwrap() });
    (id, tasks)
}

async fn until(what: &str, limit: Duration, done: impl Fn() -> bool) -> Duration {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < limit, "waited in vain until {what}");
        sleep(Duration::from_millis(2)).await;
    }
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_registration_through_a_failover_to_a_planned_hand_over() {
    let (sentinel, service) = start_sentinel();
    let shard =
        FakeShard { term: 1, leader: 0, silent_since: None, forgotten: vec![], refusals: 2 };
    let shard = Arc::new(Mutex::new(shard));
    sentinel.chores.notify_one();
    let founded = || sentinel.group.published().metadata.is_founded();
    until("the cluster is founded", Duration::from_secs(3), founded).await;
    let mut nodes = Vec::new();
    for _ in 0..3 {
        nodes.push(start_node(&shard, &service).await);
    }
    let primary = || {
        let topology = sentinel.group.published().topology;
        topology.shards.first().map_or((0, 0), |s| (s.term, s.primary_node))
    };
    until("the preferred node leads", Duration::from_secs(3), || primary() == (2, 1)).await;
    sleep(Duration::from_millis(300)).await;

    // kill -9: the kernel closes the sockets and refuses new connections.
    shard.lock().unwrap().silent_since = Some(Instant::now());
    let (_, mut killed) = nodes.remove(0);
    killed.abort_all();
    while killed.join_next().await.is_some() {}
    let took = until("another node leads", Duration::from_secs(3), || primary().0 == 3).await;
    assert!(took >= VETO - Duration::from_millis(20), "the veto was not respected: {took:?}");
    assert!(took < Duration::from_millis(600), "{took:?}");

    let recorded = || {
        let metadata = sentinel.group.published().metadata;
        metadata.events_after(0, 0).find_map(|e| e.failover)
    };
    until("it is recorded", Duration::from_secs(1), || recorded().is_some()).await;
    let report = recorded().unwrap();
    assert_eq!((report.old_node, report.term, report.planned), (1, 3, false));
    assert!(report.detected_ms < 250.0, "{report:?}");
    eprintln!(
        "failover: detected {:.0} ms, elected {:.0} ms",
        report.detected_ms, report.elected_ms
    );

    let (_, from) = primary();
    let request =
        v1::FailoverRequest { secret: vec![11; 32].into(), shard: SHARD, to_node: 5 - from };
    let reply = service.failover(Request::new(request)).await.unwrap().into_inner();
    let report = reply.report.unwrap();
    assert_eq!((report.old_node, report.new_node, report.planned), (from, 5 - from, true));
    assert_eq!(primary(), (4, 5 - from));
    let request = v1::FailoverRequest { secret: vec![11; 32].into(), shard: SHARD, to_node: 1 };
    let refused = service.failover(Request::new(request)).await.unwrap_err();
    assert!(refused.message().contains("down"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_refused() {
    let (sentinel, service) = start_sentinel();
    let request = v1::WatchTopologyRequest {
        cluster_id: vec![9; 16].into(),
        secret: vec![11; 32].into(),
        from_version: 0,
    };
    let Err(refused) = service.watch_topology(Request::new(request)).await else {
        panic!("another cluster's node was let in");
    };
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    let wrong = v1::StatusRequest { secret: vec![12; 32].into() };
    let refused = service.status(Request::new(wrong)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    drop(sentinel);
}
