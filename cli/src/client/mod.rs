//! A small Redis client: URIs, TLS, one connection. Used by the load generator, the operator's
//! commands and the chaos tests.

mod connection;
mod stream;
mod tls;
mod uri;

pub use connection::{CallError, Connection};
pub use stream::{ClientStream, connect};
pub use tls::ClientTls;
pub use uri::Uri;
