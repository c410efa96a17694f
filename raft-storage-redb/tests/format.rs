//! Format 1, byte for byte: what is written never changes without a new version, and files of each version are kept in
//! `tests/files` and open for ever.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod common;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use common::*;
use raft_core::LogStore;
use raft_core::log_store::{LogState, Write};
use raft_core::membership::{Membership, NodeInfo};
use raft_core::types::{
    ClusterId, Entry, EntryId, GroupId, HardState, Incarnation, Lineage, NodeId, Outline, Payload,
    SnapshotMeta,
};
use raft_storage_redb::{Inspector, RedbLogStore, Shutdown, compact};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

const STORE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("raft_store");
const GROUPS: TableDefinition<'_, (u64, u8), &[u8]> = TableDefinition::new("raft_groups");
const LOG: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("raft_log");

fn dump(path: &Path) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let database = Database::create(path).unwrap();
    let txn = database.begin_read().unwrap();
    let mut text = String::new();
    for row in txn.open_table(STORE).unwrap().iter().unwrap() {
        let (key, value) = row.unwrap();
        writeln!(text, "{} {}", key.value(), hex(value.value())).unwrap();
    }
    for row in txn.open_table(GROUPS).unwrap().iter().unwrap() {
        let (key, value) = row.unwrap();
        writeln!(text, "group {:?} {}", key.value(), hex(value.value())).unwrap();
    }
    for row in txn.open_table(LOG).unwrap().iter().unwrap() {
        let (key, value) = row.unwrap();
        writeln!(text, "log {:?} {}", key.value(), hex(value.value())).unwrap();
    }
    text
}

#[test]
fn the_rows_are_those_of_format_1() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("log.redb");
    let store = RedbLogStore::open(&path).unwrap();
    block_on(store.claim(ClusterId(0xC1), NodeId(2), Incarnation(3))).unwrap();
    let outline = Outline {
        base: EntryId::new(1, 1),
        terms: vec![EntryId::new(4, 2)],
        memberships: std::collections::BTreeMap::new(),
    };
    let first = vec![entry(1, 1, "a"), Entry { id: EntryId::new(4, 2), payload: Payload::Noop }];
    write(&store, append(first)).unwrap();
    let second = Write {
        hard_state: Some(hard_state(4, 2, 1)),
        outline: Some(outline),
        compact_to: Some(1),
        ..append(vec![entry(4, 3, "bc")])
    };
    write(&store, second).unwrap();
    drop(store);
    assert_eq!(dump(&path), include_str!("files/format-1.txt"));
}

/// What the kept files hold of groups 1 and 2; of 3, a snapshot and no entry.
fn kept(group: GroupId, lineage: Lineage) -> (LogState, Vec<Entry>) {
    let node = |address: &str, client: &str, incarnation| NodeInfo {
        address: address.into(),
        client_address: client.into(),
        incarnation: Incarnation(incarnation),
    };
    let nodes = BTreeMap::from([
        (NodeId(1), node("10.0.0.1:7000", "10.0.0.1:80", 5)),
        (NodeId(2), node("node-2:7000", "", 0xF00D)),
    ]);
    let member = Membership { lineage, ..Membership::of_voters(nodes) };
    let memberships = BTreeMap::from([(4, member.clone())]);
    let snapshot =
        |last| SnapshotMeta { last, membership: member.clone(), size_bytes: 1 << 33, checksum: 0xABCD };
    if group == GroupId(3) {
        let base = EntryId::new(9, 1000);
        let state = LogState {
            hard_state: HardState { term: 9, vote: None, commit: 1000 },
            outline: Outline {
                base,
                terms: Vec::new(),
                memberships: BTreeMap::from([(1000, member.clone())]),
            },
            snapshot: Some(snapshot(base)),
            last: 1000,
        };
        return (state, Vec::new());
    }
    let mut held = vec![
        Entry { id: EntryId::new(1, 3), payload: Payload::Noop },
        Entry { id: EntryId::new(2, 4), payload: Payload::Membership(Box::new(member.clone())) },
        entry(2, 5, "command"),
        entry(2, 6, []),
        entry(2, 7, (0..20_000_u32).map(|i| (i % 251) as u8).collect::<Vec<u8>>()),
    ];
    held.extend(entries(3 + group.0, 8, 60));
    let state = LogState {
        hard_state: hard_state(3 + group.0, group.0, 50),
        outline: Outline {
            base: EntryId::new(1, 2),
            terms: vec![EntryId::new(1, 3), EntryId::new(2, 4), EntryId::new(3 + group.0, 8)],
            memberships,
        },
        snapshot: Some(snapshot(EntryId::new(1, 2))),
        last: 60,
    };
    (state, held)
}

