//! HyperLogLog in Redis's format: a string that estimates how many different elements it was given.
//!
//! The value is a header of 16 bytes (`HYLL`, the encoding, three zeros, the cached cardinality as a
//! little-endian number whose top bit says that it is out of date), then 16,384 registers: *dense*, 6
//! bits each from the low bits of the first byte on, or *sparse*, as run lengths:
//!
//! | opcode | bits | meaning |
//! | --- | --- | --- |
//! | ZERO | `00xxxxxx` | x + 1 registers are 0 |
//! | XZERO | `01xxxxxx yyyyyyyy` | xy + 1 registers are 0 |
//! | VAL | `1vvvvvxx` | x + 1 registers are v + 1 |
//!
//! The bytes are those that Redis 7.2 makes of the same commands (its cached cardinality excepted, see
//! `command::hyperloglog`), so values move both ways. The choices that decide them are therefore
//! Redis's: which opcodes a change leaves, which neighbours are merged, when sparse becomes dense.
//! The estimate is Ertl's ("New cardinality estimation algorithms for HyperLogLog sketches", 2017).

use std::fmt::Write;

/// Length of the header.
const HEADER_LEN: usize = 16;
const MAGIC: &[u8] = b"HYLL";
const DENSE: u8 = 0;
const SPARSE: u8 = 1;

/// Bits of the hash that choose the register.
const INDEX_BITS: u32 = 14;
pub(crate) const REGISTERS: usize = 1 << INDEX_BITS;
/// Bits of the hash that are left for the register's value.
const HASH_BITS: u32 = 64 - INDEX_BITS;
const REGISTER_BITS: usize = 6;
const DENSE_LEN: usize = HEADER_LEN + REGISTERS * REGISTER_BITS / 8;

/// Longest run and greatest value of a VAL opcode.
const VAL_LEN_MAX: usize = 4;
const VAL_MAX: u8 = 32;
const ZERO_LEN_MAX: usize = 64;
/// `hll-sparse-max-bytes` of Redis: a sparse value that would grow beyond becomes dense.
const SPARSE_LEN_MAX: usize = 3000;

/// The value's bytes do not make sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Corrupted;

/// The value of a new key: sparse, all registers 0, cached cardinality 0.
pub(crate) fn empty() -> Vec<u8> {
    let mut value = Vec::with_capacity(HEADER_LEN + 2);
    value.extend_from_slice(MAGIC);
    value.resize(HEADER_LEN, 0);
    value[4] = SPARSE;
    push_zeros(&mut value, REGISTERS);
    value
}

/// Whether a string may be a HyperLogLog: by its header and, if dense, its length.
pub(crate) fn is_valid(value: &[u8]) -> bool {
    value.len() >= HEADER_LEN
        && value.starts_with(MAGIC)
        && match value[4] {
            DENSE => value.len() == DENSE_LEN,
            encoding => encoding == SPARSE,
        }
}

pub(crate) fn is_sparse(value: &[u8]) -> bool {
    value[4] == SPARSE
}

/// The cardinality in the header, if it is up to date.
pub(crate) fn cached_count(value: &[u8]) -> Option<u64> {
    let cached = u64::from_le_bytes(*value[8..].first_chunk()?);
    (cached >> 63 == 0).then_some(cached)
}

/// Marks the cardinality in the header as out of date.
pub(crate) fn invalidate(value: &mut [u8]) {
    value[15] |= 0x80;
}

/// Adds an element to a valid value; `true` if a register grew. The cached cardinality is left alone.
pub(crate) fn add(value: &mut Vec<u8>, element: &[u8]) -> Result<bool, Corrupted> {
    let (index, rank) = place(element);
    raise(value, index, rank)
}

/// The register of an element, and the value that it proposes: the position of the lowest set bit
/// in the rest of its hash, from 1.
fn place(element: &[u8]) -> (usize, u8) {
    let hash = murmur_hash_64a(element, 0xadc8_3b19);
    let index = hash as usize % REGISTERS;
    let rest = hash >> INDEX_BITS | 1 << HASH_BITS;
    (index, rest.trailing_zeros() as u8 + 1)
}

