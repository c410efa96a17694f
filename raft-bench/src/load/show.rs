//! Results for people and for other programs: a table, CSV, and a page with plots that needs nothing beside it.

use comfy_table::{CellAlignment, Table, presets};
use plotters::prelude::*;

use super::{Report, Reports, Run};
use crate::backend::Failure;

const HEAD: [&str; 15] = [
    "subject",
    "run",
    "ops/s",
    "p50 us",
    "p90",
    "p99",
    "p99.9",
    "p99.99",
    "max",
    "cpu us/op",
    "MB",
    "written B/op",
    "sent B/op",
    "refused",
    "unknown",
];

fn row(report: &Report, number: usize, run: &Run) -> Vec<String> {
    let latency = &run.latency_us;
    vec![
        report.title(),
        number.to_string(),
        format!("{:.0}", run.operations_per_second),
        format!("{:.0}", latency.p50),
        format!("{:.0}", latency.p90),
        format!("{:.0}", latency.p99),
        format!("{:.0}", latency.p99_9),
        format!("{:.0}", latency.p99_99),
        format!("{:.0}", latency.max),
        format!("{:.2}", run.cpu_us_per_operation),
        format!("{:.0}", run.peak_resident_bytes as f64 / 1e6),
        format!("{:.0}", run.written_bytes_per_operation),
        run.sent_bytes_per_operation.map_or("-".to_owned(), |sent| format!("{sent:.0}")),
        (run.refused + run.not_sent).to_string(),
        run.unknown.to_string(),
    ]
}

/// The results for a terminal.
pub fn table(reports: &Reports) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(HEAD);
    for report in &reports.reports {
        for (number, run) in (1..).zip(&report.runs) {
            table.add_row(row(report, number, run));
        }
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut text = table.trim_fmt();
    for report in &reports.reports {
        let mut rates: Vec<f64> = report.runs.iter().map(|run| run.operations_per_second).collect();
        rates.sort_by(f64::total_cmp);
        if let (Some((limit, by)), Some(rate)) = (&report.limit, rates.get(rates.len() / 2)) {
            let times = limit / rate.max(f64::MIN_POSITIVE);
            let title = report.title();
            text +=
                &format!("\n{title}: at most {limit:.0} ops/s by {by}, {times:.2} times what was reached");
        }
    }
    text
}

/// One line a run.
///
/// # Errors
/// Where memory runs out.
pub fn csv_of_runs(reports: &Reports) -> Result<String, Failure> {
    let mut out = csv::Writer::from_writer(Vec::new());
    out.write_record([
        "subject",
        "nodes",
        "pace",
        "payload_bytes",
        "run",
        "began_unix_ms",
        "operations",
        "operations_per_second",
        "refused",
        "unknown",
        "not_sent",
        "min_us",
        "mean_us",
        "p50_us",
        "p90_us",
        "p99_us",
        "p99_9_us",
        "p99_99_us",
        "max_us",
        "cpu_us_per_operation",
        "peak_resident_bytes",
        "written_bytes_per_operation",
        "sent_bytes_per_operation",
    ])?;
    for report in &reports.reports {
        for (number, run) in (1..).zip(&report.runs) {
            let latency = &run.latency_us;
            out.write_record([
                report.subject.clone(),
                report.nodes.to_string(),
                report.pace.clone(),
                report.payload_bytes.to_string(),
                i32::to_string(&number),
                run.began_unix_ms.to_string(),
                run.operations.to_string(),
                run.operations_per_second.to_string(),
                run.refused.to_string(),
                run.unknown.to_string(),
                run.not_sent.to_string(),
                latency.min.to_string(),
                latency.mean.to_string(),
                latency.p50.to_string(),
                latency.p90.to_string(),
                latency.p99.to_string(),
                latency.p99_9.to_string(),
                latency.p99_99.to_string(),
                latency.max.to_string(),
                run.cpu_us_per_operation.to_string(),
                run.peak_resident_bytes.to_string(),
                run.written_bytes_per_operation.to_string(),
                run.sent_bytes_per_operation.map(|sent| sent.to_string()).unwrap_or_default(),
            ])?;
        }
    }
    Ok(String::from_utf8(out.into_inner()?)?)
}

/// One line a second of each run.
///
/// # Errors
/// Where memory runs out.
pub fn csv_of_series(reports: &Reports) -> Result<String, Failure> {
    let mut out = csv::Writer::from_writer(Vec::new());
    out.write_record([
        "subject",
        "nodes",
        "pace",
        "payload_bytes",
        "run",
        "at_seconds",
        "operations_per_second",
        "p50_us",
        "p99_us",
        "max_us",
        "refused",
        "unknown",
        "resident_bytes",
    ])?;
    for report in &reports.reports {
        for (number, run) in (1..).zip(&report.runs) {
            for second in &run.series {
                out.write_record([
                    report.subject.clone(),
                    report.nodes.to_string(),
                    report.pace.clone(),
                    report.payload_bytes.to_string(),
                    i32::to_string(&number),
                    second.at_seconds.to_string(),
                    second.operations_per_second.to_string(),
                    second.p50_us.to_string(),
                    second.p99_us.to_string(),
                    second.max_us.to_string(),
                    second.refused.to_string(),
                    second.unknown.to_string(),
                    second.resident_bytes.to_string(),
                ])?;
            }
        }
    }
    Ok(String::from_utf8(out.into_inner()?)?)
}

