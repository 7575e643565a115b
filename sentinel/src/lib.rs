//! The control plane of Holdfast: a small Raft group of its own that records what the cluster is,
//! watches the nodes, and has another replica elected when a primary is lost.
//!
//! Not on the data path: proxies and nodes keep what they last learnt and go on when no sentinel
//! answers.

#![forbid(unsafe_code)]

pub mod config;
pub mod core;

pub use config::Config;

/// Runs a sentinel until the process is told to end (SIGTERM, SIGINT).
pub fn run(_config: Config) -> anyhow::Result<()> {
    anyhow::bail!("the shell of the sentinel is not in this version")
}
