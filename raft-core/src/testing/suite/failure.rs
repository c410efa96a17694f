//! What a failed case tells.

use std::fmt;

/// How many of the last steps a failure tells.
const STEPS_TOLD: usize = 12;

/// What was expected of the part under test, what came, and what had been done by then.
#[derive(Clone, Debug)]
pub struct Failure {
    expected: String,
    came: String,
    steps: Vec<String>,
}

impl Failure {
    pub(super) fn new(expected: impl Into<String>, came: impl Into<String>) -> Self {
        Self { expected: expected.into(), came: came.into(), steps: Vec::new() }
    }

    /// With what had been done by then.
    pub(super) fn after(self, steps: Vec<String>) -> Self {
        Self { steps, ..self }
    }

    /// What the contract asks for.
    pub fn expected(&self) -> &str {
        &self.expected
    }

    /// What came instead.
    pub fn came(&self) -> &str {
        &self.came
    }

    /// What had been done by then, in order.
    pub fn steps(&self) -> &[String] {
        &self.steps
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "    expected: {}", self.expected)?;
        writeln!(f, "    came:     {}", self.came)?;
        let skipped = self.steps.len().saturating_sub(STEPS_TOLD);
        if skipped > 0 {
            writeln!(f, "    after:    {skipped} steps, then")?;
        }
        for (at, step) in self.steps.iter().enumerate().skip(skipped) {
            writeln!(f, "    {} {step}", if at == 0 { "after:   " } else { "         " })?;
        }
        Ok(())
    }
}
