//! Subscriptions of this worker's clients, and messages on their way to and from them.
//!
//! The worker registers on each link, whatever shards the node leads, which names its clients are
//! subscribed to and how many clients each has; so a failover changes nothing here, and a link that
//! connects again is told everything again. A subscription counts from the moment when every node
//! with a link has confirmed it: then the client gets its reply, and from then on it receives
//! messages.
//!
//! PUBLISH goes to the primary of the channel's slot as a read with an effect: it may be sent again
//! after a failover, and the receiving workers drop what they have had ([`seen`]).

mod limits;
mod seen;

use super::client::{Client, Stall};
use super::link::LinkState;
use super::request::{Handle, Kind};
use super::session::Resolved;
use super::{WorkerCore, respond};
use bytes::{Bytes, BytesMut};
use holdfast_proto::frame::push::{Message, Registration, Source, Topic};
use holdfast_proto::frame::{ReadOp, Request as Frame};
use holdfast_proto::glob;
use holdfast_proto::resp::{RawRequest, encode};
use holdfast_proto::slot::Slot;
use limits::OutputLimits;
use seen::Seen;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A subscription is confirmed to its client after this long at the latest, even if a node has not
/// taken note of it: one that cannot answer for a second is not going to publish either.
const CONFIRM_AFTER_US: u64 = 1_000_000;
/// Registrations are sent in frames of about this size.
const REGISTER_BYTES: usize = 256 * 1024;

/// The commands of this module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PushCommand {
    /// SUBSCRIBE, UNSUBSCRIBE and their kin.
    Subscription,
    Publish {
        sharded: bool,
    },
    /// PUBSUB: any primary knows.
    Introspect,
}

/// What one client is subscribed to.
#[derive(Default)]
pub(crate) struct Subscriptions {
    names: [BTreeSet<Bytes>; Topic::ALL.len()],
    /// Since when its unread output is over the soft limit.
    slow_since_us: Option<u64>,
}

impl Subscriptions {
    pub(crate) fn count(&self, topic: Topic) -> usize {
        self.names[topic as usize].len()
    }

    fn is_empty(&self) -> bool {
        self.names.iter().all(BTreeSet::is_empty)
    }
}

/// All of a worker.
pub(crate) struct PubSub {
    topics: [BTreeMap<Bytes, Subscribers>; Topic::ALL.len()],
    /// Names whose number of clients changed since the last registration.
    changed: Vec<(Topic, Bytes)>,
    /// Of the last registration sent.
    number: u64,
    /// Up to here all nodes have taken note; at most `number`.
    confirmed: u64,
    /// Since when `confirmed` is behind `number`.
    unconfirmed_since_us: Option<u64>,
    /// Replies to SUBSCRIBE that wait for a confirmation, in the order of their numbers.
    waiting: VecDeque<Waiting>,
    /// Names this worker as a publisher, for as long as the process lives.
    publisher: u64,
    published: u64,
    /// Publications that may still be sent again, in the order of their numbers.
    in_flight: VecDeque<(u64, Handle)>,
    seen: Seen,
    limits: OutputLimits,
    /// Clients over the soft limit.
    slow: BTreeSet<u32>,
    targets: Vec<(u32, u32)>,
}

/// The clients of one name.
#[derive(Default)]
struct Subscribers {
    clients: BTreeMap<u32, Subscriber>,
    /// It stands in [`PubSub::changed`].
    changed: bool,
}

#[derive(Clone, Copy)]
struct Subscriber {
    generation: u32,
    /// The registration that announces it.
    number: u64,
}

struct Waiting {
    number: u64,
    client: u32,
    generation: u32,
    reply: u32,
    bytes: Bytes,
}

impl PubSub {
    pub(super) fn new(publisher: u64) -> Self {
        Self {
            topics: Default::default(),
            changed: Vec::new(),
            number: 0,
            confirmed: 0,
            unconfirmed_since_us: None,
            waiting: VecDeque::new(),
            publisher,
            published: 0,
            in_flight: VecDeque::new(),
            seen: Seen::default(),
            limits: OutputLimits::default(),
            slow: BTreeSet::new(),
            targets: Vec::new(),
        }
    }

    /// The number of the registration that will announce what changed so far.
    fn announcing(&self) -> u64 {
        self.number + u64::from(!self.changed.is_empty())
    }

