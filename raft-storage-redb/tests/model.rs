//! Random writes, beside a model that is simple enough to be right.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod common;

use common::model::{Group, Model};
use common::*;
use fastrand::Rng;
use raft_core::LogStore;
use raft_core::types::GroupId;
use raft_storage_redb::{Inspector, Options, RedbLogStore};
use tempfile::TempDir;

/// A part of a group, read with a limit.
fn check_part(rng: &mut Rng, store: &RedbLogStore, group: GroupId, held: &Group) {
    if held.entries.is_empty() {
        return;
    }
    let start = rng.u64(held.base + 1..=held.state.last);
    let end = rng.u64(start..=held.state.last);
    let max_bytes = rng.usize(..20_000);
    let read = block_on(store.read(group, start..=end, max_bytes)).unwrap();
    let mut bytes = 0;
    let expected = held.entries.range(start..=end).map(|(_, e)| e).enumerate().take_while(|(at, e)| {
        bytes += e.bytes();
        *at == 0 || bytes <= max_bytes
    });
    assert!(expected.map(|(_, e)| e).eq(&read), "group {group}, {start} to {end}, {max_bytes} bytes");
}

/// What an inspector sees is what the model holds.
fn check_from_outside(path: &std::path::Path, model: &Model) {
    let inspector = Inspector::open(path).unwrap();
    for (group, held) in &model.0 {
        let Some(log) = inspector.group(*group) else {
            assert_eq!(held.state, Default::default());
            continue;
        };
        assert_eq!((log.base, log.last), (held.base, held.state.last));
        assert_eq!((log.hard_state, &log.outline), (held.state.hard_state, &held.state.outline));
        assert_eq!(log.snapshot, held.state.snapshot);
        assert!(inspector.entries(*group, ..).map(Result::unwrap).eq(held.entries.values().cloned()));
    }
    assert!(inspector.verify().is_sound());
}

#[test]
fn random_writes_match_the_model() {
    for seed in 0..size("RAFT_STORAGE_MODEL_SEEDS", 4) {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("log.redb");
        let options = Options::default()
            .two_phase_commit(seed % 2 == 1)
            .quick_repair(seed % 4 == 3)
            .verify_on_open(seed % 4 < 2)
            .cache_bytes(1 << 20);
        let rng = &mut Rng::with_seed(seed);
        let mut store = RedbLogStore::open_with(&path, &options).unwrap();
        let mut model = Model::default();
        for step in 1..=200 {
            let mut writes = Vec::new();
            for _ in 0..rng.usize(1..4) {
                let group = GroupId(rng.u64(..3));
                let write = model.random_write(rng, group, step, true);
                model.write(std::slice::from_ref(&write));
                writes.push(write);
            }
            block_on(store.write(&writes))
                .unwrap_or_else(|error| panic!("seed {seed}, step {step}: {error}"));
            if rng.u8(..) < 12 {
                drop(store);
                check_from_outside(&path, &model);
                store = RedbLogStore::open_with(&path, &options).unwrap();
                assert!(model.is_held(&store), "seed {seed}, step {step}");
            }
            for (group, held) in &model.0 {
                assert_eq!(block_on(store.load(*group)).unwrap(), held.state);
                check_part(rng, &store, *group, held);
            }
        }
    }
}
