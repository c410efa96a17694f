//! What changed between two files of results, beyond the noise that their own repeats show.
//!
//! Repeats that alternate (first, second, first, second) are compared pair by pair: what the machine's neighbours do for a while then
//! hits both. Else all of one are held against all of the other, and a drift of the machine counts as noise or, worse, as a
//! change.

use comfy_table::{CellAlignment, Table, presets};

use crate::load::{Report, Reports, Run};

/// Several metrics are judged at once, so each must be this sure.
const CONFIDENCE_PERCENT: u32 = 99;

/// The quantiles of Student's distribution, two-sided, for [`CONFIDENCE_PERCENT`], for 1, 2, .. degrees of freedom.
const STUDENT: [f64; 30] = [
    63.657, 9.925, 5.841, 4.604, 4.032, 3.707, 3.499, 3.355, 3.250, 3.169, 3.106, 3.055, 3.012, 2.977, 2.947,
    2.921, 2.898, 2.878, 2.861, 2.845, 2.831, 2.819, 2.807, 2.797, 2.787, 2.779, 2.771, 2.763, 2.756, 2.750,
];

fn student(degrees: usize) -> f64 {
    let known = |at: usize| STUDENT.get(at).or(STUDENT.last()).copied();
    degrees.checked_sub(1).and_then(known).unwrap_or(f64::INFINITY)
}

/// What is compared of a run.
struct Metric {
    name: &'static str,
    kind: Kind,
    of: fn(&Run) -> Option<f64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A rate: twice as much is as good as half of it is bad.
    MoreIsBetter,
    /// A cost, likewise.
    LessIsBetter,
    /// Percent of what was offered that were not carried out: none, as a rule, so they have a difference and no ratio.
    Failures,
}

const METRICS: [Metric; 11] = [
    Metric { name: "ops/s", kind: Kind::MoreIsBetter, of: |run| Some(run.operations_per_second) },
    Metric { name: "p50 us", kind: Kind::LessIsBetter, of: |run| Some(run.latency_us.p50) },
    Metric { name: "p99 us", kind: Kind::LessIsBetter, of: |run| Some(run.latency_us.p99) },
    Metric { name: "p99.9 us", kind: Kind::LessIsBetter, of: |run| Some(run.latency_us.p99_9) },
    Metric { name: "cpu us/op", kind: Kind::LessIsBetter, of: |run| run.cpu_us_per_operation },
    Metric { name: "MB", kind: Kind::LessIsBetter, of: |run| Some(run.peak_resident_bytes? as f64 / 1e6) },
    Metric { name: "written B/op", kind: Kind::LessIsBetter, of: |run| run.written_bytes_per_operation },
    Metric { name: "sent B/op", kind: Kind::LessIsBetter, of: |run| run.sent_bytes_per_operation },
    Metric { name: "% refused", kind: Kind::Failures, of: |run| Some(percent_offered(run, run.refused)) },
    Metric { name: "% unknown", kind: Kind::Failures, of: |run| Some(percent_offered(run, run.unknown)) },
    Metric { name: "% not sent", kind: Kind::Failures, of: |run| Some(percent_offered(run, run.not_sent)) },
];

fn percent_offered(run: &Run, count: u64) -> f64 {
    count as f64 * 100.0 / run.offered().max(1) as f64
}

/// The values of a metric in the runs of both.
enum Values {
    /// In each run of both.
    Both(Vec<f64>, Vec<f64>),
    /// Nothing of the kind in any run.
    Nothing,
    /// In some runs only.
    Some,
}

impl Metric {
    fn values(&self, first: &[Run], second: &[Run]) -> Values {
        let of =
            |runs: &[Run]| -> Vec<f64> { runs.iter().map(|run| (self.of)(run).unwrap_or(0.0)).collect() };
        let (a, b) = (of(first), of(second));
        let mut all = a.iter().chain(&b);
        if all.clone().all(|value| *value == 0.0) {
            Values::Nothing
        } else if self.kind == Kind::Failures || all.all(|value| *value > 0.0) {
            Values::Both(a, b)
        } else {
            Values::Some
        }
    }
}

/// What became of one metric.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// What was compared.
    pub subject: String,
    /// The metric's name.
    pub metric: &'static str,
    /// The medians.
    pub medians: (f64, f64),
    /// The second against the first, in percent; of failures the difference of their shares in percent of what was offered.
    pub percent: f64,
    /// So far apart two files of the same program may well be, likewise.
    pub noise_percent: f64,
    /// What it comes to.
    pub verdict: Verdict,
}

/// What a change comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Within the noise.
    Same,
    /// Beyond the noise, for the better.
    Better,
    /// Beyond the noise, for the worse, and within the limit.
    Worse,
    /// Beyond the noise and the limit, for the worse.
    TooBad,
}

