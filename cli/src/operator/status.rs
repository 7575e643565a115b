//! `holdfast status`.

use crate::cluster::ClusterArgs;
use anyhow::{Context, bail};
use comfy_table::Table;
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use holdfast_proto::v1::{NodeHealth, NodeStatus, ReplicaStatus, ShardInfo, StatusReply, Topology};
use std::time::{Duration, Instant};

#[derive(clap::Args, Debug)]
pub(crate) struct StatusArgs {
    /// Wait up to this many seconds until every shard has a primary that serves; exit code 1 if
    /// that does not happen.
    #[arg(long, value_name = "SECONDS")]
    wait: Option<u64>,
}

/// Between two looks at the cluster.
const WAIT_PAUSE: Duration = Duration::from_millis(100);

pub(super) async fn run(args: &StatusArgs, cluster: &ClusterArgs) -> anyhow::Result<()> {
    let access = cluster.access()?;
    if let Some(seconds) = args.wait {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        while !access.shards_serve().await {
            if Instant::now() >= deadline {
                bail!("not every shard has a primary after {seconds} s");
            }
            tokio::time::sleep(WAIT_PAUSE).await;
        }
    }
    let status = access.status().await?;
    let topology = status.topology.as_ref().context("the sentinel sent no topology")?;
    if cluster.json {
        print_json(&status, topology)
    } else {
        print_tables(&status, topology)
    }
    Ok(())
}

#[allow(clippy::print_stdout, reason = "the command's output")]
fn print_tables(status: &StatusReply, topology: &Topology) {
    println!(
        "cluster {}  metadata version {}  sentinel leader {}  proxies {}",
        hex(&topology.cluster_id),
        topology.version,
        topology.sentinel_leader,
        topology.proxies.len()
    );
    let mut nodes = Table::new();
    nodes
        .load_style(UTF8_HORIZONTAL_ONLY)
        .set_header(["node", "address", "zone", "health", "seen", "memory"]);
    for node in &topology.nodes {
        let seen = node_status(status, node.id);
        let memory: u64 =
            seen.map_or(0, |seen| seen.replicas.iter().map(|replica| replica.used_memory).sum());
        nodes.add_row([
            format!("n{}", node.id),
            node.link_addr.clone(),
            node.zone.clone(),
            seen.map_or("unknown", |seen| health_text(seen.health())).to_owned(),
            seen.map_or_else(
                || "never".to_owned(),
                |seen| format!("{} ms ago", seen.last_seen_ms_ago),
            ),
            format!("{:.1} MiB", memory as f64 / 1_048_576.0),
        ]);
    }
    println!("{nodes}");
    let mut shards = Table::new();
    shards.load_style(UTF8_HORIZONTAL_ONLY).set_header([
        "shard",
        "slots",
        "replica",
        "role",
        "term",
        "last index",
        "applied",
        "keys",
    ]);
    for shard in &topology.shards {
        for replica in &shard.replicas {
            let state = replica_status(status, replica.node, shard.id);
            shards.add_row([
                shard.id.to_string(),
                slots_text(shard),
                format!("n{}", replica.node),
                role_text(shard, replica.node, state),
                state.map_or_else(String::new, |state| state.term.to_string()),
                state.map_or_else(String::new, |state| state.last_index.to_string()),
                state.map_or_else(String::new, |state| state.applied_index.to_string()),
                state.map_or_else(String::new, |state| state.keys.to_string()),
            ]);
        }
    }
    println!("{shards}");
}

#[allow(clippy::print_stdout, reason = "the command's output")]
fn print_json(status: &StatusReply, topology: &Topology) {
    let nodes: Vec<_> = topology
        .nodes
        .iter()
        .map(|node| {
            let seen = node_status(status, node.id);
            serde_json::json!({
                "id": node.id,
                "address": node.link_addr,
                "zone": node.zone,
                "health": seen.map_or("unknown", |seen| health_text(seen.health())),
                "last_seen_ms_ago": seen.map(|seen| seen.last_seen_ms_ago),
            })
        })
        .collect();
    let shards: Vec<_> = topology
        .shards
        .iter()
        .map(|shard| {
            let replicas: Vec<_> = shard
                .replicas
                .iter()
                .map(|replica| {
                    let state = replica_status(status, replica.node, shard.id);
                    serde_json::json!({
                        "node": replica.node,
                        "raft_id": replica.raft_id,
                        "role": role_text(shard, replica.node, state),
                        "term": state.map(|state| state.term),
                        "last_index": state.map(|state| state.last_index),
                        "applied_index": state.map(|state| state.applied_index),
                        "keys": state.map(|state| state.keys),
                    })
                })
                .collect();
            serde_json::json!({
                "id": shard.id,
                "primary_node": shard.primary_node,
                "term": shard.term,
                "slots": slots_text(shard),
                "replicas": replicas,
            })
        })
        .collect();
    let value = serde_json::json!({
        "cluster_id": hex(&topology.cluster_id),
        "version": topology.version,
        "sentinel_leader": topology.sentinel_leader,
        "nodes": nodes,
        "shards": shards,
        "proxies": topology.proxies.iter().map(|proxy| proxy.client_addr.clone()).collect::<Vec<_>>(),
    });
    println!("{value}");
}

fn node_status(status: &StatusReply, node: u64) -> Option<&NodeStatus> {
    status.nodes.iter().find(|status| status.node == node)
}

fn replica_status(status: &StatusReply, node: u64, shard: u32) -> Option<&ReplicaStatus> {
    node_status(status, node)?.replicas.iter().find(|replica| replica.shard == shard)
}

fn role_text(shard: &ShardInfo, node: u64, state: Option<&ReplicaStatus>) -> String {
    let role = if shard.primary_node == node { "primary" } else { "replica" };
    match state {
        None => format!("{role} (not seen)"),
        Some(state) if shard.primary_node == node && !state.serving => {
            format!("{role} (not serving)")
        }
        Some(_) => role.to_owned(),
    }
}

fn slots_text(shard: &ShardInfo) -> String {
    let ranges: Vec<String> =
        shard.slots.iter().map(|range| format!("{}-{}", range.first, range.last)).collect();
    ranges.join(",")
}

fn health_text(health: NodeHealth) -> &'static str {
    match health {
        NodeHealth::Unspecified => "unknown",
        NodeHealth::Up => "up",
        NodeHealth::SubjectivelyDown => "subjectively down",
        NodeHealth::ObjectivelyDown => "objectively down",
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
