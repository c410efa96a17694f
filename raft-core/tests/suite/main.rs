//! The conformance suite for log stores: the store in memory passes it, and each topic finds the bugs that are its own.

#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod broken;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::Duration;

use async_trait::async_trait;
use broken::{Broken, Bug, Disk};
use raft_core::LogStore;
use raft_core::log_store::{Claim, LogState, StorageError, Write};
use raft_core::mem::MemLogStore;
use raft_core::testing::suite::Report;
use raft_core::testing::suite::log_store::Topic::*;
use raft_core::testing::suite::log_store::{Case, Suite, Topic, cases};
use raft_core::types::{ClusterId, Entry, GroupId, Incarnation, Index, NodeId};

/// A case or topic to run alone, as `RAFT_CASE=truncation/at_every_position`.
fn chosen() -> String {
    std::env::var("RAFT_CASE").unwrap_or_default()
}

#[test]
fn the_store_in_memory_conforms() {
    let suite = Suite::new(|| {
        let disk = MemLogStore::new();
        move || disk.clone()
    });
    let report = suite.only(chosen()).run();
    println!("{report:#}");
    report.assert_passed();
}

#[test]
fn the_cases_have_names() {
    let names: BTreeSet<String> = cases().map(ToString::to_string).collect();
    assert_eq!(names.len(), cases().count());
    assert!(names.len() >= 60, "{} cases", names.len());
    let mut of_topic = BTreeMap::new();
    for case in cases() {
        assert!(!case.rule().is_empty() && !case.rule().contains('\n'), "{case}");
        *of_topic.entry(case.topic()).or_insert(0) += 1;
    }
    assert_eq!(of_topic.len(), Topic::ALL.len(), "{of_topic:?}");
    // As docs/storage.md has them.
    println!("{} cases: {of_topic:?}", names.len());
}

#[test]
fn one_case_runs_alone() {
    let suite = || Suite::new(|| || MemLogStore::new());
    let ran = |report: &Report<Case>| report.passed().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(ran(&suite().only("order/nothing_in_a_new_store").run()), ["order/nothing_in_a_new_store"]);
    assert!(ran(&suite().only("order/").run()).iter().all(|name| name.starts_with("order/")));
    assert_eq!(suite().only("no such case").run().to_string(), "no case has such a name\n");
}

/// Its writes are done by tokio, as those of a store on `tokio::fs` are.
struct OnTokio(MemLogStore);

#[async_trait]
impl LogStore for OnTokio {
    async fn claim(&self, c: ClusterId, n: NodeId, fresh: Incarnation) -> Result<Claim, StorageError> {
        self.0.claim(c, n, fresh).await
    }

    async fn load(&self, group: GroupId) -> Result<LogState, StorageError> {
        tokio::time::sleep(Duration::from_micros(1)).await;
        self.0.load(group).await
    }

    async fn write(&self, writes: &[Write]) -> Result<(), StorageError> {
        tokio::task::spawn_blocking(|| ()).await.unwrap();
        self.0.write(writes).await
    }

    async fn read(
        &self,
        group: GroupId,
        range: RangeInclusive<Index>,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        tokio::task::spawn_blocking(|| ()).await.unwrap();
        self.0.read(group, range, max_bytes).await
    }
}

#[test]
fn a_store_that_needs_a_runtime_runs_within_one() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _entered = runtime.enter();
    let suite = Suite::new(|| {
        let disk = MemLogStore::new();
        move || OnTokio(disk.clone())
    });
    let report = suite.only("order/").run();
    report.assert_passed();
}

fn run(bug: Bug, only: &str) -> Report<Case> {
    // The largest entries find nothing that smaller ones do not, and take the most time.
    let suite = Suite::new(move || {
        let disk = Disk::new(bug);
        move || Broken::open(&disk)
    });
    let patience = if bug == Bug::OneReadAtATime { 300 } else { 20_000 };
    suite.largest_entry_bytes(70_000).patience(Duration::from_millis(patience)).only(only).run()
}

