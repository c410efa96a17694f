//! What came of the cases.

use std::fmt;

use super::bench::{Check, Failure};
use super::{Case, Topic};

/// The outcome of a run. Shown, it is a line a topic, and each failed case in full; with `{:#}`, a line a case before that.
#[derive(Debug)]
#[must_use]
pub struct Report {
    outcomes: Vec<(&'static Case, Check)>,
}

impl Report {
    pub(super) const fn new(outcomes: Vec<(&'static Case, Check)>) -> Self {
        Self { outcomes }
    }

    /// The cases that the store passed.
    pub fn passed(&self) -> impl Iterator<Item = &'static Case> + '_ {
        self.outcomes.iter().filter(|(_, outcome)| outcome.is_ok()).map(|(case, _)| *case)
    }

    /// The cases that the store failed, and how.
    pub fn failed(&self) -> impl Iterator<Item = (&'static Case, &Failure)> + '_ {
        self.outcomes.iter().filter_map(|(case, outcome)| Some((*case, outcome.as_ref().err()?)))
    }

    /// # Panics
    /// With the whole report, where a case failed, or none was run.
    #[track_caller]
    pub fn assert_passed(&self) {
        assert!(self.failed().next().is_none() && !self.outcomes.is_empty(), "\n{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (passed, all) = (self.passed().count(), self.outcomes.len());
        if all == 0 {
            return writeln!(f, "no case has such a name");
        }
        writeln!(f, "the store passes {passed} of {all} cases")?;
        for topic in Topic::ALL {
            let of_topic = || self.outcomes.iter().filter(|(case, _)| case.topic() == topic);
            let (passed, all) =
                (of_topic().filter(|(_, outcome)| outcome.is_ok()).count(), of_topic().count());
            if all > 0 {
                writeln!(f, "    {:<12} {passed} of {all}", topic.as_str())?;
            }
        }
        if f.alternate() {
            for (case, outcome) in &self.outcomes {
                writeln!(f, "{} {case}", if outcome.is_ok() { "passed" } else { "FAILED" })?;
            }
        }
        for (case, failure) in self.failed() {
            write!(f, "\n{case}: {}\n{failure}", case.rule())?;
        }
        Ok(())
    }
}
