//! A disk that loses its power before every single write and sync, of a workload and of the recovery after it.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod common;

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::RangeInclusive;

use common::model::{Model, snapshot_at};
use common::*;
use fastrand::Rng;
use raft_core::LogStore;
use raft_core::log_store::{StorageError, StorageErrorKind, Write};
use raft_core::types::{ClusterId, EntryId, GroupId, Incarnation, NodeId, Outline};
use raft_storage_redb::testing::{CrashDisk, Keep};
use raft_storage_redb::{Options, RedbLogStore};

/// One call of `write` after another.
type Workload = Vec<Vec<Write>>;

fn open(disk: &CrashDisk, options: &Options) -> Result<RedbLogStore, StorageError> {
    RedbLogStore::with_backend(disk.clone(), options)
}

/// As a node does when it starts; how often that has been.
fn claim(store: &RedbLogStore) -> u64 {
    block_on(store.claim(ClusterId(7), NodeId(1), Incarnation(9))).unwrap().boot
}

/// Everything that a node does to its log: appends small and large, hard states, truncations, compactions, snapshots of its
/// own and of others, of one group and of many in one call.
fn script() -> Workload {
    let of = |group: u64, write: Write| Write { group: GroupId(group), ..write };
    let outline = |base: u64| Outline { base: EntryId::new(1, base), ..Outline::default() };
    let all = |count: u64| (0..count).map(GroupId);
    let mut calls: Workload = vec![
        vec![Write { hard_state: Some(hard_state(1, 1, 0)), ..append(Vec::new()) }],
        vec![Write { outline: Some(outline(0)), ..append(entries(1, 1, 1)) }],
        vec![append(entries(1, 2, 2))],
        vec![Write { hard_state: Some(hard_state(1, 1, 2)), ..append(entries(1, 3, 150)) }],
        vec![append(vec![entry(1, 151, vec![7; 100_000])])],
    ];
    // Many groups in one commit.
    let many = |first, last| move |group| Write { group, ..append(entries(1, first, last)) };
    calls.push(all(40).filter(|group| *group != GROUP).map(many(1, 3)).collect());
    calls.push(all(40).filter(|group| *group != GROUP).map(many(4, 4)).collect());
    // A conflict: within a row, at a row's start, everything.
    calls.push(vec![Write {
        truncate_from: Some(140),
        hard_state: Some(hard_state(2, 3, 4)),
        ..append(entries(2, 140, 145))
    }]);
    calls.push(vec![Write { truncate_from: Some(146), ..append(Vec::new()) }]);
    calls.push(vec![of(2, Write { truncate_from: Some(1), ..append(entries(3, 1, 2)) })]);
    // A snapshot of one's own, then compaction, within a row and at its end.
    calls.push(vec![Write { snapshot: Some(snapshot_at(1, 100)), ..append(Vec::new()) }]);
    calls.push(vec![Write {
        compact_to: Some(100),
        outline: Some(outline(100)),
        ..append(entries(2, 146, 147))
    }]);
    calls.push(vec![of(3, Write { compact_to: Some(3), ..append(Vec::new()) })]);
    // A snapshot of another node's takes the log's place, and the log goes on behind it.
    calls.push(vec![Write {
        snapshot: Some(snapshot_at(4, 300)),
        truncate_from: Some(101),
        compact_to: Some(300),
        outline: Some(outline(300)),
        hard_state: Some(hard_state(4, 2, 300)),
        ..append(Vec::new())
    }]);
    calls.push(vec![append(entries(4, 301, 310))]);
    calls.push(vec![
        of(4, Write { snapshot: Some(snapshot_at(2, 9)), compact_to: Some(9), ..append(Vec::new()) }),
        of(4, append(entries(2, 10, 12))),
        of(5, Write { truncate_from: Some(1), compact_to: Some(50), ..append(entries(2, 51, 60)) }),
        append(entries(4, 311, 320)),
    ]);
    for step in 1..=6 {
        calls.push(vec![Write {
            hard_state: Some(hard_state(4 + step, 1, 310)),
            ..append(entries(4, 320 + step, 320 + step))
        }]);
    }
    calls.push(all(40).map(|group| Write { group, compact_to: Some(400), ..Write::default() }).collect());
    calls.push(vec![append(entries(9, 401, 402))]);
    calls
}

fn random(rng: &mut Rng) -> Workload {
    let mut model = Model::default();
    (1..=25)
        .map(|term| {
            let writes = (0..rng.usize(1..4)).map(|_| {
                let group = GroupId(rng.u64(..3));
                let write = model.random_write(rng, group, term, false);
                model.write(std::slice::from_ref(&write));
                write
            });
            writes.collect()
        })
        .collect()
}

/// What a store holds: whose it is, by how often it was claimed, and all groups.
#[derive(Clone, Debug, Default)]
struct Held {
    boots: u64,
    model: Model,
}

/// A workload carried out, and everything that a crash in it is checked against.
struct Run {
    options: Options,
    disk: CrashDisk,
    /// The operations done when the store was open, when it was claimed, and when each call had returned.
    returned: Vec<usize>,
    /// What is held then.
    states: Vec<Held>,
}

