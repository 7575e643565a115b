//! Small file helpers: everything `up` writes appears whole or not at all.

use anyhow::Context;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

pub(crate) fn write_public(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    write(path, bytes, 0o644)
}

/// Readable by the owner only.
pub(crate) fn write_secret(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    write(path, bytes, 0o600)
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    let shown = path.display();
    let temporary = path.with_extension("tmp");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&temporary)
        .with_context(|| format!("write {shown}"))?;
    file.write_all(bytes).with_context(|| format!("write {shown}"))?;
    file.sync_all().with_context(|| format!("write {shown}"))?;
    fs::rename(&temporary, path).with_context(|| format!("write {shown}"))?;
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .with_context(|| format!("write {shown}"))
}

/// `count` random bytes from the kernel, as hexadecimal digits.
pub(crate) fn random_hex(count: usize) -> anyhow::Result<String> {
    let mut bytes = vec![0; count];
    rustix::rand::getrandom(bytes.as_mut_slice(), rustix::rand::GetRandomFlags::empty())
        .context("read random bytes")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
