//! The control plane of Holdfast: a small Raft group of its own that records what the cluster is,
//! watches the nodes, and has another replica elected when a primary is lost.
//!
//! Not on the data path: proxies and nodes keep what they last learnt and go on when no sentinel
//! answers.

#![forbid(unsafe_code)]

pub mod config;
pub mod core;

mod caretaker;
mod control;
mod driver;
mod group;
mod metrics;
mod orders;
mod peers;
mod run;
mod service;
mod shared;
mod sight;
mod snapshots;

#[cfg(test)]
mod shell_tests;

pub use config::Config;
pub use run::{run, run_until};
