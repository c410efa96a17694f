//! What came of the cases.

use std::any::Any;
use std::fmt;

use super::Failure;

/// The outcome of a run of a suite's cases. Shown, it is a line a topic, and each failed case in full; with `{:#}`, a line a
/// case before that.
#[derive(Debug)]
#[must_use]
pub struct Report<C: 'static> {
    /// What was tested: "store".
    subject: &'static str,
    rule: fn(&C) -> &'static str,
    /// A case is shown as `topic/name`.
    outcomes: Vec<(&'static C, Result<(), Failure>)>,
}

impl<C: fmt::Display> Report<C> {
    pub(super) const fn new(
        subject: &'static str,
        rule: fn(&C) -> &'static str,
        outcomes: Vec<(&'static C, Result<(), Failure>)>,
    ) -> Self {
        Self { subject, rule, outcomes }
    }

    /// The cases that passed.
    pub fn passed(&self) -> impl Iterator<Item = &'static C> + '_ {
        self.outcomes.iter().filter(|(_, outcome)| outcome.is_ok()).map(|(case, _)| *case)
    }

    /// The cases that failed, and how.
    pub fn failed(&self) -> impl Iterator<Item = (&'static C, &Failure)> + '_ {
        self.outcomes.iter().filter_map(|(case, outcome)| Some((*case, outcome.as_ref().err()?)))
    }

    /// # Panics
    /// With the whole report, where a case failed, or none was run.
    #[track_caller]
    pub fn assert_passed(&self) {
        assert!(self.failed().next().is_none() && !self.outcomes.is_empty(), "\n{self}");
    }
}

impl<C: fmt::Display> fmt::Display for Report<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (passed, all) = (self.passed().count(), self.outcomes.len());
        if all == 0 {
            return writeln!(f, "no case has such a name");
        }
        writeln!(f, "the {} passes {passed} of {all} cases", self.subject)?;
        let topic = |case: &C| case.to_string().split('/').next().unwrap_or_default().to_owned();
        for of_topic in self.outcomes.chunk_by(|(a, _), (b, _)| topic(a) == topic(b)) {
            let passed = of_topic.iter().filter(|(_, outcome)| outcome.is_ok()).count();
            let name = of_topic.first().map(|(case, _)| topic(case)).unwrap_or_default();
            writeln!(f, "    {name:<12} {passed} of {}", of_topic.len())?;
        }
        if f.alternate() {
            for (case, outcome) in &self.outcomes {
                writeln!(f, "{} {case}", if outcome.is_ok() { "passed" } else { "FAILED" })?;
            }
        }
        for (case, failure) in self.failed() {
            write!(f, "\n{case}: {}\n{failure}", (self.rule)(case))?;
        }
        Ok(())
    }
}

/// What a panic said.
pub(super) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("a panic: {}", text.unwrap_or_default())
}
