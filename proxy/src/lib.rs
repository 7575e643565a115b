//! The client endpoint of a cluster: TLS, the Redis protocol, routing by hash slot, and holding
//! requests while a shard changes its primary.
//!
//! A proxy keeps no data and no state that outlives it. Its worker threads share nothing: each has
//! its own listeners on the same port, its own copy of the slot map and its own links to the nodes.
//!
//! In reading order: [`core`] is what a worker decides, without I/O; `worker`, `client_io` and
//! `link_io` are the thread around it; `control` talks to the sentinels, `siblings` to other proxies and `admin` to Prometheus;
//! `serve` is the life of the process.
//!
//! ```text
//!  clients ══► listener (SO_REUSEPORT) ─► client task ─┐            ┌─ link task ══► node A
//!                                                      ├─ core ─────┤
//!  clients ══► listener (SO_REUSEPORT) ─► client task ─┘  (1/worker)└─ link task ══► node B
//!                     control thread: sentinels, certificates, metrics
//! ```

#![forbid(unsafe_code)]

mod admin;
mod client_io;
mod clock;
mod config;
mod control;
pub mod core;
mod link_io;
mod serve;
mod siblings;
mod tls;
mod worker;

pub use config::Config;
pub use holdfast_proto::settings::{ConfigError, Hex};
pub use serve::run;
