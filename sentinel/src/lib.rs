//! The control plane of Holdfast: a small Raft group of its own that records what the cluster is,
//! watches the nodes, and has another replica elected when a primary is lost.
//!
//! Not on the data path: proxies and nodes keep what they last learnt and go on when no sentinel
//! answers.

#![forbid(unsafe_code)]

pub mod core;
