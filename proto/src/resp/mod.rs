//! The Redis serialisation protocol, RESP2 and RESP3.
//!
//! [`decode`] reads requests (server side), [`encode`] writes replies and requests, [`reply`] reads
//! replies (client side), [`limits`] bounds what a client may send. Everything here is a pure
//! function of bytes; nothing owns a socket.
//! See the [protocol specification](https://redis.io/docs/reference/protocol-spec/).

pub mod decode;
pub mod encode;
mod inline;
pub mod limits;
pub mod reply;

pub use decode::{Args, Decoded, Decoder, ProtocolError, RawRequest, decode_request, parse_array};
pub use inline::split_args;
pub use limits::Limits;
pub use reply::{ReplyError, ReplyScanner, Value};
