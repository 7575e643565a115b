//! The configuration file of a sentinel.
//!
//! An unknown key or a wrong value is refused with the file, the line and the key before anything is opened or bound.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use holdfast_proto::settings::{self, ConfigError, Hex, Settings, Wrong};
use holdfast_proto::v1;
use serde::{Deserialize, Serialize};

/// What a sentinel needs to know to start. All sentinels of a cluster have the same `[cluster]`
/// and `[[members]]` parts.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Which of `[[members]]` this one is.
    pub id: u64,
    /// Which cluster this sentinel belongs to: 32 hexadecimal digits.
    pub cluster_id: Hex<16>,
    /// What the processes of the cluster prove their membership with: 64 hexadecimal digits.
    /// Exactly one of this and `secret-file`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Hex<32>>,
    /// A file with the secret's hexadecimal digits, so that this file can be public.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    /// Holds the metadata log and its snapshots; made if missing. Never a copy of another's.
    pub data_dir: PathBuf,
    /// Where nodes, proxies, operators and the other sentinels connect (gRPC).
    pub api_listen: SocketAddr,
    /// Where the other sentinels connect for replication of the metadata.
    pub peer_listen: SocketAddr,
    /// Where Prometheus reads `/metrics`. Default: nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics_listen: Option<SocketAddr>,
    /// Shards are placed once this many nodes have registered, so that the first ones do not get
    /// everything. Default: as many as a shard has replicas, which is also the least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_nodes: Option<u32>,
    /// error, warn, info, debug or trace. Default: info.
    #[serde(default = "default_log_level")]
    pub log_level: String,
    /// What the cluster is to be. Read once, when the cluster is founded.
    pub cluster: ClusterConfig,
    /// All sentinels: 1, 3 or 5. A cluster with fewer than three has no failover while one is down.
    pub members: Vec<Member>,
}

/// The shape of a new cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ClusterConfig {
    /// 1 to 64. More shards use more cores; each needs its own log and threads on every replica.
    pub shards: u32,
    /// Copies of each shard, on as many nodes: 1, 2, 3 or 5. With n copies, (n - 1) / 2 may be
    /// lost while the shard goes on.
    pub replicas: u32,
    /// Redis databases (`SELECT`). Default: 16.
    #[serde(default = "default_databases")]
    pub databases: u32,
    /// When writes reach the disk. Default: aof-everysec.
    #[serde(default)]
    pub persistence: Persistence,
    /// Password of the user "default"; empty means none.
    #[serde(default)]
    pub password: Password,
    /// Parameters with the names of redis.conf, as far as they are supported.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
}

/// One sentinel as the others reach it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Member {
    /// From 1; names the sentinel for ever.
    pub id: u64,
    /// `host:port` of its API.
    pub api_addr: String,
    /// `host:port` of its metadata replication.
    pub peer_addr: String,
}

/// When a write is on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Persistence {
    /// Never: memory of a majority only.
    None,
    /// In snapshots.
    Rdb,
    /// Within a second, and at once in the memory of a majority.
    #[default]
    AofEverysec,
    /// On a majority before it is answered.
    AofAlways,
}

/// Does not print.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Password(pub String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
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

    /// How many nodes to wait for before shards are placed.
    pub fn founding_nodes(&self) -> u32 {
        self.expected_nodes.unwrap_or(0).max(self.cluster.replicas)
    }

    /// All sentinels, for the metadata.
    pub fn sentinels(&self) -> Vec<v1::SentinelInfo> {
        let info = |m: &Member| v1::SentinelInfo {
            id: m.id,
            peer_addr: m.peer_addr.clone(),
            api_addr: m.api_addr.clone(),
        };
        self.members.iter().map(info).collect()
    }

    /// The specification that the cluster is founded with.
    pub fn spec(&self) -> v1::ClusterSpec {
        let persistence = match self.cluster.persistence {
            Persistence::None => v1::PersistenceMode::None,
            Persistence::Rdb => v1::PersistenceMode::Rdb,
            Persistence::AofEverysec => v1::PersistenceMode::AofEverysec,
            Persistence::AofAlways => v1::PersistenceMode::AofAlways,
        };
        v1::ClusterSpec {
            shards: self.cluster.shards,
            replicas: self.cluster.replicas,
            databases: self.cluster.databases,
            persistence: persistence.into(),
            settings: self.cluster.settings.clone().into_iter().collect(),
            password: self.cluster.password.0.clone(),
            users: std::collections::HashMap::new(),
        }
    }

    fn check_members(&self) -> Result<(), Wrong> {
        if ![1, 3, 5].contains(&self.members.len()) {
            let text = format!("there must be 1, 3 or 5 sentinels, not {}", self.members.len());
            return Err(("members", text));
        }
        let mut ids: Vec<u64> = self.members.iter().map(|m| m.id).collect();
        ids.sort_unstable();
        ids.dedup();
        if ids.len() != self.members.len() || ids.contains(&0) {
            return Err(("members", "ids must be distinct and not 0".to_owned()));
        }
        if !ids.contains(&self.id) {
            return Err(("id", format!("no member has the id {}", self.id)));
        }
        for member in &self.members {
            for (key, addr) in [("api-addr", &member.api_addr), ("peer-addr", &member.peer_addr)] {
                let port = addr.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
                if !matches!(port, Some(Ok(_))) {
                    return Err((key, format!("{addr:?} is not host:port")));
                }
            }
        }
        Ok(())
    }
}

