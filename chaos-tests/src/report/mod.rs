//! What a run showed: verdicts, numbers, a timeline; as JSON and as one HTML file.

mod html;
mod timeline;

use crate::check::Verdict;
use crate::nemesis::{Episode, FaultKind};
use crate::workload::{Incident, IncidentKind};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

pub use timeline::{Numbers, Second, numbers, seconds};

/// Something that happened in the cluster.
#[derive(Clone, Debug, Serialize)]
pub struct Mark {
    /// ns since the run's start; negative before it.
    pub at: i64,
    pub kind: String,
    pub text: String,
}

/// A process that ended without being told to.
#[derive(Clone, Debug, Serialize)]
pub struct Crash {
    pub at: u64,
    pub process: String,
    pub text: String,
}

/// A whole run.
#[derive(Debug, Serialize)]
pub struct Report {
    pub title: String,
    /// How to run it again.
    pub command: String,
    pub seed: u64,
    pub seconds: f64,
    pub numbers: Numbers,
    pub verdict: Verdict,
    pub episodes: Vec<Episode>,
    /// Errors that clients saw although a majority was up and nobody touched their proxy.
    pub errors: Vec<Incident>,
    /// Errors that clients had to see: how many, by reason.
    pub excused: BTreeMap<String, usize>,
    pub crashes: Vec<Crash>,
    /// The cluster was not in full health at the end, or a fault went wrong.
    pub troubles: Vec<String>,
    pub marks: Vec<Mark>,
    pub timeline: Vec<Second>,
    /// Whether errors and troubles count against the run, not only the checkers' verdicts.
    pub strict: bool,
}

impl Report {
    pub fn is_fine(&self) -> bool {
        let quiet = self.errors.is_empty() && self.crashes.is_empty() && self.troubles.is_empty();
        self.verdict.is_fine() && (quiet || !self.strict)
    }

    /// The last line of a run's output.
    pub fn totals(&self) -> String {
        let word = if self.is_fine() { "OK" } else { "VIOLATION" };
        let excused: usize = self.excused.values().sum();
        format!(
            "{word}: seed {}, {:.0} s, {} faults, {} failovers; {}; {} client errors ({excused} more where they must be), {} crashes, {} troubles; longest wait {:.0} ms, p99 {:.1} ms",
            self.seed,
            self.seconds,
            self.episodes.len(),
            self.failovers(),
            self.verdict.totals(),
            self.errors.len(),
            self.crashes.len(),
            self.troubles.len(),
            self.numbers.longest_ms,
            self.numbers.p99_ms,
        )
    }

    pub fn failovers(&self) -> usize {
        self.marks.iter().filter(|mark| mark.kind.ends_with("failover") && mark.at >= 0).count()
    }

    /// Writes `report.html` and `report.json`.
    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join("report.json"), serde_json::to_string_pretty(self)?)?;
        std::fs::write(folder.join("report.html"), html::page(self))?;
        Ok(())
    }
}

/// After a majority came back, held requests may still run out of time for so long: the proxies'
/// hold deadline and two seconds.
const AFTER_MAJORITY_NS: u64 = 12_000_000_000;
/// A client that cannot connect because a proxy was killed has tried for no longer than this.
const AFTER_PROXY_NS: u64 = 2_000_000_000;

/// Why a client had to see this, if it had to.
pub fn excuse(incident: &Incident, episodes: &[Episode]) -> Option<&'static str> {
    for episode in episodes {
        let until = episode.healthy.unwrap_or(episode.end);
        if episode.majority
            && incident.at >= episode.start
            && incident.start <= until.saturating_add(AFTER_MAJORITY_NS)
        {
            return Some("a majority was down");
        }
        let touches = incident.at >= episode.start
            && incident.start <= episode.end.saturating_add(AFTER_PROXY_NS);
        let connection = match incident.kind {
            // However late a client that paused notices it.
            IncidentKind::ConnectionLost => {
                episode.kind == FaultKind::ProxyKill
                    && episode.targets.contains(&incident.via)
                    && incident.connected <= episode.end
                    && incident.at >= episode.start
            }
            IncidentKind::CannotConnect => {
                touches && matches!(episode.kind, FaultKind::ProxyKill | FaultKind::ProxyPause)
            }
            _ => false,
        };
        if connection {
            return Some("its proxy was killed or stopped");
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn killed(start: u64, end: u64) -> Episode {
        Episode {
            lane: "proxies",
            kind: FaultKind::ProxyKill,
            targets: vec!["proxy-2".to_owned()],
            detail: String::new(),
            start,
            end,
            healthy: None,
            majority: false,
            trouble: None,
        }
    }

    fn lost(connected: u64, at: u64) -> Incident {
        let kind = IncidentKind::ConnectionLost;
        let via = "proxy-2".to_owned();
        Incident { at, start: at - 1, connected, client: 1, via, kind, text: String::new() }
    }

    #[test]
    fn only_connections_of_a_killed_proxy_may_break() {
        let episodes = [killed(100, 200)];
        assert!(excuse(&lost(50, 110), &episodes).is_some());
        // Noticed late by a client that had paused.
        assert!(excuse(&lost(50, 9_000_000_000), &episodes).is_some());
        assert!(excuse(&lost(250, 260), &episodes).is_none());
        assert!(excuse(&lost(50, 90), &episodes).is_none());
        let other = Incident { via: "proxy-1".to_owned(), ..lost(50, 110) };
        assert!(excuse(&other, &episodes).is_none());
    }
}
