//! The bench itself is tested: each bug that can be planted in the engine is caught, by the simulator or, where that is said here, by a
//! script.
//! What it took is printed (`-- --nocapture`).

#![cfg(feature = "testing")]
#![allow(clippy::print_stdout, reason = "what it took is the result")]

use std::path::Path;

use raft_core::engine::Planted;
use raft_core::testing::script;
use raft_core::testing::sim::{self, Options};

/// More seeds than most of the bugs need.
const SEEDS: u64 = 30;

/// Those that need a rarer chance than the simulator gives them in so many seeds.
const FOR_THE_SCRIPTS: &[Planted] = &[
    Planted::VerifiedKept,
    Planted::LateResponse,
    Planted::TransferVoteIgnoresLog,
    Planted::LateTimeoutNow,
    Planted::SnapshotBehindCommit,
    Planted::MatchingSuffixDropped,
    Planted::LeaseOfUncommitted,
];

#[test]
fn every_planted_bug_is_caught() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut missed = Vec::new();
    for &bug in Planted::ALL {
        let scripts = script::catching(&directory, bug).expect("the scripts can be read").len();
        let seed = (0..SEEDS).find_map(|seed| sim::run(&Options::new(seed).events(5_000).plant(bug)).err());
        match &seed {
            Some(failure) => println!(
                "{bug:?}: {scripts} scripts, {} seeds: {}",
                failure.seed + 1,
                failure.broken.property
            ),
            None => println!("{bug:?}: {scripts} scripts, more than {SEEDS} seeds"),
        }
        let for_the_scripts = FOR_THE_SCRIPTS.contains(&bug);
        if seed.is_none() && (scripts == 0 || !for_the_scripts) {
            missed.push(bug);
        }
    }
    assert!(missed.is_empty(), "{SEEDS} seeds do not catch {missed:?}, nor scripts where they will do");
}

#[test]
fn a_retried_fsync_is_caught() {
    let caught = (0..200).find_map(|seed| {
        let mut options = Options::new(seed).events(5_000);
        options.retry_fsync = true;
        sim::run(&options).err()
    });
    let failure = caught.expect("a seed in which a write fails");
    println!("retried fsync: {} seeds: {}", failure.seed + 1, failure.broken.property);
}