/// A store that was opened after a crash, found to hold what it must, claimed, and closed.
struct Recovered {
    disk: CrashDisk,
    /// Which state of the workload it held, and how often it was claimed before.
    state: usize,
    boots: u64,
    /// The operations done when it was open, and when it was claimed.
    opened: usize,
    claimed: usize,
}

impl Recovered {
    /// What a second crash, before operation `at`, may leave: of the states that the workload may have left, and which numbers of
    /// claims; `None` for that of the state. What a node has once seen it may have told: from then on it stays.
    fn possible(
        &self,
        at: usize,
        states: RangeInclusive<usize>,
    ) -> (RangeInclusive<usize>, Option<RangeInclusive<u64>>) {
        match at {
            at if at < self.opened => (states, None),
            at if at < self.claimed => (self.state..=self.state, Some(self.boots..=self.boots + 1)),
            _ => (self.state..=self.state, Some(self.boots + 1..=self.boots + 1)),
        }
    }
}

/// What is checked again is left out.
#[derive(Default)]
struct Seen(HashSet<u64>);

impl Seen {
    fn is_new(&mut self, left: &[u8], expected: impl Hash) -> bool {
        let mut hasher = DefaultHasher::new();
        (left, expected).hash(&mut hasher);
        self.0.insert(hasher.finish())
    }
}

impl Run {
    fn new(workload: &Workload, options: Options) -> Self {
        let disk = CrashDisk::new();
        let store = open(&disk, &options).unwrap();
        let mut run = Self { options, disk, returned: Vec::new(), states: vec![Held::default()] };
        run.returned.push(run.disk.operations());
        claim(&store);
        run.returned.push(run.disk.operations());
        run.states.push(Held { boots: 1, ..Held::default() });
        for call in workload {
            block_on(store.write(call)).unwrap();
            run.returned.push(run.disk.operations());
            let mut held = run.states.last().unwrap().clone();
            held.model.write(call);
            run.states.push(held);
        }
        run
    }

    /// How many of the steps had returned before an operation.
    fn acknowledged(&self, operation: usize) -> usize {
        self.returned.iter().filter(|returned| **returned <= operation).count()
    }

    /// Opens what a crash left, and checks that it is what was acknowledged by then, or that and the call under way; after a
    /// second crash, before operation `at` of a recovery, what that had found. `None` where it is no store yet.
    fn check(
        &self,
        disk: CrashDisk,
        operation: usize,
        keep: Keep,
        before: Option<(&Recovered, usize)>,
    ) -> Option<Recovered> {
        let acknowledged = self.acknowledged(operation);
        let what = format!("before operation {operation}, then {:?}, {keep:?}", before.map(|(_, at)| at));
        let store = match open(&disk, &self.options) {
            Ok(store) => store,
            // A creation that was cut short is no log yet; in a file it would not have its name.
            Err(_) if acknowledged == 0 => return None,
            Err(error) => panic!("{what}: {error}"),
        };
        let opened = disk.operations();
        let last = acknowledged.saturating_sub(1);
        let possible = last..=(last + usize::from(acknowledged > 0)).min(self.states.len() - 1);
        let boots_before = claim(&store) - 1;
        let (possible, boots) = match before {
            None => (possible, None),
            Some((first, at)) => first.possible(at, possible),
        };
        let state = possible.clone().find(|at| {
            let Held { boots: in_workload, model } = &self.states[*at];
            let boots = boots.clone().unwrap_or(*in_workload..=*in_workload);
            boots.contains(&boots_before) && model.is_held(&store)
        });
        let Some(state) = state else {
            panic!(
                "{what}: claimed {boots_before} times before, of {boots:?}, and which of {possible:?} is held?"
            )
        };
        let claimed = disk.operations();
        drop(store);
        Some(Recovered { disk, state, boots: boots_before, opened, claimed })
    }

    fn left_at(&self, operation: usize, keep: Keep, rng: &mut Rng) -> CrashDisk {
        CrashDisk::holding(self.disk.left_at(operation, keep, rng.u64(..)))
    }

    /// Every point: before each operation, and while recovering from that crash, before one of the operations.
    fn crash_everywhere(&self, rng: &mut Rng, stride: usize) -> (usize, usize) {
        let (mut points, mut recoveries) = (0, 0);
        for operation in (0..=self.disk.operations()).step_by(stride) {
            for keep in Keep::ALL {
                points += 1;
                let left = self.left_at(operation, keep, rng);
                let Some(recovered) = self.check(left, operation, keep, None) else { continue };
                let (again, at) = (Keep::ALL[rng.usize(..5)], rng.usize(..=recovered.disk.operations()));
                let left = CrashDisk::holding(recovered.disk.left_at(at, again, rng.u64(..)));
                self.check(left, operation, again, Some((&recovered, at)));
                recoveries += 1;
            }
        }
        (points, recoveries)
    }

