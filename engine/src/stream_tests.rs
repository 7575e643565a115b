//! Streams through whole engines: time, waiting, restarts.

use super::*;

const ENTRY: &str = "*1\r\n*2\r\n$1\r\ns\r\n*1\r\n*2\r\n$3\r\n5-1\r\n*2\r\n$1\r\nf\r\n$1\r\nv\r\n";

#[test]
fn ids_come_from_cluster_time() {
    let mut client = Client::new();
    assert_eq!(client.run("XADD s * f v"), "$9\r\n1000001-0\r\n");
    client.time_ms -= 1;
    assert_eq!(client.run("XADD s * f v"), "$9\r\n1000001-1\r\n");
    client.time_ms -= 1000;
    assert_eq!(client.run("XADD s * f v"), "$9\r\n1000001-2\r\n");
    client.time_ms += 5000;
    assert_eq!(client.run("XADD s * f v"), "$9\r\n1004003-0\r\n");
    assert_eq!(client.run("XADD s 1004004-* f v"), "$9\r\n1004004-0\r\n");
}

#[test]
fn every_reader_gets_what_comes_after_it_asked() {
    let mut client = Client::new();
    client.run("XADD s 5-0 f old");
    for seq in 2..=4 {
        assert_eq!(client.all("XREAD BLOCK 0 STREAMS s $"), blocked(seq));
    }
    assert_eq!(
        client.read(client.time_ms, "XREAD BLOCK 0 STREAMS s $").0,
        ReadOutcome::NotReadOnly
    );
    client.restart();
    let served = client.all("XADD s 5-1 f v");
    assert_eq!(
        served,
        [reply(5, "$3\r\n5-1\r\n"), reply(2, ENTRY), reply(3, ENTRY), reply(4, ENTRY)]
    );
    // What is there is read at once, without a record.
    let now_ms = client.time_ms;
    let read = client.read(now_ms, "XREAD BLOCK 0 STREAMS s 5-0");
    assert_eq!(read, (ReadOutcome::Done, ENTRY.to_owned()));
}

#[test]
fn what_is_gone_again_wakes_nobody() {
    let mut client = Client::new();
    client.run("XADD s 5-0 f old");
    assert_eq!(client.all("XREAD BLOCK 0 STREAMS s $"), blocked(2));
    assert_eq!(client.run("XADD s MAXLEN 0 5-1 f v"), "$3\r\n5-1\r\n");
    assert_eq!(client.run("XLEN s"), ":0\r\n");
    assert_eq!(client.run("DEL s"), ":1\r\n");
    assert_eq!(client.run("LPUSH s x"), ":1\r\n");
    assert_eq!(client.engine.stats().blocked_commands, 1);
}

#[test]
fn readers_time_out_and_do_not_wait_in_transactions() {
    let mut client = Client::new();
    assert_eq!(client.all("XREAD BLOCK 100 STREAMS s $"), blocked(1));
    assert_eq!(client.engine.next_unblock_at(), Some(1_000_101));
    client.time_ms += 200;
    let ended = client.unblock(1, UnblockReason::Timeout);
    assert!(ended.contains(&reply(1, "*-1\r\n")), "{ended:?}");
    let exec = client.exec(&[], &["XREAD BLOCK 0 STREAMS s $", "XADD s 5-1 f v"]);
    assert_eq!(exec, [reply(2, "*2\r\n*-1\r\n$3\r\n5-1\r\n")]);
}

#[test]
fn a_group_shares_its_entries() {
    let mut client = Client::new();
    client.run("XGROUP CREATE s g $ MKSTREAM");
    assert_eq!(client.all("XREADGROUP GROUP g a BLOCK 0 COUNT 1 STREAMS s >"), blocked(2));
    assert_eq!(client.all("XREADGROUP GROUP g b BLOCK 0 STREAMS s >"), blocked(3));
    client.restart();
    assert_eq!(client.all("XADD s 5-1 f v"), [reply(4, "$3\r\n5-1\r\n"), reply(2, ENTRY)]);
    let pending = client.run("XPENDING s g - + 10");
    assert!(pending.starts_with("*1\r\n*4\r\n$3\r\n5-1\r\n$1\r\na\r\n:1\r\n:1\r\n"), "{pending}");
    let other = ENTRY.replace("5-1", "5-2");
    assert_eq!(client.all("XADD s 5-2 f v")[1], reply(3, &other));
}

