//! Wire contracts of Holdfast: what crosses a process boundary, and nothing that decides anything.
//!
//! In reading order: [`ids`] and [`slot`] are the vocabulary; [`frame`] is the link protocol
//! between proxies and nodes and the command record that is also the unit of the replicated log;
//! [`resp`] is the Redis protocol; [`command`] is the table of every Redis 7.2 command and
//! [`parameters`] that of CONFIG's parameters; [`acl`] says what users may do, [`placement`] which keys
//! share a slot by rule; [`sha1`] names scripts; [`sentinel_client`] calls the sentinels' service and
//! follows the cluster's topology; [`settings`] is what all configuration files have in common; [`tcp`]
//! how soon a broken path between two processes is noticed;
//! [`v1`] holds the gRPC services and messages generated from `proto/holdfast.proto`.

#![forbid(unsafe_code)]

pub mod acl;
pub mod bugs;
pub mod command;
pub mod events;
pub mod frame;
pub mod glob;
pub mod ids;
pub mod parameters;
pub mod placement;
pub mod resp;
pub mod sentinel_client;
pub mod settings;
pub mod sha1;
pub mod slot;
pub mod tcp;

/// gRPC services and messages (generated from `proto/holdfast.proto`).
#[allow(clippy::all, unreachable_pub, missing_docs)]
pub mod v1 {
    tonic::include_proto!("holdfast.v1");
}
