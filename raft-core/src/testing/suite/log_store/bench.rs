//! What a case plays on: a store, a model of what it must hold, and a note of each step.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::model::Model;
use crate::log_store::{Claim, LogState, LogStore, StorageError, StorageErrorKind, Write};
pub(super) use crate::testing::suite::Failure;
use crate::testing::{display, polled};
use crate::types::{
    ClusterId, Entry, EntryId, GroupId, HardState, Incarnation, Index, NodeId, Payload, Term,
};

/// Opens the store in one place.
pub(super) type Open = Box<dyn Fn() -> Box<dyn LogStore>>;

/// What a case comes to.
pub(super) type Check = Result<(), Failure>;

/// The group of cases that need only one.
pub(super) const GROUP: GroupId = GroupId(1);

/// See above. `largest_entry_bytes` is what a command may have at most.
pub(super) struct Bench {
    /// Before `open`, which may own the place: fields are dropped in turn.
    store: Option<Box<dyn LogStore>>,
    open: Open,
    pub(super) largest_entry_bytes: usize,
    pub(super) patience: Duration,
    models: BTreeMap<GroupId, Model>,
    steps: Vec<String>,
    number: u64,
}

impl Bench {
    pub(super) const fn new(open: Open, largest_entry_bytes: usize, patience: Duration) -> Self {
        Self {
            store: None,
            open,
            largest_entry_bytes,
            patience,
            models: BTreeMap::new(),
            steps: Vec::new(),
            number: 0,
        }
    }

    pub(super) fn failure(&self, expected: impl Into<String>, came: impl Into<String>) -> Failure {
        Failure::new(expected, came).after(self.steps.clone())
    }

    pub(super) fn step(&mut self, step: impl Into<String>) {
        self.steps.push(step.into());
    }

    /// The store.
    pub(super) fn store(&self) -> Result<&dyn LogStore, Failure> {
        self.store.as_deref().ok_or_else(|| self.failure("an open store", "it is not open"))
    }

    /// Closes the store if it is open, and opens it again.
    pub(super) fn reopen(&mut self) -> Check {
        if self.store.is_some() {
            self.step("reopen");
        }
        self.store = None;
        self.store = Some((self.open)());
        Ok(())
    }

    /// Waits for a call of the store. One that hangs is never dropped: neither would the store's end come.
    fn wait<T>(&mut self, call: &str, ended: Option<T>) -> Result<T, Failure> {
        if ended.is_none() {
            std::mem::forget(self.store.take());
        }
        ended.ok_or_else(|| {
            self.failure(
                format!("{call} ends"),
                format!(
                    "it still waits after {:?}: a deadlock, or a runtime that is not there",
                    self.patience
                ),
            )
        })
    }

    /// One call of the store, whatever it gives.
    pub(super) fn try_write(&mut self, writes: &[Write]) -> Result<Result<(), StorageError>, Failure> {
        self.step(calls(writes));
        let ended = polled::wait(self.store()?.write(writes), self.patience);
        self.wait("write", ended)
    }

    pub(super) fn try_load(&mut self, group: GroupId) -> Result<Result<LogState, StorageError>, Failure> {
        let ended = polled::wait(self.store()?.load(group), self.patience);
        self.wait("load", ended)
    }

    pub(super) fn try_read(
        &mut self,
        group: GroupId,
        range: RangeInclusive<Index>,
        max_bytes: usize,
    ) -> Result<Result<Vec<Entry>, StorageError>, Failure> {
        let ended = polled::wait(self.store()?.read(group, range, max_bytes), self.patience);
        self.wait("read", ended)
    }

    pub(super) fn try_claim(
        &mut self,
        cluster: u128,
        node: u64,
        fresh: u64,
    ) -> Result<Result<Claim, StorageError>, Failure> {
        self.step(format!("claim for node {node} of cluster {cluster}, fresh incarnation {fresh}"));
        let call = self.store()?.claim(ClusterId(cluster), NodeId(node), Incarnation(fresh));
        let ended = polled::wait(call, self.patience);
        self.wait("claim", ended)
    }

    /// A call that must succeed.
    pub(super) fn write_all(&mut self, mut writes: Vec<Write>) -> Check {
        for write in &mut writes {
            self.number += 1;
            write.number = self.number;
        }
        let written = self.try_write(&writes)?;
        self.succeeds("write", written)?;
        self.note(&writes);
        Ok(())
    }

    /// A call of one write that must succeed.
    pub(super) fn write(&mut self, write: Write) -> Check {
        self.write_all(vec![write])
    }

    /// The model takes writes that the store has.
    pub(super) fn note(&mut self, writes: &[Write]) {
        for write in writes {
            self.models.entry(write.group).or_default().write(write);
        }
    }

    /// A call of one write that must be refused as invalid.
    pub(super) fn refuse(&mut self, write: Write) -> Check {
        let written = self.try_write(&[write])?;
        self.fails("write", written, StorageErrorKind::Invalid)
    }

    pub(super) fn succeeds<T>(&self, call: &str, result: Result<T, StorageError>) -> Result<T, Failure> {
        result.map_err(|error| {
            self.failure(format!("{call} succeeds"), format!("it fails ({:?}): {error}", error.kind()))
        })
    }

    pub(super) fn fails<T>(
        &self,
        call: &str,
        result: Result<T, StorageError>,
        kind: StorageErrorKind,
    ) -> Check {
        let came = match result {
            Err(error) if error.kind() == kind => return Ok(()),
            Err(error) => format!("it fails with kind {:?}: {error}", error.kind()),
            Ok(_) => "it succeeds".to_owned(),
        };
        Err(self.failure(format!("{call} fails with kind {kind:?}"), came))
    }