const STYLE: &str = "body{font:15px/1.5 sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}\
    table{border-collapse:collapse;font-size:13px}td,th{padding:.2rem .6rem;text-align:right;border-bottom:1px solid #ddd}\
    td:first-child,th:first-child{text-align:left}svg{max-width:100%;height:auto;margin:.5rem 0}";

/// A page with the table and plots, in one file.
///
/// # Errors
/// Where a plot cannot be drawn.
pub fn html(reports: &Reports) -> Result<String, Failure> {
    let mut body = String::from("<h1>raft-bench load</h1>\n<table><tr>");
    let cell = |tag: &str, text: &str| format!("<{tag}>{}</{tag}>", escaped(text));
    body.extend(HEAD.iter().map(|head| cell("th", head)));
    body += "</tr>\n";
    for report in &reports.reports {
        for (number, run) in (1..).zip(&report.runs) {
            body += "<tr>";
            body.extend(row(report, number, run).iter().map(|text| cell("td", text)));
            body += "</tr>\n";
        }
    }
    body += "</table>\n";
    for report in &reports.reports {
        body += &cell("h2", &report.title());
        if let Some((limit, by)) = &report.limit {
            body += &cell("p", &format!("No more than {limit:.0} operations/s are possible here: {by}."));
        }
        let series = |value: fn(&super::Second) -> f64| -> Vec<Line> {
            let points =
                |run: &Run| run.series.iter().map(|second| (second.at_seconds, value(second))).collect();
            (1..)
                .zip(&report.runs)
                .map(|(number, run)| Line { name: format!("run {number}"), points: points(run) })
                .collect()
        };
        let last = report.runs.last().map(|run| run.series.as_slice()).unwrap_or_default();
        let of_last = |name: &str, value: fn(&super::Second) -> f64| Line {
            name: name.to_owned(),
            points: last.iter().map(|second| (second.at_seconds, value(second))).collect(),
        };
        let latency = [
            of_last("p50", |second| second.p50_us),
            of_last("p99", |second| second.p99_us),
            of_last("max", |second| second.max_us),
        ];
        body += &plot("operations/s", "seconds", &series(|second| second.operations_per_second), false)?;
        body += &plot("latency in us, last run", "seconds", &latency, true)?;
        body += &plot(
            "latency in us by share: 1 is 90 %, 2 is 99 %, 3 is 99.9 %",
            "nines",
            &nines(report),
            true,
        )?;
    }
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>raft-bench load</title>\
         <style>{STYLE}</style></head><body>\n{body}</body></html>\n"
    ))
}

/// Latency over the number of nines of the share that was done within it.
fn nines(report: &Report) -> Vec<Line> {
    let points = |run: &Run| {
        let shown = run.curve.iter().filter(|(share, _)| *share < 1.0);
        shown.map(|&(share, us)| (-(1.0 - share).log10(), us)).collect()
    };
    (1..)
        .zip(&report.runs)
        .map(|(number, run)| Line { name: format!("run {number}"), points: points(run) })
        .collect()
}

struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

/// An SVG; on a logarithmic scale, where that is asked for.
fn plot(title: &str, below: &str, lines: &[Line], logarithmic: bool) -> Result<String, Failure> {
    let all = || lines.iter().flat_map(|line| &line.points);
    if all().next().is_none() {
        return Ok(String::new());
    }
    let right = all().map(|point| point.0).fold(f64::MIN_POSITIVE, f64::max);
    let top = all().map(|point| point.1).fold(1.0, f64::max) * 1.1;
    let bottom = all().map(|point| point.1).fold(top, f64::min).max(1.0) / 1.5;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (900, 320)).into_drawing_area();
        root.fill(&WHITE).map_err(drawn)?;
        let mut builder = ChartBuilder::on(&root);
        builder.caption(title, ("sans-serif", 16)).margin(8).x_label_area_size(36).y_label_area_size(80);
        if logarithmic {
            let mut chart =
                builder.build_cartesian_2d(0.0..right, (bottom..top).log_scale()).map_err(drawn)?;
            chart.configure_mesh().x_desc(below).draw().map_err(drawn)?;
            for (number, line) in lines.iter().enumerate() {
                let color = Palette99::pick(number).to_rgba();
                let series = line.points.iter().map(|&(x, y)| (x, y.max(bottom)));
                chart
                    .draw_series(LineSeries::new(series, color.stroke_width(2)))
                    .map_err(drawn)?
                    .label(&line.name)
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color));
            }
            chart.configure_series_labels().background_style(WHITE.mix(0.8)).draw().map_err(drawn)?;
        } else {
            let mut chart = builder.build_cartesian_2d(0.0..right, 0.0..top).map_err(drawn)?;
            chart.configure_mesh().x_desc(below).draw().map_err(drawn)?;
            for (number, line) in lines.iter().enumerate() {
                let color = Palette99::pick(number).to_rgba();
                chart
                    .draw_series(LineSeries::new(line.points.iter().copied(), color.stroke_width(2)))
                    .map_err(drawn)?
                    .label(&line.name)
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color));
            }
            chart.configure_series_labels().background_style(WHITE.mix(0.8)).draw().map_err(drawn)?;
        }
        root.present().map_err(drawn)?;
    }
    Ok(svg)
}

fn drawn(error: impl std::fmt::Display) -> Failure {
    format!("a plot cannot be drawn: {error}").into()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