impl Settings for Config {
    fn check(&self) -> Result<(), Wrong> {
        settings::check_secret(self.secret.as_ref(), self.secret_file.as_deref())?;
        settings::check_log_level(&self.log_level)?;
        self.check_members()?;
        let cluster = &self.cluster;
        if let Err(reason) = holdfast_proto::parameters::check_all(&cluster.settings, |_| None) {
            return Err(("settings", reason));
        }
        if !(1..=64).contains(&cluster.shards) {
            return Err(("shards", format!("must be 1 to 64, not {}", cluster.shards)));
        }
        if ![1, 2, 3, 5].contains(&cluster.replicas) {
            return Err(("replicas", format!("must be 1, 2, 3 or 5, not {}", cluster.replicas)));
        }
        if !(1..=1024).contains(&cluster.databases) {
            return Err(("databases", format!("must be 1 to 1024, not {}", cluster.databases)));
        }
        Ok(())
    }
}

fn default_log_level() -> String {
    "info".to_owned()
}

fn default_databases() -> u32 {
    16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> String {
        format!(
            "id = 1\ncluster-id = \"{}\"\nsecret = \"{}\"\ndata-dir = \"/tmp/x\"\n\
             api-listen = \"127.0.0.1:1\"\npeer-listen = \"127.0.0.1:2\"\n\n\
             [cluster]\nshards = 2\nreplicas = 3\npassword = \"s3cret\"\n\n\
             [[members]]\nid = 1\napi-addr = \"127.0.0.1:1\"\npeer-addr = \"127.0.0.1:2\"\n",
            "0a".repeat(16),
            "0b".repeat(32)
        )
    }

    fn error(text: &str) -> String {
        Config::from_text(Path::new("sentinel.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn a_file_survives_a_round_trip_and_secrets_do_not_print() {
        let config = Config::from_text(Path::new("x"), &sample()).unwrap();
        assert_eq!(config.cluster.persistence, Persistence::AofEverysec);
        let again = Config::from_text(Path::new("x"), &config.to_toml()).unwrap();
        assert_eq!(again.to_toml(), config.to_toml());
        let printed = format!("{config:?}");
        assert!(!printed.contains("0b0b") && !printed.contains("s3cret"), "{printed}");
    }

    #[test]
    fn errors_name_file_line_and_key() {
        let cases = [
            ("data-dir", "data-dri", 4),
            ("127.0.0.1:2\"\n\n", "nonsense\"\n\n", 6),
            ("replicas = 3", "replicas = 4", 10),
            ("id = 1\ncluster", "id = 7\ncluster", 1),
            ("api-addr = \"127.0.0.1:1\"", "api-addr = \"nowhere\"", 15),
            ("shards = 2", "shards = \"two\"", 9),
        ];
        for (good, bad, line) in cases {
            let text = error(&sample().replacen(good, bad, 1));
            assert!(text.starts_with(&format!("sentinel.toml:{line}: ")), "{text}");
        }
        let two = sample() + "[[members]]\nid = 2\napi-addr = \"h:1\"\npeer-addr = \"h:2\"\n";
        assert!(error(&two).contains("1, 3 or 5"), "{}", error(&two));
    }
}
