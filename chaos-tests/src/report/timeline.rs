//! Numbers over time, from the operations themselves.

use crate::check::history::{Call, Model, Operation};
use hdrhistogram::Histogram;
use serde::Serialize;

/// One second of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Second {
    /// Operations that ended in it.
    pub operations: u64,
    pub median_ms: f64,
    pub p99_ms: f64,
    pub longest_ms: f64,
    /// Requests that the proxies held, at most.
    pub held: u64,
    /// Errors that clients saw.
    pub errors: u64,
}

/// Of a whole run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Numbers {
    pub operations: u64,
    pub per_second: f64,
    pub median_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub longest_ms: f64,
    /// Longest time in which no operation at all ended.
    pub longest_silence_ms: f64,
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("constant bounds are valid")
}

/// Whether the time an operation took says how long clients wait: not if it waits on purpose, and
/// not in a pipeline of a thousand.
fn counts(operation: &Operation) -> bool {
    let waits = operation.model == Model::Queue && matches!(operation.call, Call::Pop);
    operation.reply().is_some() && !waits && !operation.key.starts_with("pipeline")
}

fn ms(micros: u64) -> f64 {
    micros as f64 / 1e3
}

/// Numbers of each second until `end` (ns).
pub fn seconds(operations: &[Operation], end: u64) -> Vec<Second> {
    let count = (end / 1_000_000_000) as usize + 1;
    let mut order: Vec<&Operation> =
        operations.iter().filter(|operation| operation.end <= end).collect();
    order.sort_unstable_by_key(|operation| operation.end);
    let mut seconds = vec![Second::default(); count];
    let mut at = 0;
    for (index, second) in seconds.iter_mut().enumerate() {
        let mut histogram = histogram();
        let until = (index as u64 + 1) * 1_000_000_000;
        while let Some(operation) = order.get(at)
            && operation.end < until
        {
            second.operations += 1;
            if counts(operation) {
                histogram.saturating_record((operation.end - operation.start) / 1000);
            }
            at += 1;
        }
        second.median_ms = ms(histogram.value_at_quantile(0.5));
        second.p99_ms = ms(histogram.value_at_quantile(0.99));
        second.longest_ms = ms(histogram.max());
    }
    seconds
}

/// Numbers of everything until `end` (ns).
pub fn numbers(operations: &[Operation], end: u64) -> Numbers {
    let mut histogram = histogram();
    let mut ends: Vec<u64> = Vec::new();
    for operation in operations.iter().filter(|operation| operation.end <= end) {
        ends.push(operation.end);
        if counts(operation) {
            histogram.saturating_record((operation.end - operation.start) / 1000);
        }
    }
    ends.sort_unstable();
    let silence = ends.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
    Numbers {
        operations: ends.len() as u64,
        per_second: ends.len() as f64 / (end.max(1) as f64 / 1e9),
        median_ms: ms(histogram.value_at_quantile(0.5)),
        p99_ms: ms(histogram.value_at_quantile(0.99)),
        p999_ms: ms(histogram.value_at_quantile(0.999)),
        longest_ms: ms(histogram.max()),
        longest_silence_ms: silence as f64 / 1e6,
    }
}

/// The longest that any operation took that was under way between two instants.
pub(super) fn longest_during(operations: &[Second], from: u64, until: u64) -> f64 {
    let first = (from / 1_000_000_000) as usize;
    let last = (until / 1_000_000_000) as usize;
    let range = operations.get(first..operations.len().min(last + 3)).unwrap_or_default();
    range.iter().map(|second| second.longest_ms).fold(0.0, f64::max)
}
