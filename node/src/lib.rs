//! A storage node: hosts one replica of each shard placed on it.
//!
//! Threads, and what moves between them (always in batches, never a call that waits):
//!
//! ```text
//!  proxies ══► link-net ──writes──► consensus ──entries──► log-writer ──persisted──► consensus
//!                 ║  └───reads────┐     │ ▲ └─messages──► peers (transport) ──messages──┘
//!                 ║               ▼     ▼committed
//!                 ╚◄══answers══ exec-s1, exec-s2, …  (one engine each)
//!
//!  sentinels ══► heartbeat (own thread, own connection)    control: gRPC, metrics, host
//! ```
//!
//! A write in one breath: the link thread copies the record into its shard's chunk; the consensus
//! thread stamps the chunk with time and seed and proposes it; followers and the log writer work
//! on it at the same time; when a majority has it, the executor applies it and appends the answer
//! to the link's buffer.
//!
//! In reading order: [`config`] and `identity`; `link_server` and `links` (the proxies' side);
//! `consensus_loop` (all replicas), `log_writer`; `executor` (engine, reads, duties, checkpoints);
//! `open`, `host` and `pull` (replicas come and go); `heartbeat`, `control`, `metrics`; `node`
//! puts it together. `shared` and `mailbox` are what the threads have in common.
//!
//! Beside the data commands a node answers `INFO`, `SLOWLOG GET|LEN|RESET` and `MEMORY STATS`, sent
//! as reads, about one replica; see `executor/info.rs`.

#![forbid(unsafe_code)]

mod checkpoint_files;
mod clock;
pub mod config;
mod consensus_loop;
mod control;
mod executor;
mod heartbeat;
mod host;
mod identity;
mod link_server;
mod links;
mod mailbox;
mod metrics;
mod node;
mod open;
mod pull;
mod shared;
#[cfg(feature = "simulation")]
pub mod sim;
mod subscribers;
mod topology_cache;

pub use config::Config;
pub use holdfast_proto::settings::{ConfigError, Hex};
pub use identity::DataDirError;
pub use node::{Bound, Node, Source, run};
