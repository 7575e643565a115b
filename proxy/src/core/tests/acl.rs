//! Users, what they may do, and what happens to their connections.

use super::*;

/// A cluster of one shard with these users.
fn with_users(users: &[(&str, &str)]) -> v1::Topology {
    let mut topology = topology(1, "");
    let spec = topology.spec.as_mut().unwrap();
    spec.users = users.iter().map(|(n, r)| ((*n).to_owned(), (*r).to_owned())).collect();
    topology
}

const READER: &str =
    "on nopass ~a* resetchannels -@all +@read +multi +exec +config|get +acl|whoami";

fn ask(world: &mut World, client: ClientKey, command: &str) -> String {
    world.send(client, command);
    world.told(client)
}

/// What the core asks the sentinels for: name, rules expected now, new rules.
fn changes(world: &mut World) -> Vec<(String, String, String)> {
    let mut all = Vec::new();
    for action in world.take_actions() {
        if let Action::Propose { change: Change::Users(users), .. } = action {
            all.extend(users.into_iter().map(|c| (c.name, c.expected, c.rules)));
        }
    }
    all
}

fn update(world: &mut World, version: u64, users: &[(&str, &str)]) {
    let mut changed = with_users(users);
    changed.version = version;
    let now = world.now();
    world.core.topology(Arc::new(changed), now);
}

#[test]
fn a_user_does_what_its_rules_allow() {
    let mut world = World::with(with_users(&[("joe", READER)]));
    let client = world.client();
    assert_eq!(ask(&mut world, client, "AUTH joe x\nACL WHOAMI"), "+OK\r\n$3\r\njoe\r\n");
    let no_command = "-NOPERM User joe has no permissions to run the 'set' command\r\n";
    assert_eq!(ask(&mut world, client, "SET a 1"), no_command);
    let no_key = "-NOPERM No permissions to access a key\r\n";
    assert_eq!(ask(&mut world, client, "MGET a b"), no_key);
    let no_sub = "-NOPERM User joe has no permissions to run the 'config|set' command\r\n";
    assert_eq!(ask(&mut world, client, "CONFIG SET timeout 1"), no_sub);
    assert!(world.received(0).is_empty());
    assert_eq!(ask(&mut world, client, "MGET a ab"), "");
    assert_eq!(texts(&world.received(0)), ["MGET a ab"]);
    // The other client is nobody in particular.
    let other = world.client();
    assert_eq!(ask(&mut world, other, "ACL WHOAMI"), "$7\r\ndefault\r\n");
    let stats = world.core.stats();
    let denied = (stats.denied_commands, stats.denied_keys, stats.denied_channels);
    assert_eq!(denied, (2, 1, 0));
}

#[test]
fn a_refused_command_spoils_its_transaction() {
    let mut world = World::with(with_users(&[("joe", READER)]));
    let client = world.client();
    ask(&mut world, client, "AUTH joe x");
    let told = ask(&mut world, client, "MULTI\nGET a\nGET b\nEXEC");
    assert!(told.ends_with("-EXECABORT Transaction discarded because of previous errors.\r\n"));
    // Rights that were taken away between the queueing and EXEC.
    assert_eq!(ask(&mut world, client, "MULTI\nGET a"), "+OK\r\n+QUEUED\r\n");
    update(&mut world, 2, &[("joe", "on nopass -@all +exec")]);
    assert_eq!(
        ask(&mut world, client, "EXEC"),
        "-EXECABORT Transaction discarded because of: NOPERM User joe has no permissions to run \
         the 'get' command\r\n"
    );
    assert!(world.received(0).is_empty());
}

#[test]
fn sort_with_patterns_needs_the_right_to_read_every_key() {
    let mut world = World::with(with_users(&[("joe", "on nopass ~a* +sort")]));
    let client = world.client();
    ask(&mut world, client, "AUTH joe x");
    let by = "-ERR BY option of SORT denied due to insufficient ACL permissions.\r\n";
    assert_eq!(ask(&mut world, client, "SORT a BY w*"), by);
    let get = "-ERR GET option of SORT denied due to insufficient ACL permissions.\r\n";
    assert_eq!(ask(&mut world, client, "SORT a BY nosort GET x*"), get);
    assert_eq!(ask(&mut world, client, "SORT a BY nosort"), "");
}

