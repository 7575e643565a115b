//! The elements of big collections: one allocation each, behind one word, so that they fit the
//! cells of [`Table`](crate::table::Table).
//!
//! An allocation holds a head of fixed size (the score of a sorted set's element), then the lengths
//! of its strings as variable-length numbers, then the strings.

use crate::memory;
use crate::table::Keyed;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// A member of a set.
pub(crate) struct Member(Thin<0, 1>);

/// A field of a hash with its value.
pub(crate) struct Field(Thin<0, 2>);

/// A member of a sorted set with its score.
pub(crate) struct Scored(Thin<8, 1>);

impl Member {
    pub(crate) fn new(member: &[u8]) -> Self {
        Self(Thin::new([member]))
    }

    /// Bytes that the allocation takes.
    pub(crate) fn memory(&self) -> usize {
        self.0.memory()
    }
}

impl Keyed for Member {
    #[inline]
    fn key(&self) -> &[u8] {
        self.0.strings()[0]
    }
}

impl Field {
    pub(crate) fn new(field: &[u8], value: &[u8]) -> Self {
        Self(Thin::new([field, value]))
    }

    #[inline]
    pub(crate) fn value(&self) -> &[u8] {
        self.0.strings()[1]
    }

    /// Replaces the value, in place if it costs the same.
    pub(crate) fn set_value(&mut self, value: &[u8]) {
        if !self.0.try_replace_last(value) {
            *self = Self::new(self.key(), value);
        }
    }

    /// Bytes that the allocation takes.
    pub(crate) fn memory(&self) -> usize {
        self.0.memory()
    }
}

impl Keyed for Field {
    #[inline]
    fn key(&self) -> &[u8] {
        self.0.strings()[0]
    }
}

impl Scored {
    pub(crate) fn new(member: &[u8], score: f64) -> Self {
        let mut scored = Self(Thin::new([member]));
        scored.set_score(score);
        scored
    }

    #[inline]
    pub(crate) fn score(&self) -> f64 {
        f64::from_le_bytes(self.0.head())
    }

    pub(crate) fn set_score(&mut self, score: f64) {
        self.0.set_head(score.to_le_bytes());
    }

    /// Bytes that the allocation takes.
    pub(crate) fn memory(&self) -> usize {
        self.0.memory()
    }

    /// A second pointer to the allocation, for the order of a sorted set.
    pub(crate) fn pointer(&self) -> ScoredPointer {
        ScoredPointer(self.0.0)
    }
}

impl Keyed for Scored {
    #[inline]
    fn key(&self) -> &[u8] {
        self.0.strings()[0]
    }
}

/// Points at the allocation of a [`Scored`] that someone else owns.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct ScoredPointer(NonNull<u8>);

// SAFETY: a plain address; only `ScoredPointer::member` uses it, under its own conditions.
unsafe impl Send for ScoredPointer {}

impl ScoredPointer {
    /// The member.
    ///
    /// # Safety
    /// The [`Scored`] is alive for all of `'a`.
    #[inline]
    pub(crate) unsafe fn member<'a>(self) -> &'a [u8] {
        // SAFETY: the caller's promise.
        unsafe { strings::<8, 1>(self.0)[0] }
    }
}

/// An allocation with a head of `HEAD` bytes and `N` strings.
struct Thin<const HEAD: usize, const N: usize>(NonNull<u8>);

// SAFETY: owns its allocation; the second pointers of `Scored::pointer` belong to the same owner.
unsafe impl<const HEAD: usize, const N: usize> Send for Thin<HEAD, N> {}

impl<const HEAD: usize, const N: usize> Thin<HEAD, N> {
    fn new(strings: [&[u8]; N]) -> Self {
        let len = HEAD + strings.iter().map(|s| len_size(s.len()) + s.len()).sum::<usize>();
        let layout = layout(len);
        // SAFETY: the layout has a size; `content` covers the allocation, which is zeroed.
        let (pointer, content) = unsafe {
            let pointer = alloc_zeroed(layout);
            let Some(pointer) = NonNull::new(pointer) else { handle_alloc_error(layout) };
            (pointer, std::slice::from_raw_parts_mut(pointer.as_ptr(), layout.size()))
        };
        let mut at = HEAD;
        for string in strings {
            at += write_len(string.len(), &mut content[at..]);
        }
        for string in strings {
            content[at..at + string.len()].copy_from_slice(string);
            at += string.len();
        }
        Self(pointer)
    }

    #[inline]
    fn strings(&self) -> [&[u8]; N] {
        // SAFETY: `self` owns the allocation.
        unsafe { strings::<HEAD, N>(self.0) }
    }

    fn head(&self) -> [u8; HEAD] {
        // SAFETY: the allocation begins with the head.
        unsafe { self.0.cast::<[u8; HEAD]>().read() }
    }

