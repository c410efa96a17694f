//! Disks in trouble: stalled, failing, full. And what a commit costs them.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod common;

use std::fs;
use std::time::Duration;

use common::*;
use raft_core::LogStore;
use raft_core::log_store::{StorageError, StorageErrorKind, Write};
use raft_core::types::GroupId;
use raft_storage_redb::testing::{
    CountingBackend, Counts, CrashDisk, Fault, FaultBackend, Faults, Tally, open_with_faults,
};
use raft_storage_redb::{Options, RedbLogStore};
use tempfile::TempDir;

const LONG: Duration = Duration::from_secs(60);

/// A store on a disk in memory that can be put into trouble, and that counts.
fn open(
    disk: &CrashDisk,
    faults: &Faults,
    counts: &Counts,
    options: &Options,
) -> Result<RedbLogStore, StorageError> {
    let counted = CountingBackend::new(disk.clone(), counts);
    RedbLogStore::with_backend(FaultBackend::new(counted, faults), options)
}

#[test]
fn a_stalled_disk_stalls_writes_and_nothing_else() {
    let folder = TempDir::new().unwrap();
    let control = folder.path().join("control");
    let faults = Faults::control_file(&control);
    let store = open_with_faults(folder.path().join("log.redb"), &Options::default(), &faults).unwrap();
    write(&store, append(entries(1, 1, 3))).unwrap();
    for by_file in [true, false] {
        if by_file {
            fs::write(&control, "stall\n").unwrap()
        } else {
            faults.set(Fault::Stall)
        }
        let before = last(&store);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| write(&store, append(entries(1, before + 1, before + 2))));
            assert!(faults.wait_stalled(LONG));
            // What was acknowledged is read meanwhile; what was not is not there.
            assert_eq!(read_from(&store, 1), entries(1, 1, before));
            assert!(!writer.is_finished());
            if by_file {
                fs::write(&control, "").unwrap()
            } else {
                faults.set(Fault::None)
            }
            writer.join().unwrap().unwrap();
        });
        assert_eq!(faults.stalled(), 0);
        assert_eq!(read_from(&store, 1), entries(1, 1, before + 2));
    }
}

#[test]
fn each_failure_is_final_and_says_what_to_do() {
    for (told, kind, advice) in [
        ("fail", StorageErrorKind::Io, "check the path and the device"),
        ("fail-sync", StorageErrorKind::Io, "check the path and the device"),
        ("full", StorageErrorKind::Full, "make room on the device"),
        ("full 1000", StorageErrorKind::Full, "make room on the device"),
        ("fulll", StorageErrorKind::Io, "it may say stall, fail"),
    ] {
        let folder = TempDir::new().unwrap();
        let (control, path) = (folder.path().join("control"), folder.path().join("log.redb"));
        let faults = Faults::control_file(&control);
        let store = open_with_faults(&path, &Options::default(), &faults).unwrap();
        write(&store, append(entries(1, 1, 3))).unwrap();
        fs::write(&control, told).unwrap();
        let message = assert_kind(write(&store, append(entries(1, 4, 4))), kind);
        assert!(message.contains(advice) && message.contains("log.redb"), "{told}: {message}");
        // The trouble is over, but nobody knows what the file holds: only a restart may go on.
        fs::remove_file(&control).unwrap();
        assert_kind(write(&store, append(entries(1, 4, 4))), StorageErrorKind::Failed);
        drop(store);
        let store = RedbLogStore::open(&path).unwrap();
        assert_eq!(read_from(&store, 1)[..3], entries(1, 1, 3));
        let next = last(&store) + 1;
        write(&store, append(entries(2, next, next + 9))).unwrap();
    }
}

#[test]
fn a_failed_read_is_an_error_and_ends_nothing() {
    let folder = TempDir::new().unwrap();
    let faults = Faults::new();
    let options = Options::default().cache_bytes(0);
    let store = open_with_faults(folder.path().join("log.redb"), &options, &faults).unwrap();
    write(&store, append(entries(1, 1, 300))).unwrap();
    faults.set(Fault::FailRead);
    let message = assert_kind(block_on(store.read(GROUP, 1..=300, usize::MAX)), StorageErrorKind::Io);
    assert!(message.contains("cannot read"), "{message}");
}

#[test]
fn a_failed_sync_is_never_tried_again() {
    let (disk, faults, counts) = (CrashDisk::new(), Faults::new(), Counts::new());
    let store = open(&disk, &faults, &counts, &Options::default()).unwrap();
    write(&store, append(entries(1, 1, 3))).unwrap();
    faults.set(Fault::FailSync);
    let message = assert_kind(write(&store, append(entries(1, 4, 4))), StorageErrorKind::Io);
    assert!(message.contains("restart"), "{message}");
    faults.set(Fault::None);
    let before = counts.tally();
    for _ in 0..3 {
        assert_kind(write(&store, append(entries(1, 4, 4))), StorageErrorKind::Failed);
    }
    // What waits while a sync fails fails with it.
    let Tally { writes, syncs, .. } = counts.tally() - before;
    assert_eq!((writes, syncs), (0, 0), "a later write touched the disk");
}

#[test]
fn writes_that_wait_while_one_fails_fail_too() {
    let (disk, faults, counts) = (CrashDisk::new(), Faults::new(), Counts::new());
    let store = open(&disk, &faults, &counts, &Options::default()).unwrap();
    faults.set(Fault::Stall);
    let results: Vec<_> = std::thread::scope(|scope| {
        let one = |group| {
            let store = &store;
            move || write(store, Write { group: GroupId(group), ..append(entries(1, 1, 1)) })
        };
        let first = scope.spawn(one(0));
        assert!(faults.wait_stalled(LONG));
        let waiting: Vec<_> = (1..9).map(|group| scope.spawn(one(group))).collect();
        faults.set(Fault::FailSync);
        let mut results = vec![first.join().unwrap()];
        results.extend(waiting.into_iter().map(|thread| thread.join().unwrap()));
        results
    });
    assert!(results.iter().all(Result::is_err), "{results:?}");
    assert!(results.iter().flat_map(|r| r.as_ref().err()).any(|e| e.kind() == StorageErrorKind::Failed));
}

