//! What the configuration files of all processes have in common: TOML with kebab-case keys, secrets
//! as hexadecimal digits, and errors that name the file, the line and the key.

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::path::{Path, PathBuf};

/// Why a configuration cannot be used. The text names the file and, where there is one, the line.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}:{line}: {reason}")]
    Value { path: PathBuf, line: usize, reason: String },
}

/// A key and what is wrong with its value.
pub type Wrong = (&'static str, String);

/// A configuration file's form.
pub trait Settings: Serialize + DeserializeOwned {
    /// What the types of the keys cannot say.
    fn check(&self) -> Result<(), Wrong>;
}

/// Reads and checks a file.
pub fn read<T: Settings>(path: &Path) -> Result<T, ConfigError> {
    parse(path, &read_text(path)?)
}

/// Checks the text of a file; `path` is only named in errors.
pub fn parse<T: Settings>(path: &Path, text: &str) -> Result<T, ConfigError> {
    let wrong = |line, reason| ConfigError::Value { path: path.to_owned(), line, reason };
    let settings: T = toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_of(text, span.start));
        wrong(line, error.message().to_owned())
    })?;
    match settings.check() {
        Ok(()) => Ok(settings),
        Err((key, reason)) => Err(wrong(line_of_key(text, key), format!("{key}: {reason}"))),
    }
}

/// The text that [`parse`] reads back.
pub fn to_toml(settings: &impl Settings) -> String {
    toml::to_string(settings).expect("settings are strings, numbers, lists and tables")
}

/// The cluster's secret, from wherever it is configured.
pub fn load_secret(secret: Option<&Hex<32>>, file: Option<&Path>) -> Result<[u8; 32], ConfigError> {
    if let Some(secret) = secret {
        return Ok(secret.0);
    }
    let path = file.unwrap_or_else(|| Path::new(""));
    parse_hex(read_text(path)?.trim()).ok_or_else(|| ConfigError::Value {
        path: path.to_owned(),
        line: 1,
        reason: "the secret must be 64 hexadecimal digits".to_owned(),
    })
}

/// Exactly one of `secret` and `secret-file`.
pub fn check_secret(secret: Option<&Hex<32>>, file: Option<&Path>) -> Result<(), Wrong> {
    if secret.is_some() == file.is_some() {
        return Err(("secret", "give exactly one of secret and secret-file".to_owned()));
    }
    Ok(())
}

/// At least one, each `host:port`.
pub fn check_sentinels(addresses: &[String]) -> Result<(), Wrong> {
    if addresses.is_empty() {
        return Err(("sentinels", "name at least one sentinel".to_owned()));
    }
    for address in addresses {
        let port = address.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
        if !matches!(port, Some(Ok(_))) {
            return Err(("sentinels", format!("{address:?} is not host:port")));
        }
    }
    Ok(())
}

/// A name of a log level.
pub fn check_log_level(level: &str) -> Result<(), Wrong> {
    if !["error", "warn", "info", "debug", "trace"].contains(&level) {
        return Err(("log-level", "must be error, warn, info, debug or trace".to_owned()));
    }
    Ok(())
}

fn read_text(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.as_bytes()[..offset.min(text.len())].iter().filter(|b| **b == b'\n').count()
}

fn line_of_key(text: &str, key: &str) -> usize {
    let assigns = |line: &str| {
        let line = line.trim_start();
        let rest = line.strip_prefix(key);
        let table = line.trim_start_matches('[').strip_prefix(key);
        rest.is_some_and(|rest| rest.trim_start().starts_with('='))
            || table.is_some_and(|rest| line.starts_with('[') && rest.starts_with(']'))
    };
    1 + text.lines().position(assigns).unwrap_or(0)
}

/// `N` bytes, written as hexadecimal digits; its `Debug` form hides them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hex<const N: usize>(pub [u8; N]);

impl<const N: usize> fmt::Debug for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl<const N: usize> Serialize for Hex<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&to_hex(&self.0))
    }
}

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = || D::Error::custom(format!("must be {} hexadecimal digits", 2 * N));
        parse_hex(&text).map(Self).ok_or_else(wrong)
    }
}

/// Two lowercase digits for each byte.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Exactly `2 * N` hexadecimal digits.
pub fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case")]
    struct Sample {
        cluster_id: Hex<2>,
        sentinels: Vec<String>,
        #[serde(default)]
        shape: Shape,
    }

    #[derive(Default, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Shape {
        size: u8,
    }

    impl Settings for Sample {
        fn check(&self) -> Result<(), Wrong> {
            check_sentinels(&self.sentinels)?;
            match self.shape.size {
                13 => Err(("size", "must not be 13".to_owned())),
                14 => Err(("shape", "must not be 14".to_owned())),
                _ => Ok(()),
            }
        }
    }

    fn error(text: &str) -> String {
        let parsed = parse::<Sample>(Path::new("x.toml"), text);
        parsed.map(|sample| to_toml(&sample)).unwrap_err().to_string()
    }

    #[test]
    fn errors_name_file_line_and_key() {
        let head = "cluster-id = \"0aff\"\n";
        assert!(error(&head.replace("0a", "0")).starts_with("x.toml:1: must be 4 hex"));
        assert!(error("cluster-id = \"+aff\"\n").starts_with("x.toml:1: must be 4 hex"));
        let text = error(&format!("{head}sentinels = [\"nowhere\"]\n"));
        assert!(text.starts_with("x.toml:2: sentinels: \"nowhere\" is not host:port"), "{text}");
        let head = format!("{head}sentinels = [\"h:1\"]\n");
        let text = error(&format!("{head}sentinel = 3\n"));
        assert!(text.starts_with("x.toml:3: ") && text.contains("sentinel"), "{text}");
        let text = error(&format!("{head}[shape]\nsize = 13\n"));
        assert_eq!(text, "x.toml:4: size: must not be 13");
        assert_eq!(
            error(&format!("{head}[shape]\nsize = 14\n")),
            "x.toml:3: shape: must not be 14"
        );
        assert!(read::<Sample>(Path::new("/nowhere/x")).is_err());
    }

    #[test]
    fn a_file_survives_a_round_trip_and_secrets_stay_hidden() {
        let text = "cluster-id = \"0aff\"\nsentinels = [\"h:1\"]\n\n[shape]\nsize = 1\n";
        let sample: Sample = parse(Path::new("x"), text).unwrap();
        assert_eq!(to_toml(&sample), text);
        assert_eq!(format!("{:?}", sample.cluster_id), "…");
        assert_eq!(load_secret(Some(&Hex([7; 32])), None).unwrap(), [7; 32]);
        let missing = load_secret(None, Some(Path::new("/nowhere/secret"))).unwrap_err();
        assert!(missing.to_string().starts_with("/nowhere/secret: "), "{missing}");
        assert!(
            check_secret(None, None).is_err() && check_secret(Some(&Hex([7; 32])), None).is_ok()
        );
    }
}