/// Raises a register to `rank`; `true` if it was below.
pub(crate) fn raise(value: &mut Vec<u8>, index: usize, rank: u8) -> Result<bool, Corrupted> {
    if is_sparse(value) {
        return raise_sparse(value, index, rank);
    }
    Ok(raise_dense(&mut value[HEADER_LEN..], index, rank))
}

// ---- dense ---------------------------------------------------------------------------------------

fn dense_register(registers: &[u8], index: usize) -> u8 {
    let (at, shift) = (index * REGISTER_BITS / 8, index * REGISTER_BITS % 8);
    let next = registers.get(at + 1).copied().unwrap_or(0);
    (u16::from_le_bytes([registers[at], next]) >> shift) as u8 & 63
}

fn raise_dense(registers: &mut [u8], index: usize, rank: u8) -> bool {
    if rank <= dense_register(registers, index) {
        return false;
    }
    let (at, shift) = (index * REGISTER_BITS / 8, index * REGISTER_BITS % 8);
    let mask = 63u16 << shift;
    let next = registers.get(at + 1).copied().unwrap_or(0);
    let pair = u16::from_le_bytes([registers[at], next]) & !mask | u16::from(rank) << shift;
    registers[at] = pair as u8;
    if let Some(next) = registers.get_mut(at + 1) {
        *next = (pair >> 8) as u8;
    }
    true
}

/// Calls `visit` with every register of a dense value.
fn visit_dense(registers: &[u8], mut visit: impl FnMut(u8)) {
    for &[a, b, c] in registers.as_chunks::<3>().0 {
        let four = u32::from_le_bytes([a, b, c, 0]);
        visit(four as u8 & 63);
        visit((four >> 6) as u8 & 63);
        visit((four >> 12) as u8 & 63);
        visit((four >> 18) as u8);
    }
}

// ---- sparse --------------------------------------------------------------------------------------

/// A run of equal registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Run {
    /// 0 for ZERO and XZERO.
    rank: u8,
    len: usize,
    /// Bytes of the opcode.
    bytes: usize,
}

impl Run {
    /// The opcode at the front of `opcodes`.
    fn at(opcodes: &[u8]) -> Option<Self> {
        let &first = opcodes.first()?;
        let low = usize::from(first & 0x3f);
        Some(match first >> 6 {
            0 => Self { rank: 0, len: low + 1, bytes: 1 },
            // In Redis a string is followed by a zero byte, which a cut opcode reads.
            1 => {
                let second = opcodes.get(1).copied().unwrap_or(0);
                Self { rank: 0, len: (low << 8 | usize::from(second)) + 1, bytes: 2 }
            }
            _ => Self { rank: (first >> 2 & 0x1f) + 1, len: (low & 3) + 1, bytes: 1 },
        })
    }
}

/// The runs of sparse opcodes.
fn runs(mut opcodes: &[u8]) -> impl Iterator<Item = Run> {
    std::iter::from_fn(move || {
        let run = Run::at(opcodes)?;
        opcodes = opcodes.get(run.bytes..).unwrap_or(&[]);
        Some(run)
    })
}

fn val(rank: u8, len: usize) -> u8 {
    0x80 | (rank - 1) << 2 | (len - 1) as u8
}

fn push_zeros(out: &mut Vec<u8>, len: usize) {
    let low = (len - 1) as u16;
    if len > ZERO_LEN_MAX {
        out.extend([0x40 | (low >> 8) as u8, low as u8]);
    } else {
        out.push(low as u8);
    }
}

fn push_run(out: &mut Vec<u8>, rank: u8, len: usize) {
    match (rank, len) {
        (_, 0) => {}
        (0, _) => push_zeros(out, len),
        _ => out.push(val(rank, len)),
    }
}

