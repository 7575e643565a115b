//! Holding, sending again, giving up.

use super::*;
use crate::core::respond::{OUTCOME_UNKNOWN, SHARD_DOWN};
use holdfast_proto::frame::{RecordOp, UnblockReason};

/// Error words after which some client library sends the command again by itself.
const RETRIED: &[&str] =
    &["LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS", "UNBLOCKED"];

#[test]
fn only_what_surely_did_not_run_is_retried_by_clients() {
    let word = |text: &'static str| text.split(' ').next().unwrap();
    assert!(RETRIED.contains(&word(SHARD_DOWN)));
    assert!(!RETRIED.contains(&word(OUTCOME_UNKNOWN)));
}

#[test]
fn a_pipeline_keeps_its_order_and_its_lane_across_a_failover() {
    let mut world = World::new(1);
    let client = world.client();
    world.send(client, "SET a 1\nINCR a\nGET b\nINCR a");
    let sent = world.received(0);
    assert_eq!(texts(&sent), ["SET a 1", "INCR a", "GET b", "INCR a"]);
    assert_eq!(sent.iter().map(Received::seq).collect::<Vec<_>>(), [1, 2, 0, 3]);
    world.reply(0, &sent[0], "+OK\r\n");
    world.disconnect(0);
    assert_eq!(world.told(client), "+OK\r\n");
    // A command that comes while there is no primary waits behind the others.
    world.send(client, "INCR a");
    assert!(world.received(1).is_empty());
    world.primary_is(1, 1, 2);
    let again = world.received(1);
    assert_eq!(texts(&again), ["INCR a", "GET b", "INCR a", "INCR a"]);
    assert_eq!(again.iter().map(Received::seq).collect::<Vec<_>>(), [2, 0, 3, 4]);
    assert_eq!(again[0].header().first_unacked, 2);
    // Answers out of order reach the client in order.
    world.reply(1, &again[3], ":4\r\n");
    world.reply(1, &again[2], ":3\r\n");
    assert_eq!(world.told(client), "");
    world.reply(1, &again[0], ":2\r\n");
    assert_eq!(world.told(client), ":2\r\n");
    world.reply(1, &again[1], "$1\r\n2\r\n");
    assert_eq!(world.told(client), "$1\r\n2\r\n:3\r\n:4\r\n");
    let over = world.take_actions().into_iter().find_map(|action| match action {
        Action::OutageOver { shard, term, outage } => Some((shard, term, outage)),
        _ => None,
    });
    let (shard, term, outage) = over.expect("the outage is reported");
    assert_eq!((shard, term), (ShardId(1), Term(2)));
    assert_eq!((outage.held, outage.retried, outage.failed), (4, 3, 0));
}

#[test]
fn a_write_does_not_overtake_an_earlier_read_of_its_slot() {
    let mut world = World::new(1);
    let (client, other) = (world.client(), world.client());
    world.send(client, "GET a\nINCR b\nINCR a\nGET a");
    world.send(other, "INCR a");
    let sent = world.received(0);
    assert_eq!(texts(&sent), ["GET a", "INCR b", "INCR a"], "the second is the other client's");
    assert_eq!(sent[2].header().slot, Slot::of_key(b"a"));
    world.reply(0, &sent[1], ":1\r\n");
    assert!(world.received(0).is_empty());
    // Through a failover too: only the answer to the read lets the write go.
    world.disconnect(0);
    world.primary_is(1, 1, 2);
    let again = world.received(1);
    assert_eq!(texts(&again), ["GET a", "INCR a"]);
    world.reply(1, &again[0], "$1\r\n7\r\n");
    let rest = world.received(1);
    assert_eq!(texts(&rest), ["INCR a", "GET a"]);
    world.reply(1, &rest[0], ":9\r\n");
    world.reply(1, &rest[1], "$1\r\n9\r\n");
    assert_eq!(world.told(client), "$1\r\n7\r\n:1\r\n:9\r\n$1\r\n9\r\n");
}

#[test]
fn a_newer_primary_takes_over_while_the_old_link_still_stands() {
    let mut world = World::new(1);
    let client = world.client();
    world.send(client, "INCR a");
    let old = world.received_one(0);
    world.primary_is(2, 1, 5);
    let new = world.received_one(2);
    assert_eq!(new.seq(), 1);
    // The old primary's late answer is not taken: the new one will answer.
    world.reply(0, &old, ":1\r\n");
    assert_eq!(world.told(client), "");
    world.reply(2, &new, ":1\r\n");
    assert_eq!(world.told(client), ":1\r\n");
    // Older knowledge changes nothing.
    world.primary_is(0, 1, 4);
    world.send(client, "INCR a");
    assert_eq!(world.received_one(2).seq(), 2);
}