#[test]
fn a_full_disk_loses_nothing_and_goes_on_after_room_is_made() {
    for room in (0..400_000).step_by(usize::try_from(size("RAFT_STORAGE_FULL_STRIDE", 9_973)).unwrap()) {
        let (disk, faults, counts) = (CrashDisk::new(), Faults::new(), Counts::new());
        let store = open(&disk, &faults, &counts, &Options::default()).unwrap();
        faults.set(Fault::FullAfter(room));
        let mut acknowledged = 0;
        let error = loop {
            match write(&store, append(entries(1, acknowledged + 1, acknowledged + 7))) {
                Ok(()) => acknowledged += 7,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), StorageErrorKind::Full, "{room}: {error}");
        assert!(error.to_string().contains("make room"), "{error}");
        drop(store);
        // Still full: the next start says so as well, or opens and fails at its first write.
        faults.set(Fault::Full);
        match open(&disk, &faults, &counts, &Options::default()) {
            Err(error) => assert_eq!(error.kind(), StorageErrorKind::Full, "{room}: {error}"),
            Ok(store) => drop(assert_kind(write(&store, append(Vec::new())), StorageErrorKind::Full)),
        }
        faults.set(Fault::None);
        let store = open(&disk, &faults, &counts, &Options::default())
            .unwrap_or_else(|error| panic!("{room}: {error}"));
        let last = last(&store);
        assert!(last >= acknowledged, "{room}: {last} < {acknowledged}");
        assert_eq!(read_from(&store, 1), entries(1, 1, last));
        write(&store, append(entries(2, last + 1, last + 9))).unwrap();
    }
}

#[test]
fn a_commit_is_one_sync_and_with_two_phases_two() {
    for (options, expected) in [
        (Options::default(), 1),
        (Options::default().two_phase_commit(true), 2),
        (Options::default().quick_repair(true), 2),
    ] {
        let (disk, counts) = (CrashDisk::new(), Counts::new());
        let store = open(&disk, &Faults::new(), &counts, &options).unwrap();
        let opened = counts.tally();
        for index in 1..=20 {
            let before = counts.tally();
            let step =
                Write { hard_state: Some(hard_state(1, 1, index - 1)), ..append(entries(1, index, index)) };
            write(&store, step).unwrap();
            let Tally { syncs, resizes, .. } = counts.tally() - before;
            // When the file grows, which it does by a good part of its size, redb syncs its length first.
            assert_eq!(syncs - resizes, expected);
        }
        let bytes = (counts.tally() - opened).written_bytes / 20;
        assert!(bytes < 60_000, "{bytes} bytes for one entry");
    }
}

/// Writes of `count` groups, of `bytes` each, handed in while the disk is stalled; the commits that they take then.
fn commits_of(count: u64, bytes: usize, options: &Options) -> u64 {
    let (disk, faults, counts) = (CrashDisk::new(), Faults::new(), Counts::new());
    let store = open(&disk, &faults, &counts, options).unwrap();
    faults.set(Fault::Stall);
    let before = counts.tally();
    std::thread::scope(|scope| {
        let store = &store;
        scope.spawn(move || write(store, append(entries(1, 1, 1))).unwrap());
        assert!(faults.wait_stalled(LONG));
        // Each future is polled once, which hands its write in; then all are waited for.
        let writes: Vec<_> = (10..10 + count)
            .map(|group| [Write { group: GroupId(group), ..append(vec![entry(1, 1, vec![7; bytes])]) }])
            .collect();
        let mut waiting: Vec<_> = writes.iter().map(|writes| store.write(writes)).collect();
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        for future in &mut waiting {
            assert!(future.as_mut().poll(&mut context).is_pending());
        }
        faults.set(Fault::None);
        for future in waiting {
            block_on(future).unwrap();
        }
    });
    for group in 10..10 + count {
        assert_eq!(block_on(store.load(GroupId(group))).unwrap().last, 1);
    }
    let Tally { syncs, resizes, .. } = counts.tally() - before;
    syncs - resizes
}

#[test]
fn what_waits_becomes_one_commit_up_to_a_limit() {
    // One for the write that was on its way, one for all that waited meanwhile.
    assert_eq!(commits_of(100, 1000, &Options::default()), 2);
    // 40 entries of 64 overhead and 10,000 bytes, at most four of them in 45,000 bytes.
    assert_eq!(commits_of(40, 10_000, &Options::default().max_commit_bytes(45_000)), 1 + 10);
    // One larger than the limit is a commit by itself.
    assert_eq!(commits_of(5, 10_000, &Options::default().max_commit_bytes(100)), 1 + 5);
}

#[test]
fn truncation_and_compaction_are_of_the_same_commit() {
    let (disk, counts) = (CrashDisk::new(), Counts::new());
    let store = open(&disk, &Faults::new(), &counts, &Options::default()).unwrap();
    for first in (1..=2000).step_by(20) {
        write(&store, append(entries(1, first, first + 19))).unwrap();
    }
    let before = counts.tally();
    let step = Write { truncate_from: Some(1501), compact_to: Some(1000), ..append(entries(2, 1501, 1510)) };
    write(&store, step).unwrap();
    assert_eq!((counts.tally() - before).syncs, 1);
    assert_eq!(block_on(store.read(GROUP, 1001..=1500, usize::MAX)).unwrap(), entries(1, 1001, 1500));
}
