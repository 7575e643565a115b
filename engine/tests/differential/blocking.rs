//! Several clients in blocking commands: who is served, with what, and who goes on waiting.

use super::compare;
use super::grammar::{Args, Generator};
use super::in_process::InProcess;
use super::play::show;
use super::rng::Rng;
use super::target::{Connection, Endpoint};
use holdfast_proto::resp::Value;
use std::time::{Duration, Instant};

/// Client 0 never blocks.
const CLIENTS: usize = 6;
const PATIENCE: Duration = Duration::from_secs(5);

const WAITS: &str = "
BLPOP <{l}> 0
BRPOP <{l}> 0
BLMOVE {l} {e} (LEFT | RIGHT) (LEFT | RIGHT) 0
BLMOVE {e} {e} (LEFT | RIGHT) (LEFT | RIGHT) 0
BRPOPLPUSH {e} {e} 0
BLPOP {e} 0
BLMPOP 0 #<{l}> (LEFT | RIGHT) [COUNT 2]
BZPOPMIN <{z}> 0
BZPOPMAX <{z}> 0
BZMPOP 0 #<{z}> (MIN | MAX) [COUNT 2]
XREAD BLOCK 0 STREAMS {j} $
XREAD COUNT 2 BLOCK 0 STREAMS {j} $
XREAD BLOCK 0 STREAMS {j} 5-4
XREADGROUP GROUP g1 (c1 | c2) BLOCK 0 STREAMS {j} {N}
XREADGROUP GROUP g1 c1 COUNT 1 BLOCK 0 STREAMS {j} {N}
XREADGROUP GROUP g2 c1 BLOCK 0 NOACK STREAMS {j} {N}
";

// A key never gets another type, and what wakes writes no second key that somebody waits for among
// several (the `e` keys, lists here, are waited for alone): 7.2 runs a woken command again from its
// first key, where 7.0 only looks at the key that woke it. SWAPDB wakes in the order of a table.
const WRITES: &str = "
LPUSH {l} <{f}>
RPUSH {l} <{f}>
RPUSH {l} <{f}>
RPUSH {e} <{f}>
LPOP {l}
RPOPLPUSH {l} {l}
LINSERT {l} BEFORE f1 x
ZADD {z} <{d} {f}>
ZADD {z} <{d} {f}>
ZPOPMIN {z}
ZUNIONSTORE {z} 2 {z} {z}
ZRANGESTORE {z} {z} 0 -1
XADD {j} 5-* <f1 {f}>
XADD {j} 5-* <f1 {f}>
XADD {j} 5-* f1 {f} f2 {f}
XADD {j} MAXLEN 3 5-* f1 {f}
XDEL {j} 5-1 5-3
XTRIM {j} MAXLEN 2
XGROUP CREATE {j} g1 $ MKSTREAM
XGROUP CREATE {j} g1 0 MKSTREAM
XGROUP CREATE {j} g2 0 MKSTREAM
XGROUP DESTROY {j} g1
XPENDING {j} g1
DEL <{k}>
RENAME {l} {l}
RENAME {z} {z}
COPY {l} {l} REPLACE
COPY {z} {z} REPLACE
SORT {l} ALPHA STORE {l}
MOVE {l} 1
";

#[test]
fn blocked_clients_are_served_alike() {
    let Some(stock) = Endpoint::stock() else {
        eprintln!("skipped: no redis-server in PATH");
        return;
    };
    if std::env::var("HOLDFAST_DIFF_ENDPOINT").is_ok() {
        return;
    }
    if !InProcess::new().knows("BLPOP") {
        eprintln!("skipped: no blocking commands yet");
        return;
    }
    let first = super::setting("SEED", 1);
    let sequences = super::setting("SEQUENCES", 300) / 3;
    let mut commands = 0;
    for seed in first..first + sequences {
        commands += Scenario::new(&stock, seed).run();
    }
    eprintln!("differential, blocking: {commands} commands in {sequences} sequences");
}

struct Scenario {
    seed: u64,
    rng: Rng,
    ours: InProcess,
    theirs: Vec<Connection>,
    control: Connection,
    waiting: [bool; CLIENTS],
    history: Vec<String>,
}

