//! The clocks of the shell. With the feature `simulation` a thread may run on virtual time.

use std::time::{Duration, Instant};

#[cfg(any(test, feature = "simulation"))]
thread_local! {
    /// Monotonic time, wall clock in microseconds, and what [`instant`] counts from.
    static VIRTUAL: std::cell::Cell<Option<(Duration, u64, Instant)>> =
        const { std::cell::Cell::new(None) };
}

/// Sets this thread's clocks; they stand still until the next call.
#[cfg(any(test, feature = "simulation"))]
pub(crate) fn set_virtual(monotonic: Duration, wall_us: u64) {
    let origin = VIRTUAL.get().map_or_else(Instant::now, |(_, _, origin)| origin);
    VIRTUAL.set(Some((monotonic, wall_us, origin)));
}

#[cfg(any(test, feature = "simulation"))]
fn virtual_time() -> Option<(Duration, u64, Instant)> {
    VIRTUAL.get()
}

#[cfg(not(any(test, feature = "simulation")))]
const fn virtual_time() -> Option<(Duration, u64, Instant)> {
    None
}

/// For measuring how much time passed, within one thread or between threads.
pub(crate) fn instant() -> Instant {
    match virtual_time() {
        Some((monotonic, _, origin)) => origin + monotonic,
        None => Instant::now(),
    }
}

/// How much time passed since `instant`.
pub(crate) fn since(instant: Instant) -> Duration {
    self::instant().saturating_duration_since(instant)
}

/// Monotonic time that also counts while the machine sleeps (CLOCK_BOOTTIME): leases hang on it.
pub(crate) fn monotonic() -> Duration {
    if let Some((monotonic, _, _)) = virtual_time() {
        return monotonic;
    }
    holdfast_consensus::clock::monotonic()
}

/// Milliseconds since the Unix epoch, by the machine's clock.
pub(crate) fn wall_ms() -> u64 {
    wall_us() / 1000
}

/// Microseconds since the Unix epoch: what names an incarnation of a process.
pub(crate) fn wall_us() -> u64 {
    if let Some((_, wall_us, _)) = virtual_time() {
        return wall_us;
    }
    holdfast_consensus::clock::wall_us()
}
