//! The cluster's metadata: one versioned value, changed only by commands in the sentinels' log.
//!
//! [`command`] is what the log holds, [`state`] applies it. A command about a shard names the shard
//! epoch that it assumes; when that is no longer current the command does nothing and its proposer
//! is told so. Two leaders of the sentinel group can therefore never both carry out their plans.

pub mod command;
pub mod state;

#[cfg(test)]
mod tests;

pub use command::{Command, LogRecord};
pub use state::{Metadata, Outcome, Rejection};