    fn set_head(&mut self, head: [u8; HEAD]) {
        // SAFETY: the allocation begins with the head; no reference into it is kept by anyone
        // (second pointers only read the strings behind it).
        unsafe { self.0.cast::<[u8; HEAD]>().write(head) };
    }

    /// Overwrites the last string if the layout stays the same.
    fn try_replace_last(&mut self, string: &[u8]) -> bool {
        let layout = self.layout();
        let strings = self.strings();
        let old = strings[N - 1].len();
        let before: usize = strings[..N - 1].iter().map(|s| len_size(s.len()) + s.len()).sum();
        let new_len = HEAD + before + len_size(string.len()) + string.len();
        if len_size(old) != len_size(string.len()) || self::layout(new_len) != layout {
            return false;
        }
        let lens: usize = strings[..N - 1].iter().map(|s| len_size(s.len())).sum();
        let start = HEAD + before + len_size(old);
        // SAFETY: the allocation has `layout.size()` initialised bytes, and no reference into it
        // is in use any more.
        let content = unsafe { std::slice::from_raw_parts_mut(self.0.as_ptr(), layout.size()) };
        write_len(string.len(), &mut content[HEAD + lens..]);
        content[start..start + string.len()].copy_from_slice(string);
        true
    }

    fn layout(&self) -> Layout {
        let strings = self.strings();
        layout(HEAD + strings.iter().map(|s| len_size(s.len()) + s.len()).sum::<usize>())
    }

    fn memory(&self) -> usize {
        memory::allocated(self.layout().size())
    }
}

impl<const HEAD: usize, const N: usize> Drop for Thin<HEAD, N> {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout (a function of the strings; they are only replaced
        // where it stays the same).
        unsafe { dealloc(self.0.as_ptr(), self.layout()) };
    }
}

/// The strings of an allocation made by [`Thin::new`].
///
/// # Safety
/// The allocation is alive for all of `'a`.
#[inline]
unsafe fn strings<'a, const HEAD: usize, const N: usize>(pointer: NonNull<u8>) -> [&'a [u8]; N] {
    // SAFETY: the lengths and the strings were written by `Thin::new` or `try_replace_last`.
    unsafe {
        let mut at = pointer.as_ptr().add(HEAD).cast_const();
        let mut lens = [0; N];
        for len in &mut lens {
            let (value, size) = read_len(at);
            *len = value;
            at = at.add(size);
        }
        lens.map(|len| {
            let string = std::slice::from_raw_parts(at, len);
            at = at.add(len);
            string
        })
    }
}

/// Bytes of a length: one below 255, else a mark and four.
const fn len_size(len: usize) -> usize {
    if len < 255 { 1 } else { 5 }
}

fn write_len(len: usize, out: &mut [u8]) -> usize {
    if len < 255 {
        out[0] = len as u8;
        return 1;
    }
    let len = u32::try_from(len).expect("strings are limited to 512 MiB");
    out[0] = 255;
    out[1..5].copy_from_slice(&len.to_le_bytes());
    5
}

/// # Safety
/// A length as [`write_len`] writes it is at `at`.
#[inline]
unsafe fn read_len(at: *const u8) -> (usize, usize) {
    // SAFETY: the caller's promise.
    unsafe {
        match *at {
            255 => (u32::from_le(at.add(1).cast::<u32>().read_unaligned()) as usize, 5),
            len => (usize::from(len), 1),
        }
    }
}

fn layout(len: usize) -> Layout {
    // Aligned for the score, which costs nothing: the allocator's granule is 16.
    Layout::from_size_align(memory::usable(len), 8).expect("strings fit the address space")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_of_every_length_come_back() {
        for len in (0..600).chain([70_000]) {
            let bytes: Vec<u8> = (0..len).map(|at| at as u8).collect();
            assert_eq!(Member::new(&bytes).key(), bytes);
            let field = Field::new(&bytes, b"value");
            assert_eq!((field.key(), field.value()), (&bytes[..], &b"value"[..]));
            for other in [0, len / 2, len + 1, len + 9, 254, 255] {
                let mut field = Field::new(b"field", &bytes);
                field.set_value(&vec![7; other]);
                assert_eq!((field.key(), field.value()), (&b"field"[..], &vec![7; other][..]));
                assert_eq!(field.memory(), Field::new(b"field", &vec![7; other]).memory());
            }
            let field = Field::new(b"", &bytes);
            assert_eq!((field.key(), field.value()), (&b""[..], &bytes[..]));
            let mut scored = Scored::new(&bytes, 1.5);
            scored.set_score(-2.5);
            assert_eq!((scored.key(), scored.score()), (&bytes[..], -2.5));
        }
    }

    #[test]
    fn small_elements_are_small() {
        assert_eq!(Member::new(b"ten bytes.").memory(), 32);
        assert_eq!(Field::new(b"field", b"value of 16 byte").memory(), 32);
        assert_eq!(Scored::new(b"fifteen bytes..", 1.0).memory(), 32);
    }
}
