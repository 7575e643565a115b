//! `client-output-buffer-limit` of the class `pubsub`.

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
    /// Reads the parameter: classes with three numbers each. `None` if it says nothing sensible
    /// of `pubsub`. A limit of 0 is none.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        words.find(|word| word.eq_ignore_ascii_case("pubsub"))?;
        let limit = |bytes: usize| if bytes == 0 { usize::MAX } else { bytes };
        let hard_bytes = limit(size(words.next()?)?);
        let soft_bytes = limit(size(words.next()?)?);
        let seconds: u64 = words.next()?.parse().ok()?;
        let soft_us = if seconds == 0 { u64::MAX / 2 } else { seconds.saturating_mul(1_000_000) };
        Some(Self { hard_bytes, soft_bytes, soft_us: soft_us.min(u64::MAX / 2) })
    }
}

/// A number of bytes as Redis's configuration reads it: `1k` is 1000, `1kb` is 1024.
fn size(text: &str) -> Option<usize> {
    let text = text.to_ascii_lowercase();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let factor: usize = match unit {
        "" | "b" => 1,
        "k" => 1000,
        "kb" => 1 << 10,
        "m" => 1_000_000,
        "mb" => 1 << 20,
        "g" => 1_000_000_000,
        "gb" => 1 << 30,
        _ => return None,
    };
    number.parse::<usize>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_redis_writes_them() {
        let limits = |hard_bytes, soft_bytes, seconds: u64| {
            Some(OutputLimits { hard_bytes, soft_bytes, soft_us: seconds * 1_000_000 })
        };
        let shown = "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60";
        assert_eq!(OutputLimits::parse(shown), limits(32 << 20, 8 << 20, 60));
        assert_eq!(OutputLimits::parse(shown), Some(OutputLimits::default()));
        assert_eq!(OutputLimits::parse("pubsub 1mb 2k 5"), limits(1 << 20, 2000, 5));
        assert_eq!(OutputLimits::parse("PubSub 0 0 0").unwrap().hard_bytes, usize::MAX);
        for wrong in ["", "normal 0 0 0", "pubsub 1", "pubsub 1x 2 3", "pubsub 1 2 -3"] {
            assert_eq!(OutputLimits::parse(wrong), None, "{wrong}");
        }
    }
}
