use super::*;
use crate::checkpoint::CheckpointStep;
use proptest::prelude::*;

#[path = "stream_tests.rs"]
mod streams;

/// Proxy workers and their engine under test.
struct Client {
    engine: Engine,
    time_ms: u64,
    worker: u64,
    next: u64,
    flags: u8,
    out: Outcomes,
}

type Answer = (u64, AnswerStatus, String);

impl Client {
    fn new() -> Self {
        Self {
            engine: Engine::new(EngineConfig::default()),
            time_ms: 1_000_000,
            worker: 1,
            next: 1,
            flags: 0,
            out: Outcomes::new(),
        }
    }

    fn header(&self, op: RecordOp, seq: u64) -> RecordHeader {
        RecordHeader {
            op,
            flags: self.flags,
            db: 0,
            slot: Slot::default(),
            worker: WorkerId(self.worker),
            seq,
            first_unacked: seq,
            tag: seq,
            body_len: 0,
        }
    }

    fn send(&mut self, header: RecordHeader, body: &[u8]) -> Vec<Answer> {
        self.out.clear();
        self.time_ms += 1;
        let batch = BatchHeader { count: 1, time_ms: self.time_ms, seed: self.time_ms };
        self.engine.apply(&batch, 0, &header, body, &mut self.out);
        self.out
            .iter()
            .map(|(completion, payload)| {
                let text = String::from_utf8_lossy(payload).into_owned();
                (completion.tag, completion.status, text)
            })
            .collect()
    }

    /// Sends the next command of the lane; all answers.
    fn all(&mut self, command: &str) -> Vec<Answer> {
        let header = self.header(RecordOp::Command, self.next);
        self.next += 1;
        self.send(header, &encode(command))
    }

    /// Sends the next command of the lane, which only answers itself.
    fn run(&mut self, command: &str) -> String {
        let mut answers = self.all(command);
        assert_eq!(answers.len(), 1, "{answers:?}");
        answers.remove(0).2
    }

    fn exec(&mut self, watches: &[(u32, u64)], commands: &[&str]) -> Vec<Answer> {
        let mut body = (watches.len() as u16).to_le_bytes().to_vec();
        for (index, version) in watches {
            body.extend_from_slice(&index.to_le_bytes());
            body.extend_from_slice(&version.to_le_bytes());
        }
        body.extend_from_slice(&(commands.len() as u32).to_le_bytes());
        for command in commands {
            body.extend_from_slice(&encode(command));
        }
        let header = self.header(RecordOp::Exec, self.next);
        self.next += 1;
        self.send(header, &body)
    }

    fn watch(&mut self, key: &str) -> (u32, u64) {
        let mut out = Vec::new();
        let body = encode(key);
        let outcome =
            self.engine.read(self.time_ms, 0, false, ReadOp::WatchVersions, &body, &mut out);
        assert_eq!(outcome, ReadOutcome::Done);
        let (index, version) = out.split_at(4);
        (
            u32::from_le_bytes(index.try_into().unwrap()),
            u64::from_le_bytes(version.try_into().unwrap()),
        )
    }

    fn read(&mut self, now_ms: u64, command: &str) -> (ReadOutcome, String) {
        let mut out = Vec::new();
        let body = encode(command);
        let outcome = self.engine.read(now_ms, 0, false, ReadOp::Command, &body, &mut out);
        (outcome, String::from_utf8(out).unwrap())
    }

    /// A record of the primary itself.
    fn own(&mut self, op: RecordOp, tag: u64, body: &[u8]) -> Vec<Answer> {
        let header = RecordHeader { worker: WorkerId::SHARD, seq: 0, tag, ..self.header(op, 0) };
        self.send(header, body)
    }

    fn unblock(&mut self, seq: u64, reason: UnblockReason) -> Vec<Answer> {
        let mut body = seq.to_le_bytes().to_vec();
        body.push(reason as u8);
        self.own(RecordOp::Unblock, self.worker, &body)
    }

    /// Goes on with an engine loaded from a checkpoint of this one.
    fn restart(&mut self) {
        let mut file = Vec::new();
        self.engine.checkpoint_begin();
        while self.engine.checkpoint_step(1 << 20, &mut file) == CheckpointStep::More {}
        let before = self.engine.digest();
        self.engine = Engine::load(self.engine.cfg.clone(), file.as_slice()).unwrap();
        assert_eq!(self.engine.digest(), before);
    }
}

