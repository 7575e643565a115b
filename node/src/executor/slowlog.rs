//! The log of slow commands of one replica, as SLOWLOG shows it.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Redis's defaults: `slowlog-log-slower-than` 10,000 µs, `slowlog-max-len` 128.
const SLOWER_THAN: Duration = Duration::from_millis(10);
const ENTRIES_MAX: usize = 128;
/// What Redis keeps of a command: 32 arguments of 128 bytes.
const ARGS_MAX: usize = 32;
const ARG_BYTES_MAX: usize = 128;

pub(crate) struct Slowlog {
    /// `None`: off.
    slower_than: Option<Duration>,
    entries_max: usize,
    entries: VecDeque<SlowEntry>,
    next_id: u64,
}

pub(crate) struct SlowEntry {
    pub(crate) id: u64,
    pub(crate) unix_s: u64,
    pub(crate) duration: Duration,
    pub(crate) args: Vec<Vec<u8>>,
}

impl Default for Slowlog {
    fn default() -> Self {
        Self {
            slower_than: Some(SLOWER_THAN),
            entries_max: ENTRIES_MAX,
            entries: VecDeque::new(),
            next_id: 0,
        }
    }
}

impl Slowlog {
    pub(crate) fn configure(&mut self, settings: &HashMap<String, String>) {
        let number = |name: &str| settings.get(name).and_then(|text| text.parse::<i64>().ok());
        self.slower_than = match number("slowlog-log-slower-than") {
            Some(micros) => u64::try_from(micros).ok().map(Duration::from_micros),
            None => Some(SLOWER_THAN),
        };
        let len = number("slowlog-max-len").and_then(|len| usize::try_from(len).ok());
        self.entries_max = len.unwrap_or(ENTRIES_MAX);
        self.entries.truncate(self.entries_max);
    }

    /// Notes a command (a RESP array) that ran since `begun`; returns the time now, when the next
    /// one begins: one look at the clock per command.
    pub(crate) fn observe(&mut self, begun: Instant, command: &[u8]) -> Instant {
        let now = crate::clock::instant();
        let duration = now - begun;
        if self.slower_than.is_some_and(|limit| duration >= limit) {
            self.note(duration, command);
        }
        now
    }

    fn note(&mut self, duration: Duration, command: &[u8]) {
        let id = self.next_id;
        self.next_id += 1;
        let unix_s = crate::clock::wall_ms() / 1000;
        self.entries.push_front(SlowEntry { id, unix_s, duration, args: shown_args(command) });
        self.entries.truncate(self.entries_max);
    }

    pub(crate) fn reset(&mut self) {
        self.entries.clear();
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many were ever noted.
    pub(crate) fn total(&self) -> u64 {
        self.next_id
    }

    /// Newest first.
    pub(crate) fn entries(&self) -> impl ExactSizeIterator<Item = &SlowEntry> {
        self.entries.iter()
    }
}

fn shown_args(command: &[u8]) -> Vec<Vec<u8>> {
    let args = super::info::args_of(command);
    let count = args.len();
    let shown = if count > ARGS_MAX { ARGS_MAX - 1 } else { count };
    let mut out: Vec<Vec<u8>> = args[..shown].iter().map(|arg| shown_arg(arg)).collect();
    if count > shown {
        out.push(format!("... ({} more arguments)", count - shown).into_bytes());
    }
    out
}

fn shown_arg(arg: &[u8]) -> Vec<u8> {
    if arg.len() <= ARG_BYTES_MAX {
        return arg.to_vec();
    }
    let mut out = arg[..ARG_BYTES_MAX].to_vec();
    out.extend_from_slice(format!("... ({} more bytes)", arg.len() - ARG_BYTES_MAX).as_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_commands_are_kept_up_to_the_limit_and_shortened() {
        let mut log = Slowlog::default();
        let settings = [("slowlog-log-slower-than", "0"), ("slowlog-max-len", "2")];
        log.configure(&settings.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
        let long = format!("*2\r\n$3\r\nGET\r\n$200\r\n{}\r\n", "x".repeat(200));
        for _ in 0..3 {
            log.observe(Instant::now(), long.as_bytes());
        }
        assert_eq!((log.len(), log.total()), (2, 3));
        let newest = log.entries().next().unwrap();
        assert_eq!(newest.id, 2);
        assert!(newest.args[1].ends_with(b"... (72 more bytes)"));
        log.configure(&[("slowlog-log-slower-than".to_owned(), "-1".to_owned())].into());
        log.observe(Instant::now() - Duration::from_secs(1), b"*1\r\n$4\r\nPING\r\n");
        assert_eq!(log.total(), 3);
    }
}