impl Verdict {
    const fn name(self) -> &'static str {
        match self {
            Self::Same => "within the noise",
            Self::Better => "better",
            Self::Worse => "worse",
            Self::TooBad => "WORSE than the limit",
        }
    }
}

/// All that was compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// Metric by metric.
    pub changes: Vec<Change>,
    /// What the reader must know to believe it.
    pub remarks: Vec<String>,
}

impl Comparison {
    /// Whether something became worse beyond noise and limit.
    pub fn is_too_bad(&self) -> bool {
        self.changes.iter().any(|change| change.verdict == Verdict::TooBad)
    }

    /// For a terminal.
    pub fn table(&self) -> String {
        let mut table = Table::new();
        let head = ["subject", "metric", "first", "second", "change", "noise", "verdict"];
        table.load_preset(presets::NOTHING).set_header(head);
        for change in &self.changes {
            table.add_row([
                change.subject.clone(),
                change.metric.to_owned(),
                format!("{:.2}", change.medians.0),
                format!("{:.2}", change.medians.1),
                format!("{:+.1} %", change.percent),
                format!("{:.1} %", change.noise_percent),
                change.verdict.name().to_owned(),
            ]);
        }
        for column in table.column_iter_mut().skip(2).take(4) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let mut text = table.trim_fmt();
        for remark in &self.remarks {
            text += "\n";
            text += remark;
        }
        text
    }
}

/// Compares what both files are about. What is worse by more than `limit_percent`, and not by noise alone, is too bad.
///
/// # Errors
/// Where nothing can be told: they have nothing in common, were not measured for as long, have too few repeats to know the noise, or there
/// is a run in which nothing was carried out.
pub fn compare(first: &Reports, second: &Reports, limit_percent: f64) -> Result<Comparison, String> {
    let mut pairs: Vec<(&Report, &Report)> = Vec::new();
    let mut remarks = Vec::new();
    for report in &first.reports {
        if let Some(other) = second.reports.iter().find(|other| other.is_like(report)) {
            pairs.push((report, other));
        } else if let Some(other) = second.reports.iter().find(|other| other.is_of_same_load(report)) {
            return Err(not_as_long(report, other));
        } else {
            remarks.push(format!("{}: only in the first file", report.title()));
        }
    }
    for other in &second.reports {
        if !pairs.iter().any(|(_, paired)| std::ptr::eq(*paired, other)) {
            remarks.push(format!("{}: only in the second file", other.title()));
        }
    }
    if let ([one], [other], []) = (first.reports.as_slice(), second.reports.as_slice(), pairs.as_slice()) {
        if !one.took_as_long(other) {
            return Err(not_as_long(one, other));
        }
        pairs.push((one, other));
        remarks.clear();
    }
    if pairs.is_empty() {
        return Err("the files have nothing in common: no subject under the same load is in both".to_owned());
    }
    let mut comparison = Comparison { changes: Vec::new(), remarks };
    for (report, other) in pairs {
        let title = if report.is_like(other) {
            report.title()
        } else {
            format!("{} -> {}", report.title(), other.title())
        };
        let alternate = alternate(&report.runs, &other.runs);
        if report.runs.len() < 2 || other.runs.len() < 2 {
            return Err(format!(
                "{title}: at least two repeats of each are needed to know the noise, better five"
            ));
        }
        for (file, report) in [("first", report), ("second", other)] {
            for (number, run) in (1..).zip(&report.runs) {
                if run.operations_per_second <= 0.0 {
                    return Err(format!(
                        "{}: run {number} of the {file} file carried out nothing in its time, so it cannot be told what \
                         changed",
                        report.title()
                    ));
                }
            }
        }
        if !alternate {
            comparison.remarks.push(format!(
                "{title}: the repeats do not alternate, so a drift of the machine may pass for a change"
            ));
        }
        for metric in &METRICS {
            let (a, b) = match metric.values(&report.runs, &other.runs) {
                Values::Both(a, b) => (a, b),
                Values::Nothing => continue,
                Values::Some => {
                    let name = metric.name;
                    comparison
                        .remarks
                        .push(format!("{title}: {name} was not measured in each run, and is not judged"));
                    continue;
                }
            };
            let failures = metric.kind == Kind::Failures;
            let percent = |change: f64| if failures { change } else { change.exp_m1() * 100.0 };
            let scaled = |values: &[f64]| -> Vec<f64> {
                values.iter().map(|value| if failures { *value } else { value.ln() }).collect()
            };
            let judge = if alternate { paired } else { unpaired };
            let (change, noise) = judge(&scaled(&a), &scaled(&b));
            // As a share of the first for what grows, of the second for what shrinks: 100 -> 50 is as bad as 50 -> 100.
            let worse = if metric.kind == Kind::MoreIsBetter { -change } else { change };
            let verdict = if change.abs() <= noise {
                Verdict::Same
            } else if worse < 0.0 {
                Verdict::Better
            } else if percent(worse) > limit_percent {
                Verdict::TooBad
            } else {
                Verdict::Worse
            };
            comparison.changes.push(Change {
                subject: title.clone(),
                metric: metric.name,
                medians: (median(a), median(b)),
                percent: percent(change),
                noise_percent: percent(noise),
                verdict,
            });
        }
    }
    comparison.remarks.push(format!(
        "noise: two equal programs differ by less in {CONFIDENCE_PERCENT} of 100 comparisons; limit {limit_percent} %"
    ));
    Ok(comparison)
}

