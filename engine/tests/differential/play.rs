//! Plays a sequence of steps on two targets and compares every reply.

use super::compare;
use super::grammar::Args;
use super::target::Target;
use holdfast_proto::resp::Value;
use std::time::Duration;

/// One step of a sequence.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Run {
        client: usize,
        args: Args,
    },
    /// Lets time pass.
    Sleep(u64),
    /// Each side restores what the other dumped of this key.
    Exchange(Vec<u8>),
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Run { client, args } => write!(f, "{client}> {}", show(args)),
            Self::Sleep(ms) => write!(f, "sleep {ms} ms"),
            Self::Exchange(key) => write!(f, "exchange dumps of {}", key.escape_ascii()),
        }
    }
}

pub(crate) fn show(args: &Args) -> String {
    let quoted = |arg: &Vec<u8>| {
        let short: &[u8] = if arg.len() > 200 { &arg[..200] } else { arg };
        let more =
            if arg.len() > 200 { format!("…({} bytes)", arg.len()) } else { String::new() };
        match arg.iter().all(|c| c.is_ascii_graphic()) && !arg.is_empty() {
            true => format!("{}{more}", short.escape_ascii()),
            false => format!("\"{}{more}\"", short.escape_ascii()),
        }
    };
    args.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

/// Where two targets went apart.
#[derive(Clone)]
pub(crate) struct Mismatch {
    /// Index of the step; the number of steps if only the final state differs.
    pub(crate) at: usize,
    pub(crate) args: Args,
    pub(crate) ours: String,
    pub(crate) theirs: String,
}

pub(crate) struct Player<'a> {
    pub(crate) ours: &'a mut dyn Target,
    pub(crate) theirs: &'a mut dyn Target,
    pub(crate) commands: u64,
    /// Per client, the commands queued since MULTI.
    queues: Vec<Option<Vec<Args>>>,
}

type Played = Result<(), (Args, Value, Value)>;

pub(crate) fn args(words: &[&[u8]]) -> Args {
    words.iter().map(|word| word.to_vec()).collect()
}

impl<'a> Player<'a> {
    pub(crate) fn new(ours: &'a mut dyn Target, theirs: &'a mut dyn Target) -> Self {
        Self { ours, theirs, commands: 0, queues: vec![None; super::target::CLIENTS] }
    }

    /// Plays all steps from an empty state, then compares the whole state.
    pub(crate) fn play(
        &mut self,
        steps: &[Step],
        resp3: bool,
        databases: usize,
    ) -> Result<(), Mismatch> {
        self.ours.reset(resp3);
        self.theirs.reset(resp3);
        self.queues.fill(None);
        for (at, step) in steps.iter().enumerate() {
            let played = match step {
                Step::Run { client, args } => self.step(*client, args),
                Step::Exchange(key) => self.exchange(key),
                Step::Sleep(ms) => {
                    std::thread::sleep(Duration::from_millis(*ms));
                    Ok(())
                }
            };
            played.map_err(|mismatch| explain(at, mismatch))?;
        }
        let state = self.compare_state(databases);
        state.map_err(|mismatch| explain(steps.len(), mismatch))?;
        self.ours.check();
        Ok(())
    }

    fn step(&mut self, client: usize, args: &Args) -> Played {
        let name = args[0].to_ascii_uppercase();
        if self.queues[client].is_none() {
            match name.as_slice() {
                b"SPOP" => return self.pop_random(client, args),
                b"SCAN" | b"HSCAN" | b"SSCAN" | b"ZSCAN" => return self.scan(client, args),
                _ => {}
            }
        }
        let (ours, theirs) = self.both(client, args);
        let queue = &mut self.queues[client];
        let equal = match name.as_slice() {
            b"EXEC" => {
                let queued = queue.take().unwrap_or_default();
                same_exec(&queued, &ours, &theirs)
            }
            _ => {
                if matches!(&theirs, Value::Simple(text) if text.as_ref() == b"QUEUED") {
                    queue.get_or_insert_default().push(args.clone());
                } else if name == b"MULTI" && theirs.is_ok() {
                    *queue = Some(Vec::new());
                } else if name == b"DISCARD" {
                    *queue = None;
                }
                compare::same(args, &ours, &theirs)
            }
        };
        if equal { Ok(()) } else { Err((args.clone(), ours, theirs)) }
    }

    fn both(&mut self, client: usize, args: &Args) -> (Value, Value) {
        self.commands += 1;
        (self.ours.run(client, args), self.theirs.run(client, args))
    }

    /// SPOP takes what it likes: both get back what either lost.
    fn pop_random(&mut self, client: usize, args: &Args) -> Played {
        let members = args.get(1).map(|key| {
            let smembers = vec![b"SMEMBERS".to_vec(), key.clone()];
            self.theirs.run(client, &smembers)
        });
        let (ours, theirs) = self.both(client, args);
        if !compare::same(args, &ours, &theirs) {
            return Err((args.clone(), ours, theirs));
        }
        let members = members.as_ref().and_then(Value::as_array).unwrap_or_default();
        let mut back = vec![b"SADD".to_vec(), args.get(1).cloned().unwrap_or_default()];
        for reply in [&ours, &theirs] {
            let single = std::slice::from_ref(reply);
            for element in reply.as_array().unwrap_or(single) {
                let Value::Bulk(bytes) = element else { continue };
                if !members.contains(element) {
                    return Err((args.clone(), ours.clone(), theirs.clone()));
                }
                back.push(bytes.to_vec());
            }
        }
        if back.len() > 2 {
            self.ours.run(client, &back);
            self.theirs.run(client, &back);
        }
        Ok(())
    }

