//! The first line of a script or library: `#!lua name=… flags=a,b`.

/// What a script says about itself (`SCRIPT_FLAG_*` in Redis's `script.h`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flags(u8);

impl Flags {
    pub(crate) const NO_WRITES: Self = Self(1);
    pub(crate) const ALLOW_OOM: Self = Self(1 << 1);
    pub(crate) const ALLOW_STALE: Self = Self(1 << 2);
    pub(crate) const NO_CLUSTER: Self = Self(1 << 3);
    pub(crate) const ALLOW_CROSS_SLOT_KEYS: Self = Self(1 << 4);

    /// Every flag and its name, in the order in which FUNCTION LIST shows them.
    pub(crate) const NAMES: [(Self, &'static str); 5] = [
        (Self::NO_WRITES, "no-writes"),
        (Self::ALLOW_OOM, "allow-oom"),
        (Self::ALLOW_STALE, "allow-stale"),
        (Self::NO_CLUSTER, "no-cluster"),
        (Self::ALLOW_CROSS_SLOT_KEYS, "allow-cross-slot-keys"),
    ];

    pub(crate) fn named(name: &[u8]) -> Option<Self> {
        Self::NAMES.iter().find(|(_, known)| known.as_bytes() == name).map(|(flag, _)| *flag)
    }

    pub(crate) fn has(self, flag: Self) -> bool {
        self.0 & flag.0 != 0
    }

    pub(crate) fn with(self, flag: Self) -> Self {
        Self(self.0 | flag.0)
    }

    pub(crate) fn names(self) -> impl Iterator<Item = &'static str> + Clone {
        Self::NAMES.into_iter().filter(move |(flag, _)| self.has(*flag)).map(|(_, name)| name)
    }
}

/// The flags of a script given to EVAL or SCRIPT LOAD and where its code begins (the line break
/// belongs to the code, so that line numbers stay). `None` for flags: no shebang.
pub(crate) fn of_script(body: &[u8]) -> Result<(Option<Flags>, &[u8]), String> {
    if !body.starts_with(b"#!") {
        return Ok((None, body));
    }
    let end = memchr::memchr(b'\n', body).ok_or("Invalid script shebang")?;
    let mut parts = words(&body[..end]);
    let engine = parts.next().unwrap_or_default();
    if engine != b"#!lua" {
        return Err(format!("Unexpected engine in script shebang: {}", text(engine)));
    }
    let mut flags = Flags::default();
    for part in parts {
        let Some(list) = part.strip_prefix(b"flags=") else {
            return Err(format!("Unknown lua shebang option: {}", text(part)));
        };
        for name in list.split(|byte| *byte == b',').filter(|name| !name.is_empty()) {
            let flag = Flags::named(name)
                .ok_or_else(|| format!("Unexpected flag in script shebang: {}", text(name)))?;
            flags = flags.with(flag);
        }
    }
    Ok((Some(flags), &body[end..]))
}

/// What the first line of a library says: its name; and where its code begins.
pub(crate) fn of_library(body: &[u8]) -> Result<(&[u8], &[u8]), String> {
    if !body.starts_with(b"#!") {
        return Err("Missing library metadata".to_owned());
    }
    let end = memchr::memchr(b'\n', body).ok_or("Invalid library metadata")?;
    let mut parts = words(&body[..end]);
    let engine = parts.next().unwrap_or_default();
    let engine = &engine[2..];
    let mut name = None;
    for part in parts {
        let Some(given) = strip_prefix_any_case(part, b"name=") else {
            return Err(format!("Invalid metadata value given: {}", text(part)));
        };
        if name.replace(given).is_some() {
            return Err("Invalid metadata value, name argument was given multiple times".to_owned());
        }
    }
    let name = name.ok_or("Library name was not given")?;
    let word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    if name.is_empty() || !name.iter().all(word) {
        return Err("Library names can only contain letters, numbers, or underscores(_) and must be at least one character long".to_owned());
    }
    if !engine.eq_ignore_ascii_case(b"lua") {
        return Err(format!("Engine '{}' not found", text(engine)));
    }
    Ok((name, &body[end..]))
}

fn strip_prefix_any_case<'a>(text: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| byte.is_ascii_whitespace()).filter(|word| !word.is_empty())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
