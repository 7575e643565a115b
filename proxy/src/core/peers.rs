//! Commands about clients, when the process has several workers: each worker knows its own clients
//! only, so the command is carried out by all of them and the answers become one.

use super::local::{LocalCommand, is_word};
use super::{Action, Stats, WorkerCore};
use bytes::{Bytes, BytesMut};
use holdfast_proto::resp::reply::{self, Value};
use holdfast_proto::resp::{Args, RawRequest, encode};

/// A command that waits for the other workers.
pub(super) struct PeerAsk {
    pub(super) client: u32,
    pub(super) generation: u32,
    pub(super) reply: u32,
    pub(super) resp3: bool,
    pub(super) how: Merge,
    pub(super) own: Bytes,
}

/// How the workers' answers become one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Merge {
    /// Texts, one after the other.
    Join,
    /// Numbers, added; without a number (CLIENT KILL addr) the best of the answers.
    Sum,
    /// The answers are all alike.
    Own,
    /// Lists, one after the other.
    Concat,
}

/// Does the command concern the clients of every worker?
pub(super) fn merge_of(request: &RawRequest) -> Option<Merge> {
    if request.len() < 2 {
        return None;
    }
    let (name, sub) = (request.arg(0), request.arg(1));
    if is_word(name, "config") {
        return is_word(sub, "resetstat").then_some(Merge::Own);
    }
    if is_word(name, "acl") && is_word(sub, "log") {
        let reset = request.len() == 3 && is_word(request.arg(2), "reset");
        return Some(if reset { Merge::Own } else { Merge::Concat });
    }
    if !is_word(name, "client") {
        return None;
    }
    match sub.to_ascii_lowercase().as_slice() {
        b"list" => Some(Merge::Join),
        b"kill" | b"unblock" => Some(Merge::Sum),
        b"pause" | b"unpause" => Some(Merge::Own),
        _ => None,
    }
}

impl WorkerCore {
    /// Runs the command here and asks the other workers; the client waits for all.
    pub(super) fn ask_peers(
        &mut self,
        index: u32,
        request: &RawRequest,
        run: LocalCommand,
        how: Merge,
    ) {
        let mut own = BytesMut::new();
        run(self, index, request, &mut own);
        let Some(client) = self.clients.get_mut(index) else { return };
        if own.first() == Some(&b'-') && how != Merge::Sum {
            return client.reply_now(|out| out.extend_from_slice(&own));
        }
        let ask = PeerAsk {
            client: index,
            generation: client.generation,
            reply: client.expect_reply(),
            resp3: client.resp3,
            how,
            own: own.freeze(),
        };
        let resp3 = ask.resp3 && how == Merge::Concat;
        let ask = self.peer_asks.insert(ask);
        let request = if resp3 { in_resp3(request) } else { request.raw.clone() };
        self.actions.push(Action::AskPeers { ask, request });
    }

    /// Another worker's client sent a command that [`Action::AskPeers`] passed on.
    pub fn answer_peer(&mut self, raw: &Bytes, now: super::Now) -> Bytes {
        /// No client has this index.
        const NOBODY: u32 = u32::MAX;
        self.set_now(now);
        let mut reply = BytesMut::new();
        if let Ok(args) = Args::parse(raw) {
            let request = RawRequest { raw: raw.clone(), args };
            if let Some(run) = super::local::run_of(request.arg(0)) {
                run(self, NOBODY, &request, &mut reply);
            }
        }
        self.settle();
        reply.freeze()
    }

    /// The answers of the other workers.
    pub fn peers_answered(&mut self, ask: usize, answers: &[Bytes], now: super::Now) {
        self.set_now(now);
        let Some(ask) = self.peer_asks.try_remove(ask) else { return };
        if self.clients.of_generation(ask.client, ask.generation).is_some() {
            self.answer_client(ask.client, ask.reply, &merged(&ask, answers));
        }
        self.settle();
    }

    /// What the other workers counted, for INFO.
    pub fn set_peer_stats(&mut self, stats: Stats) {
        self.peer_stats = stats;
    }
}

/// For a list of maps: the other workers do not know the client, so its protocol travels along as
/// one more argument.
fn in_resp3(request: &RawRequest) -> Bytes {
    let mut raw = BytesMut::with_capacity(request.raw.len() + 16);
    let args: Vec<&[u8]> = request.iter().chain([RESP3]).collect();
    encode::command(&mut raw, args.into_iter());
    raw.freeze()
}

/// See [`in_resp3`].
pub(super) const RESP3: &[u8] = b"RESP3";

fn merged(ask: &PeerAsk, answers: &[Bytes]) -> Bytes {
    let all = || std::iter::once(&ask.own).chain(answers).filter_map(|raw| reply::parse(raw).ok());
    let mut out = BytesMut::new();
    match ask.how {
        Merge::Own => return ask.own.clone(),
        Merge::Concat => {
            let parts: Vec<&Bytes> = std::iter::once(&ask.own).chain(answers).collect();
            return super::scatter::merge_join(&parts);
        }
        Merge::Join => {
            let mut text = Vec::new();
            for part in all() {
                text.extend_from_slice(part.as_bytes().unwrap_or_default());
            }
            encode::verbatim(&mut out, b"txt", &text, ask.resp3);
        }
        Merge::Sum => {
            let numbers: Vec<i64> = all()
                .filter_map(|part| if let Value::Integer(n) = part { Some(n) } else { None })
                .collect();
            if numbers.is_empty() {
                return match all().any(|part| part.is_ok()) {
                    true => Bytes::from_static(encode::OK),
                    false => ask.own.clone(),
                };
            }
            encode::integer(&mut out, numbers.iter().sum());
        }
    }
    out.freeze()
}
