//! Faults that tests inject into a running process: failing, full and slow disks, death at a chosen
//! step of a write, clocks that are wrong.
//!
//! Off, and without cost beyond a relaxed load, unless the environment asks for them:
//!
//! | variable | meaning |
//! | --- | --- |
//! | `HOLDFAST_FAULTS=1` | read the file `faults` in the data folder, again whenever it changes |
//! | `HOLDFAST_FAILPOINT=POINT:N` | SIGKILL itself when it passes POINT for the Nth time |
//! | `HOLDFAST_CLOCK_OFFSET_MS=N` | wall clock ahead (or behind, if negative) by N ms |
//! | `HOLDFAST_CLOCK_RATE_PPM=N` | wall clock and lease clock run N millionths too fast (or slow) |
//!
//! A variable holds for all processes that inherit it; the file is for one process and takes effect
//! within [`POLL`]. Each of its lines is a fault, an empty or missing file means none:
//!
//! ```text
//! fail-sync                  each fsync fails with EIO
//! full                       each write fails with ENOSPC
//! slow-sync 300              each fsync takes 300 ms longer
//! failpoint after-fsync:100  as the variable, counted from when the line is read
//! clock-offset-ms -5000
//! clock-rate-ppm 500
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// How often the file is looked at.
pub const POLL: Duration = Duration::from_millis(20);

/// The name of the file in the data folder.
pub const FILE: &str = "faults";

/// A step in the life of a write at which the process can be made to die.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Point {
    /// The primary has the writes but has not proposed them.
    BeforePropose = 1,
    /// The entries are in the log's file, not synced.
    AfterAppend,
    /// The log was synced; nobody was told.
    AfterFsync,
    /// Entries are known to be committed; the executor was not told.
    AfterCommit,
    /// They are applied; no answer has left.
    AfterApply,
    /// Answers were given to the socket.
    AfterReply,
}

impl FromStr for Point {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        Ok(match name {
            "before-propose" => Self::BeforePropose,
            "after-append" => Self::AfterAppend,
            "after-fsync" => Self::AfterFsync,
            "after-commit" => Self::AfterCommit,
            "after-apply" => Self::AfterApply,
            "after-reply" => Self::AfterReply,
            _ => return Err(()),
        })
    }
}

static POINT: AtomicU8 = AtomicU8::new(0);
static PASSES_LEFT: AtomicU64 = AtomicU64::new(0);
static FAIL_SYNC: AtomicBool = AtomicBool::new(false);
static FULL: AtomicBool = AtomicBool::new(false);
static SLOW_SYNC_MS: AtomicU64 = AtomicU64::new(0);
static CLOCK_WRONG: AtomicBool = AtomicBool::new(false);
static OFFSET_MS: AtomicI64 = AtomicI64::new(0);
static RATE: Mutex<Rate> = Mutex::new(Rate { since: None, gained_ns: 0, ppm: 0 });

/// A clock that gains `ppm` millionths since a moment of the true one.
struct Rate {
    since: Option<Duration>,
    /// Gained before `since`.
    gained_ns: i64,
    ppm: i64,
}

impl Rate {
    fn gained_ns(&self, now: Duration) -> i64 {
        let since = self.since.unwrap_or(now);
        let passed = now.saturating_sub(since).as_nanos() as i128;
        self.gained_ns + (passed * i128::from(self.ppm) / 1_000_000) as i64
    }
}

/// What a `faults` file or the environment asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Faults {
    fail_sync: bool,
    full: bool,
    slow_sync_ms: u64,
    failpoint: Option<(Point, u64)>,
    clock_offset_ms: i64,
    clock_rate_ppm: i64,
}

impl Faults {
    fn parse(text: &str) -> Result<Self, String> {
        let mut faults = Self::default();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            faults.add(line).ok_or_else(|| format!("{line:?} is not a fault"))?;
        }
        Ok(faults)
    }

    fn add(&mut self, line: &str) -> Option<()> {
        match line.split_once(' ').map_or((line, ""), |(name, value)| (name, value.trim())) {
            ("fail-sync", "") => self.fail_sync = true,
            ("full", "") => self.full = true,
            ("slow-sync", ms) => self.slow_sync_ms = ms.parse().ok()?,
            ("failpoint", point) => self.failpoint = Some(parse_failpoint(point)?),
            ("clock-offset-ms", ms) => self.clock_offset_ms = ms.parse().ok()?,
            ("clock-rate-ppm", ppm) => self.clock_rate_ppm = ppm.parse().ok()?,
            _ => return None,
        }
        Some(())
    }

    fn from_env() -> Result<Self, String> {
        let mut faults = Self::default();
        let variables = [
            ("HOLDFAST_FAILPOINT", "failpoint"),
            ("HOLDFAST_CLOCK_OFFSET_MS", "clock-offset-ms"),
            ("HOLDFAST_CLOCK_RATE_PPM", "clock-rate-ppm"),
        ];
        for (variable, name) in variables {
            if let Ok(value) = std::env::var(variable) {
                let wrong = || format!("{variable}: {value:?} is not understood");
                faults.add(&format!("{name} {value}")).ok_or_else(wrong)?;
            }
        }
        Ok(faults)
    }

    fn install(&self, now: Duration) {
        FAIL_SYNC.store(self.fail_sync, Ordering::Relaxed);
        FULL.store(self.full, Ordering::Relaxed);
        SLOW_SYNC_MS.store(self.slow_sync_ms, Ordering::Relaxed);
        let (point, passes) = self.failpoint.map_or((0, 0), |(point, n)| (point as u8, n));
        PASSES_LEFT.store(passes, Ordering::Relaxed);
        POINT.store(point, Ordering::Relaxed);
        OFFSET_MS.store(self.clock_offset_ms, Ordering::Relaxed);
        let mut rate = RATE.lock().unwrap_or_else(PoisonError::into_inner);
        // The lease clock never jumps: what it gained so far stays.
        let gained_ns = rate.gained_ns(now);
        *rate = Rate { since: Some(now), gained_ns, ppm: self.clock_rate_ppm };
        let wrong = self.clock_offset_ms != 0 || self.clock_rate_ppm != 0 || gained_ns != 0;
        CLOCK_WRONG.store(wrong, Ordering::Relaxed);
    }
}