fn not_as_long(first: &Report, second: &Report) -> String {
    format!(
        "{}: {} s after a warm-up of {} s in the first file, {} s after {} s in the second: only runs that were as long can be \
         compared",
        first.title(),
        first.seconds,
        first.warm_up_seconds,
        second.seconds,
        second.warm_up_seconds
    )
}

/// Whether the runs were made in turn, so that each has its neighbour.
fn alternate(first: &[Run], second: &[Run]) -> bool {
    let began = |runs: &[Run]| runs.iter().map(|run| run.began_unix_ms).collect::<Vec<_>>();
    let (a, b) = (began(first), began(second));
    let in_turn = |a: &[u64], b: &[u64]| {
        a.iter().zip(b).all(|(a, b)| a < b) && b.iter().zip(a.iter().skip(1)).all(|(b, a)| b < a)
    };
    a.len() == b.len() && (in_turn(&a, &b) || in_turn(&b, &a))
}

/// The mean of the differences, and how far from zero it may be by chance.
fn paired(a: &[f64], b: &[f64]) -> (f64, f64) {
    let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| b - a).collect();
    let (mean, variance) = moments(&differences);
    let count = differences.len();
    (mean, student(count - 1) * (variance / count as f64).sqrt())
}

/// As [`paired`], without pairs: both are taken to have the same spread.
fn unpaired(a: &[f64], b: &[f64]) -> (f64, f64) {
    let ((mean_a, variance_a), (mean_b, variance_b)) = (moments(a), moments(b));
    let (count_a, count_b) = (a.len() as f64, b.len() as f64);
    let degrees = a.len() + b.len() - 2;
    let pooled = (variance_a * (count_a - 1.0) + variance_b * (count_b - 1.0)) / degrees as f64;
    (mean_b - mean_a, student(degrees) * (pooled * (1.0 / count_a + 1.0 / count_b)).sqrt())
}

