//! Answers the sentinels' heartbeats, on a thread of its own: slow commands, fsyncs and large
//! transfers must not look like death.
//!
//! Messages are `len: u32` (little endian) and a protobuf message. The first request of a
//! connection carries the cluster's secret.

use crate::link_server::same_secret;
use crate::shared::NodeShared;
use anyhow::Context;
use bytes::BytesMut;
use holdfast_proto::v1;
use prost::Message;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

/// A request is well under 200 bytes.
const REQUEST_LEN_MAX: usize = 4096;
/// How often this thread looks whether its own timers run late.
const SELF_CHECK_PERIOD: Duration = Duration::from_millis(50);
/// Later than this the process is starved: three heartbeat intervals.
const LATE: Duration = Duration::from_millis(300);
/// For how long a late timer counts.
const IMPAIRED_FOR: Duration = Duration::from_secs(2);

/// When this process was last seen to be starved.
#[derive(Default)]
struct Health(Cell<Option<Instant>>);

pub(crate) async fn serve(node: Arc<NodeShared>, listener: TcpListener) {
    let health = Rc::new(Health::default());
    tokio::task::spawn_local(watch_own_timers(Rc::clone(&health)));
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (node, health) = (Arc::clone(&node), Rc::clone(&health));
                tokio::task::spawn_local(async move {
                    if let Err(error) = answer(&node, &health, stream).await {
                        tracing::debug!(error = format!("{error:#}"), "heartbeat link closed");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a heartbeat link failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn watch_own_timers(health: Rc<Health>) {
    loop {
        let due = Instant::now() + SELF_CHECK_PERIOD;
        tokio::time::sleep_until(due).await;
        let now = Instant::now();
        if now.saturating_duration_since(due) > LATE {
            health.0.set(Some(now));
        }
    }
}

async fn answer(node: &NodeShared, health: &Health, mut stream: TcpStream) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut out = BytesMut::new();
    let mut known = false;
    loop {
        let len = stream.read_u32_le().await? as usize;
        anyhow::ensure!(len <= REQUEST_LEN_MAX, "a heartbeat of {len} bytes");
        let mut bytes = vec![0; len];
        stream.read_exact(&mut bytes).await?;
        let request = v1::HeartbeatRequest::decode(&bytes[..]).context("decode a heartbeat")?;
        if !known {
            anyhow::ensure!(request.cluster_id[..] == node.cluster_id, "another cluster");
            anyhow::ensure!(same_secret(&request.secret, &node.secret), "wrong secret");
            known = true;
        }
        let impaired = health.0.get().is_some_and(|at| at.elapsed() < IMPAIRED_FOR);
        let reply = reply(node, impaired, request.sequence);
        out.clear();
        out.extend_from_slice(&(reply.encoded_len() as u32).to_le_bytes());
        reply.encode(&mut out).expect("a BytesMut grows");
        stream.write_all(&out).await?;
    }
}

pub(crate) fn reply(node: &NodeShared, impaired: bool, sequence: u64) -> v1::HeartbeatReply {
    let replicas: Vec<v1::ReplicaStatus> =
        node.shards.all().iter().map(|handle| handle.shared.status()).collect();
    v1::HeartbeatReply {
        node: node.node.0,
        incarnation: node.incarnation,
        sequence,
        impaired,
        used_memory: replicas.iter().map(|replica| replica.used_memory).sum(),
        replicas,
        fsync_latency_us: node.log.stats().last_write_us(),
    }
}