fn encode(command: &str) -> Vec<u8> {
    let args: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
    let mut raw = Vec::new();
    holdfast_proto::resp::encode::command(&mut raw, args.into_iter());
    raw
}

fn reply(tag: u64, text: &str) -> Answer {
    (tag, AnswerStatus::Reply, text.to_owned())
}

fn blocked(tag: u64) -> Vec<Answer> {
    vec![(tag, AnswerStatus::Blocked, String::new())]
}

#[test]
fn sets_and_gets() {
    let mut client = Client::new();
    assert_eq!(client.run("SET k hello"), "+OK\r\n");
    assert_eq!(client.run("GET k"), "$5\r\nhello\r\n");
    assert_eq!(client.run("set k 12"), "+OK\r\n");
    assert_eq!(client.run("get k"), "$2\r\n12\r\n");
    assert_eq!(client.engine.key_count(0), 1);
}

// ---- lanes -----------------------------------------------------------------------------------------

#[test]
fn a_repeated_record_gets_the_kept_reply() {
    let mut client = Client::new();
    assert_eq!(client.run("INCR n"), ":1\r\n");
    assert_eq!(client.run("GETSET n 7"), "$1\r\n1\r\n");
    for restarted in [false, true] {
        for (seq, text) in [(1, ":1\r\n"), (2, "$1\r\n1\r\n")] {
            // The worker has not confirmed anything yet.
            let header =
                RecordHeader { first_unacked: 1, tag: 99, ..client.header(RecordOp::Command, seq) };
            let answers = client.send(header, &encode("SET n 0"));
            if seq == 2 {
                assert_eq!(answers, [reply(99, text)], "restarted: {restarted}");
            } else {
                // Record 2 said that 1 was answered.
                assert_eq!(answers[0].1, AnswerStatus::Reply);
                assert!(answers[0].2.starts_with("-ERR"), "{answers:?}");
            }
        }
        client.restart();
    }
    assert_eq!(client.run("GET n"), "$1\r\n7\r\n");
}

#[test]
fn errors_use_their_seq() {
    let mut client = Client::new();
    assert!(client.run("GET").starts_with("-ERR wrong number of arguments for 'get'"));
    assert!(client.run("NOSUCH a").starts_with("-ERR unknown command 'NOSUCH'"));
    assert_eq!(client.engine.lane_next(Slot::default(), WorkerId(1)), Some(3));
}

#[test]
fn a_gap_is_refused() {
    let mut client = Client::new();
    client.run("SET k 1");
    let header = client.header(RecordOp::Command, 3);
    let answers = client.send(header, &encode("SET k 3"));
    assert_eq!(answers[0].1, AnswerStatus::Gap);
    assert_eq!(client.out.buf, 2u64.to_le_bytes());
    assert_eq!(client.run("GET k"), "$1\r\n1\r\n");
}

#[test]
fn an_unknown_lane_begins_at_1_only() {
    let mut client = Client::new();
    let header = client.header(RecordOp::Command, 2);
    assert_eq!(client.send(header, &encode("SET k 1"))[0].1, AnswerStatus::SessionExpired);
    assert_eq!(client.run("SET k 1"), "+OK\r\n");
    client.own(RecordOp::RetireWorker, 0, &1u64.to_le_bytes());
    assert_eq!(client.all("SET k 2")[0].1, AnswerStatus::SessionExpired);
    client.next = 1;
    assert_eq!(client.all("SET k 2")[0].1, AnswerStatus::SessionExpired);
    client.worker = 2;
    client.next = 1;
    assert_eq!(client.run("GET k"), "$1\r\n1\r\n");
}

// ---- transactions ------------------------------------------------------------------------------------

