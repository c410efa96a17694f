//! The contract of a log: what is written comes back.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod common;

use std::collections::BTreeMap;

use common::*;
use raft_core::LogStore;
use raft_core::log_store::{LogState, StorageErrorKind, Write};
use raft_core::membership::Membership;
use raft_core::types::{Entry, EntryId, GroupId, HardState, Outline, Payload, SnapshotMeta};
use raft_storage_redb::RedbLogStore;
use tempfile::TempDir;

fn store() -> (TempDir, RedbLogStore) {
    let folder = TempDir::new().unwrap();
    let store = RedbLogStore::open(folder.path().join("log.redb")).unwrap();
    (folder, store)
}

fn reopen(folder: &TempDir, store: RedbLogStore) -> RedbLogStore {
    drop(store);
    RedbLogStore::open(folder.path().join("log.redb")).unwrap()
}

fn snapshot_at(term: u64, index: u64) -> SnapshotMeta {
    let last = EntryId::new(term, index);
    SnapshotMeta { last, membership: Membership::default(), size_bytes: 77, checksum: 5 }
}

#[test]
fn a_new_store_holds_nothing() {
    let (_folder, store) = store();
    assert_eq!(block_on(store.load(GROUP)).unwrap(), LogState::default());
    assert_kind(block_on(store.read(GROUP, 1..=1, 100)), StorageErrorKind::Invalid);
}

#[test]
fn everything_comes_back_and_survives_reopening() {
    let (folder, mut store) = store();
    let outline = Outline {
        base: EntryId::ZERO,
        terms: vec![EntryId::new(1, 1)],
        memberships: BTreeMap::from([(2, Membership::default())]),
    };
    let mut all = entries(1, 1, 3);
    all.push(Entry { id: EntryId::new(1, 4), payload: Payload::Noop });
    all.push(Entry { id: EntryId::new(2, 5), payload: Payload::Membership(Box::default()) });
    all.push(entry(2, 6, []));
    let state = LogState {
        hard_state: hard_state(2, 3, 4),
        outline: outline.clone(),
        snapshot: Some(snapshot_at(1, 2)),
        last: 6,
    };
    write(
        &store,
        Write {
            number: 1,
            snapshot: state.snapshot.clone(),
            hard_state: Some(state.hard_state),
            outline: Some(outline),
            ..append(all.clone())
        },
    )
    .unwrap();
    for _ in 0..2 {
        assert_eq!(block_on(store.load(GROUP)).unwrap(), state);
        assert_eq!(read_from(&store, 1), all);
        store = reopen(&folder, store);
    }
    // What a write does not mention stays.
    write(&store, append(entries(2, 7, 7))).unwrap();
    assert_eq!(block_on(store.load(GROUP)).unwrap(), LogState { last: 7, ..state.clone() });
    let unvoted = HardState { term: 9, vote: None, commit: 5 };
    write(&store, Write { hard_state: Some(unvoted), ..append(vec![]) }).unwrap();
    assert_eq!(block_on(store.load(GROUP)).unwrap(), LogState { hard_state: unvoted, last: 7, ..state });
}

#[test]
fn truncation_at_every_position_of_every_chunk() {
    // Chunks of one, of a few, and more than a page; each cut before, within and after.
    let chunks = [(1, 1), (2, 5), (6, 6), (7, 140), (141, 143)];
    for from in (1..=12).chain([60, 100, 139, 140, 141, 142, 143, 144, 200]) {
        let (folder, mut store) = store();
        let mut model = Vec::new();
        for (first, last) in chunks {
            let chunk = entries(1, first, last);
            model.extend(chunk.clone());
            write(&store, append(chunk)).unwrap();
        }
        model.truncate(from as usize - 1);
        write(&store, Write { truncate_from: Some(from), ..append(vec![]) }).unwrap();
        assert_eq!(last(&store), model.len() as u64);
        assert_eq!(read_from(&store, 1), model, "from {from}");
        store = reopen(&folder, store);
        let next = model.len() as u64 + 1;
        // Truncation and its replacement in one write.
        let again = entries(2, next - 1, next + 1);
        if next > 1 {
            model.pop();
            model.extend(again.clone());
            write(&store, Write { truncate_from: Some(next - 1), ..append(again) }).unwrap();
            assert_eq!(read_from(&store, 1), model);
        }
    }
}