#[test]
fn users_are_stored_with_what_they_were_based_on() {
    let mut world = World::with(with_users(&[("joe", "on nopass -@all")]));
    let client = world.client();
    world.send(client, "ACL SETUSER ann on >pw ~k* +@all -@admin (%R~x +get)");
    let hash = "30c952fab122c3f9759f02a6d95c3758b246b4fee239957b2d4fee46e26170c4";
    let rules = format!(
        "on sanitize-payload #{hash} ~k* resetchannels +@all -@admin (%R~x resetchannels -@all +get)"
    );
    let ann = ("ann".to_owned(), String::new(), rules.clone());
    assert_eq!(changes(&mut world), [ann]);
    let now = world.now();
    world.core.proposed(0, Ok(2), now);
    update(&mut world, 2, &[("joe", "on nopass -@all"), ("ann", &rules)]);
    assert_eq!(world.told(client), "+OK\r\n");
    assert_eq!(
        ask(&mut world, client, "AUTH ann pw\nAUTH default x\nACL SETUSER ann on"),
        "+OK\r\n".repeat(3)
    );
    assert!(changes(&mut world).is_empty(), "it is on already");
    let bad = "-ERR Error in ACL SETUSER modifier '+nosuch': Unknown command or category name in \
               ACL\r\n";
    assert_eq!(ask(&mut world, client, "ACL SETUSER ann off +nosuch"), bad);
    assert!(changes(&mut world).is_empty());
}

#[test]
fn a_change_that_came_too_late_is_made_again_on_the_newest_rules() {
    let mut world = World::with(with_users(&[("joe", "on nopass -@all +get")]));
    let client = world.client();
    world.send(client, "ACL SETUSER joe +set\nPING");
    assert_eq!(changes(&mut world).len(), 1);
    update(&mut world, 2, &[("joe", "on nopass -@all +get +del")]);
    let now = world.now();
    world.core.proposed(0, Err(ChangeError::Stale), now);
    let expected = "on nopass -@all +get +del".to_owned();
    let rules = "on nopass sanitize-payload resetchannels -@all +get +del +set".to_owned();
    assert_eq!(changes(&mut world), [("joe".to_owned(), expected, rules)]);
    world.core.proposed(0, Ok(2), now);
    assert_eq!(world.told(client), "+OK\r\n+PONG\r\n");
}

#[test]
fn deleting_a_user_closes_its_connections() {
    let mut world = World::with(with_users(&[("joe", READER), ("ann", READER)]));
    let (joe, ann, admin) = (world.client(), world.client(), world.client());
    ask(&mut world, joe, "AUTH joe x");
    ask(&mut world, ann, "AUTH ann x");
    let text = "-ERR The 'default' user cannot be removed\r\n";
    assert_eq!(ask(&mut world, admin, "ACL DELUSER joe default"), text);
    world.send(admin, "ACL DELUSER joe nobody joe");
    let joe_goes = ("joe".to_owned(), READER.to_owned(), String::new());
    assert_eq!(changes(&mut world), [joe_goes]);
    let now = world.now();
    world.core.proposed(0, Ok(2), now);
    update(&mut world, 2, &[("ann", READER)]);
    assert_eq!(world.told(admin), ":1\r\n");
    assert!(world.is_closing(joe));
    assert!(!world.is_closing(ann) && !world.is_closing(admin));
}

