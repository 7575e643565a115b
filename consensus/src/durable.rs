//! Files that must be on disk when a call returns.
//!
//! After a failed write or fsync nobody knows what is on disk, and asking again may get the answer
//! that all is well although it is not. So a failure ends the process, at once and in one place: one
//! line in the log, exit code [`EXIT_CODE`]. What fails before anything was written (no such folder,
//! no permission) is an ordinary error.

use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::faults;

/// What a process ends with when its disk fails.
pub const EXIT_CODE: i32 = 74;

/// Ends the process because what is on disk is unknown or cannot be written. `what` continues
/// "cannot".
pub fn fail(what: &str, error: impl Display) -> ! {
    static FAILED: AtomicBool = AtomicBool::new(false);
    if FAILED.swap(true, Ordering::SeqCst) {
        // Another thread met the same disk and is ending the process.
        loop {
            thread::park();
        }
    }
    tracing::error!("cannot {what}: {error}; the process ends");
    std::process::exit(EXIT_CODE)
}

/// A file being written.
#[derive(Debug)]
pub struct DurableFile {
    path: PathBuf,
    file: File,
}

impl DurableFile {
    /// Makes the file, or empties it.
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), file: File::create(path)? })
    }

    /// Appends. A failure ends the process.
    pub fn write(&mut self, bytes: &[u8]) {
        let written = faults::before_write().and_then(|()| self.file.write_all(bytes));
        if let Err(error) = written {
            fail(&format!("write {}", self.path.display()), error);
        }
    }

    /// Everything written is on disk when this returns. A failure ends the process.
    pub fn sync(&self) {
        let synced = faults::before_sync().and_then(|()| self.file.sync_all());
        if let Err(error) = synced {
            fail(&format!("sync {}", self.path.display()), error);
        }
    }
}

/// Makes the names in the folder of `path` durable. A failed sync ends the process.
pub fn sync_folder_of(path: &Path) -> io::Result<()> {
    let Some(folder) = path.parent() else { return Ok(()) };
    let file = File::open(folder)?;
    let synced = faults::before_sync().and_then(|()| file.sync_all());
    if let Err(error) = synced {
        fail(&format!("sync {}", folder.display()), error);
    }
    Ok(())
}

/// Replaces `path` as a whole: temporary file, fsync, rename, fsync of the folder. A failed write or
/// sync ends the process.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = DurableFile::create(&temporary)?;
    file.write(bytes);
    file.sync();
    fs::rename(&temporary, path)?;
    sync_folder_of(path)
}
