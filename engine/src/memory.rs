//! What an allocation really costs.

/// Bytes that the allocator takes for a request of `len` bytes: glibc's chunks are multiples of 16
/// with 8 bytes of overhead, at least 32 (malloc/malloc.c, `request2size`).
pub(crate) const fn allocated(len: usize) -> usize {
    if len == 0 {
        return 0;
    }
    let chunk = (len + 8 + 15) & !15;
    if chunk < 32 { 32 } else { chunk }
}

/// `len` rounded up to all that its chunk can hold, so that lengths which cost the same have the
/// same layout and can replace each other in place.
pub(crate) const fn usable(len: usize) -> usize {
    allocated(len) - 8
}
