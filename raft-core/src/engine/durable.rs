//! What the log store has acknowledged, and what is on its way to it. Every promise rests on this, never on memory.

use std::collections::VecDeque;
use std::time::Duration;

use crate::types::{HardState, Index, NodeId, Term, Time};

/// The write pipeline of one group. `index <= handed <= log.last`.
#[derive(Debug)]
pub(super) struct Durable {
    /// The current log is on disk up to here.
    pub(super) index: Index,
    /// The term on disk.
    pub(super) term: Term,
    /// The vote on disk, given in `term`.
    pub(super) vote: Option<NodeId>,
    /// The current log was handed out for writing up to here.
    pub(super) handed: Index,
    /// The term and vote handed out last.
    pub(super) handed_vote: (Term, Option<NodeId>),
    /// Entries handed out from here on must be dropped by the next write.
    pub(super) truncate_from: Option<Index>,
    /// Handed out and not acknowledged, oldest first.
    pending: VecDeque<PendingWrite>,
    /// The number of the last write handed out.
    number: u64,
    /// How long the last write took.
    pub(super) latency: Option<Duration>,
}

#[derive(Debug)]
struct PendingWrite {
    number: u64,
    /// The current log is on disk up to here when this write is.
    upper: Index,
    term: Term,
    vote: Option<NodeId>,
    /// When the store could begin with it.
    since: Time,
}

/// Group commit without a timer: while one write is on disk, everything else gathers into the next (design, "One ordered
/// write pipeline").
const MAX_WRITES_IN_FLIGHT: usize = 2;

impl Durable {
    pub(super) fn new(hard_state: HardState, last: Index) -> Self {
        Self {
            index: last,
            term: hard_state.term,
            vote: hard_state.vote,
            handed: last,
            handed_vote: (hard_state.term, hard_state.vote),
            truncate_from: None,
            pending: VecDeque::new(),
            number: 0,
            latency: None,
        }
    }

    pub(super) fn may_write(&self) -> bool {
        self.pending.len() < MAX_WRITES_IN_FLIGHT
    }

    #[cfg(feature = "testing")]
    pub(super) fn in_flight(&self) -> usize {
        self.pending.len()
    }

    /// The log was cut: what is on disk or on its way there counts only up to before `from`, whenever it is acknowledged
    /// (`clamp`, without which a test must fail).
    pub(super) fn truncate(&mut self, from: Index, clamp: bool) {
        let kept = from - 1;
        self.index = self.index.min(kept);
        if clamp {
            for write in &mut self.pending {
                write.upper = write.upper.min(kept);
            }
        }
        if self.handed > kept {
            self.handed = kept;
            self.truncate_from = Some(self.truncate_from.map_or(from, |earlier| earlier.min(from)));
        }
    }

    /// A snapshot up to `last` takes the place of the log, whose first entry was `first`. Of the old log what lies at `kept` and
    /// below counts on, as part of what is committed.
    pub(super) fn replace(&mut self, kept: Index, first: Index, last: Index) {
        self.index = self.index.min(kept);
        for write in &mut self.pending {
            write.upper = write.upper.min(kept);
        }
        if self.handed >= first {
            self.truncate_from = Some(self.truncate_from.map_or(first, |earlier| earlier.min(first)));
        }
        self.handed = last;
    }

    /// Since when the write that is on disk now has been there.
    pub(super) fn waits_since(&self) -> Option<Time> {
        self.pending.front().map(|write| write.since)
    }

    /// Notes a write handed out that takes the log up to `upper`; its number.
    pub(super) fn hand_out(&mut self, upper: Index, term: Term, vote: Option<NodeId>, now: Time) -> u64 {
        self.number += 1;
        self.handed = upper;
        self.handed_vote = (term, vote);
        self.truncate_from = None;
        self.pending.push_back(PendingWrite { number: self.number, upper, term, vote, since: now });
        self.number
    }

    /// Write `number` and all before it are on disk. Whether such a write was ever handed out.
    pub(super) fn acknowledge(&mut self, number: u64, now: Time) -> bool {
        while let Some(write) = self.pending.front() {
            if write.number > number {
                break;
            }
            self.index = self.index.max(write.upper);
            self.term = write.term;
            self.vote = write.vote;
            self.latency = Some(now.saturating_sub(write.since));
            self.pending.pop_front();
        }
        if let Some(next) = self.pending.front_mut() {
            next.since = next.since.max(now);
        }
        number <= self.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_acknowledgement_of_a_truncated_write_counts_only_up_to_the_cut() {
        let mut durable = Durable::new(HardState::default(), 3);
        let first = durable.hand_out(7, 1, None, Time::ZERO);
        durable.truncate(5, true);
        assert_eq!((durable.handed, durable.truncate_from), (4, Some(5)));
        let second = durable.hand_out(6, 2, None, Time::ZERO);
        assert!(!durable.may_write());
        assert!(durable.acknowledge(first, Time::ZERO));
        assert_eq!(durable.index, 4);
        assert!(durable.acknowledge(second, Time::ZERO));
        assert_eq!((durable.index, durable.term), (6, 2));
        assert!(!durable.acknowledge(3, Time::ZERO));
    }

    #[test]
    fn two_cuts_before_a_write_drop_from_the_lower() {
        let mut durable = Durable::new(HardState::default(), 9);
        durable.truncate(5, true);
        durable.truncate(7, true);
        assert_eq!((durable.handed, durable.truncate_from), (4, Some(5)));
    }
}
