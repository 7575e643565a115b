//! Counters of a worker: what INFO and the metrics page show.

use hdrhistogram::Histogram;
use std::collections::BTreeMap;

/// Index of "no command of the table".
pub(crate) const NO_COMMAND: u16 = u16::MAX;
/// Latencies above this are recorded as this: the hold deadline is far below.
const LATENCY_US_MAX: u64 = 60_000_000;

/// One command's numbers.
#[derive(Clone, Copy, Default, Debug)]
pub struct CommandStats {
    pub calls: u64,
    /// From the arrival of the command's bytes to its reply, microseconds, summed.
    pub usec: u64,
    /// Replies that were errors of the shard.
    pub failed: u64,
    /// Refused before they ran (arity, authentication, routing).
    pub rejected: u64,
}

/// Counters of one worker since its start, and a few gauges.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    pub connections_received: u64,
    pub connections_rejected: u64,
    pub commands: u64,
    pub net_input_bytes: u64,
    pub net_output_bytes: u64,
    pub requests_resent: u64,
    pub requests_failed: u64,
    pub auth_failures: u64,
    /// Refused because the user may not run the command, use the key, use the channel.
    pub denied_commands: u64,
    pub denied_keys: u64,
    pub denied_channels: u64,
    pub protocol_errors: u64,
    /// Messages given to clients.
    pub messages_delivered: u64,
    /// Messages that came again after a failover and were dropped.
    pub messages_repeated: u64,
    /// Subscribers cut off because they read too slowly.
    pub subscribers_cut: u64,
    /// By index in the command table.
    pub by_command: Vec<CommandStats>,
    /// Error replies by their first word.
    pub errors: BTreeMap<String, u64>,
    /// By index in the command table: of those that went to a shard, microseconds.
    pub latencies: Vec<Option<Box<Histogram<u64>>>>,
    /// Of subcommands that are answered here, by their whole name.
    pub subcommands: BTreeMap<&'static str, CommandStats>,
    pub clients: usize,
    pub clients_blocked: usize,
    pub requests_unanswered: usize,
    /// Requests that wait for a primary.
    pub requests_held: usize,
}

impl Stats {
    /// A shard answered a command after `usec` microseconds.
    pub(crate) fn count_answer(&mut self, command: u16, usec: u64, reply: &[u8]) {
        if command == NO_COMMAND {
            return;
        }
        self.latency_mut(command).saturating_record(usec.clamp(1, LATENCY_US_MAX));
        let failed = reply.first() == Some(&b'-');
        let stats = self.command_mut(command);
        stats.calls += 1;
        stats.usec += usec;
        if failed {
            stats.failed += 1;
            self.count_error(reply);
        }
    }

    /// A command was answered here.
    pub(crate) fn count_local(&mut self, command: u16) {
        if command != NO_COMMAND {
            self.command_mut(command).calls += 1;
        }
    }

    /// A command was refused here with this error reply.
    pub(crate) fn count_rejected(&mut self, command: u16, text: &str) {
        if command != NO_COMMAND {
            self.command_mut(command).rejected += 1;
        }
        self.count_error(format!("-{text}").as_bytes());
    }

    /// A subcommand was answered here.
    pub(crate) fn count_subcommand(&mut self, name: &'static str) {
        self.subcommands.entry(name).or_default().calls += 1;
    }

    fn latency_mut(&mut self, command: u16) -> &mut Histogram<u64> {
        let index = command as usize;
        if index >= self.latencies.len() {
            self.latencies.resize(index + 1, None);
        }
        self.latencies[index].get_or_insert_with(|| Box::new(new_histogram()))
    }

    /// Of all commands that went to a shard, microseconds.
    pub fn latency(&self) -> Histogram<u64> {
        let mut all = new_histogram();
        for latency in self.latencies.iter().flatten() {
            // Bounds are the same constants everywhere.
            let _ = all.add(latency.as_ref());
        }
        all
    }

    fn command_mut(&mut self, command: u16) -> &mut CommandStats {
        let index = command as usize;
        if index >= self.by_command.len() {
            self.by_command.resize(index + 1, CommandStats::default());
        }
        &mut self.by_command[index]
    }

    #[cold]
    fn count_error(&mut self, reply: &[u8]) {
        /// As in Redis, which stops telling errors apart here.
        const ERRORS_MAX: usize = 128;
        let word = reply[1..].split(|c| matches!(c, b' ' | b'\r')).next().unwrap_or_default();
        let word = String::from_utf8_lossy(&word[..word.len().min(32)]).into_owned();
        if self.errors.len() < ERRORS_MAX || self.errors.contains_key(&word) {
            *self.errors.entry(word).or_default() += 1;
        }
    }

    /// CONFIG RESETSTAT.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }

    /// Adds another worker's numbers.
    pub fn merge(&mut self, other: &Self) {
        self.connections_received += other.connections_received;
        self.connections_rejected += other.connections_rejected;
        self.commands += other.commands;
        self.net_input_bytes += other.net_input_bytes;
        self.net_output_bytes += other.net_output_bytes;
        self.requests_resent += other.requests_resent;
        self.requests_failed += other.requests_failed;
        self.auth_failures += other.auth_failures;
        self.denied_commands += other.denied_commands;
        self.denied_keys += other.denied_keys;
        self.denied_channels += other.denied_channels;
        self.protocol_errors += other.protocol_errors;
        self.messages_delivered += other.messages_delivered;
        self.messages_repeated += other.messages_repeated;
        self.subscribers_cut += other.subscribers_cut;
        if self.by_command.len() < other.by_command.len() {
            self.by_command.resize(other.by_command.len(), CommandStats::default());
        }
        for (mine, theirs) in self.by_command.iter_mut().zip(&other.by_command) {
            mine.calls += theirs.calls;
            mine.usec += theirs.usec;
            mine.failed += theirs.failed;
            mine.rejected += theirs.rejected;
        }
        for (word, count) in &other.errors {
            *self.errors.entry(word.clone()).or_default() += count;
        }
        for (index, latency) in other.latencies.iter().enumerate() {
            if let Some(latency) = latency {
                // Bounds are the same constants in every worker.
                let _ = self.latency_mut(index as u16).add(latency.as_ref());
            }
        }
        for (name, numbers) in &other.subcommands {
            self.subcommands.entry(name).or_default().calls += numbers.calls;
        }
        self.clients += other.clients;
        self.clients_blocked += other.clients_blocked;
        self.requests_unanswered += other.requests_unanswered;
        self.requests_held += other.requests_held;
    }
}

fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 2)
        .expect("the bounds are constants that the histogram accepts")
}
