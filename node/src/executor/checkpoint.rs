//! Taking checkpoints: the executor serialises a slice between two turns, a short-lived thread
//! writes it. The engine keeps the state of the moment at which the checkpoint began.

use super::{Executor, Input};
use crate::checkpoint_files::{CheckpointFile, Writer};
use crate::clock;
use crate::consensus_loop;
use crate::mailbox::Mailbox;
use crate::open;
use crossbeam_channel::{Receiver, Sender, bounded};
use holdfast_engine::{CheckpointStep, Engine, EngineConfig};
use holdfast_proto::ids::{LogIndex, ShardId};
use holdfast_proto::v1;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Serialised per turn: about half a millisecond of work, the longest that a command waits for it.
const SLICE_BYTES: usize = 128 * 1024;
/// Between the slices of an idle executor: a checkpoint takes at most half a core.
const SLICE_PAUSE: Duration = Duration::from_micros(500);
/// Slices that wait for the disk; beyond that the executor does not serialise.
const SLICES_QUEUED_MAX: usize = 16;
/// A checkpoint is due when the entries applied since the last one have this many bytes, or as many
/// as the data: replay at a restart is then about as long as the load.
const LOG_BYTES_MIN: u64 = 256 * 1024 * 1024;
/// After a failure.
const RETRY_AFTER: Duration = Duration::from_secs(10);
/// Redis's `save 900 1 300 10 60 10000`, which the mode `rdb` follows.
const SAVE_POINTS: [(u64, u64); 3] = [(900, 1), (300, 10), (60, 10_000)];

type Answer = tokio::sync::oneshot::Sender<LogIndex>;

/// A part of a checkpoint on its way to the disk.
pub(crate) enum Slice {
    Bytes(Vec<u8>),
    /// The last one: what the checkpoint is a state of.
    End(LogIndex),
}

/// Where checkpoints are written to and loaded from.
pub(crate) trait CheckpointDisk: Send + Sync {
    /// Writes the slices to come; `inbox` is told how it ended, unless they end without
    /// [`Slice::End`].
    fn write(
        &self,
        folder: PathBuf,
        shard: ShardId,
        slices: Receiver<Slice>,
        inbox: Mailbox<Input>,
    ) -> std::io::Result<()>;

    /// Loads the checkpoint at `index`, every byte checked.
    fn load(
        &self,
        folder: &Path,
        shard: ShardId,
        index: LogIndex,
        config: EngineConfig,
    ) -> anyhow::Result<Engine>;
}

/// The real one: files, each written by a thread of its own.
pub(crate) struct Files;

impl CheckpointDisk for Files {
    fn write(
        &self,
        folder: PathBuf,
        shard: ShardId,
        slices: Receiver<Slice>,
        inbox: Mailbox<Input>,
    ) -> std::io::Result<()> {
        let thread = std::thread::Builder::new().name(format!("checkpoint-{shard}"));
        thread.spawn(move || write_slices(folder, &slices, &inbox)).map(drop)
    }

    fn load(
        &self,
        folder: &Path,
        shard: ShardId,
        index: LogIndex,
        config: EngineConfig,
    ) -> anyhow::Result<Engine> {
        open::load_checkpoint(folder, shard, index, config)
    }
}

enum State {
    Idle,
    Running {
        slices: Sender<Slice>,
        index: LogIndex,
    },
    /// The last slice is with the writer.
    Finishing,
}

/// The checkpoints of one replica.
pub(super) struct CheckpointJob {
    folder: PathBuf,
    state: State,
    wanted: bool,
    answers: Vec<Answer>,
    last_index: LogIndex,
    last_end: Instant,
    last_unix_s: u64,
    retry_at: Option<Instant>,
    changes: u64,
    log_bytes: u64,
    save_points: bool,
}

impl CheckpointJob {
    pub(super) fn new(folder: PathBuf, last_index: LogIndex) -> Self {
        Self {
            folder,
            state: State::Idle,
            wanted: false,
            answers: Vec::new(),
            last_index,
            last_end: clock::instant(),
            last_unix_s: clock::wall_ms() / 1000,
            retry_at: None,
            changes: 0,
            log_bytes: 0,
            save_points: false,
        }
    }

    pub(super) fn configure(&mut self, spec: &v1::ClusterSpec) {
        self.save_points = spec.persistence() == v1::PersistenceMode::Rdb;
    }

    pub(super) fn want(&mut self, answer: Option<Answer>) {
        self.wanted = true;
        self.answers.extend(answer);
    }

    /// The newest file cannot be read back: it is as if it had not been taken.
    pub(super) fn damaged(&mut self, index: LogIndex) {
        tracing::error!(%index, "a checkpoint on disk is damaged, another one is taken");
        if index == self.last_index {
            self.last_index = LogIndex(index.0.saturating_sub(1));
        }
        self.wanted = true;
    }

