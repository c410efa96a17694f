//! Random writes beside a model that is simple enough to be right.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod common;

use std::collections::BTreeMap;

use common::*;
use fastrand::Rng;
use raft_core::LogStore;
use raft_core::log_store::Write;
use raft_core::types::{Entry, GroupId, HardState, Index};
use raft_storage_redb::{Options, RedbLogStore};
use tempfile::TempDir;

#[derive(Clone, Default)]
struct Model {
    hard_state: HardState,
    base: Index,
    entries: BTreeMap<Index, Entry>,
}

impl Model {
    fn last(&self) -> Index {
        self.entries.keys().next_back().copied().unwrap_or(self.base)
    }

    fn write(&mut self, write: &Write) {
        if let Some(from) = write.truncate_from {
            self.entries.split_off(&from);
        }
        self.entries.extend(write.entries.iter().map(|e| (e.index(), e.clone())));
        self.hard_state = write.hard_state.unwrap_or(self.hard_state);
        if let Some(mark) = write.compact_to {
            self.base = self.base.max(mark);
            self.entries = self.entries.split_off(&(self.base + 1));
        }
    }
}

fn random_write(rng: &mut Rng, group: GroupId, model: &Model, term: u64) -> Write {
    let mut write = Write { group, ..Write::default() };
    let mut last = model.last();
    if rng.u8(..) < 60 {
        let from = rng.u64(model.base + 1..=last + 2);
        write.truncate_from = Some(from);
        last = last.min(from - 1);
    }
    if rng.u8(..) < 40 {
        let highest = if rng.bool() { last } else { last + 5 };
        write.compact_to = Some(rng.u64(0..=highest));
    }
    let mut first = last + 1;
    if last == model.base && rng.bool() {
        first = write.compact_to.filter(|mark| *mark >= first).map_or(first, |mark| mark + 1);
    }
    let count = match rng.u8(..) {
        0..80 => 0,
        80..160 => 1,
        160..250 => rng.u64(2..40),
        _ => rng.u64(300..900),
    };
    for index in first..first + count {
        let bytes = if rng.u8(..) == 0 { rng.usize(..200_000) } else { rng.usize(..300) };
        write.entries.push(entry(term, index, vec![rng.u8(..); bytes]));
    }
    if rng.bool() {
        write.hard_state = Some(hard_state(term, rng.u64(1..4), rng.u64(..=last)));
    }
    write
}

fn check(rng: &mut Rng, store: &RedbLogStore, group: GroupId, model: &Model, whole: bool) {
    let state = block_on(store.load(group)).unwrap();
    assert_eq!((state.hard_state, state.last), (model.hard_state, model.last()));
    if model.entries.is_empty() {
        return;
    }
    let (start, end) = if whole {
        (model.base + 1, model.last())
    } else {
        let start = rng.u64(model.base + 1..=model.last());
        (start, rng.u64(start..=model.last()))
    };
    let max_bytes = if whole { usize::MAX } else { rng.usize(..20_000) };
    let read = block_on(store.read(group, start..=end, max_bytes)).unwrap();
    let mut bytes = 0;
    let expected = model.entries.range(start..=end).map(|(_, e)| e).enumerate().take_while(|(at, e)| {
        bytes += e.bytes();
        *at == 0 || bytes <= max_bytes
    });
    assert!(expected.map(|(_, e)| e).eq(&read), "group {group}, {start} to {end}, {max_bytes} bytes");
}

#[test]
fn random_writes_match_the_model() {
    for seed in 0..4 {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("log.redb");
        let options =
            Options::default().two_phase_commit(seed % 2 == 1).verify_on_open(seed < 2).cache_bytes(1 << 20);
        let rng = &mut Rng::with_seed(seed);
        let mut store = RedbLogStore::open_with(&path, &options).unwrap();
        let mut models = vec![Model::default(); 3];
        for step in 1..=200 {
            let mut writes = Vec::new();
            for _ in 0..rng.usize(1..4) {
                let group = rng.usize(..models.len());
                let write = random_write(rng, GroupId(group as u64), &models[group], step);
                models[group].write(&write);
                writes.push(write);
            }
            block_on(store.write(&writes))
                .unwrap_or_else(|error| panic!("seed {seed}, step {step}: {error}"));
            let reopened = rng.u8(..) < 12;
            if reopened {
                drop(store);
                store = RedbLogStore::open_with(&path, &options).unwrap();
            }
            for (group, model) in models.iter().enumerate() {
                check(rng, &store, GroupId(group as u64), model, reopened);
            }
        }
    }
}