#[test]
fn refused_requests_follow_the_hint() {
    let mut world = World::new(1);
    let client = world.client();
    world.send(client, "INCR a\nINCR a\nGET b");
    let sent = world.received(0);
    world.refuse(0, &sent[0], 7, 3);
    assert_eq!(texts(&world.received(2)), ["INCR a", "INCR a", "GET b"]);
    // The other refusals are about an earlier sending.
    world.refuse(0, &sent[1], 7, 3);
    world.refuse(0, &sent[2], 7, 3);
    assert!(world.received(2).is_empty());
}

#[test]
fn without_a_hint_requests_wait_for_the_announcement() {
    let mut world = World::new(1);
    let client = world.client();
    world.send(client, "INCR a");
    let sent = world.received_one(0);
    world.refuse(0, &sent, 2, 0);
    world.pass(100, &[0, 1, 2]);
    assert!(world.received(1).is_empty());
    world.primary_is(1, 1, 3);
    let again = world.received_one(1);
    world.reply(1, &again, ":1\r\n");
    assert_eq!(world.told(client), ":1\r\n");
}

#[test]
fn a_gap_is_closed_in_order() {
    let mut world = World::new(1);
    let client = world.client();
    world.send(client, "INCR a\nINCR a\nINCR a");
    let sent = world.received(0);
    world.answer(0, sent[0].tag(), AnswerStatus::Busy, b"");
    world.gap(0, &sent[1], 1);
    world.gap(0, &sent[2], 1);
    // New ones do not overtake.
    world.send(client, "INCR a");
    assert!(world.received(0).is_empty());
    world.pass(20, &[0]);
    let again = world.received(0);
    assert_eq!(again.iter().map(Received::seq).collect::<Vec<_>>(), [1, 2, 3, 4]);
}

#[test]
fn a_read_of_several_keys_is_asked_again_after_a_write_that_was_refused() {
    let mut world = World::new(1);
    let client = world.client();
    world.send(client, "SET a 1\nSET b 2\nMGET a b\nGET a");
    let sent = world.received(0);
    world.reply(0, &sent[0], "+OK\r\n");
    world.answer(0, sent[1].tag(), AnswerStatus::Busy, b"");
    // Executed between the two writes.
    world.reply(0, &sent[2], "*2\r\n$1\r\n1\r\n$-1\r\n");
    world.reply(0, &sent[3], "$1\r\n1\r\n");
    assert_eq!(world.told(client), "+OK\r\n");
    world.pass(20, &[0]);
    let again = world.received(0);
    assert_eq!(texts(&again), ["SET b 2", "MGET a b"]);
    let Received::Read(read) = &again[1] else { panic!("a read") };
    assert_eq!((read.depends_on_slot, read.depends_on_seq), (Slot::of_key(b"b"), 1));
    world.reply(0, &again[0], "+OK\r\n");
    world.reply(0, &again[1], "*2\r\n$1\r\n1\r\n$1\r\n2\r\n");
    assert_eq!(world.told(client), "+OK\r\n*2\r\n$1\r\n1\r\n$1\r\n2\r\n$1\r\n1\r\n");
}