    /// Entries were applied.
    pub(super) fn count(&mut self, records: u64, log_bytes: u64) {
        self.changes += records;
        self.log_bytes += log_bytes;
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A checkpoint from elsewhere took the place of the state.
    pub(super) fn restored(&mut self, index: LogIndex) {
        self.last_index = index;
        (self.changes, self.log_bytes) = (0, 0);
    }

    /// Ends a checkpoint under way; its file disappears with the writer.
    pub(super) fn abort(&mut self, engine: &mut Engine) {
        if let State::Running { .. } = std::mem::replace(&mut self.state, State::Idle) {
            engine.checkpoint_abort();
        }
    }

    pub(super) fn is_running(&self) -> bool {
        !matches!(self.state, State::Idle)
    }

    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    pub(super) fn last_unix_s(&self) -> u64 {
        self.last_unix_s
    }

    /// How long an executor without work may sleep while a checkpoint is under way.
    pub(super) fn wait(&self) -> Option<Duration> {
        matches!(self.state, State::Running { .. }).then_some(SLICE_PAUSE)
    }

    fn is_due(&self, used_memory: u64) -> bool {
        if self.retry_at.is_some_and(|at| clock::instant() < at) {
            return false;
        }
        if self.wanted || self.log_bytes >= LOG_BYTES_MIN.max(used_memory) {
            return true;
        }
        let since = clock::since(self.last_end).as_secs();
        self.save_points
            && SAVE_POINTS.iter().any(|(after, min)| since >= *after && self.changes >= *min)
    }
}

impl Executor {
    /// One turn's share of checkpointing.
    pub(super) fn step_checkpoint(&mut self) {
        match &self.checkpoint.state {
            State::Idle => {
                if self.checkpoint.is_due(self.shared.used_memory.load(Ordering::Relaxed)) {
                    self.begin_checkpoint();
                }
            }
            State::Running { slices, .. } if slices.len() < SLICES_QUEUED_MAX => self.take_slice(),
            State::Running { .. } | State::Finishing => {}
        }
    }

    fn begin_checkpoint(&mut self) {
        self.checkpoint.wanted = false;
        if self.applied <= self.checkpoint.last_index {
            for answer in self.checkpoint.answers.drain(..) {
                // The asker may have given up.
                let _ = answer.send(self.applied);
            }
            return;
        }
        let index = self.applied;
        let (slices, receiver) = bounded(SLICES_QUEUED_MAX + 2);
        let (folder, inbox) = (self.checkpoint.folder.clone(), self.inbox.clone());
        match self.node.checkpoints.write(folder, self.shared.shard, receiver, inbox) {
            Ok(()) => {
                self.engine.checkpoint_begin();
                (self.checkpoint.changes, self.checkpoint.log_bytes) = (0, 0);
                self.checkpoint.state = State::Running { slices, index };
            }
            Err(error) => self.end_checkpoint(Err(error.to_string())),
        }
    }

    fn take_slice(&mut self) {
        let mut bytes = Vec::with_capacity(SLICE_BYTES + SLICE_BYTES / 2);
        let step = self.engine.checkpoint_step(SLICE_BYTES, &mut bytes);
        let State::Running { slices, index } = &self.checkpoint.state else { return };
        // A writer that failed has hung up and sent why.
        let mut alive = slices.try_send(Slice::Bytes(bytes)).is_ok();
        if step == CheckpointStep::Done {
            alive &= slices.try_send(Slice::End(*index)).is_ok();
            self.checkpoint.state = State::Finishing;
        }
        if !alive {
            self.checkpoint.abort(&mut self.engine);
        }
    }

    pub(super) fn end_checkpoint(&mut self, result: Result<CheckpointFile, String>) {
        self.checkpoint.abort(&mut self.engine);
        self.checkpoint.state = State::Idle;
        match result {
            Ok(file) => {
                self.checkpoint.last_index = self.checkpoint.last_index.max(file.index);
                self.checkpoint.last_end = clock::instant();
                self.checkpoint.last_unix_s = clock::wall_ms() / 1000;
                self.checkpoint.retry_at = None;
                self.shared.checkpoint_index.store(file.index.0, Ordering::Relaxed);
                self.shared.counters.checkpoints.fetch_add(1, Ordering::Relaxed);
                for answer in self.checkpoint.answers.drain(..) {
                    // The asker may have given up.
                    let _ = answer.send(file.index);
                }
                let shard = self.shared.shard;
                tracing::info!(%shard, index = %file.index, bytes = file.len_bytes, "checkpoint taken");
                let index = file.index;
                self.node.consensus.send(consensus_loop::Input::CheckpointTaken { shard, index });
            }
            Err(reason) => {
                tracing::error!(shard = %self.shared.shard, reason, "a checkpoint failed");
                self.checkpoint.wanted = true;
                self.checkpoint.retry_at = Some(clock::instant() + RETRY_AFTER);
            }
        }
    }
}

fn write_slices(folder: PathBuf, slices: &Receiver<Slice>, inbox: &Mailbox<Input>) {
    match try_write(folder, slices) {
        Ok(Some(file)) => inbox.send(Input::CheckpointEnded(Ok(file))),
        Ok(None) => {}
        Err(error) => inbox.send(Input::CheckpointEnded(Err(error.to_string()))),
    }
}

/// `None`: the executor gave the checkpoint up.
fn try_write(folder: PathBuf, slices: &Receiver<Slice>) -> std::io::Result<Option<CheckpointFile>> {
    let mut writer = Writer::create(&folder, "taken")?;
    while let Ok(slice) = slices.recv() {
        match slice {
            Slice::Bytes(bytes) => writer.write(&bytes),
            Slice::End(index) => return writer.finish(index).map(Some),
        }
    }
    Ok(None)
}
