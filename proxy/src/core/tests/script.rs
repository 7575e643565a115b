//! Scripts: which shard runs them, and how it gets them.

use super::*;
use crate::core::respond;
use holdfast_proto::frame::flags;
use holdfast_proto::sha1;

/// A body without blanks, and its name.
const BODY: &str = "return{KEYS[1]}";

fn sha() -> String {
    sha1::hex(BODY.as_bytes())
}

fn flags_of(received: &Received) -> u8 {
    match received {
        Received::Write { header, .. } => header.flags,
        Received::Read(read) => read.flags,
    }
}

#[test]
fn a_script_goes_to_the_shard_of_its_keys_and_keeps_to_their_slot() {
    let mut world = World::new(2);
    let (a, b) = (key_of_shard(1, 2), key_of_shard(2, 2));
    let client = world.client();
    world.send(client, &format!("EVAL {BODY} 1 {b} x\nEVAL_RO {BODY} 1 {b}"));
    let sent = world.received(1);
    assert_eq!(texts(&sent), [format!("EVAL {BODY} 1 {b} x"), format!("EVAL_RO {BODY} 1 {b}")]);
    assert!(matches!(sent[0], Received::Write { .. }) && matches!(sent[1], Received::Read(_)));
    assert!(sent.iter().all(|sent| flags_of(sent) == flags::ONE_SLOT));
    world.send(client, &format!("EVAL {BODY} 2 {a} {b}"));
    world.reply(1, &sent[0], ":1\r\n");
    world.reply(1, &sent[1], ":2\r\n");
    assert_eq!(world.told(client), format!(":1\r\n:2\r\n-{}\r\n", respond::CROSSSLOT));
    world.send(client, "EVAL return{} 0");
    assert_eq!(flags_of(&world.received_one(0)), flags::ONE_SLOT | flags::KEYLESS);
}

#[test]
fn one_shard_bounds_nothing() {
    let mut world = World::new(1);
    let client = world.client();
    world.send(client, &format!("EVAL {BODY} 2 a b\nEVAL {BODY} 0"));
    let sent = world.received(0);
    assert_eq!(flags_of(&sent[0]), 0);
    assert_eq!(flags_of(&sent[1]), flags::KEYLESS);
}

#[test]
fn script_load_and_flush_go_to_all_shards() {
    let mut world = World::new(2);
    let client = world.client();
    world.send(client, &format!("SCRIPT LOAD {BODY}\nSCRIPT FLUSH\nSCRIPT EXISTS {0} {0}", sha()));
    let (one, two) = (world.received(0), world.received(1));
    assert_eq!(texts(&one), texts(&two));
    assert!(matches!(one[1], Received::Write { .. }) && matches!(one[2], Received::Read(_)));
    for (link, all) in [(0, &one), (1, &two)] {
        world.reply(link, &all[0], &format!("$40\r\n{}\r\n", sha()));
        world.reply(link, &all[1], "+OK\r\n");
        world.reply(link, &all[2], &format!("*2\r\n:{link}\r\n:0\r\n"));
    }
    let told = world.told(client);
    assert_eq!(told, format!("$40\r\n{}\r\n+OK\r\n*2\r\n:1\r\n:0\r\n", sha()));
}

#[test]
fn one_shards_error_is_the_answer_of_all() {
    let mut world = World::new(2);
    let client = world.client();
    world.send(client, "FUNCTION LOAD #!lua");
    let (one, two) = (world.received_one(0), world.received_one(1));
    world.reply(0, &one, "$1\r\nx\r\n");
    world.reply(1, &two, "-TRYAGAIN x\r\n");
    assert_eq!(world.told(client), "-TRYAGAIN x\r\n");
}

#[test]
fn evalsha_carries_the_body_to_a_shard_that_may_not_have_it() {
    let mut world = World::new(2);
    let (a, b) = (key_of_shard(1, 2), key_of_shard(2, 2));
    let client = world.client();
    world.send(client, &format!("EVAL {BODY} 1 {a}\nEVALSHA {} 1 {a}", sha()));
    let sent = world.received(0);
    assert_eq!(sent[1].text(), format!("EVALSHA {} 1 {a}", sha()), "the shard has it already");
    // The other shard: first with the body, then without.
    world.send(client, &format!("EVALSHA {0} 1 {b}\nEVALSHA {0} 1 {b}", sha()));
    let sent = world.received(1);
    assert_eq!(texts(&sent), [format!("EVAL {BODY} 1 {b}"), format!("EVALSHA {} 1 {b}", sha())]);
}