    /// Cursors are each side's own: whole scans are compared.
    fn scan(&mut self, client: usize, args: &Args) -> Played {
        let (ours, theirs) = self.both(client, args);
        let at = if args[0].eq_ignore_ascii_case(b"SCAN") { 1 } else { 2 };
        if ours.is_error() || theirs.is_error() {
            return if ours == theirs { Ok(()) } else { Err((args.clone(), ours, theirs)) };
        }
        if args[at] != b"0" {
            return Ok(());
        }
        let all_ours = scan_on(self.ours, client, args, at, &ours);
        let all_theirs = scan_on(self.theirs, client, args, at, &theirs);
        let name = &args[0];
        if compare::scanned(name, &all_ours) == compare::scanned(name, &all_theirs) {
            Ok(())
        } else {
            Err((args.clone(), Value::Array(all_ours), Value::Array(all_theirs)))
        }
    }

    /// Each side restores what the other dumped.
    fn exchange(&mut self, key: &[u8]) -> Played {
        if self.queues[0].is_some() {
            return Ok(());
        }
        let dump = args(&[b"DUMP", key]);
        let (ours, theirs) = self.both(0, &dump);
        let (Value::Bulk(our_dump), Value::Bulk(their_dump)) = (&ours, &theirs) else {
            let equal = compare::same(&dump, &ours, &theirs);
            return if equal { Ok(()) } else { Err((dump, ours, theirs)) };
        };
        let restore = |payload: &[u8]| args(&[b"RESTORE", key, b"0", payload, b"REPLACE"]);
        let to_us = self.ours.run(0, &restore(their_dump));
        if our_dump.first() == Some(&holdfast_engine::rdb::kind::STREAM_LISTPACKS_3) {
            // Says what 7.0 has no place for, and can only be read from 7.2 on.
            return if to_us.is_ok() { Ok(()) } else { Err((restore(their_dump), to_us, theirs)) };
        }
        let to_them = self.theirs.run(0, &restore(our_dump));
        if to_us.is_ok() && to_them.is_ok() {
            Ok(())
        } else {
            Err((restore(our_dump), to_us, to_them))
        }
    }

    /// Compares every key of the first databases.
    fn compare_state(&mut self, databases: usize) -> Played {
        for client in 0..self.queues.len() {
            if self.queues[client].is_some() {
                self.step(client, &args(&[b"DISCARD"]))?;
            }
        }
        for db in 0..databases {
            if databases > 1 {
                self.step(0, &args(&[b"SELECT", db.to_string().as_bytes()]))?;
            }
            let all = args(&[b"KEYS", b"*"]);
            self.step(0, &all)?;
            let keys = self.theirs.run(0, &all);
            for key in keys.as_array().unwrap_or_default().iter().filter_map(Value::as_bytes) {
                self.compare_key(key)?;
            }
            self.step(0, &args(&[b"DBSIZE"]))?;
        }
        Ok(())
    }

    fn compare_key(&mut self, key: &[u8]) -> Played {
        self.step(0, &args(&[b"TYPE", key]))?;
        self.step(0, &args(&[b"PTTL", key]))?;
        self.step(0, &args(&[b"OBJECT", b"ENCODING", key]))?;
        let kind = self.theirs.run(0, &args(&[b"TYPE", key]));
        let read = match kind.as_bytes() {
            Some(b"string") => args(&[b"GET", key]),
            Some(b"hash") => args(&[b"HGETALL", key]),
            Some(b"list") => args(&[b"LRANGE", key, b"0", b"-1"]),
            Some(b"set") => args(&[b"SMEMBERS", key]),
            Some(b"zset") => args(&[b"ZRANGE", key, b"0", b"-1", b"WITHSCORES"]),
            Some(b"stream") => args(&[b"XINFO", b"STREAM", key, b"FULL", b"COUNT", b"0"]),
            _ => return Ok(()),
        };
        self.step(0, &read)
    }
}

fn same_exec(queued: &[Args], ours: &Value, theirs: &Value) -> bool {
    match (ours, theirs) {
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() && a.len() == queued.len() => {
            queued.iter().zip(a.iter().zip(b)).all(|(args, (a, b))| compare::same(args, a, b))
        }
        _ => ours == theirs,
    }
}

/// Goes on with a scan until its end; everything it found.
fn scan_on(
    target: &mut dyn Target,
    client: usize,
    first: &Args,
    at: usize,
    reply: &Value,
) -> Vec<Value> {
    let mut all = Vec::new();
    let mut reply = reply.clone();
    for _ in 0..100_000 {
        let Some([Value::Bulk(cursor), found]) = reply.as_array() else { break };
        match found {
            Value::Map(pairs) => all.extend(pairs.iter().flat_map(|(k, v)| [k.clone(), v.clone()])),
            other => all.extend_from_slice(other.as_array().unwrap_or_default()),
        }
        if cursor.as_ref() == b"0" {
            return all;
        }
        let mut next = first.clone();
        next[at] = cursor.to_vec();
        reply = target.run(client, &next);
    }
    panic!("a scan does not end: {}", show(first));
}

fn explain(at: usize, (args, ours, theirs): (Args, Value, Value)) -> Mismatch {
    Mismatch { at, args, ours: brief(&ours), theirs: brief(&theirs) }
}

fn brief(value: &Value) -> String {
    let mut text = format!("{value:?}");
    if text.len() > 1500 {
        let end = (0..=1500).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}
