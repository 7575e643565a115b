//! LZF, the light compression of strings in RDB files.
//!
//! A compressed stream is a row of runs. Control byte below 32: that many plus one literal bytes
//! follow. Otherwise its top three bits are a length (7: one more byte is added), the rest and
//! one more byte an offset back; length + 2 bytes are copied from offset + 1 bytes back.

/// Bytes that one compressed byte can stand for at most: three bytes copy 264.
pub(crate) const RATIO_MAX: usize = 88;

const HASH_BITS: u32 = 13;
const OFFSET_MAX: usize = 1 << 13;
const COPY_LEN_MAX: usize = 264;
const LITERALS_MAX: usize = 32;

/// Compresses; keeps its table between strings, so that a short string does not pay for clearing it.
#[derive(Debug)]
pub(crate) struct Compressor {
    /// By hash of three bytes: `base` of that string's call plus the position; below the present
    /// `base` means stale.
    table: Box<[u32; 1 << HASH_BITS]>,
    base: u32,
}

impl Default for Compressor {
    fn default() -> Self {
        Self { table: Box::new([0; 1 << HASH_BITS]), base: 1 }
    }
}

impl Compressor {
    /// Appends the compressed form of `input` to `out` if it takes at most `len_max` bytes.
    /// Otherwise leaves `out` as it was and returns false.
    pub(crate) fn compress(&mut self, input: &[u8], len_max: usize, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        if self.write_runs(input, start.saturating_add(len_max), out) {
            return true;
        }
        out.truncate(start);
        false
    }

    fn write_runs(&mut self, input: &[u8], end_max: usize, out: &mut Vec<u8>) -> bool {
        let Some(base) = self.advance_base(input.len()) else { return false };
        let mut literals_from = 0;
        let mut at = 0;
        while at + 2 < input.len() {
            let slot = hash(&input[at..at + 3]);
            let seen = self.table[slot];
            self.table[slot] = base + at as u32;
            let candidate = seen.checked_sub(base).map(|position| position as usize);
            let Some(back) = candidate.filter(|&position| {
                at - position <= OFFSET_MAX && input[position..position + 3] == input[at..at + 3]
            }) else {
                at += 1;
                continue;
            };
            let len = match_len(input, back, at);
            push_literals(&input[literals_from..at], out);
            push_copy(at - back - 1, len, out);
            if out.len() > end_max {
                return false;
            }
            at += len;
            literals_from = at;
        }
        push_literals(&input[literals_from..], out);
        out.len() <= end_max
    }

    /// Makes every entry of the table stale and reserves `len` positions.
    fn advance_base(&mut self, len: usize) -> Option<u32> {
        let len = u32::try_from(len).ok()?;
        let base = self.base;
        if let Some(next) = base.checked_add(len) {
            self.base = next;
            return Some(base);
        }
        self.table.fill(0);
        self.base = 1u32.checked_add(len)?;
        Some(1)
    }
}

/// Appends the `len` bytes that `input` stands for to `out`. `None` when `input` is corrupt or stands for another number of
/// bytes; `out` is then in an unspecified state. Reserves nothing before `len` is found plausible.
pub(crate) fn decompress(input: &[u8], len: usize, out: &mut Vec<u8>) -> Option<()> {
    if len > input.len().saturating_mul(RATIO_MAX) {
        return None;
    }
    let start = out.len();
    out.reserve(len);
    let mut rest = input;
    while let Some((&control, after)) = rest.split_first() {
        rest = after;
        let room = len - (out.len() - start);
        if control < 32 {
            let (literals, after) = rest.split_at_checked(control as usize + 1)?;
            if literals.len() > room {
                return None;
            }
            out.extend_from_slice(literals);
            rest = after;
            continue;
        }
        let mut copy_len = (control >> 5) as usize + 2;
        if copy_len == 9 {
            let (&more, after) = rest.split_first()?;
            copy_len += more as usize;
            rest = after;
        }
        let (&low, after) = rest.split_first()?;
        rest = after;
        let distance = ((control as usize & 0x1f) << 8 | low as usize) + 1;
        if copy_len > room || distance > out.len() - start {
            return None;
        }
        copy_back(out, distance, copy_len);
    }
    (out.len() - start == len).then_some(())
}

