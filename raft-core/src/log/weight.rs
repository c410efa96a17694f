//! About how many bytes the entries take, by index, without the entries.

use std::collections::VecDeque;

use crate::types::Index;

/// A mark is set each time the log has grown by so many bytes: a gigabyte of log costs 64 KiB of memory.
const BYTES_PER_MARK: usize = 256 << 10;

/// The entries appended in this run of the process, in pieces.
#[derive(Debug)]
pub(super) struct Weight {
    /// Of each piece the first index and the bytes; the last one still grows.
    pieces: VecDeque<(Index, usize)>,
    last: Index,
}

impl Weight {
    pub(super) fn starting_after(last: Index) -> Self {
        Self { pieces: VecDeque::from([(last + 1, 0)]), last }
    }

    pub(super) fn push(&mut self, index: Index, bytes: usize) {
        match self.pieces.back_mut() {
            Some((_, piece)) if *piece < BYTES_PER_MARK => *piece += bytes,
            _ => self.pieces.push_back((index, bytes)),
        }
        self.last = index;
    }

    pub(super) fn truncate(&mut self, last: Index) {
        while self.pieces.back().is_some_and(|&(first, _)| first > last + 1) {
            self.pieces.pop_back();
        }
        if self.pieces.is_empty() {
            self.pieces.push_back((last + 1, 0));
        }
        self.last = self.last.min(last);
    }

    pub(super) fn compact(&mut self, to: Index) {
        while self.pieces.get(1).is_some_and(|&(first, _)| first <= to + 1) {
            self.pieces.pop_front();
        }
    }

    /// About the first index from which the entries up to `to` take at most `max_bytes`; the first that is known of, where
    /// all do.
    pub(super) fn first_within(&self, to: Index, max_bytes: usize) -> Index {
        let mut bytes = 0_usize;
        let mut first_within = to + 1;
        for &(first, piece) in self.pieces.iter().rev() {
            if first > to {
                continue;
            }
            bytes = bytes.saturating_add(piece);
            if bytes > max_bytes {
                break;
            }
            first_within = first;
        }
        first_within
    }
}
