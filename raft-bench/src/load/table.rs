//! Results for a terminal.

use comfy_table::{CellAlignment, Table, presets};

use super::columns::{SHOWN, rows};
use super::{Report, Reports};

/// The results for a terminal: under each load a table of the subjects that bore it.
pub fn table(reports: &Reports) -> String {
    let mut text = String::new();
    let mut left: Vec<&Report> = reports.reports.iter().collect();
    while let Some(load) = left.first().map(|report| report.load()) {
        let (same, others): (Vec<&Report>, Vec<&Report>) =
            left.into_iter().partition(|report| report.load() == load);
        left = others;
        text += &format!("{load}\n{}\n", of_same_load(&same));
        for line in same.iter().flat_map(|report| report.remarks()) {
            text += &format!("{line}\n");
        }
    }
    text.truncate(text.trim_end().len());
    text
}

fn of_same_load(reports: &[&Report]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(SHOWN.iter().map(|(name, _)| *name));
    for row in rows(reports.iter().copied()) {
        table.add_row(SHOWN.iter().map(|(_, value)| value(&row)));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.trim_fmt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Run;

    #[test]
    fn what_was_not_sent_is_told_apart_from_what_was_refused() {
        let run = Run { operations: 1, refused: 22, unknown: 333, not_sent: 4444, ..Run::default() };
        let report = Report {
            subject: "it".to_owned(),
            nodes: 3,
            pace: "open, 10/s".to_owned(),
            payload_bytes: 64,
            warm_up_seconds: 1.0,
            seconds: 1.0,
            floor: None,
            limit: None,
            runs: vec![run],
        };
        let table = table(&Reports { reports: vec![report], ..Reports::default() });
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[1].ends_with("refused  unknown  not sent"), "{table}");
        let last: Vec<&str> = lines[2].split_whitespace().rev().take(3).collect();
        assert_eq!(last, ["4444", "333", "22"], "{table}");
        assert!(table.contains("4444 were due and not sent"), "{table}");
    }
}
