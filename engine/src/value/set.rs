//! The set type.

use super::Aggregate;
use crate::digest::Digest;

/// Placeholder of the set type.
#[derive(Clone, Debug, Default)]
pub struct Set {}

impl Set {
    pub fn new() -> Self {
        Self::default()
    }
}

impl Aggregate for Set {
    fn len(&self) -> usize {
        0
    }

    fn memory(&self) -> usize {
        size_of::<Self>()
    }

    fn encoding(&self) -> &'static str {
        "listpack"
    }

    fn digest(&self, _digest: &mut Digest) {}
}
