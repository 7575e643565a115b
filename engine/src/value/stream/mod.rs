//! The stream type: a log of entries, and groups of consumers that share its reading.
//!
//! Entries are kept in [`node`]s of up to a hundred, as differences from the node's first id and
//! without the names of fields that are the same as its first entry's; a new entry costs its values
//! and about ten bytes. The nodes stand in one ring in the order of their ids.

pub(crate) mod group;
pub(crate) mod id;
pub(crate) mod log;
pub(crate) mod node;

#[cfg(test)]
mod tests;

use super::Aggregate;
use crate::digest::Digest;
use crate::memory::allocated;
use group::Groups;
pub use id::StreamId;
use log::Log;

/// Entries and consumer groups.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    pub(crate) log: Log,
    /// `None` until the first group is made.
    groups: Option<Box<Groups>>,
}

impl Stream {
    pub(crate) fn new(log: Log, groups: Groups) -> Self {
        let groups = (groups.len() > 0).then(|| Box::new(groups));
        Self { log, groups }
    }

    pub(crate) fn groups(&self) -> Option<&Groups> {
        self.groups.as_deref()
    }

    pub(crate) fn groups_mut(&mut self) -> &mut Groups {
        self.groups.get_or_insert_default()
    }

    /// The entries to read and the groups to change.
    pub(crate) fn parts(&mut self) -> (&Log, &mut Groups) {
        (&self.log, self.groups.get_or_insert_default())
    }

    pub(crate) fn group(&self, name: &[u8]) -> Option<&group::Group> {
        self.groups()?.get(name)
    }
}

impl Aggregate for Stream {
    fn len(&self) -> usize {
        self.log.len() as usize
    }

    fn memory(&self) -> usize {
        let groups =
            self.groups().map_or(0, |groups| allocated(size_of::<Groups>()) + groups.memory());
        allocated(size_of::<Self>()) + self.log.memory() + groups
    }

    fn encoding(&self) -> &'static str {
        "stream"
    }

    fn digest(&self, digest: &mut Digest) {
        self.log.digest(digest);
        match self.groups() {
            Some(groups) => groups.digest(digest),
            None => digest.number(0),
        }
    }
}
