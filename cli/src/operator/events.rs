//! `holdfast events`.

use crate::cluster::ClusterArgs;
use comfy_table::Table;
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;

#[derive(clap::Args)]
pub(crate) struct EventsArgs {
    /// Show the newest so many.
    #[arg(long, short = 'n', default_value_t = 30)]
    last: usize,
}

#[allow(clippy::print_stdout, reason = "the command's output")]
pub(super) async fn run(args: &EventsArgs, cluster: &ClusterArgs) -> anyhow::Result<()> {
    let events = cluster.access()?.events_after(0).await?;
    let newest = &events[events.len().saturating_sub(args.last)..];
    if cluster.json {
        for event in newest {
            let mut value = serde_json::json!({
                "id": event.id,
                "time_ms": event.time_ms,
                "kind": event.kind,
                "shard": event.shard,
                "node": event.node,
                "text": event.text,
            });
            if let Some(report) = &event.failover {
                value["failover"] = serde_json::json!({
                    "old_node": report.old_node,
                    "new_node": report.new_node,
                    "term": report.term,
                    "planned": report.planned,
                    "detected_ms": report.detected_ms,
                    "elected_ms": report.elected_ms,
                    "first_reply_ms": report.first_reply_ms,
                    "requests_held": report.requests_held,
                    "requests_retried": report.requests_retried,
                    "requests_failed": report.requests_failed,
                });
            }
            println!("{value}");
        }
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY).set_header(["time (UTC)", "event", "what happened"]);
    for event in newest {
        table.add_row([time_of_day(event.time_ms), event.kind.clone(), event.text.clone()]);
    }
    println!("{table}");
    Ok(())
}

/// `day hh:mm:ss.mmm` since the epoch's days: enough to order events of a few days.
fn time_of_day(time_ms: u64) -> String {
    let (date, rest) = (time_ms / 86_400_000, time_ms % 86_400_000);
    let (year, month, day) = civil_from_days(date as i64);
    let (hours, minutes) = (rest / 3_600_000, rest / 60_000 % 60);
    let (seconds, millis) = (rest / 1000 % 60, rest % 1000);
    format!("{year:04}-{month:02}-{day:02} {hours:02}:{minutes:02}:{seconds:02}.{millis:03}")
}

/// Howard Hinnant's `civil_from_days`.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::time_of_day;

    #[test]
    fn times() {
        assert_eq!(time_of_day(0), "1970-01-01 00:00:00.000");
        assert_eq!(time_of_day(1_709_210_096_789), "2024-02-29 12:34:56.789");
    }
}
