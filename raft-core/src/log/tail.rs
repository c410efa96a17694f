//! The newest entries, in memory.

use std::collections::VecDeque;

use crate::types::{Entry, Index};

/// A run of entries without gaps that ends where the log ends.
#[derive(Debug)]
pub(super) struct Tail {
    /// The index of the first entry here; one above the log's last where there is none.
    first: Index,
    entries: VecDeque<Entry>,
    /// For each of `entries` the bytes of all up to it, counted on and on from `dropped`: so the bytes of a part are known
    /// without a look at its entries, and each is cut out several times, for every peer, the disk and the state machine.
    ends: VecDeque<u64>,
    /// The bytes of all entries that were here before the first.
    dropped: u64,
}

impl Tail {
    pub(super) fn starting_after(last: Index) -> Self {
        Self { first: last + 1, entries: VecDeque::new(), ends: VecDeque::new(), dropped: 0 }
    }

    pub(super) const fn first(&self) -> Index {
        self.first
    }

    pub(super) fn bytes(&self) -> usize {
        count(self.end() - self.dropped)
    }

    pub(super) fn bytes_after(&self, index: Index) -> usize {
        let kept = (index + 1).saturating_sub(self.first).min(self.entries.len() as Index);
        count(self.end() - self.end_of(count(kept)))
    }

    /// `bytes` are those of the entry.
    pub(super) fn push(&mut self, entry: Entry, bytes: usize) {
        debug_assert_eq!(bytes, entry.bytes());
        self.ends.push_back(self.end() + bytes as u64);
        self.entries.push_back(entry);
    }

    pub(super) fn truncate(&mut self, last: Index) {
        let kept = count((last + 1).saturating_sub(self.first));
        self.entries.truncate(kept);
        self.ends.truncate(kept);
        self.first = self.first.min(last + 1);
    }

    pub(super) fn evict(&mut self, to: Index, max_bytes: usize) {
        while self.bytes() > max_bytes && self.first <= to && self.drop_first() {}
    }

    /// Lets go of all entries up to `to`.
    pub(super) fn compact(&mut self, to: Index) {
        while self.first <= to {
            if !self.drop_first() {
                self.first = to + 1;
            }
        }
    }

    pub(super) fn slice(&self, from: Index, to: Index, max_bytes: usize) -> Option<(Vec<Entry>, usize)> {
        let start = usize::try_from(from.checked_sub(self.first)?).ok()?;
        let wanted = usize::try_from((to + 1).checked_sub(from)?).ok()?;
        let all = start.saturating_add(wanted).min(self.entries.len());
        if start >= all {
            return None;
        }
        let before = self.end_of(start);
        let limit = before.saturating_add(max_bytes as u64);
        // As a rule all of them fit; at least one goes, however large.
        let end = if self.end_of(all) <= limit {
            all
        } else {
            self.ends.partition_point(|&end| end <= limit).clamp(start + 1, all)
        };
        let bytes = count(self.end_of(end) - before);
        Some((self.entries.range(start..end).cloned().collect(), bytes))
    }

    /// The bytes counted up to the last entry.
    fn end(&self) -> u64 {
        self.ends.back().copied().unwrap_or(self.dropped)
    }

    /// The bytes counted up to the first so many entries.
    fn end_of(&self, entries: usize) -> u64 {
        entries.checked_sub(1).and_then(|last| self.ends.get(last)).copied().unwrap_or(self.dropped)
    }

    /// Whether there was an entry to drop.
    fn drop_first(&mut self) -> bool {
        let (Some(_), Some(end)) = (self.entries.pop_front(), self.ends.pop_front()) else { return false };
        self.dropped = end;
        self.first += 1;
        true
    }
}

/// What lies in memory can be counted in its own unit.
fn count(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
