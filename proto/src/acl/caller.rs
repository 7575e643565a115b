//! A command that a shard executes on behalf of a user who may not do everything.
//!
//! The commands that a script calls are checked where it runs, on every replica alike, so the record
//! says what its user may do: three words in front of the command. A client cannot send them, because
//! proxies know no command of that name.

use crate::resp::encode;
use bytes::{BufMut, Bytes, BytesMut};

/// The word before name and permissions. (A client's words are text, by custom.)
const ON_BEHALF: &[u8] = b"\0on-behalf";

/// Whom a command is executed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller<'a> {
    pub name: &'a [u8],
    /// As [`super::User::permissions`] gives them.
    pub permissions: &'a [u8],
}

impl Caller<'_> {
    /// The command (a RESP array of `len` bulk strings) with this caller in front.
    pub fn wrap(&self, raw: &[u8], len: usize) -> Bytes {
        let head = memchr::memchr(b'\n', raw).map_or(0, |at| at + 1);
        let room = raw.len() + self.name.len() + self.permissions.len() + 64;
        let mut out = BytesMut::with_capacity(room);
        encode::array(&mut out, len + 3);
        for word in [ON_BEHALF, self.name, self.permissions] {
            encode::bulk(&mut out, word);
        }
        out.put_slice(&raw[head..]);
        out.freeze()
    }
}

/// The caller in front of a command, if there is one, and the command itself.
pub fn split_caller<'a, 'b>(args: &'b [&'a [u8]]) -> (Option<Caller<'a>>, &'b [&'a [u8]]) {
    match args {
        [first, name, permissions, command @ ..] if *first == ON_BEHALF && !command.is_empty() => {
            (Some(Caller { name, permissions }), command)
        }
        _ => (None, args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::parse_array;
    use smallvec::SmallVec;

    #[test]
    fn a_caller_goes_in_front_and_comes_off_again() {
        let command: [&[u8]; 3] = [b"EVAL", b"return '\n'", b"0"];
        let mut raw = Vec::new();
        encode::command(&mut raw, command.iter().copied());
        let caller = Caller { name: b"joe", permissions: b"~a* -@all +eval" };
        let wrapped = caller.wrap(&raw, command.len());
        let mut args: SmallVec<[&[u8]; 8]> = SmallVec::new();
        assert_eq!(parse_array(&wrapped, &mut args).unwrap(), wrapped.len());
        assert_eq!(split_caller(&args), (Some(caller), &command[..]));
        assert_eq!(split_caller(&command), (None, &command[..]));
        assert_eq!(split_caller(&args[..3]), (None, &args[..3]), "nothing to execute");
    }
}
