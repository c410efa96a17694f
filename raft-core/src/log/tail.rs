//! The newest entries, in memory.

use std::collections::VecDeque;
use std::ops::ControlFlow;

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

    /// `bytes` are those of the entry.
    pub(super) fn push(&mut self, entry: Entry, bytes: usize) {
        debug_assert_eq!(bytes, entry.bytes());
        self.bytes += bytes;
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
        let end = start.saturating_add(wanted).min(self.entries.len());
        if start >= end {
            return None;
        }
        let (mut bytes, mut count) = (0, 0);
        // Not a loop: the deque lies in two pieces, and this goes over each of them at once.
        let _full = self.entries.range(start..end).try_for_each(|entry| {
            let more = bytes + entry.bytes();
            if count > 0 && more > max_bytes {
                return ControlFlow::Break(());
            }
            (bytes, count) = (more, count + 1);
            ControlFlow::Continue(())
        });
        Some((self.entries.range(start..start + count).cloned().collect(), bytes))
    }
}
