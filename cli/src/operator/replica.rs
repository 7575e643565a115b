//! `holdfast replica restart`.

use crate::cluster::ClusterArgs;

#[derive(clap::Subcommand)]
pub(crate) enum ReplicaCommand {
    /// Stop a replica and start it again from its disk.
    Restart {
        /// Which shard.
        shard: u32,
        /// On which node.
        node: u64,
    },
}

#[allow(clippy::print_stdout, reason = "the command's output")]
pub(super) async fn run(command: &ReplicaCommand, cluster: &ClusterArgs) -> anyhow::Result<()> {
    match *command {
        ReplicaCommand::Restart { shard, node } => {
            cluster.access()?.restart_replica(shard, node).await?;
            if cluster.json {
                println!(
                    "{}",
                    serde_json::json!({ "shard": shard, "node": node, "restarted": true })
                );
            } else {
                println!("shard {shard} restarted on n{node}");
            }
        }
    }
    Ok(())
}
