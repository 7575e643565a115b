//! Fault injection and checking. `chaos` is the binary; [`harness`] runs a cluster of real
//! processes, [`failover`] measures what clients see of failovers and counts every write, [`check`]
//! decides whether a history of operations keeps the promises. [`workload`] makes such histories,
//! [`nemesis`] breaks things meanwhile, on whatever implements the traits of [`target`]; [`local`] is
//! a cluster of processes with a network that can be cut, [`peer`] is Redis with Sentinel on the same,
//! [`compose`] a project of containers;
//! [`run`] is the life of a run and [`report`] tells what happened. [`sim`] simulates whole clusters in one
//! thread.

#![forbid(unsafe_code)]

pub mod check;
pub mod compose;
pub mod failover;
pub mod harness;
pub mod local;
pub mod nemesis;
pub mod peer;
pub mod random;
pub mod report;
pub mod run;
pub mod sim;
pub mod target;
pub mod workload;
