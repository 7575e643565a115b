//! The peer transport over loopback.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_consensus::transport::{Transport, TransportConfig, TransportEvents};
use holdfast_proto::ids::ShardId;
use holdfast_proto::v1::{PeerFrame, PeerHello, RaftEntry, RaftMessage};
use prost::Message;
use raft::eraftpb::MessageType;

const CLUSTER: &[u8] = b"0123456789abcdef";
const SECRET: &[u8] = b"secret";

#[derive(Clone, Default)]
struct Seen {
    received: Arc<Mutex<Vec<(u64, ShardId, RaftMessage)>>>,
    unreachable: Arc<Mutex<Vec<u64>>>,
}

impl TransportEvents for Seen {
    fn received(&self, from: u64, messages: Vec<(ShardId, RaftMessage)>) {
        let mut all = self.received.lock().unwrap();
        all.extend(messages.into_iter().map(|(shard, m)| (from, shard, m)));
    }

    fn unreachable(&self, node: u64) {
        self.unreachable.lock().unwrap().push(node);
    }
}

impl Seen {
    fn count(&self) -> usize {
        self.received.lock().unwrap().len()
    }
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn config(own: u64, incarnation: u64) -> TransportConfig {
    let cluster = Bytes::from_static(CLUSTER);
    TransportConfig::new(cluster, Bytes::from_static(SECRET), own, incarnation)
}

fn start(own: u64) -> (Transport, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let seen = Seen::default();
    let transport = Transport::start(config(own, 1), listener, seen.clone()).unwrap();
    (transport, seen)
}

fn append(index: u64, bytes: usize) -> RaftMessage {
    RaftMessage {
        kind: MessageType::MsgAppend as u32,
        index,
        entries: vec![RaftEntry { data: vec![7; bytes].into(), ..Default::default() }],
        ..Default::default()
    }
}

fn heartbeat(index: u64) -> RaftMessage {
    RaftMessage { kind: MessageType::MsgHeartbeat as u32, index, ..Default::default() }
}

fn peers(list: &[(u64, SocketAddr)]) -> BTreeMap<u64, String> {
    list.iter().map(|(id, a)| (*id, a.to_string())).collect()
}

#[test]
fn messages_arrive_in_order_on_each_connection() {
    let (a, _) = start(1);
    let (b, seen) = start(2);
    a.handle().set_peers(&peers(&[(1, a.local_addr()), (2, b.local_addr())]));
    for n in 0..500u64 {
        let shard = ShardId((n % 3) as u32);
        let pair = [(shard, append(n, 1000)), (shard, heartbeat(n))];
        a.handle().send_batch(2, pair);
    }
    a.handle().send(2, ShardId(1), append(500, 20 << 20));
    wait("all arrive", || seen.count() == 1001);
    let received = seen.received.lock().unwrap();
    for kind in [MessageType::MsgAppend, MessageType::MsgHeartbeat] {
        let of_kind: Vec<_> =
            received.iter().filter(|(from, _, m)| *from == 1 && m.kind == kind as u32).collect();
        assert!(of_kind.is_sorted_by_key(|(_, _, m)| m.index));
        assert!(of_kind.iter().all(|(_, s, m)| { m.index == 500 || s.0 as u64 == m.index % 3 }));
    }
}

#[test]
fn a_peer_that_is_away_is_reported_and_found_again() {
    let (a, seen_a) = start(1);
    let (b, _) = start(2);
    let addr = b.local_addr();
    let handle = a.handle();
    handle.send(9, ShardId(1), heartbeat(0));
    assert_eq!(*seen_a.unreachable.lock().unwrap(), [9], "nobody known");
    handle.set_peers(&peers(&[(2, addr)]));
    drop(b);
    seen_a.unreachable.lock().unwrap().clear();
    wait("reported", || {
        handle.send(2, ShardId(1), heartbeat(1));
        !seen_a.unreachable.lock().unwrap().is_empty()
    });
    let listener = TcpListener::bind(addr).unwrap();
    let seen = Seen::default();
    let _b = Transport::start(config(2, 2), listener, seen.clone()).unwrap();
    wait("found", || {
        handle.send(2, ShardId(1), heartbeat(2));
        seen.count() > 0
    });
}

#[test]
fn a_full_queue_drops_and_reports() {
    // Accepts connections and reads nothing.
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let seen = Seen::default();
    let cfg = TransportConfig { queue_bytes_max: 4 << 20, ..config(1, 1) };
    let a = Transport::start(cfg, listener, seen.clone()).unwrap();
    a.handle().set_peers(&peers(&[(2, deaf.local_addr().unwrap())]));
    std::thread::sleep(Duration::from_millis(100));
    for n in 0..200 {
        a.handle().send(2, ShardId(1), append(n, 1 << 20));
    }
    assert!(!seen.unreachable.lock().unwrap().is_empty());
}

fn dial(addr: SocketAddr, hello: &PeerHello) -> TcpStream {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.set_nodelay(true).unwrap();
    write(&mut stream, hello);
    stream
}

fn write(stream: &mut TcpStream, message: &impl Message) {
    let body = message.encode_to_vec();
    let mut frame = (body.len() as u32).to_be_bytes().to_vec();
    frame.extend(body);
    // The receiver may have closed.
    let _ = stream.write_all(&frame);
}

fn frame(index: u64) -> PeerFrame {
    PeerFrame {
        messages: vec![holdfast_proto::v1::GroupMessage {
            shard: 1,
            message: Some(heartbeat(index)),
        }],
    }
}

fn is_closed(stream: &mut TcpStream) -> bool {
    matches!(stream.read(&mut [0]), Ok(0))
        || stream.take_error().is_ok_and(|error| error.is_some())
        || stream.write_all(&[0]).is_err()
}

fn hello(epoch: u64) -> PeerHello {
    PeerHello {
        cluster_id: Bytes::from_static(CLUSTER),
        secret: Bytes::from_static(SECRET),
        from_node: 9,
        incarnation: 1,
        epoch,
        urgent: true,
    }
}

#[test]
fn strangers_are_refused() {
    let (a, seen) = start(1);
    let wrong_secret = PeerHello { secret: Bytes::from_static(b"wrong!"), ..hello(1) };
    let wrong_cluster =
        PeerHello { cluster_id: Bytes::from_static(b"fedcba9876543210"), ..hello(1) };
    for bad in [wrong_secret, wrong_cluster] {
        let mut stream = dial(a.local_addr(), &bad);
        write(&mut stream, &frame(1));
        assert!(is_closed(&mut stream));
    }
    let mut stream = TcpStream::connect(a.local_addr()).unwrap();
    stream.write_all(&[0xff; 64]).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert!(is_closed(&mut stream), "a length out of bounds");
    assert_eq!(seen.count(), 0);
}

#[test]
fn a_newer_connection_supersedes_the_older() {
    let (a, seen) = start(1);
    let mut old = dial(a.local_addr(), &hello(5));
    write(&mut old, &frame(1));
    wait("old one works", || seen.count() == 1);
    let mut new = dial(a.local_addr(), &hello(6));
    write(&mut new, &frame(2));
    wait("new one works", || seen.count() == 2);
    write(&mut old, &frame(3));
    assert!(is_closed(&mut old));
    let mut late = dial(a.local_addr(), &hello(4));
    write(&mut late, &frame(4));
    assert!(is_closed(&mut late));
    let received = seen.received.lock().unwrap();
    let indexes: Vec<_> = received.iter().map(|(_, _, m)| m.index).collect();
    assert_eq!(indexes, [1, 2]);
}
