//! LATENCY: how long commands took, from their arrival at the proxy to their reply.
//!
//! Redis watches many causes of delay; here one is seen by clients, the command itself, so the events
//! are `command` and, for commands that Redis calls fast, `fast-command`.

use super::connection::{help, unknown_subcommand};
use crate::core::{Stats, WorkerCore};
use bytes::BytesMut;
use holdfast_proto::command;
use holdfast_proto::resp::{RawRequest, encode};
use std::collections::BTreeMap;

/// Samples of one event (`LATENCY_TS_LEN`).
const SAMPLES_MAX: usize = 160;

/// One second's worst case.
#[derive(Clone, Copy)]
struct Sample {
    unix_s: u64,
    latency_ms: u64,
}

/// What the latency monitor saw of one event.
#[derive(Default)]
struct Series {
    /// Oldest first, at most one for each second.
    samples: Vec<Sample>,
    max_ms: u64,
}

/// The latency monitor (`latency-monitor-threshold`).
#[derive(Default)]
pub(crate) struct LatencyMonitor {
    events: BTreeMap<&'static str, Series>,
}

impl LatencyMonitor {
    pub(crate) fn note(&mut self, event: &'static str, unix_s: u64, latency_ms: u64) {
        let series = self.events.entry(event).or_default();
        series.max_ms = series.max_ms.max(latency_ms);
        match series.samples.last_mut() {
            Some(last) if last.unix_s == unix_s => {
                last.latency_ms = last.latency_ms.max(latency_ms)
            }
            _ => series.samples.push(Sample { unix_s, latency_ms }),
        }
        if series.samples.len() > SAMPLES_MAX {
            series.samples.remove(0);
        }
    }
}

pub(super) fn latency(core: &mut WorkerCore, index: u32, request: &RawRequest, out: &mut BytesMut) {
    let resp3 = core.clients.get(index).is_some_and(|client| client.resp3);
    match request.arg(1).to_ascii_lowercase().as_slice() {
        b"latest" => {
            let events = &core.latency_monitor.events;
            encode::array(out, events.len());
            for (event, series) in events {
                let Some(last) = series.samples.last() else { continue };
                encode::array(out, 4);
                encode::bulk(out, event.as_bytes());
                encode::integer(out, last.unix_s as i64);
                encode::integer(out, last.latency_ms as i64);
                encode::integer(out, series.max_ms as i64);
            }
        }
        b"history" => {
            let series = named(core, request.arg(2));
            let samples = series.map_or(&[][..], |series| &series.samples);
            encode::array(out, samples.len());
            for sample in samples {
                encode::array(out, 2);
                encode::integer(out, sample.unix_s as i64);
                encode::integer(out, sample.latency_ms as i64);
            }
        }
        b"reset" => {
            let before = core.latency_monitor.events.len();
            core.latency_monitor.events.retain(|event, _| {
                request.len() > 2 && !request.iter().skip(2).any(|arg| is_event(arg, event))
            });
            encode::integer(out, (before - core.latency_monitor.events.len()) as i64);
        }
        b"graph" => match named(core, request.arg(2)) {
            None => encode::error(out, "ERR No samples available for event"),
            Some(series) => {
                let text = graph(request.arg(2), series, core.unix_us / 1_000_000);
                encode::verbatim(out, b"txt", text.as_bytes(), resp3);
            }
        },
        b"doctor" => encode::verbatim(out, b"txt", doctor(core).as_bytes(), resp3),
        b"histogram" => {
            let mut stats = core.stats().clone();
            stats.merge(&core.peer_stats);
            histogram(&stats, request, resp3, out);
        }
        b"help" => help(out, HELP),
        _ => unknown_subcommand("latency", request, out),
    }
}

fn is_event(arg: &[u8], event: &str) -> bool {
    arg.eq_ignore_ascii_case(event.as_bytes())
}

fn named<'a>(core: &'a WorkerCore, name: &[u8]) -> Option<&'a Series> {
    let mut events = core.latency_monitor.events.iter();
    events.find(|(event, _)| is_event(name, event)).map(|(_, series)| series)
}