fn raise_sparse(value: &mut Vec<u8>, index: usize, rank: u8) -> Result<bool, Corrupted> {
    if rank > VAL_MAX {
        return promote_and_raise(value, index, rank);
    }
    // The run that covers the register, and the one before it.
    let (mut at, mut first, mut previous) = (HEADER_LEN, 0, None);
    let run = loop {
        let run = Run::at(&value[at..]).ok_or(Corrupted)?;
        if index < first + run.len {
            break run;
        }
        (previous, first) = (Some(at), first + run.len);
        at += run.bytes;
        if at >= value.len() {
            return Err(Corrupted);
        }
    };
    if rank <= run.rank {
        return Ok(false);
    }
    // The register's own opcode, in the middle of what is left of the run.
    let mut opcodes = Vec::with_capacity(5);
    push_run(&mut opcodes, run.rank, index - first);
    opcodes.push(val(rank, 1));
    push_run(&mut opcodes, run.rank, first + run.len - index - 1);
    if opcodes.len() > run.bytes && value.len() + opcodes.len() - run.bytes > SPARSE_LEN_MAX {
        return promote_and_raise(value, index, rank);
    }
    let end = (at + run.bytes).min(value.len());
    value.splice(at..end, opcodes);
    merge_values(value, previous.unwrap_or(HEADER_LEN));
    invalidate(value);
    Ok(true)
}

/// Joins neighbouring VAL opcodes of the same value around a change: the next five opcodes are
/// looked at, a merge counts as one.
fn merge_values(value: &mut Vec<u8>, mut at: usize) {
    for _ in 0..5 {
        let Some(run) = value.get(at..).and_then(Run::at) else { return };
        let next = value.get(at + 1..).and_then(Run::at);
        match next {
            Some(next)
                if run.rank > 0 && next.rank == run.rank && run.len + next.len <= VAL_LEN_MAX =>
            {
                value[at] = val(run.rank, run.len + next.len);
                value.remove(at + 1);
            }
            _ => at += run.bytes,
        }
    }
}

fn promote_and_raise(value: &mut Vec<u8>, index: usize, rank: u8) -> Result<bool, Corrupted> {
    to_dense(value)?;
    Ok(raise_dense(&mut value[HEADER_LEN..], index, rank))
}

/// Makes a valid value dense.
pub(crate) fn to_dense(value: &mut Vec<u8>) -> Result<(), Corrupted> {
    if !is_sparse(value) {
        return Ok(());
    }
    let mut dense = vec![0; DENSE_LEN];
    dense[..HEADER_LEN].copy_from_slice(&value[..HEADER_LEN]);
    dense[4] = DENSE;
    let mut index = 0;
    for run in runs(&value[HEADER_LEN..]) {
        if index + run.len > REGISTERS {
            return Err(Corrupted);
        }
        if run.rank > 0 {
            for register in index..index + run.len {
                raise_dense(&mut dense[HEADER_LEN..], register, run.rank);
            }
        }
        index += run.len;
    }
    if index != REGISTERS {
        return Err(Corrupted);
    }
    *value = dense;
    Ok(())
}

// ---- counting ------------------------------------------------------------------------------------

/// The registers of several values, the greatest of each.
pub(crate) struct Union(Box<[u8; REGISTERS]>);

impl Union {
    pub(crate) fn new() -> Self {
        Self(Box::new([0; REGISTERS]))
    }

    /// Takes in a valid value.
    pub(crate) fn merge(&mut self, value: &[u8]) -> Result<(), Corrupted> {
        let mut index = 0;
        if !is_sparse(value) {
            visit_dense(&value[HEADER_LEN..], |rank| {
                self.0[index] = self.0[index].max(rank);
                index += 1;
            });
            return Ok(());
        }
        for run in runs(&value[HEADER_LEN..]) {
            let registers = self.0.get_mut(index..index + run.len).ok_or(Corrupted)?;
            registers.iter_mut().for_each(|register| *register = (*register).max(run.rank));
            index += run.len;
        }
        if index == REGISTERS { Ok(()) } else { Err(Corrupted) }
    }

    pub(crate) fn registers(&self) -> &[u8; REGISTERS] {
        &self.0
    }

    pub(crate) fn count(&self) -> u64 {
        let mut histogram = Histogram::default();
        self.0.iter().for_each(|&rank| histogram.0[usize::from(rank)] += 1);
        histogram.estimate()
    }
}

