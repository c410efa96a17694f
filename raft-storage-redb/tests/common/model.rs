//! A log store that is simple enough to be right, and random writes to it.

use std::collections::BTreeMap;

use fastrand::Rng;
use raft_core::LogStore;
use raft_core::log_store::{LogState, StorageErrorKind, Write};
use raft_core::membership::Membership;
use raft_core::types::{Entry, EntryId, GroupId, Index, Outline, SnapshotMeta, Term};
use raft_storage_redb::RedbLogStore;

use super::{block_on, entry, hard_state};

#[derive(Clone, Debug, Default)]
pub(crate) struct Group {
    pub(crate) state: LogState,
    pub(crate) base: Index,
    pub(crate) entries: BTreeMap<Index, Entry>,
}

impl Group {
    fn write(&mut self, write: &Write) {
        if let Some(snapshot) = &write.snapshot {
            self.state.snapshot = Some(snapshot.clone());
        }
        if let Some(from) = write.truncate_from {
            self.entries.split_off(&from);
        }
        self.entries.extend(write.entries.iter().map(|e| (e.index(), e.clone())));
        self.state.hard_state = write.hard_state.unwrap_or(self.state.hard_state);
        if let Some(outline) = &write.outline {
            self.state.outline = outline.clone();
        }
        if let Some(mark) = write.compact_to {
            self.base = self.base.max(mark);
            self.entries = self.entries.split_off(&(self.base + 1));
        }
        self.state.last = self.entries.keys().next_back().copied().unwrap_or(self.base);
    }

    /// Whether the store holds of `group` just this.
    pub(crate) fn is_held(&self, store: &RedbLogStore, group: GroupId) -> bool {
        if block_on(store.load(group)).unwrap() != self.state {
            return false;
        }
        let read = |first, last| match block_on(store.read(group, first..=last, usize::MAX)) {
            Ok(entries) => Some(entries),
            Err(error) if error.kind() == StorageErrorKind::Invalid => None,
            Err(error) => panic!("group {group}: {error}"),
        };
        let compacted = self.base == 0 || read(self.base, self.base).is_none();
        let entries =
            || read(self.base + 1, self.state.last).is_some_and(|read| self.entries.values().eq(&read));
        compacted && (self.entries.is_empty() || entries())
    }
}

/// All groups.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model(pub(crate) BTreeMap<GroupId, Group>);

impl Model {
    pub(crate) fn write(&mut self, writes: &[Write]) {
        for write in writes {
            self.0.entry(write.group).or_default().write(write);
        }
    }

    pub(crate) fn is_held(&self, store: &RedbLogStore) -> bool {
        self.0.iter().all(|(group, held)| held.is_held(store, *group))
    }

    /// Anything that the contract allows, in any combination.
    pub(crate) fn random_write(&self, rng: &mut Rng, group: GroupId, term: Term, large: bool) -> Write {
        let default = Group::default();
        let held = self.0.get(&group).unwrap_or(&default);
        let mut write = Write { group, ..Write::default() };
        let (base, mut last) = (held.base, held.state.last);
        if rng.u8(..) < 60 {
            let from = rng.u64(base + 1..=last + 2);
            write.truncate_from = Some(from);
            last = last.min(from - 1);
        }
        if rng.u8(..) < 40 {
            let highest = if rng.bool() { last } else { last + 5 };
            write.compact_to = Some(rng.u64(0..=highest));
        }
        if rng.u8(..) < 20 {
            // A snapshot of another node's takes the log's place.
            let mark = last + rng.u64(1..30);
            (write.truncate_from, write.compact_to) = (Some(base + 1), Some(mark));
            write.snapshot = Some(snapshot_at(term, mark));
            last = base;
        } else if rng.u8(..) < 20 {
            write.snapshot = Some(snapshot_at(term, rng.u64(0..=last)));
        }
        if rng.u8(..) < 80 {
            let terms = (1..rng.u64(1..6)).map(|number| EntryId::new(number, base + number)).collect();
            let memberships = (0..rng.u64(..3)).map(|at| (base + at, Membership::default())).collect();
            write.outline = Some(Outline { base: EntryId::new(1, base), terms, memberships });
        }
        let mut first = last + 1;
        if last == base && rng.bool() {
            first = write.compact_to.filter(|mark| *mark >= first).map_or(first, |mark| mark + 1);
        }
        let count = match rng.u8(..) {
            0..80 => 0,
            80..160 => 1,
            160..250 => rng.u64(2..40),
            _ => rng.u64(300..900),
        };
        for index in first..first + if large { count } else { count.min(60) } {
            let bytes = if large && rng.u8(..) == 0 { rng.usize(..200_000) } else { rng.usize(..300) };
            write.entries.push(entry(term, index, vec![rng.u8(..); bytes]));
        }
        if rng.bool() {
            write.hard_state = Some(hard_state(term, rng.u64(1..4), rng.u64(..=last)));
        }
        write
    }
}

pub(crate) fn snapshot_at(term: Term, index: Index) -> SnapshotMeta {
    SnapshotMeta {
        last: EntryId::new(term, index),
        membership: Membership::default(),
        size_bytes: 77,
        checksum: 5,
    }
}
