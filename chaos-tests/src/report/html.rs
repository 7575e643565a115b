//! The report as one HTML file: nothing to load, nothing to run.

use super::timeline::longest_during;
use super::{Report, Second};
use crate::nemesis::Episode;
use std::fmt::Write;

const WIDTH: f64 = 1200.0;
const LEFT: f64 = 70.0;
const CHART: f64 = 130.0;
const LANES: [&str; 4] = ["nodes", "sentinels", "proxies", "machine"];

const STYLE: &str = "body{font:14px/1.45 system-ui,sans-serif;margin:24px auto;max-width:1240px;\
padding:0 16px;color:#1c2430;background:#fff}h1{font-size:22px;margin:0 0 4px}h2{font-size:16px;\
margin:28px 0 8px}.ok{color:#0a7a3d}.bad{color:#b3261e}code,pre{font:12px/1.4 ui-monospace,monospace;\
background:#f3f5f8;padding:2px 5px;border-radius:4px}pre{padding:10px;overflow:auto;white-space:pre-wrap}\
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:3px 10px 3px 0;\
border-bottom:1px solid #e3e7ee;vertical-align:top}th{font-weight:600}td.n{text-align:right}\
svg{width:100%;height:auto}svg text{font:11px system-ui,sans-serif;fill:#55606f}\
.tiles{display:flex;flex-wrap:wrap;gap:10px;margin:14px 0}.tile{border:1px solid #dde2ea;border-radius:8px;\
padding:8px 14px}.tile b{display:block;font-size:18px}";

