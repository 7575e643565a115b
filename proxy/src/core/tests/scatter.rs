//! Commands over several shards.

use super::*;
use crate::core::respond;

#[test]
fn mget_puts_values_back_in_order() {
    let mut world = World::new(2);
    let (a, b) = (key_of_shard(1, 2), key_of_shard(2, 2));
    let client = world.client();
    world.send(client, &format!("MGET {b} {a} {b}"));
    let (first, second) = (world.received_one(0), world.received_one(1));
    assert_eq!(first.text(), format!("MGET {a}"));
    assert_eq!(second.text(), format!("MGET {b} {b}"));
    world.reply(0, &first, "*1\r\n$-1\r\n");
    assert_eq!(world.told(client), "");
    world.reply(1, &second, "*2\r\n$1\r\nx\r\n$1\r\ny\r\n");
    assert_eq!(world.told(client), "*3\r\n$1\r\nx\r\n$-1\r\n$1\r\ny\r\n");
}

#[test]
fn counts_add_up_and_mset_is_split() {
    let mut world = World::new(2);
    let (a, b) = (key_of_shard(1, 2), key_of_shard(2, 2));
    let client = world.client();
    world.send(client, &format!("MSET {a} 1 {b} 2\nDEL {a} {b}\nGET {b}"));
    let (one, two) = (world.received(0), world.received(1));
    assert_eq!(texts(&one), [format!("MSET {a} 1"), format!("DEL {a}")]);
    let Received::Read(read) = &two[2] else { panic!() };
    assert_eq!(read.depends_on_seq, 2, "the part of DEL on that shard");
    world.reply(1, &two[1], ":1\r\n");
    world.reply(0, &one[1], ":1\r\n");
    world.reply(1, &two[0], "+OK\r\n");
    world.reply(0, &one[0], "+OK\r\n");
    assert_eq!(world.told(client), "+OK\r\n:2\r\n");
    world.send(client, &format!("MSET {a} 1 {b}"));
    world.reply(1, &two[2], "$-1\r\n");
    assert_eq!(world.told(client), "$-1\r\n-ERR wrong number of arguments for 'mset' command\r\n");
}

#[test]
fn keys_of_one_shard_are_not_split() {
    let mut world = World::new(2);
    let client = world.client();
    world.send(client, "DEL {foo}a {foo}b");
    let link = usize::from(Slot::of_key(b"foo").get() >= 8192);
    assert_eq!(world.received_one(link).text(), "DEL {foo}a {foo}b");
    assert!(world.received(1 - link).is_empty());
}

#[test]
fn other_commands_over_slots_are_refused() {
    let (a, b) = (key_of_shard(1, 2), key_of_shard(2, 2));
    let command = format!("RENAME {a} {b}\nSINTER {a} {b}");
    let mut world = World::new(2);
    let client = world.client();
    world.send(client, &command);
    let error = format!("-{}\r\n", respond::CROSSSLOT);
    assert_eq!(world.told(client), error.repeat(2));
    let mut world = World::new(1);
    let client = world.client();
    world.send(client, &command);
    assert_eq!(world.received(0).len(), 2);
}

#[test]
fn keyless_commands_go_everywhere() {
    let mut world = World::new(2);
    let client = world.client();
    world.send(client, "FLUSHALL\nDBSIZE\nKEYS *");
    let (one, two) = (world.received(0), world.received(1));
    assert_eq!(texts(&one), ["FLUSHALL", "DBSIZE", "KEYS *"]);
    // Each shard's lane for it is one of the shard's own slots.
    assert_eq!(one[0].header().slot.get(), 0);
    assert_eq!(two[0].header().slot.get(), 8192);
    for (link, all) in [(0, &one), (1, &two)] {
        world.reply(link, &all[0], "+OK\r\n");
        world.reply(link, &all[1], ":3\r\n");
        world.reply(link, &all[2], "*1\r\n$1\r\nk\r\n");
    }
    assert_eq!(world.told(client), "+OK\r\n:6\r\n*2\r\n$1\r\nk\r\n$1\r\nk\r\n");
}

#[test]
fn one_cursor_walks_all_shards() {
    let mut world = World::new(2);
    let client = world.client();
    world.send(client, "SCAN 0 COUNT 5");
    let sent = world.received_one(0);
    assert_eq!(sent.text(), "SCAN 0 COUNT 5");
    world.reply(0, &sent, "*2\r\n$2\r\n77\r\n*1\r\n$1\r\na\r\n");
    let told = world.told(client);
    let cursor = told.split("\r\n").nth(2).unwrap().to_owned();
    world.send(client, &format!("SCAN {cursor}"));
    let sent = world.received_one(0);
    assert_eq!(sent.text(), "SCAN 77");
    world.reply(0, &sent, "*2\r\n$1\r\n0\r\n*0\r\n");
    let told = world.told(client);
    assert_ne!(told.split("\r\n").nth(2), Some("0"), "the other shard is still to come");
    let cursor = told.split("\r\n").nth(2).unwrap().to_owned();
    world.send(client, &format!("SCAN {cursor}"));
    let sent = world.received_one(1);
    assert_eq!(sent.text(), "SCAN 0");
    world.reply(1, &sent, "*2\r\n$1\r\n0\r\n*1\r\n$1\r\nb\r\n");
    assert_eq!(world.told(client), "*2\r\n$1\r\n0\r\n*1\r\n$1\r\nb\r\n");
    world.send(client, "SCAN x");
    assert_eq!(world.told(client), "-ERR invalid cursor\r\n");
}

#[test]
fn info_speaks_for_the_shards_that_are_up() {
    let mut world = World::new(2);
    let client = world.client();
    world.send(client, "INFO keyspace memory");
    for link in 0..2 {
        let sent = world.received_one(link);
        let text = "shard:1\r\nused_memory:1024\r\ndb0:keys=2,expires=1,avg_ttl=0\r\n";
        world.reply(link, &sent, &format!("${}\r\n{text}\r\n", text.len()));
    }
    let told = world.told(client);
    assert!(told.contains("# Keyspace\r\ndb0:keys=4,expires=2,avg_ttl=0\r\n"), "{told}");
    assert!(told.contains("used_memory:2048\r\nused_memory_human:2.00K\r\n"), "{told}");
    assert!(!told.contains("# Server"));
    world.disconnect(0);
    world.disconnect(1);
    world.pass(100, &[]);
    world.send(client, "INFO");
    let told = world.told(client);
    assert!(told.contains("redis_version:7.2.4\r\n") && told.contains("role:master\r\n"), "{told}");
}
