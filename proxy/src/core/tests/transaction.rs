//! MULTI, EXEC, WATCH.

use super::*;
use crate::core::respond;
use holdfast_proto::frame::{ReadOp, RecordOp};

/// The commands in the body of an EXEC record, and how many watches it has.
fn exec_body(request: &Received) -> (u16, Vec<String>) {
    let Received::Write { header, body, .. } = request else { panic!("not a write") };
    assert_eq!(header.op, RecordOp::Exec);
    let watches = u16::from_le_bytes([body[0], body[1]]);
    let mut at = 2 + 12 * watches as usize;
    let count = u32::from_le_bytes(body[at..at + 4].try_into().unwrap());
    at += 4;
    let mut commands = Vec::new();
    for _ in 0..count {
        let mut args = smallvec::SmallVec::new();
        at += holdfast_proto::resp::parse_array(&body[at..], &mut args).unwrap();
        let words: Vec<_> = args.iter().map(|arg| String::from_utf8_lossy(arg)).collect();
        commands.push(words.join(" "));
    }
    assert_eq!(at, body.len());
    (watches, commands)
}

#[test]
fn a_transaction_is_one_record() {
    let mut world = World::new(1);
    let client = world.client();
    world.send(client, "MULTI\nSET a 1\nGET b\nEXEC\nGET a");
    let sent = world.received(0);
    assert_eq!(exec_body(&sent[0]), (0, vec!["SET a 1".to_owned(), "GET b".to_owned()]));
    assert_eq!(world.told(client), "+OK\r\n+QUEUED\r\n+QUEUED\r\n");
    world.reply(0, &sent[0], "*2\r\n+OK\r\n$-1\r\n");
    assert_eq!(world.told(client), "*2\r\n+OK\r\n$-1\r\n");
}

#[test]
fn mistakes_abort_it() {
    let mut world = World::new(1);
    let client = world.client();
    world.send(client, "MULTI\nSET a\nEXEC\nMULTI\nNOSUCH x\nEXEC\nMULTI\nMULTI\nDISCARD\nEXEC");
    let told = world.told(client);
    let lines: Vec<_> = told.split("\r\n").collect();
    assert_eq!(lines[1], "-ERR wrong number of arguments for 'set' command");
    assert_eq!(lines[2], format!("-{}", respond::EXECABORT));
    assert_eq!(lines[4], "-ERR unknown command 'NOSUCH', with args beginning with: 'x' ");
    assert_eq!(lines[5], format!("-{}", respond::EXECABORT));
    assert_eq!(lines[7], format!("-{}", respond::NESTED_MULTI));
    assert_eq!(lines[8], "+OK");
    assert_eq!(lines[9], format!("-{}", respond::EXEC_WITHOUT_MULTI));
    assert!(world.received(0).is_empty());
}

#[test]
fn local_commands_take_part() {
    let mut world = World::new(1);
    let client = world.client();
    world.send(client, "MULTI\nPING\nSET a 1\nECHO hi\nEXEC");
    let sent = world.received_one(0);
    assert_eq!(exec_body(&sent).1, ["SET a 1"]);
    world.told(client);
    world.reply(0, &sent, "*1\r\n+OK\r\n");
    assert_eq!(world.told(client), "*3\r\n+PONG\r\n+OK\r\n$2\r\nhi\r\n");
}

#[test]
fn only_local_commands_need_no_shard() {
    let mut world = World::new(2);
    let client = world.client();
    world.send(client, "MULTI\nPING\nEXEC\nMULTI\nEXEC");
    assert_eq!(world.told(client), "+OK\r\n+QUEUED\r\n*1\r\n+PONG\r\n+OK\r\n*0\r\n");
    assert!(world.received(0).is_empty());
}

#[test]
fn select_is_part_of_the_record_and_lasts() {
    let mut world = World::new(1);
    let client = world.client();
    world.send(client, "MULTI\nSELECT 3\nSET a 1\nEXEC\nGET a");
    let sent = world.received_one(0);
    assert_eq!(exec_body(&sent).1, ["SELECT 3", "SET a 1"]);
    assert_eq!(sent.header().db, 0);
    world.reply(0, &sent, "*2\r\n+OK\r\n+OK\r\n");
    let Received::Read(read) = world.received_one(0) else { panic!() };
    assert_eq!(read.db, 3);
}

