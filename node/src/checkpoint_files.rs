//! Checkpoints on disk: `checkpoint-<index>.rdb`, and beside it `checkpoint-<index>.json`, which is
//! written last and says what the file is. A checkpoint without it does not exist.

use holdfast_consensus::durable::{self, DurableFile};
use holdfast_proto::ids::LogIndex;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// One checkpoint: the state after applying `index`. Its term and membership are in the log store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CheckpointFile {
    pub(crate) index: LogIndex,
    pub(crate) len_bytes: u64,
    pub(crate) crc32: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Description {
    index: u64,
    len_bytes: u64,
    crc32: u32,
}

impl CheckpointFile {
    fn to_json(self) -> String {
        let Self { index: LogIndex(index), len_bytes, crc32 } = self;
        let description = Description { index, len_bytes, crc32 };
        serde_json::to_string_pretty(&description).expect("numbers have a JSON form")
    }

    fn from_json(text: &str) -> Option<Self> {
        let Description { index, len_bytes, crc32 } = serde_json::from_str(text).ok()?;
        Some(Self { index: LogIndex(index), len_bytes, crc32 })
    }
}

pub(crate) fn rdb_path(folder: &Path, index: LogIndex) -> PathBuf {
    folder.join(format!("checkpoint-{}.rdb", index.0))
}

fn description_path(folder: &Path, index: LogIndex) -> PathBuf {
    folder.join(format!("checkpoint-{}.json", index.0))
}

/// A checkpoint being written; without [`Writer::finish`] nothing remains of it. A failed write or
/// sync ends the process.
pub(crate) struct Writer {
    folder: PathBuf,
    temporary: PathBuf,
    file: DurableFile,
    len_bytes: u64,
    crc: crc32fast::Hasher,
    finished: bool,
}

impl Writer {
    /// `kind` tells apart what may be written at the same time.
    pub(crate) fn create(folder: &Path, kind: &str) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let temporary = folder.join(format!("{kind}.tmp"));
        let file = DurableFile::create(&temporary)?;
        Ok(Self {
            folder: folder.to_owned(),
            temporary,
            file,
            len_bytes: 0,
            crc: crc32fast::Hasher::new(),
            finished: false,
        })
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.file.write(bytes);
        self.len_bytes += bytes.len() as u64;
        self.crc.update(bytes);
    }

    pub(crate) fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Makes the checkpoint durable under its name.
    pub(crate) fn finish(mut self, index: LogIndex) -> io::Result<CheckpointFile> {
        let crc32 = self.crc.clone().finalize();
        let file = CheckpointFile { index, len_bytes: self.len_bytes, crc32 };
        self.file.sync();
        let path = rdb_path(&self.folder, index);
        fs::rename(&self.temporary, &path)?;
        self.finished = true;
        durable::sync_folder_of(&path)?;
        durable::replace(&description_path(&self.folder, index), file.to_json().as_bytes())?;
        Ok(file)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.finished {
            // A leftover is overwritten by the next one.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// What is in `folder`, newest first.
pub(crate) fn list(folder: &Path) -> io::Result<Vec<CheckpointFile>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut metas = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !name.starts_with("checkpoint-") || !name.ends_with(".json") {
            continue;
        }
        let Some(meta) = CheckpointFile::from_json(&fs::read_to_string(&path)?) else {
            tracing::warn!(path = %path.display(), "a checkpoint's description is damaged");
            continue;
        };
        let file = fs::metadata(rdb_path(folder, meta.index));
        if file.is_ok_and(|file| file.len() == meta.len_bytes) {
            metas.push(meta);
        } else {
            tracing::warn!(path = %path.display(), "a checkpoint's file is missing or cut");
        }
    }
    metas.sort_by_key(|meta| std::cmp::Reverse(meta.index));
    Ok(metas)
}

/// Removes a replica's checkpoints.
pub(crate) fn remove_all(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes what is older than the checkpoint that the log records, but for one: a replica may just
/// be fetching that.
pub(crate) fn remove_old(folder: &Path, recorded: LogIndex) -> io::Result<()> {
    let older = list(folder)?.into_iter().filter(|file| file.index < recorded);
    for meta in older.skip(1) {
        fs::remove_file(description_path(folder, meta.index))?;
        fs::remove_file(rdb_path(folder, meta.index))?;
    }
    Ok(())
}

/// Reads a checkpoint and checks its bytes against the description on the way.
pub(crate) struct CheckedReader {
    file: io::BufReader<File>,
    crc: crc32fast::Hasher,
    left: u64,
    expected: u32,
}

impl CheckedReader {
    pub(crate) fn open(folder: &Path, meta: &CheckpointFile) -> io::Result<Self> {
        let file = File::open(rdb_path(folder, meta.index))?;
        Ok(Self {
            file: io::BufReader::with_capacity(1024 * 1024, file),
            crc: crc32fast::Hasher::new(),
            left: meta.len_bytes,
            expected: meta.crc32,
        })
    }

    /// Reads what is left and compares the checksum of the whole.
    pub(crate) fn verify(mut self) -> io::Result<()> {
        io::copy(&mut self, &mut io::sink())?;
        if self.left == 0 && self.crc.finalize() == self.expected {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "the checksum differs"))
    }
}

impl Read for CheckedReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let got = self.file.read(out)?;
        self.crc.update(&out[..got]);
        self.left = self.left.saturating_sub(got as u64);
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_finished_checkpoints_exist_and_old_ones_go() {
        let folder = tempfile::tempdir().unwrap();
        for index in [5, 9, 12] {
            let mut writer = Writer::create(folder.path(), "taken").unwrap();
            writer.write(b"data");
            writer.finish(LogIndex(index)).unwrap();
        }
        let mut writer = Writer::create(folder.path(), "taken").unwrap();
        writer.write(b"half");
        drop(writer);
        let found = list(folder.path()).unwrap();
        assert_eq!(found.iter().map(|m| m.index.0).collect::<Vec<_>>(), [12, 9, 5]);
        remove_old(folder.path(), LogIndex(9)).unwrap();
        assert_eq!(list(folder.path()).unwrap().len(), 3);
        remove_old(folder.path(), LogIndex(12)).unwrap();
        assert_eq!(list(folder.path()).unwrap().len(), 2);
        CheckedReader::open(folder.path(), &found[0]).unwrap().verify().unwrap();
        fs::write(rdb_path(folder.path(), LogIndex(12)), b"dat!").unwrap();
        assert!(CheckedReader::open(folder.path(), &found[0]).unwrap().verify().is_err());
        fs::write(rdb_path(folder.path(), LogIndex(12)), b"da").unwrap();
        assert_eq!(list(folder.path()).unwrap().len(), 1);
    }
}
