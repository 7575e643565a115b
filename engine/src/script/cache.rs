//! The bodies of scripts by their SHA-1: replicated state.

use holdfast_proto::sha1;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Name of a script: the SHA-1 of its body.
pub(crate) type Sha = [u8; 20];

/// Scripts that EVAL brought along are forgotten, oldest first, beyond so many or so many bytes:
/// programs that build script texts would fill the memory of all replicas otherwise (Redis 7.4
/// keeps 500). Scripts of SCRIPT LOAD stay until SCRIPT FLUSH. Guesses.
const EVALUATED_MAX: usize = 4096;
const EVALUATED_BYTES_MAX: usize = 32 * 1024 * 1024;

/// All scripts of the shard.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cache {
    scripts: BTreeMap<Sha, Script>,
    /// Those that EVAL brought along, oldest first.
    evaluated: VecDeque<Sha>,
    evaluated_bytes: usize,
    bytes: usize,
}

#[derive(Clone, Debug)]
struct Script {
    body: Arc<[u8]>,
    /// SCRIPT LOAD asked for it.
    loaded: bool,
}

impl Cache {
    pub(crate) fn get(&self, sha: &Sha) -> Option<Arc<[u8]>> {
        self.scripts.get(sha).map(|script| Arc::clone(&script.body))
    }

    pub(crate) fn contains(&self, sha: &Sha) -> bool {
        self.scripts.contains_key(sha)
    }

    /// Adds a script; with `loaded` it stays until the cache is flushed.
    pub(crate) fn insert(&mut self, body: &[u8], loaded: bool) -> Sha {
        let sha = sha1::digest(body);
        match self.scripts.get_mut(&sha) {
            Some(script) if loaded && !script.loaded => {
                script.loaded = true;
                self.evaluated_bytes -= script.body.len();
                self.evaluated.retain(|other| *other != sha);
            }
            Some(_) => {}
            None => {
                self.bytes += body.len();
                self.scripts.insert(sha, Script { body: body.into(), loaded });
                if !loaded {
                    self.evaluated.push_back(sha);
                    self.evaluated_bytes += body.len();
                    self.forget_old();
                }
            }
        }
        sha
    }

    /// The newest script always stays.
    fn forget_old(&mut self) {
        while self.evaluated.len() > 1
            && (self.evaluated.len() > EVALUATED_MAX || self.evaluated_bytes > EVALUATED_BYTES_MAX)
        {
            let Some(oldest) = self.evaluated.pop_front() else { return };
            if let Some(script) = self.scripts.remove(&oldest) {
                self.evaluated_bytes -= script.body.len();
                self.bytes -= script.body.len();
            }
        }
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Names in order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &Sha> {
        self.scripts.keys()
    }

    /// Bodies with whether SCRIPT LOAD asked for them, in an order in which [`Cache::insert`]
    /// restores the cache.
    pub(crate) fn bodies(&self) -> impl Iterator<Item = (&[u8], bool)> {
        let loaded = self.scripts.values().filter(|script| script.loaded);
        let evaluated = self.evaluated.iter().filter_map(|sha| self.scripts.get(sha));
        loaded.chain(evaluated).map(|script| (&*script.body, script.loaded))
    }

    pub(crate) fn len(&self) -> usize {
        self.scripts.len()
    }

    /// Approximate bytes.
    pub(crate) fn memory(&self) -> usize {
        self.bytes + self.scripts.len() * (size_of::<Sha>() * 2 + size_of::<Script>() + 48)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_eval_brought_along_is_forgotten_oldest_first() {
        let mut cache = Cache::default();
        let loaded = cache.insert(b"return 'loaded'", true);
        let first = cache.insert(b"return 0", false);
        for i in 1..=EVALUATED_MAX {
            cache.insert(format!("return {i}").as_bytes(), false);
        }
        assert!(cache.contains(&loaded));
        assert!(!cache.contains(&first));
        assert_eq!(cache.len(), EVALUATED_MAX + 1);
        let mut copy = Cache::default();
        for (body, loaded) in cache.bodies() {
            copy.insert(body, loaded);
        }
        assert!(copy.names().eq(cache.names()));
        assert_eq!(copy.memory(), cache.memory());
        // Both forget the same script next.
        for cache in [&mut copy, &mut cache] {
            cache.insert(b"return 'one more'", false);
            assert!(!cache.contains(&sha1::digest(b"return 1")));
        }
        assert!(copy.names().eq(cache.names()));
    }

    #[test]
    fn script_load_keeps_what_eval_had_brought() {
        let mut cache = Cache::default();
        let sha = cache.insert(b"return 'x'", false);
        cache.insert(b"return 'x'", true);
        for i in 0..=EVALUATED_MAX {
            cache.insert(format!("return {i}").as_bytes(), false);
        }
        assert!(cache.contains(&sha));
        cache.insert(&vec![b' '; EVALUATED_BYTES_MAX + 1], false);
        assert_eq!(cache.len(), 2);
    }
}
