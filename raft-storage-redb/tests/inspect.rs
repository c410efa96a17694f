//! A log looked at, and repaired, from outside.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use common::*;
use fastrand::Rng;
use raft_core::LogStore;
use raft_core::log_store::{StorageErrorKind, Write};
use raft_core::types::{ClusterId, Entry, EntryId, GroupId, Incarnation, Index, NodeId, Outline};
use raft_storage_redb::{Damage, Inspector, RedbLogStore, Repair, Shutdown, compact};
use tempfile::TempDir;

/// The log of `node`: entries 1 to `last` of two terms in two groups, compacted up to 5.
fn build(path: &Path, node: u64, last: Index) -> RedbLogStore {
    let store = RedbLogStore::open(path).unwrap();
    block_on(store.claim(ClusterId(7), NodeId(node), Incarnation(node))).unwrap();
    for group in [1, 2].map(GroupId) {
        let mut first = 1;
        while first <= last {
            let end = last.min(first + 39);
            write(&store, Write { group, ..append(held(group, first, end)) }).unwrap();
            first = end + 1;
        }
        let outline = Outline {
            base: EntryId::new(1, 5),
            terms: vec![EntryId::new(1, 6), EntryId::new(4, 100)],
            memberships: BTreeMap::new(),
        };
        let step = Write {
            group,
            hard_state: Some(hard_state(4, node, 90)),
            outline: Some(outline),
            compact_to: Some(5),
            ..Write::default()
        };
        write(&store, step).unwrap();
    }
    store
}

fn held(group: GroupId, first: Index, last: Index) -> Vec<Entry> {
    let command = |index| format!("command {group}.{index} {}", "x".repeat(index as usize % 90));
    (first..=last).map(|index| entry(if index < 100 { 1 } else { 4 }, index, command(index))).collect()
}

/// Everything that an inspector shows.
fn seen(inspector: &Inspector) -> Vec<(GroupId, Vec<Result<Entry, Damage>>)> {
    let groups = inspector.groups();
    groups.iter().map(|log| (log.group, inspector.entries(log.group, ..).collect())).collect()
}

fn sound(entries: Vec<Entry>) -> Vec<Result<Entry, Damage>> {
    entries.into_iter().map(Ok).collect()
}

/// Flips a bit in every copy of `what` that the file holds.
fn damage(path: &Path, what: &str) {
    let mut bytes = fs::read(path).unwrap();
    let places: Vec<_> =
        (0..bytes.len() - what.len()).filter(|at| bytes[*at..].starts_with(what.as_bytes())).collect();
    assert!(!places.is_empty(), "{what}");
    for at in places {
        bytes[at + what.len() - 1] ^= 4;
    }
    fs::write(path, bytes).unwrap();
}

#[test]
fn an_inspector_sees_what_the_store_holds() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log.redb");
    let store = build(&path, 3, 300);
    let state = block_on(store.load(GROUP)).unwrap();
    let message = assert_kind(Inspector::open(&path), StorageErrorKind::Busy);
    assert!(message.contains("stop that process"), "{message}");
    // What a kill leaves is what is in the file now.
    let killed = folder.path().join("killed.redb");
    fs::copy(&path, &killed).unwrap();
    drop(store);
    for (path, shutdown) in [(&path, Shutdown::Orderly), (&killed, Shutdown::Crash)] {
        let before = fs::read(path).unwrap();
        let inspector = Inspector::open(path).unwrap();
        assert_eq!((inspector.shutdown(), inspector.format()), (shutdown, 1));
        let owner = inspector.owner().unwrap();
        assert_eq!((owner.cluster, owner.node, owner.claim.boot), (ClusterId(7), NodeId(3), 1));
        let log = inspector.group(GROUP).unwrap();
        assert_eq!((log.hard_state, &log.outline, log.last), (state.hard_state, &state.outline, state.last));
        assert_eq!(log.entries(), 6..=300);
        let all = [1, 2].map(GroupId).map(|group| (group, sound(held(group, 6, 300))));
        assert_eq!(seen(&inspector), all);
        for (first, last) in [(6, 6), (41, 41), (40, 41), (99, 200), (300, 300)] {
            let read: Vec<_> = inspector.entries(GroupId(2), first..=last).collect();
            assert_eq!(read, sound(held(GroupId(2), first, last)));
        }
        assert_eq!(inspector.entries(GROUP, 301..).count() + inspector.entries(GROUP, ..6).count(), 0);
        assert_eq!(inspector.entries(GroupId(9), ..).count(), 0);
        let report = inspector.verify();
        assert!(report.is_sound(), "{report:?}");
        let payload_bytes =
            |group| held(group, 6, 300).iter().map(|e| e.bytes() - Entry::OVERHEAD_BYTES).sum::<usize>();
        let sizes: Vec<_> =
            report.groups.iter().map(|g| (g.group, g.entries, g.payload_bytes as usize)).collect();
        assert_eq!(sizes, [1, 2].map(GroupId).map(|group| (group, 295, payload_bytes(group))));
        // Several may look, but nobody may write meanwhile, and nothing was changed.
        drop(Inspector::open(path).unwrap());
        assert_kind(RedbLogStore::open(path), StorageErrorKind::Busy);
        drop(inspector);
        assert!(fs::read(path).unwrap() == before);
        drop(RedbLogStore::open(path).unwrap());
    }
}