#[test]
fn exec_runs_all_or_nothing() {
    let mut client = Client::new();
    let answers = client.exec(&[], &["SET k 1", "INCR k", "LPUSH k x", "NOSUCH"]);
    assert!(answers[0].2.starts_with("*4\r\n+OK\r\n:2\r\n-WRONGTYPE"), "{answers:?}");
    let watch = client.watch("k");
    assert_eq!(client.exec(&[watch], &["INCR k"])[0].2, "*1\r\n:3\r\n");
    assert_eq!(client.exec(&[watch], &["INCR k"])[0].2, "*-1\r\n");
    assert_eq!(client.run("GET k"), "$1\r\n3\r\n");
}

#[test]
fn select_inside_exec_lasts_to_its_end() {
    let mut client = Client::new();
    let commands = ["SET k 0", "SELECT 3", "SET k 3", "SELECT 99", "SELECT x", "GET k"];
    assert_eq!(
        client.exec(&[], &commands)[0].2,
        "*6\r\n+OK\r\n+OK\r\n+OK\r\n-ERR DB index is out of range\r\n\
         -ERR value is not an integer or out of range\r\n$1\r\n3\r\n"
    );
    assert_eq!(client.run("GET k"), "$1\r\n0\r\n");
}

#[test]
fn watches_see_every_kind_of_change() {
    for change in [
        "SET k 2",
        "DEL k",
        "RENAME k other",
        "EXPIRE k 100",
        "FLUSHALL",
        "SWAPDB 0 1",
        "APPEND k x",
    ] {
        let mut client = Client::new();
        client.run("SET k 1");
        let watch = client.watch("k");
        client.run(change);
        assert_eq!(client.exec(&[watch], &["GET k"])[0].2, "*-1\r\n", "{change}");
    }
    let mut client = Client::new();
    client.run("SET k 1 PX 50");
    let watch = client.watch("k");
    client.time_ms += 100;
    client.own(RecordOp::Expire, 0, &encode("k"));
    assert_eq!(client.exec(&[watch], &["GET k"])[0].2, "*-1\r\n");
}

// ---- expiry ------------------------------------------------------------------------------------------

#[test]
fn keys_expire_at_apply_and_reads_never_go_back() {
    let mut client = Client::new();
    client.run("SET k 1 PX 100");
    let due = client.time_ms + 100;
    assert_eq!(client.read(due - 1, "GET k"), (ReadOutcome::Done, "$1\r\n1\r\n".to_owned()));
    assert_eq!(client.read(due, "GET k"), (ReadOutcome::Expired, String::new()));
    assert_eq!(client.read(due, "KEYS *"), (ReadOutcome::Expired, String::new()));
    client.time_ms = due;
    client.own(RecordOp::Tick, 0, &[]);
    assert_eq!(client.read(due, "GET k"), (ReadOutcome::Done, "$-1\r\n".to_owned()));
    assert_eq!(client.engine.key_count(0), 1, "reads do not delete");
    assert_eq!(client.run("GET k"), "$-1\r\n");
    assert_eq!(client.engine.key_count(0), 0);
    assert_eq!(client.engine.stats().expired_keys, 1);
}

#[test]
fn due_keys_are_found_once() {
    let mut client = Client::new();
    for key in 0..500 {
        client.run(&format!("SET key{key} x PX {}", 1000 + key));
        client.run(&format!("SET later{key} x EX 1000000"));
    }
    let now_ms = client.time_ms + 10_000;
    let mut found = Vec::new();
    while client.engine.due_expired(now_ms, 20, &mut found) {}
    assert_eq!(found.len(), 500);
    let mut again = Vec::new();
    client.engine.due_expired(now_ms, 10_000, &mut again);
    assert_eq!(again, []);
    // Nobody deleted them: they come again.
    client.engine.due_expired(now_ms + 2000, 10_000, &mut again);
    assert_eq!(again.len(), 500);
    client.time_ms = now_ms;
    for (_, _, key) in found {
        let key = String::from_utf8(key).unwrap();
        client.own(RecordOp::Expire, 0, &encode(&key));
    }
    assert_eq!((client.engine.key_count(0), client.engine.expires_count(0)), (500, 500));
}

#[test]
fn a_read_refuses_writes() {
    let mut client = Client::new();
    assert_eq!(client.read(0, "SET k 1").0, ReadOutcome::NotReadOnly);
    assert_eq!(client.read(0, "GETEX k").0, ReadOutcome::NotReadOnly);
    assert_eq!(client.read(0, "OBJECT ENCODING k").0, ReadOutcome::Done);
}