/// The source may overlap what is written: then the bytes repeat with the period `distance`.
fn copy_back(out: &mut Vec<u8>, distance: usize, mut len: usize) {
    while len > 0 {
        let from = out.len() - distance;
        let step = len.min(distance);
        out.extend_from_within(from..from + step);
        len -= step;
    }
}

fn hash(three: &[u8]) -> usize {
    let value = u32::from(three[0]) | u32::from(three[1]) << 8 | u32::from(three[2]) << 16;
    (value.wrapping_mul(0x9E37_79B1) >> (32 - HASH_BITS)) as usize
}

fn match_len(input: &[u8], back: usize, at: usize) -> usize {
    let max = (input.len() - at).min(COPY_LEN_MAX);
    let earlier = input[back..].iter();
    earlier.zip(&input[at..at + max]).take_while(|(a, b)| a == b).count()
}

fn push_literals(literals: &[u8], out: &mut Vec<u8>) {
    for run in literals.chunks(LITERALS_MAX) {
        out.push(run.len() as u8 - 1);
        out.extend_from_slice(run);
    }
}

fn push_copy(offset: usize, len: usize, out: &mut Vec<u8>) {
    let high = (offset >> 8) as u8;
    let len = len - 2;
    if len < 7 {
        out.push((len as u8) << 5 | high);
    } else {
        out.push(7 << 5 | high);
        out.push((len - 7) as u8);
    }
    out.push(offset as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip(compressor: &mut Compressor, input: &[u8]) -> usize {
        let mut packed = b"before".to_vec();
        assert!(compressor.compress(input, usize::MAX, &mut packed));
        let mut back = b"kept".to_vec();
        assert_eq!(decompress(&packed[6..], input.len(), &mut back), Some(()));
        assert_eq!(&back[..4], b"kept");
        assert_eq!(&back[4..], input);
        packed.len() - 6
    }

    #[test]
    fn repetitive_text_shrinks() {
        let mut compressor = Compressor::default();
        let text = b"the quick brown fox. ".repeat(100);
        assert!(round_trip(&mut compressor, &text) < 100);
        assert!(round_trip(&mut compressor, &vec![b'a'; 100_000]) < 1200);
        round_trip(&mut compressor, b"");
        round_trip(&mut compressor, b"ab");
    }

    #[test]
    fn too_large_a_result_is_undone() {
        let mut compressor = Compressor::default();
        let mut out = b"x".to_vec();
        assert!(!compressor.compress(b"abcdefghijklmnopqrstuvwxyz", 22, &mut out));
        assert_eq!(out, b"x");
    }

    #[test]
    fn table_survives_the_end_of_its_positions() {
        let mut compressor = Compressor { base: u32::MAX - 10, ..Compressor::default() };
        for _ in 0..3 {
            round_trip(&mut compressor, b"abcabcabcabcabcabcabcabc");
        }
    }

    #[test]
    fn hostile_streams() {
        let mut out = Vec::new();
        assert_eq!(decompress(&[0, b'a'], usize::MAX, &mut out), None);
        assert!(out.capacity() < 1024);
        // A copy from before the start; literals and copies past the end of either side.
        for bad in [&[0x20, 0][..], &[3, b'a'], &[0, b'a', 0xe0], &[0, b'a', 0x20]] {
            out.clear();
            assert_eq!(decompress(bad, 4, &mut out), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_round_trip(inputs in prop::collection::vec(
            prop::collection::vec(0u8..4, 0..600), 1..4)) {
            let mut compressor = Compressor::default();
            for input in inputs {
                round_trip(&mut compressor, &input);
            }
        }

        #[test]
        fn garbage_never_panics(input in prop::collection::vec(any::<u8>(), 0..200), len in 0usize..20_000) {
            let mut out = Vec::new();
            if decompress(&input, len, &mut out).is_some() {
                prop_assert_eq!(out.len(), len);
            }
            prop_assert!(out.capacity() <= input.len() * RATIO_MAX + 8);
        }
    }
}