fn parse_failpoint(text: &str) -> Option<(Point, u64)> {
    let (name, count) = text.split_once(':')?;
    let count: u64 = count.parse().ok()?;
    (count > 0).then_some((name.parse().ok()?, count))
}

/// Reads the environment and, if that asks for it, follows the file in `data_dir`. Called once at
/// the start; an error says which variable is not understood.
pub fn start(data_dir: &Path) -> Result<(), String> {
    let env = Faults::from_env()?;
    if env != Faults::default() {
        tracing::warn!(?env, "this process injects faults, as its environment asks for");
        env.install(crate::clock::true_monotonic());
    }
    if std::env::var_os("HOLDFAST_FAULTS").is_none_or(|value| value != "1") {
        return Ok(());
    }
    let path = data_dir.join(FILE);
    tracing::warn!(path = %path.display(), "this process injects the faults that a file names");
    let mut follower = Follower { path, text: String::new() };
    follower.look();
    let follow = move || loop {
        thread::sleep(POLL);
        follower.look();
    };
    let spawned = thread::Builder::new().name("faults".to_owned()).spawn(follow);
    spawned.map(drop).map_err(|error| error.to_string())
}

struct Follower {
    path: PathBuf,
    text: String,
}

impl Follower {
    fn look(&mut self) {
        let text = std::fs::read_to_string(&self.path).unwrap_or_default();
        if text == self.text {
            return;
        }
        match Faults::parse(&text) {
            Ok(faults) => {
                tracing::warn!(?faults, "faults changed");
                faults.install(crate::clock::true_monotonic());
            }
            // Perhaps half written.
            Err(error) => tracing::warn!(error, "the file of faults is not understood"),
        }
        self.text = text;
    }
}

/// The process dies here if this is the chosen point.
#[inline]
pub fn reach(point: Point) {
    if POINT.load(Ordering::Relaxed) == point as u8 {
        reached(point);
    }
}

#[cold]
fn reached(point: Point) {
    if PASSES_LEFT.fetch_sub(1, Ordering::Relaxed) != 1 {
        return;
    }
    tracing::warn!(?point, "killed by a fail point");
    let me = rustix::process::getpid();
    // Does not return if it succeeds, and it does: everybody may signal themselves.
    let _ = rustix::process::kill_process(me, rustix::process::Signal::KILL);
}

/// Before a write: an error if the disk is to be full.
pub(crate) fn before_write() -> io::Result<()> {
    if FULL.load(Ordering::Relaxed) {
        return Err(rustix::io::Errno::NOSPC.into());
    }
    Ok(())
}

/// Before a sync: takes its time, or is an error, if it is to.
pub(crate) fn before_sync() -> io::Result<()> {
    let slow = SLOW_SYNC_MS.load(Ordering::Relaxed);
    if slow > 0 {
        // The fault asked for.
        thread::sleep(Duration::from_millis(slow));
    }
    if FAIL_SYNC.load(Ordering::Relaxed) {
        return Err(rustix::io::Errno::IO.into());
    }
    Ok(())
}

/// What the lease clock shows when the true one shows `now`.
pub(crate) fn monotonic(now: Duration) -> Duration {
    if !CLOCK_WRONG.load(Ordering::Relaxed) {
        return now;
    }
    let gained = RATE.lock().unwrap_or_else(PoisonError::into_inner).gained_ns(now);
    let nanos = now.as_nanos() as i128 + i128::from(gained);
    Duration::from_nanos(nanos.max(0) as u64)
}

/// How far the wall clock is off, microseconds.
pub(crate) fn wall_offset_us(now: impl FnOnce() -> Duration) -> i64 {
    if !CLOCK_WRONG.load(Ordering::Relaxed) {
        return 0;
    }
    let gained = RATE.lock().unwrap_or_else(PoisonError::into_inner).gained_ns(now());
    OFFSET_MS.load(Ordering::Relaxed) * 1000 + gained / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_names_faults_and_nonsense_is_refused() {
        let text = "fail-sync\n\n full\nslow-sync 300\nfailpoint after-fsync:7\n\
                    clock-offset-ms -5000\nclock-rate-ppm 500\n";
        let want = Faults {
            fail_sync: true,
            full: true,
            slow_sync_ms: 300,
            failpoint: Some((Point::AfterFsync, 7)),
            clock_offset_ms: -5000,
            clock_rate_ppm: 500,
        };
        assert_eq!(Faults::parse(text), Ok(want));
        assert_eq!(Faults::parse(""), Ok(Faults::default()));
        for wrong in
            ["fail-sync 1", "slow-sync x", "failpoint nowhere:1", "failpoint after-fsync:0"]
        {
            assert!(Faults::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_fast_clock_gains_and_keeps_what_it_gained() {
        let second = Duration::from_secs(1);
        let fast = Rate { since: Some(second), gained_ns: 0, ppm: 500 };
        assert_eq!(fast.gained_ns(second * 3), 1_000_000);
        let right = Rate { since: Some(second * 3), gained_ns: fast.gained_ns(second * 3), ppm: 0 };
        assert_eq!(right.gained_ns(second * 9), 1_000_000);
    }
}
