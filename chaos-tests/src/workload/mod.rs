//! Clients that work on all kinds of objects and record what they see.
//!
//! Each object gets a few hundred operations, then another one takes its place: so the checkers never
//! face a long history of one object, and each object's last content is read at the end
//! ([`final_scan`]), which shows whether what was acknowledged is there.

mod client;
mod commands;
mod dedicated;
mod scan;

use crate::check::history::{Model, Operation};
use crate::random::Random;
use crate::target::Endpoint;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

pub use scan::final_scan;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Clients that do all kinds of operations, one at a time.
    pub clients: u32,
    /// Mean pause of such a client between two operations.
    pub think: Duration,
    /// Queues, each with a client that pushes and two that pop (BLPOP).
    pub queues: u32,
    /// Clients that send pipelines of [`PIPELINE`] writes.
    pub pipelines: u32,
    /// Mean pause of such a client between two pipelines.
    pub pipeline_pause: Duration,
    /// Whether the store runs scripts.
    pub scripts: bool,
    /// A client gives up waiting for an answer after this long, which counts as an error.
    pub answer_limit: Duration,
    /// Time to live of expiring keys, from and to.
    pub ttl_ms: (u64, u64),
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            clients: 16,
            think: Duration::from_millis(6),
            queues: 2,
            pipelines: 1,
            pipeline_pause: Duration::from_secs(2),
            scripts: false,
            answer_limit: Duration::from_secs(30),
            ttl_ms: (300, 3000),
            seed: 1,
        }
    }
}

/// Writes of one pipeline.
pub const PIPELINE: usize = 1000;
/// Operations after which an object is left alone.
const OPERATIONS_PER_OBJECT: u32 = 300;
/// Objects of a model in use at a time. Few, so that clients meet on them.
const ACTIVE_PER_MODEL: usize = 3;
/// Lists of a group for transactions.
const LISTS_PER_GROUP: u64 = 3;

/// Something that a client should not have to see.
#[derive(Clone, Debug, Serialize)]
pub struct Incident {
    /// When it happened, ns since the run's start.
    pub at: u64,
    /// When the operation concerned was sent.
    pub start: u64,
    /// When its connection was opened; `start` if it could not be.
    pub connected: u64,
    pub client: u32,
    /// The process that the client was connected to.
    pub via: String,
    pub kind: IncidentKind,
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum IncidentKind {
    ErrorReply,
    ConnectionLost,
    NoAnswer,
    CannotConnect,
    /// The answers of a pipeline show another order than it was sent in.
    Misordered,
    /// An answer of a kind that the command cannot have.
    Malformed,
}

/// What the clients saw.
#[derive(Default)]
pub struct Recording {
    pub operations: Vec<Operation>,
    pub incidents: Vec<Incident>,
}

impl Recording {
    pub fn extend(&mut self, other: Self) {
        self.operations.extend(other.operations);
        self.incidents.extend(other.incidents);
    }
}

/// One thing that is worked on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub model: Model,
    pub key: Arc<str>,
}

/// State that all clients share.
pub(crate) struct Shared {
    endpoint: Arc<dyn Endpoint>,
    options: Options,
    epoch: Instant,
    stop: AtomicBool,
    next_client: AtomicU32,
    next_token: AtomicI64,
    done: AtomicU64,
    objects: Mutex<Objects>,
}

#[derive(Default)]
struct Objects {
    active: BTreeMap<Model, Vec<(Object, u32)>>,
    all: Vec<Object>,
}

impl Shared {
    fn now(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// A value that nobody else writes.
    fn token(&self) -> i64 {
        self.next_token.fetch_add(1, Ordering::Relaxed)
    }

    /// A new object, to be read at the end.
    fn new_object(&self, model: Model, name: &str) -> Object {
        let mut objects = self.objects.lock().expect("no client panics with the lock");
        let object = Object { model, key: format!("{name}:{}", objects.all.len()).into() };
        objects.all.push(object.clone());
        object
    }

    /// An object in use; one that has had its share is replaced.
    fn pick(&self, model: Model, random: &mut Random) -> Object {
        let place = random.below(ACTIVE_PER_MODEL as u64) as usize;
        {
            let mut objects = self.objects.lock().expect("no client panics with the lock");
            if let Some((object, used)) =
                objects.active.get_mut(&model).and_then(|active| active.get_mut(place))
                && *used < OPERATIONS_PER_OBJECT
            {
                *used += 1;
                return object.clone();
            }
        }
        let object = self.new_object(model, &format!("{model:?}").to_lowercase());
        let mut objects = self.objects.lock().expect("no client panics with the lock");
        let active = objects.active.entry(model).or_default();
        match active.get_mut(place) {
            Some(used_up) => *used_up = (object.clone(), 1),
            None => active.push((object.clone(), 1)),
        }
        object
    }
}

/// Running clients.
pub struct Workload {
    shared: Arc<Shared>,
    tasks: JoinSet<Recording>,
}

impl Workload {
    /// Starts all clients. `epoch` is the instant that times are counted from.
    pub fn start(endpoint: Arc<dyn Endpoint>, options: Options, epoch: Instant) -> Self {
        let random = Random::new(options.seed);
        let shared = Arc::new(Shared {
            endpoint,
            options: options.clone(),
            epoch,
            stop: AtomicBool::new(false),
            next_client: AtomicU32::new(0),
            next_token: AtomicI64::new(1),
            done: AtomicU64::new(0),
            objects: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        let mut part = 0;
        let mut client = || {
            part += 1;
            client::Client::new(shared.clone(), random.fork(part))
        };
        for _ in 0..options.clients {
            tasks.spawn(client().work_on_everything());
        }
        for queue in 0..options.queues {
            let current = Arc::new(Mutex::new(dedicated::new_queue(&shared, queue)));
            tasks.spawn(client().push(queue, current.clone()));
            tasks.spawn(client().pop(current.clone()));
            tasks.spawn(client().pop(current));
        }
        for _ in 0..options.pipelines {
            tasks.spawn(client().pipeline());
        }
        Self { shared, tasks }
    }

    /// Operations that have ended so far.
    pub fn done(&self) -> u64 {
        self.shared.done.load(Ordering::Relaxed)
    }

    /// Lets all clients finish what they are at. Returns what they saw, and the objects.
    pub async fn finish(mut self) -> (Recording, Vec<Object>) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut all = Recording::default();
        while let Some(recording) = self.tasks.join_next().await {
            match recording {
                Ok(recording) => all.extend(recording),
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
        let objects = self.shared.objects.lock().expect("no client panics with the lock");
        (all, objects.all.clone())
    }
}
