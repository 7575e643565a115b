//! `chaos local`: faults on a cluster of real processes.

pub mod cluster;
pub mod network;
mod processes;
mod run;

pub use processes::{Death, Processes, Spec};
pub use run::{LocalOptions, run};
