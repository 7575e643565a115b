//! Commands that are answered here, and the checks before routing.

use super::*;
use crate::core::respond;
use holdfast_proto::frame::flags;

fn ask(world: &mut World, client: ClientKey, command: &str) -> String {
    world.send(client, command);
    world.told(client)
}

#[test]
fn authentication_comes_first() {
    let mut world = World::with(topology(1, "secret"));
    let client = world.client();
    let noauth = format!("-{}\r\n", respond::NOAUTH);
    assert_eq!(ask(&mut world, client, "GET a\nPING"), noauth.repeat(2));
    let wrong = format!("-{}\r\n", respond::WRONGPASS);
    assert_eq!(ask(&mut world, client, "AUTH no\nAUTH joe secret"), wrong.repeat(2));
    assert!(ask(&mut world, client, "HELLO 3").starts_with("-NOAUTH HELLO must be called"));
    assert_eq!(ask(&mut world, client, "HELLO 3 AUTH default no"), wrong);
    assert_eq!(ask(&mut world, client, "AUTH secret\nPING"), "+OK\r\n+PONG\r\n");
    let other = world.client();
    let hello = ask(&mut world, other, "HELLO 3 AUTH default secret SETNAME me");
    assert!(hello.starts_with("%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n"), "{hello}");
    assert_eq!(ask(&mut world, other, "CLIENT GETNAME"), "$2\r\nme\r\n");
    assert_eq!(ask(&mut world, other, "RESET\nPING"), format!("+RESET\r\n{noauth}"));
}

#[test]
fn protocol_versions_are_checked() {
    let mut world = World::new(1);
    let client = world.client();
    assert_eq!(ask(&mut world, client, "HELLO 4"), "-NOPROTO unsupported protocol version\r\n");
    assert!(ask(&mut world, client, "HELLO x").starts_with("-ERR Protocol version is not"));
    assert!(ask(&mut world, client, "HELLO").starts_with("*14\r\n"));
    assert!(
        ask(&mut world, client, "AUTH x").starts_with("-ERR AUTH <password> called without any")
    );
}

#[test]
fn local_replies_keep_their_place() {
    let mut world = World::new(1);
    let client = world.client();
    world.send(client, "PING\nGET a\nPING\nECHO x");
    assert_eq!(world.told(client), "+PONG\r\n");
    let sent = world.received_one(0);
    world.reply(0, &sent, "$1\r\nv\r\n");
    assert_eq!(world.told(client), "$1\r\nv\r\n+PONG\r\n$1\r\nx\r\n");
}

#[test]
fn quit_answers_everything_first() {
    let mut world = World::new(1);
    let client = world.client();
    world.send(client, "GET a\nQUIT\nPING");
    assert!(!world.is_closing(client));
    let sent = world.received_one(0);
    world.reply(0, &sent, "$-1\r\n");
    assert_eq!(world.told(client), "$-1\r\n+OK\r\n");
    assert!(world.is_closing(client));
}

#[test]
fn protocol_errors_close() {
    let mut world = World::new(1);
    let client = world.client();
    let now = world.now();
    world.core.client_data(client, BytesMut::from(&b"*1\r\n!4\r\nPING\r\n"[..]), now);
    assert_eq!(world.told(client), "-ERR Protocol error: expected '$', got '!'\r\n");
    assert!(world.is_closing(client));
}

#[test]
fn requests_in_pieces_and_inline() {
    let mut world = World::new(1);
    let client = world.client();
    for byte in b"*2\r\n$4\r\nECHO\r\n$3\r\nabc\r\nPING\r\n" {
        let now = world.now();
        world.core.client_data(client, BytesMut::from(&[*byte][..]), now);
    }
    assert_eq!(world.told(client), "$3\r\nabc\r\n+PONG\r\n");
}

