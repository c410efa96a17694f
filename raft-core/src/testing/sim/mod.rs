//! The simulator: engines, network, disks, clocks, clients and faults in one thread over virtual time. One seed decides
//! everything, so a run can be had again exactly.
//!
//! ```
//! use raft_core::testing::sim;
//!
//! let report = sim::run(&sim::Options::new(7).events(2_000)).expect("no invariant breaks");
//! assert_eq!(sim::run(&sim::Options::new(7).events(2_000)).unwrap().trace_hash, report.trace_hash);
//! ```

mod calm;
mod clients;
mod fault;
mod members;
mod nemesis;
mod network;
mod rival;
mod sessions;
mod settings;
mod shrink;
mod snapshots;
mod subject;
mod trace;
mod world;

use std::collections::BTreeMap;
use std::fmt;

use super::invariants::Broken;
use crate::engine::Planted;

pub use fault::Fault;
pub use settings::Settings;
pub use subject::Subject;

/// What to simulate.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// Decides everything.
    pub seed: u64,
    /// How many events happen with faults, before the calm at the end. An event is a message that arrives, a write that
    /// completes, a batch that is applied or read back, a deadline, a call that is taken, a start, or a fault; what comes
    /// to nothing is not counted.
    pub events: u64,
    /// Prints every line of the trace as it happens.
    pub print: bool,
    /// Keeps this many of the last lines of the trace for [`Failure::trace`].
    pub keep_lines: usize,
    /// A bug in every engine, to prove that it is caught.
    pub planted: Option<Planted>,
    /// Kinds of faults that the run does without, whatever the seed drew.
    pub without: Vec<Fault>,
    /// One more crash at one write, to go through all of them.
    pub crash_at: Option<CrashAt>,
    /// A failed write is retried and taken for done, as by a store that retries an fsync: also to prove that it is caught.
    pub retry_fsync: bool,
}

impl Options {
    /// 20,000 events of a seed, in silence.
    pub const fn new(seed: u64) -> Self {
        Self {
            seed,
            events: 20_000,
            print: false,
            keep_lines: 0,
            planted: None,
            without: Vec::new(),
            crash_at: None,
            retry_fsync: false,
        }
    }

    /// The same with a bug in every engine.
    #[must_use]
    pub const fn plant(mut self, bug: Planted) -> Self {
        self.planted = Some(bug);
        self
    }

    /// The same without some kinds of faults.
    #[must_use]
    pub fn without(mut self, faults: &[Fault]) -> Self {
        self.without.extend_from_slice(faults);
        self
    }

    /// The same with one more crash.
    #[must_use]
    pub const fn crash_at(mut self, crash: CrashAt) -> Self {
        self.crash_at = Some(crash);
        self
    }

    /// The same with another number of events.
    #[must_use]
    pub const fn events(mut self, events: u64) -> Self {
        self.events = events;
        self
    }
}

/// A crash at one write of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrashAt {
    /// The node, counted from 0.
    pub node: usize,
    /// Which of its writes, counted from 1 over the whole run.
    pub write: u64,
    /// Whether the write is durable then, though nobody was told; otherwise it is lost.
    pub durable: bool,
}

/// What a run without failure did.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// A hash over everything that happened.
    pub trace_hash: u64,
    /// How many writes each node began.
    pub writes: Vec<u64>,
    /// How often what happened: faults injected and branches of the engine reached, by name.
    pub counters: BTreeMap<&'static str, u64>,
}

/// A run that broke something.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// The events asked for.
    pub events: u64,
    /// The faults that the run did without.
    pub without: Vec<Fault>,
    /// At which event it broke.
    pub event: u64,
    /// What the seed drew.
    pub settings: String,
    /// What is broken.
    pub broken: Broken,
    /// The last lines of the trace.
    pub trace: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.trace {
            writeln!(f, "{line}")?;
        }
        writeln!(f, "{}", self.settings)?;
        writeln!(f, "{} (event {})", self.broken, self.event)?;
        write!(f, "replay with RAFT_SEED={} RAFT_EVENTS={}", self.seed, self.events)?;
        if !self.without.is_empty() {
            let names: Vec<_> = self.without.iter().map(|fault| fault.as_str()).collect();
            write!(f, " RAFT_WITHOUT={}", names.join(","))?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// Runs one seed: a stretch with faults, a calm in which the cluster must recover, and a check of the clients' history.
///
/// # Errors
/// Where an invariant breaks, the cluster does not recover, or the history is not linearizable. The run is then repeated
/// to give the end of its trace.
pub fn run(options: &Options) -> Result<Report, Box<Failure>> {
    Subject::new().run(options)
}

/// The smallest run of a failing seed: see [`Subject::shrink`].
#[must_use]
pub fn shrink(options: &Options) -> Option<Box<Failure>> {
    Subject::new().shrink(options)
}
