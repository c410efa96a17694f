//! What a restart on a long log costs: `RAFT_STORAGE_RESTART_ENTRIES` sets how long, for figures with `--release`.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod common;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use common::*;
use raft_core::LogStore;
use raft_core::log_store::Write;
use raft_core::types::{Entry, Index};
use raft_storage_redb::testing::{CountingBackend, Counts, open_wrapped};
use raft_storage_redb::{Options, RedbLogStore};
use tempfile::TempDir;

fn held(first: Index, last: Index) -> Vec<Entry> {
    (first..=last).map(|index| entry(1, index, vec![index as u8; 64])).collect()
}

fn fill(path: &Path, options: &Options, count: u64) -> RedbLogStore {
    let store = RedbLogStore::open_with(path, options).unwrap();
    let mut first = 1;
    // Half of it in large commits, half in small ones, as a log is.
    while first <= count {
        let last = count.min(first + if first < count / 2 { 999 } else { 29 });
        let step = Write { hard_state: Some(hard_state(1, 1, first - 1)), ..append(held(first, last)) };
        write(&store, step).unwrap();
        first = last + 1;
    }
    store
}

/// Until the log is open and its state and its newest entry are read; and how often its size was read.
fn restart(path: &Path, options: &Options, count: u64) -> (Duration, f64) {
    let counts = Counts::new();
    let start = Instant::now();
    let store = open_wrapped(path, options, |file| CountingBackend::new(file, &counts)).unwrap();
    assert_eq!(last(&store), count);
    assert_eq!(block_on(store.read(GROUP, count..=count, 1)).unwrap(), held(count, count));
    let took = start.elapsed();
    (took, counts.tally().read_bytes as f64 / fs::metadata(path).unwrap().len() as f64)
}

#[test]
fn a_restart_on_a_long_log_is_short() {
    let count = size("RAFT_STORAGE_RESTART_ENTRIES", 20_000);
    let folder = TempDir::new().unwrap();
    for (name, options) in
        [("", Options::default()), (" with quick repair", Options::default().quick_repair(true))]
    {
        let [path, copy] = ["log.redb", "copy.redb"].map(|file| folder.path().join(file));
        let store = fill(&path, &options, count);
        // What a kill leaves is what is in the file now.
        let killed = fs::read(&path).unwrap();
        drop(store);
        let closed = fs::read(&path).unwrap();
        for (how, bytes) in [("closed", closed), ("killed", killed)] {
            for verify in [true, false] {
                fs::write(&copy, &bytes).unwrap();
                // Else the restart would wait until the copy is on disk.
                fs::File::open(&copy).unwrap().sync_all().unwrap();
                let (took, read) = restart(&copy, &options.clone().verify_on_open(verify), count);
                println!(
                    "{count} entries, {} MB{name}, {how}, verify_on_open({verify}): {took:.1?}, {read:.2} of the file read",
                    bytes.len() >> 20,
                );
                assert!(read < 2.5, "{read} of the file read");
                assert!(took < Duration::from_secs(1), "{took:?}");
            }
        }
        fs::remove_file(path).unwrap();
    }
}
