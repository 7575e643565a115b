//! A storage node: hosts one replica of each shard placed on it.

#![forbid(unsafe_code)]

pub mod config;

pub use config::{Config, ConfigError, Hex};

/// Runs a node until SIGTERM or SIGINT, or until it cannot go on.
pub fn run(config: Config) -> anyhow::Result<()> {
    let _ = config.load_secret()?;
    anyhow::bail!("not yet");
}
