//! The newest entries, in memory.

use std::collections::VecDeque;

use crate::types::{Entry, Index};

/// A run of entries without gaps that ends where the log ends.
#[derive(Debug)]
pub(super) struct Tail {
    /// The index of the first entry here; one above the log's last where there is none.
    first: Index,
    entries: VecDeque<Entry>,
    bytes: usize,
}

impl Tail {
    pub(super) fn starting_after(last: Index) -> Self {
        Self { first: last + 1, entries: VecDeque::new(), bytes: 0 }
    }

    pub(super) const fn first(&self) -> Index {
        self.first
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn bytes_after(&self, index: Index) -> usize {
        self.entries.iter().rev().take_while(|entry| entry.index() > index).map(Entry::bytes).sum()
    }

    pub(super) fn push(&mut self, entry: Entry) {
        self.bytes += entry.bytes();
        self.entries.push_back(entry);
    }

    pub(super) fn truncate(&mut self, last: Index) {
        while self.first + self.entries.len() as Index > last + 1 {
            match self.entries.pop_back() {
                Some(entry) => self.bytes -= entry.bytes(),
                None => {
                    self.first = last + 1;
                    return;
                }
            }
        }
    }

    pub(super) fn evict(&mut self, to: Index, max_bytes: usize) {
        while self.bytes > max_bytes && self.first <= to {
            let Some(entry) = self.entries.pop_front() else { return };
            self.bytes -= entry.bytes();
            self.first += 1;
        }
    }

    /// Lets go of all entries up to `to`.
    pub(super) fn compact(&mut self, to: Index) {
        while self.first <= to {
            match self.entries.pop_front() {
                Some(entry) => {
                    self.bytes -= entry.bytes();
                    self.first += 1;
                }
                None => self.first = to + 1,
            }
        }
    }

    pub(super) fn slice(&self, from: Index, to: Index, max_bytes: usize) -> Option<(Vec<Entry>, usize)> {
        let start = usize::try_from(from.checked_sub(self.first)?).ok()?;
        let wanted = usize::try_from((to + 1).checked_sub(from)?).ok()?;
        let mut bytes = 0;
        let mut count = 0;
        for entry in self.entries.iter().skip(start).take(wanted) {
            let more = bytes + entry.bytes();
            if count > 0 && more > max_bytes {
                break;
            }
            bytes = more;
            count += 1;
        }
        if count == 0 {
            return None;
        }
        Some((self.entries.range(start..start + count).cloned().collect(), bytes))
    }
}
