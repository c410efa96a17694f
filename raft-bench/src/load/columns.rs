//! What is told of each run and of each second: a name and a value, once for every way of showing them.

use super::{Report, Run, Second};

/// One run of a report; the first is 1.
pub(super) struct Row<'a> {
    pub(super) report: &'a Report,
    pub(super) number: usize,
    pub(super) run: &'a Run,
}

/// A name, and the value of a run under it.
pub(super) type OfRun = (&'static str, fn(&Row<'_>) -> String);

/// A name, and the value of a second under it.
pub(super) type OfSecond = (&'static str, fn(&Second) -> String);

/// All runs, in order.
pub(super) fn rows<'a>(reports: impl IntoIterator<Item = &'a Report>) -> impl Iterator<Item = Row<'a>> {
    let of =
        |report: &'a Report| (1..).zip(&report.runs).map(move |(number, run)| Row { report, number, run });
    reports.into_iter().flat_map(of)
}

/// What was not measured.
fn or_dash<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), show)
}

fn or_empty<T: ToString>(value: Option<T>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

/// For people: rounded, latencies in microseconds.
pub(super) const SHOWN: [OfRun; 16] = [
    ("subject", |row| row.report.subject.clone()),
    ("run", |row| row.number.to_string()),
    ("ops/s", |row| format!("{:.0}", row.run.operations_per_second)),
    ("p50 us", |row| format!("{:.0}", row.run.latency_us.p50)),
    ("p90 us", |row| format!("{:.0}", row.run.latency_us.p90)),
    ("p99 us", |row| format!("{:.0}", row.run.latency_us.p99)),
    ("p99.9 us", |row| format!("{:.0}", row.run.latency_us.p99_9)),
    ("p99.99 us", |row| format!("{:.0}", row.run.latency_us.p99_99)),
    ("max us", |row| format!("{:.0}", row.run.latency_us.max)),
    ("cpu us/op", |row| or_dash(row.run.cpu_us_per_operation, |cpu| format!("{cpu:.2}"))),
    ("MB", |row| or_dash(row.run.peak_resident_bytes, |bytes| format!("{:.0}", bytes as f64 / 1e6))),
    ("written B/op", |row| or_dash(row.run.written_bytes_per_operation, |bytes| format!("{bytes:.0}"))),
    ("sent B/op", |row| or_dash(row.run.sent_bytes_per_operation, |bytes| format!("{bytes:.0}"))),
    ("refused", |row| row.run.refused.to_string()),
    ("unknown", |row| row.run.unknown.to_string()),
    ("not sent", |row| row.run.not_sent.to_string()),
];

/// For programs: whole, and nothing where nothing was measured.
pub(super) const OF_RUN: [OfRun; 23] = [
    ("subject", |row| row.report.subject.clone()),
    ("nodes", |row| row.report.nodes.to_string()),
    ("pace", |row| row.report.pace.clone()),
    ("payload_bytes", |row| row.report.payload_bytes.to_string()),
    ("run", |row| row.number.to_string()),
    ("began_unix_ms", |row| row.run.began_unix_ms.to_string()),
    ("operations", |row| row.run.operations.to_string()),
    ("operations_per_second", |row| row.run.operations_per_second.to_string()),
    ("refused", |row| row.run.refused.to_string()),
    ("unknown", |row| row.run.unknown.to_string()),
    ("not_sent", |row| row.run.not_sent.to_string()),
    ("min_us", |row| row.run.latency_us.min.to_string()),
    ("mean_us", |row| row.run.latency_us.mean.to_string()),
    ("p50_us", |row| row.run.latency_us.p50.to_string()),
    ("p90_us", |row| row.run.latency_us.p90.to_string()),
    ("p99_us", |row| row.run.latency_us.p99.to_string()),
    ("p99_9_us", |row| row.run.latency_us.p99_9.to_string()),
    ("p99_99_us", |row| row.run.latency_us.p99_99.to_string()),
    ("max_us", |row| row.run.latency_us.max.to_string()),
    ("cpu_us_per_operation", |row| or_empty(row.run.cpu_us_per_operation)),
    ("peak_resident_bytes", |row| or_empty(row.run.peak_resident_bytes)),
    ("written_bytes_per_operation", |row| or_empty(row.run.written_bytes_per_operation)),
    ("sent_bytes_per_operation", |row| or_empty(row.run.sent_bytes_per_operation)),
];

/// What [`OF_RUN`] tells of the run itself, before any result.
pub(super) const RUN_NAMES: usize = 5;

/// Second by second, behind the first [`RUN_NAMES`] of [`OF_RUN`].
pub(super) const OF_SECOND: [OfSecond; 8] = [
    ("at_seconds", |second| second.at_seconds.to_string()),
    ("operations_per_second", |second| second.operations_per_second.to_string()),
    ("p50_us", |second| second.p50_us.to_string()),
    ("p99_us", |second| second.p99_us.to_string()),
    ("max_us", |second| second.max_us.to_string()),
    ("refused", |second| second.refused.to_string()),
    ("unknown", |second| second.unknown.to_string()),
    ("resident_bytes", |second| or_empty(second.resident_bytes)),
];
