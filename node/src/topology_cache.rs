//! The last topology heard, on disk: with it a node starts while no sentinel answers.
//!
//! It may be old, and that is safe: a replica that was replaced meanwhile has an id that nobody
//! listens to any more, and a newer topology comes as soon as a sentinel does.

use holdfast_consensus::durable;
use holdfast_proto::v1;
use prost::Message;
use std::io;
use std::path::Path;

/// `None`: nothing usable is there.
pub(crate) fn load(path: &Path, cluster_id: &[u8]) -> Option<v1::Topology> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the last topology cannot be read");
            return None;
        }
    };
    let topology = v1::Topology::decode(&bytes[..]).ok();
    let usable = topology.filter(|t| t.version > 0 && t.cluster_id == cluster_id);
    if usable.is_none() {
        tracing::warn!(path = %path.display(), "the last topology is damaged");
    }
    usable
}

/// Keeps what a node needs of it, so not the clients' passwords.
pub(crate) fn save(path: &Path, topology: &v1::Topology) -> io::Result<()> {
    let mut kept = topology.clone();
    if let Some(spec) = &mut kept.spec {
        spec.password.clear();
    }
    durable::replace(path, &kept.encode_to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded_without_secrets() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("topology");
        assert_eq!(load(&path, &[7; 16]), None);
        let spec = v1::ClusterSpec { shards: 3, password: "s3cret".into(), ..Default::default() };
        let topology = v1::Topology {
            cluster_id: vec![7; 16].into(),
            version: 4,
            spec: Some(spec),
            ..Default::default()
        };
        save(&path, &topology).unwrap();
        let loaded = load(&path, &[7; 16]).unwrap();
        assert_eq!((loaded.version, loaded.spec.unwrap().shards), (4, 3));
        assert!(!std::fs::read(&path).unwrap().windows(6).any(|bytes| bytes == b"s3cret"));
        assert_eq!(load(&path, &[8; 16]), None, "of another cluster");
        std::fs::write(&path, b"\xff\xff").unwrap();
        assert_eq!(load(&path, &[7; 16]), None);
    }
}
