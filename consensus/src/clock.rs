//! The two clocks of the shells. Cores never read them; they are told.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::faults;

/// Monotonic time that also counts while the machine sleeps (CLOCK_BOOTTIME): leases hang on it.
pub fn monotonic() -> Duration {
    faults::monotonic(true_monotonic())
}

/// Milliseconds since the Unix epoch, by the machine's clock.
pub fn wall_ms() -> u64 {
    wall_us() / 1000
}

/// Microseconds since the Unix epoch: what names an incarnation of a process.
pub fn wall_us() -> u64 {
    let now = clock_gettime(ClockId::Realtime);
    let us = now.tv_sec.unsigned_abs() * 1_000_000 + now.tv_nsec.unsigned_abs() / 1000;
    match faults::wall_offset_us(true_monotonic) {
        0 => us,
        offset => us.saturating_add_signed(offset),
    }
}

pub(crate) fn true_monotonic() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}