#[test]
fn waiting_for_a_group_ends_with_it() {
    let no_group =
        "-NOGROUP No such key 's' or consumer group 'g' in XREADGROUP with GROUP option\r\n";
    let wrong_type = "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n";
    for (end, answer, error) in [
        ("XGROUP DESTROY s g", ":1\r\n", no_group),
        ("DEL s", ":1\r\n", no_group),
        ("FLUSHALL", "+OK\r\n", no_group),
        ("SET s x", "+OK\r\n", wrong_type),
        ("RENAME s t", "+OK\r\n", no_group),
    ] {
        let mut client = Client::new();
        client.run("XGROUP CREATE s g $ MKSTREAM");
        assert_eq!(client.all("XREADGROUP GROUP g a BLOCK 0 STREAMS s >"), blocked(2));
        assert_eq!(client.all("XREAD BLOCK 0 STREAMS s $"), blocked(3));
        assert_eq!(client.all(end), [reply(4, answer), reply(2, error)], "{end}");
        assert_eq!(client.engine.stats().blocked_commands, 1, "{end}");
    }
    let mut client = Client::new();
    client.run("XGROUP CREATE s g $ MKSTREAM");
    client.run("PEXPIRE s 50");
    assert_eq!(client.all("XREADGROUP GROUP g a BLOCK 0 STREAMS s >"), blocked(3));
    client.time_ms += 100;
    assert_eq!(client.own(RecordOp::Expire, 0, &encode("s")), [reply(3, no_group)]);
}

#[test]
fn consumers_are_seen_and_active() {
    let mut client = Client::new();
    client.run("XADD s 5-1 f v");
    client.run("XGROUP CREATE s g 0");
    client.run("XREADGROUP GROUP g busy STREAMS s >");
    let read_at = client.time_ms;
    client.run("XREADGROUP GROUP g idle STREAMS s >");
    client.time_ms += 1000;
    client.run("XREADGROUP GROUP g busy STREAMS s >");
    client.restart();
    let info = client.run("XINFO STREAM s FULL");
    let times = |seen: u64, active: &str| {
        format!("$9\r\nseen-time\r\n:{seen}\r\n$11\r\nactive-time\r\n:{active}\r\n")
    };
    assert!(info.contains(&times(client.time_ms - 1, &read_at.to_string())), "{info}");
    assert!(info.contains(&times(read_at + 1, "-1")), "{info}");
    // Reading through a group is no modification of the key.
    let watched = client.watch("s");
    client.run("XADD t 1-1 f v");
    client.run("XREADGROUP GROUP g busy STREAMS s 0");
    client.run("XACK s g 5-1");
    assert_eq!(client.watch("s"), watched);
    client.run("XDEL s 5-1");
    assert_ne!(client.watch("s"), watched);
}

#[test]
fn approximate_trimming_is_the_same_after_a_restart() {
    let mut client = Client::new();
    for n in 0..1000 {
        client.run(&format!("XADD s {}-1 f {}", n + 1, "x".repeat(n % 90)));
        if n % 7 == 0 {
            client.run(&format!("XDEL s {}-1", n / 2 + 1));
        }
        if n % 150 == 149 {
            client.restart();
        }
    }
    let mut other = Client::new();
    for n in 0..1000 {
        other.run(&format!("XADD s {}-1 f {}", n + 1, "x".repeat(n % 90)));
        if n % 7 == 0 {
            other.run(&format!("XDEL s {}-1", n / 2 + 1));
        }
    }
    for trim in
        ["XTRIM s MAXLEN ~ 700", "XTRIM s MINID ~ 505-0", "XADD s MAXLEN ~ 100 LIMIT 120 * f v"]
    {
        assert_eq!(client.run(trim), other.run(trim), "{trim}");
        assert_eq!(client.run("XLEN s"), other.run("XLEN s"), "{trim}");
    }
}

