//! The conformance suite for log stores: the store in memory passes it, and each topic finds the bugs that are its own.

#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod broken;

use std::collections::{BTreeMap, BTreeSet};

use broken::{Broken, Bug, Disk};
use raft_core::mem::MemLogStore;
use raft_core::testing::suite::log_store::{Report, Suite, Topic, cases};

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
    println!("{report}");
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
    let ran = |report: &Report| report.passed().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(ran(&suite().only("order/nothing_in_a_new_store").run()), ["order/nothing_in_a_new_store"]);
    assert!(ran(&suite().only("order/").run()).iter().all(|name| name.starts_with("order/")));
    assert_eq!(suite().only("no such case").run().to_string(), "no case has such a name\n");
}

fn run(bug: Bug, only: &str) -> Report {
    // The largest entries find nothing that smaller ones do not, and take the most time.
    let suite = Suite::new(move || {
        let disk = Disk::new(bug);
        move || Broken::open(&disk)
    });
    suite.largest_entry_bytes(70_000).only(only).run()
}

/// The topics in which the bug is found.
fn found(bug: Bug) -> BTreeSet<Topic> {
    let report = run(bug, "");
    assert!(report.passed().next().is_some(), "{bug:?} breaks every case:\n{report}");
    report.failed().map(|(case, _)| case.topic()).collect()
}

fn check(bugs: &[(Bug, &[Topic])]) {
    let mut wrong = Vec::new();
    for &(bug, topics) in bugs {
        let (found, expected) = (found(bug), topics.iter().copied().collect::<BTreeSet<_>>());
        if found != expected {
            wrong.push(format!("{bug:?} is found by {found:?}, not just by {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn no_bug_no_failure() {
    check(&[(Bug::None, &[])]);
}