#[test]
fn an_unknown_script_is_looked_for_on_all_shards() {
    let mut world = World::new(2);
    let b = key_of_shard(2, 2);
    let client = world.client();
    world.send(client, &format!("EVALSHA {} 1 {b} x\nGET {b}", sha()));
    let (one, two) = (world.received_one(0), world.received_one(1));
    assert_eq!(one.text(), format!("SCRIPT SHOW {}", sha()));
    assert_eq!(two.text(), one.text());
    world.reply(1, &two, "-NOSCRIPT x\r\n");
    assert!(world.received(1).is_empty(), "the client waits");
    world.reply(0, &one, &format!("${}\r\n{BODY}\r\n", BODY.len()));
    let sent = world.received(1);
    assert_eq!(texts(&sent), [format!("EVAL {BODY} 1 {b} x"), format!("GET {b}")]);
    world.reply(1, &sent[1], "$1\r\nv\r\n");
    world.reply(1, &sent[0], ":1\r\n");
    assert_eq!(world.told(client), ":1\r\n$1\r\nv\r\n");
}

#[test]
fn a_script_that_nobody_has_is_an_error_and_is_looked_for_again() {
    let mut world = World::new(2);
    let a = key_of_shard(1, 2);
    let client = world.client();
    for _ in 0..2 {
        world.send(client, &format!("EVALSHA {} 1 {a}", sha()));
        for link in 0..2 {
            let asked = world.received_one(link);
            world.reply(link, &asked, "-NOSCRIPT x\r\n");
        }
        let sent = world.received_one(0);
        assert_eq!(sent.text(), format!("EVALSHA {} 1 {a}", sha()));
        world.reply(0, &sent, "-NOSCRIPT No matching script.\r\n");
        assert_eq!(world.told(client), "-NOSCRIPT No matching script.\r\n");
    }
    // A forged answer is not believed.
    world.send(client, &format!("EVALSHA {} 1 {a}", sha()));
    let (one, two) = (world.received_one(0), world.received_one(1));
    world.reply(0, &one, "$8\r\nreturn 1\r\n");
    world.reply(1, &two, "-NOSCRIPT x\r\n");
    assert_eq!(world.received_one(0).text(), format!("EVALSHA {} 1 {a}", sha()));
}

#[test]
fn a_client_that_leaves_during_the_search_is_forgotten() {
    let mut world = World::new(2);
    let (client, other) = (world.client(), world.client());
    world.send(client, &format!("EVALSHA {} 0", sha()));
    let (one, two) = (world.received_one(0), world.received_one(1));
    let now = world.now();
    world.core.client_gone(client, now);
    world.reply(0, &one, &format!("${}\r\n{BODY}\r\n", BODY.len()));
    world.reply(1, &two, "-NOSCRIPT x\r\n");
    assert!(world.received(0).is_empty());
    world.send(other, "PING");
    assert_eq!(world.told(other), "+PONG\r\n");
}

#[test]
fn transactions_take_the_body_along() {
    let mut world = World::new(2);
    let b = key_of_shard(2, 2);
    let client = world.client();
    world.send(client, &format!("MULTI\nEVALSHA {} 1 {b}\nINCR {b}\nEXEC", sha()));
    let (one, two) = (world.received_one(0), world.received_one(1));
    assert_eq!(world.told(client), "+OK\r\n");
    world.reply(0, &one, "-NOSCRIPT x\r\n");
    world.reply(1, &two, &format!("${}\r\n{BODY}\r\n", BODY.len()));
    assert_eq!(world.told(client), "+QUEUED\r\n+QUEUED\r\n");
    let exec = world.received_one(1);
    assert_eq!(exec.header().flags, flags::ONE_SLOT);
    let Received::Write { body, .. } = &exec else { panic!() };
    let expected = format!("$4\r\nEVAL\r\n${}\r\n{BODY}\r\n", BODY.len());
    assert!(String::from_utf8_lossy(body).contains(&expected));
    world.reply(1, &exec, "*2\r\n:1\r\n:2\r\n");
    assert_eq!(world.told(client), "*2\r\n:1\r\n:2\r\n");
}

#[test]
fn a_flush_makes_the_worker_forget() {
    let mut world = World::new(1);
    let client = world.client();
    world.send(client, &format!("EVAL {BODY} 1 a\nSCRIPT FLUSH\nEVALSHA {} 1 a", sha()));
    let sent = world.received(0);
    assert_eq!(
        texts(&sent),
        [format!("EVAL {BODY} 1 a"), "SCRIPT FLUSH".to_owned(), format!("SCRIPT SHOW {}", sha())]
    );
    let Received::Read(read) = &sent[2] else { panic!() };
    assert_eq!(read.depends_on_seq, sent[1].seq(), "asked after the flush");
}