#[test]
fn compaction_at_every_position() {
    let chunks = [(1, 1), (2, 5), (6, 6), (7, 140), (141, 143)];
    for mark in (1..=8).chain([60, 139, 140, 141, 142, 143, 150]) {
        let (folder, mut store) = store();
        for (first, last) in chunks {
            write(&store, append(entries(1, first, last))).unwrap();
        }
        write(&store, Write { compact_to: Some(mark), ..append(vec![]) }).unwrap();
        for _ in 0..2 {
            assert_eq!(last(&store), mark.max(143));
            let kept = if mark < 143 { entries(1, mark + 1, 143) } else { Vec::new() };
            assert_eq!(read_from(&store, mark + 1), kept);
            assert_kind(block_on(store.read(GROUP, mark..=mark, 1)), StorageErrorKind::Invalid);
            store = reopen(&folder, store);
        }
        // A lower mark changes nothing; the log goes on after the higher one.
        let next = mark.max(143) + 1;
        write(&store, Write { compact_to: Some(mark - 1), ..append(entries(3, next, next + 1)) }).unwrap();
        assert_kind(block_on(store.read(GROUP, mark..=mark, 1)), StorageErrorKind::Invalid);
        assert_eq!(block_on(store.read(GROUP, next..=next + 1, 1000)).unwrap(), entries(3, next, next + 1));
        // Down to the mark, and on again.
        let again = entries(4, mark + 1, mark + 2);
        write(&store, Write { truncate_from: Some(mark + 1), ..append(again.clone()) }).unwrap();
        assert_eq!(read_from(&store, mark + 1), again);
    }
}

#[test]
fn a_snapshot_replaces_the_log() {
    let (folder, store) = store();
    write(&store, append(entries(1, 1, 9))).unwrap();
    let replaced = Write {
        snapshot: Some(snapshot_at(3, 20)),
        truncate_from: Some(1),
        compact_to: Some(20),
        ..append(entries(3, 21, 22))
    };
    write(&store, replaced).unwrap();
    let store = reopen(&folder, store);
    let state = block_on(store.load(GROUP)).unwrap();
    assert_eq!((state.last, state.snapshot), (22, Some(snapshot_at(3, 20))));
    assert_eq!(read_from(&store, 21), entries(3, 21, 22));
}

#[test]
fn a_snapshot_within_the_log_keeps_what_follows() {
    let (_folder, store) = store();
    write(&store, append(entries(1, 1, 9))).unwrap();
    write(&store, Write { snapshot: Some(snapshot_at(1, 5)), compact_to: Some(5), ..append(vec![]) })
        .unwrap();
    assert_eq!(read_from(&store, 6), entries(1, 6, 9));
}

#[test]
fn reads_keep_to_the_limit() {
    let (_folder, store) = store();
    let all: Vec<Entry> = (1..=200).map(|index| entry(1, index, vec![7; 1000])).collect();
    for chunk in all.chunks(33) {
        write(&store, append(chunk.to_vec())).unwrap();
    }
    let each = all[0].bytes();
    for (max_bytes, count) in [
        (0, 1),
        (1, 1),
        (each, 1),
        (2 * each - 1, 1),
        (2 * each, 2),
        (100 * each + 5, 100),
        (usize::MAX, 195),
    ] {
        let read = block_on(store.read(GROUP, 6..=200, max_bytes)).unwrap();
        assert_eq!(read, all[5..5 + count], "{max_bytes}");
    }
    assert_eq!(block_on(store.read(GROUP, 40..=41, usize::MAX)).unwrap(), all[39..41]);
    #[allow(clippy::reversed_empty_ranges, reason = "that is what is refused")]
    for range in [0..=1, 200..=201, 5..=4, 201..=201, 0..=u64::MAX] {
        assert_kind(block_on(store.read(GROUP, range, 1000)), StorageErrorKind::Invalid);
    }
}

#[test]
fn huge_and_empty_commands() {
    let (folder, mut store) = store();
    let sizes = [0, 1, 5 << 20, 0, 65_536 - 24 - 25, 65_536, 0, 4096 - 24 - 25, 3 << 20];
    let all: Vec<Entry> = (1_u64..)
        .zip(sizes)
        .map(|(index, size)| entry(1, index, (0..size).map(|i| i as u8).collect::<Vec<u8>>()))
        .collect();
    write(&store, append(all.clone())).unwrap();
    for _ in 0..2 {
        assert_eq!(read_from(&store, 1), all);
        assert_eq!(block_on(store.read(GROUP, 3..=9, 10)).unwrap(), all[2..3]);
        store = reopen(&folder, store);
    }
}

