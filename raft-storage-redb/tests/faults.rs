//! A disk that fails, or stops, at every single operation; and what is left on it.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod common;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use common::*;
use fastrand::Rng;
use raft_core::LogStore;
use raft_core::log_store::{StorageError, StorageErrorKind, Write};
use raft_core::types::{Entry, HardState, Index};
use raft_storage_redb::{Options, RedbLogStore};
use redb::StorageBackend;

/// A disk in memory that tells what is written from what is synced.
#[derive(Clone, Debug, Default)]
struct Disk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    synced: Vec<u8>,
    /// What was written since the last sync.
    unsynced: Vec<Change>,
    operations: usize,
    /// From this operation on, all fail.
    fails_from: Option<usize>,
    /// Only this sync fails.
    failing_sync: Option<usize>,
    syncs: usize,
    error: Option<io::ErrorKind>,
}

#[derive(Clone, Debug)]
enum Change {
    Length(usize),
    Write(usize, Vec<u8>),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Length(length) => bytes.resize(*length, 0),
            Self::Write(at, data) => {
                let end = at + data.len();
                bytes.resize(bytes.len().max(end), 0);
                bytes[*at..end].copy_from_slice(data);
            }
        }
    }
}

impl State {
    fn operate(&mut self) -> io::Result<()> {
        let number = self.operations;
        self.operations += 1;
        match self.fails_from {
            Some(from) if number >= from => Err(self.error.unwrap_or(io::ErrorKind::Other).into()),
            _ => Ok(()),
        }
    }

    fn change(&mut self, change: Change) -> io::Result<()> {
        self.operate()?;
        change.apply(&mut self.bytes);
        self.unsynced.push(change);
        Ok(())
    }
}

