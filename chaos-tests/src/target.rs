//! What the workloads and the faults need of a cluster, whatever it runs on.

use holdfast_cli::client::Connection;
use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::time::Instant;

pub use crate::local::network::LinkFault;

/// A future that borrows what it was made from.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What an error reply says about the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorMeaning {
    /// Surely not executed.
    NotExecuted,
    /// Surely not executed, because the server is not the one to ask (any more): the client should
    /// connect anew.
    WrongServer,
    /// Perhaps executed.
    Unknown,
}

/// Where clients connect.
pub trait Endpoint: Send + Sync {
    /// Opens the connection of client number `client` and tells through which process it goes.
    /// Called again when it broke.
    fn connect(&self, client: u32) -> Later<'_, anyhow::Result<(Connection, String)>>;

    fn meaning(&self, error: &str) -> ErrorMeaning;
}

/// What Holdfast's errors say.
pub fn meaning(error: &str) -> ErrorMeaning {
    if error.starts_with("CLUSTERDOWN") || error.starts_with("EXECABORT") {
        ErrorMeaning::NotExecuted
    } else {
        ErrorMeaning::Unknown
    }
}

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    Node,
    Sentinel,
    Proxy,
}

/// A cluster that can be hurt. Called from one thread per lane of faults, so everything blocks.
///
/// Faults on processes are undone by `start`, `resume`, `inject(.., "")`, which do nothing where
/// nothing is to be undone; those on links by setting fewer. A fault that a target does not have
/// answers an error; [`Target::can`] says so before.
pub trait Target: Send + Sync {
    /// Names of the processes of a role.
    fn names(&self, role: Role) -> Vec<String>;

    fn can(&self, ability: Ability) -> bool;

    /// Ends it at once; it stays down.
    fn kill(&self, name: &str) -> anyhow::Result<()>;

    /// Asks it to end and waits; it stays down. False if it had to be killed or failed.
    fn stop(&self, name: &str) -> anyhow::Result<bool>;

    fn start(&self, name: &str) -> anyhow::Result<()>;

    fn pause(&self, name: &str) -> anyhow::Result<()>;

    fn resume(&self, name: &str) -> anyhow::Result<()>;

    /// Makes exactly these link faults hold.
    fn set_links(&self, faults: &BTreeSet<LinkFault>) -> anyhow::Result<()>;

    /// Gives a node its file of injected faults (docs/operations.md); empty for none.
    fn inject(&self, name: &str, faults: &str) -> anyhow::Result<()>;

    /// The process that is the primary of a shard.
    fn primary(&self, shard: u32) -> anyhow::Result<String>;

    fn shards(&self) -> u32;

    /// A planned hand-over.
    fn hand_over(&self, shard: u32) -> anyhow::Result<()>;

    /// Stops and starts one replica of a shard on a node.
    fn restart_replica(&self, shard: u32, node: &str) -> anyhow::Result<()>;

    /// Why the cluster is not in full health; `None` when it is.
    fn ailment(&self) -> Option<String>;
}

/// What a target may or may not be able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ability {
    /// Links one by one.
    CutLinks,
    /// All links of a process, no fewer.
    Isolate,
    SlowLinks,
    Inject,
    HandOver,
}

/// A death that nobody ordered.
#[derive(Clone, Debug)]
pub struct Death {
    pub name: String,
    pub at: Instant,
    pub status: String,
    pub last_words: String,
}

/// Something that the cluster itself has on record.
#[derive(Clone, Debug)]
pub struct ClusterEvent {
    pub unix_ms: i64,
    /// Ends in `failover` if it is one.
    pub kind: String,
    pub text: String,
}

/// A cluster that clients work on while it is hurt. Everything here blocks.
pub trait Subject: Target + Endpoint {
    /// Deaths that no fault explains.
    fn deaths(&self) -> Vec<Death>;

    /// All events since the cluster was founded.
    fn events(&self) -> anyhow::Result<Vec<ClusterEvent>>;

    /// Requests that wait in proxies for a shard without a primary.
    fn held_requests(&self) -> u64;
}
