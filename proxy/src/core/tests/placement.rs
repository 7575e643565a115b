//! Co-location rules, command profiles, strict-multi-key.

use super::*;

/// Three shards with these settings.
fn with_settings(settings: &[(&str, &str)]) -> World {
    let mut topology = topology(3, "");
    let spec = topology.spec.as_mut().unwrap();
    spec.settings = settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    World::with(topology)
}

/// What each node received.
fn received(world: &mut World) -> [Vec<String>; 3] {
    [0, 1, 2].map(|link| texts(&world.received(link)))
}

/// The one link that received something, and what.
fn received_somewhere(world: &mut World) -> (usize, Vec<String>) {
    let all = received(world);
    let links: Vec<usize> = (0..3).filter(|link| !all[*link].is_empty()).collect();
    assert_eq!(links.len(), 1, "{all:?}");
    (links[0], all[links[0]].clone())
}

#[test]
fn keys_with_a_prefix_are_on_one_shard() {
    let mut world = with_settings(&[("colocation-rules", "prefix bull:")]);
    let client = world.client();
    world.send(client, "MSETNX bull:a 1 bull:b 2 bull:c 3\nRENAME bull:a bull:z\nGET bull:q");
    let (link, commands) = received_somewhere(&mut world);
    assert_eq!(commands.len(), 3);
    let other = world.client();
    world.send(other, "MULTI\nSET bull:x 1\nLPUSH bull:y 1\nEXEC");
    assert_eq!(received_somewhere(&mut world).0, link);
    // Others are where they always were.
    world.send(other, "RENAME bull:a elsewhere{1}");
    world.send(other, "MGET a b c d e f g");
    assert!(received(&mut world).iter().filter(|texts| !texts.is_empty()).count() > 1);
}

#[test]
fn a_database_is_on_one_shard() {
    let mut world = with_settings(&[("colocation-rules", "database 3")]);
    let client = world.client();
    world.send(client, "SELECT 3\nSINTERSTORE x y z\nMGET a b c d e f g h");
    let (link, commands) = received_somewhere(&mut world);
    assert_eq!(commands, ["SINTERSTORE x y z", "MGET a b c d e f g h"]);
    // A SELECT inside a transaction counts as well.
    let other = world.client();
    world.send(other, "MULTI\nSELECT 3\nSET a 1\nSET b 1\nSET c 1\nEXEC");
    assert_eq!(received_somewhere(&mut world).0, link);
    assert!(world.told(other).ends_with("+QUEUED\r\n"));
    // Keys do not leave it, nor come into it from another shard.
    let third = world.client();
    let shard = link as u32 % 3 + 1;
    let away = key_of_shard(shard % 3 + 1, 3);
    world.send(third, &format!("MOVE {away} 3\nCOPY {away} {away} DB 3\nSWAPDB 0 3"));
    let crossslot = format!("-{}\r\n", crate::core::respond::CROSSSLOT);
    let told = world.told(third);
    assert!(told.starts_with(&crossslot.repeat(2)), "{told}");
    assert!(told.contains("SWAPDB is not possible"), "{told}");
}

#[test]
fn clients_do_not_change_rules_and_profiles() {
    let mut world = with_settings(&[]);
    let client = world.client();
    for change in ["colocation-rules database", "command-profile managed", "scripting no"] {
        world.send(client, &format!("CONFIG SET {change}"));
        let told = world.told(client);
        assert!(told.contains("only the operator may change it"), "{told}");
    }
}

#[test]
fn strict_multi_key_refuses_what_would_be_split() {
    let (a, b) = (key_of_shard(1, 3), key_of_shard(2, 3));
    let mut world = with_settings(&[("strict-multi-key", "yes")]);
    let client = world.client();
    let crossslot = format!("-{}\r\n", crate::core::respond::CROSSSLOT);
    world.send(client, &format!("MSET {a} 1 {b} 2\nDEL {a} {b}"));
    assert_eq!(world.told(client), crossslot.repeat(2));
    world.send(client, &format!("MGET {a} {b}"));
    assert_eq!(world.told(client), "");
}

#[test]
fn a_profile_withholds_commands() {
    let mut world = with_settings(&[("command-profile", "managed"), ("scripting", "no")]);
    let client = world.client();
    world.send(client, "CONFIG GET *\nCOMMAND\nEVAL x 0\nPING\nCLIENT ID");
    let told = world.told(client);
    assert_eq!(told.matches("-NOPERM the command '").count(), 3, "{told}");
    assert!(told.contains("+PONG"));
}
