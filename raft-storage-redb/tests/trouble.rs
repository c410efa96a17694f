//! A disk that gets into trouble while the store is open, by the public [`Faults`].

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod common;

use std::fs;
use std::time::Duration;

use common::*;
use raft_core::LogStore;
use raft_core::log_store::StorageErrorKind;
use raft_storage_redb::testing::{Fault, Faults, open_with_faults};
use raft_storage_redb::{Options, RedbLogStore};
use tempfile::TempDir;

const LONG: Duration = Duration::from_secs(60);

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
