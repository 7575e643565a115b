//! The configuration file of a node.
//!
//! An unknown key or a wrong value is refused with the file, the line and the key before anything is opened or bound.

use holdfast_proto::settings::{self, ConfigError, Hex, Settings, Wrong};
use serde::{Deserialize, Serialize};
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

    /// The address that others use for a listening address.
    pub(crate) fn advertised(&self, bound: SocketAddr) -> String {
        match &self.advertise_host {
            Some(host) if host.contains(':') => format!("[{host}]:{}", bound.port()),
            Some(host) => format!("{host}:{}", bound.port()),
            None => bound.to_string(),
        }
    }
}

impl Settings for Config {
    fn check(&self) -> Result<(), Wrong> {
        settings::check_secret(self.secret.as_ref(), self.secret_file.as_deref())?;
        settings::check_sentinels(&self.sentinels)?;
        settings::check_log_level(&self.log_level)?;
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