#[test]
fn what_is_no_log_is_not_inspected() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log.redb");
    assert_kind(Inspector::open(&path), StorageErrorKind::Io);
    assert_kind(compact(&path), StorageErrorKind::Io);
    for content in [&b""[..], b"redb", &[7; 10_000]] {
        fs::write(&path, content).unwrap();
        assert_kind(Inspector::open(&path), StorageErrorKind::Format);
    }
    drop(redb::Database::create(folder.path().join("other.redb")).unwrap());
    assert_kind(Inspector::open(folder.path().join("other.redb")), StorageErrorKind::Format);
}

#[test]
fn any_flipped_bit_is_found_or_changes_nothing() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log.redb");
    let store = build(&path, 3, 300);
    let killed = fs::read(&path).unwrap();
    drop(store);
    let closed = fs::read(&path).unwrap();
    let mut rng = Rng::with_seed(5);
    let mut found = 0;
    for sound in [closed, killed] {
        fs::write(&path, &sound).unwrap();
        let expected = seen(&Inspector::open(&path).unwrap());
        // Every byte of the header, one in each page, then places all over the file.
        let pages = (1..sound.len() / 4096).map(|page| page * 4096 + page % 64);
        let places: Vec<_> =
            (0..320).chain(pages).chain((0..200).map(|_| rng.usize(..sound.len()))).collect();
        for at in places {
            let mut rotten = sound.clone();
            rotten[at] ^= 1 << rng.u8(..8);
            fs::write(&path, &rotten).unwrap();
            let Ok(inspector) = Inspector::open(&path) else {
                found += 1;
                continue;
            };
            if inspector.verify().is_sound() {
                // After a crash, a damaged last commit looks like one that was cut short.
                let undone = inspector.shutdown() == Shutdown::CrashInCommit;
                assert!(seen(&inspector) == expected || undone, "byte {at}");
            } else {
                found += 1;
            }
            // What it shows of entries is right, or said to be damaged.
            for (group, entries) in seen(&inspector) {
                for entry in entries.into_iter().flatten() {
                    assert_eq!(vec![entry.clone()], held(group, entry.index(), entry.index()));
                }
            }
        }
    }
    assert!(found > 100, "{found}");
}

#[test]
fn a_commit_cut_short_is_told_from_damage() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log.redb");
    let store = build(&path, 3, 300);
    let before = fs::read(&path).unwrap();
    write(&store, append(held(GROUP, 301, 310))).unwrap();
    let after = fs::read(&path).unwrap();
    drop(store);
    // The last commit's header reached the disk, its other pages did not.
    let mut torn = before.clone();
    torn.resize(after.len(), 0);
    torn[..4096].copy_from_slice(&after[..4096]);
    fs::write(&path, &torn).unwrap();
    let inspector = Inspector::open(&path).unwrap();
    assert_eq!(inspector.shutdown(), Shutdown::CrashInCommit);
    assert!(inspector.verify().is_sound());
    assert_eq!(inspector.group(GROUP).unwrap().last, 300);
    drop(inspector);
    assert_eq!(last(&RedbLogStore::open(&path).unwrap()), 300);

    // The same crash, and an old entry that has rotten: no start goes over it in silence.
    fs::write(&path, &torn).unwrap();
    damage(&path, "command 1.150 ");
    let inspector = Inspector::open(&path).unwrap();
    assert_eq!(inspector.shutdown(), Shutdown::Crash);
    assert!(!inspector.verify().is_sound());
    drop(inspector);
    assert_kind(RedbLogStore::open(&path), StorageErrorKind::Corrupt);
}

