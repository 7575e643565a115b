//! One replica of one Raft group, and the shells it needs: a log store and a peer transport.
//!
//! Used by storage nodes (shard groups) and by sentinels (their metadata group, shard 0). Raft
//! itself comes from the `raft` crate; what is here is the driver around it: the order of effects,
//! leases, vote refusal, membership, snapshots as metadata, and the refusal to run on a log that
//! may have lost acknowledged entries.
//!
//! In reading order: [`replica`] is the core (no clock, no I/O, no threads), [`output`] what it
//! asks for and in which order, [`state`] what survives a restart; [`log`] stores that
//! ([`log::memory`] for tests and simulation, [`log::engine`] on disk, [`log::writer`] the thread
//! that groups writes of all replicas, [`log::side_record`] the amnesia rule); [`transport`] moves
//! messages between processes; [`durable`] ends the process when a disk fails, [`faults`] makes it fail
//! in tests; [`testing`] is a deterministic cluster for tests.

#![forbid(unsafe_code)]
// The raft crate's messages have private fields: there is no other way to fill them in.
#![allow(clippy::field_reassign_with_default)]

pub mod clock;
mod config;
mod convert;
pub mod durable;
mod effects;
mod error;
pub mod faults;
mod lease;
pub mod log;
mod membership;
pub mod output;
pub mod replica;
mod snapshot;
pub mod state;
mod storage;
pub mod testing;
pub mod transport;

pub use config::{Bug, ReplicaConfig};
pub use error::{
    CampaignError, ChangeError, ForgetError, InstallError, OpenError, ProposeError, StepError,
    TransferError,
};
pub use log::{LogError, LogReader, LogStore, LogWrite};
pub use membership::MembershipChange;
pub use output::{Committed, EntryKind, Outputs, Role, RoleChange, SnapshotToInstall};
pub use replica::{PeerProgress, Replica};
pub use state::{CheckpointMeta, Entry, HardState, StoredState};
