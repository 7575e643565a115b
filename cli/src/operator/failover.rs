//! `holdfast failover`: a planned hand-over.

use crate::cluster::ClusterArgs;

#[derive(clap::Args)]
pub(crate) struct FailoverArgs {
    /// Which shard.
    shard: u32,
    /// To which node; left out: the best one.
    #[arg(long, default_value_t = 0)]
    to: u64,
}

#[allow(clippy::print_stdout, reason = "the command's output")]
pub(super) async fn run(args: &FailoverArgs, cluster: &ClusterArgs) -> anyhow::Result<()> {
    let report = cluster.access()?.failover(args.shard, args.to).await?;
    if cluster.json {
        let value = serde_json::json!({
            "shard": report.shard,
            "from_node": report.old_node,
            "to_node": report.new_node,
            "term": report.term,
            "elected_ms": report.elected_ms,
        });
        println!("{value}");
    } else {
        println!(
            "shard {}: n{} handed over to n{} in {:.1} ms (term {})",
            report.shard, report.old_node, report.new_node, report.elected_ms, report.term
        );
    }
    Ok(())
}
