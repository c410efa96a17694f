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

/// What is compared of a run, and whether more is better.
struct Metric {
    name: &'static str,
    more_is_better: bool,
    of: fn(&Run) -> Option<f64>,
}

const METRICS: [Metric; 8] = [
    Metric { name: "ops/s", more_is_better: true, of: |run| Some(run.operations_per_second) },
    Metric { name: "p50 us", more_is_better: false, of: |run| Some(run.latency_us.p50) },
    Metric { name: "p99 us", more_is_better: false, of: |run| Some(run.latency_us.p99) },
    Metric { name: "p99.9 us", more_is_better: false, of: |run| Some(run.latency_us.p99_9) },
    Metric { name: "cpu us/op", more_is_better: false, of: |run| run.cpu_us_per_operation },
    Metric { name: "MB", more_is_better: false, of: |run| Some(run.peak_resident_bytes? as f64 / 1e6) },
    Metric { name: "written B/op", more_is_better: false, of: |run| run.written_bytes_per_operation },
    Metric { name: "sent B/op", more_is_better: false, of: |run| run.sent_bytes_per_operation },
];

/// What became of one metric.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// What was compared.
    pub subject: String,
    /// The metric's name.
    pub metric: &'static str,
    /// The medians.
    pub medians: (f64, f64),
    /// The second against the first, in percent.
    pub percent: f64,
    /// So far apart two files of the same program may well be, in percent.
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
/// Where they have nothing in common, or too few repeats to know the noise.
pub fn compare(first: &Reports, second: &Reports, limit_percent: f64) -> Result<Comparison, String> {
    let mut pairs: Vec<(&Report, &Report)> = Vec::new();
    for report in &first.reports {
        pairs.extend(second.reports.iter().find(|other| other.is_like(report)).map(|other| (report, other)));
    }
    if let ([one], [other], []) = (first.reports.as_slice(), second.reports.as_slice(), pairs.as_slice()) {
        pairs.push((one, other));
    }
    if pairs.is_empty() {
        return Err("the files have nothing in common: no subject under the same load is in both".to_owned());
    }
    let mut comparison = Comparison { changes: Vec::new(), remarks: Vec::new() };
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
        if !alternate {
            comparison.remarks.push(format!(
                "{title}: the repeats do not alternate, so a drift of the machine may pass for a change"
            ));
        }
        for metric in &METRICS {
            let values = |runs: &[Run]| -> Option<Vec<f64>> {
                runs.iter().map(|run| (metric.of)(run).filter(|value| *value > 0.0)).collect()
            };
            let (Some(a), Some(b)) = (values(&report.runs), values(&other.runs)) else { continue };
            let (change, noise) = if alternate { paired(&a, &b) } else { unpaired(&a, &b) };
            let percent = |logarithm: f64| logarithm.exp_m1() * 100.0;
            // As a share of the first for what grows, of the second for what shrinks: 100 -> 50 is as bad as 50 -> 100.
            let worse = if metric.more_is_better { -change } else { change };
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

/// Whether the runs were made in turn, so that each has its neighbour.
fn alternate(first: &[Run], second: &[Run]) -> bool {
    let began = |runs: &[Run]| runs.iter().map(|run| run.began_unix_ms).collect::<Vec<_>>();
    let (a, b) = (began(first), began(second));
    let in_turn = |a: &[u64], b: &[u64]| {
        a.iter().zip(b).all(|(a, b)| a < b) && b.iter().zip(a.iter().skip(1)).all(|(b, a)| b < a)
    };
    a.len() == b.len() && (in_turn(&a, &b) || in_turn(&b, &a))
}

/// The mean of the logarithms of the ratios, and how far from zero it may be by chance.
fn paired(a: &[f64], b: &[f64]) -> (f64, f64) {
    let ratios: Vec<f64> = a.iter().zip(b).map(|(a, b)| (b / a).ln()).collect();
    let (mean, variance) = moments(&ratios);
    let count = ratios.len();
    (mean, student(count - 1) * (variance / count as f64).sqrt())
}

/// As [`paired`], without pairs: both are taken to have the same spread.
fn unpaired(a: &[f64], b: &[f64]) -> (f64, f64) {
    let logarithms = |values: &[f64]| values.iter().map(|value| value.ln()).collect::<Vec<_>>();
    let ((mean_a, variance_a), (mean_b, variance_b)) = (moments(&logarithms(a)), moments(&logarithms(b)));
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
}