/// Mean and variance.
fn moments(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    (mean, values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Settings;

    fn reports(rates: &[f64], began: impl Fn(u64) -> u64) -> Reports {
        let runs = (0..).zip(rates).map(|(number, &rate)| Run {
            began_unix_ms: began(number),
            operations_per_second: rate,
            ..Run::default()
        });
        let report = Report { runs: runs.collect(), ..Report::new("it", 3, &Settings::SMALL) };
        Reports { reports: vec![report], ..Reports::default() }
    }

    fn verdict(first: &Reports, second: &Reports, limit: f64) -> Verdict {
        let comparison = compare(first, second, limit).unwrap();
        // Metrics of which nothing was measured are left out.
        assert_eq!(comparison.changes.len(), 1);
        comparison.changes[0].verdict
    }

    #[test]
    fn a_drift_that_both_see_is_no_noise_where_repeats_alternate() {
        let rates = [100.0, 80.0, 60.0, 90.0, 70.0];
        let slower = rates.map(|rate| rate * 0.9 + rate * 0.01 * (rate % 3.0));
        let (first, second) = (reports(&rates, |n| 2 * n), reports(&slower, |n| 2 * n + 1));
        assert_eq!(verdict(&first, &second, 5.0), Verdict::TooBad);
        assert_eq!(verdict(&first, &second, 20.0), Verdict::Worse);
        assert_eq!(verdict(&second, &first, 5.0), Verdict::Better);
        // One after the other, the same numbers prove nothing.
        let later = reports(&slower, |n| 100 + n);
        assert_eq!(verdict(&first, &later, 5.0), Verdict::Same);
        let remarks = compare(&first, &later, 5.0).unwrap().remarks;
        assert!(remarks[0].contains("do not alternate"), "{remarks:?}");
    }

    #[test]
    fn noise_is_not_a_change_and_the_same_is_the_same() {
        let first = reports(&[100.0, 97.0, 104.0, 99.0, 101.0], |n| 2 * n);
        let second = reports(&[101.0, 99.0, 98.0, 103.0, 96.0], |n| 2 * n + 1);
        assert_eq!(verdict(&first, &second, 1.0), Verdict::Same);
        assert_eq!(verdict(&first, &first, 0.0), Verdict::Same);
        assert!(!compare(&first, &second, 1.0).unwrap().is_too_bad());
    }

    #[test]
    fn what_cannot_be_compared_is_an_error() {
        let (once, often) = (reports(&[1.0], |n| n), reports(&[1.0, 1.0], |n| n));
        assert!(compare(&once, &often, 5.0).unwrap_err().contains("two repeats"));
        let mut other = often.clone();
        other.reports[0].payload_bytes = 1;
        other.reports.push(other.reports[0].clone());
        assert!(compare(&often, &other, 5.0).unwrap_err().contains("nothing in common"));
    }

    #[test]
    fn a_run_that_carried_out_nothing_is_told_and_nothing_vanishes() {
        let (good, bad) = (reports(&[9.0, 9.0, 9.0], |n| n), reports(&[9.0, 0.0, 9.0], |n| n));
        let dead = reports(&[0.0, 0.0, 0.0], |n| n);
        for (first, second, told) in [
            (&good, &bad, "run 2 of the second file carried out nothing"),
            (&bad, &good, "run 2 of the first file"),
            (&good, &dead, "run 1 of the second file"),
            (&dead, &dead, "run 1 of the first file"),
        ] {
            let error = compare(first, second, 5.0).unwrap_err();
            assert!(error.contains(told), "{error}");
        }
        let mut once = good.clone();
        once.reports[0].runs[1].cpu_us_per_operation = Some(3.0);
        let comparison = compare(&once, &good, 5.0).unwrap();
        assert!(
            comparison.remarks.iter().any(|remark| remark.contains("cpu us/op was not measured in each run"))
        );
    }

    type Count = fn(&mut Run) -> &mut u64;

    /// Runs in turn, of 1000 operations offered each, and of those so many not carried out.
    fn failing(failed: [u64; 4], turn: u64, count: Count) -> Reports {
        let mut reports = reports(&[9.0; 4], |n| 2 * n + turn);
        for (run, failed) in reports.reports[0].runs.iter_mut().zip(failed) {
            run.operations = 1000 - failed;
            *count(run) = failed;
        }
        reports
    }

    #[test]
    fn more_failures_of_each_kind_are_worse() {
        let kinds: [(&str, Count); 3] = [
            ("% refused", |run| &mut run.refused),
            ("% unknown", |run| &mut run.unknown),
            ("% not sent", |run| &mut run.not_sent),
        ];
        for (name, count) in kinds {
            let verdict = |first, second, limit| {
                let comparison =
                    compare(&failing(first, 0, count), &failing(second, 1, count), limit).unwrap();
                let change = comparison.changes.iter().find(|change| change.metric == name);
                change.map(|change| (change.percent.round(), change.verdict))
            };
            let (none, some) = ([0; 4], [99, 101, 100, 100]);
            assert_eq!(verdict(none, none, 5.0), None);
            assert_eq!(verdict(none, some, 5.0), Some((10.0, Verdict::TooBad)));
            assert_eq!(verdict(none, some, 20.0), Some((10.0, Verdict::Worse)));
            assert_eq!(verdict(some, none, 5.0), Some((-10.0, Verdict::Better)));
            assert_eq!(verdict(some, some, 0.0), Some((0.0, Verdict::Same)));
            // One bad second of one run may be the machine's.
            assert_eq!(verdict(none, [0, 0, 400, 0], 5.0), Some((10.0, Verdict::Same)));
        }
    }

    #[test]
    fn only_what_was_measured_for_as_long_is_compared() {
        let first = reports(&[9.0; 3], |n| n);
        let lengthen: [fn(&mut Report); 2] =
            [|report| report.seconds = 30.0, |report| report.warm_up_seconds = 0.5];
        for lengthen in lengthen {
            let mut second = first.clone();
            lengthen(&mut second.reports[0]);
            assert!(compare(&first, &second, 5.0).unwrap_err().contains("only runs that were as long"));
            // Nor under another name.
            second.reports[0].subject = "other".to_owned();
            assert!(compare(&first, &second, 5.0).unwrap_err().contains("only runs that were as long"));
        }
        let mut both = first.clone();
        both.reports.push(Report { seconds: 30.0, subject: "other".to_owned(), ..first.reports[0].clone() });
        let remarks = compare(&first, &both, 5.0).unwrap().remarks;
        assert!(remarks[0].contains("only in the second file"), "{remarks:?}");
    }
}
