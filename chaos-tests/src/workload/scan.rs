//! The last look at every object.

use super::commands::{self, Words};
use super::{LISTS_PER_GROUP, Object, Recording};
use crate::check::history::{Call, Model, NEVER, Operation, Outcome, Step};
use crate::target::Endpoint;
use anyhow::{Context, bail};
use holdfast_cli::client::Connection;
use std::time::{Duration, Instant};

/// The client number of the scan.
const SCANNER: u32 = u32::MAX;
/// Objects asked for at once.
const BATCH: usize = 64;

/// Reads every object once and empties every queue, all after the last operation of the clients.
pub async fn final_scan(
    endpoint: &dyn Endpoint,
    objects: &[Object],
    epoch: Instant,
) -> anyhow::Result<Recording> {
    let (mut connection, _) = endpoint.connect(SCANNER).await.context("the final scan")?;
    let mut recording = Recording::default();
    let limit = Duration::from_secs(60);
    let now = || epoch.elapsed().as_nanos() as u64;
    for batch in objects.chunks(BATCH) {
        let start = now();
        let mut calls = Vec::new();
        for object in batch {
            let Some(call) = last_look(object.model) else { continue };
            let words = match &call {
                Call::Transaction { steps } => commands::multi(&object.key, steps),
                call => vec![commands::command(&object.key, call)],
            };
            for words in &words {
                connection.push(words);
            }
            calls.push((object, call, words.len()));
        }
        connection.flush().await?;
        for (object, call, replies) in calls {
            let mut value = None;
            for _ in 0..replies {
                value = Some(tokio::time::timeout(limit, connection.reply()).await??);
            }
            let value = value.context("each call is at least one command")?;
            let Some(reply) = commands::reply(&call, &value) else {
                bail!("the final scan of {} answered {value:?}", object.key);
            };
            recording.operations.push(operation(object, (start, now()), call, Outcome::Ok(reply)));
        }
    }
    for object in objects.iter().filter(|object| object.model == Model::Queue) {
        drain(&mut connection, object, epoch, &mut recording).await?;
    }
    Ok(recording)
}

fn operation(object: &Object, times: (u64, u64), call: Call, outcome: Outcome) -> Operation {
    let (start, end) = times;
    debug_assert_ne!(end, NEVER);
    let (model, key) = (object.model, object.key.clone());
    Operation { model, key, client: SCANNER, start, end, call, outcome }
}

/// What shows an object's content. Expiring keys are gone by now, queues are emptied one by one.
fn last_look(model: Model) -> Option<Call> {
    match model {
        Model::Register | Model::Counter => Some(Call::Get),
        Model::List => Some(Call::ReadList),
        Model::Set => Some(Call::Members),
        Model::Hash => Some(Call::Fields),
        Model::Transactions => {
            let read = |key| Step { key, append: None };
            Some(Call::Transaction { steps: (0..LISTS_PER_GROUP as u32).map(read).collect() })
        }
        Model::Expiring | Model::Queue => None,
    }
}

async fn drain(
    connection: &mut Connection,
    object: &Object,
    epoch: Instant,
    recording: &mut Recording,
) -> anyhow::Result<()> {
    let words: Words = commands::command(&object.key, &Call::Pop);
    loop {
        let start = epoch.elapsed().as_nanos() as u64;
        let value = connection.call(&words).await?;
        let end = epoch.elapsed().as_nanos() as u64;
        let Some(reply) = commands::reply(&Call::Pop, &value) else {
            bail!("the final scan of {} answered {value:?}", object.key);
        };
        let is_empty = reply == crate::check::history::Reply::Value(None);
        recording.operations.push(operation(object, (start, end), Call::Pop, Outcome::Ok(reply)));
        if is_empty {
            return Ok(());
        }
    }
}
