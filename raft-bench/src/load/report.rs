//! Results, as they are kept in files.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Settings;
use super::recorder::{Percentiles, Shard};
use crate::backend::Failure;
use crate::floor::Floor;
use crate::numbers::micros;

/// The format of the files; another number is another format.
const FORMAT: u32 = 1;

/// All that one file holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reports {
    /// The file's format.
    pub format: u32,
    /// One for each thing that was loaded.
    pub reports: Vec<Report>,
}

impl Default for Reports {
    fn default() -> Self {
        Self { format: FORMAT, reports: Vec::new() }
    }
}

impl Reports {
    /// Reads a file.
    ///
    /// # Errors
    /// Where it cannot be read, or holds something else.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let about = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let text = fs::read(path).map_err(|error| about(&error))?;
        let reports: Self = serde_json::from_slice(&text)
            .map_err(|error| about(&format!("not the results of a load: {error}")))?;
        if reports.format != FORMAT {
            return Err(about(&format!("format {} is not known", reports.format)).into());
        }
        Ok(reports)
    }

    /// Writes a file. With `append`, the runs are added to those that the file holds of the same things.
    ///
    /// # Errors
    /// Where it cannot be written, or with `append` not be read.
    pub fn write(&self, path: &Path, append: bool) -> Result<(), Failure> {
        let mut all = if append && path.exists() { Self::read(path)? } else { Self::default() };
        for report in &self.reports {
            match all.reports.iter_mut().find(|kept| kept.is_like(report)) {
                Some(kept) => kept.runs.extend(report.runs.iter().cloned()),
                None => all.reports.push(report.clone()),
            }
        }
        let text = serde_json::to_vec_pretty(&all)?;
        fs::write(path, text).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
        Ok(())
    }
}

/// One thing under one load, once or several times.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What was loaded, such as `quic+redb`.
    pub subject: String,
    /// How many nodes; 0 where it is not known.
    pub nodes: usize,
    /// How operations came.
    pub pace: String,
    /// The size of a command.
    pub payload_bytes: usize,
    /// What was done before it counted.
    pub warm_up_seconds: f64,
    /// What counted, a run.
    pub seconds: f64,
    /// The machine.
    pub floor: Option<FloorReport>,
    /// No result of its kind can be above it, in operations a second, and what sets it; of a closed loop.
    pub limit: Option<(f64, String)>,
    /// The repeats, in the order in which they were made.
    pub runs: Vec<Run>,
}

impl Report {
    /// Without runs yet, and without what is known of the machine.
    pub fn new(subject: impl Into<String>, nodes: usize, settings: &Settings) -> Self {
        Self {
            subject: subject.into(),
            nodes,
            pace: settings.pace.name(),
            payload_bytes: settings.payload_bytes,
            warm_up_seconds: settings.warm_up.as_secs_f64(),
            seconds: settings.measure.as_secs_f64(),
            floor: None,
            limit: None,
            runs: Vec::new(),
        }
    }

    /// Whether it is about the same thing under the same load for as long.
    pub fn is_like(&self, other: &Self) -> bool {
        self.is_of_same_load(other) && self.took_as_long(other)
    }

    /// Whether it is about the same thing under the same load, for however long.
    pub fn is_of_same_load(&self, other: &Self) -> bool {
        self.subject == other.subject
            && self.nodes == other.nodes
            && self.pace == other.pace
            && self.payload_bytes == other.payload_bytes
    }

    /// Whether warm-up and measurement were as long.
    pub fn took_as_long(&self, other: &Self) -> bool {
        // A file may round the last digit.
        let same = |a: f64, b: f64| (a - b).abs() < 1e-6;
        same(self.seconds, other.seconds) && same(self.warm_up_seconds, other.warm_up_seconds)
    }

    /// What it is about, in a line.
    pub fn title(&self) -> String {
        format!("{}, {}", self.subject, self.load())
    }

    /// What it bore.
    pub fn load(&self) -> String {
        let nodes = match self.nodes {
            0 => String::new(),
            1 => "1 node, ".to_owned(),
            many => format!("{many} nodes, "),
        };
        format!("{nodes}{} B, {}", self.payload_bytes, self.pace)
    }

    /// What must be known to read its runs, a line each.
    pub fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        let mut rates: Vec<f64> = self.runs.iter().map(|run| run.operations_per_second).collect();
        rates.sort_by(f64::total_cmp);
        if let (Some((limit, by)), Some(rate)) = (&self.limit, rates.get(rates.len() / 2)) {
            let times = limit / rate.max(f64::MIN_POSITIVE);
            remarks.push(format!(
                "{}: at most {limit:.0} ops/s by {by}, {times:.2} times what was reached",
                self.subject
            ));
        }
        let mut used: Vec<f64> = self.runs.iter().filter_map(Run::processors_used).collect();
        used.sort_by(f64::total_cmp);
        if let (Some(floor), Some(used)) = (&self.floor, used.get(used.len() / 2)) {
            let (busy, of) = (used / floor.processors as f64 * 100.0, floor.processors);
            remarks.push(format!("{}: busy {busy:.0} % of {of} processors", self.subject));
        }
        for (number, run) in (1..).zip(&self.runs) {
            let about = |what: String| format!("{}, run {number}: {what}", self.subject);
            if run.not_sent > 0 {
                remarks.push(about(format!(
                    "{} were due and not sent, for too many were under way or the generator could not keep up; \
                     they are in no percentile",
                    run.not_sent
                )));
            }
            if run.processes_ended > 0 {
                remarks.push(about(format!(
                    "{} of the processes ended meanwhile; what was taken until then is counted",
                    run.processes_ended
                )));
            }
        }
        remarks
    }
}

