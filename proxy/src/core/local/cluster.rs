//! CLUSTER and SENTINEL: whoever asks where the data is, is told the proxy's own address, for every
//! slot and as the primary of every name. So cluster-aware and sentinel-aware clients work against
//! the one address, unmodified.

use super::connection::{help, unknown_subcommand};
use crate::core::WorkerCore;
use bytes::BytesMut;
use holdfast_proto::command;
use holdfast_proto::resp::{RawRequest, encode};
use holdfast_proto::slot::SLOT_COUNT;
use std::fmt::Write;

/// The name under which Sentinel clients know the cluster if they ask for all.
const MASTER_NAME: &str = "mymaster";

pub(super) fn cluster(core: &mut WorkerCore, index: u32, request: &RawRequest, out: &mut BytesMut) {
    let resp3 = core.clients.get(index).is_some_and(|client| client.resp3);
    match request.arg(1).to_ascii_lowercase().as_slice() {
        b"slots" => slots(core, out),
        b"shards" => shards(core, resp3, out),
        b"nodes" => encode::verbatim(out, b"txt", nodes(core).as_bytes(), resp3),
        b"info" => encode::verbatim(out, b"txt", info(core).as_bytes(), resp3),
        b"keyslot" => {
            let slot = core.placement.slot_of(core.db_of(index), request.arg(2));
            encode::integer(out, i64::from(slot.get()));
        }
        b"myid" | b"myshardid" => encode::bulk(out, core.cluster_node_id().as_bytes()),
        b"links" => encode::array(out, 0),
        b"help" => help(out, CLUSTER_HELP),
        _ if command::lookup(b"cluster")
            .is_some_and(|spec| command::lookup_sub(spec, request.arg(1)).is_some()) =>
        {
            encode::error(out, "ERR slots and nodes are managed by the cluster itself");
        }
        _ => unknown_subcommand("cluster", request, out),
    }
}

fn slots(core: &WorkerCore, out: &mut BytesMut) {
    encode::array(out, 1);
    encode::array(out, 3);
    encode::integer(out, 0);
    encode::integer(out, i64::from(SLOT_COUNT) - 1);
    encode::array(out, 4);
    encode::bulk(out, core.config.announce_host.as_bytes());
    encode::integer(out, i64::from(core.config.announce_port));
    encode::bulk(out, core.cluster_node_id().as_bytes());
    encode::array(out, 0);
}

fn shards(core: &WorkerCore, resp3: bool, out: &mut BytesMut) {
    let text = |out: &mut BytesMut, key: &str, value: &str| {
        encode::bulk(out, key.as_bytes());
        encode::bulk(out, value.as_bytes());
    };
    encode::array(out, 1);
    encode::map(out, 2, resp3);
    encode::bulk(out, b"slots");
    encode::array(out, 2);
    encode::integer(out, 0);
    encode::integer(out, i64::from(SLOT_COUNT) - 1);
    encode::bulk(out, b"nodes");
    encode::array(out, 1);
    let (tls, plain) = (core.config.tls_port, core.config.plain_port);
    let ports = usize::from(tls != 0) + usize::from(plain != 0);
    encode::map(out, 6 + ports, resp3);
    text(out, "id", &core.cluster_node_id());
    if plain != 0 {
        encode::bulk(out, b"port");
        encode::integer(out, i64::from(plain));
    }
    if tls != 0 {
        encode::bulk(out, b"tls-port");
        encode::integer(out, i64::from(core.config.announce_port));
    }
    text(out, "ip", &core.config.announce_host);
    text(out, "endpoint", &core.config.announce_host);
    text(out, "role", "master");
    encode::bulk(out, b"replication-offset");
    encode::integer(out, 0);
    text(out, "health", "online");
}

fn nodes(core: &WorkerCore) -> String {
    let (host, port) = (&core.config.announce_host, core.config.announce_port);
    format!(
        "{} {host}:{port}@{port} myself,master - 0 0 1 connected 0-{}\n",
        core.cluster_node_id(),
        SLOT_COUNT - 1
    )
}

