//! Subscriptions and messages against scripted nodes.

use super::*;
use holdfast_proto::frame::ReadOp;
use holdfast_proto::frame::push::{Message, Source};

impl World {
    /// The nodes take note of everything registered so far; what they were told, by node.
    fn confirm(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        for link in 0..3 {
            self.received(link);
        }
        for (link, number, words) in std::mem::take(&mut self.registered) {
            self.push(link, Response::Registered { number });
            told.push(format!("{link}: {words}"));
        }
        told
    }

    fn subscribed(&mut self, commands: &str) -> ClientKey {
        let client = self.client();
        self.send(client, commands);
        self.confirm();
        self.told(client);
        client
    }

    fn message(&mut self, link: usize, number: u64, channel: &str, payload: &str) {
        let source = Source::Worker { worker: 77, number, oldest: 1 };
        self.message_of(link, source, false, channel, payload);
    }

    fn message_of(
        &mut self,
        link: usize,
        source: Source,
        sharded: bool,
        channel: &str,
        payload: &str,
    ) {
        let (channel, payload) = (channel.as_bytes(), payload.as_bytes());
        let mut message = BytesMut::new();
        Message { source, sharded, resent: false, channel, payload }.encode(&mut message);
        self.push(link, Response::Message { message: message.freeze() });
    }
}

/// Line ends as blanks, to be read.
fn line(text: &str) -> String {
    text.replace("\r\n", " ")
}

#[test]
fn a_subscription_is_confirmed_when_every_node_has_taken_note() {
    let mut world = World::new(1);
    let client = world.client();
    world.send(client, "SUBSCRIBE news a\nPSUBSCRIBE n*\nSSUBSCRIBE part");
    assert_eq!(world.told(client), "");
    // Messages before that are not for this client: it is not subscribed yet.
    world.message(0, 1, "news", "early");
    for link in 0..3 {
        world.received(link);
    }
    let (_, number, words) = world.registered[0].clone();
    assert_eq!(words, "channel news 1, channel a 1, pattern n* 1, shardchannel part 1");
    world.push(0, Response::Registered { number });
    world.push(1, Response::Registered { number });
    assert_eq!(world.told(client), "");
    world.push(2, Response::Registered { number });
    let told = line(&world.told(client));
    assert_eq!(
        told,
        "*3 $9 subscribe $4 news :1 *3 $9 subscribe $1 a :2 *3 $10 psubscribe $2 n* :3 *3 $10 ssubscribe $4 part :1 "
    );
    world.message(0, 2, "news", "hello");
    assert_eq!(
        line(&world.told(client)),
        "*3 $7 message $4 news $5 hello *4 $8 pmessage $2 n* $4 news $5 hello "
    );
    let source = Source::Log { shard: ShardId(1), index: 4, ordinal: 1 };
    world.message_of(0, source, true, "part", "x");
    assert_eq!(line(&world.told(client)), "*3 $8 smessage $4 part $1 x ");
}

#[test]
fn a_node_that_does_not_answer_holds_a_subscription_up_for_a_second() {
    let mut world = World::new(1);
    let client = world.client();
    world.send(client, "SUBSCRIBE c");
    world.pass(900, &[0, 1, 2]);
    assert_eq!(world.told(client), "");
    world.pass(200, &[0, 1, 2]);
    assert!(world.told(client).contains("subscribe"));
    // A node that is away holds nothing up.
    world.disconnect(2);
    let other = world.client();
    world.send(other, "SUBSCRIBE d");
    world.confirm();
    assert!(world.told(other).contains("subscribe"));
}

#[test]
fn counts_are_registered_and_a_new_link_is_told_everything() {
    let mut world = World::new(1);
    let first = world.subscribed("SUBSCRIBE a b\nPSUBSCRIBE p*");
    let second = world.client();
    world.send(second, "SUBSCRIBE a");
    assert_eq!(world.confirm(), ["0: channel a 2", "1: channel a 2", "2: channel a 2"]);
    world.send(first, "UNSUBSCRIBE a b");
    assert_eq!(world.confirm()[0], "0: channel a 1, channel b 0");
    world.disconnect(1);
    world.connect(1);
    assert_eq!(world.confirm(), ["1: channel a 1, pattern p* 1"]);
    let now = world.now();
    world.core.client_gone(first, now);
    world.core.client_gone(second, now);
    assert_eq!(world.confirm()[..2], ["0: pattern p* 0", "0: channel a 0"]);
}

#[test]
fn a_resp2_subscriber_may_do_little_and_a_resp3_one_everything() {
    let mut world = World::new(1);
    let client = world.subscribed("SUBSCRIBE c");
    world.send(client, "GET a\nCLIENT LIST\nPING\nPING hi\nUNSUBSCRIBE\nUNSUBSCRIBE\nPING");
    let context =
        "only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context";
    assert_eq!(
        line(&world.told(client)),
        format!(
            "-ERR Can't execute 'get': {context} -ERR Can't execute 'client|list': {context} \
             *2 $4 pong $0  *2 $4 pong $2 hi *3 $11 unsubscribe $1 c :0 \
             *3 $11 unsubscribe $-1 :0 +PONG "
        )
    );
    let client = world.client();
    world.send(client, "HELLO 3");
    world.told(client);
    world.send(client, "SUBSCRIBE c");
    world.confirm();
    assert_eq!(line(&world.told(client)), ">3 $9 subscribe $1 c :1 ");
    world.send(client, "PING\nSET k v");
    world.message(0, 1, "c", "m");
    let set = world.received_one(0);
    world.reply(0, &set, "+OK\r\n");
    assert_eq!(line(&world.told(client)), "+PONG >3 $7 message $1 c $1 m +OK ");
    world.send(client, "RESET");
    assert_eq!(world.told(client), "+RESET\r\n");
    assert_eq!(world.confirm()[0], "0: channel c 0");
}

