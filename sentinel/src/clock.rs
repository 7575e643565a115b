//! The two clocks of the shell.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Monotonic time that also counts while the machine sleeps (CLOCK_BOOTTIME): leases hang on it.
pub(crate) fn monotonic() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

/// Milliseconds since the Unix epoch, by the machine's clock.
pub(crate) fn wall_ms() -> u64 {
    wall_us() / 1000
}

/// Microseconds since the Unix epoch: what names an incarnation of a process.
pub(crate) fn wall_us() -> u64 {
    let now = clock_gettime(ClockId::Realtime);
    now.tv_sec.unsigned_abs() * 1_000_000 + now.tv_nsec.unsigned_abs() / 1000
}
