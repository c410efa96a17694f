//! The write-ahead log: the conformance suite of raft-core, and what it cannot see: crashes, damage, segments.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::fs;
use std::path::{Path, PathBuf};

use raft_bench::stores::wal::WalLogStore;
use raft_core::LogStore;
use raft_core::log_store::{StorageErrorKind, Write};
use raft_core::testing::suite::log_store::Suite;
use raft_core::types::{Entry, EntryId, GroupId, Index, Payload};
use tempfile::TempDir;

/// A case or topic to run alone, as `RAFT_CASE=truncation/at_every_position`.
fn conforms(segment_bytes: u64) {
    let suite = Suite::new(move || {
        let folder = TempDir::new().unwrap();
        move || WalLogStore::open_with(folder.path(), segment_bytes).unwrap()
    });
    let report = suite.only(std::env::var("RAFT_CASE").unwrap_or_default()).run();
    println!("{report:#}");
    report.assert_passed();
}

#[test]
fn it_conforms() {
    conforms(64 << 20);
}

#[test]
fn it_conforms_over_many_small_segments() {
    conforms(2_000);
}

const GROUP: GroupId = GroupId(1);

fn entry(index: Index) -> Entry {
    let command = format!("command {index}").repeat(1 + index as usize % 3);
    Entry { id: EntryId::new(1, index), payload: Payload::Command(command.into()) }
}

fn append(index: Index) -> Write {
    Write { group: GROUP, entries: vec![entry(index)], ..Write::default() }
}

async fn held(store: &WalLogStore) -> Vec<Entry> {
    match store.load(GROUP).await.unwrap().last {
        0 => Vec::new(),
        last => store.read(GROUP, 1..=last, usize::MAX).await.unwrap(),
    }
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let mut files: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|e| e == "wal")).collect();
    files.sort();
    files
}

/// A log of ten entries, each in a frame of its own: its newest segment, and where the frames end.
async fn ten(folder: &Path, segment_bytes: u64) -> (PathBuf, Vec<u64>) {
    let store = WalLogStore::open_with(folder, segment_bytes).unwrap();
    let newest = || segments(folder).pop().unwrap();
    let mut ends = vec![fs::metadata(newest()).unwrap().len()];
    for index in 1..=10 {
        store.write(&[append(index)]).await.unwrap();
        ends.push(fs::metadata(newest()).unwrap().len());
    }
    drop(store);
    (newest(), ends)
}

#[tokio::test]
async fn an_end_cut_anywhere_loses_what_it_cut() {
    let folder = TempDir::new().unwrap();
    let (path, ends) = ten(folder.path(), 1 << 20).await;
    let whole = fs::read(&path).unwrap();
    let expected: Vec<Entry> = (1..=10).map(entry).collect();
    for length in ends[0]..=ends[10] {
        fs::write(&path, &whole[..length as usize]).unwrap();
        let store = WalLogStore::open(folder.path()).unwrap();
        let kept = ends.iter().filter(|&&end| end <= length).count() - 1;
        assert_eq!(held(&store).await, expected[..kept], "cut to {length} bytes");
        // And it goes on, over what was cut.
        store.write(&[append(kept as Index + 1)]).await.unwrap();
        drop(store);
        let store = WalLogStore::open(folder.path()).unwrap();
        assert_eq!(held(&store).await.len(), kept + 1);
    }
}

#[tokio::test]
async fn a_torn_frame_is_told_from_damage() {
    let folder = TempDir::new().unwrap();
    let (path, ends) = ten(folder.path(), 1 << 20).await;
    let whole = fs::read(&path).unwrap();
    let last_frame = ends[9] as usize;
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x20;
        fs::write(&path, &bytes).unwrap();
        let opened = WalLogStore::open(folder.path());
        if at >= last_frame {
            // What was not synced may come in any shape: it is dropped.
            let store = opened.unwrap();
            assert_eq!(held(&store).await.len(), 9, "byte {at}");
        } else {
            let error = opened.err().unwrap();
            let expected = if at < 8 { StorageErrorKind::Format } else { StorageErrorKind::Corrupt };
            assert_eq!(error.kind(), expected, "byte {at}: {error}");
            assert_eq!(fs::read(&path).unwrap(), bytes, "byte {at}: left as it is");
        }
    }
    // Pages of the last frame that never reached the disk, and zeros where a file was only extended.
    for (from, to) in [(last_frame, whole.len()), (last_frame + 10, whole.len() - 10)] {
        let mut bytes = whole.clone();
        bytes[from..to].fill(0);
        bytes.extend([0; 5_000]);
        fs::write(&path, &bytes).unwrap();
        let store = WalLogStore::open(folder.path()).unwrap();
        assert_eq!(held(&store).await.len(), 9);
    }
}

#[tokio::test]
async fn damage_in_an_older_segment_is_no_torn_end() {
    let folder = TempDir::new().unwrap();
    ten(folder.path(), 300).await;
    let files = segments(folder.path());
    assert!(files.len() > 2, "{files:?}");
    let oldest = fs::read(&files[0]).unwrap();
    fs::write(&files[0], &oldest[..oldest.len() - 3]).unwrap();
    let error = WalLogStore::open(folder.path()).err().unwrap();
    assert_eq!(error.kind(), StorageErrorKind::Corrupt, "{error}");
    fs::write(&files[0], &oldest).unwrap();
    fs::remove_file(&files[1]).unwrap();
    let error = WalLogStore::open(folder.path()).err().unwrap();
    assert!(error.to_string().contains("is missing"), "{error}");
}

#[tokio::test]
async fn the_oldest_segment_that_is_needed_cannot_go_unnoticed() {
    let folder = TempDir::new().unwrap();
    ten(folder.path(), 300).await;
    fs::remove_file(&segments(folder.path())[0]).unwrap();
    let error = WalLogStore::open(folder.path()).err().unwrap();
    assert!(error.to_string().contains("group 1: entry 1 is missing"), "{error}");
}

#[tokio::test]
async fn compaction_deletes_segments() {
    let folder = TempDir::new().unwrap();
    let store = WalLogStore::open_with(folder.path(), 1_000).unwrap();
    for index in 1..=300 {
        let compact_to = (index % 10 == 0).then(|| index - 5);
        store.write(&[Write { compact_to, ..append(index) }]).await.unwrap();
    }
    assert!(segments(folder.path()).len() < 6, "{:?}", segments(folder.path()));
    drop(store);
    let store = WalLogStore::open(folder.path()).unwrap();
    let kept: Vec<Entry> = (296..=300).map(entry).collect();
    assert_eq!(store.read(GROUP, 296..=300, usize::MAX).await.unwrap(), kept);
}

#[test]
fn it_is_open_once() {
    let folder = TempDir::new().unwrap();
    let store = WalLogStore::open(folder.path()).unwrap();
    let error = WalLogStore::open(folder.path()).err().unwrap();
    assert_eq!(error.kind(), StorageErrorKind::Busy, "{error}");
    drop(store);
    WalLogStore::open(folder.path()).unwrap();
}

#[tokio::test]
async fn damage_under_an_open_log_is_never_served() {
    let folder = TempDir::new().unwrap();
    let store = WalLogStore::open(folder.path()).unwrap();
    store.write(&[append(1)]).await.unwrap();
    let path = segments(folder.path()).pop().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = store.read(GROUP, 1..=1, 100).await.unwrap_err();
    assert_eq!(error.kind(), StorageErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("group 1: entry 1 is damaged"), "{error}");
}