    fn note_change(&mut self, topic: Topic, name: &Bytes) -> &mut Subscribers {
        let subscribers = self.topics[topic as usize].entry(name.clone()).or_default();
        if !subscribers.changed {
            subscribers.changed = true;
            self.changed.push((topic, name.clone()));
        }
        subscribers
    }

    pub(super) fn add(&mut self, topic: Topic, name: &Bytes, client: u32, generation: u32) {
        let number = self.number + 1;
        let subscriber = Subscriber { generation, number };
        self.note_change(topic, name).clients.insert(client, subscriber);
    }

    pub(super) fn remove(&mut self, topic: Topic, name: &Bytes, client: u32) {
        self.note_change(topic, name).clients.remove(&client);
    }

    /// Entries for all that changed; names without clients are forgotten.
    fn take_changes(&mut self) -> BytesMut {
        let mut entries = BytesMut::new();
        for (topic, name) in std::mem::take(&mut self.changed) {
            let topics = &mut self.topics[topic as usize];
            let Some(subscribers) = topics.get_mut(&name) else { continue };
            subscribers.changed = false;
            let clients = subscribers.clients.len() as u32;
            Registration { topic, name: &name, clients }.encode(&mut entries);
            if clients == 0 {
                topics.remove(&name);
            }
        }
        entries
    }

    /// The clients to whom a name's messages go now.
    fn collect(&self, topic: Topic, name: &[u8], out: &mut Vec<(u32, u32)>) {
        out.clear();
        let Some(subscribers) = self.topics[topic as usize].get(name) else { return };
        let active = subscribers.clients.iter().filter(|(_, s)| s.number <= self.confirmed);
        out.extend(active.map(|(&client, subscriber)| (client, subscriber.generation)));
    }

    /// The smallest number that may be sent again; at most the next one.
    fn oldest_in_flight(&mut self, requests: &super::request::Requests) -> u64 {
        while let Some((_, handle)) = self.in_flight.front()
            && requests.resolve(*handle).is_none()
        {
            self.in_flight.pop_front();
        }
        self.in_flight.front().map_or(self.published + 1, |(number, _)| *number)
    }
}

impl Client {
    /// Subscriptions of a kind, as CLIENT LIST shows them.
    pub(crate) fn subscribed(&self, topic: Topic) -> usize {
        self.subscriptions.as_ref().map_or(0, |all| all.count(topic))
    }

    /// In RESP2 a client with subscriptions may do little else.
    pub(crate) fn is_subscriber(&self) -> bool {
        self.subscriptions.is_some()
    }

    /// The count in the reply to (UN)SUBSCRIBE: of shard channels, or of everything else.
    fn shown_count(&self, topic: Topic) -> i64 {
        let count = |topic| self.subscribed(topic) as i64;
        match topic {
            Topic::ShardChannel => count(topic),
            _ => count(Topic::Channel) + count(Topic::Pattern),
        }
    }
}

/// The error for a command that a subscribed RESP2 client may not run; `None`: it may.
pub(crate) fn confinement_error(client: &Client, name: &str) -> Option<String> {
    if client.resp3 || !client.is_subscriber() {
        return None;
    }
    let allowed = matches!(
        name,
        "subscribe" | "psubscribe" | "ssubscribe" | "unsubscribe" | "punsubscribe" | "sunsubscribe"
    ) || matches!(name, "ping" | "quit" | "reset");
    (!allowed).then(|| {
        format!(
            "ERR Can't execute '{name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context"
        )
    })
}

/// Runs (UN)SUBSCRIBE and its kin; the reply is appended whatever the nodes know yet.
pub(crate) fn run_subscription(
    core: &mut WorkerCore,
    index: u32,
    request: &RawRequest,
    out: &mut BytesMut,
) {
    let name = request.arg(0).to_ascii_lowercase();
    let (topic, rest) = match name[0] {
        b'p' => (Topic::Pattern, &name[1..]),
        b's' if name[1] == b's' || name.starts_with(b"sun") => (Topic::ShardChannel, &name[1..]),
        _ => (Topic::Channel, &name[..]),
    };
    if rest.starts_with(b"un") {
        core.unsubscribe(index, topic, request, &name, out);
    } else {
        core.subscribe(index, topic, request, &name, out);
    }
}

