//! What COMMAND DOCS says.

/// Documentation of one command.
#[derive(Debug)]
pub struct Docs {
    pub summary: &'static str,
    pub since: &'static str,
    pub complexity: Option<&'static str>,
    pub deprecated_since: Option<&'static str>,
    pub replaced_by: Option<&'static str>,
    /// `deprecated`, `syscmd`.
    pub flags: &'static [&'static str],
    /// Version and what it changed.
    pub history: &'static [(&'static str, &'static str)],
    pub arguments: &'static [Argument],
}

/// One argument, or a group of them.
#[derive(Debug)]
pub struct Argument {
    pub name: &'static str,
    pub kind: ArgumentKind,
    pub key_spec_index: Option<u32>,
    pub token: Option<&'static str>,
    pub since: Option<&'static str>,
    pub deprecated_since: Option<&'static str>,
    pub optional: bool,
    pub multiple: bool,
    pub multiple_token: bool,
    pub arguments: &'static [Self],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ArgumentKind {
    String,
    Integer,
    Double,
    Key,
    Pattern,
    UnixTime,
    PureToken,
    /// One of the arguments inside.
    Oneof,
    /// All of the arguments inside.
    Block,
}

impl ArgumentKind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Integer => "integer",
            Self::Double => "double",
            Self::Key => "key",
            Self::Pattern => "pattern",
            Self::UnixTime => "unix-time",
            Self::PureToken => "pure-token",
            Self::Oneof => "oneof",
            Self::Block => "block",
        }
    }
}

/// For the table: an argument, completed by the methods below.
pub(super) const fn arg(name: &'static str, kind: ArgumentKind) -> Argument {
    Argument {
        name,
        kind,
        key_spec_index: None,
        token: None,
        since: None,
        deprecated_since: None,
        optional: false,
        multiple: false,
        multiple_token: false,
        arguments: &[],
    }
}

impl Argument {
    pub(super) const fn key(mut self, spec: u32) -> Self {
        self.key_spec_index = Some(spec);
        self
    }

    pub(super) const fn token(mut self, token: &'static str) -> Self {
        self.token = Some(token);
        self
    }

    pub(super) const fn since(mut self, version: &'static str) -> Self {
        self.since = Some(version);
        self
    }

    pub(super) const fn deprecated(mut self, version: &'static str) -> Self {
        self.deprecated_since = Some(version);
        self
    }

    pub(super) const fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    pub(super) const fn multiple(mut self) -> Self {
        self.multiple = true;
        self
    }

    pub(super) const fn multiple_token(mut self) -> Self {
        self.multiple_token = true;
        self
    }

    pub(super) const fn of(mut self, arguments: &'static [Self]) -> Self {
        self.arguments = arguments;
        self
    }
}
