//! A simulated disk: what is durable, and what is still on its way.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::stored::Stored;
use crate::log_store::{LogState, LogStore, Write};
use crate::types::{Entry, EntryId, HardState, Index, Outline, Peer, SnapshotMeta, Term};

/// What a log store holds of one group. Its parts change only as writes say, each by itself, so that a write whose
/// outline does not fit its entries is found out.
#[derive(Clone, Debug, Default)]
pub struct Image {
    hard_state: HardState,
    outline: Outline,
    snapshot: Option<SnapshotMeta>,
    compacted: Index,
    entries: Vec<Entry>,
    /// The first entry of each term, kept from the entries alone: what the outline must say.
    terms: Vec<EntryId>,
}

impl Image {
    /// An image that holds `entries` from index 1 on, as if written long ago.
    pub fn of(hard_state: HardState, mut outline: Outline, entries: Vec<Entry>) -> Self {
        let mut image = Self { hard_state, ..Self::default() };
        for entry in entries {
            image.push(entry);
        }
        outline.terms.clone_from(&image.terms);
        image.outline = outline;
        image
    }

    /// What `LogStore::load` would give.
    pub fn state(&self) -> LogState {
        LogState {
            hard_state: self.hard_state,
            outline: self.outline.clone(),
            snapshot: self.snapshot.clone(),
            last: self.last_index(),
        }
    }

    /// The durable hard state.
    pub const fn hard_state(&self) -> HardState {
        self.hard_state
    }

    /// The last entry's index.
    pub fn last_index(&self) -> Index {
        self.compacted + self.entries.len() as u64
    }

    /// The last entry.
    pub fn last(&self) -> EntryId {
        self.entries.last().map_or(self.outline.base, |e| e.id)
    }

    /// The term of the entry at `index`; 0 before the first, `None` where there is none.
    pub fn term(&self, index: Index) -> Option<Term> {
        if index == self.compacted {
            return Some(self.outline.base.term);
        }
        self.entry(index).map(Entry::term)
    }

    /// Whether the entry at `index` is that of `term`, or lies in what was compacted, and so was committed.
    pub fn holds(&self, index: Index, term: Option<Term>) -> bool {
        index < self.compacted || (term.is_some() && self.term(index) == term)
    }

    /// The last entry that was compacted.
    pub const fn base(&self) -> EntryId {
        self.outline.base
    }

    /// The entry at `index`.
    pub fn entry(&self, index: Index) -> Option<&Entry> {
        let place = index.checked_sub(self.compacted + 1)?;
        self.entries.get(usize::try_from(place).ok()?)
    }

    /// All entries held, ascending.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// What `LogStore::read` would give; nothing where the range is gone.
    pub fn read(&self, range: &RangeInclusive<Index>, max_bytes: usize) -> Vec<Entry> {
        let mut read = Vec::new();
        let mut bytes = 0;
        for index in range.clone() {
            let Some(entry) = self.entry(index) else { break };
            bytes += entry.bytes();
            if bytes > max_bytes && !read.is_empty() {
                break;
            }
            read.push(entry.clone());
        }
        read
    }

    /// Carries out one write.
    ///
    /// # Errors
    /// Where the write breaks the contract of `LogStore`, or leaves an outline that is not that of the entries.
    pub fn write(&mut self, write: &Write) -> Result<(), String> {
        if let Some(snapshot) = &write.snapshot {
            self.snapshot = Some(snapshot.clone());
        }
        if let Some(from) = write.truncate_from {
            if from <= self.compacted {
                return Err(format!("write {} truncates compacted entries from {from}", write.number));
            }
            let keep = usize::try_from(from - self.compacted - 1).unwrap_or(usize::MAX);
            self.entries.truncate(keep);
            self.terms.retain(|first| first.index < from);
        }
        if let (true, Some(through)) = (self.entries.is_empty(), write.compact_to) {
            // A snapshot in the place of the log: what is appended follows it.
            self.compacted = self.compacted.max(through);
        }
        for entry in &write.entries {
            if entry.index() != self.last_index() + 1 {
                return Err(format!(
                    "write {} appends {} after {}: not the next index",
                    write.number,
                    entry.id,
                    self.last()
                ));
            }
            if entry.term() < self.entries.last().map_or(0, Entry::term) {
                return Err(format!(
                    "write {} appends {} after {}: the term goes back",
                    write.number,
                    entry.id,
                    self.last()
                ));
            }
            self.push(entry.clone());
        }
        if let Some(hard_state) = write.hard_state {
            self.hard_state = hard_state;
        }
        if let Some(outline) = &write.outline {
            self.outline = outline.clone();
        }
        if let Some(through) = write.compact_to {
            let drop = usize::try_from(through.saturating_sub(self.compacted)).unwrap_or(usize::MAX);
            self.entries.drain(..drop.min(self.entries.len()));
            self.compacted = self.compacted.max(through);
            self.terms.clear();
            for entry in &self.entries {
                if self.terms.last().is_none_or(|first| first.term < entry.term()) {
                    self.terms.push(entry.id);
                }
            }
        }
        self.check_outline().map_err(|wrong| format!("write {}: {wrong}", write.number))
    }