impl WorkerCore {
    pub(crate) fn handle_push_command(
        &mut self,
        index: u32,
        resolved: Resolved,
        command: PushCommand,
        request: RawRequest,
    ) {
        match command {
            PushCommand::Subscription => self.handle_subscription(index, resolved, &request),
            PushCommand::Publish { sharded } => self.publish(index, resolved, sharded, request),
            PushCommand::Introspect if request.arg(1).eq_ignore_ascii_case(b"help") => {
                let mut out = BytesMut::new();
                pubsub_help(self, index, &request, &mut out);
                self.reply_with(index, |reply| reply.extend_from_slice(&out));
            }
            PushCommand::Introspect => self.route_data(index, resolved, request),
        }
    }

    fn handle_subscription(&mut self, index: u32, resolved: Resolved, request: &RawRequest) {
        self.stats.commands += 1;
        self.stats.count_local(resolved.index);
        let mut out = BytesMut::new();
        run_subscription(self, index, request, &mut out);
        let ends = resolved.spec.name.contains("unsub");
        let number = self.pubsub.announcing();
        let Some(client) = self.clients.get_mut(index) else { return };
        if ends || number <= self.pubsub.confirmed {
            client.reply_pushed(&out);
            return self.mark_client(index);
        }
        let reply = client.expect_unmuted_reply();
        let generation = client.generation;
        let bytes = out.freeze();
        self.pubsub.waiting.push_back(Waiting { number, client: index, generation, reply, bytes });
    }

    fn subscribe(
        &mut self,
        index: u32,
        topic: Topic,
        request: &RawRequest,
        verb: &[u8],
        out: &mut BytesMut,
    ) {
        for name in request.iter().skip(1) {
            let Some(client) = self.clients.get_mut(index) else { return };
            let all = client.subscriptions.get_or_insert_default();
            if !all.names[topic as usize].contains(name) {
                let name = Bytes::copy_from_slice(name);
                all.names[topic as usize].insert(name.clone());
                self.pubsub.add(topic, &name, index, client.generation);
            }
            encode_change(out, client, verb, Some(name), topic);
        }
    }

    fn unsubscribe(
        &mut self,
        index: u32,
        topic: Topic,
        request: &RawRequest,
        verb: &[u8],
        out: &mut BytesMut,
    ) {
        let Some(client) = self.clients.get_mut(index) else { return };
        let mut names: Vec<Bytes> = request.iter().skip(1).map(Bytes::copy_from_slice).collect();
        if names.is_empty() {
            let all = client.subscriptions.as_ref();
            names = all.into_iter().flat_map(|all| all.names[topic as usize].clone()).collect();
            if names.is_empty() {
                encode_change(out, client, verb, None, topic);
            }
        }
        for name in names {
            if let Some(all) = &mut client.subscriptions
                && all.names[topic as usize].remove(&name)
            {
                self.pubsub.remove(topic, &name, index);
            }
            encode_change(out, client, verb, Some(&name), topic);
        }
        if client.subscriptions.as_ref().is_some_and(|all| all.is_empty()) {
            client.subscriptions = None;
        }
    }

    /// RESET, or the client is gone: its subscriptions end without a word.
    pub(crate) fn forget_subscriptions(
        &mut self,
        index: u32,
        subscriptions: Option<Box<Subscriptions>>,
    ) {
        let Some(subscriptions) = subscriptions else { return };
        self.pubsub.slow.remove(&index);
        for topic in Topic::ALL {
            for name in &subscriptions.names[topic as usize] {
                self.pubsub.remove(topic, name, index);
            }
        }
    }

    // ---- registration ----------------------------------------------------------------------------

    /// Tells the nodes what changed since the last time.
    pub(super) fn register_changes(&mut self) {
        if self.pubsub.changed.is_empty() {
            return;
        }
        let entries = self.pubsub.take_changes().freeze();
        self.pubsub.number += 1;
        self.pubsub.unconfirmed_since_us.get_or_insert(self.now_us);
        let frame = Frame::Register { number: self.pubsub.number, entries };
        for link in 0..self.links.len() {
            if self.links[link].state == LinkState::Ready {
                frame.encode(&mut self.links[link].out);
                self.mark_link(link);
            }
        }
    }

    /// Tells a node everything: its link is new.
    pub(super) fn register_everything(&mut self, link: usize) {
        if self.pubsub.number == 0 {
            return;
        }
        let mut entries = BytesMut::new();
        for topic in Topic::ALL {
            for (name, subscribers) in &self.pubsub.topics[topic as usize] {
                let clients = subscribers.clients.len() as u32;
                Registration { topic, name, clients }.encode(&mut entries);
                if entries.len() >= REGISTER_BYTES {
                    let entries = entries.split().freeze();
                    // Not the last one: its confirmation says nothing.
                    Frame::Register { number: 0, entries }.encode(&mut self.links[link].out);
                }
            }
        }
        let frame = Frame::Register { number: self.pubsub.number, entries: entries.freeze() };
        frame.encode(&mut self.links[link].out);
        self.mark_link(link);
    }

