//! Results as CSV.

use super::Reports;
use super::columns::{OF_RUN, OF_SECOND, RUN_NAMES, rows};
use crate::backend::Failure;

/// One line a run.
///
/// # Errors
/// Where memory runs out.
pub fn csv_of_runs(reports: &Reports) -> Result<String, Failure> {
    let mut out = csv::Writer::from_writer(Vec::new());
    out.write_record(OF_RUN.iter().map(|(name, _)| *name))?;
    for row in rows(&reports.reports) {
        out.write_record(OF_RUN.iter().map(|(_, value)| value(&row)))?;
    }
    Ok(String::from_utf8(out.into_inner()?)?)
}

/// One line a second of each run.
///
/// # Errors
/// Where memory runs out.
pub fn csv_of_series(reports: &Reports) -> Result<String, Failure> {
    let mut out = csv::Writer::from_writer(Vec::new());
    let names = OF_RUN.iter().take(RUN_NAMES).map(|(name, _)| *name);
    out.write_record(names.chain(OF_SECOND.iter().map(|(name, _)| *name)))?;
    for row in rows(&reports.reports) {
        for second in &row.run.series {
            let names = OF_RUN.iter().take(RUN_NAMES).map(|(_, value)| value(&row));
            out.write_record(names.chain(OF_SECOND.iter().map(|(_, value)| value(second))))?;
        }
    }
    Ok(String::from_utf8(out.into_inner()?)?)
}