#[test]
fn http_is_cut_off() {
    for line in ["GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "POST /x HTTP/1.1\r\n\r\nset a b\r\n"]
    {
        let mut world = World::new(1);
        let client = world.client();
        let now = world.now();
        world.core.client_data(client, BytesMut::from(line.as_bytes()), now);
        assert_eq!(world.told(client), "");
        assert!(world.is_closing(client));
        assert!(world.received(0).is_empty());
    }
}

#[test]
fn a_long_request_in_many_pieces_is_one_request() {
    let mut world = World::new(1);
    let client = world.client();
    let value = "v".repeat(300_000);
    let request =
        format!("*3\r\n$3\r\nSET\r\n$1\r\na\r\n$300000\r\n{value}\r\n*1\r\n$4\r\nPING\r\n");
    for piece in request.as_bytes().chunks(1_000) {
        let now = world.now();
        world.core.client_data(client, BytesMut::from(piece), now);
    }
    let sent = world.received_one(0);
    assert_eq!(sent.text(), format!("SET a {value}"));
    world.reply(0, &sent, "+OK\r\n");
    assert_eq!(world.told(client), "+OK\r\n+PONG\r\n");
}

#[test]
fn select_chooses_the_database() {
    let mut world = World::new(1);
    let client = world.client();
    let told = ask(&mut world, client, "SELECT 16\nSELECT x\nSELECT 3");
    assert_eq!(
        told,
        format!("-{}\r\n-{}\r\n+OK\r\n", respond::DB_OUT_OF_RANGE, respond::NOT_AN_INTEGER)
    );
    world.send(client, "SET a 1");
    assert_eq!(world.received_one(0).header().db, 3);
}

#[test]
fn muted_replies() {
    let mut world = World::new(1);
    let client = world.client();
    world.send(
        client,
        "CLIENT REPLY SKIP\nGET a\nPING\nCLIENT REPLY OFF\nPING\nGET b\nCLIENT REPLY ON",
    );
    let sent = world.received(0);
    assert_eq!(sent.len(), 2);
    for request in &sent {
        world.reply(0, request, "$-1\r\n");
    }
    assert_eq!(world.told(client), "+PONG\r\n+OK\r\n");
}

#[test]
fn cluster_and_sentinel_clients_are_sent_here() {
    let mut world = World::new(2);
    let client = world.client();
    let slots = ask(&mut world, client, "CLUSTER SLOTS");
    assert!(
        slots.starts_with("*1\r\n*3\r\n:0\r\n:16383\r\n*4\r\n$13\r\nproxy.example\r\n:6380\r\n"),
        "{slots}"
    );
    assert_eq!(ask(&mut world, client, "CLUSTER KEYSLOT foo"), ":12182\r\n");
    assert_eq!(
        ask(&mut world, client, "SENTINEL get-master-addr-by-name any"),
        "*2\r\n$13\r\nproxy.example\r\n$4\r\n6380\r\n"
    );
    assert!(ask(&mut world, client, "CLUSTER MEET x 1").starts_with("-ERR"));
}

#[test]
fn what_the_cluster_does_itself_is_refused() {
    let mut world = World::new(1);
    let client = world.client();
    for command in ["SYNC", "FAILOVER", "REPLICAOF no one"] {
        let told = ask(&mut world, client, command);
        assert!(told.contains("Holdfast does this itself"), "{command}: {told}");
    }
}

#[test]
fn introspection_that_libraries_need() {
    let mut world = World::new(1);
    let client = world.client();
    assert_eq!(
        ask(&mut world, client, "CONFIG GET databases"),
        "*2\r\n$9\r\ndatabases\r\n$2\r\n16\r\n"
    );
    assert!(ask(&mut world, client, "CONFIG GET max*").contains("maxmemory-policy"));
    assert_eq!(
        ask(&mut world, client, "CONFIG SET maxmemory 0\nCONFIG RESETSTAT"),
        "+OK\r\n+OK\r\n"
    );
    assert!(ask(&mut world, client, "CONFIG SET nothing 1").starts_with("-ERR Unknown option"));
    assert_eq!(
        ask(&mut world, client, "COMMAND GETKEYS MSET a 1 b 2"),
        "*2\r\n$1\r\na\r\n$1\r\nb\r\n"
    );
    assert!(ask(&mut world, client, "COMMAND INFO get").starts_with("*1\r\n*10\r\n$3\r\nget\r\n"));
    assert!(ask(&mut world, client, "COMMAND COUNT").starts_with(':'));
    assert_eq!(ask(&mut world, client, "WAIT 1 100"), ":1\r\n");
    let list = ask(&mut world, client, "CLIENT LIST");
    assert!(list.contains("addr=10.0.0.1:1234") && list.contains("cmd=client"), "{list}");
    assert_eq!(
        ask(&mut world, client, "CLIENT NOSUCH"),
        "-ERR unknown subcommand 'NOSUCH'. Try CLIENT HELP.\r\n"
    );
}

#[test]
fn clients_are_killed_and_counted() {
    let mut world = World::new(1);
    let (one, two) = (world.client(), world.client());
    world.send(two, "CLIENT ID");
    let id = world.told(two).trim_start_matches(':').trim().to_owned();
    assert_eq!(ask(&mut world, one, &format!("CLIENT KILL ID {id}")), ":1\r\n");
    assert!(world.is_closing(two) && !world.is_closing(one));
    for _ in 0..98 {
        world.client();
    }
    let addr = "10.0.0.1:1".parse().unwrap();
    let now = world.now();
    assert!(world.core.client_connected(addr, addr, now).is_none());
}

#[test]
fn idle_clients_are_closed() {
    let mut topology = topology(1, "");
    topology.spec.as_mut().unwrap().settings.insert("timeout".to_owned(), "5".to_owned());
    let mut world = World::with(topology);
    let (idle, busy) = (world.client(), world.client());
    world.send(busy, "BLPOP q 0");
    world.pass(7_000, &[0, 1, 2]);
    assert!(world.is_closing(idle));
    assert!(!world.is_closing(busy));
}

#[test]
fn pause_and_unpause() {
    let mut world = World::new(1);
    let (admin, client) = (world.client(), world.client());
    assert_eq!(ask(&mut world, admin, "CLIENT PAUSE 10000 WRITE"), "+OK\r\n");
    world.send(client, "GET b\nSET a 1\nPING");
    assert_eq!(texts(&world.received(0)), ["GET b"]);
    assert_eq!(ask(&mut world, admin, "CLIENT UNPAUSE"), "+OK\r\n");
    world.pass(20, &[0]);
    assert_eq!(texts(&world.received(0)), ["SET a 1"]);
}

#[test]
fn other_workers_are_asked_about_their_clients() {
    let mut world = World::new(1);
    world.core.config.worker_count = 2;
    let client = world.client();
    world.take_actions();
    world.send(client, "CLIENT KILL ID 77\nPING");
    let asked = world.take_actions();
    let [Action::AskPeers { ask, request }] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!(world.told(client), "");
    // Another worker would say:
    let now = world.now();
    assert_eq!(world.core.answer_peer(request, now), ":0\r\n");
    world.core.peers_answered(*ask, &[Bytes::from_static(b":1\r\n")], now);
    assert_eq!(world.told(client), ":1\r\n+PONG\r\n");
    world.send(client, "CLIENT LIST");
    let asked = world.take_actions();
    let [Action::AskPeers { ask, .. }] = &asked[..] else { panic!("{asked:?}") };
    world.core.peers_answered(*ask, &[Bytes::from_static(b"$6\r\nid=78\n\r\n")], now);
    let list = world.told(client);
    assert!(list.contains("cmd=client") && list.ends_with("id=78\n\r\n"), "{list}");
}

/// The changes that the core asks the shell for.
fn proposals(world: &mut World) -> Vec<(usize, Change)> {
    let mut changes = Vec::new();
    for action in world.take_actions() {
        if let Action::Propose { ask, change } = action {
            changes.push((ask, change));
        }
    }
    changes
}

fn settings(pairs: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn a_setting_is_answered_when_it_can_be_read() {
    let mut world = World::new(1);
    let client = world.client();
    world.send(client, "CONFIG SET TIMEOUT 60 maxmemory 1mb\nCONFIG GET timeout");
    let asked = proposals(&mut world);
    let changes = settings(&[("timeout", "60"), ("maxmemory", "1048576")]);
    assert_eq!(asked, [(0, Change::Settings(changes.clone()))]);
    let now = world.now();
    world.core.proposed(0, Ok(2), now);
    assert_eq!(world.told(client), "", "this proxy does not have it yet");
    let mut changed = topology(1, "");
    changed.version = 2;
    changed.spec.as_mut().unwrap().settings.extend(changes);
    world.core.topology(Arc::new(changed), now);
    assert_eq!(world.told(client), "+OK\r\n*2\r\n$7\r\ntimeout\r\n$2\r\n60\r\n");
    // Nothing to change, nothing to ask.
    assert_eq!(ask(&mut world, client, "CONFIG SET maxmemory 1024kb"), "+OK\r\n");
    assert!(proposals(&mut world).is_empty());
}

#[test]
fn sentinels_that_refuse_or_are_away_are_named() {
    let mut world = World::new(1);
    let client = world.client();
    for (result, text) in [
        (Err(ChangeError::Refused("no".to_owned())), "-ERR no\r\n"),
        (Err(ChangeError::Unavailable), "-ERR the sentinels do not answer; "),
    ] {
        world.send(client, "CONFIG SET timeout 60");
        let (ask, _) = proposals(&mut world)[0];
        let now = world.now();
        world.core.proposed(ask, result, now);
        assert!(world.told(client).starts_with(text));
    }
}

#[test]
fn bad_settings_get_the_errors_of_redis() {
    let mut world = World::new(1);
    let client = world.client();
    let failed = |name: &str, why: &str| {
        format!("-ERR CONFIG SET failed (possibly related to argument '{name}') - {why}\r\n")
    };
    let cases = [
        (
            "foo bar",
            "-ERR Unknown option or number of arguments for CONFIG SET - 'foo'\r\n".to_owned(),
        ),
        ("timeout", "-ERR wrong number of arguments for 'config|set' command\r\n".to_owned()),
        ("timeout x", failed("timeout", "argument couldn't be parsed into an integer")),
        (
            "hz 1 timeout -1",
            failed("timeout", "argument must be between 0 and 2147483647 inclusive"),
        ),
        ("timeout 1 timeout 2", failed("timeout", "duplicate parameter")),
        ("databases 3", failed("databases", "can't set immutable config")),
        ("activerehashing 3", failed("activerehashing", "argument must be 'yes' or 'no'")),
        ("maxmemory 10%", failed("maxmemory", "argument must be a memory value")),
    ];
    for (command, expected) in cases {
        assert_eq!(ask(&mut world, client, &format!("CONFIG SET {command}")), expected);
    }
    assert!(proposals(&mut world).is_empty());
}

#[test]
fn a_read_that_may_wait_is_a_record() {
    let mut world = World::new(1);
    let client = world.client();
    world.send(client, "XREAD STREAMS s 0");
    let read = world.received_one(0);
    assert_eq!(read.seq(), 0);
    world.reply(0, &read, "*-1\r\n");
    world.send(client, "XREAD COUNT 1 BLOCK 0 STREAMS s $\nPING");
    let waiting = world.received_one(0);
    assert_eq!(waiting.header().seq, 1);
    world.answer(0, waiting.tag(), AnswerStatus::Blocked, b"");
    assert_eq!(world.told(client), "*-1\r\n");
    world.reply(0, &waiting, "*0\r\n");
    assert_eq!(world.told(client), "*0\r\n+PONG\r\n");
}

#[test]
fn streams_are_routed_by_their_keys() {
    let mut world = World::new(2);
    let client = world.client();
    let keys = [1, 2].map(|shard| key_of_shard(shard, 2));
    world.send(client, &format!("XREAD STREAMS {} {} 0 0", keys[0], keys[1]));
    assert!(world.told(client).starts_with("-CROSSSLOT"));
    for command in ["XREAD STREAMS", "XREADGROUP GROUP STREAMS c STREAMS"] {
        world.send(client, &format!("{command} {} 0", keys[1]));
        let sent = world.received_one(1);
        assert_eq!(sent.text(), format!("{command} {} 0", keys[1]));
        world.reply(1, &sent, "*-1\r\n");
        assert_eq!(world.told(client), "*-1\r\n");
    }
}

#[test]
fn monitors_are_told_what_others_run() {
    let mut world = World::new(1);
    let (watcher, client) = (world.client(), world.client());
    assert_eq!(ask(&mut world, watcher, "MONITOR"), "+OK\r\n");
    assert_eq!(world.take_actions().last(), Some(&Action::Monitoring { on: true }));
    world.send(client, "SELECT 2\nGET a\"b\nAUTH x\nCONFIG GET x");
    let told = world.told(watcher);
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines.len(), 3, "{told}");
    assert!(lines[2].ends_with("\"AUTH\" \"(redacted)\""), "{told}");
    assert!(lines[0].ends_with("[0 10.0.0.1:1234] \"SELECT\" \"2\""), "{told}");
    assert!(lines[1].ends_with("[2 10.0.0.1:1234] \"GET\" \"a\\\"b\""), "{told}");
    // What other workers' clients run.
    world.core.monitored(&Bytes::from_static(b"+1.000000 [0 x] \"PING\"\r\n"));
    assert_eq!(world.told(watcher), "+1.000000 [0 x] \"PING\"\r\n");
    assert!(ask(&mut world, watcher, "RESET").ends_with("+RESET\r\n"));
    world.send(client, "PING");
    assert_eq!(world.told(watcher), "");
    assert_eq!(world.take_actions().last(), Some(&Action::Monitoring { on: false }));
    // Clients of other workers watch: they get the line through the shell.
    world.core.set_monitors_elsewhere(true);
    world.send(client, "PING");
    assert!(matches!(world.take_actions().last(), Some(Action::Monitored { .. })));
}

#[test]
fn debug_is_for_test_suites_only() {
    let mut world = World::new(1);
    let client = world.client();
    for command in ["DEBUG SLEEP 1", "DEBUG OBJECT key"] {
        let told = ask(&mut world, client, command);
        assert!(told.starts_with("-ERR DEBUG command not allowed."), "{told}");
    }
    let mut allowed = topology(1, "");
    allowed.version = 2;
    let settings = settings(&[("enable-debug-command", "yes")]);
    allowed.spec.as_mut().unwrap().settings.extend(settings);
    let now = world.now();
    world.core.topology(Arc::new(allowed), now);
    assert_eq!(ask(&mut world, client, "DEBUG ERROR OOPS"), "-OOPS\r\n");
    world.send(client, "DEBUG OBJECT key");
    let sent = world.received_one(0);
    assert!(matches!(sent, Received::Read(_)) && sent.text() == "DEBUG OBJECT key");
    world.reply(0, &sent, "+Value at:0x0\r\n");
    assert_eq!(world.told(client), "+Value at:0x0\r\n");
    assert_eq!(ask(&mut world, client, "DEBUG STRINGMATCH-LEN 10 *b"), ":0\r\n");
    world.send(client, "DEBUG SLEEP 0.5\nPING");
    world.pass(400, &[0, 1, 2]);
    assert_eq!(world.told(client), "");
    world.pass(200, &[0, 1, 2]);
    assert_eq!(world.told(client), "+OK\r\n+PONG\r\n");
}

#[test]
fn latency_is_shown_by_command_and_by_event() {
    let mut world = World::new(1);
    let mut watched = topology(1, "");
    watched.version = 2;
    let settings = settings(&[("latency-monitor-threshold", "50")]);
    watched.spec.as_mut().unwrap().settings.extend(settings);
    let now = world.now();
    world.core.topology(Arc::new(watched), now);
    let client = world.client();
    for milliseconds in [10, 100] {
        world.send(client, "GET a");
        let sent = world.received_one(0);
        world.pass(milliseconds, &[0, 1, 2]);
        world.reply(0, &sent, "$-1\r\n");
    }
    world.told(client);
    let latest = ask(&mut world, client, "LATENCY LATEST");
    assert!(latest.starts_with("*1\r\n*4\r\n$12\r\nfast-command\r\n:"), "{latest}");
    assert!(latest.ends_with(":100\r\n:100\r\n"), "{latest}");
    let histogram = ask(&mut world, client, "LATENCY HISTOGRAM get set");
    assert!(histogram.starts_with("*2\r\n$3\r\nget\r\n*4\r\n$5\r\ncalls\r\n:2\r\n"), "{histogram}");
    assert_eq!(ask(&mut world, client, "LATENCY RESET\nLATENCY LATEST"), ":1\r\n*0\r\n");
    assert!(ask(&mut world, client, "LATENCY GRAPH x").starts_with("-ERR No samples"));
    world.send(client, "INFO latencystats commandstats");
    let sent = world.received_one(0);
    world.reply(0, &sent, "$8\r\nkeys:0\r\n\r\n");
    let info = world.told(client);
    assert!(info.contains("latency_percentiles_usec_get:p50="), "{info}");
    assert!(info.contains("cmdstat_latency|latest:calls=2,"), "{info}");
}

#[test]
fn a_slot_is_asked_about_where_it_is() {
    let mut world = World::new(3);
    let client = world.client();
    world.send(client, "CLUSTER COUNTKEYSINSLOT 16000");
    assert_eq!(texts(&world.received(2)), ["CLUSTER COUNTKEYSINSLOT 16000"]);
    let other = world.client();
    world.send(other, "CLUSTER GETKEYSINSLOT 0 10");
    assert_eq!(texts(&world.received(0)), ["CLUSTER GETKEYSINSLOT 0 10"]);
    let third = world.client();
    let bad = "-ERR Invalid or out of range slot\r\n";
    assert_eq!(ask(&mut world, third, "CLUSTER COUNTKEYSINSLOT 16384"), bad);
    let bad = "-ERR Invalid slot or number of keys\r\n";
    assert_eq!(ask(&mut world, third, "CLUSTER GETKEYSINSLOT 0 -1"), bad);
}

#[test]
fn no_touch_goes_with_every_command_of_its_client() {
    let mut world = World::new(2);
    let client = world.client();
    let (a, b) = (key_of_shard(1, 2), key_of_shard(2, 2));
    let flags_of = |received: &Received| match received {
        Received::Write { header, .. } => header.flags,
        Received::Read(read) => read.flags,
    };
    world.send(client, &format!("CLIENT NO-TOUCH ON\nSET {a} 1\nGET {a}\nMGET {a} {b}"));
    let sent: Vec<Received> =
        [world.received(0), world.received(1)].into_iter().flatten().collect();
    assert_eq!(sent.len(), 4, "{sent:?}");
    assert!(sent.iter().all(|sent| flags_of(sent) & flags::NO_TOUCH != 0), "{sent:?}");
    let other = world.client();
    world.send(other, &format!("GET {a}"));
    assert_eq!(flags_of(&world.received_one(0)) & flags::NO_TOUCH, 0);
}
