//! Results as Markdown, in the folder that `--results` names.
//!
//! A table is kept line by line while it comes about, so a run that was stopped goes on where it was.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::backend::Failure;
use crate::floor::Floor;
use crate::invocation::criterion_data;
use crate::numbers::grouped;

/// A table in a file of its own, to which lines are added at the end.
pub(crate) struct Table {
    path: PathBuf,
    text: String,
}

impl Table {
    /// The table of this name, which is begun if it is not there yet.
    pub(crate) fn open(folder: &Path, name: &str, floor: &Floor, head: &[&str]) -> Result<Self, Failure> {
        fs::create_dir_all(folder)?;
        let path = folder.join(name);
        if !path.exists() {
            let rule = vec!["---"; head.len()];
            fs::write(&path, format!("{}\n{}{}", floor.markdown(), line(head), line(&rule)))?;
        }
        Ok(Self { text: fs::read_to_string(&path)?, path })
    }

    /// Whether it has a line that begins with these cells.
    pub(crate) fn has(&self, cells: &[&str]) -> bool {
        let begin = line(cells);
        self.text.lines().any(|line| line.starts_with(begin.trim_end()))
    }

    pub(crate) fn add(&mut self, cells: &[&str]) -> Result<(), Failure> {
        let line = line(cells);
        OpenOptions::new().append(true).open(&self.path)?.write_all(line.as_bytes())?;
        self.text += &line;
        Ok(())
    }
}

fn line(cells: &[&str]) -> String {
    format!("| {} |\n", cells.join(" | "))
}

/// Writes the table of the parts, from what criterion kept, with the distance of each to its limit, where it has one.
pub(crate) fn write_parts(
    folder: &Path,
    floor: &Floor,
    limit: impl Fn(&str) -> Option<Duration>,
) -> Result<(), Failure> {
    let mut found = BTreeMap::new();
    collect(&criterion_data(folder), &mut found)?;
    let head = ["part", "time", "throughput", "limit", "times"];
    let mut text = format!("{}\n{}{}", floor.markdown(), line(&head), line(&["---"; 5]));
    for (name, (ns, throughput)) in found.iter().filter(|(name, _)| !name.starts_with("replication/")) {
        let limit = limit(name).map(|limit| limit.as_secs_f64() * 1e9);
        let (limit, times) =
            limit.map_or_else(Default::default, |limit| (time(limit), format!("{:.2}", ns / limit)));
        text += &line(&[name, &time(*ns), throughput, &limit, &times]);
    }
    println!("{text}");
    fs::write(folder.join("parts.md"), text)?;
    Ok(())
}

/// Each benchmark by its name: nanoseconds an iteration, and throughput.
fn collect(folder: &Path, found: &mut BTreeMap<String, (f64, String)>) -> Result<(), Failure> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let (about, estimates) = (path.join("benchmark.json"), path.join("estimates.json"));
        if path.ends_with("new") && about.is_file() && estimates.is_file() {
            let read =
                |path: &Path| -> Result<Value, Failure> { Ok(serde_json::from_slice(&fs::read(path)?)?) };
            let (about, estimates) = (read(&about)?, read(&estimates)?);
            let name = about["full_id"].as_str().ok_or("criterion's data have another form")?.to_owned();
            // As criterion itself tells it.
            let slope = estimates["slope"]["point_estimate"].as_f64();
            let ns = slope.or(estimates["mean"]["point_estimate"].as_f64());
            let ns = ns.ok_or("criterion's data have another form")?;
            let per_second = |kind: &str| about["throughput"][kind].as_f64().map(|count| count * 1e9 / ns);
            let throughput = match (per_second("Elements"), per_second("Bytes")) {
                (Some(rate), _) => format!("{}/s", grouped(rate)),
                (None, Some(rate)) => format!("{:.1} MB/s", rate / 1e6),
                (None, None) => String::new(),
            };
            found.insert(name, (ns, throughput));
        } else if path.is_dir() {
            collect(&path, found)?;
        }
    }
    Ok(())
}

fn time(ns: f64) -> String {
    match ns {
        ns if ns < 1e3 => format!("{ns:.1} ns"),
        ns if ns < 1e6 => format!("{:.2} us", ns / 1e3),
        ns => format!("{:.2} ms", ns / 1e6),
    }
}
