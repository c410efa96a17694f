//! A crash at every write: each node dies once right before and once right after each of its writes, and the cluster must
//! recover from all of them.

#![cfg(feature = "testing")]
#![allow(clippy::print_stdout, reason = "how many points there were is the result")]

use raft_core::testing::sim::{self, CrashAt, Fault, Options};

/// Seeds that found their cluster first and those that begin with a founded one, of 1 to 5 nodes.
const SEEDS: std::ops::Range<u64> = 0..8;

#[test]
fn a_crash_at_any_write_is_survived() {
    let mut points = 0;
    for seed in SEEDS {
        let options = Options::new(seed).events(120).without(Fault::ALL);
        let quiet = sim::run(&options).unwrap_or_else(|failure| panic!("\n{failure}"));
        let mut of_seed = 0;
        for (node, &writes) in quiet.writes.iter().enumerate() {
            assert!(writes > 0, "node {node} of seed {seed} wrote nothing");
            for write in 1..=writes {
                for durable in [false, true] {
                    let crash = CrashAt { node, write, durable };
                    let report = sim::run(&options.clone().crash_at(crash))
                        .unwrap_or_else(|failure| panic!("{crash:?}\n{failure}"));
                    let name = if durable {
                        "crash after the chosen write"
                    } else {
                        "crash before the chosen write"
                    };
                    let happened = report.counters.get(name).copied();
                    // A node that stays down in the calm of a majority takes the write on its way with it.
                    let overtaken = durable && report.counters.contains_key("crash for the calm");
                    assert!(happened == Some(1) || overtaken, "{crash:?} of seed {seed}");
                    of_seed += happened.unwrap_or(0);
                }
            }
        }
        assert!(of_seed >= 2 * quiet.writes.len() as u64, "{of_seed} points in seed {seed}");
        points += of_seed;
    }
    println!("{points} points");
    assert!(points >= 500, "only {points} points");
}
