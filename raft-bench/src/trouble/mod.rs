//! Behaviour under trouble: a leader that is killed, a follower that is slow, snapshots and a change of members under load, more load than
//! can be carried;
//! and under none: an idle cluster, a log that has grown long.

mod failover;
mod idle;
mod long_log;
mod members;
mod nodes;
mod overload;
mod slow;
mod snapshot;

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::backend::{Backends, Failure};
use crate::load::{Pace, Run, Settings};

pub use self::nodes::{ARGV0, Nodes};

/// What can be done to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Trouble {
    /// Kills the leader's process, again and again: how long nobody answers, and whether anything confirmed is lost.
    Failover,
    /// Makes one follower's disk slow: what the others' clients notice.
    SlowFollower,
    /// Takes snapshots of a large state under load.
    Snapshot,
    /// Replaces a member by another under load.
    Members,
    /// Offers twice what the cluster can carry.
    Overload,
    /// Does nothing: what an idle cluster takes.
    Idle,
    /// Lets the log grow to ten million entries, in some gigabytes of memory.
    LongLog,
}

impl Trouble {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Failover,
        Self::SlowFollower,
        Self::Snapshot,
        Self::Members,
        Self::Overload,
        Self::Idle,
        Self::LongLog,
    ];
}

/// What it is done to, and how often.
#[derive(Clone, Debug)]
pub struct TroubleOptions {
    /// How often the leader is killed; the others run for as many seconds a case.
    pub repeats: usize,
    /// The transport by its name.
    pub transport: String,
    /// The log store by its name.
    pub store: String,
    /// Clients in the closed loop.
    pub clients: usize,
}

/// One thing that was found out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// What was measured.
    pub what: String,
    /// How much it is.
    pub value: f64,
    /// Of what.
    pub unit: &'static str,
}

/// What came of one kind of trouble.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Findings {
    /// What was done to what.
    pub title: String,
    /// What was found out.
    pub findings: Vec<Finding>,
}

impl Findings {
    fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), findings: Vec::new() }
    }

    fn add(&mut self, what: impl Into<String>, value: f64, unit: &'static str) {
        self.findings.push(Finding { what: what.into(), value, unit });
    }

    fn add_run(&mut self, what: &str, run: &Run) {
        self.add(format!("{what}: carried out"), run.operations_per_second, "operations/s");
        self.add(format!("{what}: p50"), run.latency_us.p50 / 1e3, "ms");
        self.add(format!("{what}: p99"), run.latency_us.p99 / 1e3, "ms");
        self.add(format!("{what}: p99.9"), run.latency_us.p99_9 / 1e3, "ms");
    }

    /// A value by its name.
    pub fn value(&self, what: &str) -> Option<f64> {
        self.findings.iter().find(|finding| finding.what == what).map(|finding| finding.value)
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.title)?;
        for Finding { what, value, unit } in &self.findings {
            let digits = if value.fract() == 0.0 || *value >= 1000.0 { 0 } else { 2 };
            write!(f, "\n  {what:<52} {value:>12.digits$} {unit}")?;
        }
        Ok(())
    }
}

/// Makes trouble, and tells what came of it. `progress` hears what is being done.
///
/// # Errors
/// Where it cannot be made.
pub async fn make(
    trouble: Trouble,
    backends: &Backends,
    options: &TroubleOptions,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<Findings, Failure> {
    match trouble {
        Trouble::Failover => failover::run(options.repeats, progress).await,
        Trouble::SlowFollower => slow::run(backends, options, progress).await,
        Trouble::Snapshot => snapshot::run(backends, options, progress).await,
        Trouble::Members => members::run(backends, options, progress).await,
        Trouble::Overload => overload::run(backends, options, progress).await,
        Trouble::Idle => idle::run(backends, options, progress).await,
        Trouble::LongLog => long_log::run(backends, options, progress).await,
    }
}

/// A second of warm-up, then as many as there are repeats.
fn settings(options: &TroubleOptions, pace: Pace) -> Settings {
    Settings {
        pace,
        payload_bytes: 64,
        warm_up: Duration::from_secs(1),
        measure: Duration::from_secs(options.repeats.max(1) as u64),
        max_open: 1 << 17,
    }
}
