//! Zipmaps: the packed form of small hashes before Redis 2.6. Only read.
//!
//! A count byte (254 or more: not known), then per field: its length, its bytes, the value's
//! length, a byte that says how many unused bytes follow the value, the value, the unused bytes. At
//! the end 0xFF. A length is one byte below 254, or 254 and a u32, little endian.

use super::Error;

/// A zipmap that was checked from end to end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Zipmap<'a> {
    body: &'a [u8],
}

impl<'a> Zipmap<'a> {
    /// Checks every pair and the count.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        const BAD: Error = Error::Corrupt("zipmap");
        let Some((&stated, rest)) = bytes.split_first() else { return Err(BAD) };
        let Some((&0xFF, body)) = rest.split_last() else { return Err(BAD) };
        let mut rest = body;
        let mut count = 0;
        while !rest.is_empty() {
            (_, _, rest) = pair(rest).ok_or(BAD)?;
            count += 1;
        }
        if stated < 254 && usize::from(stated) != count {
            return Err(BAD);
        }
        Ok(Self { body })
    }

    /// Fields with their values.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let mut rest = self.body;
        std::iter::from_fn(move || {
            let (field, value, after) = pair(rest)?;
            rest = after;
            Some((field, value))
        })
    }
}

fn pair(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (field_len, rest) = length(bytes)?;
    let (field, rest) = rest.split_at_checked(field_len)?;
    let (value_len, rest) = length(rest)?;
    let (&unused, rest) = rest.split_first()?;
    let (value, rest) = rest.split_at_checked(value_len)?;
    Some((field, value, rest.get(unused as usize..)?))
}

fn length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    match bytes.split_first()? {
        (&0xFF, _) => None,
        (&254, rest) => {
            let (len, rest) = rest.split_first_chunk::<4>()?;
            Some((u32::from_le_bytes(*len) as usize, rest))
        }
        (&len, rest) => Some((len as usize, rest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_and_damage() {
        let bytes = b"\x02\x03foo\x03\x01bar?\xfe\x02\0\0\0hi\x00\x00\xff";
        let map = Zipmap::parse(bytes).unwrap();
        assert_eq!(map.iter().collect::<Vec<_>>(), [(&b"foo"[..], &b"bar"[..]), (b"hi", b"")]);
        for at in 0..bytes.len() {
            assert!(Zipmap::parse(&bytes[..at]).is_err(), "{at}");
            for byte in 0..=255 {
                let mut bad = bytes.to_vec();
                bad[at] = byte;
                // Whatever it says, it must not panic.
                let _ = Zipmap::parse(&bad).map(|map| map.iter().count());
            }
        }
    }
}
