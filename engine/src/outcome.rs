//! What applying records produces.

use crate::effect::Effect;
use holdfast_proto::frame::AnswerStatus;
use holdfast_proto::ids::WorkerId;
use std::ops::Range;

/// One answer for a proxy worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Whom to answer.
    pub worker: WorkerId,
    /// The tag of the record that is answered.
    pub tag: u64,
    pub status: AnswerStatus,
    /// Where the payload is in [`Outcomes::payload`]'s buffer.
    pub range: Range<usize>,
}

/// Answers in the order in which they arose: a record's own answer first, then those of blocked
/// commands that it woke. Meant to be cleared and used again for the next batch.
#[derive(Debug, Default)]
pub struct Outcomes {
    pub completions: Vec<Completion>,
    /// The payloads, one after the other.
    pub buf: Vec<u8>,
    /// What others are to be told, in the order in which it happened; empty unless
    /// [`Engine::watch`](crate::Engine::watch) asked for it.
    pub effects: Vec<Effect>,
}

impl Outcomes {
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets all answers, keeps the memory.
    pub fn clear(&mut self) {
        self.completions.clear();
        self.buf.clear();
        self.effects.clear();
    }

    pub fn payload(&self, completion: &Completion) -> &[u8] {
        &self.buf[completion.range.clone()]
    }

    /// Every answer with its payload.
    pub fn iter(&self) -> impl Iterator<Item = (&Completion, &[u8])> {
        self.completions.iter().map(|completion| (completion, self.payload(completion)))
    }

    /// Ends an answer whose payload is everything in the buffer from `start` on.
    pub(crate) fn finish(
        &mut self,
        worker: WorkerId,
        tag: u64,
        status: AnswerStatus,
        start: usize,
    ) {
        let range = start..self.buf.len();
        self.completions.push(Completion { worker, tag, status, range });
    }
}
