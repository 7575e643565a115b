//! `client-output-buffer-limit` of the class `pubsub`.

use holdfast_proto::parameters;

/// How much a subscriber may leave unread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct OutputLimits {
    /// Beyond it a client is cut off at once.
    pub(super) hard_bytes: usize,
    /// Beyond it for `soft_us`, too.
    pub(super) soft_bytes: usize,
    pub(super) soft_us: u64,
}

impl Default for OutputLimits {
    /// Redis's: 32mb 8mb 60.
    fn default() -> Self {
        Self { hard_bytes: 32 << 20, soft_bytes: 8 << 20, soft_us: 60_000_000 }
    }
}

impl OutputLimits {
    /// Of the parameter's value. A limit of 0 is none.
    pub(super) fn of(text: &str) -> Self {
        let [.., pubsub] = parameters::buffer_limits(text);
        let limit = |bytes: u64| if bytes == 0 { usize::MAX } else { bytes as usize };
        let seconds = pubsub.soft_seconds;
        Self {
            hard_bytes: limit(pubsub.hard_bytes),
            soft_bytes: limit(pubsub.soft_bytes),
            // Half of what fits: it is added to the time.
            soft_us: if seconds == 0 { u64::MAX } else { seconds.saturating_mul(1_000_000) }
                .min(u64::MAX / 2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_redis_writes_them() {
        let shown = "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60";
        assert_eq!(OutputLimits::of(shown), OutputLimits::default());
        let none = OutputLimits::of("pubsub 0 0 0");
        assert_eq!((none.hard_bytes, none.soft_bytes), (usize::MAX, usize::MAX));
    }
}
