//! Intsets: sets of integers as a sorted array. Header: bytes per integer u32 (2, 4 or 8), count
//! u32, little endian; then the integers, strictly ascending.

use super::Error;

/// An intset that was checked from end to end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Intset<'a> {
    body: &'a [u8],
    width: usize,
}

impl<'a> Intset<'a> {
    /// Checks the header and that the integers ascend.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        const BAD: Error = Error::Corrupt("intset");
        let (header, body) = bytes.split_first_chunk::<8>().ok_or(BAD)?;
        let width = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let count = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
        if !matches!(width, 2 | 4 | 8) || count.checked_mul(width) != Some(body.len()) {
            return Err(BAD);
        }
        let set = Self { body, width };
        if !set.iter().is_sorted_by(|a, b| a < b) {
            return Err(BAD);
        }
        Ok(set)
    }

    /// Ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = i64> + use<'a> {
        self.body.chunks_exact(self.width).map(super::little_endian_int)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(width: usize, values: &[i64]) -> Vec<u8> {
        let mut out = (width as u32).to_le_bytes().to_vec();
        out.extend_from_slice(&(values.len() as u32).to_le_bytes());
        for value in values {
            out.extend_from_slice(&value.to_le_bytes()[..width]);
        }
        out
    }

    #[test]
    fn widths_and_damage() {
        for (width, values) in
            [(2, &[][..]), (2, &[-5, 0, 7]), (4, &[-70_000, 1]), (8, &[i64::MIN, 0, i64::MAX])]
        {
            let bytes = build(width, values);
            assert!(Intset::parse(&bytes).unwrap().iter().eq(values.iter().copied()));
            for at in 0..bytes.len() {
                assert!(Intset::parse(&bytes[..at]).is_err());
                let mut bad = bytes.clone();
                bad[at] ^= 0x80;
                // Whatever it says, it must not panic.
                let _ = Intset::parse(&bad).map(|set| set.iter().count());
            }
        }
        assert!(Intset::parse(&build(2, &[1, 1])).is_err());
        assert!(Intset::parse(&build(2, &[2, 1])).is_err());
        assert!(Intset::parse(&build(3, &[1])).is_err());
    }
}