pub(super) fn page(report: &Report) -> String {
    let mut out = String::new();
    let (class, word) = if report.is_fine() { ("ok", "held") } else { ("bad", "BROKEN") };
    let _ = write!(
        out,
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title>\
         <style>{STYLE}</style><h1>{title}: <span class=\"{class}\">{word}</span></h1>\
         <p>{totals}</p><p>Again: <code>{command}</code></p>",
        title = escape(&report.title),
        totals = escape(&report.totals()),
        command = escape(&report.command),
    );
    tiles(&mut out, report);
    verdicts(&mut out, report);
    out.push_str("<h2>Timeline</h2>");
    timeline(&mut out, report);
    episodes(&mut out, report);
    marks(&mut out, report);
    out.push_str("</html>\n");
    out
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn tiles(out: &mut String, report: &Report) {
    let numbers = &report.numbers;
    let tiles = [
        ("operations", numbers.operations.to_string()),
        ("per second", format!("{:.0}", numbers.per_second)),
        ("median", format!("{:.2} ms", numbers.median_ms)),
        ("p99", format!("{:.1} ms", numbers.p99_ms)),
        ("p99.9", format!("{:.1} ms", numbers.p999_ms)),
        ("longest wait of a command", format!("{:.0} ms", numbers.longest_ms)),
        ("longest silence of all", format!("{:.0} ms", numbers.longest_silence_ms)),
        ("faults", report.episodes.len().to_string()),
        ("failovers", report.failovers().to_string()),
    ];
    out.push_str("<div class=\"tiles\">");
    for (name, value) in tiles {
        let _ = write!(out, "<div class=\"tile\">{name}<b>{value}</b></div>");
    }
    out.push_str("</div>");
}

fn verdicts(out: &mut String, report: &Report) {
    out.push_str("<h2>Verdicts</h2><table><tr><th>what</th><th>result</th></tr>");
    let mut row = |name: &str, bad: usize, text: String| {
        let class = if bad == 0 { "ok" } else { "bad" };
        let _ = write!(out, "<tr><td>{name}</td><td class=\"{class}\">{}</td></tr>", escape(&text));
    };
    let verdict = &report.verdict;
    let objects: Vec<String> =
        verdict.objects.iter().map(|(model, count)| format!("{count} {model}")).collect();
    row("checkers", verdict.faults.len(), verdict.totals());
    row("objects checked", 0, objects.join(", "));
    row(
        "client errors outside the windows in which a majority was down",
        report.errors.len(),
        report.errors.len().to_string(),
    );
    for (reason, count) in &report.excused {
        row("client errors that had to be", 0, format!("{count}: {reason}"));
    }
    row("processes that ended by themselves", report.crashes.len(), {
        let names: Vec<&str> = report.crashes.iter().map(|crash| crash.process.as_str()).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    });
    row("health after each fault and at the end", report.troubles.len(), {
        let troubles = report.troubles.join("; ");
        if troubles.is_empty() { "full".to_owned() } else { troubles }
    });
    out.push_str("</table>");
    for fault in verdict.faults.iter().take(50) {
        let _ = write!(
            out,
            "<h2 class=\"bad\">{:?}: {}</h2><p>{}</p><pre>{}</pre>",
            fault.kind,
            escape(&fault.key),
            escape(&fault.text),
            escape(&fault.evidence.join("\n")),
        );
    }
    if verdict.faults.len() > 50 {
        let _ = write!(out, "<p>… and {} more, see report.json.</p>", verdict.faults.len() - 50);
    }
    let mut details = String::new();
    for incident in report.errors.iter().take(50) {
        let _ = writeln!(
            details,
            "{:>9.3} s  client {} via {}: {:?}: {}",
            incident.at as f64 / 1e9,
            incident.client,
            incident.via,
            incident.kind,
            incident.text,
        );
    }
    for crash in &report.crashes {
        let at = crash.at as f64 / 1e9;
        let _ = writeln!(details, "{at:>9.3} s  {} ended: {}", crash.process, crash.text);
    }
    if !details.is_empty() {
        let _ = write!(out, "<h2 class=\"bad\">Errors</h2><pre>{}</pre>", escape(&details));
    }
}

/// Charts one below the other over the same axis of time.
fn timeline(out: &mut String, report: &Report) {
    let length = report.timeline.len().max(1) as f64;
    let x = |ns: f64| LEFT + (ns / 1e9 / length).clamp(0.0, 1.0) * (WIDTH - LEFT - 10.0);
    let lanes_top = 3.0 * (CHART + 30.0);
    let height = lanes_top + LANES.len() as f64 * 22.0 + 40.0;
    let _ = write!(out, "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">");
    for episode in &report.episodes {
        let (from, to) = (x(episode.start as f64), x(episode.end as f64));
        let colour = if episode.majority { "#b3261e" } else { "#9aa7bd" };
        let _ = write!(
            out,
            "<rect x=\"{from:.1}\" y=\"0\" width=\"{:.1}\" height=\"{lanes_top}\" fill=\"{colour}\" opacity=\"0.13\"/>",
            (to - from).max(1.0),
        );
    }
    let series = &report.timeline;
    let throughput: Vec<f64> = series.iter().map(|second| second.operations as f64).collect();
    chart(out, 0, "operations/s", &[("#2563eb", &throughput)], false);
    let of = |value: fn(&Second) -> f64| -> Vec<f64> { series.iter().map(value).collect() };
    let latency = [
        ("#94a3b8", of(|second| second.median_ms)),
        ("#d97706", of(|second| second.p99_ms)),
        ("#dc2626", of(|second| second.longest_ms)),
    ];
    let latency: Vec<(&str, &[f64])> =
        latency.iter().map(|(colour, values)| (*colour, values.as_slice())).collect();
    chart(out, 1, "ms: median, p99, longest (log)", &latency, true);
    let (held, errors) = (of(|second| second.held as f64), of(|second| second.errors as f64));
    chart(
        out,
        2,
        "held requests; errors (red)",
        &[("#7c3aed", &held), ("#dc2626", &errors)],
        false,
    );
    for (index, lane) in LANES.iter().enumerate() {
        let y = lanes_top + index as f64 * 22.0;
        let _ = write!(out, "<text x=\"0\" y=\"{:.1}\">{lane}</text>", y + 13.0);
        for episode in report.episodes.iter().filter(|episode| episode.lane == *lane) {
            let (from, to) = (x(episode.start as f64), x(episode.end as f64));
            let _ = write!(
                out,
                "<rect x=\"{from:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"16\" rx=\"2\" fill=\"{}\"><title>{}</title></rect>",
                (to - from).max(2.0),
                colour(episode),
                escape(&describe(episode)),
            );
        }
    }
    let axis = lanes_top + LANES.len() as f64 * 22.0;
    for mark in report.marks.iter().filter(|mark| mark.kind.ends_with("failover") && mark.at >= 0) {
        let at = x(mark.at as f64);
        let _ = write!(
            out,
            "<path d=\"M{at:.1} 0V{axis:.1}\" stroke=\"#0f766e\" stroke-width=\"1\" stroke-dasharray=\"2 3\"><title>{}</title></path>",
            escape(&mark.text),
        );
    }
    for tick in 0..=10 {
        let seconds = length * f64::from(tick) / 10.0;
        let _ = write!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{seconds:.0} s</text>",
            x(seconds * 1e9),
            axis + 18.0,
        );
    }
    out.push_str(
        "</svg><p>Dashed lines are failovers, shaded times are faults (hover for details).</p>",
    );
}

fn chart(out: &mut String, row: usize, name: &str, series: &[(&str, &[f64])], log: bool) {
    let top = row as f64 * (CHART + 30.0) + 16.0;
    let scale = |value: f64| if log { (value.max(0.05) / 0.05).log10() } else { value };
    let most = series.iter().flat_map(|(_, values)| values.iter()).copied().fold(0.0, f64::max);
    let limit = scale(most).max(1e-9);
    let _ = write!(
        out,
        "<text x=\"{LEFT}\" y=\"{:.1}\">{name}</text><text x=\"0\" y=\"{:.1}\">{most:.0}</text>\
         <path d=\"M{LEFT} {bottom:.1}H{WIDTH}\" stroke=\"#cbd2dd\"/>",
        top - 4.0,
        top + 8.0,
        bottom = top + CHART,
    );
    for (colour, values) in series {
        let step = (WIDTH - LEFT - 10.0) / values.len().max(1) as f64;
        let mut path = String::new();
        for (index, value) in values.iter().enumerate() {
            let x = LEFT + (index as f64 + 0.5) * step;
            let y = top + CHART - scale(*value) / limit * CHART;
            let _ = write!(path, "{}{x:.1} {y:.1}", if index == 0 { 'M' } else { 'L' });
        }
        let _ = write!(
            out,
            "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.3\"/>"
        );
    }
}

fn colour(episode: &Episode) -> &'static str {
    if episode.trouble.is_some() {
        return "#b3261e";
    }
    match episode.lane {
        "nodes" => "#2563eb",
        "sentinels" => "#0f766e",
        "proxies" => "#d97706",
        _ => "#64748b",
    }
}

