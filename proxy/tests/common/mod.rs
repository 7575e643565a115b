//! What a proxy needs around it: a sentinel that knows one shard, and nodes that keep strings in a
//! map. Both speak the real protocols over loopback.

#![allow(dead_code)]

use bytes::{BufMut, BytesMut};
use holdfast_proto::frame::{AnswerStatus, Request, Response, split_record};
use holdfast_proto::ids::{NodeId, ShardId, Term};
use holdfast_proto::resp::{encode, parse_array};
use holdfast_proto::v1;
use holdfast_proto::v1::sentinel_server::{Sentinel, SentinelServer};
use holdfast_proxy::{Config, Hex};
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request as Call, Response as Reply, Status};

pub(crate) const CLUSTER: [u8; 16] = [7; 16];
pub(crate) const SECRET: [u8; 32] = [8; 32];

/// An address on loopback that nobody uses.
pub(crate) fn free_addr() -> SocketAddr {
    StdListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// The data of a shard, shared by its nodes as if it were replicated.
#[derive(Default)]
pub(crate) struct Data {
    values: BTreeMap<Vec<u8>, Vec<u8>>,
    /// By (worker, slot): the next seq, and all replies.
    lanes: BTreeMap<(u64, u16), Vec<Vec<u8>>>,
    pub(crate) term: u64,
    pub(crate) primary: u64,
}

pub(crate) type Shared = Arc<Mutex<Data>>;

/// Serves a node of shard 1 until the handle is aborted.
pub(crate) async fn node(id: u64, addr: SocketAddr, data: Shared, primary: watch::Receiver<u64>) {
    let listener = TcpListener::bind(addr).await.unwrap();
    let mut links = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        links.spawn(link(id, stream, data.clone(), primary.clone()));
    }
}

async fn link(id: u64, mut stream: TcpStream, data: Shared, mut primary: watch::Receiver<u64>) {
    let mut input = BytesMut::new();
    loop {
        let mut out = BytesMut::new();
        tokio::select! {
            read = stream.read_buf(&mut input) => {
                if read.unwrap_or(0) == 0 {
                    return;
                }
                while let Some(request) = Request::decode(&mut input).unwrap() {
                    handle(id, request, &data, &mut out);
                }
            }
            _ = primary.changed() => announce(id, &data, &mut out),
        }
        if stream.write_all(&out).await.is_err() {
            return;
        }
    }
}

fn announce(id: u64, data: &Shared, out: &mut BytesMut) {
    let data = data.lock().unwrap();
    if data.primary == id {
        Response::PrimaryIs { shard: ShardId(1), term: Term(data.term), node: NodeId(id) }
            .encode(out);
    }
}

fn handle(id: u64, request: Request, data: &Shared, out: &mut BytesMut) {
    let mut reply = Vec::new();
    let tag = match request {
        Request::Hello { cluster_id, secret, .. } => {
            assert_eq!((cluster_id, secret), (CLUSTER, SECRET));
            Response::HelloOk { node: NodeId(id) }.encode(out);
            return announce(id, data, out);
        }
        Request::Ping { nonce } => return Response::Pong { nonce }.encode(out),
        Request::Register { number, .. } => return Response::Registered { number }.encode(out),
        Request::Read(read) => {
            let mut data = data.lock().unwrap();
            if data.primary != id {
                return refuse(read.tag, &data, out);
            }
            execute(&read.body, &mut data, &mut reply);
            read.tag
        }
        Request::Write { mut record, .. } => {
            let (header, body) = split_record(&mut record).unwrap();
            let mut data = data.lock().unwrap();
            if data.primary != id {
                return refuse(header.tag, &data, out);
            }
            let lane = (header.worker.0, header.slot.get());
            let done = data.lanes.get(&lane).map_or(0, Vec::len) as u64;
            if header.seq > done + 1 {
                let payload = (done + 1).to_le_bytes().to_vec().into();
                return Response::Answer { tag: header.tag, status: AnswerStatus::Gap, payload }
                    .encode(out);
            }
            if header.seq == done + 1 {
                execute(&body, &mut data, &mut reply);
                data.lanes.entry(lane).or_default().push(reply.clone());
            } else {
                reply.clone_from(&data.lanes[&lane][header.seq as usize - 1]);
            }
            header.tag
        }
    };
    let payload = reply.into();
    Response::Answer { tag, status: AnswerStatus::Reply, payload }.encode(out);
}

fn refuse(tag: u64, data: &Data, out: &mut BytesMut) {
    let mut payload = Vec::new();
    payload.put_u64_le(data.term);
    payload.put_u64_le(data.primary);
    let payload = payload.into();
    Response::Answer { tag, status: AnswerStatus::NotPrimary, payload }.encode(out);
}

fn execute(body: &[u8], data: &mut Data, reply: &mut Vec<u8>) {
    let mut args = smallvec::SmallVec::new();
    parse_array(body, &mut args).unwrap();
    match args[0].to_ascii_uppercase().as_slice() {
        b"SET" => {
            data.values.insert(args[1].to_vec(), args[2].to_vec());
            encode::ok(reply);
        }
        b"GET" => match data.values.get(args[1]) {
            Some(value) => encode::bulk(reply, value),
            None => encode::null(reply, false),
        },
        b"INCR" => {
            let value = data.values.entry(args[1].to_vec()).or_insert_with(|| b"0".to_vec());
            let number = std::str::from_utf8(value).unwrap().parse::<i64>().unwrap() + 1;
            *value = number.to_string().into_bytes();
            encode::integer(reply, number);
        }
        _ => encode::error(reply, "ERR not known to the test's node"),
    }
}

