//! The configuration file of a node.
//!
//! TOML with kebab-case keys; an unknown key or a wrong value is refused with the file, the line and
//! the key before anything is opened or bound.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// What a node needs to know to start; everything else comes from the sentinels.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Which cluster this node belongs to: 32 hexadecimal digits.
    pub cluster_id: Hex<16>,
    /// What the processes of the cluster prove their membership with: 64 hexadecimal digits.
    /// Exactly one of this and `secret-file`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Hex<32>>,
    /// A file with the secret's hexadecimal digits, so that this file can be public.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    /// Addresses (`host:port`) of the sentinels' API; one that answers is enough.
    pub sentinels: Vec<String>,
    /// Holds the log, the checkpoints and this node's identity; made if missing. One process at a
    /// time, and never a copy of another node's.
    pub data_dir: PathBuf,
    /// Where proxies connect.
    pub link_listen: SocketAddr,
    /// Where other nodes connect for replication.
    pub peer_listen: SocketAddr,
    /// Where sentinels watch this node.
    pub heartbeat_listen: SocketAddr,
    /// Where sentinels send orders and other nodes fetch checkpoints.
    pub control_listen: SocketAddr,
    /// Where Prometheus reads `/metrics`.
    pub metrics_listen: SocketAddr,
    /// The host that the others reach this node under. Default: the host of each listening
    /// address, which then must not be 0.0.0.0 or [::].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertise_host: Option<String>,
    /// Failure domain of this machine (rack, availability zone); replicas of a shard are spread
    /// over zones. Default: none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub zone: String,
    /// error, warn, info, debug or trace. Default: info.
    #[serde(default = "default_log_level")]
    pub log_level: String,
}

fn default_log_level() -> String {
    "info".to_owned()
}

/// Why a configuration cannot be used. The text names the file and, where there is one, the line.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}:{line}: {reason}")]
    Value { path: PathBuf, line: usize, reason: String },
}

impl Config {
    /// Reads and checks a file.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::from_text(path, &text)
    }

    /// `path` is only named in errors.
    pub fn from_text(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| ConfigError::Value {
            path: path.to_owned(),
            line: error.span().map_or(1, |span| line_of(text, span.start)),
            reason: error.message().to_owned(),
        })?;
        match config.check() {
            Ok(()) => Ok(config),
            Err((key, reason)) => Err(ConfigError::Value {
                path: path.to_owned(),
                line: line_of_key(text, key),
                reason: format!("{key}: {reason}"),
            }),
        }
    }

    /// The file that [`Config::from_file`] reads back.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("strings, addresses and lists of strings have a TOML form")
    }

    /// The secret, from wherever it is configured.
    pub fn load_secret(&self) -> Result<[u8; 32], ConfigError> {
        if let Some(secret) = &self.secret {
            return Ok(secret.0);
        }
        let path = self.secret_file.clone().unwrap_or_default();
        let text = std::fs::read_to_string(&path)
            .map_err(|source| ConfigError::Read { path: path.clone(), source })?;
        parse_hex(text.trim()).ok_or_else(|| ConfigError::Value {
            path,
            line: 1,
            reason: "the secret must be 64 hexadecimal digits".to_owned(),
        })
    }

    /// The address that others use for a listening address.
    pub(crate) fn advertised(&self, bound: SocketAddr) -> String {
        match &self.advertise_host {
            Some(host) if host.contains(':') => format!("[{host}]:{}", bound.port()),
            Some(host) => format!("{host}:{}", bound.port()),
            None => bound.to_string(),
        }
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        if self.secret.is_some() == self.secret_file.is_some() {
            return Err(("secret", "give exactly one of secret and secret-file".to_owned()));
        }
        if self.sentinels.is_empty() {
            return Err(("sentinels", "name at least one sentinel".to_owned()));
        }
        for address in &self.sentinels {
            let port = address.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
            if !matches!(port, Some(Ok(_))) {
                return Err(("sentinels", format!("{address:?} is not host:port")));
            }
        }
        if !["error", "warn", "info", "debug", "trace"].contains(&self.log_level.as_str()) {
            return Err(("log-level", "must be error, warn, info, debug or trace".to_owned()));
        }
        let listens = [
            ("link-listen", self.link_listen),
            ("peer-listen", self.peer_listen),
            ("heartbeat-listen", self.heartbeat_listen),
            ("control-listen", self.control_listen),
        ];
        for (key, address) in listens {
            if self.advertise_host.is_none() && address.ip().is_unspecified() {
                return Err((key, format!("{address} needs advertise-host: others must reach it")));
            }
        }
        Ok(())
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.as_bytes()[..offset.min(text.len())].iter().filter(|b| **b == b'\n').count()
}

fn line_of_key(text: &str, key: &str) -> usize {
    let assigns = |line: &str| {
        let rest = line.trim_start().strip_prefix(key);
        rest.is_some_and(|rest| rest.trim_start().starts_with('='))
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

pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; N];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> String {
        format!(
            "cluster-id = \"{}\"\nsecret = \"{}\"\nsentinels = [\"127.0.0.1:1\"]\ndata-dir = \"/tmp/x\"\n\
             link-listen = \"127.0.0.1:2\"\npeer-listen = \"127.0.0.1:3\"\n\
             heartbeat-listen = \"127.0.0.1:4\"\ncontrol-listen = \"127.0.0.1:5\"\n\
             metrics-listen = \"127.0.0.1:6\"\n",
            "0a".repeat(16),
            "0b".repeat(32)
        )
    }

    fn error(text: &str) -> String {
        Config::from_text(Path::new("node.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn a_file_survives_a_round_trip() {
        let config = Config::from_text(Path::new("x"), &sample()).unwrap();
        assert_eq!(config.cluster_id.0, [10; 16]);
        assert_eq!(config.load_secret().unwrap(), [11; 32]);
        let again = Config::from_text(Path::new("x"), &config.to_toml()).unwrap();
        assert_eq!(again.to_toml(), config.to_toml());
        assert!(!format!("{config:?}").contains("0b0b"));
    }

    #[test]
    fn errors_name_file_line_and_key() {
        let unknown = sample() + "data-dri = \"/x\"\n";
        let text = error(&unknown);
        assert!(text.starts_with("node.toml:10: ") && text.contains("data-dri"), "{text}");
        let text = error(&sample().replace("127.0.0.1:3", "nonsense"));
        assert!(text.starts_with("node.toml:6: "), "{text}");
        let text = error(&sample().replace("\"127.0.0.1:1\"", "\"nowhere\""));
        assert!(text.starts_with("node.toml:3: sentinels: "), "{text}");
        let text = error(&sample().replace("0a0a", "zz"));
        assert!(text.starts_with("node.toml:1: "), "{text}");
        let text = error(&sample().replace("127.0.0.1:3", "0.0.0.0:3"));
        assert!(text.contains("advertise-host"), "{text}");
    }
}