/// The estimate of a valid value, whatever its header says.
pub(crate) fn count(value: &[u8]) -> Result<u64, Corrupted> {
    let mut histogram = Histogram::default();
    if is_sparse(value) {
        let mut registers = 0;
        for run in runs(&value[HEADER_LEN..]) {
            registers += run.len;
            histogram.0[usize::from(run.rank)] += run.len as u32;
        }
        if registers != REGISTERS {
            return Err(Corrupted);
        }
    } else {
        // Two tables: the same register twice in a row would wait for itself.
        let mut odd = Histogram::default();
        let mut is_odd = false;
        visit_dense(&value[HEADER_LEN..], |rank| {
            let table = if is_odd { &mut odd } else { &mut histogram };
            table.0[usize::from(rank)] += 1;
            is_odd = !is_odd;
        });
        histogram.0.iter_mut().zip(odd.0).for_each(|(count, more)| *count += more);
    }
    Ok(histogram.estimate())
}

/// How many registers have each value.
struct Histogram([u32; 64]);

impl Default for Histogram {
    fn default() -> Self {
        Self([0; 64])
    }
}

impl Histogram {
    fn estimate(&self) -> u64 {
        /// 1 / (2 ln 2).
        const ALPHA: f64 = 0.721_347_520_444_481_7;
        /// What C's `llroundl` makes of all that is not below 2^63, infinity included, on x86-64.
        /// Only hand-made values come so far.
        const TOO_BIG: u64 = 1 << 63;
        let m = REGISTERS as f64;
        let full = f64::from(self.0[HASH_BITS as usize + 1]);
        let mut z = m * tau((m - full) / m);
        for &count in self.0[1..=HASH_BITS as usize].iter().rev() {
            z = (z + f64::from(count)) * 0.5;
        }
        z += m * sigma(f64::from(self.0[0]) / m);
        let estimate = (ALPHA * m * m / z).round();
        if estimate < TOO_BIG as f64 { estimate as u64 } else { TOO_BIG }
    }
}

/// x + the sum over k of x^(2^k) 2^(k-1); infinite at 1.
fn sigma(mut x: f64) -> f64 {
    if x == 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if z == before {
            return z;
        }
    }
}

/// (1 - x - the sum over k of (1 - x^(2^-k))^2 2^-k) / 3.
fn tau(mut x: f64) -> f64 {
    if x == 0.0 || x == 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x) * (1.0 - x) * y;
        if z == before {
            return z / 3.0;
        }
    }
}

// ---- looking inside ------------------------------------------------------------------------------

/// The registers of a dense value.
pub(crate) fn dense_registers(value: &[u8]) -> Vec<u8> {
    let mut registers = Vec::with_capacity(REGISTERS);
    visit_dense(&value[HEADER_LEN..], |rank| registers.push(rank));
    registers
}

/// The opcodes of a sparse value as PFDEBUG DECODE shows them: `Z:len`, `z:len`, `v:value,len`.
pub(crate) fn decode(value: &[u8]) -> String {
    let mut text = String::new();
    for run in runs(&value[HEADER_LEN..]) {
        let separator = if text.is_empty() { "" } else { " " };
        let written = match run {
            Run { rank: 0, len, bytes: 1 } => write!(text, "{separator}z:{len}"),
            Run { rank: 0, len, .. } => write!(text, "{separator}Z:{len}"),
            Run { rank, len, .. } => write!(text, "{separator}v:{rank},{len}"),
        };
        written.expect("a string takes everything");
    }
    text
}

/// MurmurHash64A by Austin Appleby, public domain, as on little-endian machines.
fn murmur_hash_64a(bytes: &[u8], seed: u64) -> u64 {
    const M: u64 = 0xc6a4_a793_5bd1_e995;
    const R: u32 = 47;
    let mut hash = seed ^ (bytes.len() as u64).wrapping_mul(M);
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let mut k = u64::from_le_bytes(*word).wrapping_mul(M);
        k = (k ^ (k >> R)).wrapping_mul(M);
        hash = (hash ^ k).wrapping_mul(M);
    }
    if !rest.is_empty() {
        let mut tail = [0; 8];
        tail[..rest.len()].copy_from_slice(rest);
        hash = (hash ^ u64::from_le_bytes(tail)).wrapping_mul(M);
    }
    hash = (hash ^ (hash >> R)).wrapping_mul(M);
    hash ^ (hash >> R)
}