/// Each of these bugs is found by `topic`, and beside it by those named and no others: a topic finds what it is about, and
/// what its cases need.
fn finds(topic: Topic, bugs: &[(Bug, &[Topic])]) {
    let mut wrong = Vec::new();
    for &(bug, beside) in bugs {
        let report = run(bug, "");
        let mut found: BTreeSet<Topic> = report.failed().map(|(case, _)| case.topic()).collect();
        if bug == Bug::RowsFirst {
            // A read beside the write sees the half of it or not, as the threads happen to run.
            found.remove(&Concurrency);
        }
        let expected: BTreeSet<Topic> = beside.iter().copied().chain([topic]).collect();
        if found != expected {
            wrong.push(format!("{bug:?} is found by {found:?}, not just by {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn without_a_bug_it_conforms() {
    run(Bug::None, "").assert_passed();
}

#[test]
fn a_failure_is_readable() {
    let report = run(Bug::TruncatesOneMore, "truncation/just_behind_the_end");
    let expected = "the store passes 0 of 1 cases
    truncation   0 of 1

truncation/just_behind_the_end: a truncation right after the last entry drops nothing
    expected: load of group 1 gives last index 11
    came:     10
    after:    write group 1 w1 [1.1..1.9]
              write group 1 w2 truncate 10 [2.10 2.11]
              write group 1 w3 truncate 12
";
    assert_eq!(report.to_string(), expected);
}

#[test]
fn a_store_that_panics_fails_the_case() {
    let suite = Suite::new(|| || -> MemLogStore { panic!("no room") });
    let report = suite.only("order/one_write").run();
    assert!(report.to_string().contains("came:     a panic: no room\n"), "{report}");
}

#[test]
fn order_finds_its_bugs() {
    finds(
        Order,
        &[
            (
                Bug::IndexAsText,
                &[Atomicity, Truncation, Compaction, Limits, Groups, Reopening, Concurrency, Sizes, Errors],
            ),
            (Bug::TermInOneByte, &[]),
            (Bug::NoopIsCommand, &[Sizes]),
        ],
    );
}

#[test]
fn atomicity_finds_its_bugs() {
    finds(Atomicity, &[(Bug::RowsFirst, &[]), (Bug::SkipsTheRefused, &[]), (Bug::BeginsTheGroup, &[])]);
}

#[test]
fn truncation_finds_its_bugs() {
    finds(
        Truncation,
        &[
            (Bug::TruncatesOnlyToReplace, &[Compaction, Groups, Reopening, Rows, Errors]),
            (Bug::TruncatesOneLess, &[Compaction, Groups, Reopening, Rows, Errors]),
            (Bug::TruncatesOneMore, &[Compaction, Groups, Reopening, Rows]),
            (Bug::TruncatesTheVote, &[Reopening, Rows]),
        ],
    );
}

#[test]
fn compaction_finds_its_bugs() {
    finds(
        Compaction,
        &[
            (Bug::CompactsOneLess, &[Order, Atomicity, Truncation, Groups, Reopening, Rows, Errors]),
            (Bug::MarkWithinTheLog, &[Groups, Reopening, Rows]),
            (Bug::CompactsFirst, &[Reopening]),
        ],
    );
}

#[test]
fn limits_finds_its_bugs() {
    finds(
        Limits,
        &[
            (Bug::NoLimit, &[Sizes]),
            (Bug::OneBeyondTheLimit, &[Sizes]),
            (Bug::NothingBeyondTheLimit, &[Sizes]),
            (Bug::NoOverhead, &[]),
            (Bug::SkipsTheLarge, &[Sizes]),
        ],
    );
}

#[test]
fn groups_finds_its_bugs() {
    finds(
        Groups,
        &[
            (Bug::GroupInOneByte, &[]),
            (Bug::OneGroupACall, &[Atomicity, Truncation, Compaction, Reopening]),
            (Bug::TruncatesTheNextGroup, &[Truncation, Concurrency]),
        ],
    );
}

#[test]
fn reopening_finds_its_bugs() {
    finds(
        Reopening,
        &[
            (
                Bug::LosesTheLastEntry,
                &[Order, Atomicity, Truncation, Compaction, Groups, Sizes, Rows, Identity, Errors],
            ),
            (Bug::LosesTheVote, &[Atomicity, Truncation, Compaction, Groups, Rows]),
            (Bug::LosesTheOutline, &[Atomicity, Truncation, Groups, Rows]),
        ],
    );
}

#[test]
fn concurrency_finds_its_bugs() {
    finds(
        Concurrency,
        &[(Bug::InTwoSteps, &[Atomicity, Errors]), (Bug::ThreadsRemember, &[]), (Bug::OneReadAtATime, &[])],
    );
}

#[test]
fn sizes_finds_its_bugs() {
    finds(
        Sizes,
        &[
            (Bug::LengthInTwoBytes, &[]),
            (Bug::EmptyIsNoop, &[Order, Limits, Reopening]),
            (Bug::TrailingZeros, &[Reopening]),
        ],
    );
}

#[test]
fn rows_finds_its_bugs() {
    finds(
        Rows,
        &[
            (Bug::NodeZeroIsNobody, &[Reopening]),
            (Bug::OutlineForgotten, &[Atomicity, Truncation, Reopening]),
            (Bug::SnapshotKept, &[Atomicity, Compaction, Reopening]),
            (Bug::Judges, &[]),
        ],
    );
}

#[test]
fn identity_finds_its_bugs() {
    finds(
        Identity,
        &[
            (Bug::Anyones, &[]),
            (Bug::AlwaysFresh, &[]),
            (Bug::BootsInMemory, &[Errors]),
            (Bug::CountsTheRefused, &[Errors]),
        ],
    );
}

#[test]
fn errors_finds_its_bugs() {
    finds(
        Errors,
        &[
            (Bug::GoesOn, &[]),
            (Bug::Swallows, &[Atomicity, Reopening]),
            (Bug::CutsRanges, &[Order, Atomicity, Truncation, Compaction, Groups, Reopening]),
            // Concurrency too: a read beside a compaction is refused as invalid.
            (
                Bug::AllIsIo,
                &[Order, Atomicity, Truncation, Compaction, Groups, Reopening, Concurrency, Identity],
            ),
            (Bug::Talks, &[]),
        ],
    );
}