#[test]
fn damaged_entries_are_replaced_by_those_of_another_node() {
    let folder = TempDir::new().unwrap();
    let [path, healthy, short] = ["1", "2", "3"].map(|node| folder.path().join(node).join("log.redb"));
    for after_a_kill in [false, true] {
        for old in [&path, &healthy, &short] {
            fs::remove_dir_all(old.parent().unwrap()).unwrap_or_default();
        }
        let store = build(&path, 1, 300);
        let state = block_on(store.load(GROUP)).unwrap();
        let killed = fs::read(&path).unwrap();
        drop(store);
        if after_a_kill {
            fs::write(&path, killed).unwrap();
        }
        drop((build(&healthy, 2, 300), build(&short, 3, 200)));
        damage(&path, "command 1.150 ");
        damage(&path, "command 1.290 ");
        damage(&path, "command 2.7 ");
        let message = assert_kind(RedbLogStore::open(&path), StorageErrorKind::Corrupt);
        assert!(message.contains("group 1: entries") && message.contains("repair"), "{message}");
        let rotten = fs::read(&path).unwrap();

        let mut repair = Repair::open(&path).unwrap();
        let missing: Vec<_> = repair.missing().to_vec();
        assert_eq!(missing.len(), 3, "{missing:?}");
        assert!(missing[0].1.contains(&150) && missing[1].1.contains(&290) && missing[2].1.contains(&7));
        // Not enough: nothing is changed.
        assert!(repair.replace_from(&Inspector::open(&short).unwrap()).unwrap() > 2);
        assert_eq!(repair.missing(), &missing[1..2]);
        let message = assert_kind(repair.finish(), StorageErrorKind::Corrupt);
        assert!(message.contains("another node's"), "{message}");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        assert!(fs::read(&path).unwrap() == rotten);

        let mut repair = Repair::open(&path).unwrap();
        let count: u64 = missing.iter().map(|(_, range)| range.end() - range.start() + 1).sum();
        assert_eq!(repair.replace_from(&Inspector::open(&healthy).unwrap()).unwrap(), count);
        assert_eq!(repair.replace_from(&Inspector::open(&healthy).unwrap()).unwrap(), 0);
        let repaired = repair.finish().unwrap();
        assert_eq!(repaired.replaced, count);
        assert!(fs::read(&repaired.kept).unwrap() == rotten);
        let store = RedbLogStore::open(&path).unwrap();
        assert_eq!(block_on(store.load(GROUP)).unwrap(), state);
        for group in [1, 2].map(GroupId) {
            let read = block_on(store.read(group, 6..=300, usize::MAX)).unwrap();
            assert_eq!(read, held(group, 6, 300));
        }
        let claim = block_on(store.claim(ClusterId(7), NodeId(1), Incarnation(9))).unwrap();
        assert_eq!((claim.incarnation, claim.boot), (Incarnation(1), 2));
    }
}

#[test]
fn no_other_entry_takes_the_place_of_a_damaged_one() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log.redb");
    drop(build(&path, 1, 300));
    damage(&path, "command 1.150 ");
    let mut repair = Repair::open(&path).unwrap();
    let (_, missing) = repair.missing()[0].clone();
    let of_another_term = entries(3, *missing.start(), *missing.end());
    let message = assert_kind(repair.replace_entries(GROUP, &of_another_term), StorageErrorKind::Invalid);
    assert!(message.contains("which is of term 4"), "{message}");
    assert_kind(repair.replace_entries(GroupId(5), &of_another_term), StorageErrorKind::Invalid);
    // Entries that are not missing are not taken, whatever they are.
    assert_eq!(repair.replace_entries(GROUP, &entries(3, 1, 20)).unwrap(), 0);
    // One by one, from the middle.
    let mut all: Vec<_> = held(GROUP, *missing.start(), *missing.end());
    let at = all.len() / 2;
    all.rotate_left(at);
    for entry in &all {
        assert_eq!(repair.replace_entries(GROUP, std::slice::from_ref(entry)).unwrap(), 1);
    }
    assert!(repair.missing().is_empty());
    repair.finish().unwrap();
    assert_eq!(read_from(&RedbLogStore::open(&path).unwrap(), 6), held(GROUP, 6, 300));

    let other = folder.path().join("other.redb");
    let store = RedbLogStore::open(&other).unwrap();
    block_on(store.claim(ClusterId(8), NodeId(2), Incarnation(2))).unwrap();
    drop(store);
    let mut repair = Repair::open(&path).unwrap();
    assert_kind(repair.replace_from(&Inspector::open(&other).unwrap()), StorageErrorKind::Foreign);
}

#[test]
fn a_lost_promise_is_not_repaired() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log.redb");
    drop(build(&path, 1, 300));
    let mut bytes = fs::read(&path).unwrap();
    // The state row: term 4, a vote for node 1, commit index 90.
    let row = [4_u64.to_le_bytes().as_slice(), &[1], &1_u64.to_le_bytes(), &90_u64.to_le_bytes()].concat();
    let places: Vec<_> = (0..bytes.len() - row.len()).filter(|at| bytes[*at..].starts_with(&row)).collect();
    assert!(!places.is_empty());
    places.iter().for_each(|at| bytes[at + 1] ^= 1);
    fs::write(&path, bytes).unwrap();
    let message = assert_kind(Repair::open(&path), StorageErrorKind::Corrupt);
    assert!(message.contains("no repair is safe") && message.contains("join"), "{message}");
    assert_kind(RedbLogStore::open(&path), StorageErrorKind::Corrupt);
}

#[test]
fn a_file_is_compacted() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log.redb");
    let store = build(&path, 1, 300);
    let large: Vec<_> = (301..=360).map(|index| entry(4, index, vec![1; 100_000])).collect();
    write(&store, append(large)).unwrap();
    write(&store, Write { truncate_from: Some(301), ..append(Vec::new()) }).unwrap();
    assert_kind(compact(&path), StorageErrorKind::Busy);
    drop(store);
    let done = compact(&path).unwrap();
    assert!(done.after_bytes < 1_000_000 && done.before_bytes > 5_000_000, "{done:?}");
    assert_eq!(fs::metadata(&path).unwrap().len(), done.after_bytes);
    assert_eq!(read_from(&RedbLogStore::open(&path).unwrap(), 6), held(GROUP, 6, 300));
}
