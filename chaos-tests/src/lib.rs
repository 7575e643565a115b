//! Fault injection and checking. `chaos` is the binary; [`harness`] runs a cluster of real
//! processes, [`failover`] measures what clients see of failovers and counts every write; [`sim`]
//! simulates a whole cluster in one thread.

#![forbid(unsafe_code)]

pub mod failover;
pub mod harness;
pub mod sim;
