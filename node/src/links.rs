//! Answers on their way to the proxies: one output buffer per link.
//!
//! An executor collects the answers of a batch in a [`Replies`], then hands each link its part with
//! one lock and at most one wake; the link's writer takes everything that has gathered and writes
//! it with one call.

use crate::shared::lock;
use crate::subscribers::Subscribers;
use holdfast_proto::frame::{ANSWER_PREFIX_LEN, AnswerStatus, Response};
use holdfast_proto::ids::{NodeId, Term, WorkerId};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

/// A link whose proxy reads so slowly that this much gathers is closed: the proxy connects again
/// and repeats what it still wants. Four times the largest value.
const BACKLOG_BYTES_MAX: usize = 2 * 1024 * 1024 * 1024;

/// The sending half of one link.
pub(crate) struct Link {
    id: u64,
    worker: WorkerId,
    out: Mutex<Vec<u8>>,
    /// `out.len()`, to be read without the lock.
    backlog: AtomicUsize,
    closed: AtomicBool,
    changed: Notify,
}

impl Link {
    fn new(id: u64, worker: WorkerId) -> Arc<Self> {
        Arc::new(Self {
            id,
            worker,
            out: Mutex::new(Vec::new()),
            backlog: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            changed: Notify::new(),
        })
    }

    /// Appends whole frames and wakes the writer; `frames` is left empty.
    pub(crate) fn push(&self, frames: &mut Vec<u8>) {
        if frames.is_empty() {
            return;
        }
        let mut out = lock(&self.out);
        let was_empty = out.is_empty();
        if was_empty {
            std::mem::swap(&mut *out, frames);
        } else {
            out.extend_from_slice(frames);
        }
        let backlog = out.len();
        self.backlog.store(backlog, Ordering::Relaxed);
        drop(out);
        frames.clear();
        if backlog > BACKLOG_BYTES_MAX {
            self.close();
        } else if was_empty {
            self.changed.notify_one();
        }
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn push_response(&self, response: &Response) {
        let mut frame = bytes::BytesMut::new();
        response.encode(&mut frame);
        self.push(&mut frame.to_vec());
    }

    /// What has gathered, in exchange for an empty buffer; waits for something. `None`: closed.
    pub(crate) async fn take(&self, spare: Vec<u8>) -> Option<Vec<u8>> {
        debug_assert!(spare.is_empty(), "a spare buffer is empty");
        loop {
            if self.closed.load(Ordering::Acquire) {
                return None;
            }
            {
                let mut out = lock(&self.out);
                if !out.is_empty() {
                    self.backlog.store(0, Ordering::Relaxed);
                    return Some(std::mem::replace(&mut *out, spare));
                }
            }
            self.changed.notified().await;
        }
    }

    /// [`Link::take`] without waiting: what has gathered, and whether the link is closed.
    #[cfg(feature = "simulation")]
    pub(crate) fn try_take(&self) -> (Vec<u8>, bool) {
        self.backlog.store(0, Ordering::Relaxed);
        let taken = std::mem::take(&mut *lock(&self.out));
        (taken, self.closed.load(Ordering::Acquire))
    }

    pub(crate) fn backlog(&self) -> usize {
        self.backlog.load(Ordering::Relaxed)
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.changed.notify_one();
    }
}

/// The current link of each proxy worker; the latest Hello wins.
#[derive(Default)]
pub(crate) struct LinkTable {
    /// What the workers have registered on these links.
    pub(crate) subscribers: Subscribers,
    links: Mutex<BTreeMap<WorkerId, Arc<Link>>>,
    version: AtomicU64,
    ids: AtomicU64,
}

impl LinkTable {
    /// Makes the new link of a worker and closes its former one.
    pub(crate) fn open(&self, worker: WorkerId) -> Arc<Link> {
        let link = Link::new(self.ids.fetch_add(1, Ordering::Relaxed) + 1, worker);
        let former = lock(&self.links).insert(worker, Arc::clone(&link));
        self.version.fetch_add(1, Ordering::Release);
        self.subscribers.open(worker, link.id);
        if let Some(former) = former {
            former.close();
        }
        link
    }

    /// Forgets a link, unless its worker has a newer one.
    pub(crate) fn remove(&self, link: &Link) {
        link.close();
        self.subscribers.close(link.worker, link.id);
        let mut links = lock(&self.links);
        if links.get(&link.worker).is_some_and(|current| current.id == link.id) {
            links.remove(&link.worker);
        }
        drop(links);
        self.version.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn count(&self) -> usize {
        lock(&self.links).len()
    }

    pub(crate) fn broadcast(&self, response: &Response) {
        for link in lock(&self.links).values() {
            link.push_response(response);
        }
    }
}

/// Answers gathered by one thread, per link.
#[derive(Default)]
pub(crate) struct Replies {
    version: u64,
    /// The workers' links as of `version`, and the frames for each. A node has one link per proxy
    /// worker, a few dozen at most, and neighbours in a batch mostly share a worker: a scan from
    /// the last hit is quicker than a map.
    outputs: Vec<(Arc<Link>, Vec<u8>)>,
    last: usize,
}

impl Replies {
    /// Looks whether links came or went. Called once per batch.
    pub(crate) fn refresh(&mut self, table: &LinkTable) {
        let version = table.version.load(Ordering::Acquire);
        if version == self.version && !self.outputs.is_empty() {
            return;
        }
        self.flush();
        self.version = version;
        self.outputs = lock(&table.links).values().map(|l| (Arc::clone(l), Vec::new())).collect();
        self.last = 0;
    }

