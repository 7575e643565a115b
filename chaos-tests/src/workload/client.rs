//! One client: its connection, and the record of what it asked and got.

use super::commands::{self, Words};
use super::{Incident, IncidentKind, LISTS_PER_GROUP, Object, Recording, Shared};
use crate::check::history::{Call, Model, NEVER, Operation, Outcome, Reply, Step};
use crate::random::Random;
use crate::target::ErrorMeaning;
use holdfast_cli::client::Connection;
use holdfast_proto::resp::reply::Value;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long a client that cannot connect waits before it tries again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Client {
    pub(super) shared: Arc<Shared>,
    pub(super) random: Random,
    /// A new one with each connection: after an unknown outcome the old one may still be at work.
    pub(super) id: u32,
    connection: Option<Connection>,
    /// When it was opened.
    connected: u64,
    via: String,
    pub(super) recording: Recording,
    scripts: bool,
}

/// What came back for some commands sent at once.
pub(super) struct Exchange {
    pub(super) start: u64,
    /// In order; fewer than asked for if the connection broke.
    pub(super) answers: Vec<(Value, u64)>,
}

impl Exchange {
    pub(super) fn answer(&self, index: usize) -> Option<(&Value, u64)> {
        self.answers.get(index).map(|(value, end)| (value, *end))
    }
}

impl Client {
    pub(super) fn new(shared: Arc<Shared>, random: Random) -> Self {
        let scripts = shared.options.scripts;
        Self {
            shared,
            random,
            id: 0,
            connection: None,
            connected: 0,
            via: String::new(),
            recording: Recording::default(),
            scripts,
        }
    }

    pub(super) fn incident(&mut self, start: u64, kind: IncidentKind, text: String) {
        let (at, client, via) = (self.shared.now(), self.id, self.via.clone());
        let connected = if kind == IncidentKind::CannotConnect { start } else { self.connected };
        self.recording.incidents.push(Incident { at, start, connected, client, via, kind, text });
    }

    /// Makes sure that there is a connection; false if it is time to stop.
    pub(super) async fn connect(&mut self) -> bool {
        let mut first = true;
        while self.connection.is_none() {
            if self.shared.stopped() {
                return false;
            }
            let start = self.shared.now();
            self.id = self.shared.next_client.fetch_add(1, Ordering::Relaxed);
            match self.shared.endpoint.clone().connect(self.id).await {
                Ok((connection, via)) => {
                    self.connection = Some(connection);
                    self.connected = self.shared.now();
                    self.via = via;
                }
                Err(error) => {
                    if first {
                        self.incident(start, IncidentKind::CannotConnect, format!("{error:#}"));
                    }
                    first = false;
                    tokio::time::sleep(RECONNECT_PAUSE).await;
                }
            }
        }
        true
    }

    /// Sends commands at once and reads their answers.
    pub(super) async fn exchange(&mut self, commands: &[Words]) -> Exchange {
        let start = self.shared.now();
        let mut exchange = Exchange { start, answers: Vec::with_capacity(commands.len()) };
        let Some(mut connection) = self.connection.take() else { return exchange };
        let shared = self.shared.clone();
        let talk = async {
            for words in commands {
                connection.push(words);
            }
            connection.flush().await?;
            while exchange.answers.len() < commands.len() {
                let value = connection.reply().await?;
                exchange.answers.push((value, shared.now()));
            }
            Ok::<(), holdfast_cli::client::CallError>(())
        };
        let limit = self.shared.options.answer_limit;
        match tokio::time::timeout(limit, talk).await {
            Ok(Ok(())) => self.connection = Some(connection),
            Ok(Err(error)) => {
                self.incident(start, IncidentKind::ConnectionLost, error.to_string());
            }
            Err(_) => {
                let text = format!("no answer to {} in {limit:?}", commands[0].join(" "));
                self.incident(start, IncidentKind::NoAnswer, text);
            }
        }
        exchange
    }

    /// Puts an operation on record. `answer` is none if the connection broke.
    pub(super) fn record(
        &mut self,
        object: &Object,
        start: u64,
        call: Call,
        answer: Option<(&Value, u64)>,
    ) -> Option<Reply> {
        let (end, outcome) = match answer {
            None => (NEVER, Outcome::Unknown),
            Some((Value::Error(text), end)) => {
                let text = String::from_utf8_lossy(text).into_owned();
                let meaning = self.shared.endpoint.meaning(&text);
                self.incident(start, IncidentKind::ErrorReply, text);
                match meaning {
                    ErrorMeaning::NotExecuted => (end, Outcome::Failed),
                    ErrorMeaning::WrongServer => {
                        self.connection = None;
                        (end, Outcome::Failed)
                    }
                    ErrorMeaning::Unknown => (NEVER, Outcome::Unknown),
                }
            }
            Some((value, end)) => match commands::reply(&call, value) {
                Some(reply) => (end, Outcome::Ok(reply)),
                None => {
                    let text = format!("{call:?} answered {value:?}");
                    self.incident(start, IncidentKind::Malformed, text);
                    (NEVER, Outcome::Unknown)
                }
            },
        };
        let reply = match &outcome {
            Outcome::Ok(reply) => Some(reply.clone()),
            _ => None,
        };
        self.record_outcome(object, (start, end), call, outcome);
        reply
    }

    fn record_outcome(
        &mut self,
        object: &Object,
        (start, end): (u64, u64),
        call: Call,
        outcome: Outcome,
    ) {
        self.shared.done.fetch_add(1, Ordering::Relaxed);
        self.recording.operations.push(Operation {
            model: object.model,
            key: object.key.clone(),
            client: self.id,
            start,
            end,
            call,
            outcome,
        });
    }