// ---- blocking ----------------------------------------------------------------------------------------

#[test]
fn who_waits_is_told_when_its_session_ends() {
    let mut client = Client::new();
    assert_eq!(client.all("BLPOP a 0"), blocked(1));
    assert_eq!(client.all("BLPOP b 1"), blocked(2));
    let worker = client.worker;
    let ended = |tag| (tag, AnswerStatus::SessionExpired, String::new());
    let told = client.own(RecordOp::RetireWorker, 0, &worker.to_le_bytes());
    assert_eq!(told, [ended(1), ended(2)]);
    assert_eq!(client.own(RecordOp::RetireWorker, 0, &worker.to_le_bytes()), []);
    // What comes now is not given to anybody.
    client.worker += 1;
    client.next = 1;
    assert_eq!(client.run("RPUSH a x"), ":1\r\n");
}

#[test]
fn the_first_to_wait_is_served_first() {
    let mut client = Client::new();
    assert_eq!(client.all("BLPOP a b 0"), blocked(1));
    assert_eq!(client.all("BLPOP b 0"), blocked(2));
    client.restart();
    assert_eq!(
        client.all("RPUSH b 1 2 3"),
        [
            reply(3, ":3\r\n"),
            reply(1, "*2\r\n$1\r\nb\r\n$1\r\n1\r\n"),
            reply(2, "*2\r\n$1\r\nb\r\n$1\r\n2\r\n"),
        ]
    );
    assert_eq!(client.run("LRANGE b 0 -1"), "*1\r\n$1\r\n3\r\n");
    assert_eq!(client.engine.stats().blocked_commands, 0);
}

#[test]
fn a_served_move_serves_the_next() {
    let mut client = Client::new();
    assert_eq!(client.all("BLMOVE a b LEFT RIGHT 0"), blocked(1));
    assert_eq!(client.all("BRPOP b 0"), blocked(2));
    assert_eq!(
        client.all("LPUSH a x"),
        [reply(3, ":1\r\n"), reply(1, "$1\r\nx\r\n"), reply(2, "*2\r\n$1\r\nb\r\n$1\r\nx\r\n"),]
    );
    assert_eq!(client.run("DBSIZE"), ":0\r\n");
}

#[test]
fn a_transaction_wakes_after_its_end() {
    let mut client = Client::new();
    assert_eq!(client.all("BLPOP k 0"), blocked(1));
    // What was pushed is gone again when the transaction ends.
    let answers = client.exec(&[], &["LPUSH k x", "DEL k"]);
    assert_eq!(answers, [reply(2, "*2\r\n:1\r\n:1\r\n")]);
    let answers = client.exec(&[], &["LPUSH k x", "LPUSH k y"]);
    assert_eq!(answers[1], reply(1, "*2\r\n$1\r\nk\r\n$1\r\ny\r\n"));
    assert_eq!(client.exec(&[], &["BLPOP none 0"])[0].2, "*1\r\n*-1\r\n");
}

#[test]
fn a_key_of_another_type_wakes_nobody() {
    let mut client = Client::new();
    assert_eq!(client.all("BZPOPMIN k 0"), blocked(1));
    assert_eq!(client.run("RPUSH k x"), ":1\r\n");
    assert_eq!(client.run("DEL k"), ":1\r\n");
    assert_eq!(client.all("ZADD k 1 m")[1].0, 1);
}

#[test]
fn a_resent_wait_goes_on_under_its_new_tag() {
    let mut client = Client::new();
    assert_eq!(client.all("BLPOP k 0"), blocked(1));
    let header = RecordHeader { tag: 77, ..client.header(RecordOp::Command, 1) };
    assert_eq!(client.send(header, &encode("BLPOP k 0")), blocked(77));
    assert_eq!(client.all("LPUSH k x")[1].0, 77);
    // The final answer is kept until the worker says that it has it, whatever it confirmed.
    let resent = RecordHeader { first_unacked: 2, ..header };
    let text = "*2\r\n$1\r\nk\r\n$1\r\nx\r\n";
    assert_eq!(client.send(resent, &encode("BLPOP k 0")), [reply(77, text)]);
    client.unblock(1, UnblockReason::Gone);
    assert!(client.send(resent, &encode("BLPOP k 0"))[0].2.starts_with("-ERR"));
}

