//! The contract of [`LogStore`] as cases that any store can be put through.
//!
//! ```
//! use raft_core::mem::MemLogStore;
//! use raft_core::testing::suite::log_store::Suite;
//!
//! let suite = Suite::new(|| {
//!     let disk = MemLogStore::new(); // a new and empty place: for a store in files, a temporary folder
//!     move || disk.clone() // opens the store in that place, as often as it is called
//! });
//! suite.run().assert_passed();
//! ```
//!
//! A failure names the case, the rule that it stands for, what was expected, what came, and the last steps. One case, or
//! one topic, by itself: `suite.only("truncation/at_every_position").run()`. [`cases`] lists them.
//!
//! The futures are driven by a thread of the suite that waits for them. A store whose futures need a runtime is tested
//! within one: `let _entered = runtime.enter();` before `run`, with a runtime that has threads of its own.
//!
//! What no suite can see is whether a write survives the power. It opens the store again after an orderly end only; test
//! crashes with a device that loses what was not synced, as `raft-storage-redb/tests/crash.rs` does.

mod atomicity;
mod bench;
mod compaction;
mod concurrency;
mod errors;
mod groups;
mod identity;
mod limits;
mod model;
mod order;
mod reopening;
mod rows;
mod sizes;
mod truncation;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::report::panic_text;
use super::{Failure, Report};
use crate::config::MAX_ENTRY_BYTES_LIMIT;
use crate::log_store::LogStore;
use bench::{Bench, Check, Open};

/// How long one call may take by default: far beyond any sync, so that a store that hangs is told from a slow disk.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a group of cases is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Topic {
    /// Entries come back as they were, each in its place.
    Order,
    /// All parts of a write, or none; a call's writes as a prefix.
    Atomicity,
    /// What a truncation drops, and what it leaves.
    Truncation,
    /// What a compaction drops, and where the log goes on; snapshots that replace the log.
    Compaction,
    /// The bytes that a read may give.
    Limits,
    /// Groups share nothing but the file.
    Groups,
    /// What was written is there when the store is opened again.
    Reopening,
    /// Reads beside a write.
    Concurrency,
    /// Empty, odd, huge and many entries.
    Sizes,
    /// Hard state, outline and snapshot: replaced or kept.
    Rows,
    /// Whose store it is.
    Identity,
    /// What is refused, how, and what follows.
    Errors,
}

impl Topic {
    /// Every topic, in the order in which they run.
    pub const ALL: [Self; 12] = [
        Self::Order,
        Self::Atomicity,
        Self::Truncation,
        Self::Compaction,
        Self::Limits,
        Self::Groups,
        Self::Reopening,
        Self::Concurrency,
        Self::Sizes,
        Self::Rows,
        Self::Identity,
        Self::Errors,
    ];

    /// The topic's name, the first half of its cases' names.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Order => "order",
            Self::Atomicity => "atomicity",
            Self::Truncation => "truncation",
            Self::Compaction => "compaction",
            Self::Limits => "limits",
            Self::Groups => "groups",
            Self::Reopening => "reopening",
            Self::Concurrency => "concurrency",
            Self::Sizes => "sizes",
            Self::Rows => "rows",
            Self::Identity => "identity",
            Self::Errors => "errors",
        }
    }

    const fn cases(self) -> &'static [Case] {
        match self {
            Self::Order => order::CASES,
            Self::Atomicity => atomicity::CASES,
            Self::Truncation => truncation::CASES,
            Self::Compaction => compaction::CASES,
            Self::Limits => limits::CASES,
            Self::Groups => groups::CASES,
            Self::Reopening => reopening::CASES,
            Self::Concurrency => concurrency::CASES,
            Self::Sizes => sizes::CASES,
            Self::Rows => rows::CASES,
            Self::Identity => identity::CASES,
            Self::Errors => errors::CASES,
        }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One case: shown as `topic/name`.
#[derive(Debug)]
pub struct Case {
    topic: Topic,
    name: &'static str,
    rule: &'static str,
    run: fn(&mut Bench) -> Check,
}

impl Case {
    /// What it is about.
    pub const fn topic(&self) -> Topic {
        self.topic
    }

    /// Its name within the topic.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The sentence of the contract that it stands for.
    pub const fn rule(&self) -> &'static str {
        self.rule
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.name)
    }
}

/// Functions of a topic's file as its cases, each with its rule.
macro_rules! topic {
    ($topic:ident: $($name:ident $rule:literal,)+) => {
        pub(super) const CASES: &[super::Case] = &[$(super::Case {
            topic: super::Topic::$topic,
            name: stringify!($name),
            rule: $rule,
            run: $name,
        }),+];
    };
}
use topic;

/// Every case, topic by topic.
pub fn cases() -> impl Iterator<Item = &'static Case> {
    Topic::ALL.into_iter().flat_map(|topic| topic.cases())
}

/// The suite for one kind of store.
pub struct Suite {
    place: Box<dyn Fn() -> Open>,
    only: String,
    largest_entry_bytes: usize,
    patience: Duration,
}

impl fmt::Debug for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Suite").field("only", &self.only).finish_non_exhaustive()
    }
}

impl Suite {
    /// A suite whose cases each call `place` for a new and empty place. What that gives opens the store there: once at
    /// the start of the case, then again each time after the store opened before was dropped. It may panic; that
    /// fails the case.
    pub fn new<S: LogStore, O: Fn() -> S + 'static>(place: impl Fn() -> O + 'static) -> Self {
        let place = move || -> Open {
            let open = place();
            Box::new(move || Box::new(open()))
        };
        Self {
            place: Box::new(place),
            only: String::new(),
            largest_entry_bytes: MAX_ENTRY_BYTES_LIMIT,
            patience: PATIENCE,
        }
    }

    /// Runs only the cases whose name, as `topic/name`, contains `text`. Default: all.
    #[must_use]
    pub fn only(mut self, text: impl Into<String>) -> Self {
        self.only = text.into();
        self
    }

    /// The largest command in the cases, in bytes. A store must take [`MAX_ENTRY_BYTES_LIMIT`], the default; one that is only
    /// used with a smaller [`Config::max_entry_bytes`](crate::Config::max_entry_bytes) may be tested with that.
    #[must_use]
    pub const fn largest_entry_bytes(mut self, bytes: usize) -> Self {
        self.largest_entry_bytes = bytes;
        self
    }

    /// How long one call may take until the case fails. Default: a minute.
    #[must_use]
    pub const fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Runs the cases, one after the other.
    pub fn run(&self) -> Report<Case> {
        let chosen = cases().filter(|case| case.to_string().contains(&self.only));
        let outcomes = chosen.map(|case| (case, self.run_case(case))).collect();
        Report::new("store", Case::rule, outcomes)
    }

    fn run_case(&self, case: &Case) -> Check {
        let mut bench = None;
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let bench = bench.insert(Bench::new((self.place)(), self.largest_entry_bytes, self.patience));
            bench.reopen()?;
            (case.run)(bench)
        }));
        outcome.unwrap_or_else(|panic| {
            let came = panic_text(&*panic);
            Err(match &bench {
                Some(bench) => bench.failure("no panic", came),
                None => Failure::new("no panic", came),
            })
        })
    }
}