    /// A node has taken note of a registration.
    pub(super) fn handle_registered(&mut self, link: usize, number: u64) {
        let link = &mut self.links[link];
        link.registered = link.registered.max(number);
        self.confirm_subscriptions();
    }

    /// Answers the SUBSCRIBEs that all nodes know of.
    pub(super) fn confirm_subscriptions(&mut self) {
        let Some(since_us) = self.pubsub.unconfirmed_since_us else { return };
        let connected = self.links.iter().filter(|l| l.state != LinkState::Down && !l.stuck);
        let mut confirmed =
            connected.map(|link| link.registered).min().unwrap_or(self.pubsub.confirmed);
        if self.now_us >= since_us + CONFIRM_AFTER_US {
            confirmed = self.pubsub.number;
        }
        self.pubsub.confirmed = confirmed.max(self.pubsub.confirmed);
        if self.pubsub.confirmed >= self.pubsub.number {
            self.pubsub.unconfirmed_since_us = None;
        }
        while let Some(waiting) =
            self.pubsub.waiting.pop_front_if(|waiting| waiting.number <= self.pubsub.confirmed)
        {
            if self.clients.of_generation(waiting.client, waiting.generation).is_some() {
                self.answer_client(waiting.client, waiting.reply, &waiting.bytes);
            }
        }
    }

    // ---- messages --------------------------------------------------------------------------------

    fn publish(&mut self, index: u32, resolved: Resolved, sharded: bool, request: RawRequest) {
        let slot = Slot::of_key(request.arg(1));
        let Some(shard) = self.router.shard_of(slot) else {
            return self.reject(index, resolved.index, respond::SLOT_NOT_SERVED);
        };
        if self.has_no_room(shard) {
            return self.park_for_shard(index, shard, request);
        }
        if let Some(reply) = self.write_elsewhere(index, shard) {
            return self.park(index, request, Stall::Reply(reply));
        }
        let oldest = self.pubsub.oldest_in_flight(&self.requests);
        self.pubsub.published += 1;
        let number = self.pubsub.published;
        let message = Message {
            source: Source::Worker { worker: self.pubsub.publisher, number, oldest },
            sharded,
            resent: false,
            channel: request.arg(1),
            payload: request.arg(2),
        };
        let mut body = BytesMut::with_capacity(message.encoded_len());
        message.encode(&mut body);
        let kind = Kind::Read(ReadOp::Publish);
        let sent = self.submit_for(index, resolved.index, kind, shard, slot, body.freeze(), 0);
        if let Some((_, handle)) = sent {
            self.pubsub.in_flight.push_back((number, handle));
        }
    }

    /// Whoever gets a message sees what its publisher had written before: on the channel's shard
    /// the message waits for the client's writes there; here, for those to other shards. The reply
    /// to wait for, if there are any.
    fn write_elsewhere(&self, index: u32, shard: u32) -> Option<u32> {
        let client = self.clients.get(index)?;
        let open = client
            .last_writes
            .iter()
            .any(|write| write.shard != shard && self.requests.resolve(write.request).is_some());
        if open { client.last_outstanding() } else { None }
    }

    /// A message for some of this worker's clients.
    pub(super) fn handle_message(&mut self, encoded: &[u8]) {
        let Ok(message) = Message::decode(encoded) else {
            tracing::error!("a node sent a malformed message");
            return;
        };
        if !self.pubsub.seen.is_new(&message, self.now_us) {
            self.stats.messages_repeated += 1;
            return;
        }
        let topic = if message.sharded { Topic::ShardChannel } else { Topic::Channel };
        let mut targets = std::mem::take(&mut self.pubsub.targets);
        self.pubsub.collect(topic, message.channel, &mut targets);
        self.push_to(&targets, |out, resp3| encode_message(out, &message, resp3));
        if !message.sharded {
            let patterns = &self.pubsub.topics[Topic::Pattern as usize];
            let matching: Vec<Bytes> = patterns
                .keys()
                .filter(|pattern| glob::matches(pattern, message.channel))
                .cloned()
                .collect();
            for pattern in matching {
                self.pubsub.collect(Topic::Pattern, &pattern, &mut targets);
                self.push_to(&targets, |out, resp3| {
                    encode::push(out, 4, resp3);
                    encode::bulk(out, b"pmessage");
                    encode::bulk(out, &pattern);
                    encode::bulk(out, message.channel);
                    encode::bulk(out, message.payload);
                });
            }
        }
        self.pubsub.targets = targets;
    }