#[test]
fn watched_versions_travel_with_exec() {
    let mut world = World::new(1);
    let client = world.client();
    world.send(client, "WATCH a b\nMULTI\nINCR a\nEXEC");
    let sent = world.received(0);
    assert_eq!(sent.len(), 1, "EXEC waits for the versions");
    let Received::Read(read) = &sent[0] else { panic!() };
    assert_eq!((read.op, sent[0].text().as_str()), (ReadOp::WatchVersions, "a b"));
    let mut payload = Vec::new();
    for (index, version) in [(5u32, 6u64), (45, 8)] {
        payload.put_u32_le(index);
        payload.put_u64_le(version);
    }
    world.answer(0, sent[0].tag(), AnswerStatus::WatchVersions, &payload);
    let exec = world.received_one(0);
    assert_eq!(exec_body(&exec), (2, vec!["INCR a".to_owned()]));
    world.reply(0, &exec, "*-1\r\n");
    assert_eq!(world.told(client), "+OK\r\n+OK\r\n+QUEUED\r\n*-1\r\n");
    // They count once.
    world.send(client, "MULTI\nINCR a\nEXEC");
    assert_eq!(exec_body(&world.received_one(0)).0, 0);
}

#[test]
fn unwatch_inside_multi_changes_nothing() {
    let mut world = World::new(1);
    let client = world.client();
    world.send(client, "WATCH a");
    let sent = world.received_one(0);
    world.answer(0, sent.tag(), AnswerStatus::WatchVersions, &[0; 12]);
    world.send(client, "MULTI\nUNWATCH\nEXEC");
    let exec = world.received_one(0);
    assert_eq!(exec_body(&exec), (1, vec![]));
    world.told(client);
    world.reply(0, &exec, "*0\r\n");
    assert_eq!(world.told(client), "*1\r\n+OK\r\n");
}

#[test]
fn over_several_slots_it_is_refused_only_on_several_shards() {
    let (one, two) = (key_of_shard(1, 2), key_of_shard(2, 2));
    let commands = format!("MULTI\nSET {one} 1\nSET {two} 1\nEXEC");
    let mut world = World::new(2);
    let client = world.client();
    world.send(client, &commands);
    assert_eq!(
        world.told(client),
        format!("+OK\r\n+QUEUED\r\n-{}\r\n-{}\r\n", respond::CROSSSLOT, respond::EXECABORT)
    );
    let mut world = World::new(1);
    let client = world.client();
    world.send(client, &commands);
    assert_eq!(exec_body(&world.received_one(0)).1.len(), 2);
}

/// Only nodes know the subscribers: one is asked before the record goes.
#[test]
fn exec_waits_for_what_a_node_tells_of_subscribers() {
    let mut world = World::new(1);
    let client = world.client();
    world.send(client, "MULTI\nSET a 1\nPUBSUB NUMSUB x\nPING\nPUBSUB NUMPAT\nEXEC\nGET a");
    assert_eq!(world.told(client), "+OK\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n");
    let asked = world.received(0);
    assert_eq!(texts(&asked), ["PUBSUB NUMSUB x", "PUBSUB NUMPAT"]);
    world.reply(0, &asked[1], ":7\r\n");
    assert!(world.received(0).is_empty());
    world.reply(0, &asked[0], "*2\r\n$1\r\nx\r\n:3\r\n");
    let sent = world.received(0);
    assert_eq!(exec_body(&sent[0]), (0, vec!["SET a 1".to_owned()]));
    world.reply(0, &sent[0], "*1\r\n+OK\r\n");
    let read = world.received_one(0);
    world.reply(0, &read, "$1\r\n1\r\n");
    let told = "*4\r\n+OK\r\n*2\r\n$1\r\nx\r\n:3\r\n+PONG\r\n:7\r\n$1\r\n1\r\n";
    assert_eq!(world.told(client), told);
    // Without a record, and with nobody to ask but the proxy itself.
    world.send(client, "MULTI\nPUBSUB CHANNELS\nEXEC\nMULTI\nPUBSUB HELP\nDISCARD");
    let asked = world.received_one(0);
    world.reply(0, &asked, "*0\r\n");
    let told = world.told(client);
    assert_eq!(told, "+OK\r\n+QUEUED\r\n*1\r\n*0\r\n+OK\r\n+QUEUED\r\n+OK\r\n");
    // An aborted transaction asks nobody.
    world.send(client, "MULTI\nPUBSUB CHANNELS\nNOSUCH\nEXEC");
    assert!(world.received(0).is_empty());
    assert!(world.told(client).ends_with(&format!("-{}\r\n", respond::EXECABORT)));
}