/// What PFSELFTEST checks: registers keep what is written to them, dense and sparse values agree,
/// and estimates are within a few standard errors (0.81 % each). The error says what is wrong.
pub(crate) fn self_test() -> Result<(), String> {
    let mut dense = empty();
    to_dense(&mut dense).map_err(|Corrupted| "TESTFAILED an empty value cannot be made dense")?;
    let mut sparse = empty();
    let mut state = 1u64;
    let mut expected = vec![0u8; REGISTERS];
    for step in 0..REGISTERS * 4 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let (index, rank) = ((state >> 20) as usize % REGISTERS, 1 + (state >> 40) as u8 % 50);
        expected[index] = expected[index].max(rank);
        raise_dense(&mut dense[HEADER_LEN..], index, rank);
        if step < 200 {
            let corrupted = |Corrupted| format!("TESTFAILED sparse value after {step} changes");
            raise(&mut sparse, index, rank.min(VAL_MAX)).map_err(corrupted)?;
        }
    }
    if dense_registers(&dense) != expected {
        return Err("TESTFAILED a register does not hold what was written".to_owned());
    }
    if !is_sparse(&sparse) {
        return Err("TESTFAILED a short value is dense".to_owned());
    }
    let (mut dense, mut sparse) = (empty(), empty());
    to_dense(&mut dense).map_err(|Corrupted| "TESTFAILED an empty value cannot be made dense")?;
    let mut next = 1;
    for added in 1..=100_000u64 {
        let element = added.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_ne_bytes();
        let results = (add(&mut dense, &element), add(&mut sparse, &element));
        if results.0.is_err() || results.0 != results.1 {
            return Err(format!("TESTFAILED sparse and dense disagree at {added}"));
        }
        if added == next {
            next *= 10;
            let (a, b) = (count(&dense), count(&sparse));
            let estimate = a.unwrap_or(u64::MAX);
            // As in Redis: six standard errors, or 10 where hardly a register is used.
            let tolerance = (added as f64 * 0.0081 * 6.0).ceil().max(10.0) as u64;
            if a != b || estimate.abs_diff(added) > tolerance {
                return Err(format!("TESTFAILED {added} elements are counted as {estimate}"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_its_own_test() {
        assert_eq!(self_test(), Ok(()));
    }

    /// What a stock Redis answers on x86-64.
    #[test]
    fn estimates_that_no_number_holds() {
        let mut value = empty();
        value.truncate(HEADER_LEN);
        value[4] = 0;
        value.resize(HEADER_LEN + REGISTERS * 6 / 8, 0xff);
        assert!(is_valid(&value));
        assert_eq!(count(&value), Ok(1 << 63));
        let mut union = Union::new();
        union.merge(&value).unwrap();
        assert_eq!(union.count(), 1 << 63);
    }

    #[test]
    fn sparse_values_that_make_no_sense_are_refused() {
        let mut state = 9u64;
        for _ in 0..20_000 {
            let mut value = empty();
            value.truncate(HEADER_LEN);
            for _ in 0..(state >> 9) % 12 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                value.push((state >> 33) as u8);
            }
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let registers: usize = runs(&value[HEADER_LEN..]).map(|run| run.len).sum();
            let whole = registers == REGISTERS;
            assert_eq!(count(&value).is_ok(), whole);
            assert_eq!(Union::new().merge(&value).is_ok(), whole);
            assert_eq!(to_dense(&mut value.clone()).is_ok(), whole);
            // Whatever it is, adding to it neither panics nor loses its form.
            let mut changed = value.clone();
            if raise(&mut changed, (state >> 17) as usize % REGISTERS, (state >> 5) as u8 % 51 + 1)
                .is_ok()
            {
                assert!(is_valid(&changed));
            }
        }
    }
}