#[test]
fn many_groups_in_one_write_and_twice_the_same() {
    let (folder, store) = store();
    let mut writes = Vec::new();
    for group in 0..100 {
        writes.push(Write {
            group: GroupId(group),
            hard_state: Some(hard_state(group + 1, group, 0)),
            ..append(entries(group + 1, 1, 1 + group % 5))
        });
    }
    // Later writes of the same call see the earlier ones.
    writes.push(Write { group: GroupId(7), truncate_from: Some(2), ..append(entries(99, 2, 4)) });
    writes.push(Write { group: GroupId(7), compact_to: Some(1), ..append(entries(99, 5, 5)) });
    block_on(store.write(&writes)).unwrap();
    let store = reopen(&folder, store);
    for group in (0..100).filter(|group| *group != 7) {
        let state = block_on(store.load(GroupId(group))).unwrap();
        assert_eq!(state.hard_state, hard_state(group + 1, group, 0));
        let read = block_on(store.read(GroupId(group), 1..=state.last, usize::MAX)).unwrap();
        assert_eq!(read, entries(group + 1, 1, 1 + group % 5));
    }
    assert_eq!(block_on(store.read(GroupId(7), 2..=5, usize::MAX)).unwrap(), entries(99, 2, 5));
    // The neighbours' rows are not touched by one group's truncation and compaction.
    let writes = [
        Write { group: GroupId(50), truncate_from: Some(1), ..Write::default() },
        Write { group: GroupId(52), compact_to: Some(1000), ..Write::default() },
        Write { group: GroupId(u64::MAX), entries: entries(1, 1, 2), ..Write::default() },
    ];
    block_on(store.write(&writes)).unwrap();
    for (group, last) in [(49, 5), (50, 0), (51, 2), (52, 1000), (53, 4), (u64::MAX, 2)] {
        assert_eq!(block_on(store.load(GroupId(group))).unwrap().last, last, "group {group}");
    }
}

#[test]
fn what_does_not_fit_is_refused_whole_and_for_good() {
    let misfits = [
        append(entries(1, 5, 5)),
        append(entries(1, 3, 3)),
        Write { truncate_from: Some(1), ..append(vec![]) },
        append(vec![entry(1, 4, "a"), entry(1, 6, "b")]),
    ];
    for misfit in misfits {
        let (folder, store) = store();
        write(&store, Write { compact_to: Some(1), ..append(entries(1, 1, 3)) }).unwrap();
        let other = Write { group: GroupId(2), ..append(entries(1, 1, 1)) };
        assert_kind(block_on(store.write(&[other, misfit])), StorageErrorKind::Invalid);
        assert_kind(write(&store, append(entries(1, 4, 4))), StorageErrorKind::Failed);
        // Reading goes on, and the writes before the misfit are not there.
        assert_eq!(block_on(store.load(GroupId(2))).unwrap(), LogState::default());
        let store = reopen(&folder, store);
        assert_eq!(block_on(store.load(GroupId(2))).unwrap(), LogState::default());
        write(&store, append(entries(1, 4, 4))).unwrap();
        assert_eq!(read_from(&store, 2), entries(1, 2, 4));
    }
}

#[test]
fn reads_beside_writes_see_what_returned_before() {
    let (_folder, store) = store();
    std::thread::scope(|scope| {
        let (written, seen) = std::sync::mpsc::channel();
        let store = &store;
        scope.spawn(move || {
            for index in 1..=300 {
                write(store, append(entries(1, index, index))).unwrap();
                written.send(index).unwrap();
            }
        });
        for index in seen {
            assert!(last(store) >= index);
            let read = block_on(store.read(GROUP, index..=index, usize::MAX)).unwrap();
            assert_eq!(read, entries(1, index, index));
        }
    });
    assert_eq!(last(&store), 300);
}

#[test]
fn a_dropped_future_does_not_undo_its_write() {
    let (folder, store) = store();
    write(&store, append(entries(1, 1, 1))).unwrap();
    {
        let writes = [append(entries(1, 2, 2))];
        let mut future = store.write(&writes);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let _ = future.as_mut().poll(&mut context);
    }
    write(&store, append(entries(1, 3, 3))).unwrap();
    let store = reopen(&folder, store);
    assert_eq!(read_from(&store, 1), entries(1, 1, 3));
}
