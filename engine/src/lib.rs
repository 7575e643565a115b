//! The data model and every data command: one [`Engine`] is the state of one shard replica.
//!
//! It is a pure, deterministic, single-threaded state machine. There is no clock, no source of
//! randomness, no I/O and no thread in this crate: cluster time and seeds come with each batch of
//! the log. Two engines that applied the same log are equal in everything a client can see,
//! whatever the layout of their hash tables and encodings ([`Engine::digest`] compares them).
//!
//! In reading order: [`Engine`] (`engine.rs`) applies records and answers reads; `lane` keeps the
//! exactly-once records; `blocking` holds commands that wait for keys; `keyspace` is the data,
//! stored as `entry` allocations in `table`s; `value` has the types; `command` has one file per
//! command family and the dispatch table. `rdb` is Redis's file format, `checkpoint` writes and loads
//! the whole state in it.

mod blocking;
mod checkpoint;
mod command;
mod config;
mod digest;
mod effect;
mod engine;
mod entry;
mod error;
mod evict;
mod expire;
mod geo;
mod hash;
mod hyperloglog;
mod keyspace;
mod lane;
mod memory;
mod num;
mod outcome;
mod random;
pub mod rdb;
mod reply;
mod script;
mod table;
pub mod value;

pub use checkpoint::{CheckpointStep, LoadError};
pub use config::{EngineConfig, SCRIPT_BUDGET_DEFAULT};
pub use effect::{Effect, Watched};
pub use engine::{Engine, ReadOutcome, Stats};
pub use evict::{EvictPolicy, EvictionConfig, UnknownPolicy, Victim};
pub use outcome::{Completion, Outcomes};