impl Disk {
    fn holding(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(State { synced: bytes.clone(), bytes, ..State::default() })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn open(&self) -> Result<RedbLogStore, StorageError> {
        RedbLogStore::with_backend(self.clone(), &Options::default())
    }

    /// What a crash leaves: all that was synced, and of the rest, in one way or another, a part.
    fn crash(&self, rng: &mut Rng) -> Vec<u8> {
        let state = self.state();
        let mut left = state.synced.clone();
        if rng.bool() {
            // A prefix, the last write of it torn.
            let count = rng.usize(..=state.unsynced.len());
            for change in &state.unsynced[..count] {
                change.apply(&mut left);
            }
            if let Some(Change::Write(at, data)) = state.unsynced.get(count) {
                Change::Write(*at, data[..rng.usize(..=data.len())].to_vec()).apply(&mut left);
            }
        } else {
            // The writes that the disk had got to, in an order of its own.
            for change in &state.unsynced {
                if matches!(change, Change::Length(_)) || rng.bool() {
                    change.apply(&mut left);
                }
            }
        }
        left
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        let at = offset as usize;
        let bytes = state.bytes.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.state().change(Change::Length(len as usize))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        state.syncs += 1;
        if state.failing_sync == Some(state.syncs) {
            return Err(io::ErrorKind::Other.into());
        }
        state.synced = state.bytes.clone();
        state.unsynced.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.state().change(Change::Write(offset as usize, data.to_vec()))
    }
}

/// What a log should hold after each write of the workload.
type Content = (HardState, Index, Vec<Entry>);

/// Appends small and large, truncations, compactions, hard states.
fn workload() -> Vec<(Write, Content)> {
    let mut all = Vec::new();
    let mut content: Content = (HardState::default(), 0, Vec::new());
    for step in 1_u64..=12 {
        let (state, base, held) = &mut content;
        let mut write = append(Vec::new());
        if step % 4 == 0 {
            let cut = held.len() - held.len().min(3);
            held.truncate(cut);
            write.truncate_from = Some(*base + cut as u64 + 1);
        }
        let first = *base + held.len() as u64 + 1;
        let count = if step % 5 == 0 { 150 } else { step % 3 };
        write.entries = entries(step, first, first + count);
        held.extend(write.entries.clone());
        *state = hard_state(step, 1, *base);
        write.hard_state = Some(*state);
        if step % 6 == 0 {
            let mark = *base + held.len() as u64 - 2;
            held.drain(..(mark - *base) as usize);
            *base = mark;
            write.compact_to = Some(mark);
        }
        all.push((write, content.clone()));
    }
    all
}

fn content(store: &RedbLogStore, base: Index) -> Content {
    (block_on(store.load(GROUP)).unwrap().hard_state, base, read_from(store, base + 1))
}

#[test]
fn a_crash_at_every_operation_loses_nothing_acknowledged() {
    let workload = workload();
    let mut rng = Rng::with_seed(3);
    let mut points = 0;
    for stop in 0.. {
        let disk = Disk::default();
        disk.state().fails_from = Some(stop);
        let mut acknowledged = 0;
        if let Ok(store) = disk.open() {
            for (step, _) in &workload {
                match write(&store, step.clone()) {
                    Ok(()) => acknowledged += 1,
                    Err(_) => break,
                }
            }
            if acknowledged < workload.len() {
                assert_kind(write(&store, append(Vec::new())), StorageErrorKind::Failed);
            }
        }
        let finished = disk.state().operations <= stop;
        for _ in 0..4 {
            let left = disk.crash(&mut rng);
            let reopened = Disk::holding(left).open();
            // A creation that was cut short is no log yet; in a file it would not have its name.
            let store = match reopened {
                Err(_) if acknowledged == 0 => continue,
                reopened => reopened.unwrap_or_else(|error| panic!("stop {stop}: {error}")),
            };
            let matches = |count: usize| match count.checked_sub(1) {
                None => block_on(store.load(GROUP)).unwrap().last == 0,
                Some(at) => {
                    let expected = &workload[at].1;
                    last(&store) == expected.1 + expected.2.len() as u64
                        && content(&store, expected.1) == *expected
                }
            };
            // The write that was under way may be there, whole.
            let possible = acknowledged..=(acknowledged + 1).min(workload.len());
            assert!(possible.clone().any(matches), "stop {stop}: none of {possible:?}");
        }
        points += 1;
        if finished {
            break;
        }
    }
    assert!(points > 100, "{points}");
}

#[test]
fn a_crash_while_recovering_loses_nothing() {
    let workload = workload();
    let mut rng = Rng::with_seed(4);
    let disk = Disk::default();
    let store = disk.open().unwrap();
    for (step, _) in &workload {
        write(&store, step.clone()).unwrap();
    }
    // The power goes while the store is open: what follows is a repair.
    let left = disk.crash(&mut rng);
    drop(store);
    let expected = &workload.last().unwrap().1;
    for stop in 0.. {
        let disk = Disk::holding(left.clone());
        disk.state().fails_from = Some(stop);
        let opened = disk.open().is_ok();
        let finished = disk.state().operations <= stop;
        for _ in 0..4 {
            let store = Disk::holding(disk.crash(&mut rng)).open().unwrap();
            assert_eq!(content(&store, expected.1), *expected, "stop {stop}");
        }
        if finished {
            assert!(opened && stop > 5, "{stop}");
            break;
        }
    }
}

#[test]
fn a_failed_sync_is_final_even_if_the_next_would_succeed() {
    let disk = Disk::default();
    let store = disk.open().unwrap();
    write(&store, append(entries(1, 1, 3))).unwrap();
    {
        let mut state = disk.state();
        state.failing_sync = Some(state.syncs + 1);
    }
    let message = assert_kind(write(&store, append(entries(1, 4, 4))), StorageErrorKind::Io);
    assert!(message.contains("restart"), "{message}");
    let syncs = disk.state().syncs;
    for _ in 0..3 {
        assert_kind(write(&store, append(entries(1, 4, 4))), StorageErrorKind::Failed);
    }
    assert_eq!(disk.state().syncs, syncs, "a later write touched the disk");
    drop(store);
    let store = Disk::holding(disk.state().synced.clone()).open().unwrap();
    assert_eq!(read_from(&store, 1)[..3], entries(1, 1, 3));
}

#[test]
fn a_full_disk_says_so_and_goes_on_after_room_is_made() {
    let disk = Disk::default();
    let store = disk.open().unwrap();
    write(&store, append(entries(1, 1, 3))).unwrap();
    {
        let mut state = disk.state();
        state.fails_from = Some(state.operations);
        state.error = Some(io::ErrorKind::StorageFull);
    }
    let message = assert_kind(write(&store, append(entries(1, 4, 4))), StorageErrorKind::Full);
    assert!(message.contains("make room"), "{message}");
    drop(store);
    disk.state().fails_from = None;
    let store = disk.open().unwrap();
    assert_eq!(read_from(&store, 1)[..3], entries(1, 1, 3));
    let next = last(&store) + 1;
    write(&store, append(entries(1, next, next))).unwrap();
}

#[test]
fn a_commit_is_one_sync_and_with_two_phases_two() {
    for (two_phases, expected) in [(false, 1), (true, 2)] {
        let disk = Disk::default();
        let options = Options::default().two_phase_commit(two_phases);
        let store = RedbLogStore::with_backend(disk.clone(), &options).unwrap();
        for index in 1..=20 {
            let before = disk.state().syncs;
            let step =
                Write { hard_state: Some(hard_state(1, 1, index - 1)), ..append(entries(1, index, index)) };
            write(&store, step).unwrap();
            assert_eq!(disk.state().syncs - before, expected);
        }
    }
}