    /// Appends an answer for a worker; dropped when it has no link here.
    pub(crate) fn answer(&mut self, to: WorkerId, tag: u64, status: AnswerStatus, payload: &[u8]) {
        if let Some(out) = self.output(to) {
            push_answer(out, tag, status, payload);
        }
    }

    pub(crate) fn not_primary(&mut self, to: WorkerId, tag: u64, term: Term, leader: NodeId) {
        self.answer(to, tag, AnswerStatus::NotPrimary, &not_primary_payload(term, leader));
    }

    /// Hands everything to the links.
    pub(crate) fn flush(&mut self) {
        for (link, frames) in &mut self.outputs {
            link.push(frames);
        }
    }

    /// The workers with a link.
    pub(crate) fn workers(&self) -> Vec<WorkerId> {
        self.outputs.iter().map(|(link, _)| link.worker).collect()
    }

    /// The frames under way to a worker, to be extended with [`begin_answer`]; `None` without a link.
    pub(crate) fn output(&mut self, worker: WorkerId) -> Option<&mut Vec<u8>> {
        if self.outputs.get(self.last).is_none_or(|(link, _)| link.worker != worker) {
            self.last = self.outputs.iter().position(|(link, _)| link.worker == worker)?;
        }
        Some(&mut self.outputs[self.last].1)
    }
}

fn push_answer(out: &mut Vec<u8>, tag: u64, status: AnswerStatus, payload: &[u8]) {
    let mut prefix = [0; ANSWER_PREFIX_LEN];
    prefix[..4].copy_from_slice(&((ANSWER_PREFIX_LEN - 4 + payload.len()) as u32).to_le_bytes());
    prefix[4] = ANSWER_KIND;
    prefix[5..13].copy_from_slice(&tag.to_le_bytes());
    prefix[13] = status as u8;
    out.extend_from_slice(&prefix);
    out.extend_from_slice(payload);
}

/// Begins an answer whose payload the caller appends; returns where it begins.
pub(crate) fn begin_answer(out: &mut Vec<u8>, tag: u64) -> usize {
    let start = out.len();
    push_answer(out, tag, AnswerStatus::Reply, &[]);
    start
}

pub(crate) fn finish_answer(out: &mut [u8], start: usize, status: AnswerStatus) {
    let len = out.len() - start - 4;
    out[start..start + 4].copy_from_slice(&(len as u32).to_le_bytes());
    out[start + ANSWER_PREFIX_LEN - 1] = status as u8;
}

pub(crate) fn abandon_answer(out: &mut Vec<u8>, start: usize) {
    out.truncate(start);
}

/// The kind byte of an answer frame; a test compares with the codec's.
const ANSWER_KIND: u8 = 67;

pub(crate) fn not_primary_payload(term: Term, leader: NodeId) -> [u8; 16] {
    let mut payload = [0; 16];
    payload[..8].copy_from_slice(&term.0.to_le_bytes());
    payload[8..].copy_from_slice(&leader.0.to_le_bytes());
    payload
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::{Bytes, BytesMut};

    fn drain(link: &Link) -> Vec<Response> {
        let mut bytes = BytesMut::from(&std::mem::take(&mut *lock(&link.out))[..]);
        std::iter::from_fn(|| Response::decode(&mut bytes).unwrap()).collect()
    }

    #[test]
    fn answers_go_to_the_latest_link_of_their_worker() {
        let table = LinkTable::default();
        let old = table.open(WorkerId(1));
        let other = table.open(WorkerId(2));
        let new = table.open(WorkerId(1));
        let mut replies = Replies::default();
        replies.refresh(&table);
        replies.answer(WorkerId(1), 5, AnswerStatus::Reply, b"+OK\r\n");
        replies.answer(WorkerId(3), 6, AnswerStatus::Reply, b"nobody");
        let out = replies.output(WorkerId(2)).unwrap();
        let start = begin_answer(out, 7);
        out.extend_from_slice(b"abc");
        finish_answer(out, start, AnswerStatus::WatchVersions);
        let start = begin_answer(out, 9);
        out.extend_from_slice(b"never mind");
        abandon_answer(out, start);
        replies.not_primary(WorkerId(2), 8, Term(3), NodeId(9));
        replies.flush();
        assert!(drain(&old).is_empty());
        let payload = Bytes::from_static(b"+OK\r\n");
        let want = Response::Answer { tag: 5, status: AnswerStatus::Reply, payload };
        assert_eq!(drain(&new), [want]);
        let got = drain(&other);
        let payload = Bytes::from_static(b"abc");
        let want = Response::Answer { tag: 7, status: AnswerStatus::WatchVersions, payload };
        assert_eq!(got[0], want);
        let Response::Answer { status: AnswerStatus::NotPrimary, payload, .. } = &got[1] else {
            panic!("{got:?}")
        };
        assert_eq!((payload[0], payload[8], payload.len()), (3, 9, 16));
    }

    #[test]
    fn a_removed_link_does_not_take_its_successor_along() {
        let table = LinkTable::default();
        let old = table.open(WorkerId(1));
        let new = table.open(WorkerId(1));
        table.remove(&old);
        assert_eq!(table.count(), 1);
        table.remove(&new);
        assert_eq!(table.count(), 0);
    }
}
