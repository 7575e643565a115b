//! Intsets: sets of integers as a sorted array. Header: bytes per integer u32 (2, 4 or 8), count
//! u32, little endian; then the integers, strictly ascending.

use super::Error;

/// An intset that was checked from end to end.
#[derive(Clone, Copy, Debug)]
pub struct Intset<'a> {
    body: &'a [u8],
    width: usize,
}

impl<'a> Intset<'a> {
    /// Checks the header and that the integers ascend.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
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

    pub fn len(&self) -> usize {
        self.body.len() / self.width
    }

    pub fn is_empty(&self) -> bool {
        self.body.is_empty()
    }

    /// Ascending.
    pub fn iter(&self) -> impl Iterator<Item = i64> + use<'a> {
        self.body.chunks_exact(self.width).map(super::little_endian_int)
    }
}

/// Appends the intset of `values`, which must ascend strictly and be fewer than 2^32.
pub fn build(values: impl ExactSizeIterator<Item = i64> + Clone, out: &mut Vec<u8>) {
    let width = values.clone().map(width_of).max().unwrap_or(2);
    out.extend_from_slice(&(width as u32).to_le_bytes());
    out.extend_from_slice(&(values.len() as u32).to_le_bytes());
    for value in values {
        out.extend_from_slice(&value.to_le_bytes()[..width]);
    }
}

fn width_of(value: i64) -> usize {
    if i16::try_from(value).is_ok() {
        2
    } else if i32::try_from(value).is_ok() {
        4
    } else {
        8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_and_damage() {
        for values in [vec![], vec![-5, 0, 7], vec![-70_000, 1], vec![i64::MIN, 0, i64::MAX]] {
            let mut bytes = Vec::new();
            build(values.iter().copied(), &mut bytes);
            assert_eq!(Intset::parse(&bytes).unwrap().iter().collect::<Vec<_>>(), values);
            assert_eq!(Intset::parse(&bytes).unwrap().len(), values.len());
            for at in 0..bytes.len() {
                assert!(Intset::parse(&bytes[..at]).is_err());
                let mut bad = bytes.clone();
                bad[at] ^= 0x80;
                let _ = Intset::parse(&bad);
            }
        }
        let mut twice = Vec::new();
        build([1, 1].into_iter(), &mut twice);
        assert!(Intset::parse(&twice).is_err());
    }
}
