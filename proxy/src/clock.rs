//! The clocks of the shell; the core is told the time.

use crate::core::{Now, Usage};
use rustix::time::{ClockId, Timespec, clock_gettime};
use std::time::Duration;

/// Boot time goes on while the machine is suspended, so a deadline that passed in the meantime is
/// noticed.
/// What this process has used, from `/proc/self/stat`; zeros where there is none.
pub(crate) fn process_usage() -> Usage {
    /// USER_HZ is 100 on every Linux that is supported.
    const TICK_US: u64 = 10_000;
    const PAGE_BYTES: u64 = 4096;
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name in parentheses may hold blanks; fields are counted from after it (proc(5)).
    let fields: Vec<u64> = text
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_ascii_whitespace().map(|f| f.parse().unwrap_or(0)).collect())
        .unwrap_or_default();
    let field = |at: usize| fields.get(at).copied().unwrap_or(0);
    Usage {
        cpu_user_us: field(11) * TICK_US,
        cpu_sys_us: field(12) * TICK_US,
        resident_bytes: field(21) * PAGE_BYTES,
    }
}

pub(crate) fn now() -> Now {
    Now {
        monotonic: duration(clock_gettime(ClockId::Boottime)),
        unix_us: duration(clock_gettime(ClockId::Realtime)).as_micros() as u64,
    }
}

fn duration(time: Timespec) -> Duration {
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
