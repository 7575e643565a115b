//! Delivers messages to the links whose clients are subscribed.
//!
//! A message of a channel is delivered by the primary of the channel's slot, in the order in which
//! its executor takes them; so every subscriber sees the messages of a channel in the same order.
//! Messages stand in the links' output before the answer to the publisher.

use super::Executor;
use crate::links::{begin_answer, finish_answer};
use holdfast_engine::Effect;
use holdfast_proto::events::EventClasses;
use holdfast_proto::frame::push::{Message, Source, Topic, push_message};
use holdfast_proto::frame::{AnswerStatus, ReadHeader, RecordHeader, flags};
use holdfast_proto::ids::{LogIndex, WorkerId};
use holdfast_proto::resp::encode;
use smallvec::SmallVec;

impl Executor {
    /// PUBLISH or SPUBLISH outside transactions.
    pub(super) fn publish_message(&mut self, to: WorkerId, read: &ReadHeader, body: &[u8]) {
        let mut reply = Vec::new();
        match Message::decode(body) {
            Ok(message) => {
                let resent = read.flags & flags::RESENT != 0;
                let clients = self.hand_out(message.channel, message.sharded, body, resent);
                encode::integer(&mut reply, clients as i64);
            }
            Err(_) => encode::error(&mut reply, "ERR Protocol error: malformed message"),
        }
        if let Some(out) = self.replies.output(to) {
            let start = begin_answer(out, read.tag);
            out.extend_from_slice(&reply);
            finish_answer(out, start, AnswerStatus::Reply);
        }
    }

    /// Tells what applying a record of the entry at `index` published and changed; `ordinal` counts
    /// the messages of the entry.
    pub(super) fn deliver_effects(
        &mut self,
        index: LogIndex,
        ordinal: &mut u64,
        record: &RecordHeader,
    ) {
        let mut effects = std::mem::take(&mut self.outcomes.effects);
        if self.primary {
            let shard = self.shared.shard;
            if self.watching_keys {
                let cause = if record.worker == WorkerId::SHARD { 0 } else { record.tag };
                self.deliver_invalidations(&effects, cause);
            }
            self.deliver(&effects, || {
                *ordinal += 1;
                Source::Log { shard, index: index.0, ordinal: *ordinal }
            });
        }
        effects.clear();
        self.outcomes.effects = effects;
    }

    /// Tells what reads noticed.
    pub(super) fn deliver_read_effects(&mut self) {
        let mut effects = Vec::new();
        self.engine.take_read_effects(&mut effects);
        self.deliver(&effects, || Source::Nowhere);
    }

    fn deliver(&mut self, effects: &[Effect], mut source: impl FnMut() -> Source) {
        let mut channel = Vec::new();
        for effect in effects {
            match effect {
                Effect::Published { channel, message, sharded } => {
                    self.send_message(source(), channel, message, *sharded);
                }
                Effect::Event { event, db, key, .. } => {
                    if self.events.intersects(EventClasses::KEYSPACE) {
                        channel.clear();
                        channel.extend_from_slice(format!("__keyspace@{db}__:").as_bytes());
                        channel.extend_from_slice(key);
                        self.send_message(source(), &channel, event.as_bytes(), false);
                    }
                    if self.events.intersects(EventClasses::KEYEVENT) {
                        let channel = format!("__keyevent@{db}__:{event}");
                        self.send_message(source(), channel.as_bytes(), key, false);
                    }
                }
                Effect::Changed { .. } | Effect::AllChanged => {}
            }
        }
    }

    fn send_message(&mut self, source: Source, channel: &[u8], payload: &[u8], sharded: bool) {
        let message = Message { source, sharded, resent: false, channel, payload };
        let mut encoded = Vec::with_capacity(message.encoded_len());
        message.encode(&mut encoded);
        self.hand_out(channel, sharded, &encoded, false);
    }

    /// Puts a message into the output of every link with a receiver; how many clients that are.
    fn hand_out(&mut self, channel: &[u8], sharded: bool, encoded: &[u8], resent: bool) -> u64 {
        let mut receivers = SmallVec::new();
        self.node.links.subscribers.receivers(channel, sharded, &mut receivers);
        if receivers.is_empty() {
            return 0;
        }
        // After the look at the registrations: a link that has one is then among the outputs.
        self.replies.refresh(&self.node.links);
        let mut clients = 0;
        for (worker, count) in receivers {
            if let Some(out) = self.replies.output(worker) {
                let start = push_message(out, encoded);
                if resent {
                    Message::mark_resent(&mut out[start..]);
                }
                clients += u64::from(count);
            }
        }
        clients
    }

    /// The PUBSUB commands; `args` begins with the subcommand.
    pub(super) fn pubsub(&self, args: &[&[u8]], reply: &mut Vec<u8>) {
        let subscribers = &self.node.links.subscribers;
        let subcommand = args[0].to_ascii_lowercase();
        let sharded = subcommand.starts_with(b"shard");
        match subcommand.as_slice() {
            b"channels" | b"shardchannels" if args.len() <= 2 => {
                let names = subscribers.channels(sharded, args.get(1).copied());
                encode::array(reply, names.len());
                for name in names {
                    encode::bulk(reply, &name);
                }
            }
            b"numsub" | b"shardnumsub" => {
                encode::array(reply, 2 * (args.len() - 1));
                for channel in &args[1..] {
                    encode::bulk(reply, channel);
                    encode::integer(reply, subscribers.count(sharded, channel) as i64);
                }
            }
            b"numpat" if args.len() == 1 => {
                encode::integer(reply, subscribers.names(Topic::Pattern) as i64);
            }
            _ => {
                let name = String::from_utf8_lossy(args[0]);
                let text = format!(
                    "ERR unknown subcommand or wrong number of arguments for '{name}'. Try PUBSUB HELP."
                );
                encode::error(reply, &text);
            }
        }
    }
}
