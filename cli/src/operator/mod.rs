//! The operator's commands: one file each, tables for people, `--json` for programs.

mod colocation;
mod connection;
mod events;
mod failover;
mod parameters;
mod replica;
mod status;

use crate::cluster::ClusterArgs;

/// Commands against a running cluster.
#[derive(clap::Subcommand)]
pub(crate) enum OperatorCommand {
    /// Show nodes, shards, primaries and their state.
    Status(status::StatusArgs),
    /// Hand a shard over to another node without losing or failing a request.
    Failover(failover::FailoverArgs),
    /// Act on one replica.
    #[command(subcommand)]
    Replica(replica::ReplicaCommand),
    /// Show what happened: elections, failovers, restarts, changes.
    Events(events::EventsArgs),
    /// Show or change the cluster's settings.
    #[command(subcommand)]
    Parameters(parameters::ParametersCommand),
    /// Put databases or prefixes into one hash slot each.
    #[command(subcommand)]
    Colocation(colocation::ColocationCommand),
    /// Show how clients connect.
    Connection(connection::ConnectionArgs),
}

pub(crate) fn run(command: &OperatorCommand, cluster: &ClusterArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match command {
            OperatorCommand::Status(args) => status::run(args, cluster).await,
            OperatorCommand::Failover(args) => failover::run(args, cluster).await,
            OperatorCommand::Replica(command) => replica::run(command, cluster).await,
            OperatorCommand::Events(args) => events::run(args, cluster).await,
            OperatorCommand::Parameters(command) => parameters::run(command, cluster).await,
            OperatorCommand::Colocation(command) => colocation::run(command, cluster).await,
            OperatorCommand::Connection(args) => connection::run(args, cluster),
        }
    })
}
