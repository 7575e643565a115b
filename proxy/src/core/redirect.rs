//! CLIENT TRACKING with REDIRECT, where the client that is to be told belongs to another worker.
//!
//! A client's id names its proxy and worker, so it is known whom to ask and to tell. Workers of one
//! process reach each other through channels that lose nothing. Clients of other proxies are out of
//! reach: an invalidation that was lost between proxies would leave a client with an old copy.

use super::client::Stall;
use super::peers::{Merge, PeerAsk};
use super::{Action, WorkerCore};
use bytes::{Bytes, BytesMut};
use holdfast_proto::resp::{Args, RawRequest, encode};

/// Between workers of one proxy. Clients are named by id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redirected {
    /// Is there a client `target`? Its worker answers [`Redirected::Known`].
    Ask {
        ask: usize,
        source: u64,
        target: u64,
    },
    Known {
        ask: usize,
        source: u64,
        exists: bool,
    },
    /// Tell `target` to forget what `source` has read; all of it if `keys` is empty.
    Forget {
        source: u64,
        target: u64,
        keys: Vec<Bytes>,
    },
    /// There is no such client any more.
    Broken {
        source: u64,
    },
}

impl WorkerCore {
    /// Whether this id can only be that of a client of another worker of this proxy.
    pub(super) fn is_of_other_worker(&self, id: u64) -> bool {
        let workers = u64::from(self.config.worker_count.max(1));
        let worker = (id & super::CLIENT_COUNT_MASK) % workers;
        id >> super::CLIENT_COUNT_BITS == self.config.proxy_id & 0xffff
            && worker != u64::from(self.config.worker_index)
    }

    /// CLIENT TRACKING that names a client of another worker: asks that worker; the client waits.
    /// `false`: it is another command.
    pub(super) fn asked_for_target(&mut self, index: u32, request: &RawRequest) -> bool {
        let Some(target) = self.redirect_elsewhere(request) else { return false };
        let Some(client) = self.clients.get_mut(index) else { return false };
        let reply = client.expect_reply();
        // What it reads next is tracked.
        client.stall = Stall::Reply(reply);
        let (generation, resp3, source) = (client.generation, client.resp3, client.id);
        let own = request.raw.clone();
        let ask = PeerAsk { client: index, generation, reply, resp3, how: Merge::Own, own };
        let ask = self.peer_asks.insert(ask);
        self.actions.push(Action::Redirect(Redirected::Ask { ask, source, target }));
        true
    }

    /// What another worker has to say.
    pub fn redirected(&mut self, message: Redirected, now: super::Now) {
        self.set_now(now);
        match message {
            Redirected::Ask { ask, source, target } => {
                if !self.is_of_other_worker(target) {
                    let exists = self.clients.by_id(target).is_some();
                    let known = Redirected::Known { ask, source, exists };
                    self.actions.push(Action::Redirect(known));
                }
            }
            Redirected::Known { ask, source, exists } => {
                if !self.is_of_other_worker(source) {
                    self.finish_tracking(ask, exists);
                }
            }
            Redirected::Forget { source, target, keys } => match self.clients.by_id(target) {
                Some(target) => self.tell_to_forget(target, true, &keys),
                None if self.is_of_other_worker(target) => {}
                None => self.actions.push(Action::Redirect(Redirected::Broken { source })),
            },
            Redirected::Broken { source } => {
                if let Some(index) = self.clients.by_id(source) {
                    self.redirection_broke(index);
                }
            }
        }
        self.settle();
    }

    /// The other worker has said whether the client is there.
    fn finish_tracking(&mut self, ask: usize, exists: bool) {
        let Some(ask) = self.peer_asks.try_remove(ask) else { return };
        if self.clients.of_generation(ask.client, ask.generation).is_none() {
            return;
        }
        let mut reply = BytesMut::new();
        if let Ok(args) = Args::parse(&ask.own) {
            let request = RawRequest { raw: ask.own, args };
            match self.set_tracking(ask.client, &request, exists) {
                Ok(()) => encode::ok(&mut reply),
                Err(text) => encode::error(&mut reply, &text),
            }
        }
        self.answer_client(ask.client, ask.reply, &reply);
    }
}
