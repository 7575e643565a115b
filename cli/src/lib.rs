//! The `holdfast` command: a whole cluster on this machine (`up`), each process of a real deployment
//! (`node`, `sentinel`, `proxy`), the operator's commands, and a load generator (`bench`).
//!
//! [`client`] and [`cluster`] are used by the chaos tests too.

#![forbid(unsafe_code)]

mod bench;
pub mod client;
pub mod cluster;
mod daemon;
mod deployment;
mod health;
mod init;
mod operator;
mod up;

use clap::Parser;
pub use deployment::certificates::create as create_certificates;

/// A Redis-compatible, highly available, sharded in-memory store behind one TLS URI.
#[derive(Parser)]
#[command(name = "holdfast", version)]
struct Cli {
    #[command(flatten)]
    cluster: cluster::ClusterArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Up(Box<up::UpArgs>),
    /// Run a storage node.
    Node(daemon::DaemonArgs),
    /// Run a sentinel.
    Sentinel(daemon::DaemonArgs),
    /// Run a proxy.
    Proxy(daemon::DaemonArgs),
    Bench(Box<bench::BenchArgs>),
    Init(Box<init::InitArgs>),
    Health(health::HealthArgs),
    #[command(flatten)]
    Operator(operator::OperatorCommand),
}

/// Runs the command line; a failure is one line on standard error and exit code 1.
pub fn main() {
    let cli = Cli::parse();
    let result = match &cli.command {
        Command::Up(args) => up::run(args),
        Command::Node(args) => daemon::node(args),
        Command::Sentinel(args) => daemon::sentinel(args),
        Command::Proxy(args) => daemon::proxy(args),
        Command::Bench(args) => bench::run(args),
        Command::Init(args) => init::run(args),
        Command::Health(args) => health::run(args),
        Command::Operator(command) => operator::run(command, &cli.cluster),
    };
    if let Err(error) = result {
        eprintln!("holdfast: {error:#}");
        std::process::exit(1);
    }
}