    fn push(&mut self, entry: Entry) {
        if entry.term() > self.entries.last().map_or(0, Entry::term) {
            self.terms.push(entry.id);
        }
        self.entries.push(entry);
    }

    fn check_outline(&self) -> Result<(), String> {
        if self.outline.base.index != self.compacted {
            return Err(format!(
                "the outline begins after {}, the log after {}",
                self.outline.base, self.compacted
            ));
        }
        if self.outline.terms != self.terms {
            return Err(format!(
                "the outline's terms {} are not the log's {}",
                ids(&self.outline.terms),
                ids(&self.terms)
            ));
        }
        if let Some((&index, _)) = self.outline.memberships.last_key_value()
            && index > self.last_index()
        {
            return Err(format!("the outline has a membership at {index}, beyond the log's end"));
        }
        Ok(())
    }
}

fn ids(ids: &[EntryId]) -> String {
    let texts: Vec<String> = ids.iter().map(EntryId::to_string).collect();
    format!("[{}]", texts.join(" "))
}

/// A disk: an image, and the writes that are on their way to it in order.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    image: Image,
    ahead: Image,
    in_flight: VecDeque<Write>,
    /// A store of the user's that holds the same.
    stored: Option<Stored>,
}

impl Disk {
    /// A disk that holds `image`.
    pub fn new(image: Image) -> Self {
        Self { ahead: image.clone(), image, in_flight: VecDeque::new(), stored: None }
    }

    /// Keeps everything in `store` as well, which is empty.
    ///
    /// # Errors
    /// Where the store breaks the contract of `LogStore`.
    pub fn keep_in(&mut self, store: Arc<dyn LogStore>) -> Result<(), String> {
        self.stored = Some(Stored::new(store, &self.image)?);
        Ok(())
    }

    /// The node of this disk starts.
    ///
    /// # Errors
    /// Where the user's store does not hold what was written.
    pub fn open(&mut self, local: Peer) -> Result<(), String> {
        self.stored.as_mut().map_or(Ok(()), |stored| stored.open(local, &self.image))
    }

    /// What `LogStore::read` gives.
    ///
    /// # Errors
    /// Where the user's store does not give what was written.
    pub fn read(&self, range: &RangeInclusive<Index>, max_bytes: usize) -> Result<Vec<Entry>, String> {
        match &self.stored {
            Some(stored) => stored.read(range, max_bytes, &self.image),
            None => Ok(self.image.read(range, max_bytes)),
        }
    }

    /// What is durable.
    pub const fn image(&self) -> &Image {
        &self.image
    }

    /// What will be durable when every write on its way has arrived.
    pub const fn ahead(&self) -> &Image {
        &self.ahead
    }

    /// The numbers of the writes on their way, ascending.
    pub fn in_flight(&self) -> impl ExactSizeIterator<Item = u64> + '_ {
        self.in_flight.iter().map(|write| write.number)
    }

    /// Begins a write.
    ///
    /// # Errors
    /// Where the write breaks the contract of the log store.
    pub fn submit(&mut self, write: Write) -> Result<(), String> {
        self.ahead.write(&write)?;
        self.in_flight.push_back(write);
        Ok(())
    }

    /// Makes the writes through `number` durable.
    ///
    /// # Errors
    /// Where a write breaks the contract.
    pub fn complete(&mut self, number: u64) -> Result<(), String> {
        let count = self.in_flight.iter().take_while(|write| write.number <= number).count();
        self.complete_first(count)
    }

    fn complete_first(&mut self, count: usize) -> Result<(), String> {
        let writes: Vec<Write> = self.in_flight.drain(..count.min(self.in_flight.len())).collect();
        for write in &writes {
            self.image.write(write)?;
        }
        match &self.stored {
            Some(stored) if !writes.is_empty() => stored.write(&writes, &self.image),
            _ => Ok(()),
        }
    }

    /// A write failed, and whoever retried it was told that it is durable, though the system had dropped its pages: what a
    /// retried fsync does. To prove that it is caught.
    pub fn forget(&mut self, number: u64) {
        self.in_flight.retain(|write| write.number != number);
    }

    /// Power fails: the first `keep` writes on their way were durable after all, the others are lost.
    ///
    /// # Errors
    /// Where a write breaks the contract.
    pub fn crash(&mut self, keep: usize) -> Result<(), String> {
        self.complete_first(keep)?;
        self.in_flight.clear();
        self.ahead = self.image.clone();
        Ok(())
    }
}

/// Entries of the given terms from index 1 on, each with a command of its own.
pub fn entries_of_terms(terms: &[Term]) -> Vec<Entry> {
    (1..)
        .zip(terms)
        .map(|(index, &term)| Entry {
            id: EntryId::new(term, index),
            payload: crate::types::Payload::Command(format!("x{index}").into()),
        })
        .collect()
}

/// An outline in which `membership` was in force from the start.
pub fn founded_outline(membership: crate::membership::Membership) -> Outline {
    Outline { memberships: BTreeMap::from([(0, membership)]), ..Outline::default() }
}
