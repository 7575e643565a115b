//! Snapshots of the metadata on disk: one small file, named by the index of its last entry.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use holdfast_consensus::durable;
use holdfast_proto::ids::LogIndex;

use crate::core::metadata::Metadata;

const PREFIX: &str = "metadata-";
const SUFFIX: &str = ".snapshot";

pub(crate) struct Snapshots {
    dir: PathBuf,
}

impl Snapshots {
    pub(crate) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Durable when it returns; a failed write or sync ends the process.
    pub(crate) fn save(&self, index: LogIndex, state: &[u8]) -> io::Result<()> {
        durable::replace(&self.path(index), state)
    }

    pub(crate) fn load(&self, index: LogIndex) -> io::Result<Metadata> {
        let path = self.path(index);
        let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
        let bytes = fs::read(&path).map_err(named)?;
        Metadata::decode_snapshot(&bytes)
            .map_err(|e| named(io::Error::new(io::ErrorKind::InvalidData, e)))
    }

    /// Deletes all but this one; the log no longer needs them.
    pub(crate) fn keep_only(&self, index: LogIndex) -> io::Result<()> {
        let keep = self.path(index);
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            if name.starts_with(PREFIX) && name.ends_with(SUFFIX) && path != keep {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }

    fn path(&self, index: LogIndex) -> PathBuf {
        self.dir.join(format!("{PREFIX}{}{SUFFIX}", index.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded_and_older_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::new(dir.path());
        let state = Metadata::default();
        snapshots.save(LogIndex(3), &state.encode_snapshot()).unwrap();
        snapshots.save(LogIndex(9), &state.encode_snapshot()).unwrap();
        assert_eq!(snapshots.load(LogIndex(9)).unwrap(), state);
        snapshots.keep_only(LogIndex(9)).unwrap();
        assert!(snapshots.load(LogIndex(3)).is_err());
        assert!(snapshots.load(LogIndex(9)).is_ok());
    }
}
