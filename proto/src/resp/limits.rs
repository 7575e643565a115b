//! What a client may send, as Redis limits it.

use crate::frame::{FRAME_LEN_MAX, RECORD_HEADER_LEN};

/// Bounds on one request. The defaults are Redis 7.2's, except that one request's bytes together
/// must fit into one link frame (Redis stops at a query buffer of 1 GiB).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Longest argument, bytes (`proto-max-bulk-len`).
    pub bulk_len_max: usize,
    /// Most arguments of one request. Memory grows only with arguments that have arrived, so a
    /// large value here costs nothing by itself.
    pub args_max: usize,
    /// Longest inline request, and longest line that announces a length, bytes.
    pub inline_len_max: usize,
    /// Longest request as a whole, bytes.
    pub request_len_max: usize,
    /// The client has not authenticated: the errors say so.
    pub unauthenticated: bool,
}

impl Limits {
    /// Of a client that may run commands.
    pub const AUTHENTICATED: Self = Self {
        bulk_len_max: 512 * 1024 * 1024,
        args_max: i32::MAX as usize,
        inline_len_max: 64 * 1024,
        request_len_max: REQUEST_LEN_MAX,
        unauthenticated: false,
    };

    /// Of a client that has yet to send its password: enough for AUTH and HELLO, and too little to
    /// make the server hold much memory for a stranger (`authRequired` in Redis's `networking.c`).
    pub const UNAUTHENTICATED: Self = Self {
        bulk_len_max: 16384,
        args_max: 10,
        inline_len_max: 64 * 1024,
        request_len_max: 10 * (16384 + 16) + 16,
        unauthenticated: true,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::AUTHENTICATED
    }
}

/// One request travels in one frame, beside a record header and the frame's own prefix.
const REQUEST_LEN_MAX: usize = FRAME_LEN_MAX - 1024;

const _: () = {
    assert!(REQUEST_LEN_MAX + RECORD_HEADER_LEN + 16 <= FRAME_LEN_MAX);
    // The longest argument still leaves room for a command name, a key and options.
    assert!(Limits::AUTHENTICATED.bulk_len_max + 32 * 1024 <= REQUEST_LEN_MAX);
    // Offsets of arguments are u32.
    assert!(REQUEST_LEN_MAX < u32::MAX as usize);
};
