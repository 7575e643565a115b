//! A growable run of bytes behind one word: the allocation begins with its own length.
//!
//! Packed collections live in it. A `Vec` would cost two words more in every small collection, and
//! a boxed slice one more; the length prefix is the one that the listpack format has anyway.

use crate::memory;
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error, realloc};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Bytes of the length at the front of each blob (it counts itself).
pub(crate) const LEN_BYTES: usize = size_of::<u32>();

/// Bytes whose first four are their total length, little-endian. Never shorter than that.
pub(crate) struct Blob(NonNull<u8>);

// SAFETY: a blob owns its allocation and nothing else points at it.
unsafe impl Send for Blob {}

impl Blob {
    /// Makes a blob of `content`, whose first four bytes are replaced by its length.
    pub(crate) fn new(content: &[u8]) -> Self {
        let len = content.len();
        assert!((LEN_BYTES..=u32::MAX as usize).contains(&len), "a blob counts itself in a u32");
        let layout = layout(len);
        // SAFETY: the layout has a size; it covers `len` bytes, which are written before any use.
        let pointer = unsafe {
            let pointer = alloc(layout);
            let Some(pointer) = NonNull::new(pointer) else { handle_alloc_error(layout) };
            pointer.as_ptr().copy_from_nonoverlapping(content.as_ptr(), len);
            pointer
        };
        let mut blob = Self(pointer);
        blob.set_len(len);
        blob
    }

    /// Replaces `removed` bytes at `at` by `added` bytes of unspecified content, which the caller
    /// then writes.
    pub(crate) fn splice(&mut self, at: usize, removed: usize, added: usize) {
        let old_len = self.len();
        assert!(at >= LEN_BYTES && at + removed <= old_len);
        let new_len = old_len - removed + added;
        assert!(u32::try_from(new_len).is_ok(), "a blob counts itself in a u32");
        if added > removed {
            self.resize(old_len, new_len);
        }
        // SAFETY: the allocation covers both lengths at this point, and `at + removed` lies inside
        // the old one. What a growing splice leaves in the gap are old bytes or zeros.
        unsafe {
            let base = self.0.as_ptr();
            base.add(at + removed).copy_to(base.add(at + added), old_len - at - removed);
        }
        if added < removed {
            self.resize(old_len, new_len);
        }
        self.set_len(new_len);
    }

    /// Bytes that the allocation takes.
    pub(crate) fn memory(&self) -> usize {
        memory::allocated(capacity(self.len()))
    }

    /// Changes the capacity from that of `old_len` to that of `new_len`.
    fn resize(&mut self, old_len: usize, new_len: usize) {
        let (old, new) = (layout(old_len), layout(new_len));
        if old.size() == new.size() {
            return;
        }
        // SAFETY: allocated with `old` (the capacity is a function of the length); fresh bytes are
        // zeroed so that the whole capacity is always initialised.
        unsafe {
            let pointer = realloc(self.0.as_ptr(), old, new.size());
            let Some(pointer) = NonNull::new(pointer) else { handle_alloc_error(new) };
            if new.size() > old_len {
                pointer.as_ptr().add(old_len).write_bytes(0, new.size() - old_len);
            }
            self.0 = pointer;
        }
    }

    fn set_len(&mut self, len: usize) {
        // SAFETY: every blob has at least `LEN_BYTES` bytes.
        unsafe { self.0.cast::<u32>().write_unaligned((len as u32).to_le()) };
    }

    fn stored_len(&self) -> usize {
        // SAFETY: every blob has at least `LEN_BYTES` initialised bytes.
        u32::from_le(unsafe { self.0.cast::<u32>().read_unaligned() }) as usize
    }
}

impl Deref for Blob {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the allocation covers the stored length and all of it is initialised.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr(), self.stored_len()) }
    }
}

impl DerefMut for Blob {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; `self` is borrowed mutably. Callers leave the length alone (this
        // module's users are listed above; a wrong length would be caught by no one).
        unsafe { std::slice::from_raw_parts_mut(self.0.as_ptr(), self.stored_len()) }
    }
}

impl Drop for Blob {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, never used again.
        unsafe { dealloc(self.0.as_ptr(), layout(self.stored_len())) };
    }
}

impl Clone for Blob {
    fn clone(&self) -> Self {
        Self::new(self)
    }
}

/// Capacity of a blob of `len` bytes. Steps of one allocator granule up to 256 bytes, then eight
/// steps per doubling: appending byte by byte moves a blob O(log n) times, at 6 % of slack on
/// average.
fn capacity(len: usize) -> usize {
    if len <= 256 {
        return memory::usable(len);
    }
    let step = (len.next_power_of_two() / 16).max(16);
    memory::usable(len.next_multiple_of(step) - 8).max(memory::usable(len))
}

fn layout(len: usize) -> Layout {
    Layout::array::<u8>(capacity(len)).expect("a u32 length fits the address space")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacity_is_monotone_and_tight() {
        let mut last = 0;
        for len in 4..100_000 {
            let capacity = capacity(len);
            assert!(capacity >= len && capacity >= last, "{len}: {capacity}");
            assert!(capacity <= len + len / 8 + 32, "{len}: {capacity}");
            last = capacity;
        }
    }

    #[test]
    fn splices_like_a_vector() {
        let mut blob = Blob::new(&[0; 4]);
        let mut model = vec![0u8; 4];
        let mut state = 1u32;
        for _ in 0..5000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let at = 4 + (state >> 8) as usize % (model.len() - 3);
            let removed = ((state >> 4) as usize % 9).min(model.len() - at);
            let added = (state >> 20) as usize % 12;
            let bytes: Vec<u8> = (0..added).map(|i| (state as usize + i) as u8).collect();
            blob.splice(at, removed, added);
            blob[at..at + added].copy_from_slice(&bytes);
            model.splice(at..at + removed, bytes);
            assert_eq!(blob.len(), model.len());
            assert_eq!(blob[4..], model[4..]);
        }
        assert_eq!(blob.clone()[..], blob[..]);
    }
}
