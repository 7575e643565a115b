//! The files of raft-engine: its own, but a failed write or sync ends the process with one line
//! instead of a panic (sync) or a second try (a full disk), and tests can make it fail.

use std::io::{Read, Result, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

use raft_engine::env::{DefaultFileSystem, FileSystem, Handle, Permission, WriteExt};

use crate::durable;
use crate::faults::{self, Point};

type File = <DefaultFileSystem as FileSystem>::Handle;

pub(super) struct LogFiles;

pub(super) struct LogHandle(Arc<File>);

pub(super) struct LogFileReader(<DefaultFileSystem as FileSystem>::Reader);

pub(super) struct LogFileWriter(<DefaultFileSystem as FileSystem>::Writer);

impl FileSystem for LogFiles {
    type Handle = LogHandle;
    type Reader = LogFileReader;
    type Writer = LogFileWriter;

    fn create<P: AsRef<Path>>(&self, path: P) -> Result<LogHandle> {
        Ok(LogHandle(Arc::new(DefaultFileSystem.create(path)?)))
    }

    fn open<P: AsRef<Path>>(&self, path: P, perm: Permission) -> Result<LogHandle> {
        Ok(LogHandle(Arc::new(DefaultFileSystem.open(path, perm)?)))
    }

    fn delete<P: AsRef<Path>>(&self, path: P) -> Result<()> {
        DefaultFileSystem.delete(path)
    }

    fn rename<P: AsRef<Path>>(&self, src_path: P, dst_path: P) -> Result<()> {
        DefaultFileSystem.rename(src_path, dst_path)
    }

    fn new_reader(&self, handle: Arc<LogHandle>) -> Result<LogFileReader> {
        DefaultFileSystem.new_reader(Arc::clone(&handle.0)).map(LogFileReader)
    }

    fn new_writer(&self, handle: Arc<LogHandle>) -> Result<LogFileWriter> {
        DefaultFileSystem.new_writer(Arc::clone(&handle.0)).map(LogFileWriter)
    }
}

impl Handle for LogHandle {
    fn truncate(&self, offset: usize) -> Result<()> {
        Handle::truncate(&*self.0, offset)
    }

    fn file_size(&self) -> Result<usize> {
        self.0.file_size()
    }

    fn sync(&self) -> Result<()> {
        let synced = faults::before_sync().and_then(|()| self.0.sync());
        match synced {
            Ok(()) => faults::reach(Point::AfterFsync),
            Err(error) => durable::fail("sync the log", error),
        }
        Ok(())
    }
}

impl Write for LogFileWriter {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let written = faults::before_write().and_then(|()| self.0.write(bytes));
        match written {
            Ok(count) => {
                faults::reach(Point::AfterAppend);
                Ok(count)
            }
            Err(error) => durable::fail("write the log", error),
        }
    }

    fn flush(&mut self) -> Result<()> {
        self.0.flush()
    }
}

impl Seek for LogFileWriter {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        self.0.seek(to)
    }
}

impl WriteExt for LogFileWriter {
    fn truncate(&mut self, offset: usize) -> Result<()> {
        self.0.truncate(offset)
    }

    fn allocate(&mut self, offset: usize, size: usize) -> Result<()> {
        self.0.allocate(offset, size)
    }
}

impl Read for LogFileReader {
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize> {
        self.0.read(bytes)
    }
}

impl Seek for LogFileReader {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        self.0.seek(to)
    }
}
