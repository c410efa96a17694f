//! How fresh a read must be, and what comes of it.

use std::time::Duration;

use crate::types::Index;

/// How fresh the answer of a read must be. See [`Raft::read_with`](crate::Raft::read_with).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Consistency {
    /// It holds every command that was answered anywhere before the read began. Whatever clocks do: a majority confirms it.
    #[default]
    Linearizable,
    /// The same, confirmed by the leader's lease where it has one, without asking anybody: right as long as no node's clock runs faster
    /// or slower than true by more than [`Lease::clock_drift_ppm`](crate::Lease). Where there is no lease, as in a cluster in
    /// which they are off, it is a linearizable read.
    Lease,
    /// This node's own state. It may be old.
    Stale {
        /// It is to have been the newest state at some time within this, before the answer is given; the node asks the leader
        /// where it does not know that. `None`: however old it is, such as on a node that was cut off, and without asking.
        max_age: Option<Duration>,
    },
}

/// The answer to a read, and the state that it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reading<A> {
    /// The answer.
    pub answer: A,
    /// The last index that the state had applied.
    pub applied: Index,
}

impl<A> Reading<A> {
    pub(crate) const fn new(answer: A, applied: Index) -> Self {
        Self { answer, applied }
    }

    /// The same with another answer, or why there is none.
    pub(crate) fn try_map<B, E>(self, change: impl FnOnce(A) -> Result<B, E>) -> Result<Reading<B>, E> {
        Ok(Reading { answer: change(self.answer)?, applied: self.applied })
    }
}