/// `entries-read` and `lag` of every group of `s`.
fn progress(client: &mut Client) -> String {
    let info = client.run("XINFO GROUPS s");
    let lines: Vec<_> = info.split("\r\n").collect();
    let values = lines.windows(2).filter(|pair| matches!(pair[0], "entries-read" | "lag"));
    values.map(|pair| pair[1].replace("$-1", "nil")).collect::<Vec<_>>().join(" ")
}

/// Commands, and after `=>` the progress that they lead to.
fn check_progress(script: &str) {
    let mut client = Client::new();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (commands, wanted) = line.split_once(" => ").unwrap_or((line, ""));
        for command in commands.split("; ") {
            let reply = match command.strip_prefix("READ") {
                Some(rest) => client.run(&format!("XREADGROUP GROUP g c{rest}")),
                None => client.run(command),
            };
            assert!(!reply.starts_with('-'), "{command}: {reply}");
        }
        if !wanted.is_empty() {
            assert_eq!(progress(&mut client), wanted, "{line}");
            client.restart();
            assert_eq!(progress(&mut client), wanted, "{line}, from a checkpoint");
        }
    }
}

/// The numbers are those of Redis's own tests since 7.2.7.
#[test]
fn what_was_deleted_or_trimmed_unread_is_no_lag() {
    check_progress(
        "XGROUP CREATE s g $ MKSTREAM; XADD s 1-0 f v; READ STREAMS s > => :1 :0
         XADD s 2-0 f v; XADD s 3-0 f v; XDEL s 2-0 => :1 nil
         XDEL s 1-0 => :1 :1
         READ STREAMS s > => :3 :0",
    );
    check_progress(
        "XADD s 1-0 f v; XADD s 2-0 f v; XADD s 3-0 f v; XADD s 4-0 f v; XADD s 5-0 f v
         XDEL s 3-0; XGROUP CREATE s g 0; XGROUP CREATE s h 0 => nil nil nil nil
         READ COUNT 1 STREAMS s > => nil nil nil nil
         READ COUNT 2 STREAMS s > => nil nil nil nil
         READ COUNT 1 STREAMS s > => :5 :0 nil nil
         XADD s 6-0 f v => :5 :1 nil nil
         XTRIM s MINID = 3-0 => :5 :1 nil :3
         XTRIM s MINID = 5-0 => :5 :1 nil :2",
    );
    check_progress(
        "XGROUP CREATE s g $ MKSTREAM
         XADD s 1-0 f v; XADD s 2-0 f v; XADD s 3-0 f v; XADD s 4-0 f v; XADD s 5-0 f v
         READ COUNT 1 STREAMS s > => :1 :4
         XTRIM s MAXLEN 1 => :1 :1
         READ STREAMS s > => :5 :0
         XADD s 6-0 f v => :5 :1
         XTRIM s MAXLEN 0 => :5 :0",
    );
}

#[test]
fn counts_that_clients_claim_wrap_around() {
    check_progress(
        "XGROUP CREATE s g 0 MKSTREAM ENTRIESREAD 9223372036854775807 => :9223372036854775807 :0
         XADD s 1-0 f v; XADD s 2-0 f v => :9223372036854775807 :2
         XGROUP SETID s g 1-0 ENTRIESREAD 9223372036854775807 \
         => :9223372036854775807 :-9223372036854775805
         XDEL s 1-0 => :9223372036854775807 :1
         XGROUP SETID s g 2-0 ENTRIESREAD 9223372036854775807 \
         => :9223372036854775807 :-9223372036854775805
         XADD s 3-0 f v; READ STREAMS s > => :-9223372036854775808 :-9223372036854775805",
    );
}