/// The floor, in microseconds and megabytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct FloorReport {
    pub hop_us: f64,
    pub tcp_round_trip_us: f64,
    pub sync_us_by_writers: Vec<(usize, f64)>,
    pub disk_megabytes_per_second: f64,
    pub processors: usize,
}

impl From<&Floor> for FloorReport {
    fn from(floor: &Floor) -> Self {
        Self {
            hop_us: micros(floor.hop),
            tcp_round_trip_us: micros(floor.round_trip),
            sync_us_by_writers: floor.sync.iter().map(|&(n, taken)| (n, micros(taken))).collect(),
            disk_megabytes_per_second: floor.disk_bytes_per_second / 1e6,
            processors: floor.processors,
        }
    }
}

/// One run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// When it began, in milliseconds since 1970.
    pub began_unix_ms: u64,
    /// Operations carried out that were due in the time that counted.
    pub operations: u64,
    /// Of those, what was carried out within that time, a second.
    pub operations_per_second: f64,
    /// Surely not carried out.
    pub refused: u64,
    /// Nobody knows: such as timed out.
    pub unknown: u64,
    /// Due, but not sent, because too many were under way, or the generator could not keep up.
    pub not_sent: u64,
    /// In microseconds; in the open loop from when an operation was due. Of what was carried out, and of what ended with its outcome unknown:
    /// that took at least so long.
    pub latency_us: Percentiles,
    /// Share of operations, and the latency in microseconds that they ended within.
    pub curve: Vec<(f64, f64)>,
    /// Processor time of nodes and, where they are in one process, clients. This and the next two where processes were watched.
    pub cpu_us_per_operation: Option<f64>,
    /// The most memory that was resident at a second's end.
    pub peak_resident_bytes: Option<u64>,
    /// To devices.
    pub written_bytes_per_operation: Option<f64>,
    /// Between nodes, as the wire format has it, where it is counted.
    pub sent_bytes_per_operation: Option<f64>,
    /// Watched processes that ended before the run did.
    #[serde(default)]
    pub processes_ended: usize,
    /// Second by second.
    pub series: Vec<Second>,
}

impl Run {
    /// How many processors were busy with it, on average, where processes were watched.
    fn processors_used(&self) -> Option<f64> {
        Some(self.cpu_us_per_operation? / 1e6 * self.operations_per_second)
    }

    /// All that were to be carried out.
    pub fn offered(&self) -> u64 {
        self.operations + self.refused + self.unknown + self.not_sent
    }
}

/// About one second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Second {
    /// Its end, counted from the end of the warm-up.
    pub at_seconds: f64,
    pub operations_per_second: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub max_us: f64,
    pub refused: u64,
    pub unknown: u64,
    pub resident_bytes: Option<u64>,
}

impl Second {
    pub(super) fn new(at_seconds: f64, taken: Duration, shard: &Shard, resident_bytes: Option<u64>) -> Self {
        let latency = shard.percentiles();
        Self {
            at_seconds,
            operations_per_second: shard.done() as f64 / taken.as_secs_f64(),
            p50_us: latency.p50,
            p99_us: latency.p99,
            max_us: latency.max,
            refused: shard.refused,
            unknown: shard.unknown,
            resident_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_to_the_limit_and_busy_processors_are_told_apart() {
        let run = |cpu_us| Run {
            operations_per_second: 10_000.0,
            cpu_us_per_operation: Some(cpu_us),
            ..Run::default()
        };
        let floor = FloorReport {
            hop_us: 1.0,
            tcp_round_trip_us: 1.0,
            sync_us_by_writers: Vec::new(),
            disk_megabytes_per_second: 1.0,
            processors: 2,
        };
        let (floor, limit) = (Some(floor), Some((50_000.0, "latency".to_owned())));
        let report = Report { floor, limit, ..Report::new("it", 3, &Settings::SMALL) };
        let told = |cpu_us| Report { runs: vec![run(cpu_us)], ..report.clone() }.remarks();
        let distance = "it: at most 50000 ops/s by latency, 5.00 times what was reached";
        // Twice the work for each operation is no better result.
        assert_eq!(told(50.0), [distance, "it: busy 25 % of 2 processors"]);
        assert_eq!(told(100.0), [distance, "it: busy 50 % of 2 processors"]);
    }
}
