//! The log writer thread: one write and at most one sync for everything that all replicas of the
//! process want written, however many they are.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use holdfast_proto::ids::{LogIndex, ShardId, Term};

use super::side_record::{SideRecord, SyncedTo};
use super::{LogError, LogReader, LogStore, LogSyncer, LogWrite};
use crate::durable;
use crate::state::StoredState;

/// Payload gathered for one write; more waits for the next.
const GATHER_BYTES_MAX: usize = 8 << 20;

/// How often space is given back.
const PURGE_EVERY: Duration = Duration::from_secs(10);

/// When an entry counts as persisted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncPolicy {
    /// Synced to disk.
    Always,
    /// Given to the operating system, which is told to sync every second: survives the death of
    /// the process, not of the machine.
    EverySecond,
    /// Given to the operating system, which syncs when it likes.
    Os,
}

/// Options of the writer thread.
#[derive(Clone, Copy, Debug)]
pub struct LogWriterConfig {
    pub policy: SyncPolicy,
    /// Time between syncs under [`SyncPolicy::EverySecond`], and between updates of the side record;
    /// default 1 s.
    pub sync_interval: Duration,
}

impl LogWriterConfig {
    /// Defaults for a policy.
    pub fn new(policy: SyncPolicy) -> Self {
        Self { policy, sync_interval: Duration::from_secs(1) }
    }
}

enum Job {
    Write(Vec<LogWrite>),
    /// The answer is sent once the group is gone.
    Destroy(ShardId, Sender<()>),
    Load(ShardId, Sender<Loaded>),
    Stop,
}

/// What is stored of a group, and how to read its entries.
pub type Loaded = Result<(Option<StoredState>, Box<dyn LogReader>), LogError>;

type OnPersisted = Box<dyn FnMut(&[(ShardId, u64)]) + Send>;
type Tails = Arc<Mutex<BTreeMap<ShardId, SyncedTo>>>;

/// What the writer measured. Cheap to read from any thread.
#[derive(Debug, Default)]
pub struct LogWriterStats {
    last_write_us: AtomicU64,
    writes: AtomicU64,
    bytes: AtomicU64,
}

impl LogWriterStats {
    /// How long the last write (with its sync, if any) took, microseconds.
    pub fn last_write_us(&self) -> u64 {
        self.last_write_us.load(Ordering::Relaxed)
    }

    /// Writes so far; each one covers everything that waited.
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    /// Payload of entries written so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// The threads; ends them when closed.
pub struct LogWriter {
    handle: LogWriterHandle,
    writer: JoinHandle<Box<dyn LogStore>>,
    syncer: JoinHandle<Box<dyn LogSyncer>>,
    side: Arc<Mutex<Option<SideRecord>>>,
    tails: Tails,
    stop_syncer: Sender<()>,
}

/// Hands writes to the thread. Cheap to clone; never blocks.
#[derive(Clone)]
pub struct LogWriterHandle {
    jobs: Sender<Job>,
    side: Arc<Mutex<Option<SideRecord>>>,
    stats: Arc<LogWriterStats>,
}

impl fmt::Debug for LogWriterHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogWriterHandle")
    }
}

impl LogWriterHandle {
    /// Queues writes, in order.
    pub fn write(&self, writes: Vec<LogWrite>) {
        if !writes.is_empty() {
            self.send(Job::Write(writes));
        }
    }

    /// Forgets a group for good, after the writes queued before, and waits for it.
    pub fn destroy(&self, shard: ShardId) {
        let (done, wait) = crossbeam_channel::bounded(1);
        self.send(Job::Destroy(shard, done));
        let _ = wait.recv();
    }

    /// Notes in the side record that the replica of a shard has lost entries that it acknowledged:
    /// it must not run again. Waits for the disk.
    pub fn condemn(&self, shard: ShardId) {
        if let Some(side) = &mut *self.side.lock().expect("no panic while locked") {
            or_end(side.condemn(shard), "record a loss");
        }
    }

    /// What is stored of a group, after everything handed over before; waits for it. `None`: the
    /// writer has ended.
    pub fn load(&self, shard: ShardId) -> Option<Loaded> {
        let (reply, loaded) = crossbeam_channel::bounded(1);
        self.send(Job::Load(shard, reply));
        loaded.recv().ok()
    }

    pub fn stats(&self) -> &LogWriterStats {
        &self.stats
    }

    fn send(&self, job: Job) {
        // The thread ends only after `close`; whatever comes later has nobody to answer to.
        let _ = self.jobs.send(job);
    }
}

/// The queue of a handle without threads: whoever simulates the writer takes the writes from it.
pub struct LogQueue {
    queue: Receiver<Job>,
    stats: Arc<LogWriterStats>,
}

