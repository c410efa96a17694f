//! Format 1, byte for byte: what is written never changes without a new version.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod common;

use std::fmt::Write as _;
use std::path::Path;

use common::*;
use raft_core::LogStore;
use raft_core::log_store::Write;
use raft_core::types::{ClusterId, Entry, EntryId, Incarnation, NodeId, Outline, Payload};
use raft_storage_redb::RedbLogStore;
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
    assert_eq!(dump(&path), include_str!("format-1.txt"));
}
