//! Deterministic simulation: a whole cluster in one thread, on virtual time, driven by one seed.
//!
//! The parts are the real ones: `holdfast_node::sim` runs a node's consensus loop, executors, link
//! reader and answers; the replicas with their raft logs and leases, the engine and its checkpoints
//! are in it; `holdfast_proxy::core` is a proxy worker; `holdfast_sentinel::core` is what sentinels
//! decide. Simulated are what surrounds them: network, disks, clocks, threads, processes. See
//! docs/simulation.md.
//!
//! In reading order: [`plan`] says what a seed stands for, `world` is the event loop, `faults` and
//! `scenes` are what goes wrong, `nodes`, `links`, `sentinels`, `orders` and `clients` put the processes
//! into it, `machine` has disks and clocks, [`oracle`] checks after every step, `search` runs many seeds
//! and shortens failures, [`cli`] is the subcommand.

#[cfg(feature = "deliberate-bugs")]
mod bugs;
pub mod cli;
mod clients;
mod faults;
mod links;
mod machine;
mod nodes;
pub mod oracle;
mod orders;
pub mod plan;
mod scenes;
pub mod search;
mod sentinels;
#[cfg(test)]
mod tests;
mod world;

pub use plan::Plan;
pub use world::{Report, Totals};

/// Id and secret of the simulated cluster.
const CLUSTER: [u8; 16] = *b"simulated-cluste";
const SECRET: [u8; 32] = *b"simulated-secret-simulated-secre";

/// Runs a plan to its end. `verbose` prints the trace. Panics of the code under test go through.
pub fn run(plan: &Plan, verbose: bool) -> Report {
    let mut world = world::World::new(plan.clone(), verbose);
    world.run()
}