#[test]
fn refusals_are_logged_and_equal_ones_counted() {
    let mut world = World::with(with_users(&[("joe", READER)]));
    let (client, admin) = (world.client(), world.client());
    ask(&mut world, client, "AUTH joe x\nSET a 1\nSET a 2\nGET b\nAUTH nobody x");
    let log = ask(&mut world, admin, "ACL LOG");
    assert!(
        log.starts_with("*3\r\n*20\r\n$5\r\ncount\r\n:1\r\n$6\r\nreason\r\n$4\r\nauth\r\n"),
        "{log}"
    );
    assert!(log.contains("$5\r\ncount\r\n:2\r\n$6\r\nreason\r\n$7\r\ncommand\r\n"), "{log}");
    assert!(log.contains("$6\r\nobject\r\n$1\r\nb\r\n"), "{log}");
    assert!(log.contains("user=joe"), "{log}");
    assert_eq!(ask(&mut world, admin, "ACL LOG RESET\nACL LOG"), "+OK\r\n*0\r\n");
}

#[test]
fn without_a_right_to_enter_nobody_enters() {
    let mut world =
        World::with(with_users(&[("default", "off nopass ~* &* +@all"), ("joe", READER)]));
    let client = world.client();
    assert!(ask(&mut world, client, "PING").starts_with("-NOAUTH"));
    assert!(ask(&mut world, client, "AUTH default x").starts_with("-WRONGPASS"));
    assert!(ask(&mut world, client, "HELLO 3 AUTH joe x").starts_with("%7"));
    assert_eq!(ask(&mut world, client, "RESET"), "+RESET\r\n");
    assert!(ask(&mut world, client, "PING").starts_with("-NOAUTH"));
}

#[test]
fn generated_passwords_have_the_wanted_length_and_differ() {
    let mut world = World::new(1);
    let client = world.client();
    let first = ask(&mut world, client, "ACL GENPASS");
    assert_eq!(first.len(), "$64\r\n\r\n".len() + 64);
    assert_ne!(first, ask(&mut world, client, "ACL GENPASS"));
    assert!(ask(&mut world, client, "ACL GENPASS 5").starts_with("$2\r\n"));
    let bad = "-ERR ACL GENPASS argument must be the number of bits";
    for bits in ["0", "4097", "-1"] {
        assert!(ask(&mut world, client, &format!("ACL GENPASS {bits}")).starts_with(bad));
    }
}

/// What a user may do goes with its scripts, for the shard to check what they call.
#[test]
fn scripts_carry_what_their_user_may_do() {
    let rules = "on nopass ~a* resetchannels -@all +eval +evalsha +multi +exec +get";
    let permissions = "~a* resetchannels -@all +eval +evalsha +multi +exec +get";
    let mut world = World::with(with_users(&[("joe", rules)]));
    let client = world.client();
    world.send(client, "EVAL return{} 1 a");
    assert_eq!(texts(&world.received(0)), ["EVAL return{} 1 a"]);
    let client = world.client();
    ask(&mut world, client, "AUTH joe x");
    world.send(client, "EVAL return{} 1 a\nGET a");
    let wrapped = format!("\0on-behalf joe {permissions} EVAL return{{}} 1 a");
    let sent = world.received(0);
    assert_eq!(texts(&sent), [wrapped.clone(), "GET a".to_owned()]);
    world.reply(0, &sent[0], "*0\r\n");
    world.reply(0, &sent[1], "$-1\r\n");
    assert_eq!(world.told(client), "*0\r\n$-1\r\n");
    world.send(client, "MULTI\nEVAL return{} 1 a\nGET a\nEXEC");
    let Received::Write { body, .. } = world.received_one(0) else { panic!("a record") };
    assert_eq!(body[..6], [0, 0, 2, 0, 0, 0]);
    let mut args = smallvec::SmallVec::new();
    holdfast_proto::resp::parse_array(&body[6..], &mut args).unwrap();
    let words: Vec<_> = args.iter().map(|arg| String::from_utf8_lossy(arg)).collect();
    assert_eq!(words.join(" "), wrapped);
    // Not that a client could choose whom it is.
    let client = world.client();
    let reply = ask(&mut world, client, "\0on-behalf joe +@all GET b");
    assert!(reply.starts_with("-ERR unknown command"), "{reply}");
}