#[test]
fn a_message_stands_behind_what_was_answered_before_it() {
    let mut world = World::new(2);
    let client = world.client();
    world.send(client, "HELLO 3\nSUBSCRIBE c");
    world.confirm();
    world.told(client);
    let (a, b) = (key_of_shard(1, 2), key_of_shard(2, 2));
    world.send(client, &format!("GET {a}\nGET {b}\nGET {a}"));
    let (of_a, of_b) = (world.received(0), world.received_one(1));
    world.reply(1, &of_b, "+second\r\n");
    world.message(0, 1, "c", "m");
    world.reply(0, &of_a[0], "+first\r\n");
    world.reply(0, &of_a[1], "+third\r\n");
    assert_eq!(line(&world.told(client)), "+first +second >3 $7 message $1 c $1 m +third ");
}

#[test]
fn a_publication_is_sent_again_as_a_repetition() {
    let mut world = World::new(1);
    let client = world.client();
    world.send(client, "PUBLISH c one\nPUBLISH c two");
    let sent = world.received(0);
    let read = |received: &Received| match received {
        Received::Read(read) => read.clone(),
        Received::Write { .. } => panic!("a message is not logged"),
    };
    let first = read(&sent[0]);
    assert_eq!((first.op, first.flags), (ReadOp::Publish, 0));
    let message = Message::decode(&first.body).unwrap();
    assert_eq!((message.channel, message.payload), (&b"c"[..], &b"one"[..]));
    assert_eq!(message.source, Source::Worker { worker: 9, number: 1, oldest: 1 });
    world.reply(0, &sent[0], ":3\r\n");
    world.disconnect(0);
    world.primary_is(1, 1, 2);
    let again = read(&world.received_one(1));
    assert_eq!(again.flags, holdfast_proto::frame::flags::RESENT);
    assert_eq!(again.body, read(&sent[1]).body);
    world.answer(1, again.tag, AnswerStatus::Reply, b":4\r\n");
    assert_eq!(world.told(client), ":3\r\n:4\r\n");
    world.send(client, "SPUBLISH c three");
    let third = read(&world.received_one(1));
    let message = Message::decode(&third.body).unwrap();
    assert_eq!(message.source, Source::Worker { worker: 9, number: 3, oldest: 3 });
    assert!(message.sharded);
}

#[test]
fn a_publication_that_is_given_up_says_that_its_outcome_is_unknown() {
    let mut world = World::new(1);
    let client = world.client();
    world.send(client, "PUBLISH c one");
    world.received_one(0);
    world.disconnect(0);
    world.pass(11_000, &[1, 2]);
    assert!(world.told(client).starts_with("-OUTCOMEUNKNOWN"));
}

#[test]
fn a_repeated_message_reaches_a_client_once() {
    let mut world = World::new(1);
    let client = world.subscribed("SUBSCRIBE c");
    world.message(0, 5, "c", "m");
    world.message(1, 5, "c", "m");
    assert_eq!(world.told(client).matches("message").count(), 1);
    assert_eq!(world.core.stats().messages_repeated, 1);
}

#[test]
fn a_message_does_not_overtake_its_publishers_writes_to_other_shards() {
    let mut world = World::new(2);
    let client = world.client();
    let key = key_of_shard(1, 2);
    let channel = key_of_shard(2, 2);
    world.send(client, &format!("SET {key} v\nPUBLISH {channel} look"));
    let set = world.received_one(0);
    assert!(world.received(1).is_empty());
    world.reply(0, &set, "+OK\r\n");
    let publish = world.received_one(1);
    world.reply(1, &publish, ":0\r\n");
    assert_eq!(world.told(client), "+OK\r\n:0\r\n");
}

#[test]
fn a_slow_subscriber_is_cut_off() {
    let mut world = World::new(1);
    let client = world.subscribed("SUBSCRIBE c");
    let payload = "x".repeat(1 << 20);
    for number in 1..=31 {
        world.message(0, number, "c", &payload);
    }
    assert!(world.core.client_output(client).is_some());
    for number in 32..=33 {
        world.message(0, number, "c", &payload);
    }
    assert!(world.core.client_output(client).is_none(), "32 MiB are the hard limit");

    let client = world.subscribed("SUBSCRIBE d");
    for number in 40..=48 {
        world.message(0, number, "d", &payload);
    }
    world.pass(59_000, &[0, 1, 2]);
    assert!(world.core.client_output(client).is_some());
    world.pass(2_000, &[0, 1, 2]);
    assert!(world.core.client_output(client).is_none(), "over the soft limit for a minute");
    assert_eq!(world.core.stats().subscribers_cut, 2);
}

#[test]
fn subscriptions_inside_a_transaction_are_part_of_its_reply() {
    let mut world = World::new(1);
    let client = world.client();
    world.send(client, "MULTI\nSUBSCRIBE a b\nPING\nEXEC");
    assert_eq!(
        line(&world.told(client)),
        "+OK +QUEUED +QUEUED *2 *3 $9 subscribe $1 a :1 *3 $9 subscribe $1 b :2 *2 $4 pong $0  "
    );
    let client = world.client();
    world.send(client, "MULTI\nPUBLISH c m\nEXEC");
    let exec = world.received(0).pop().unwrap();
    assert!(exec.text().contains("PUBLISH"), "{}", exec.text());
    world.reply(0, &exec, "*1\r\n:0\r\n");
    assert_eq!(line(&world.told(client)), "+OK +QUEUED *1 :0 ");
}