impl Scenario {
    fn new(stock: &Endpoint, seed: u64) -> Self {
        let mut ours = InProcess::new();
        ours.open_sessions(CLIENTS, false);
        let mut control = stock.connect();
        control.run_words("FLUSHALL");
        Self {
            seed,
            rng: Rng::new(seed ^ 0x5bd1_e995_1234_5678),
            ours,
            theirs: (0..CLIENTS).map(|_| stock.connect()).collect(),
            control,
            waiting: [false; CLIENTS],
            history: Vec::new(),
        }
    }

    fn run(mut self) -> u64 {
        let waits = super::grammar::family(WAITS);
        let known = |line: &&str| !line.starts_with("SORT") || self.ours.knows("SORT");
        let writes: Vec<_> = WRITES.lines().filter(known).collect();
        let writes = super::grammar::family(&writes.join("\n"));
        for _ in 0..60 {
            let client = self.rng.below(CLIENTS);
            if self.waiting[client] {
                continue;
            }
            let mut generator = Generator { rng: &mut self.rng, key_prefix: "", faithful: true };
            let family = if client > 0 && generator.rng.one_in(2) { &waits } else { &writes };
            if client == 0 && generator.rng.one_in(4) {
                let mut queued: Vec<_> = (0..9).map(|_| generator.intact(&writes)).collect();
                let same_key = queued[0].clone();
                queued.retain(|args| args.len() > 2 && args[1] == same_key[1] && is_plain(args));
                self.step(0, &vec![b"MULTI".to_vec()]);
                queued.iter().for_each(|args| self.step(0, args));
                self.step(0, &vec![b"EXEC".to_vec()]);
            } else {
                let args = generator.intact(family);
                self.step(client, &args);
            }
        }
        self.disconnect_all();
        self.history.len() as u64
    }

    fn step(&mut self, client: usize, args: &Args) {
        self.history.push(format!("{client}> {}", show(args)));
        let ours = self.ours.submit(client, args);
        self.theirs[client].send(args);
        match ours {
            Some(ours) => {
                let theirs = self.theirs[client].receive(PATIENCE);
                let equal =
                    theirs.as_ref().is_some_and(|theirs| compare::same(args, &ours, theirs));
                // An EXEC's elements: numbers may be written differently.
                if !equal && format!("{theirs:?}") != format!("{:?}", Some(&ours)) {
                    self.fail(client, Some(ours), theirs);
                }
            }
            None => self.waiting[client] = true,
        }
        while let Some((to, ours)) = self.ours.take_arrived() {
            self.waiting[to] = false;
            let theirs = self.theirs[to].receive(PATIENCE);
            let zset = vec![b"BZPOPMIN".to_vec()];
            if !theirs.as_ref().is_some_and(|theirs| compare::same(&zset, &ours, theirs)) {
                self.fail(to, Some(ours), theirs);
            }
        }
        self.compare_waiting();
    }

    /// As many clients wait there as here.
    fn compare_waiting(&mut self) {
        let expected = self.waiting.iter().filter(|waiting| **waiting).count();
        let since = Instant::now();
        loop {
            let info = self.control.run_words("INFO clients");
            let text = String::from_utf8_lossy(info.as_bytes().unwrap_or_default()).into_owned();
            let line = text.lines().find_map(|line| line.strip_prefix("blocked_clients:"));
            let blocked: usize = line.and_then(|n| n.trim().parse().ok()).expect("a number");
            if blocked == expected {
                return;
            }
            if since.elapsed() > Duration::from_secs(2) {
                eprintln!("waiting here: {:?}; blocked there: {blocked}", self.waiting);
                self.fail(0, None, None);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn fail(&self, client: usize, ours: Option<Value>, theirs: Option<Value>) -> ! {
        eprintln!("--- blocking difference, seed {}", self.seed);
        self.history.iter().for_each(|line| eprintln!("    {line}"));
        panic!("client {client}\n  ours   {ours:?}\n  theirs {theirs:?}");
    }

    fn disconnect_all(&mut self) {
        self.theirs.clear();
        self.waiting = [false; CLIENTS];
        self.compare_waiting();
    }
}

/// Writes its first key and no other.
fn is_plain(args: &Args) -> bool {
    let names: [&[u8]; 6] = [b"XADD", b"LPUSH", b"RPUSH", b"ZADD", b"LPOP", b"ZPOPMIN"];
    names.contains(&args[0].to_ascii_uppercase().as_slice())
}
