//! `chaos`: faults against real clusters, and the verdict.
//!
//! Each subcommand lives in a file of its own and says whether the promises held. Every one of them
//! ends its output with one line of totals and exits with 0 (held), 1 (violated) or 2 (could not
//! run).

#![forbid(unsafe_code)]

mod check;
mod compose;
mod failover;
mod local;
mod peer;
mod shared;

use clap::Parser;

/// Breaks a cluster on purpose and checks what its clients saw.
#[derive(Parser)]
#[command(name = "chaos", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Failover(failover::FailoverArgs),
    /// Simulate whole clusters with faults of all kinds, one seed each, and check every promise.
    Sim(holdfast_chaos_tests::sim::cli::SimArgs),
    Check(check::CheckArgs),
    Compose(Box<compose::ComposeArgs>),
    Local(Box<local::LocalArgs>),
    Peer(Box<peer::PeerArgs>),
}

fn main() {
    let result = match Cli::parse().command {
        Command::Failover(args) => failover::run(&args),
        Command::Sim(args) => Ok(holdfast_chaos_tests::sim::cli::main(&args)),
        Command::Check(args) => check::run(&args),
        Command::Compose(args) => compose::run(&args),
        Command::Local(args) => local::run(&args),
        Command::Peer(args) => peer::run(&args),
    };
    match result {
        Ok(true) => {}
        Ok(false) => std::process::exit(1),
        Err(error) => {
            eprintln!("chaos: {error:#}");
            std::process::exit(2);
        }
    }
}
