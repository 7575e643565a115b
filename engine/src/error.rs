//! Errors that a command answers with.

use std::fmt;

/// Why a command failed; its `Display` is the text after the `-` of the reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CommandError {
    WrongType,
    Syntax,
    /// An argument or a stored value that had to be a 64-bit integer.
    NotInteger,
    NotFloat,
    NoSuchKey,
    IndexOutOfRange,
    /// The name of the command as the client should read it.
    Arity(String),
    /// The whole text, code included.
    Text(&'static str),
    Owned(String),
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WrongType => "WRONGTYPE Operation against a key holding the wrong kind of value",
            Self::Syntax => "ERR syntax error",
            Self::NotInteger => "ERR value is not an integer or out of range",
            Self::NotFloat => "ERR value is not a valid float",
            Self::NoSuchKey => "ERR no such key",
            Self::IndexOutOfRange => "ERR index out of range",
            Self::Arity(name) => {
                return write!(f, "ERR wrong number of arguments for '{name}' command");
            }
            Self::Text(text) => text,
            Self::Owned(text) => text,
        })
    }
}
