//! State of one link: the connection of this worker to one node.

use bytes::BytesMut;
use holdfast_proto::frame::{LINK_VERSION, Request as Frame};
use holdfast_proto::ids::{NodeId, WorkerId};

/// A ping goes out this often. A guess: four per second cost nothing.
pub(crate) const PING_INTERVAL_US: u64 = 250_000;
/// A link without a pong for this long is called stuck: its shards count as down for the hold
/// deadline. Long enough for a loaded machine, short against the deadline of 10 s.
pub(crate) const STUCK_AFTER_US: u64 = 1_000_000;

/// How far a link is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LinkState {
    Down,
    /// Connected, Hello written, no answer yet.
    Greeting,
    Ready,
}

/// One link.
pub(crate) struct Link {
    pub(crate) node: NodeId,
    /// host:port; empty when the node left the cluster.
    pub(crate) addr: String,
    pub(crate) state: LinkState,
    /// Bytes to be written.
    pub(crate) out: BytesMut,
    /// `out` has bytes that the shell was told about.
    pub(crate) dirty: bool,
    pub(crate) last_heard_us: u64,
    pub(crate) last_ping_us: u64,
    pub(crate) stuck: bool,
    nonce: u64,
    /// The last registration of subscriptions that the node has taken note of.
    pub(crate) registered: u64,
}

impl Link {
    pub(crate) fn new(node: NodeId, addr: String) -> Self {
        Self {
            node,
            addr,
            state: LinkState::Down,
            out: BytesMut::new(),
            dirty: false,
            last_heard_us: 0,
            last_ping_us: 0,
            stuck: false,
            nonce: 0,
            registered: 0,
        }
    }

    /// The connection stands: greets.
    pub(crate) fn greet(
        &mut self,
        now_us: u64,
        cluster_id: [u8; 16],
        secret: [u8; 32],
        worker: WorkerId,
    ) {
        self.out.clear();
        self.state = LinkState::Greeting;
        self.last_heard_us = now_us;
        self.last_ping_us = now_us;
        self.stuck = false;
        self.registered = 0;
        Frame::Hello { version: LINK_VERSION, cluster_id, secret, worker }.encode(&mut self.out);
    }

    pub(crate) fn lost(&mut self) {
        self.state = LinkState::Down;
        self.stuck = false;
        self.out = BytesMut::new();
    }

    /// Writes a ping if one is due; true if it did.
    pub(crate) fn ping_if_due(&mut self, now_us: u64) -> bool {
        if self.state != LinkState::Ready || now_us < self.last_ping_us + PING_INTERVAL_US {
            return false;
        }
        self.last_ping_us = now_us;
        self.nonce += 1;
        Frame::Ping { nonce: self.nonce }.encode(&mut self.out);
        true
    }

    pub(crate) fn is_silent(&self, now_us: u64) -> bool {
        self.state == LinkState::Ready && now_us > self.last_heard_us + STUCK_AFTER_US
    }
}
