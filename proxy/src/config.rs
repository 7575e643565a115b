//! The configuration file of a proxy.
//!
//! An unknown key or a wrong value is refused with the file, the line and the key before any port is bound.

use holdfast_proto::settings::{self, ConfigError, Hex, Settings, Wrong};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// What a proxy needs to know to start; everything else comes from the sentinels.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Which cluster this proxy belongs to: 32 hexadecimal digits.
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
    /// Where clients connect with TLS (`rediss://`). Needs `tls-cert-file` and `tls-key-file`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
    /// Where clients connect without TLS. Default: nowhere. Passwords and data are readable on the
    /// network then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plain_listen: Option<SocketAddr>,
    /// Where Prometheus reads `/metrics`; also `/live` and `/ready`.
    pub admin_listen: SocketAddr,
    /// Host and port that clients reach this proxy (or the balancer before it) under; named in
    /// CLUSTER SLOTS and SENTINEL replies. Default: the TLS (else the plain) listening address,
    /// which then must not be 0.0.0.0 or [::].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announce_host: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announce_port: Option<u16>,
    /// Certificate chain, PEM. Read again when the file changes; connections stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_cert_file: Option<PathBuf>,
    /// Private key, PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_key_file: Option<PathBuf>,
    /// Certificates, PEM. If given, clients must show a certificate signed by one of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_client_ca_file: Option<PathBuf>,
    /// Worker threads. Default (0): half the cores, at least 1. More serve more connections at
    /// once; each keeps its own links to every node.
    #[serde(default)]
    pub workers: usize,
    /// Most client connections. Default 10,000. Each idle TLS connection costs up to 24 KiB.
    #[serde(default = "default_maxclients")]
    pub maxclients: usize,
    /// How long a request waits for a shard without a primary before its client gets an error,
    /// milliseconds. Default 10,000. Shorter than an election (2 s) makes failovers visible.
    #[serde(default = "default_hold_deadline_ms")]
    pub hold_deadline_ms: u64,
    /// Most bytes of requests that one worker holds for one shard; beyond it clients are not read
    /// from. Default 64 MiB.
    #[serde(default = "default_held_bytes_max")]
    pub held_bytes_max: usize,
    /// How long running commands may finish after SIGTERM, milliseconds. Default 5,000.
    #[serde(default = "default_drain_ms")]
    pub drain_ms: u64,
    /// error, warn, info, debug or trace. Default: info.
    #[serde(default = "default_log_level")]
    pub log_level: String,
}

fn default_maxclients() -> usize {
    10_000
}

fn default_hold_deadline_ms() -> u64 {
    10_000
}

fn default_held_bytes_max() -> usize {
    64 * 1024 * 1024
}

fn default_drain_ms() -> u64 {
    5_000
}

fn default_log_level() -> String {
    "info".to_owned()
}

impl Config {
    /// Reads and checks a file.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        settings::read(path)
    }

    /// `path` is only named in errors.
    pub fn from_text(path: &Path, text: &str) -> Result<Self, ConfigError> {
        settings::parse(path, text)
    }

    /// The file that [`Config::from_file`] reads back.
    pub fn to_toml(&self) -> String {
        settings::to_toml(self)
    }

    /// The secret, from wherever it is configured.
    pub fn load_secret(&self) -> Result<[u8; 32], ConfigError> {
        settings::load_secret(self.secret.as_ref(), self.secret_file.as_deref())
    }

    /// Host and port that clients are told; `bound` has the ports that were really bound.
    pub(crate) fn announced(&self, bound: SocketAddr) -> (String, u16) {
        let host = self.announce_host.clone().unwrap_or_else(|| bound.ip().to_string());
        (host, self.announce_port.unwrap_or_else(|| bound.port()))
    }

    pub(crate) fn worker_count(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1)),
            workers => workers,
        }
    }
}

impl Settings for Config {
    fn check(&self) -> Result<(), Wrong> {
        settings::check_secret(self.secret.as_ref(), self.secret_file.as_deref())?;
        settings::check_sentinels(&self.sentinels)?;
        let Some(first) = self.listen.or(self.plain_listen) else {
            return Err(("listen", "give listen, plain-listen or both".to_owned()));
        };
        if self.listen.is_some() && (self.tls_cert_file.is_none() || self.tls_key_file.is_none()) {
            return Err(("listen", "TLS needs tls-cert-file and tls-key-file".to_owned()));
        }
        if self.announce_host.is_none() && first.ip().is_unspecified() {
            let reason = format!("{first} needs announce-host: clients are told to connect there");
            return Err((if self.listen.is_some() { "listen" } else { "plain-listen" }, reason));
        }
        if self.workers > 256 {
            return Err(("workers", "at most 256".to_owned()));
        }
        if self.maxclients == 0 {
            return Err(("maxclients", "must be at least 1".to_owned()));
        }
        if self.held_bytes_max < 1024 * 1024 {
            return Err(("held-bytes-max", "must be at least 1 MiB".to_owned()));
        }
        settings::check_log_level(&self.log_level)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> String {
        format!(
            "cluster-id = \"{}\"\nsecret = \"{}\"\nsentinels = [\"127.0.0.1:1\"]\n\
             listen = \"127.0.0.1:2\"\nadmin-listen = \"127.0.0.1:3\"\n\
             tls-cert-file = \"/c\"\ntls-key-file = \"/k\"\n",
            "0a".repeat(16),
            "0b".repeat(32)
        )
    }

    fn error(text: &str) -> String {
        Config::from_text(Path::new("proxy.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn a_file_survives_a_round_trip() {
        let config = Config::from_text(Path::new("x"), &sample()).unwrap();
        assert_eq!(config.load_secret().unwrap(), [11; 32]);
        assert_eq!(config.maxclients, 10_000);
        let again = Config::from_text(Path::new("x"), &config.to_toml()).unwrap();
        assert_eq!(again.to_toml(), config.to_toml());
        assert!(!format!("{config:?}").contains("0b0b"));
    }

    #[test]
    fn errors_name_file_line_and_key() {
        let text = error(&(sample() + "maxclient = 3\n"));
        assert!(text.starts_with("proxy.toml:8: ") && text.contains("maxclient"), "{text}");
        let text = error(&sample().replace("127.0.0.1:2", "0.0.0.0:2"));
        assert!(text.starts_with("proxy.toml:4: listen: "), "{text}");
        let text = error(&sample().replace("tls-key-file", "tls-client-ca-file"));
        assert!(text.starts_with("proxy.toml:4: listen: TLS needs"), "{text}");
        let text = error(&(sample() + "maxclients = 0\n"));
        assert!(text.starts_with("proxy.toml:8: maxclients: "), "{text}");
    }
}