fn describe(episode: &Episode) -> String {
    let targets = episode.targets.join(", ");
    format!("{} {targets} {}", episode.kind, episode.detail).trim().to_owned()
}

fn episodes(out: &mut String, report: &Report) {
    let mut counts = std::collections::BTreeMap::new();
    for episode in &report.episodes {
        *counts.entry(episode.kind).or_insert(0) += 1;
    }
    let counts: Vec<String> =
        counts.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let _ = write!(out, "<h2>Faults</h2><p>{}</p>", escape(&counts.join(", ")));
    out.push_str(
        "<table><tr><th>from</th><th>for</th><th>what</th><th>healthy after</th>\
         <th>longest wait</th><th></th></tr>",
    );
    for episode in &report.episodes {
        let healthy = episode.healthy.map_or_else(String::new, |healthy| {
            format!("{:.1} s", healthy.saturating_sub(episode.end) as f64 / 1e9)
        });
        let until = episode.healthy.unwrap_or(episode.end);
        let _ = write!(
            out,
            "<tr><td>{:.1} s</td><td>{:.1} s</td><td>{}</td><td>{healthy}</td><td>{:.0} ms</td><td class=\"bad\">{}</td></tr>",
            episode.start as f64 / 1e9,
            episode.end.saturating_sub(episode.start) as f64 / 1e9,
            escape(&describe(episode)),
            longest_during(&report.timeline, episode.start, until),
            escape(episode.trouble.as_deref().unwrap_or_default()),
        );
    }
    out.push_str("</table>");
}

fn marks(out: &mut String, report: &Report) {
    out.push_str("<h2>Events of the cluster</h2><table>");
    for mark in report.marks.iter().filter(|mark| mark.at >= 0) {
        let _ = write!(
            out,
            "<tr><td>{:.3} s</td><td>{}</td><td>{}</td></tr>",
            mark.at as f64 / 1e9,
            escape(&mark.kind),
            escape(&mark.text),
        );
    }
    out.push_str("</table>");
}
