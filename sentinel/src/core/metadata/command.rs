//! Entries of the sentinels' log. Tags are part of the disk format: never reuse one.

use holdfast_proto::v1;

/// One entry: who it is about is inside the command, when it was proposed is here.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LogRecord {
    /// Proposer's wall clock, ms since the Unix epoch; apply makes it monotone.
    #[prost(uint64, tag = "1")]
    pub time_ms: u64,
    #[prost(oneof = "Command", tags = "2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16")]
    pub command: Option<Command>,
}

/// Every change of the metadata.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Command {
    /// First of all: identity and specification of the cluster. Once.
    #[prost(message, tag = "2")]
    Found(Found),
    /// A sentinel has become leader of the group.
    #[prost(message, tag = "3")]
    LeaderIs(LeaderIs),
    #[prost(message, tag = "4")]
    RegisterNode(RegisterNode),
    /// Creates all shards on these nodes. Once.
    #[prost(message, tag = "5")]
    CreateShards(CreateShards),
    /// A replica serves as primary; the greatest term wins.
    #[prost(message, tag = "6")]
    PrimaryIs(PrimaryIs),
    #[prost(message, tag = "7")]
    SetHealth(SetHealth),
    #[prost(message, tag = "8")]
    RegisterProxy(RegisterProxy),
    /// Ends a proxy and all its workers, whose ids are never given again.
    #[prost(message, tag = "9")]
    RetireProxy(RetireProxy),
    #[prost(message, tag = "10")]
    SetSettings(SetSettings),
    /// Takes a replica out and puts a learner with a new raft id in its place.
    #[prost(message, tag = "11")]
    ReplaceReplica(ReplaceReplica),
    /// A learner has become a voter of its shard.
    #[prost(message, tag = "12")]
    PromoteReplica(PromoteReplica),
    /// Adds a failover and its figures to the history.
    #[prost(message, tag = "13")]
    RecordFailover(RecordFailover),
    /// What proxies saw of a failover in the history.
    #[prost(message, tag = "14")]
    AmendFailover(AmendFailover),
    #[prost(message, tag = "15")]
    RecordEvent(RecordEvent),
    /// Changes ACL users that are as expected.
    #[prost(message, tag = "16")]
    ChangeUsers(ChangeUsers),
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Found {
    #[prost(bytes = "bytes", tag = "1")]
    pub cluster_id: bytes::Bytes,
    #[prost(message, optional, tag = "2")]
    pub spec: Option<v1::ClusterSpec>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct LeaderIs {
    #[prost(uint64, tag = "1")]
    pub sentinel: u64,
    /// Addresses of the whole group as the new leader has them configured.
    #[prost(message, repeated, tag = "2")]
    pub sentinels: Vec<v1::SentinelInfo>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct RegisterNode {
    /// id 0: a new node, unless the instance is known.
    #[prost(message, optional, tag = "1")]
    pub node: Option<v1::NodeInfo>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct CreateShards {
    /// One per shard, in the order of shard ids from 1.
    #[prost(message, repeated, tag = "1")]
    pub shards: Vec<PlacedShard>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct PlacedShard {
    /// Distinct nodes; the first one is preferred as primary.
    #[prost(uint64, repeated, tag = "1")]
    pub nodes: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct PrimaryIs {
    #[prost(uint32, tag = "1")]
    pub shard: u32,
    #[prost(uint64, tag = "2")]
    pub term: u64,
    #[prost(uint64, tag = "3")]
    pub node: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct SetHealth {
    #[prost(uint64, tag = "1")]
    pub node: u64,
    #[prost(enumeration = "v1::NodeHealth", tag = "2")]
    pub health: i32,
    /// The incarnation that the verdict is about; a later one makes "down" stale.
    #[prost(uint64, tag = "3")]
    pub incarnation: u64,
    #[prost(string, tag = "4")]
    pub reason: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct RegisterProxy {
    #[prost(string, tag = "1")]
    pub client_addr: String,
    #[prost(string, tag = "2")]
    pub admin_addr: String,
    #[prost(uint32, tag = "3")]
    pub workers: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct RetireProxy {
    #[prost(uint64, tag = "1")]
    pub proxy: u64,
    #[prost(string, tag = "2")]
    pub reason: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct SetSettings {
    #[prost(btree_map = "string, string", tag = "1")]
    pub settings: std::collections::BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ReplaceReplica {
    #[prost(uint32, tag = "1")]
    pub shard: u32,
    #[prost(uint64, tag = "2")]
    pub expected_epoch: u64,
    #[prost(uint64, tag = "3")]
    pub old_raft_id: u64,
    /// Where the new replica lives; may be the node of the old one.
    #[prost(uint64, tag = "4")]
    pub node: u64,
    #[prost(string, tag = "5")]
    pub reason: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct PromoteReplica {
    #[prost(uint32, tag = "1")]
    pub shard: u32,
    #[prost(uint64, tag = "2")]
    pub expected_epoch: u64,
    #[prost(uint64, tag = "3")]
    pub raft_id: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct RecordFailover {
    #[prost(message, optional, tag = "1")]
    pub report: Option<v1::FailoverReport>,
    /// Wall clock when the old primary was last seen alive: what the report's times count from.
    #[prost(uint64, tag = "2")]
    pub last_alive_ms: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct AmendFailover {
    #[prost(message, optional, tag = "1")]
    pub seen: Option<v1::ProxyFailoverReport>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct RecordEvent {
    #[prost(string, tag = "1")]
    pub kind: String,
    #[prost(uint32, tag = "2")]
    pub shard: u32,
    #[prost(uint64, tag = "3")]
    pub node: u64,
    #[prost(string, tag = "4")]
    pub text: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ChangeUsers {
    #[prost(message, repeated, tag = "1")]
    pub changes: Vec<v1::UserChange>,
}