#[test]
fn waits_end_by_time_out() {
    let mut client = Client::new();
    assert_eq!(client.all("BLPOP k 0.5"), blocked(1));
    let deadline = client.engine.next_unblock_at().unwrap();
    assert_eq!(deadline, client.time_ms + 500);
    let mut due = Vec::new();
    client.engine.due_unblocks(deadline - 1, 10, &mut due);
    assert_eq!(due, []);
    assert_eq!(client.unblock(1, UnblockReason::Timeout), [], "too early");
    client.engine.due_unblocks(deadline, 10, &mut due);
    assert_eq!(due, [(WorkerId(1), Slot::default(), 1)]);
    client.time_ms = deadline;
    assert_eq!(client.unblock(1, UnblockReason::Timeout), [reply(1, "*-1\r\n")]);
    assert_eq!(client.run("LPUSH k x"), ":1\r\n");
    assert_eq!(client.engine.next_unblock_at(), None);
}

#[test]
fn waits_end_for_clients_that_left() {
    let mut client = Client::new();
    assert_eq!(client.all("BLPOP k 0"), blocked(1));
    assert_eq!(client.all("BLPOP k 0"), blocked(2));
    assert_eq!(client.unblock(1, UnblockReason::Gone), []);
    let error = "-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n";
    assert_eq!(client.unblock(2, UnblockReason::Error), [reply(2, error)]);
    assert_eq!(client.engine.stats().blocked_commands, 0);
}

// ---- accounts and determinism --------------------------------------------------------------------------

#[test]
fn memory_returns_to_where_it_was() {
    let mut client = Client::new();
    let empty = client.engine.space.memory();
    for round in 0..3 {
        for key in 0..300 {
            client.run(&format!("SET s{key} {}", "x".repeat(key * 7)));
            client.run(&format!("APPEND s{key} tail"));
            client.run(&format!("RPUSH l{} element{key}", key % 7));
            client.run(&format!("HSET h{} f{key} {}", key % 5, "y".repeat(key)));
            client.run(&format!("SADD t{} {key}", key % 3));
            client.run(&format!("ZADD z{} {key} m{key}", key % 3));
            client.run(&format!("EXPIRE s{key} 1000"));
            client.run(&format!("SET s{key} short KEEPTTL"));
            client.run(&format!("PERSIST s{}", key / 2));
        }
        assert!(client.engine.space.memory() > empty + 30_000);
        if round == 0 {
            client.run("FLUSHALL");
        } else {
            let mut keys = Vec::new();
            for (_, entry) in client.engine.space.dbs[0].iter() {
                use crate::table::Keyed;
                keys.push(String::from_utf8(entry.key().to_vec()).unwrap());
            }
            for key in keys {
                client.run(&format!("DEL {key}"));
            }
        }
        assert_eq!(client.engine.space.memory(), empty, "round {round}");
        assert_eq!(client.engine.expires_count(0), 0);
    }
}

