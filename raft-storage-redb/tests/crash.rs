//! A disk that loses its power before every single write and sync, of a workload and of the recovery after it.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod common;

use common::model::{Model, snapshot_at};
use common::*;
use fastrand::Rng;
use raft_core::LogStore;
use raft_core::log_store::{StorageError, StorageErrorKind, Write};
use raft_core::types::{EntryId, GroupId, Outline};
use raft_storage_redb::testing::{CrashDisk, Keep};
use raft_storage_redb::{Options, RedbLogStore};

/// One call of `write` after another.
type Workload = Vec<Vec<Write>>;

fn open(disk: &CrashDisk, options: &Options) -> Result<RedbLogStore, StorageError> {
    RedbLogStore::with_backend(disk.clone(), options)
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

/// A workload carried out, and everything that a crash in it is checked against.
struct Run {
    options: Options,
    disk: CrashDisk,
    /// The operations done when the store was open, and when each call had returned.
    returned: Vec<usize>,
    /// What is held then.
    models: Vec<Model>,
}

impl Run {
    fn new(workload: &Workload, options: Options) -> Self {
        let disk = CrashDisk::new();
        let store = open(&disk, &options).unwrap();
        let mut run = Self { options, disk, returned: Vec::new(), models: vec![Model::default()] };
        run.returned.push(run.disk.operations());
        for call in workload {
            block_on(store.write(call)).unwrap();
            run.returned.push(run.disk.operations());
            let mut model = run.models.last().unwrap().clone();
            model.write(call);
            run.models.push(model);
        }
        run
    }

    /// Opens what a crash left, and checks that it is what was acknowledged by then, or that and the call under way.
    fn check(&self, left: Vec<u8>, operation: usize, keep: Keep) -> CrashDisk {
        let acknowledged = self.returned.iter().filter(|returned| **returned <= operation).count();
        let disk = CrashDisk::holding(left);
        let store = match open(&disk, &self.options) {
            Ok(store) => store,
            // A creation that was cut short is no log yet; in a file it would not have its name.
            Err(_) if acknowledged == 0 => return disk,
            Err(error) => panic!("before operation {operation}, {keep:?}: {error}"),
        };
        let last = acknowledged.saturating_sub(1);
        let possible = last..=(last + usize::from(acknowledged > 0)).min(self.models.len() - 1);
        let held = possible.clone().any(|at| self.models[at].is_held(&store));
        assert!(held, "before operation {operation}, {keep:?}: none of {possible:?} is held");
        disk
    }

    /// Every point: before each operation, and while recovering from that crash, before one of the operations.
    fn crash_everywhere(&self, rng: &mut Rng, stride: usize) -> (usize, usize) {
        let (mut points, mut recoveries) = (0, 0);
        for operation in (0..=self.disk.operations()).step_by(stride) {
            for keep in Keep::ALL {
                let recovered = self.check(self.disk.left_at(operation, keep, rng.u64(..)), operation, keep);
                points += 1;
                let (again, at) = (Keep::ALL[rng.usize(..5)], rng.usize(..=recovered.operations()));
                self.check(recovered.left_at(at, again, rng.u64(..)), operation, again);
                recoveries += 1;
            }
        }
        (points, recoveries)
    }

    /// Every point of the recoveries from a crash before one operation.
    fn crash_in_recovery(&self, operation: usize, rng: &mut Rng) -> usize {
        let mut points = 0;
        for keep in Keep::ALL {
            let recovered = self.check(self.disk.left_at(operation, keep, rng.u64(..)), operation, keep);
            for at in 0..=recovered.operations() {
                let again = Keep::ALL[rng.usize(..5)];
                self.check(recovered.left_at(at, again, rng.u64(..)), operation, again);
                points += 1;
            }
        }
        points
    }
}

#[test]
fn a_crash_at_every_operation_of_a_script_loses_nothing_acknowledged() {
    let mut rng = Rng::with_seed(3);
    let mut total = 0;
    // The settings that are not the default get every n-th point by default.
    let stride = size("RAFT_STORAGE_CRASH_STRIDE", 9) as usize;
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
fn a_crash_at_every_operation_of_a_recovery_loses_nothing_acknowledged() {
    let run = Run::new(&script(), Options::default());
    let mut rng = Rng::with_seed(4);
    let mut points = 0;
    // In the middle of each call's commit, and at the end.
    for returned in run.returned.windows(2) {
        points += run.crash_in_recovery(usize::midpoint(returned[0], returned[1]), &mut rng);
    }
    points += run.crash_in_recovery(run.disk.operations(), &mut rng);
    println!("{points} crashes in recoveries");
    assert!(points > 500, "{points}");
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
        let acknowledged = calls.iter().take_while(|call| block_on(store.write(call)).is_ok()).count();
        assert!(whole.returned[acknowledged] <= stop, "stop {stop}: {acknowledged} calls were acknowledged");
        if acknowledged == calls.len() {
            break;
        }
        disk.stop_at(usize::MAX);
        let before = disk.operations();
        assert_kind(block_on(store.write(&[append(Vec::new())])), StorageErrorKind::Failed);
        assert_eq!(disk.operations(), before, "stop {stop}: the store went on");
    }
}