/// A sentinel with a fixed topology.
pub(crate) struct FakeSentinel(pub(crate) v1::Topology);

/// Shard 1 owns every slot; `nodes` are its replicas, numbered from 1.
pub(crate) fn topology(nodes: &[SocketAddr], password: &str) -> v1::Topology {
    let ids = 1..=nodes.len() as u64;
    v1::Topology {
        cluster_id: CLUSTER.to_vec().into(),
        version: 1,
        spec: Some(v1::ClusterSpec { password: password.to_owned(), ..Default::default() }),
        nodes: ids
            .clone()
            .zip(nodes)
            .map(|(id, addr)| v1::NodeInfo {
                id,
                link_addr: addr.to_string(),
                ..Default::default()
            })
            .collect(),
        shards: vec![v1::ShardInfo {
            id: 1,
            primary_node: 1,
            term: 1,
            replicas: ids
                .map(|node| v1::ReplicaInfo { raft_id: node, node, role: 1, founding: true })
                .collect(),
            slots: vec![v1::SlotRange { first: 0, last: 16383 }],
            epoch: 1,
        }],
        ..Default::default()
    }
}

pub(crate) async fn serve_sentinel(addr: SocketAddr, topology: v1::Topology) {
    tonic::transport::Server::builder()
        .serve(addr, SentinelServer::new(FakeSentinel(topology)))
        .await
        .unwrap();
}

macro_rules! refused {
    ($($name:ident($request:ident) -> $reply:ident;)*) => {
        $(
            #[allow(clippy::manual_async_fn)]
            fn $name<'a: 'b, 'b>(
                &'a self,
                _: Call<v1::$request>,
            ) -> Pin<Box<dyn Future<Output = Result<Reply<v1::$reply>, Status>> + Send + 'b>>
            where
                Self: 'b,
            {
                Box::pin(async { Err(Status::unimplemented("not part of the test")) })
            }
        )*
    };
}

#[tonic::async_trait]
impl Sentinel for FakeSentinel {
    type WatchTopologyStream = Pin<Box<dyn Stream<Item = Result<v1::Topology, Status>> + Send>>;

    async fn register_proxy(
        &self,
        request: Call<v1::RegisterProxyRequest>,
    ) -> Result<Reply<v1::RegisterProxyReply>, Status> {
        let workers = (100..100 + u64::from(request.into_inner().workers)).collect();
        Ok(Reply::new(v1::RegisterProxyReply {
            proxy_id: 5,
            workers,
            topology: Some(self.0.clone()),
        }))
    }

    async fn watch_topology(
        &self,
        _: Call<v1::WatchTopologyRequest>,
    ) -> Result<Reply<Self::WatchTopologyStream>, Status> {
        let first = tokio_stream::once(Ok(self.0.clone()));
        Ok(Reply::new(Box::pin(first.chain(tokio_stream::pending()))))
    }

    async fn proxy_heartbeat(
        &self,
        _: Call<v1::ProxyHeartbeatRequest>,
    ) -> Result<Reply<v1::ProxyHeartbeatReply>, Status> {
        Ok(Reply::new(v1::ProxyHeartbeatReply { known: true }))
    }

    refused! {
        register_node(RegisterNodeRequest) -> RegisterNodeReply;
        report_primary(ReportPrimaryRequest) -> ReportPrimaryReply;
        report_amnesia(ReportAmnesiaRequest) -> ReportAmnesiaReply;
        status(StatusRequest) -> StatusReply;
        events(EventsRequest) -> EventsReply;
        failover(FailoverRequest) -> FailoverReply;
        restart_replica(RestartReplicaRequest) -> RestartReplicaReply;
        set_settings(SetSettingsRequest) -> SetSettingsReply;
        change_users(ChangeUsersRequest) -> ChangeUsersReply;
        share_opinion(SentinelOpinion) -> SentinelOpinion;
    }
}

/// A proxy's configuration; TLS files are written to `dir`.
pub(crate) fn config(dir: &std::path::Path, sentinel: SocketAddr) -> (Config, Vec<u8>) {
    let signed = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let cert = dir.join("cert.pem");
    let key = dir.join("key.pem");
    std::fs::write(&cert, signed.cert.pem()).unwrap();
    std::fs::write(&key, signed.signing_key.serialize_pem()).unwrap();
    let config = Config {
        cluster_id: Hex(CLUSTER),
        secret: Some(Hex(SECRET)),
        secret_file: None,
        sentinels: vec![sentinel.to_string()],
        listen: Some(free_addr()),
        plain_listen: Some(free_addr()),
        admin_listen: free_addr(),
        announce_host: None,
        announce_port: None,
        tls_cert_file: Some(cert),
        tls_key_file: Some(key),
        tls_client_ca_file: None,
        workers: 1,
        maxclients: 100,
        hold_deadline_ms: 10_000,
        held_bytes_max: 64 * 1024 * 1024,
        drain_ms: 1000,
        log_level: "info".to_owned(),
    };
    (config, signed.cert.der().to_vec())
}

/// Connects once the address is listened on.
pub(crate) async fn connect(addr: SocketAddr) -> TcpStream {
    for _ in 0..200 {
        if let Ok(stream) = TcpStream::connect(addr).await {
            return stream;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("nobody listens on {addr}");
}