    /// Gives clients something that they did not ask for.
    fn push_to(&mut self, targets: &[(u32, u32)], write: impl Fn(&mut BytesMut, bool)) {
        let mut encoded = [None, None];
        for &(index, generation) in targets {
            let Some(client) = self.clients.of_generation(index, generation) else { continue };
            if client.cut {
                continue;
            }
            let resp3 = client.resp3;
            let bytes: &BytesMut = encoded[usize::from(resp3)].get_or_insert_with(|| {
                let mut out = BytesMut::new();
                write(&mut out, resp3);
                out
            });
            let backlog = client.push(bytes);
            self.stats.messages_delivered += 1;
            if backlog > self.pubsub.limits.soft_bytes.min(self.pubsub.limits.hard_bytes) {
                self.check_output(index, backlog);
            }
            self.mark_client(index);
        }
    }

    /// A subscriber reads too slowly: it is cut off at once at the hard limit, and some time after
    /// the soft one.
    fn check_output(&mut self, index: u32, backlog: usize) {
        let limits = self.pubsub.limits;
        let now_us = self.now_us;
        let Some(client) = self.clients.get_mut(index) else { return };
        let Some(subscriptions) = &mut client.subscriptions else { return };
        let since_us = *subscriptions.slow_since_us.get_or_insert(now_us);
        if backlog > limits.hard_bytes || now_us > since_us + limits.soft_us {
            tracing::debug!(client.addr = %client.addr, backlog, "slow subscriber cut off");
            client.cut = true;
            self.stats.subscribers_cut += 1;
        } else {
            self.pubsub.slow.insert(index);
        }
    }

    /// Time passes for confirmations, soft limits and what is known of messages.
    pub(super) fn tick_pubsub(&mut self) {
        self.confirm_subscriptions();
        for index in std::mem::take(&mut self.pubsub.slow) {
            let Some(client) = self.clients.get_mut(index) else { continue };
            if client.cut {
                continue;
            }
            let backlog = client.output.len();
            if backlog > self.pubsub.limits.soft_bytes {
                self.check_output(index, backlog);
                self.mark_client(index);
            } else if let Some(subscriptions) = &mut client.subscriptions {
                subscriptions.slow_since_us = None;
            }
        }
    }

    /// Takes over the settings.
    pub(super) fn configure_pubsub(&mut self) {
        let limits = self.setting("client-output-buffer-limit").map(OutputLimits::of);
        self.pubsub.limits = limits.unwrap_or_default();
    }
}

/// One element of the reply to (UN)SUBSCRIBE.
fn encode_change(
    out: &mut BytesMut,
    client: &Client,
    verb: &[u8],
    name: Option<&[u8]>,
    topic: Topic,
) {
    encode::push(out, 3, client.resp3);
    encode::bulk(out, verb);
    match name {
        Some(name) => encode::bulk(out, name),
        None => encode::null(out, client.resp3),
    }
    encode::integer(out, client.shown_count(topic));
}

fn encode_message(out: &mut BytesMut, message: &Message<'_>, resp3: bool) {
    encode::push(out, 3, resp3);
    encode::bulk(out, if message.sharded { b"smessage" } else { b"message" });
    encode::bulk(out, message.channel);
    encode::bulk(out, message.payload);
}

pub(crate) fn pubsub_help(_: &mut WorkerCore, _: u32, _: &RawRequest, out: &mut BytesMut) {
    super::local::help(
        out,
        &[
            "PUBSUB <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
            "CHANNELS [<pattern>]",
            "    Return the currently active channels matching a <pattern> (default: '*').",
            "NUMPAT",
            "    Return number of subscriptions to patterns.",
            "NUMSUB [<channel> ...]",
            "    Return the number of subscribers for the specified channels, excluding",
            "    pattern subscriptions(default: no channels).",
            "SHARDCHANNELS [<pattern>]",
            "    Return the currently active shard level channels matching a <pattern> (default: '*').",
            "SHARDNUMSUB [<shardchannel> ...]",
            "    Return the number of subscribers for the specified shard level channel(s)",
            "HELP",
            "    Prints this help.",
        ],
    );
}
