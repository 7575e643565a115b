//! Clients that do one thing: push to a queue, pop from it, send long pipelines.

use super::client::Client;
use super::commands;
use super::{IncidentKind, Object, PIPELINE, Recording, Shared};
use crate::check::history::{Call, Model, Reply};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A queue is in use for this long.
const QUEUE_LIFE: Duration = Duration::from_secs(20);
/// Mean pause between two pushes.
const PUSH_PAUSE: Duration = Duration::from_millis(10);
/// How long BLPOP waits, in seconds.
const BLPOP_WAIT: &str = "1";

pub(super) fn new_queue(shared: &Shared, queue: u32) -> Object {
    shared.new_object(Model::Queue, &format!("queue{queue}"))
}

impl Client {
    pub(super) async fn push(mut self, queue: u32, current: Arc<Mutex<Object>>) -> Recording {
        let mut since = Instant::now();
        while self.connect().await && !self.shared.stopped() {
            if since.elapsed() > QUEUE_LIFE {
                since = Instant::now();
                let next = new_queue(&self.shared, queue);
                *current.lock().expect("no client panics with the lock") = next;
            }
            let object = current.lock().expect("no client panics with the lock").clone();
            let value = self.shared.token();
            self.ask(&object, Call::Push { value }).await;
            self.pause(PUSH_PAUSE).await;
        }
        self.recording
    }

    pub(super) async fn pop(mut self, current: Arc<Mutex<Object>>) -> Recording {
        while self.connect().await && !self.shared.stopped() {
            let object = current.lock().expect("no client panics with the lock").clone();
            if self.random.chance(1, 8) {
                self.ask(&object, Call::Pop).await;
                continue;
            }
            let words = ["BLPOP", &object.key, BLPOP_WAIT].map(str::to_owned).to_vec();
            let exchange = self.exchange(&[words]).await;
            self.record(&object, exchange.start, Call::Pop, exchange.answer(0));
        }
        self.recording
    }

    /// Appends to a list of its own, a thousand at a time: nothing may be missing, doubled or out of
    /// order.
    pub(super) async fn pipeline(mut self) -> Recording {
        while self.connect().await && !self.shared.stopped() {
            let object = self.shared.clone().new_object(Model::List, "pipeline");
            let calls: Vec<Call> =
                (0..PIPELINE).map(|_| Call::Append { value: self.shared.token() }).collect();
            let words: Vec<_> =
                calls.iter().map(|call| commands::command(&object.key, call)).collect();
            let exchange = self.exchange(&words).await;
            for (index, call) in calls.into_iter().enumerate() {
                let reply = self.record(&object, exchange.start, call, exchange.answer(index));
                if let Some(Reply::Number(len)) = reply
                    && len != index as i64 + 1
                {
                    let text = format!("{}: append {} answered {len}", object.key, index + 1);
                    self.incident(exchange.start, IncidentKind::Misordered, text);
                }
            }
            self.pause(self.shared.options.pipeline_pause).await;
        }
        self.recording
    }
}
