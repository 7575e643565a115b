//! Texts that clients see and that are made here. Clients match on them, so where Redis has a text
//! it is Redis's, to the letter.

use bytes::{Bytes, BytesMut};
use holdfast_proto::command::{self, CommandSpec};
use holdfast_proto::resp::encode;

pub(crate) const NOAUTH: &str = "NOAUTH Authentication required.";
pub(crate) const WRONGPASS: &str = "WRONGPASS invalid username-password pair or user is disabled.";
pub(crate) const AUTH_WITHOUT_PASSWORD: &str = "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?";
pub(crate) const HELLO_NOAUTH: &str = "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time";
pub(crate) const NOPROTO: &str = "NOPROTO unsupported protocol version";
pub(crate) const SYNTAX: &str = "ERR syntax error";
pub(crate) const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
pub(crate) const DB_OUT_OF_RANGE: &str = "ERR DB index is out of range";
pub(crate) const CROSSSLOT: &str = "CROSSSLOT Keys in request don't hash to the same slot";
pub(crate) const SLOT_NOT_SERVED: &str = "CLUSTERDOWN Hash slot not served";
pub(crate) const EXECABORT: &str = "EXECABORT Transaction discarded because of previous errors.";
pub(crate) const NESTED_MULTI: &str = "ERR MULTI calls can not be nested";
pub(crate) const EXEC_WITHOUT_MULTI: &str = "ERR EXEC without MULTI";
pub(crate) const DISCARD_WITHOUT_MULTI: &str = "ERR DISCARD without MULTI";
pub(crate) const WATCH_INSIDE_MULTI: &str = "ERR WATCH inside MULTI is not allowed";
pub(crate) const NOT_IN_MULTI: &str = "ERR Command not allowed inside a transaction";
pub(crate) const SWAPDB_PINNED: &str =
    "ERR SWAPDB is not possible while a co-location rule pins one of the databases";
pub(crate) const DEBUG_NOT_ALLOWED: &str = "ERR DEBUG command not allowed. If the enable-debug-command option is set to \"local\", you can run it from a local connection, otherwise you need to set this option in the configuration file, and then restart the server.";
pub(crate) const BAD_CURSOR: &str = "ERR invalid cursor";
/// Written to a connection that is refused, before it is closed.
pub const TOO_MANY_CLIENTS: &[u8] = b"-ERR max number of clients reached\r\n";

/// The hold deadline passed; the command surely was not executed (or only reads). Client libraries
/// that retry by themselves (go-redis, redis-rs, ioredis) may do so after this one.
pub(crate) const SHARD_DOWN: &str =
    "CLUSTERDOWN The shard has no primary; the command was not executed";
/// The hold deadline passed after the command had been sent. The first word is none that a client
/// library knows: the same libraries retry after LOADING, READONLY, MASTERDOWN, CLUSTERDOWN, TRYAGAIN
/// and NOREPLICAS, which would execute a write twice.
pub(crate) const OUTCOME_UNKNOWN: &str =
    "OUTCOMEUNKNOWN The shard has no primary; the command may or may not have been executed";

pub(crate) fn error_bytes(text: &str) -> Bytes {
    let mut out = BytesMut::with_capacity(text.len() + 3);
    encode::error(&mut out, text);
    out.freeze()
}

pub(crate) fn not_supported(spec: &CommandSpec) -> String {
    command::support_error(spec)
        .unwrap_or_else(|| format!("ERR {} is not supported yet", spec.name.to_ascii_uppercase()))
}