/// Writes what [`kept`] says, over what has been truncated and compacted.
fn write_kept(path: &Path, lineage: Lineage) {
    let store = RedbLogStore::open(path).unwrap();
    block_on(store.claim(ClusterId(0xC1), NodeId(2), Incarnation(0xF00D))).unwrap();
    for group in [1, 2, 3].map(GroupId) {
        write(&store, Write { group, ..append(entries(1, 1, 20)) }).unwrap();
        let (state, held) = kept(group, lineage);
        let from = held.first().map_or(1, Entry::index);
        let (first, rest) = held.split_at(held.len() / 2);
        let writes = [
            Write { group, truncate_from: Some(from), ..append(first.to_vec()) },
            Write { group, hard_state: Some(state.hard_state), ..append(rest.to_vec()) },
            Write {
                group,
                outline: Some(state.outline),
                compact_to: state.snapshot.as_ref().map(|snapshot| snapshot.last.index),
                snapshot: state.snapshot,
                ..append(Vec::new())
            },
        ];
        for step in writes {
            write(&store, step).unwrap();
        }
    }
}

fn check_kept(path: &Path, lineage: Lineage) {
    let inspector = Inspector::open(path).unwrap();
    assert_eq!(inspector.shutdown(), Shutdown::Orderly);
    assert_eq!(inspector.owner().unwrap().claim.incarnation, Incarnation(0xF00D));
    assert!(inspector.verify().is_sound());
    for group in [1, 2, 3].map(GroupId) {
        assert!(inspector.entries(group, ..).map(Result::unwrap).eq(kept(group, lineage).1));
    }
    drop(inspector);
    let store = RedbLogStore::open(path).unwrap();
    for group in [1, 2, 3].map(GroupId) {
        let (state, held) = kept(group, lineage);
        assert_eq!(block_on(store.load(group)).unwrap(), state);
        if let Some(first) = held.first() {
            let read = block_on(store.read(group, first.index()..=state.last, usize::MAX)).unwrap();
            assert!(read == held, "group {group}");
        }
        // And it goes on.
        write(&store, Write { group, ..append(entries(99, state.last + 1, state.last + 9)) }).unwrap();
    }
    let claim = block_on(store.claim(ClusterId(0xC1), NodeId(2), Incarnation(1))).unwrap();
    assert_eq!((claim.incarnation, claim.boot), (Incarnation(0xF00D), 2));
}

/// The kept files: of format 1 with configurations as they were first, and with those that have a lineage, which are told by
/// marks of their own.
const KEPT: [(&str, Lineage); 2] =
    [("format-1.redb", Lineage::UNMARKED), ("format-1-lineage.redb", Lineage(0x1234_5678_9ABC))];

fn kept_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files").join(name)
}

#[test]
fn files_of_every_format_open() {
    let folder = tempfile::TempDir::new().unwrap();
    for (name, lineage) in KEPT {
        let path = folder.path().join(name);
        fs::copy(kept_file(name), &path).unwrap();
        check_kept(&path, lineage);
    }
}

/// What this version writes is what the kept files of its format hold. With `RAFT_STORAGE_KEEP` set to a folder, the files are
/// left there: so the kept ones were made, each by the version that wrote its format last.
#[test]
fn this_version_writes_what_is_kept() {
    let folder = tempfile::TempDir::new().unwrap();
    for (name, lineage) in KEPT {
        let path = folder.path().join(name);
        write_kept(&path, lineage);
        compact(&path).unwrap();
        if let Some(keep) = std::env::var_os("RAFT_STORAGE_KEEP") {
            fs::copy(&path, Path::new(&keep).join(name)).unwrap();
        }
        let old = folder.path().join("old.redb");
        fs::copy(kept_file(name), &old).unwrap();
        assert!(dump(&path) == dump(&old), "{name}");
        check_kept(&path, lineage);
    }
}
