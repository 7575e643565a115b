//! The hash function of every table, and the digest's.
//!
//! Results of random picks depend on it ([`crate::table::Table::successors`]), so it must be the
//! same in every version, on every machine: that is why it is ours and not a dependency's. It is
//! wyhash's final version 4 without the 48-byte unrolling (Wang Yi, public domain): 64-bit folded
//! multiplications, little-endian reads.

use std::cell::Cell;

const P0: u64 = 0x2d35_8dcc_aa6c_78a5;
const P1: u64 = 0x8bb8_4b93_962e_acc9;

thread_local! {
    /// Seed of the engine that runs on this thread right now; tables take it when they are made.
    static SEED: Cell<u64> = const { Cell::new(0) };
}

/// Makes `seed` the seed of tables created on this thread from now on. The engine calls it each
/// time it is entered, so engines with different seeds can share a thread.
pub(crate) fn enter(seed: u64) {
    SEED.with(|cell| cell.set(seed));
}

/// The seed that [`enter`] set last.
pub(crate) fn current_seed() -> u64 {
    SEED.with(Cell::get)
}

#[inline]
pub(crate) fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ (product >> 64) as u64
}

/// Hash of `bytes` under `seed`.
#[inline]
pub(crate) fn hash(seed: u64, bytes: &[u8]) -> u64 {
    let len = bytes.len();
    let mut state = seed ^ mix(seed ^ P0, P1);
    let (a, b) = if len <= 16 {
        short(bytes)
    } else {
        let mut rest = bytes;
        while rest.len() > 16 {
            state = mix(read64(rest, 0) ^ P1, read64(rest, 8) ^ state);
            rest = &rest[16..];
        }
        (read64(bytes, len - 16), read64(bytes, len - 8))
    };
    mix(P0 ^ len as u64, mix(a ^ P1, b ^ state))
}

#[inline]
fn short(bytes: &[u8]) -> (u64, u64) {
    let len = bytes.len();
    if len >= 4 {
        let middle = (len >> 3) << 2;
        (
            read32(bytes, 0) << 32 | read32(bytes, middle),
            read32(bytes, len - 4) << 32 | read32(bytes, len - 4 - middle),
        )
    } else if len > 0 {
        let a =
            u64::from(bytes[0]) << 16 | u64::from(bytes[len >> 1]) << 8 | u64::from(bytes[len - 1]);
        (a, 0)
    } else {
        (0, 0)
    }
}

#[inline]
fn read64(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

#[inline]
fn read32(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |chunk| u64::from(u32::from_le_bytes(*chunk)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_byte_and_length_counts() {
        let mut seen = HashSet::new();
        for len in 0..100usize {
            let mut bytes = vec![7u8; len];
            assert!(seen.insert(hash(1, &bytes)), "length {len}");
            for at in 0..len {
                bytes[at] ^= 0x40;
                assert!(seen.insert(hash(1, &bytes)), "length {len}, byte {at}");
                bytes[at] ^= 0x40;
            }
        }
        assert_ne!(hash(1, b"a"), hash(2, b"a"));
    }

    #[test]
    fn stays_the_same_forever() {
        let known: Vec<u64> = [&b""[..], b"a", b"abcd", b"0123456789abcdef0"]
            .iter()
            .map(|bytes| hash(42, bytes))
            .collect();
        assert_eq!(known, KNOWN, "random picks of stored clusters would change");
    }

    const KNOWN: [u64; 4] =
        [17807694546301530368, 522826332881099923, 13544876565689652275, 6114966301003810037];
}
