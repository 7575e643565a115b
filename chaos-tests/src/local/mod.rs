//! `chaos local`: a cluster as processes of this machine, each with a network of its own.

pub mod cluster;
pub mod network;
mod processes;

pub use processes::{Processes, Spec, Supervisor};
