//! The RDB format: what stock Redis writes to disk and DUMP puts on the wire.
//!
//! Written is version [`VERSION`], which Redis 7.0 and later load. Read is everything from version 1
//! to [`VERSION_READ_MAX`] except modules.
//!
//! Everything here may be handed hostile bytes (RESTORE's payload comes from a client), so lengths
//! are checked before memory is reserved, packed forms are validated whole before they are walked,
//! and nothing panics.
//!
//! In reading order: `crc64` and `lzf`, the scalars (`decode`, `encode`), the packed forms of older
//! versions (`ziplist`, `intset`, `zipmap`; the present one, the listpack, is how the engine itself stores small
//! collections), `value`, and `payload`, which is what DUMP and RESTORE carry.

pub mod crc64;
pub(crate) mod decode;
pub(crate) mod encode;
mod intset;
mod lzf;
pub(crate) mod payload;
mod stream;
pub(crate) mod value;
mod ziplist;
mod zipmap;

/// The version written to files and to the footer of DUMP payloads: that of Redis 7.0.
pub const VERSION: u16 = 10;

/// The newest version read: that of Redis 7.2, whose forms of hash, set, list and sorted set are
/// all known here.
pub const VERSION_READ_MAX: u16 = 11;

/// The longest string accepted, as Redis's default `proto-max-bulk-len`: 512 MiB.
pub const STRING_LEN_MAX: usize = 512 * 1024 * 1024;

/// Bytes of a DUMP payload's footer: version u16 and CRC-64, little endian.
pub const DUMP_FOOTER_LEN: usize = 10;

/// Types of values. Numbers from Redis's `rdb.h`.
pub mod kind {
    pub const STRING: u8 = 0;
    pub const LIST: u8 = 1;
    pub const SET: u8 = 2;
    /// Scores as text.
    pub const ZSET: u8 = 3;
    pub const HASH: u8 = 4;
    /// Scores as binary doubles.
    pub const ZSET_2: u8 = 5;
    pub const MODULE_PRE_GA: u8 = 6;
    pub const MODULE_2: u8 = 7;
    pub const HASH_ZIPMAP: u8 = 9;
    pub const LIST_ZIPLIST: u8 = 10;
    pub const SET_INTSET: u8 = 11;
    pub const ZSET_ZIPLIST: u8 = 12;
    pub const HASH_ZIPLIST: u8 = 13;
    pub const LIST_QUICKLIST: u8 = 14;
    pub const STREAM_LISTPACKS: u8 = 15;
    pub const HASH_LISTPACK: u8 = 16;
    pub const ZSET_LISTPACK: u8 = 17;
    pub const LIST_QUICKLIST_2: u8 = 18;
    pub const STREAM_LISTPACKS_2: u8 = 19;
    /// From version 11: not written here.
    pub const SET_LISTPACK: u8 = 20;
    /// From version 11: written for streams that the older form cannot hold.
    pub const STREAM_LISTPACKS_3: u8 = 21;
}

/// Opcodes between the keys of a file. Numbers from Redis's `rdb.h`.
pub mod opcode {
    pub const FUNCTION_2: u8 = 245;
    pub const FUNCTION_PRE_GA: u8 = 246;
    pub const MODULE_AUX: u8 = 247;
    pub const IDLE: u8 = 248;
    pub const FREQ: u8 = 249;
    pub const AUX: u8 = 250;
    pub const RESIZEDB: u8 = 251;
    pub const EXPIRETIME_MS: u8 = 252;
    pub const EXPIRETIME: u8 = 253;
    pub const SELECTDB: u8 = 254;
    pub const EOF: u8 = 255;
}

/// Containers of a node of [`kind::LIST_QUICKLIST_2`].
pub mod container {
    /// One large element, as it is.
    pub const PLAIN: u64 = 1;
    /// A listpack of elements.
    pub const PACKED: u64 = 2;
}

/// Why bytes could not be read as RDB.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The environment's fault: the reader failed.
    #[error("cannot read: {0}")]
    Io(#[from] std::io::Error),
    #[error("ends early")]
    Truncated,
    #[error("corrupt: {0}")]
    Corrupt(&'static str),
    #[error("RDB version {0} is not supported")]
    Version(u32),
    #[error("checksum is wrong")]
    Checksum,
    /// Well-formed, but of a kind that the engine does not have.
    #[error("{0} are not supported yet")]
    NotSupported(&'static str),
}

/// A little-endian signed integer of 1 to 8 bytes.
fn little_endian_int(bytes: impl AsRef<[u8]>) -> i64 {
    let bytes = bytes.as_ref();
    let mut wide = [0; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    let unused_bits = 64 - 8 * bytes.len() as u32;
    i64::from_le_bytes(wide) << unused_bits >> unused_bits
}
