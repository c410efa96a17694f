//! The simulator over many seeds. `RAFT_SEED=n` replays one seed with its trace (`-- --nocapture` shows it), `RAFT_EVENTS`
//! sets the events of each seed, `RAFT_SEEDS=n` runs n seeds from `RAFT_START` on instead of the usual ones.

#![cfg(feature = "testing")]
#![allow(clippy::print_stdout, reason = "fresh seeds are printed, so that a failure can be had again")]

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};

use raft_core::testing::sim::{self, Options, Report};

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

fn run(seeds: impl IntoIterator<Item = u64>, events: u64) -> BTreeMap<&'static str, u64> {
    let mut counters = BTreeMap::new();
    for seed in seeds {
        match sim::run(&Options::new(seed).events(events)) {
            Ok(report) => {
                for (name, count) in report.counters {
                    *counters.entry(name).or_default() += count;
                }
            }
            Err(failure) => panic!("\n{failure}"),
        }
    }
    counters
}

#[test]
fn fixed_seeds_break_nothing_and_reach_the_rare_branches() {
    let events = number("RAFT_EVENTS").unwrap_or(3_000);
    if let Some(seed) = number("RAFT_SEED") {
        let mut options = Options::new(seed).events(events);
        options.print = true;
        if let Err(failure) = sim::run(&options) {
            panic!("\n{failure}");
        }
        return;
    }
    let start = number("RAFT_START").unwrap_or(0);
    let seeds = number("RAFT_SEEDS").unwrap_or(200);
    let reached = run(start..start + seeds, events);
    if start == 0 && seeds >= 200 && events >= 3_000 {
        for name in [
            "elections won",
            "quorums lost",
            "truncations",
            "resends",
            "fetches",
            "proposals acknowledged",
            "proposals overwritten",
            "reads answered",
            "crash at a write",
            "crash after a write",
            "disk failure",
            "one-way cut",
            "messages replayed",
            "foundings",
        ] {
            assert!(reached.contains_key(name), "no seed reached: {name}; reached: {reached:#?}");
        }
    }
}

#[test]
fn fresh_seeds_break_nothing() {
    let first = RandomState::new().hash_one("fresh seeds") >> 16;
    println!("fresh seeds from {first}");
    run(first..first + 20, 3_000);
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_seed_another() {
    let hash = |seed| sim::run(&Options::new(seed).events(3_000)).map(|report: Report| report.trace_hash);
    for seed in 0..5 {
        let (first, second) = (hash(seed), hash(seed));
        assert_eq!(first.ok(), second.ok());
    }
    assert_ne!(hash(1).ok(), hash(2).ok());
}
