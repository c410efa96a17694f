//! Results as a page with plots, in one file that needs nothing beside it.

use super::columns::{SHOWN, rows};
use super::plot::{Line, Plot, escaped, mark};
use super::{FloorReport, Report, Reports, Run, Second};
use crate::backend::Failure;

const STYLE: &str = "
:root { color-scheme: light dark; --ground: #ffffff; --ink: #1f2328; --faint: #d0d7de; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171b; --ink: #e2e6ea; --faint: #3a4149; } }
body { font: 15px/1.5 sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; background: var(--ground); color: var(--ink) }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: 13px; margin: .5rem 0 1rem }
td, th { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid var(--faint); white-space: nowrap }
td:first-child, th:first-child { text-align: left }
figure { margin: 1.5rem 0 }
figcaption span { white-space: nowrap; margin-left: 1rem }
figcaption i { display: inline-block; width: 1.2em; height: 3px; margin-right: .4em; vertical-align: middle }
svg { display: block; max-width: 100%; height: auto }
";

/// A page with the machine, tables and plots, in one file.
///
/// # Errors
/// Where a plot cannot be drawn.
pub fn html(reports: &Reports) -> Result<String, Failure> {
    let mut body = String::from("<h1>raft-bench load</h1>\n");
    if let Some(floor) = reports.reports.iter().find_map(|report| report.floor.as_ref()) {
        body += &of_floor(floor);
    }
    if reports.reports.len() > 1 {
        body += "<h2>All together</h2>\n";
        body += "<p>The last run of each.</p>\n";
        let last = |points: fn(&Run) -> Vec<(f64, f64)>| {
            let line = |report: &Report| {
                let run = report.runs.last()?;
                Some(Line { name: name(report, &reports.reports), points: points(run) })
            };
            reports.reports.iter().filter_map(line).collect::<Vec<_>>()
        };
        body += &RATE.draw(&last(|run| over_time(run, |second| second.operations_per_second)))?;
        body += &SHARE.draw(&last(nines))?;
    }
    for report in &reports.reports {
        body += &of_report(report)?;
    }
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>raft-bench load</title>\
         <style>{STYLE}</style></head><body>\n{body}</body></html>\n"
    ))
}

/// The subject, with its load where not all bore the same.
fn name(report: &Report, all: &[Report]) -> String {
    let same = all.iter().all(|other| other.load() == report.load());
    if same { report.subject.clone() } else { report.title() }
}

fn of_floor(floor: &FloorReport) -> String {
    let mut facts = vec![
        ("processors".to_owned(), floor.processors.to_string()),
        ("there and back between two tasks".to_owned(), format!("{:.1} us", floor.hop_us)),
        ("there and back over TCP".to_owned(), format!("{:.1} us", floor.tcp_round_trip_us)),
    ];
    for (writers, us) in &floor.sync_us_by_writers {
        let files = if *writers == 1 { "1 file" } else { &format!("{writers} files at once") };
        facts.push((format!("64 B and fdatasync, {files}"), format!("{us:.1} us")));
    }
    let rate = floor.disk_megabytes_per_second;
    facts.push(("a large write and fdatasync".to_owned(), format!("{rate:.0} MB/s")));
    let lines: Vec<_> = facts.into_iter().map(|(fact, value)| vec![fact, value]).collect();
    format!("<h2>The machine: its floor</h2>\n{}", table(&["", "median"], &lines))
}

const RATE: Plot<'_> = Plot {
    title: "Operations a second",
    across: "seconds since the warm-up",
    up: "operations/s",
    logarithmic: false,
    tick: mark,
};

const SHARE: Plot<'_> = Plot {
    title: "Latency that this share of operations did not exceed",
    across: "share of operations",
    up: "us",
    logarithmic: true,
    tick: share,
};

