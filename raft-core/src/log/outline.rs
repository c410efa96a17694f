//! Looking terms up without entries: one item a term, however long the log.

use crate::types::{EntryId, Index, Outline, Term};

impl Outline {
    /// The term of the entry at `index`, which is not beyond the log; `None` where it was compacted away.
    pub fn term(&self, index: Index) -> Option<Term> {
        if index < self.base.index {
            return None;
        }
        let runs = self.terms.partition_point(|first| first.index <= index);
        Some(if runs == 0 { self.base.term } else { self.terms[runs - 1].term })
    }

    pub(super) fn last_not_above(&self, index: Index, term: Term) -> EntryId {
        let mut index = index;
        let mut runs = self.terms.partition_point(|first| first.index <= index);
        while runs > 0 {
            let run = self.terms[runs - 1];
            if run.term <= term {
                return EntryId::new(run.term, index);
            }
            index = run.index - 1;
            runs -= 1;
        }
        self.base
    }

    /// Notes an entry appended; whether the outline changed.
    pub(super) fn push(&mut self, id: EntryId) -> bool {
        let before = self.terms.last().map_or(self.base.term, |first| first.term);
        let new = self.terms.is_empty() || id.term != before;
        if new {
            self.terms.push(id);
        }
        new
    }

    /// Forgets everything after `last`; whether the outline changed.
    pub(super) fn truncate(&mut self, last: Index) -> bool {
        let before = (self.terms.len(), self.memberships.len());
        self.terms.truncate(self.terms.partition_point(|first| first.index <= last));
        self.memberships.split_off(&(last + 1));
        before != (self.terms.len(), self.memberships.len())
    }

    /// Forgets everything up to `to`, which is not beyond `last`, but the configuration in force there.
    pub(super) fn compact(&mut self, to: Index, last: Index) {
        let Some(term) = self.term(to) else { return };
        let next_term = self.term(to + 1);
        let later = self.terms.partition_point(|first| first.index <= to + 1);
        self.terms.drain(..later);
        if let (true, Some(next_term)) = (to < last, next_term) {
            self.terms.insert(0, EntryId::new(next_term, to + 1));
        }
        self.base = EntryId::new(term, to);
        if let Some((&in_force, _)) = self.memberships.range(..=to).next_back() {
            self.memberships = self.memberships.split_off(&in_force);
        }
    }

    /// Whether it can be the outline of a log whose last index is `last`.
    pub(crate) fn fits(&self, last: Index) -> bool {
        let ascending =
            self.terms.windows(2).all(|pair| pair[0].term < pair[1].term && pair[0].index < pair[1].index);
        let starts = match self.terms.first() {
            Some(first) => first.index == self.base.index + 1 && first.term >= self.base.term.max(1),
            None => last == self.base.index,
        };
        let ends = self.terms.last().is_none_or(|first| first.index <= last);
        let members = self.memberships.last_key_value().is_none_or(|(&index, _)| index <= last);
        last >= self.base.index && ascending && starts && ends && members
    }
}