/// Commands whose effects could depend on layout, encoding or time, if they were wrong.
fn any_command() -> impl Strategy<Value = String> {
    let key = 0u8..6;
    let member = 0u16..400;
    (0u8..26, key, member, any::<i16>()).prop_map(|(form, key, member, number)| match form {
        0 => format!("SET s{key} {number}"),
        1 => format!("APPEND s{key} {member}"),
        2 => format!("INCRBY s{key} {number}"),
        3..=5 => format!("SADD t{key} {member} {number} m{member}"),
        6 => format!("SPOP t{key}"),
        7 => format!("SPOP t{key} 5"),
        8 => format!("SREM t{key} {member} m{member}"),
        9 | 10 => format!("HSET h{key} f{member} {number} {number} {member}"),
        11 => format!("HDEL h{key} f{member}"),
        12 => format!("RPUSH l{key} {member} x{number}"),
        13 => format!("LPOP l{key}"),
        14 => format!("ZADD z{key} {number} m{member} {member} {number}"),
        15 => format!("ZPOPMIN z{key} 3"),
        16 => format!("SORT t{key} BY nosort STORE l{key}"),
        17 => format!("SDIFFSTORE t{key} t{} t0", (key + 1) % 6),
        18 => format!("ZUNIONSTORE z{key} 2 z0 t{key}"),
        19 => format!("PEXPIRE t{key} {}", number.unsigned_abs()),
        20 => format!("PEXPIRE s{key} {}", number.unsigned_abs() / 100),
        21 => format!("RENAME t{key} t{}", (key + 1) % 6),
        22 => format!("BLPOP l{key} 0"),
        23 => "RANDOMKEY".to_owned(),
        24 => format!("ZRANGESTORE z{key} z1 0 10"),
        _ => format!("DEL s{key} t{key} l{key}"),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Tables restored from a file have another history, size and layout than tables that grew:
    /// replies and states must be equal all the same.
    #[test]
    fn a_restored_replica_stays_equal(
        commands in prop::collection::vec((any_command(), 0u8..40), 1..400),
    ) {
        let mut plain = Client::new();
        let mut restored = Client::new();
        for (command, restart) in commands {
            prop_assert_eq!(plain.all(&command), restored.all(&command), "{}", command);
            if restart == 0 {
                restored.restart();
                prop_assert_eq!(
                    plain.engine.key_count(0),
                    restored.engine.key_count(0)
                );
            }
        }
        prop_assert_eq!(plain.engine.digest(), restored.engine.digest());
    }
}

#[test]
fn effects_are_told_to_who_watches_and_cost_nothing_else() {
    let mut c = Client::new();
    c.run("SET k 1");
    assert!(c.out.effects.is_empty());
    let publications = true;
    c.engine.watch(Watched { events: EventClasses::ALL, keys: true, publications });
    c.run("SET k 2 PX 5");
    let set = event(EventClasses::STRING, "set", "k");
    let expire = event(EventClasses::GENERIC, "expire", "k");
    assert_eq!(c.out.effects, [changed("k"), set, expire]);
    c.exec(&[], &["PUBLISH news hello", "SPUBLISH part x"]);
    let published = |channel: &str, message: &str, sharded| Effect::Published {
        channel: channel.as_bytes().into(),
        message: message.as_bytes().into(),
        sharded,
    };
    assert_eq!(c.out.effects, [published("news", "hello", false), published("part", "x", true)]);
    c.time_ms += 10;
    c.run("DEL k");
    assert_eq!(c.out.effects, [changed("k"), event(EventClasses::EXPIRED, "expired", "k")]);
    c.run("FLUSHALL");
    assert_eq!(c.out.effects, [Effect::AllChanged]);
}

#[test]
fn a_bitfield_that_only_makes_room_has_no_event() {
    let mut c = Client::new();
    let empty = c.engine.space.memory();
    c.engine.watch(Watched { events: EventClasses::ALL, keys: true, publications: false });
    let refused = "BITFIELD k OVERFLOW FAIL SET u8 80000 300";
    let setbit = event(EventClasses::STRING, "setbit", "k");
    assert_eq!(c.run(refused), "*1\r\n$-1\r\n");
    // It is there and longer than before, which transactions and caches must know.
    assert_eq!(c.out.effects, [changed("k")]);
    assert_eq!(c.run("STRLEN k"), ":10001\r\n");
    assert!(c.engine.space.memory() > empty + 10_000);
    c.run(refused);
    assert!(c.out.effects.is_empty());
    c.run("DEL k");
    assert_eq!(c.engine.space.memory(), empty);
    // What one operation may not do, another may.
    c.run(&format!("{refused} SET u8 0 0"));
    assert_eq!(c.out.effects, [changed("k"), setbit]);
}

#[test]
fn a_pfadd_that_ends_with_an_error_has_no_event() {
    let mut c = Client::new();
    // A sparse HyperLogLog that ends 255 registers before the last one.
    c.run(&format!("SET k HYLL\u{1}{}\u{7f}\0", "\0".repeat(11)));
    c.engine.watch(Watched { events: EventClasses::ALL, keys: true, publications: false });
    let elements: String = (0..300).map(|number| format!(" {number}")).collect();
    let before = c.run("GET k");
    let reply = c.run(&format!("PFADD k{elements}"));
    assert_eq!(reply, "-INVALIDOBJ Corrupted HLL object detected\r\n");
    assert_eq!(c.out.effects, [changed("k")]);
    let after = c.run("GET k");
    assert!(after.len() > before.len(), "the first elements were added");
}

fn changed(key: &str) -> Effect {
    Effect::Changed { key: key.as_bytes().into() }
}

fn event(class: EventClasses, event: &'static str, key: &str) -> Effect {
    Effect::Event { class, event, db: 0, key: key.as_bytes().into() }
}

#[test]
fn eviction_prefers_what_was_not_used() {
    let mut client = Client::new();
    for key in 0..200 {
        client.run(&format!("SET key{key} x"));
    }
    client.run("SET volatile x EX 1000000");
    client.time_ms += 100_000;
    for key in 100..200 {
        client.run(&format!("GET key{key}"));
    }
    let now_ms = client.time_ms;
    let choose = |client: &mut Client, policy, bytes, count| {
        client.engine.set_eviction(EvictionConfig { policy, ..EvictionConfig::default() });
        let mut victims = Vec::new();
        let freed = client.engine.choose_victims(now_ms, bytes, count, &mut victims);
        (freed, victims)
    };
    let (freed, victims) = choose(&mut client, EvictPolicy::AllKeysLru, usize::MAX, 80);
    let used = |victim: &&Victim| {
        let text = std::str::from_utf8(&victim.key).unwrap();
        text.strip_prefix("key").is_some_and(|number| number.parse::<u32>().unwrap() >= 100)
    };
    let wrong = victims.iter().filter(used).count();
    assert!(victims.len() == 80 && wrong < 8, "{wrong} of {}", victims.len());
    assert!(freed >= 80 * 32);
    let distinct: std::collections::BTreeSet<_> = victims.iter().collect();
    assert_eq!(distinct.len(), victims.len());
    let (_, all) = choose(&mut client, EvictPolicy::AllKeysRandom, usize::MAX, 1000);
    assert!(all.len() > 150, "{} of 201 keys", all.len());
    let (freed, few) = choose(&mut client, EvictPolicy::AllKeysRandom, 100, 1000);
    assert!(freed >= 100 && few.len() < 5);
    for policy in [EvictPolicy::VolatileLru, EvictPolicy::VolatileTtl, EvictPolicy::VolatileLfu] {
        let (_, victims) = choose(&mut client, policy, 1, 1);
        assert_eq!(victims[0].key, b"volatile");
    }
    client.own(RecordOp::Evict, 0, &encode("volatile nothing"));
    assert_eq!(client.engine.stats().evicted_keys, 1);
    assert_eq!(choose(&mut client, EvictPolicy::VolatileTtl, 1, 1), (0, Vec::new()));
    assert_eq!(choose(&mut client, EvictPolicy::NoEviction, 1, 1), (0, Vec::new()));
}

#[test]
fn frequencies_and_idle_times_are_shown_by_the_policy() {
    let mut client = Client::new();
    client.run("SET key x");
    client.time_ms += 50_000;
    assert_eq!(client.run("OBJECT IDLETIME key"), ":50\r\n");
    assert!(client.run("OBJECT FREQ key").starts_with("-ERR An LFU maxmemory policy is not"));
    let policy = EvictPolicy::VolatileLfu;
    client.engine.set_eviction(EvictionConfig { policy, ..EvictionConfig::default() });
    assert_eq!(client.run("OBJECT FREQ key"), ":5\r\n");
    assert!(client.run("OBJECT IDLETIME key").starts_with("-ERR An LFU maxmemory policy is sel"));
    for _ in 0..300 {
        client.run("GET key");
    }
    let frequency: u32 = client.run("OBJECT FREQ key")[1..].trim().parse().unwrap();
    assert!((8..20).contains(&frequency), "{frequency}");
    client.run("SET key another-value-of-another-length-that-moves-the-entry");
    assert_eq!(client.run("OBJECT FREQ key"), format!(":{frequency}\r\n"));
    // Nor is it forgotten when another encoding takes the entry's place.
    client.run("SET key 1");
    client.run("INCRBYFLOAT key 0.5");
    client.run("APPEND key x");
    let kept: u32 = client.run("OBJECT FREQ key")[1..].trim().parse().unwrap();
    assert!((frequency..frequency + 3).contains(&kept), "{kept}");
}

#[test]
fn without_memory_commands_that_need_some_are_refused() {
    let mut client = Client::new();
    client.run("SET key x");
    client.flags = flags::OUT_OF_MEMORY;
    let error = "-OOM command not allowed when used memory > 'maxmemory'.\r\n";
    assert_eq!(client.run("SET other x"), error);
    assert_eq!(client.run("LPUSH list x"), error);
    assert_eq!(client.run("DEL key"), ":1\r\n");
    assert_eq!(client.engine.key_count(0), 0);
}

#[test]
fn a_transaction_without_memory_is_refused_for_a_script_that_declares_itself() {
    let mut client = Client::new();
    client.flags = flags::OUT_OF_MEMORY;
    let aborted = "-EXECABORT Transaction discarded because of: OOM command not allowed when used \
                   memory > 'maxmemory'.\r\n";
    let mut exec = |commands: &[&str]| client.exec(&[], commands).remove(0).2;
    assert_eq!(exec(&["DEL x", "EVAL #!lua\nreturn(1) 0"]), aborted);
    let allowed = "EVAL #!lua\tflags=allow-oom\nreturn(redis.call('INCR','x')) 0";
    assert_eq!(exec(&[allowed]), "*1\r\n:1\r\n");
    // One without flags is judged by its commands, of which none had written before.
    let reply = exec(&["DEL x", "EVAL return(redis.call('INCR','x')) 0"]);
    assert!(reply.starts_with("*2\r\n:1\r\n-OOM command not allowed when used memory"), "{reply}");
    let reply = exec(&["EVAL redis.call('DEL','y')return(redis.call('INCR','x')) 0"]);
    assert_eq!(reply, "*1\r\n:1\r\n");
}

#[test]
fn looking_a_key_up_is_a_use_unless_the_client_says_otherwise() {
    let mut client = Client::new();
    let mut idle_after = |flags: u8, command: &str| {
        client.flags = 0;
        client.run("SET key x");
        client.time_ms += 100_000;
        client.flags = flags;
        client.run(command);
        client.flags = 0;
        client.run("OBJECT IDLETIME key")
    };
    assert_eq!(idle_after(0, "GET key"), ":0\r\n");
    assert_eq!(idle_after(0, "EXISTS key"), ":100\r\n");
    assert_eq!(idle_after(0, "TOUCH key"), ":0\r\n");
    for command in ["GET key", "APPEND key x", "EVAL return(redis.call('GET','key')) 0"] {
        assert_eq!(idle_after(flags::NO_TOUCH, command), ":100\r\n", "{command}");
    }
    assert_eq!(idle_after(flags::NO_TOUCH, "TOUCH key"), ":0\r\n");
    // A read has the flags of its own frame, and the next record its own.
    client.time_ms += 100_000;
    let mut out = Vec::new();
    client.engine.heed_flags(flags::NO_TOUCH, Slot::default());
    let (time_ms, body) = (client.time_ms, encode("GET key"));
    client.engine.read(time_ms, 0, false, ReadOp::Command, &body, &mut out);
    assert_eq!(client.run("OBJECT IDLETIME key"), ":100\r\n");
    client.run("GET key");
    assert_eq!(client.run("OBJECT IDLETIME key"), ":0\r\n");
}

#[test]
fn debug_object_tells_of_a_value_as_redis_does() {
    let mut client = Client::new();
    client.run("SET s x");
    client.run("SET i 12");
    client.run("HSET h f v");
    let told = |encoding: &str, refcount: i64, length: usize| {
        format!(
            "+Value at:0x0 refcount:{refcount} encoding:{encoding} serializedlength:{length} \
             lru:1000 lru_seconds_idle:0\r\n"
        )
    };
    assert_eq!(client.run("DEBUG OBJECT s"), told("embstr", 1, 2));
    assert_eq!(client.run("DEBUG OBJECT i"), told("int", i32::MAX.into(), 2));
    assert_eq!(client.run("DEBUG OBJECT h"), told("listpack", 1, 14));
    assert_eq!(client.run("DEBUG OBJECT none"), "-ERR no such key\r\n");
}
