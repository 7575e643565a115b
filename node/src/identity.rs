//! Whose data directory this is: the lock, the identity file, the folders in it.
//!
//! ```text
//! lock             held while a process uses the directory
//! identity.json    {cluster-id, node-id, instance}: written once the sentinels named this node
//! topology         the last topology heard of
//! raft/            the log of all replicas
//! shard-<id>/      replica.json and the checkpoints of one replica
//! ```

use holdfast_consensus::durable;
use holdfast_proto::settings::to_hex;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

const IDENTITY: &str = "identity.json";

/// Why a data directory cannot be used. One clear line each: the process ends with it.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error("data-dir {path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("data-dir {0} is in use by another process")]
    InUse(PathBuf),
    #[error("data-dir {path} belongs to another cluster ({found}, this one is {wanted})")]
    OtherCluster { path: PathBuf, found: String, wanted: String },
    #[error("data-dir {path}: {IDENTITY} is damaged: {reason}")]
    Damaged { path: PathBuf, reason: String },
}

/// What names this node, durably.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Identity {
    pub(crate) cluster_id: String,
    /// 0 until a sentinel has given one.
    pub(crate) node_id: u64,
    /// A random UUID, made with the directory: a copy under another node id is noticed.
    pub(crate) instance: String,
}

/// An open data directory; dropping it releases the lock.
pub(crate) struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Opens or makes the directory, and takes its lock.
    pub(crate) fn open(path: &Path) -> Result<Self, DataDirError> {
        let io = |source| DataDirError::Io { path: path.to_owned(), source };
        fs::create_dir_all(path).map_err(io)?;
        let lock = OpenOptions::new().create(true).append(true).open(path.join("lock"));
        let lock = lock.map_err(io)?;
        let operation = rustix::fs::FlockOperation::NonBlockingLockExclusive;
        if rustix::fs::flock(&lock, operation).is_err() {
            return Err(DataDirError::InUse(path.to_owned()));
        }
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    pub(crate) fn raft_dir(&self) -> PathBuf {
        self.path.join("raft")
    }

    pub(crate) fn topology_file(&self) -> PathBuf {
        self.path.join("topology")
    }

    pub(crate) fn shard_dir(&self, shard: u32) -> PathBuf {
        self.path.join(format!("shard-{shard}"))
    }

    /// The recorded identity, or a new one without a node id (written down at once).
    pub(crate) fn identity(&self, cluster_id: &[u8; 16]) -> Result<Identity, DataDirError> {
        let wanted = to_hex(cluster_id);
        let file = self.path.join(IDENTITY);
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let instance = new_uuid();
                let identity = Identity { cluster_id: wanted, node_id: 0, instance };
                self.record(&identity)?;
                return Ok(identity);
            }
            Err(source) => return Err(DataDirError::Io { path: file, source }),
        };
        let identity: Identity = serde_json::from_str(&text).map_err(|error| {
            DataDirError::Damaged { path: self.path.clone(), reason: error.to_string() }
        })?;
        if identity.cluster_id != wanted {
            let (path, found) = (self.path.clone(), identity.cluster_id);
            return Err(DataDirError::OtherCluster { path, found, wanted });
        }
        Ok(identity)
    }

    pub(crate) fn record(&self, identity: &Identity) -> Result<(), DataDirError> {
        let text = serde_json::to_string_pretty(identity).expect("an identity is plain JSON");
        durable::replace(&self.path.join(IDENTITY), text.as_bytes())
            .map_err(|source| DataDirError::Io { path: self.path.clone(), source })
    }
}

/// Random bits from the kernel: seeds of the shell.
pub(crate) fn random_u64() -> u64 {
    let mut bytes = [0; 8];
    let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    debug_assert!(got.is_ok(), "the kernel always has random bytes after boot");
    u64::from_le_bytes(bytes)
}

fn new_uuid() -> String {
    let high = (random_u64() & !0xf000) | 0x4000;
    let low = (random_u64() & !(3 << 62)) | (2 << 62);
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_made_once_and_bound_to_its_cluster() {
        let folder = tempfile::tempdir().unwrap();
        let dir = DataDir::open(folder.path()).unwrap();
        let mut identity = dir.identity(&[1; 16]).unwrap();
        assert_eq!((identity.node_id, identity.instance.len()), (0, 36));
        identity.node_id = 4;
        dir.record(&identity).unwrap();
        assert_eq!(dir.identity(&[1; 16]).unwrap(), identity);
        let error = dir.identity(&[2; 16]).unwrap_err().to_string();
        assert!(error.contains("another cluster") && error.contains("0202"), "{error}");
    }

    #[test]
    fn a_directory_has_one_user() {
        let folder = tempfile::tempdir().unwrap();
        let first = DataDir::open(folder.path()).unwrap();
        assert!(matches!(DataDir::open(folder.path()), Err(DataDirError::InUse(_))));
        drop(first);
        assert!(DataDir::open(folder.path()).is_ok());
    }
}