    pub(super) fn load(&mut self, group: GroupId) -> Result<LogState, Failure> {
        let loaded = self.try_load(group)?;
        self.succeeds(&format!("load of group {group}"), loaded)
    }

    pub(super) fn read(
        &mut self,
        group: GroupId,
        range: RangeInclusive<Index>,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, Failure> {
        let read = self.try_read(group, range.clone(), max_bytes)?;
        self.succeeds(&format!("read of group {group}, {range:?}, at most {max_bytes} bytes"), read)
    }

    /// A read gives just these.
    pub(super) fn reads(
        &mut self,
        group: GroupId,
        range: RangeInclusive<Index>,
        max_bytes: usize,
        expected: &[Entry],
    ) -> Check {
        let came = self.read(group, range.clone(), max_bytes)?;
        if came == expected {
            return Ok(());
        }
        let at = came.iter().zip(expected).take_while(|(a, b)| a == b).count();
        Err(self.failure(
            format!(
                "reading {range:?} of group {group}, at most {max_bytes} bytes, gives {}",
                told(expected, at)
            ),
            told(&came, at),
        ))
    }

    /// There is nothing to read at `index`.
    pub(super) fn gone(&mut self, group: GroupId, index: Index) -> Check {
        let read = self.try_read(group, index..=index, usize::MAX)?;
        self.fails(&format!("read of group {group} at {index}"), read, StorageErrorKind::Invalid)
    }

    /// The group's log as the model has it.
    pub(super) fn model(&self, group: GroupId) -> Model {
        self.models.get(&group).cloned().unwrap_or_default()
    }

    /// The store holds what the model holds of each group, entry by entry.
    pub(super) fn check(&mut self) -> Check {
        let groups: Vec<GroupId> = self.models.keys().copied().collect();
        groups.into_iter().try_for_each(|group| self.check_group(group))
    }

    pub(super) fn check_group(&mut self, group: GroupId) -> Check {
        self.check_state(group)?;
        let entries = self.model(group).entries();
        match entries.as_slice() {
            [] => Ok(()),
            [first, .., last] => self.reads(group, first.index()..=last.index(), usize::MAX, &entries),
            [only] => self.reads(group, only.index()..=only.index(), usize::MAX, &entries),
        }
    }

    /// The store holds what the model holds of a group, beside its entries.
    pub(super) fn check_state(&mut self, group: GroupId) -> Check {
        let expected = self.model(group).state();
        let came = self.load(group)?;
        let differs = |what: &str, expected: String, came: String| {
            Err(self.failure(format!("load of group {group} gives {what} {expected}"), came))
        };
        if came.last != expected.last {
            return differs("last index", expected.last.to_string(), came.last.to_string());
        }
        if came.hard_state != expected.hard_state {
            let text = |state: &LogState| display::hard_state(&state.hard_state);
            return differs("hard state", text(&expected), text(&came));
        }
        if came.snapshot != expected.snapshot {
            return differs("snapshot", format!("{:?}", expected.snapshot), format!("{:?}", came.snapshot));
        }
        if came.outline != expected.outline {
            return differs("outline", format!("{:?}", expected.outline), format!("{:?}", came.outline));
        }
        Ok(())
    }

    /// As [`Self::check`], now and after the store was opened again.
    pub(super) fn check_twice(&mut self) -> Check {
        self.check()?;
        self.reopen()?;
        self.check()
    }
}

/// A call in one line.
fn calls(writes: &[Write]) -> String {
    let told = writes.iter().take(3).map(|write| format!("group {} {}", write.group, display::write(write)));
    let told: Vec<String> = told.collect();
    let more = writes.len().saturating_sub(told.len());
    let more = if more > 0 { format!("; {more} more in this call") } else { String::new() };
    format!("write {}{more}", told.join("; "))
}

/// Entries in one line, and what is in the one at `at`.
fn told(entries: &[Entry], at: usize) -> String {
    let text = format!("{} entries {}", entries.len(), display::entries(entries));
    match entries.get(at) {
        Some(Entry { id, payload: Payload::Command(command) }) if command.len() > 20 => {
            let checksum = crc32c::crc32c(command);
            format!("{text}; {id} is {} bytes with CRC-32C {checksum:08x}", command.len())
        }
        Some(entry) => format!("{text}; {} is {}", entry.id, display::payload(&entry.payload)),
        None => text,
    }
}

/// A command of these bytes.
pub(super) fn command(term: Term, index: Index, bytes: impl Into<Vec<u8>>) -> Entry {
    Entry { id: EntryId::new(term, index), payload: Payload::Command(bytes.into().into()) }
}

/// Entries `first..=last` of `term`, each with a command that names it.
pub(super) fn entries(term: Term, first: Index, last: Index) -> Vec<Entry> {
    (first..=last).map(|index| command(term, index, format!("{term}.{index}"))).collect()
}

/// A write that appends to [`GROUP`].
pub(super) fn append(entries: Vec<Entry>) -> Write {
    append_to(GROUP, entries)
}

pub(super) fn append_to(group: GroupId, entries: Vec<Entry>) -> Write {
    Write { group, entries, ..Write::default() }
}

pub(super) const fn hard_state(term: Term, vote: u64, commit: Index) -> HardState {
    HardState { term, vote: Some(NodeId(vote)), commit }
}