impl LogQueue {
    /// A handle whose writes wait in the queue. Its `load` and `destroy` would wait for ever.
    pub fn detached() -> (LogWriterHandle, Self) {
        let (jobs, queue) = crossbeam_channel::unbounded();
        let stats = Arc::new(LogWriterStats::default());
        let handle = LogWriterHandle { jobs, side: Arc::default(), stats: Arc::clone(&stats) };
        (handle, Self { queue, stats })
    }

    /// Appends the writes that were queued, in order.
    pub fn take(&self, writes: &mut Vec<LogWrite>) {
        for job in self.queue.try_iter() {
            if let Job::Write(batch) = job {
                writes.extend(batch);
            }
        }
    }

    /// What [`LogWriterStats::last_write_us`] says from now on.
    pub fn note_write(&self, took: Duration) {
        self.stats.last_write_us.store(took.as_micros() as u64, Ordering::Relaxed);
    }
}

impl LogWriter {
    /// Starts the threads. `on_persisted` is called on the writer thread with (shard, number) of
    /// the last write of each shard that is done; it should only pass that on.
    /// A failed write or sync ends the process.
    pub fn start(
        store: Box<dyn LogStore>,
        side: Option<SideRecord>,
        cfg: LogWriterConfig,
        on_persisted: impl FnMut(&[(ShardId, u64)]) + Send + 'static,
    ) -> io::Result<Self> {
        let (jobs, queue) = crossbeam_channel::unbounded();
        let (stop_syncer, stopped) = crossbeam_channel::bounded(1);
        let tails = Tails::default();
        let stats = Arc::new(LogWriterStats::default());
        let side = Arc::new(Mutex::new(side));
        let log_syncer = store.syncer().unwrap_or_else(|| Box::new(NoSyncer));
        let writer = Writer {
            store,
            cfg,
            queue,
            on_persisted: Box::new(on_persisted),
            tails: Arc::clone(&tails),
            side: Arc::clone(&side),
            stats: Arc::clone(&stats),
            persisted: Vec::new(),
        };
        let syncer = Syncer {
            cfg,
            syncer: log_syncer,
            tails: Arc::clone(&tails),
            side: Arc::clone(&side),
            stats: Arc::clone(&stats),
            synced: 0,
            stopped,
        };
        let writer =
            thread::Builder::new().name("log-writer".into()).spawn(move || writer.run())?;
        let syncer =
            thread::Builder::new().name("log-syncer".into()).spawn(move || syncer.run())?;
        Ok(Self {
            handle: LogWriterHandle { jobs, side: Arc::clone(&side), stats },
            writer,
            syncer,
            side,
            tails,
            stop_syncer,
        })
    }

    pub fn handle(&self) -> LogWriterHandle {
        self.handle.clone()
    }

    /// Writes what is queued, syncs, and records that the process ended cleanly.
    pub fn close(self) {
        self.handle.send(Job::Stop);
        let mut store = self.writer.join().expect("the writer does not panic");
        let _ = self.stop_syncer.send(());
        let mut syncer = self.syncer.join().expect("the syncer does not panic");
        or_end(store.write(&[], true), "sync the log");
        or_end(syncer.sync(), "sync the log");
        let side = self.side.lock().expect("no panic while locked").take();
        if let Some(mut side) = side {
            let tails = self.tails.lock().expect("no panic while locked").clone();
            or_end(side.update(&tails), "record what is synced");
            or_end(side.close(), "record the clean end");
        }
    }
}

struct Writer {
    store: Box<dyn LogStore>,
    cfg: LogWriterConfig,
    queue: Receiver<Job>,
    on_persisted: OnPersisted,
    tails: Tails,
    side: Arc<Mutex<Option<SideRecord>>>,
    stats: Arc<LogWriterStats>,
    persisted: Vec<(ShardId, u64)>,
}

impl Writer {
    fn run(mut self) -> Box<dyn LogStore> {
        let mut purged = Instant::now();
        let mut batch = Vec::new();
        loop {
            match self.queue.recv_timeout(PURGE_EVERY) {
                Ok(Job::Write(writes)) => {
                    batch.extend(writes);
                    let control = self.gather(&mut batch);
                    self.write(&mut batch);
                    match control {
                        Some(Job::Destroy(shard, done)) => self.destroy(shard, &done),
                        Some(Job::Load(shard, reply)) => self.load(shard, &reply),
                        Some(Job::Stop) => return self.store,
                        _ => {}
                    }
                }
                Ok(Job::Destroy(shard, done)) => self.destroy(shard, &done),
                Ok(Job::Load(shard, reply)) => self.load(shard, &reply),
                Ok(Job::Stop) | Err(RecvTimeoutError::Disconnected) => return self.store,
                Err(RecvTimeoutError::Timeout) => {}
            }
            if purged.elapsed() >= PURGE_EVERY {
                or_end(self.store.purge(), "purge the log");
                purged = Instant::now();
            }
        }
    }

