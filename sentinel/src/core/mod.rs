//! Everything the control plane decides, as plain structs without sockets, clocks or tasks.
//!
//! In reading order: [`metadata`] is the replicated state of the cluster; [`placement`] says where
//! replicas start; [`detector`] turns heartbeats into one sentinel's opinion and [`quorum`] turns
//! opinions into a verdict; [`view`] is what the leader knows of replicas right now; [`election`]
//! fails one shard over, [`policy`] decides when; [`balance`] and [`repair`] do the slow work.

pub mod balance;
pub mod detector;
pub mod election;
pub mod metadata;
pub mod placement;
pub mod policy;
pub mod quorum;
pub mod repair;
pub mod view;