    /// One command for one call.
    pub(super) async fn ask(&mut self, object: &Object, call: Call) -> Option<Reply> {
        let exchange = self.exchange(&[commands::command(&object.key, &call)]).await;
        self.record(object, exchange.start, call, exchange.answer(0))
    }

    /// Waits for twice the mean at most.
    pub(super) async fn pause(&mut self, mean: Duration) {
        let micros = self.random.below(2 * mean.as_micros() as u64 + 1);
        tokio::time::sleep(Duration::from_micros(micros)).await;
    }

    /// Operations on objects of every kind until it is time to stop.
    pub(super) async fn work_on_everything(mut self) -> Recording {
        const MODELS: [Model; 7] = [
            Model::Register,
            Model::Counter,
            Model::List,
            Model::Set,
            Model::Hash,
            Model::Expiring,
            Model::Transactions,
        ];
        while self.connect().await && !self.shared.stopped() {
            let model = MODELS[self.random.below(MODELS.len() as u64) as usize];
            let object = self.shared.clone().pick(model, &mut self.random);
            match model {
                Model::Register => self.use_register(&object).await,
                Model::Transactions => self.transact(&object).await,
                _ => {
                    let call = self.choose(model);
                    self.ask(&object, call).await;
                }
            }
            self.pause(self.shared.options.think).await;
        }
        self.recording
    }

    fn choose(&mut self, model: Model) -> Call {
        let token = self.shared.token();
        let small = self.random.below(6) as i64;
        let (low, high) = self.shared.options.ttl_ms;
        let ttl_ms = self.random.between(low, high);
        match (model, self.random.below(10)) {
            (Model::Counter, 0..7) => Call::Add { by: 1 },
            (Model::List, 0..7) => Call::Append { value: token },
            (Model::List, _) => Call::ReadList,
            (Model::Set, 0..3) => Call::AddMember { value: small },
            (Model::Set, 3..5) => Call::RemoveMember { value: small },
            (Model::Set, 5..8) => Call::HasMember { value: small },
            (Model::Set, _) => Call::Members,
            (Model::Hash, 0..4) => Call::SetField { field: small, value: token },
            (Model::Hash, 4) => Call::DeleteField { field: small },
            (Model::Hash, 5..8) => Call::GetField { field: small },
            (Model::Hash, _) => Call::Fields,
            (Model::Expiring, 0) => Call::SetExpiring { value: token, ttl_ms },
            (Model::Expiring, 1..4) => Call::Lock { value: token, ttl_ms },
            _ => Call::Get,
        }
    }

    async fn use_register(&mut self, object: &Object) {
        let value = self.shared.token();
        match self.random.below(10) {
            0..3 => {
                self.ask(object, Call::Get).await;
            }
            3..6 => {
                self.ask(object, Call::Set { value }).await;
            }
            6..8 if self.scripts => {
                let Some(Reply::Value(from)) = self.ask(object, Call::Get).await else { return };
                self.ask(object, Call::Cas { from, to: value }).await;
            }
            _ => self.compare_and_set(object, value).await,
        }
    }

    /// WATCH, GET, then MULTI, SET, EXEC: sets the value unless it has changed since it was read.
    async fn compare_and_set(&mut self, object: &Object, to: i64) {
        let key = object.key.to_string();
        let watch = vec!["WATCH".to_owned(), key.clone()];
        let read = self.exchange(&[watch, commands::command(&key, &Call::Get)]).await;
        let watched = read.answer(0).is_some_and(|(value, _)| value.is_ok());
        if let Some((Value::Error(text), _)) = read.answer(0) {
            let text = String::from_utf8_lossy(text).into_owned();
            self.incident(read.start, IncidentKind::ErrorReply, text);
        }
        let seen = self.record(object, read.start, Call::Get, read.answer(1));
        let Some(Reply::Value(from)) = seen else { return };
        if !watched {
            return;
        }
        let set = commands::command(&key, &Call::Set { value: to });
        let write = self.exchange(&[vec!["MULTI".to_owned()], set, vec!["EXEC".to_owned()]]).await;
        let call = Call::Cas { from, to };
        match write.answer(2) {
            Some((Value::Array(_), end)) => {
                let outcome = Outcome::Ok(Reply::Did(true));
                self.record_outcome(object, (write.start, end), call, outcome);
            }
            // A watch may fail for a neighbour's sake, so that this tells nothing about the value.
            Some((value, end)) if value.is_null() => {
                self.record_outcome(object, (write.start, end), call, Outcome::Failed);
            }
            answer => {
                self.record(object, write.start, call, answer);
            }
        }
    }

    /// One to four appends and reads of the lists of a group, by MULTI or by script.
    async fn transact(&mut self, object: &Object) {
        let mut steps = Vec::new();
        for _ in 0..self.random.between(1, 4) {
            let append = self.random.chance(1, 2).then(|| self.shared.token());
            steps.push(Step { key: self.random.below(LISTS_PER_GROUP) as u32, append });
        }
        if self.scripts && self.random.chance(1, 2) {
            self.ask(object, Call::Transaction { steps }).await;
            return;
        }
        let multi = commands::multi(&object.key, &steps);
        let exchange = self.exchange(&multi).await;
        let call = Call::Transaction { steps };
        self.record(object, exchange.start, call, exchange.answer(multi.len() - 1));
    }
}
