//! A whole proxy over loopback: TLS and plain listeners, links, registration, a failover.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Shared, config, connect, free_addr, node, serve_sentinel, topology};
use rustls::pki_types::{CertificateDer, ServerName};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;

struct Cluster {
    data: Shared,
    announce: watch::Sender<u64>,
    nodes: Vec<tokio::task::JoinHandle<()>>,
    tls: SocketAddr,
    plain: SocketAddr,
    admin: SocketAddr,
    authority: Vec<u8>,
    _dir: tempfile::TempDir,
}

impl Cluster {
    async fn start(password: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (sentinel, addrs) = (free_addr(), [free_addr(), free_addr()]);
        let data = Shared::default();
        {
            let mut data = data.lock().unwrap();
            (data.term, data.primary) = (1, 1);
        }
        let (announce, announced) = watch::channel(1);
        let nodes = addrs
            .iter()
            .zip(1..)
            .map(|(addr, id)| tokio::spawn(node(id, *addr, data.clone(), announced.clone())))
            .collect();
        tokio::spawn(serve_sentinel(sentinel, topology(&addrs, password)));
        let (config, authority) = config(dir.path(), sentinel);
        let (tls, plain, admin) =
            (config.listen.unwrap(), config.plain_listen.unwrap(), config.admin_listen);
        // Serves until the test's process ends.
        std::thread::spawn(move || holdfast_proxy::run(config));
        Self { data, announce, nodes, tls, plain, admin, authority, _dir: dir }
    }

    async fn secure(&self) -> tokio_rustls::client::TlsStream<TcpStream> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from(self.authority.clone())).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = connect(self.tls).await;
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    }

    /// Node 1 is gone, node 2 leads.
    fn fail_over(&self) {
        self.nodes[0].abort();
        {
            let mut data = self.data.lock().unwrap();
            (data.term, data.primary) = (2, 2);
        }
        self.announce.send(2).unwrap();
    }
}

/// Sends bytes and reads as many as are expected back.
async fn ask<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, send: &str, expected: &str) {
    stream.write_all(send.as_bytes()).await.unwrap();
    expect(stream, expected).await;
}

async fn expect<S: AsyncRead + Unpin>(stream: &mut S, expected: &str) {
    let mut got = vec![0; expected.len()];
    tokio::time::timeout(Duration::from_secs(10), stream.read_exact(&mut got))
        .await
        .expect("an answer within ten seconds")
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&got), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_over_tls_and_plain() {
    let cluster = Cluster::start("pw").await;
    let mut plain = connect(cluster.plain).await;
    ask(&mut plain, "GET a\r\n", "-NOAUTH Authentication required.\r\n").await;
    ask(&mut plain, "AUTH pw\r\nSET a 1\r\nINCR a\r\nGET a\r\n", "+OK\r\n+OK\r\n:2\r\n$1\r\n2\r\n")
        .await;
    let mut tls = cluster.secure().await;
    ask(&mut tls, "AUTH pw\r\nGET a\r\n", "+OK\r\n$1\r\n2\r\n").await;
    // More than any buffer on the way, both ways.
    let value = "x".repeat(3_000_000);
    let set = format!("*3\r\n$3\r\nSET\r\n$1\r\nb\r\n${}\r\n{value}\r\n", value.len());
    ask(&mut tls, &set, "+OK\r\n").await;
    let reply = format!("${}\r\n{value}\r\n", value.len());
    ask(&mut tls, "GET b\r\n", &reply).await;
    // A long pipeline.
    let pipeline = "INCR c\r\n".repeat(20_000);
    let replies: String = (1..=20_000).map(|n| format!(":{n}\r\n")).collect();
    ask(&mut tls, &pipeline, &replies).await;

    let mut admin = connect(cluster.admin).await;
    admin.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut page = String::new();
    admin.read_to_string(&mut page).await.unwrap();
    assert!(page.contains("redis_commands_total{cmd=\"incr\"} 20001\n"), "{page}");
    assert!(page.contains("redis_connected_clients 2\n"), "{page}");

    // Plain text on the TLS port is closed.
    let mut wrong = connect(cluster.tls).await;
    wrong.write_all(b"PING\r\n").await.unwrap();
    assert_eq!(wrong.read(&mut [0; 16]).await.unwrap_or(0), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn increments_across_a_failover_count_once() {
    let cluster = Cluster::start("").await;
    let mut client = connect(cluster.plain).await;
    ask(&mut client, "INCR n\r\n", ":1\r\n").await;
    let (mut read, mut write) = client.into_split();
    let writer = tokio::spawn(async move {
        for _ in 0..200 {
            write.write_all("INCR n\r\n".repeat(50).as_bytes()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        write
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    cluster.fail_over();
    let replies: String = (2..=10_001).map(|n| format!(":{n}\r\n")).collect();
    expect(&mut read, &replies).await;
    writer.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_certificate_is_used() {
    let mut cluster = Cluster::start("").await;
    let mut old = cluster.secure().await;
    ask(&mut old, "PING\r\n", "+PONG\r\n").await;
    let (_, authority) = config(cluster._dir.path(), free_addr());
    cluster.authority = authority;
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let mut new = cluster.secure().await;
    ask(&mut new, "PING\r\n", "+PONG\r\n").await;
    ask(&mut old, "PING\r\n", "+PONG\r\n").await;
}