    /// Every point of the recoveries from a crash before one operation, each in each way; and from a kill there, after which
    /// what was not synced still is not. What has been tried, with the same acknowledged, is not tried again. How many
    /// recoveries there were, and how many crashes in them.
    fn crash_in_recoveries(&self, operation: usize, rng: &mut Rng, seen: &mut Seen) -> (usize, usize) {
        let (mut recoveries, mut points) = (0, 0);
        let acknowledged = self.acknowledged(operation);
        let crashed = Keep::ALL.map(|keep| (keep, self.left_at(operation, keep, rng)));
        for (keep, disk) in crashed.into_iter().chain([(Keep::All, self.disk.killed_at(operation))]) {
            let begun = disk.operations();
            if begun == 0 && !seen.is_new(&disk.left_at(0, Keep::Synced, 0), (acknowledged, 0)) {
                continue;
            }
            let Some(recovered) = self.check(disk, operation, keep, None) else { continue };
            recoveries += 1;
            for at in begun..=recovered.disk.operations() {
                let possible = recovered.possible(at, 0..=usize::MAX);
                for again in Keep::ALL {
                    let left = recovered.disk.left_at(at, again, rng.u64(..));
                    if seen.is_new(&left, (acknowledged, &possible)) {
                        self.check(CrashDisk::holding(left), operation, again, Some((&recovered, at)));
                        points += 1;
                    }
                }
            }
        }
        (recoveries, points)
    }
}

#[test]
fn a_crash_at_every_operation_of_a_script_loses_nothing_acknowledged() {
    let mut rng = Rng::with_seed(3);
    let mut total = 0;
    // The settings that are not the default get every n-th point by default.
    let stride = size("RAFT_STORAGE_CRASH_STRIDE", 17) as usize;
    for (name, options, stride) in [
        ("one phase", Options::default(), 1),
        ("two phases", Options::default().two_phase_commit(true), stride),
        ("quick repair", Options::default().quick_repair(true).verify_on_open(false), stride),
    ] {
        let run = Run::new(&script(), options);
        let (points, recoveries) = run.crash_everywhere(&mut rng, stride);
        println!(
            "{name}: {} operations, {points} crashes, and {recoveries} in the recoveries from them",
            run.disk.operations()
        );
        assert!(run.disk.operations() > 200);
        total += points + recoveries;
    }
    println!("{total} crashes in all");
}

#[test]
fn a_crash_at_every_operation_of_a_recovery_loses_nothing_that_was_seen() {
    let mut rng = Rng::with_seed(4);
    // From every n-th point of the script, from one of them on.
    let stride = size("RAFT_STORAGE_CRASH_RECOVERY_STRIDE", 89) as usize;
    let start = size("RAFT_STORAGE_CRASH_RECOVERY_START", 0) as usize;
    for (name, options) in [
        ("one phase", Options::default()),
        ("one phase, not verified", Options::default().verify_on_open(false)),
        ("two phases", Options::default().two_phase_commit(true)),
        ("quick repair", Options::default().quick_repair(true).verify_on_open(false)),
    ] {
        let run = Run::new(&script(), options);
        let (mut recoveries, mut points, mut seen) = (0, 0, Seen::default());
        for operation in (start..=run.disk.operations()).step_by(stride) {
            let more = run.crash_in_recoveries(operation, &mut rng, &mut seen);
            (recoveries, points) = (recoveries + more.0, points + more.1);
        }
        println!("{name}: {} operations, {points} crashes in {recoveries} recoveries", run.disk.operations());
        assert!(points > 100, "{points}");
    }
}

#[test]
fn a_crash_in_a_random_workload_loses_nothing_acknowledged() {
    let start = size("RAFT_STORAGE_CRASH_START", 0);
    for seed in start..start + size("RAFT_STORAGE_CRASH_SEEDS", 1) {
        let mut rng = Rng::with_seed(seed);
        let run = Run::new(&random(&mut rng), Options::default());
        let (points, recoveries) = run.crash_everywhere(&mut rng, 1);
        println!("seed {seed}: {points} crashes, and {recoveries} in recoveries");
    }
}

#[test]
fn a_disk_that_stops_is_never_written_to_again() {
    let calls = script();
    let whole = Run::new(&calls, Options::default());
    for stop in (0..whole.disk.operations()).step_by(3) {
        let disk = CrashDisk::new();
        disk.stop_at(stop);
        let Ok(store) = open(&disk, &Options::default()) else { continue };
        let claimed = block_on(store.claim(ClusterId(7), NodeId(1), Incarnation(9))).is_ok();
        let acknowledged = calls.iter().take_while(|call| block_on(store.write(call)).is_ok()).count();
        let returned = usize::from(claimed) + acknowledged;
        assert!(whole.returned[returned] <= stop, "stop {stop}: {returned} calls were acknowledged");
        assert!(claimed || acknowledged == 0, "stop {stop}: the store went on");
        if acknowledged == calls.len() {
            break;
        }
        disk.stop_at(usize::MAX);
        let before = disk.operations();
        assert_kind(block_on(store.write(&[append(Vec::new())])), StorageErrorKind::Failed);
        assert_eq!(disk.operations(), before, "stop {stop}: the store went on");
    }
}