    /// Everything else that waits, up to a limit or to a job that is not a write.
    fn gather(&self, batch: &mut Vec<LogWrite>) -> Option<Job> {
        let mut bytes: usize = batch.iter().map(payload).sum();
        while bytes < GATHER_BYTES_MAX {
            match self.queue.try_recv() {
                Ok(Job::Write(writes)) => {
                    bytes += writes.iter().map(payload).sum::<usize>();
                    batch.extend(writes);
                }
                Ok(control) => return Some(control),
                Err(_) => return None,
            }
        }
        None
    }

    fn write(&mut self, batch: &mut Vec<LogWrite>) {
        let start = Instant::now();
        // A commit index alone is never waited for.
        let sync = self.cfg.policy == SyncPolicy::Always
            && batch.iter().any(|w| !w.entries.is_empty() || w.sync);
        or_end(self.store.write(batch, sync), "write the log");
        self.persisted.clear();
        {
            let mut tails = self.tails.lock().expect("no panic while locked");
            for write in batch.iter() {
                note_tail(&mut tails, write);
                match self.persisted.iter_mut().find(|p| p.0 == write.shard) {
                    Some(persisted) => persisted.1 = write.number,
                    None => self.persisted.push((write.shard, write.number)),
                }
            }
        }
        if batch.iter().any(|w| w.reset.is_some()) {
            self.record_new_groups(batch);
        }
        let stats = &self.stats;
        let bytes: usize = batch.iter().map(payload).sum();
        stats.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        stats.writes.fetch_add(1, Ordering::Relaxed);
        let micros = start.elapsed().as_micros() as u64;
        stats.last_write_us.store(micros, Ordering::Relaxed);
        batch.clear();
        (self.on_persisted)(&self.persisted);
    }

    /// A group is in the side record before anything of it can be acknowledged; such a write is
    /// always synced.
    fn record_new_groups(&self, batch: &[LogWrite]) {
        let mut tails = BTreeMap::new();
        for write in batch.iter().filter(|w| w.reset.is_some()) {
            note_tail(&mut tails, write);
        }
        if let Some(side) = &mut *self.side.lock().expect("no panic while locked") {
            or_end(side.update(&tails), "record what is synced");
        }
    }

    fn load(&mut self, shard: ShardId, reply: &Sender<Loaded>) {
        let reader = self.store.reader();
        let loaded = self.store.load(shard).map(|stored| (stored, reader));
        // The asker may have given up.
        let _ = reply.send(loaded);
    }

    fn destroy(&mut self, shard: ShardId, done: &Sender<()>) {
        or_end(self.store.destroy(shard), "remove a log");
        self.tails.lock().expect("no panic while locked").remove(&shard);
        if let Some(side) = &mut *self.side.lock().expect("no panic while locked") {
            or_end(side.forget(shard), "forget a log");
        }
        let _ = done.send(());
    }
}

fn payload(write: &LogWrite) -> usize {
    write.entries.iter().map(|e| e.data.len()).sum()
}

fn note_tail(tails: &mut BTreeMap<ShardId, SyncedTo>, write: &LogWrite) {
    let last = match (write.entries.last(), &write.reset) {
        (Some(entry), _) => (LogIndex(entry.index), Term(entry.term)),
        (None, Some(meta)) => (meta.index, meta.term),
        (None, None) => return,
    };
    tails.insert(write.shard, SyncedTo { raft_id: write.raft_id, index: last.0, term: last.1 });
}

struct Syncer {
    cfg: LogWriterConfig,
    syncer: Box<dyn LogSyncer>,
    tails: Tails,
    side: Arc<Mutex<Option<SideRecord>>>,
    stats: Arc<LogWriterStats>,
    /// Writes that the last sync covered.
    synced: u64,
    stopped: Receiver<()>,
}

impl Syncer {
    fn run(mut self) -> Box<dyn LogSyncer> {
        loop {
            match self.stopped.recv_timeout(self.cfg.sync_interval) {
                Err(RecvTimeoutError::Timeout) => self.sync(),
                _ => return self.syncer,
            }
        }
    }

    fn sync(&mut self) {
        // Under `Os` nothing is known to be synced, so nothing is recorded.
        if self.cfg.policy == SyncPolicy::Os {
            return;
        }
        let writes = self.stats.writes();
        if writes == self.synced {
            return;
        }
        self.synced = writes;
        // What was written before the sync began is synced when it ends.
        let tails = self.tails.lock().expect("no panic while locked").clone();
        if self.cfg.policy == SyncPolicy::EverySecond {
            or_end(self.syncer.sync(), "sync the log");
        }
        if let Some(side) = &mut *self.side.lock().expect("no panic while locked") {
            or_end(side.update(&tails), "record what is synced");
        }
    }
}

struct NoSyncer;

impl LogSyncer for NoSyncer {
    fn sync(&mut self) -> Result<(), LogError> {
        Ok(())
    }
}

/// What is on disk after a failed write or sync is unknown: the process must end, and never try
/// again.
fn or_end<T>(result: Result<T, LogError>, what: &str) -> T {
    match result {
        Ok(value) => value,
        Err(error) => durable::fail(what, error),
    }
}
