//! The clocks of the shell; the core is told the time.

use crate::core::Now;
use rustix::time::{ClockId, Timespec, clock_gettime};
use std::time::Duration;

/// Boot time goes on while the machine is suspended, so a deadline that passed in the meantime is
/// noticed.
pub(crate) fn now() -> Now {
    Now {
        monotonic: duration(clock_gettime(ClockId::Boottime)),
        unix_us: duration(clock_gettime(ClockId::Realtime)).as_micros() as u64,
    }
}

fn duration(time: Timespec) -> Duration {
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