fn of_report(report: &Report) -> Result<String, Failure> {
    let mut body = cell("h2", &report.title());
    let shown: Vec<_> = SHOWN.iter().skip(1).collect();
    let heads: Vec<_> = shown.iter().map(|(name, _)| *name).collect();
    let lines: Vec<Vec<String>> =
        rows([report]).map(|row| shown.iter().map(|(_, value)| value(&row)).collect()).collect();
    body += &table(&heads, &lines);
    for remark in report.remarks() {
        body += &cell("p", &remark);
    }
    let each = |points: &dyn Fn(&Run) -> Vec<(f64, f64)>| {
        let line = |(number, run): (usize, &Run)| Line { name: format!("run {number}"), points: points(run) };
        (1..).zip(&report.runs).map(line).collect::<Vec<_>>()
    };
    let last = |name: &str, value: fn(&Second) -> f64| Line {
        name: name.to_owned(),
        points: report.runs.last().map(|run| over_time(run, value)).unwrap_or_default(),
    };
    body += &RATE.draw(&each(&|run| over_time(run, |second| second.operations_per_second)))?;
    let latency = [
        last("p50", |second| second.p50_us),
        last("p99", |second| second.p99_us),
        last("max", |second| second.max_us),
    ];
    let title = "Latency, second by second, of the last run";
    body += &Plot { title, up: "us", logarithmic: true, ..RATE }.draw(&latency)?;
    body += &SHARE.draw(&each(&nines))?;
    let failed: [Line; 2] = [
        last("refused", |second| second.refused as f64),
        last("of unknown outcome", |second| second.unknown as f64),
    ];
    if failed.iter().any(|line| line.points.iter().any(|point| point.1 > 0.0)) {
        let title = "Not carried out, or not known to be, second by second, of the last run";
        body += &Plot { title, up: "operations", ..RATE }.draw(&failed)?;
    }
    let memory = |run: &Run| {
        let known = run.series.iter().filter_map(|s| Some((s.at_seconds, s.resident_bytes? as f64 / 1e6)));
        known.collect()
    };
    body += &Plot { title: "Resident memory", up: "MB", ..RATE }.draw(&each(&memory))?;
    Ok(body)
}

fn over_time(run: &Run, value: fn(&Second) -> f64) -> Vec<(f64, f64)> {
    run.series.iter().map(|second| (second.at_seconds, value(second))).collect()
}

/// Latency over the number of nines of the share that was done within it: half is 0.3, 99 % is 2.
fn nines(run: &Run) -> Vec<(f64, f64)> {
    let shown = run.curve.iter().filter(|(share, _)| *share < 1.0);
    shown.map(|&(share, us)| (-(1.0 - share).log10(), us)).collect()
}

/// The share of so many nines; only whole ones are told.
fn share(nines: f64) -> String {
    if (nines - nines.round()).abs() > 1e-9 {
        return String::new();
    }
    let decimals = (nines.round() as usize).saturating_sub(2);
    format!("{:.decimals$} %", 100.0 - 100.0 * 10_f64.powf(-nines))
}

fn table(heads: &[&str], lines: &[Vec<String>]) -> String {
    let row = |tag: &str, cells: &mut dyn Iterator<Item = &str>| {
        format!("<tr>{}</tr>\n", cells.map(|text| cell(tag, text).trim_end().to_owned()).collect::<String>())
    };
    let head = row("th", &mut heads.iter().copied());
    let body: String = lines.iter().map(|line| row("td", &mut line.iter().map(String::as_str))).collect();
    format!("<div class=\"wide\"><table>\n{head}{body}</table></div>\n")
}

fn cell(tag: &str, text: &str) -> String {
    format!("<{tag}>{}</{tag}>\n", escaped(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Settings;

    #[test]
    fn shares_are_told_at_whole_nines() {
        let told = [0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0].map(share);
        assert_eq!(told, ["0 %", "", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %"]);
    }

    #[test]
    fn what_a_user_names_is_text_on_the_page() {
        let report = Report::new("<script>a & b", 3, &Settings::SMALL);
        let report = Report { runs: vec![Run::default()], ..report };
        let reports = Reports { reports: vec![report], ..Reports::default() };
        let page = html(&reports).unwrap();
        assert!(page.contains("&lt;script&gt;a &amp; b") && !page.contains("<script>"), "{page}");
    }
}
