//! What must always hold.

use std::fmt;

/// The group's own state breaks a rule that safety rests on. The group stops; the process does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The rule, in words.
    pub rule: &'static str,
    /// The numbers that break it.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "broken invariant: {}: {}", self.rule, self.detail)
    }
}

impl std::error::Error for Violation {}
