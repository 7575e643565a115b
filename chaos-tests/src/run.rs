//! One run on any cluster: work, hurt, heal, look, judge.

use crate::check::{self, Limits};
use crate::nemesis::{Episode, Nemesis, Plan};
use crate::report::{self, Crash, Mark, Report};
use crate::target::{Death, Endpoint, Subject};
use crate::workload::{self, Incident, Recording, Workload, final_scan};
use anyhow::Context;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What to run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    pub title: String,
    /// How to run it again.
    pub command: String,
    pub plan: Plan,
    pub workload: workload::Options,
    pub length: Duration,
    /// Gets the report and the history.
    pub report: PathBuf,
    pub keep_history: bool,
    /// Whether errors that clients see and processes that end count against the run.
    pub strict: bool,
}

/// How often the proxies are asked how many requests they hold.
const SAMPLE: Duration = Duration::from_millis(500);
/// The clients go on for so long after the last fault.
const EPILOGUE: Duration = Duration::from_secs(2);
/// How far off keys may expire when no clock is put off: a failover may come between.
const EXPIRY_SLACK: Duration = Duration::from_millis(100);

/// Runs it on a cluster that serves, and writes the report. The cluster is let go before the history
/// is checked.
pub fn run(options: &RunOptions, subject: Arc<dyn Subject>) -> anyhow::Result<Report> {
    std::fs::create_dir_all(&options.report)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let report = runtime.block_on(work(options, subject))?;
    report.write(&options.report)?;
    Ok(report)
}

async fn work(options: &RunOptions, cluster: Arc<dyn Subject>) -> anyhow::Result<Report> {
    let epoch = Instant::now();
    let epoch_unix_ms = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as i64;
    let mut work = options.workload.clone();
    work.scripts = runs_scripts(cluster.as_ref()).await?;
    let workload = Workload::start(cluster.clone(), work, epoch);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let nemesis = Nemesis::start(cluster.clone(), options.plan.clone(), epoch)?;

    let mut held: BTreeMap<u64, u64> = BTreeMap::new();
    let mut next_line = Instant::now() + Duration::from_secs(10);
    while epoch.elapsed() < options.length {
        tokio::time::sleep(SAMPLE).await;
        let second = epoch.elapsed().as_secs();
        let now_held = {
            let cluster = cluster.clone();
            tokio::task::spawn_blocking(move || cluster.held_requests()).await?
        };
        let most = held.entry(second).or_default();
        *most = now_held.max(*most);
        if Instant::now() > next_line {
            next_line += Duration::from_secs(10);
            eprintln!(
                "chaos: {:>4.0} s, {} operations, {} faults, {} crashes",
                epoch.elapsed().as_secs_f64(),
                workload.done(),
                nemesis.count(),
                cluster.deaths().len(),
            );
        }
    }
    let (episodes, ailment) = tokio::task::spawn_blocking(move || nemesis.finish()).await?;
    tokio::time::sleep(EPILOGUE).await;
    let (mut recording, objects) = workload.finish().await;
    let end = epoch.elapsed();
    let scan = final_scan(cluster.as_ref(), &objects, epoch).await;
    let mut troubles: Vec<String> = ailment.into_iter().collect();
    match scan {
        Ok(scan) => recording.extend(scan),
        Err(error) => troubles.push(format!("the final scan failed: {error:#}")),
    }
    let events = {
        let cluster = cluster.clone();
        tokio::task::spawn_blocking(move || cluster.events()).await?
    };
    let events = events.context("the cluster's events")?.into_iter();
    let marks = events.map(|event| Mark {
        at: (event.unix_ms - epoch_unix_ms) * 1_000_000,
        kind: event.kind,
        text: event.text,
    });
    let marks = marks.collect();
    let crash = |death: Death| Crash {
        at: death.at.saturating_duration_since(epoch).as_nanos() as u64,
        process: death.name,
        text: format!("{}\n{}", death.status, death.last_words),
    };
    let crashes = cluster.deaths().into_iter().map(crash).collect();
    tokio::task::spawn_blocking(move || drop(cluster)).await?;
    let options = options.clone();
    tokio::task::spawn_blocking(move || {
        judge(&options, recording, (episodes, troubles, crashes), marks, end, &held)
    })
    .await?
}

fn judge(
    options: &RunOptions,
    recording: Recording,
    (episodes, mut troubles, crashes): (Vec<Episode>, Vec<String>, Vec<Crash>),
    marks: Vec<Mark>,
    end: Duration,
    held: &BTreeMap<u64, u64>,
) -> anyhow::Result<Report> {
    if options.keep_history {
        let path = options.report.join("history.jsonl");
        let file = std::io::BufWriter::new(std::fs::File::create(path)?);
        check::history::write(file, &recording.operations)?;
    }
    let turns_clocks = options.plan.kinds.iter().any(|kind| {
        use crate::nemesis::FaultKind;
        matches!(kind, FaultKind::ClockOffset | FaultKind::ClockRate)
    });
    let off = if turns_clocks { options.plan.clock_offset_ms } else { 0 };
    let limits =
        Limits { expiry_slack: EXPIRY_SLACK + Duration::from_millis(off), ..Limits::default() };
    let verdict = check::check(&recording.operations, &limits);
    let end_ns = end.as_nanos() as u64;
    let mut timeline = report::seconds(&recording.operations, end_ns);
    for (second, count) in held {
        if let Some(second) = timeline.get_mut(*second as usize) {
            second.held = *count;
        }
    }
    let mut excused: BTreeMap<String, usize> = BTreeMap::new();
    let mut errors: Vec<Incident> = Vec::new();
    for incident in recording.incidents {
        if let Some(second) = timeline.get_mut((incident.at / 1_000_000_000) as usize) {
            second.errors += 1;
        }
        match report::excuse(&incident, &episodes) {
            Some(reason) => *excused.entry(reason.to_owned()).or_default() += 1,
            None => errors.push(incident),
        }
    }
    for episode in &episodes {
        if let Some(trouble) = &episode.trouble {
            let at = episode.start as f64 / 1e9;
            troubles.push(format!("{} at {at:.1} s: {trouble}", episode.kind));
        }
    }
    Ok(Report {
        title: options.title.clone(),
        command: options.command.clone(),
        seed: options.plan.seed,
        seconds: end.as_secs_f64(),
        numbers: report::numbers(&recording.operations, end_ns),
        verdict,
        episodes,
        errors,
        excused,
        crashes,
        troubles,
        marks,
        timeline,
        strict: options.strict,
    })
}

/// Whether EVAL works.
async fn runs_scripts(endpoint: &dyn Endpoint) -> anyhow::Result<bool> {
    let (mut connection, _) = endpoint.connect(0).await?;
    Ok(connection.call(&["EVAL", "return 1", "0"]).await?.as_integer() == Some(1))
}
