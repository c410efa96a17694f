//! The log: its outline, and the entries that are still in memory.

mod outline;
mod tail;
#[cfg(test)]
mod tests;
mod weight;

use tail::Tail;
use weight::Weight;

use crate::membership::Membership;
use crate::types::{Entry, EntryId, Index, Lineage, Outline, Payload, Term};

/// The log as the engine sees it. `base <= last`; the tail ends at `last`.
#[derive(Debug)]
pub(crate) struct Log {
    outline: Outline,
    /// The last entry's index; the base's where there is none.
    last: Index,
    tail: Tail,
    weight: Weight,
    /// Whether the outline changed since it was last taken.
    outline_changed: bool,
}

impl Log {
    /// The log that a store holds; its entries stay on disk until asked for.
    pub(crate) fn new(outline: Outline, last: Index) -> Self {
        Self {
            outline,
            last,
            tail: Tail::starting_after(last),
            weight: Weight::starting_after(last),
            outline_changed: false,
        }
    }

    pub(crate) fn last(&self) -> EntryId {
        EntryId::new(self.term(self.last).unwrap_or(self.outline.base.term), self.last)
    }

    pub(crate) fn last_index(&self) -> Index {
        self.last
    }

    pub(crate) fn base(&self) -> EntryId {
        self.outline.base
    }

    /// The term of the entry at `index`; `None` where the log holds none, or it was compacted away.
    pub(crate) fn term(&self, index: Index) -> Option<Term> {
        if index > self.last { None } else { self.outline.term(index) }
    }

    /// The last entry at or before `index` whose term is not above `term`; the base where there is none. Where two logs
    /// part at `index`, nothing after this entry can be common to both (paper, end of 5.3).
    pub(crate) fn last_not_above(&self, index: Index, term: Term) -> EntryId {
        self.outline.last_not_above(index.min(self.last), term)
    }

    /// The configuration in force, and the index of its entry: the latest one in the log, committed or not (paper, 6).
    pub(crate) fn membership(&self) -> Option<(Index, &Membership)> {
        self.outline.memberships.last_key_value().map(|(&index, membership)| (index, membership))
    }

    /// The configuration in force at `index`.
    pub(crate) fn membership_at(&self, index: Index) -> Option<&Membership> {
        self.outline.memberships.range(..=index).next_back().map(|(_, membership)| membership)
    }

    /// A bug to plant: all configurations but the oldest are forgotten.
    #[cfg(feature = "testing")]
    pub(crate) fn forget_memberships(&mut self) {
        while self.outline.memberships.len() > 1 {
            self.outline.memberships.pop_last();
        }
    }

    /// The configuration in force at `index`, and the index of its entry.
    pub(crate) fn membership_entry_at(&self, index: Index) -> Option<(Index, &Membership)> {
        self.outline.memberships.range(..=index).next_back().map(|(&index, membership)| (index, membership))
    }

    /// The configuration in force at `index` and all after it, by the index of their entry.
    pub(crate) fn memberships_from(&self, index: Index) -> impl Iterator<Item = (Index, &Membership)> {
        let first = self.membership_entry_at(index).map_or(index, |(first, _)| first);
        self.outline.memberships.range(first..).map(|(&index, membership)| (index, membership))
    }

    /// The configuration that began the latest lineage; 0 where the log knows of no earlier one.
    pub(crate) fn lineage_start(&self) -> Index {
        let mut later: Option<(Index, Lineage)> = None;
        for (&index, membership) in self.outline.memberships.iter().rev() {
            match later {
                Some((start, lineage)) if lineage != membership.lineage => return start,
                _ => later = Some((index, membership.lineage)),
            }
        }
        0
    }

    /// Appends the entry after the last one. The caller has checked that it follows.
    pub(crate) fn append(&mut self, entry: Entry) {
        debug_assert_eq!(entry.index(), self.last + 1);
        self.last = entry.index();
        if self.outline.push(entry.id) {
            self.outline_changed = true;
        }
        if let Payload::Membership(membership) = &entry.payload {
            self.outline.memberships.insert(entry.index(), Membership::clone(membership));
            self.outline_changed = true;
        }
        let bytes = entry.bytes();
        self.weight.push(entry.index(), bytes);
        self.tail.push(entry, bytes);
    }

    /// Drops the entries up to `to`, which is in the log.
    pub(crate) fn compact(&mut self, to: Index) {
        if to <= self.outline.base.index || to > self.last {
            return;
        }
        self.outline.compact(to, self.last);
        self.tail.compact(to);
        self.weight.compact(to);
        self.outline_changed = true;
    }

    /// Puts a snapshot that ends at `base` in the place of all entries. That of a restored cluster has no members yet.
    pub(crate) fn replace(&mut self, base: EntryId, membership: Membership) {
        let known = (membership != Membership::default()).then_some((base.index, membership));
        self.outline = Outline { base, terms: Vec::new(), memberships: known.into_iter().collect() };
        self.last = base.index;
        self.tail = Tail::starting_after(self.last);
        self.weight = Weight::starting_after(self.last);
        self.outline_changed = true;
    }

    /// About the first index from which the entries up to `to` take at most `max_bytes`. What a restart found in the log
    /// counts as too much.
    pub(crate) fn first_within(&self, to: Index, max_bytes: usize) -> Index {
        self.weight.first_within(to, max_bytes)
    }

    /// Drops the entries from `from` on.
    pub(crate) fn truncate(&mut self, from: Index) {
        self.last = self.last.min(from.saturating_sub(1));
        if self.outline.truncate(self.last) {
            self.outline_changed = true;
        }
        self.tail.truncate(self.last);
        self.weight.truncate(self.last);
    }

    /// Entries from `from` to `to` that are in memory, at least one and at most `max_bytes`, with their bytes; `None`
    /// where the first is not in memory.
    pub(crate) fn slice(&self, from: Index, to: Index, max_bytes: usize) -> Option<(Vec<Entry>, usize)> {
        self.tail.slice(from, to, max_bytes)
    }

    /// The bytes of all entries in memory.
    pub(crate) fn bytes_in_memory(&self) -> usize {
        self.tail.bytes()
    }

    /// The bytes of the entries in memory after `index`.
    pub(crate) fn bytes_in_memory_after(&self, index: Index) -> usize {
        self.tail.bytes_after(index)
    }

    /// The first entry that is in memory; one above the last where none is.
    pub(crate) fn first_in_memory(&self) -> Index {
        self.tail.first()
    }

    /// Lets go of the oldest entries in memory, up to `to`, while there are more than `max_bytes`.
    pub(crate) fn evict(&mut self, to: Index, max_bytes: usize) {
        self.tail.evict(to, max_bytes);
    }

    /// The outline of the log up to `to`, if the outline changed since it was last taken. It still counts as changed where
    /// entries after `to` are left.
    pub(crate) fn take_outline(&mut self, to: Index) -> Option<Outline> {
        if !self.outline_changed {
            return None;
        }
        self.outline_changed = to < self.last;
        let mut outline = self.outline.clone();
        outline.truncate(to);
        Some(outline)
    }
}