#[test]
fn past_the_deadline_errors_say_what_is_known() {
    let mut world = World::new(1);
    let client = world.client();
    world.send(client, "INCR a\nGET b");
    let sent = world.received(0);
    world.disconnect(0);
    world.send(client, "INCR a");
    world.pass(9_900, &[1, 2]);
    assert_eq!(world.told(client), "");
    world.pass(200, &[1, 2]);
    let told = world.told(client);
    assert_eq!(told, format!("-{OUTCOME_UNKNOWN}\r\n-{SHARD_DOWN}\r\n-{SHARD_DOWN}\r\n"));
    // The first one's place in the lane is filled by a command without effect, so that the lane
    // goes on; what was never sent has no place.
    world.send(client, "INCR a");
    world.primary_is(1, 1, 2);
    let again = world.received(1);
    assert_eq!(texts(&again), ["PING", "INCR a"]);
    assert_eq!(again.iter().map(Received::seq).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(sent[0].seq(), 1);
    world.reply(1, &again[0], "+PONG\r\n");
    world.reply(1, &again[1], ":1\r\n");
    assert_eq!(world.told(client), ":1\r\n");
}

#[test]
fn a_dead_shard_does_not_delay_the_others() {
    let mut world = World::new(2);
    let (dead, live) = (key_of_shard(1, 2), key_of_shard(2, 2));
    world.disconnect(0);
    let one = world.client();
    let two = world.client();
    world.send(one, &format!("INCR {dead}"));
    world.send(two, &format!("INCR {live}"));
    let sent = world.received_one(1);
    world.reply(1, &sent, ":1\r\n");
    assert_eq!(world.told(two), ":1\r\n");
    assert_eq!(world.told(one), "");
}

#[test]
fn a_silent_primary_is_not_given_up_but_its_requests_expire() {
    let mut world = World::new(1);
    let client = world.client();
    world.send(client, "INCR a");
    let sent = world.received_one(0);
    world.pass(5_000, &[1, 2]);
    assert!(world.received(1).is_empty() && world.received(2).is_empty());
    // It was only paused: its answer counts.
    world.reply(0, &sent, ":1\r\n");
    assert_eq!(world.told(client), ":1\r\n");
    world.send(client, "INCR a");
    world.received_one(0);
    world.pass(11_100, &[1, 2]);
    assert_eq!(world.told(client), format!("-{OUTCOME_UNKNOWN}\r\n"));
}

#[test]
fn a_slow_command_on_a_live_primary_has_no_deadline() {
    let mut world = World::new(1);
    let client = world.client();
    world.send(client, "KEYS *");
    let sent = world.received_one(0);
    world.pass(60_000, &[0]);
    world.reply(0, &sent, "*0\r\n");
    assert_eq!(world.told(client), "*0\r\n");
}

#[test]
fn an_expired_session_is_renewed() {
    let mut world = World::new(1);
    let client = world.client();
    world.send(client, "INCR a\nINCR b");
    let sent = world.received(0);
    world.take_actions();
    world.answer(0, sent[0].tag(), AnswerStatus::SessionExpired, b"");
    assert!(world.take_actions().contains(&Action::RenewSession));
    world.send(client, "INCR c");
    assert!(world.received(0).is_empty(), "nothing is sent without a session");
    let now = world.now();
    world.core.new_session(WorkerId(10), now);
    world.pass(600, &[0]);
    assert_eq!(world.core.worker(), WorkerId(10));
    world.connect(0);
    // The first was refused at its only sending, so it did not run and is sent again; what became of the second is not
    // known.
    let again = world.received(0);
    assert_eq!(texts(&again), ["INCR a", "INCR c"]);
    for request in &again {
        assert_eq!((request.header().worker, request.seq()), (WorkerId(10), 1));
        world.reply(0, request, ":1\r\n");
    }
    assert_eq!(world.told(client), format!(":1\r\n-{OUTCOME_UNKNOWN}\r\n:1\r\n"));
}

#[test]
fn a_blocked_command_is_asked_again_when_its_session_ends() {
    let mut world = World::new(1);
    let client = world.client();
    world.send(client, "BLPOP q 0");
    let sent = world.received_one(0);
    world.answer(0, sent.tag(), AnswerStatus::Blocked, b"");
    world.take_actions();
    world.answer(0, sent.tag(), AnswerStatus::SessionExpired, b"");
    assert!(world.take_actions().contains(&Action::RenewSession));
    let now = world.now();
    world.core.new_session(WorkerId(10), now);
    world.pass(600, &[0]);
    world.connect(0);
    let again = world.received_one(0);
    assert_eq!((again.text().as_str(), again.header().worker), ("BLPOP q 0", WorkerId(10)));
    world.reply(0, &again, "*2\r\n$1\r\nq\r\n$1\r\nx\r\n");
    assert_eq!(world.told(client), "*2\r\n$1\r\nq\r\n$1\r\nx\r\n");
}

#[test]
fn a_blocked_command_survives_a_failover() {
    let mut world = World::new(1);
    let client = world.client();
    world.send(client, "BLPOP q 0\nPING");
    let sent = world.received_one(0);
    world.answer(0, sent.tag(), AnswerStatus::Blocked, b"");
    world.pass(20_000, &[0, 1, 2]);
    assert_eq!(world.told(client), "", "what follows a blocking command waits");
    world.disconnect(0);
    world.primary_is(1, 1, 2);
    let again = world.received_one(1);
    assert_eq!((again.text().as_str(), again.seq()), ("BLPOP q 0", 1));
    assert_eq!(again.header().first_unacked, 1);
    world.answer(1, again.tag(), AnswerStatus::Blocked, b"");
    // Other writes of the lane acknowledge beyond it.
    let other = world.client();
    world.send(other, "LPUSH q x");
    let push = world.received_one(1);
    assert_eq!((push.seq(), push.header().first_unacked), (2, 2));
    world.reply(1, &again, "*2\r\n$1\r\nq\r\n$1\r\nx\r\n");
    assert_eq!(world.told(client), "*2\r\n$1\r\nq\r\n$1\r\nx\r\n+PONG\r\n");
    // The kept reply is released.
    let release = world.received_one(1).header();
    assert_eq!((release.op, release.seq), (RecordOp::Unblock, 3));
}

#[test]
fn a_blocked_client_that_leaves_is_taken_off_the_queue() {
    let mut world = World::new(1);
    let client = world.client();
    world.send(client, "BLPOP q 0");
    let sent = world.received_one(0);
    world.answer(0, sent.tag(), AnswerStatus::Blocked, b"");
    let now = world.now();
    world.core.client_gone(client, now);
    let Received::Write { header, body, .. } = world.received_one(0) else { panic!() };
    assert_eq!((header.op, header.seq), (RecordOp::Unblock, 2));
    assert_eq!(&body[..8], 1u64.to_le_bytes());
    assert_eq!(body[8], UnblockReason::Gone as u8);
}

#[test]
fn a_client_that_leaves_before_blocked_is_known_is_taken_off_too() {
    let mut world = World::new(1);
    let client = world.client();
    world.send(client, "BLPOP q 0");
    let sent = world.received_one(0);
    let now = world.now();
    world.core.client_gone(client, now);
    assert!(world.received(0).is_empty());
    world.answer(0, sent.tag(), AnswerStatus::Blocked, b"");
    world.pass(60, &[0]);
    assert_eq!(world.received_one(0).header().op, RecordOp::Unblock);
}

#[test]
fn client_unblock_reaches_the_shard() {
    let mut world = World::new(1);
    let client = world.client();
    world.send(client, "CLIENT ID");
    let id = world.told(client).trim_start_matches(':').trim().to_owned();
    world.send(client, "BLPOP q 0");
    let sent = world.received_one(0);
    world.answer(0, sent.tag(), AnswerStatus::Blocked, b"");
    let other = world.client();
    world.send(other, &format!("CLIENT UNBLOCK {id} ERROR\nCLIENT UNBLOCK 1"));
    assert_eq!(world.told(other), ":1\r\n:0\r\n");
    let Received::Write { body, .. } = world.received_one(0) else { panic!() };
    assert_eq!(body[8], UnblockReason::Error as u8);
    world.reply(0, &sent, "-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n");
    assert!(world.told(client).starts_with("-UNBLOCKED"));
}

#[test]
fn a_moved_slot_is_followed_with_the_same_seq() {
    let mut world = World::new(2);
    let key = key_of_shard(1, 2);
    let client = world.client();
    world.send(client, &format!("INCR {key}"));
    let sent = world.received_one(0);
    let mut payload = Vec::new();
    payload.put_u32_le(2);
    payload.put_u64_le(9);
    world.answer(0, sent.tag(), AnswerStatus::Moved, &payload);
    let again = world.received_one(1);
    let Received::Write { shard, header, .. } = &again else { panic!() };
    assert_eq!((*shard, header.seq), (ShardId(2), 1));
    world.reply(1, &again, ":1\r\n");
    world.send(client, &format!("INCR {key}"));
    assert_eq!(world.received_one(1).seq(), 2);
}

#[test]
fn a_full_hold_queue_stops_reading() {
    let mut world = World::new(1);
    world.disconnect(0);
    let client = world.client();
    let big = "x".repeat(400_000);
    for _ in 0..4 {
        world.send(client, &format!("SET a {big}"));
    }
    world.send(client, "PING");
    assert!(!world.core.wants_input(client));
    world.connect(0);
    let sent = world.received(0);
    assert_eq!(sent.len(), 3, "the bound lets the one through that passes it");
    for request in &sent {
        world.reply(0, request, "+OK\r\n");
    }
    let rest = world.received_one(0);
    world.reply(0, &rest, "+OK\r\n");
    assert_eq!(world.told(client), "+OK\r\n+OK\r\n+OK\r\n+OK\r\n+PONG\r\n");
    assert!(world.core.wants_input(client));
}

#[test]
fn reads_name_the_write_they_depend_on() {
    let mut world = World::new(1);
    let client = world.client();
    world.send(client, "SET a 1\nGET a");
    let sent = world.received(0);
    let Received::Read(read) = &sent[1] else { panic!() };
    assert_eq!((read.depends_on_slot, read.depends_on_seq), (Slot::of_key(b"a"), 1));
    let other = world.client();
    world.send(other, "GET a");
    let Received::Read(read) = world.received_one(0) else { panic!() };
    assert_eq!(read.depends_on_seq, 0);
    world.reply(0, &sent[0], "+OK\r\n");
    world.send(client, "GET a");
    let Received::Read(read) = world.received_one(0) else { panic!() };
    assert_eq!(read.depends_on_seq, 0, "the write is answered");
}