/// One line for each sample: the newest last, its age and a bar.
fn graph(name: &[u8], series: &Series, now_s: u64) -> String {
    const BAR_MAX: u64 = 40;
    let low = series.samples.iter().map(|sample| sample.latency_ms).min().unwrap_or(0);
    let name = String::from_utf8_lossy(name);
    let mut text = format!(
        "{name} - high {} ms, low {low} ms (all time high {} ms)\n",
        series.samples.iter().map(|sample| sample.latency_ms).max().unwrap_or(0),
        series.max_ms
    );
    for sample in &series.samples {
        let bar = (sample.latency_ms * BAR_MAX / series.max_ms.max(1)).max(1) as usize;
        let age = now_s.saturating_sub(sample.unix_s);
        text.push_str(&format!("{age:>6}s {:>6} ms {}\n", sample.latency_ms, "#".repeat(bar)));
    }
    text
}

fn doctor(core: &WorkerCore) -> String {
    let threshold = core.setting("latency-monitor-threshold").unwrap_or("0");
    if threshold == "0" {
        return "I'm sorry, Dave, I can't do that. Latency monitoring is disabled in this Redis \
                instance. You may use \"CONFIG SET latency-monitor-threshold <milliseconds>.\" in \
                order to enable it.\n"
            .to_owned();
    }
    let events = &core.latency_monitor.events;
    if events.is_empty() {
        return "Dave, no latency spike was observed during the lifetime of this Redis instance, \
                not in the slightest bit. I honestly think you ought to sit down calmly, take a \
                stress pill, and think things over.\n"
            .to_owned();
    }
    let mut text = "Dave, I have observed latency spikes in this Redis instance.\n\n".to_owned();
    for (event, series) in events {
        let count = series.samples.len().max(1) as u64;
        let sum: u64 = series.samples.iter().map(|sample| sample.latency_ms).sum();
        text.push_str(&format!(
            "{event}: {count} latency spikes (average {}ms). Worst all time event {}ms.\n",
            sum / count,
            series.max_ms
        ));
    }
    text.push_str(
        "\nSLOWLOG names commands that took long on a node; INFO proxy counts requests held.\n",
    );
    text
}

/// LATENCY HISTOGRAM [command …]: calls up to each power of two, in microseconds.
fn histogram(stats: &Stats, request: &RawRequest, resp3: bool, out: &mut BytesMut) {
    let wanted = |name: &str| {
        request.len() == 2
            || request.iter().skip(2).any(|arg| arg.eq_ignore_ascii_case(name.as_bytes()))
    };
    let found: Vec<_> = command::all()
        .zip(&stats.latencies)
        .filter_map(|(spec, latency)| Some((spec.name, latency.as_deref()?)))
        .filter(|(name, latency)| !latency.is_empty() && wanted(name))
        .collect();
    encode::map(out, found.len(), resp3);
    for (name, latency) in found {
        let mut buckets = Vec::new();
        let mut bound = 1u64;
        loop {
            let count = latency.count_between(0, bound);
            if count > 0 && buckets.last().is_none_or(|(_, before)| *before != count) {
                buckets.push((bound, count));
            }
            if count >= latency.len() || bound > latency.max() * 2 {
                break;
            }
            bound *= 2;
        }
        encode::bulk(out, name.as_bytes());
        encode::map(out, 2, resp3);
        encode::bulk(out, b"calls");
        encode::integer(out, latency.len() as i64);
        encode::bulk(out, b"histogram_usec");
        encode::map(out, buckets.len(), resp3);
        for (bound, count) in buckets {
            encode::integer(out, bound as i64);
            encode::integer(out, count as i64);
        }
    }
}

const HELP: &[&str] = &[
    "LATENCY <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "DOCTOR",
    "    Return a human readable latency analysis report.",
    "GRAPH <event>",
    "    Return an ASCII latency graph for the <event> class.",
    "HISTORY <event>",
    "    Return time-latency samples for the <event> class.",
    "LATEST",
    "    Return the latest latency samples for all events.",
    "RESET [<event> ...]",
    "    Reset latency data of one or more <event> classes.",
    "    (default: reset all data for all event classes)",
    "HISTOGRAM [COMMAND ...]",
    "    Return a cumulative distribution of commands latencies in histogram format.",
    "HELP",
    "    Print this help.",
];
