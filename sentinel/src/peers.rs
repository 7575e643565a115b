//! Messages between the sentinels: their raft ids are their sentinel ids.

use std::collections::BTreeMap;
use std::net::TcpListener;

use bytes::Bytes;
use crossbeam_channel::Sender;
use holdfast_consensus::transport::{Transport, TransportConfig, TransportEvents};
use holdfast_proto::ids::ShardId;
use holdfast_proto::v1;

use crate::config::Config;
use crate::driver::SendMessages;
use crate::group::Input;
use holdfast_consensus::clock;

/// Passes on what the transport hears. A full queue drops: raft repeats.
struct Inbox(Sender<Input>);

impl TransportEvents for Inbox {
    fn received(&self, _from: u64, messages: Vec<(ShardId, v1::RaftMessage)>) {
        for (shard, message) in messages {
            if shard == ShardId::METADATA {
                let _ = self.0.try_send(Input::Message(message));
            }
        }
    }

    fn unreachable(&self, sentinel: u64) {
        let _ = self.0.try_send(Input::Unreachable(sentinel));
    }
}

/// Listens for the others and dials them until the transport is dropped.
pub(crate) fn start(
    config: &Config,
    secret: [u8; 32],
    listener: TcpListener,
    inputs: Sender<Input>,
) -> std::io::Result<(Transport, SendMessages)> {
    let cluster_id = Bytes::copy_from_slice(&config.cluster_id.0);
    let secret = Bytes::copy_from_slice(&secret);
    let options = TransportConfig::new(cluster_id, secret, config.id, clock::wall_us());
    let transport = Transport::start(options, listener, Inbox(inputs))?;
    let handle = transport.handle();
    let others: BTreeMap<u64, String> =
        config.members.iter().map(|m| (m.id, m.peer_addr.clone())).collect();
    handle.set_peers(&others);
    let send = move |messages: Vec<v1::RaftMessage>| {
        for message in messages {
            handle.send(message.to, ShardId::METADATA, message);
        }
    };
    Ok((transport, Box::new(send)))
}
