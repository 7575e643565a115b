//! What the clients saw: one record per operation, and its file format.
//!
//! A history file is JSON lines, one operation per line, in any order:
//!
//! ```json
//! {"model":"register","key":"r:1","client":3,"start":1200,"end":4100,"call":{"f":"set","value":7},"outcome":{"ok":"done"}}
//! {"model":"counter","key":"c:1","client":4,"start":1300,"end":null,"call":{"f":"add","by":1},"outcome":"unknown"}
//! ```
//!
//! | field | meaning |
//! | --- | --- |
//! | `model` | what kind of object `key` is: `register`, `counter`, `list`, `set`, `hash`, `expiring`, `queue`, `transactions` |
//! | `key` | the object; for `transactions` the group of keys that are used together |
//! | `client` | who asked; a client has one operation at a time unless it pipelines |
//! | `start` | when the request was about to be sent, ns since any fixed instant |
//! | `end` | when the reply had been read; `null` if there was none that says what happened |
//! | `call` | what was asked: `f` and its arguments; all values are integers |
//! | `outcome` | `{"ok": reply}`, `"failed"` (surely not executed) or `"unknown"` (executed once, or not, at any time after `start`) |

use serde::{Deserialize, Serialize};
use std::io::{BufRead, Write};
use std::sync::Arc;

/// `end` of an operation whose outcome nobody knows.
pub const NEVER: u64 = u64::MAX;

/// What an object is, hence which calls it has and what they may answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Model {
    /// `get`, `set`, `cas`.
    Register,
    /// `add`, `get`.
    Counter,
    /// `append`, `read-list`. Appended values are unique.
    List,
    /// `add-member`, `remove-member`, `has-member`, `members`.
    Set,
    /// `set-field`, `delete-field`, `get-field`, `fields`.
    Hash,
    /// `set-expiring`, `lock`, `get`.
    Expiring,
    /// `push`, `pop`. Pushed values are unique.
    Queue,
    /// `transaction` over several lists. Appended values are unique per list.
    Transactions,
}

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "f", rename_all = "kebab-case")]
pub enum Call {
    /// Answers a value.
    Get,
    /// Answers done.
    Set { value: i64 },
    /// Sets `to` if the value is `from` (`null`: if there is none). Answers whether it did.
    Cas { from: Option<i64>, to: i64 },
    /// Answers the number after it.
    Add { by: i64 },
    /// Answers the length after it.
    Append { value: i64 },
    /// Answers the whole list.
    ReadList,
    /// Answers how many members were added: 0 or 1.
    AddMember { value: i64 },
    /// Answers how many members were removed: 0 or 1.
    RemoveMember { value: i64 },
    /// Answers whether it is one.
    HasMember { value: i64 },
    /// Answers all members, in any order.
    Members,
    /// Answers how many fields were added: 0 or 1.
    SetField { field: i64, value: i64 },
    /// Answers how many fields were removed: 0 or 1.
    DeleteField { field: i64 },
    /// Answers a value.
    GetField { field: i64 },
    /// Answers all fields with their values, in any order.
    Fields,
    /// Sets a value that goes away after `ttl_ms`. Answers done.
    SetExpiring { value: i64, ttl_ms: u64 },
    /// The same, if there is no value. Answers whether it did.
    Lock { value: i64, ttl_ms: u64 },
    /// Puts a value at the end. Answers done.
    Push { value: i64 },
    /// Takes the first value. Answers it, or none if the queue was empty at some time meanwhile.
    Pop,
    /// Appends and reads, atomically and in this order. Answers each read's list.
    Transaction { steps: Vec<Step> },
}

/// One step of a transaction: appends `append` to list `key`, or reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub key: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub append: Option<i64>,
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    Done,
    Number(i64),
    Value(Option<i64>),
    Did(bool),
    List(Vec<i64>),
    Pairs(Vec<(i64, i64)>),
    /// One entry per step; appends have none.
    Lists(Vec<Option<Vec<i64>>>),
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    Ok(Reply),
    /// Surely not executed.
    Failed,
    /// Executed once, or not; at any time after the start.
    Unknown,
}

/// One operation of one client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    pub model: Model,
    pub key: Arc<str>,
    pub client: u32,
    pub start: u64,
    /// `NEVER` exactly when the outcome is unknown.
    #[serde(with = "end_or_null")]
    pub end: u64,
    pub call: Call,
    pub outcome: Outcome,
}

impl Operation {
    /// A short form for reports.
    pub fn describe(&self) -> String {
        let millis = |ns: u64| format!("{:.3}", ns as f64 / 1e6);
        let end = if self.end == NEVER { "?".to_owned() } else { millis(self.end) };
        let outcome = match &self.outcome {
            Outcome::Ok(reply) => serde_json::to_string(reply).unwrap_or_default(),
            Outcome::Failed => "failed".to_owned(),
            Outcome::Unknown => "unknown".to_owned(),
        };
        let mut call = serde_json::to_string(&self.call).unwrap_or_default();
        let mut outcome = outcome;
        for text in [&mut call, &mut outcome] {
            if text.len() > 240 {
                let tail: String = text.chars().rev().take(100).collect();
                let tail: String = tail.chars().rev().collect();
                *text = format!("{} … {tail}", text.chars().take(120).collect::<String>());
            }
        }
        let start = millis(self.start);
        format!("[{start} … {end} ms] client {}: {} {call} -> {outcome}", self.client, self.key)
    }

    /// Was answered (so it has an end and a reply).
    pub fn reply(&self) -> Option<&Reply> {
        match &self.outcome {
            Outcome::Ok(reply) => Some(reply),
            Outcome::Failed | Outcome::Unknown => None,
        }
    }
}

mod end_or_null {
    use super::NEVER;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(end: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        if *end == NEVER { serializer.serialize_none() } else { serializer.serialize_some(end) }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        Ok(Option::<u64>::deserialize(deserializer)?.unwrap_or(NEVER))
    }
}

/// Why a history file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("line {line}: {reason}")]
    Line { line: usize, reason: String },
}

/// Reads JSON lines; empty lines are skipped.
pub fn read(input: impl BufRead) -> Result<Vec<Operation>, HistoryError> {
    let mut operations = Vec::new();
    // Many operations share a key: keep each name once.
    let mut names: std::collections::BTreeSet<Arc<str>> = std::collections::BTreeSet::new();
    for (index, line) in input.lines().enumerate() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        let wrong = |reason: String| HistoryError::Line { line: index + 1, reason };
        let mut operation: Operation =
            serde_json::from_str(&line).map_err(|error| wrong(error.to_string()))?;
        if (operation.end == NEVER) != (operation.outcome == Outcome::Unknown) {
            return Err(wrong("\"end\" is null exactly when the outcome is unknown".to_owned()));
        }
        if operation.end < operation.start {
            return Err(wrong("\"end\" is before \"start\"".to_owned()));
        }
        match names.get(&operation.key) {
            Some(name) => operation.key = name.clone(),
            None => {
                names.insert(operation.key.clone());
            }
        }
        operations.push(operation);
    }
    Ok(operations)
}

/// Writes JSON lines.
pub fn write(mut output: impl Write, operations: &[Operation]) -> std::io::Result<()> {
    for operation in operations {
        serde_json::to_writer(&mut output, operation)?;
        output.write_all(b"\n")?;
    }
    output.flush()
}