fn info(core: &WorkerCore) -> String {
    let shards = core.router.serving_shards().len();
    let version = core.router.version;
    let mut text = String::new();
    let state = if shards == 0 { "fail" } else { "ok" };
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "cluster_enabled:0\r\ncluster_state:{state}\r\ncluster_slots_assigned:{SLOT_COUNT}\r\n\
         cluster_slots_ok:{SLOT_COUNT}\r\ncluster_slots_pfail:0\r\ncluster_slots_fail:0\r\n\
         cluster_known_nodes:1\r\ncluster_size:{shards}\r\ncluster_current_epoch:{version}\r\n\
         cluster_my_epoch:{version}\r\ncluster_stats_messages_sent:0\r\n\
         cluster_stats_messages_received:0\r\n"
    );
    text
}

impl WorkerCore {
    /// 40 hexadecimal digits, as a cluster client expects; the same from every proxy, because
    /// all of them are one endpoint.
    pub(super) fn cluster_node_id(&self) -> String {
        let mut id = String::with_capacity(40);
        for byte in self.config.cluster_id {
            let _ = write!(id, "{byte:02x}");
        }
        id.push_str("00000000");
        id
    }
}

/// The questions of Sentinel clients; the command is not part of a server's table.
pub(crate) fn sentinel(
    core: &mut WorkerCore,
    index: u32,
    request: &RawRequest,
    out: &mut BytesMut,
) {
    let resp3 = core.clients.get(index).is_some_and(|client| client.resp3);
    if request.len() < 2 {
        return encode::error(out, "ERR wrong number of arguments for 'sentinel' command");
    }
    match request.arg(1).to_ascii_lowercase().as_slice() {
        b"get-master-addr-by-name" => {
            encode::array(out, 2);
            encode::bulk(out, core.config.announce_host.as_bytes());
            encode::bulk(out, core.config.announce_port.to_string().as_bytes());
        }
        b"masters" => {
            encode::array(out, 1);
            master(core, MASTER_NAME.as_bytes(), resp3, out);
        }
        b"master" if request.len() == 3 => master(core, request.arg(2), resp3, out),
        b"replicas" | b"slaves" | b"sentinels" => encode::array(out, 0),
        b"myid" => encode::bulk(out, core.cluster_node_id().as_bytes()),
        b"ckquorum" => encode::simple(
            out,
            "OK 1 usable Sentinels. Quorum and failover authorization can be reached",
        ),
        b"is-master-down-by-addr" => {
            encode::array(out, 3);
            encode::integer(out, 0);
            encode::bulk(out, b"*");
            encode::integer(out, 0);
        }
        b"flushconfig" | b"reset" => encode::ok(out),
        b"failover" => encode::error(
            out,
            "ERR use `holdfast failover`: shards fail over one by one, unseen by clients",
        ),
        other => {
            let sub = String::from_utf8_lossy(other);
            let text = format!("ERR unknown subcommand '{sub}'. Try SENTINEL HELP.");
            encode::error(out, &text);
        }
    }
}

fn master(core: &WorkerCore, name: &[u8], resp3: bool, out: &mut BytesMut) {
    let port = core.config.announce_port.to_string();
    let id = core.cluster_node_id();
    let fields: [(&str, &[u8]); 14] = [
        ("name", name),
        ("ip", core.config.announce_host.as_bytes()),
        ("port", port.as_bytes()),
        ("runid", id.as_bytes()),
        ("flags", b"master"),
        ("link-pending-commands", b"0"),
        ("link-refcount", b"1"),
        ("last-ping-sent", b"0"),
        ("last-ok-ping-reply", b"0"),
        ("role-reported", b"master"),
        ("config-epoch", b"0"),
        ("num-slaves", b"0"),
        ("num-other-sentinels", b"0"),
        ("quorum", b"1"),
    ];
    encode::map(out, fields.len(), resp3);
    for (key, value) in fields {
        encode::bulk(out, key.as_bytes());
        encode::bulk(out, value);
    }
}

const CLUSTER_HELP: &[&str] = &[
    "CLUSTER <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "INFO",
    "    Return information about the cluster.",
    "KEYSLOT <key>",
    "    Return the hash slot for <key>.",
    "MYID",
    "    Return the node id.",
    "NODES",
    "    Return cluster configuration seen by node.",
    "SHARDS",
    "    Return information about slot range mappings and the nodes associated with them.",
    "SLOTS",
    "    Return information about slots range mappings.",
    "HELP",
    "    Print this help.",
];
