//! Linearizable reads without a log write: a round of heartbeats proves that the leader still leads (thesis, 6.4).

use std::collections::VecDeque;

use super::ready::{ReadId, ReadReady};
use crate::types::Index;

/// Reads on their way through a leader.
#[derive(Debug, Default)]
pub(super) struct Reads {
    /// Came in and joined no round yet: a round must be sent after the read came.
    waiting: Vec<ReadId>,
    /// Rounds sent, oldest first.
    rounds: VecDeque<Round>,
    count: usize,
}

#[derive(Debug)]
struct Round {
    number: u64,
    index: Index,
    reads: Vec<ReadId>,
}

/// While one round is on its way, reads gather for the next.
const MAX_ROUNDS_IN_FLIGHT: usize = 2;

impl Reads {
    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn push(&mut self, read: ReadId) {
        self.count += 1;
        self.waiting.push(read);
    }

    pub(super) fn wants_round(&self) -> bool {
        !self.waiting.is_empty() && self.rounds.len() < MAX_ROUNDS_IN_FLIGHT
    }

    /// All that wait join round `number`, which is sent now; they read at `index`.
    pub(super) fn begin_round(&mut self, number: u64, index: Index) {
        self.rounds.push_back(Round { number, index, reads: std::mem::take(&mut self.waiting) });
    }

    /// A majority answered round `number`, and so all before it.
    pub(super) fn confirm(&mut self, number: u64, ready: &mut Vec<ReadReady>) {
        while let Some(round) = self.rounds.front() {
            if round.number > number {
                return;
            }
            let index = round.index;
            self.count -= round.reads.len();
            ready.extend(round.reads.iter().map(|&id| ReadReady { id, index }));
            self.rounds.pop_front();
        }
    }

    pub(super) fn all(self) -> impl Iterator<Item = ReadId> {
        self.rounds.into_iter().flat_map(|round| round.reads).chain(self.waiting)
    }
}
