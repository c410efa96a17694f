//! A user's own log store, transport and state machine are measured like ours and stand in the same tables; a run that was stopped
//! goes on where it was.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

#[path = "../examples/own_backend.rs"]
mod own_backend;

use std::path::Path;
use std::time::Duration;

use criterion::Criterion;
use raft_bench::invocation::Invocation;
use raft_bench::matrix;

/// Criterion's shortest, of some benchmarks.
fn criterion(results: &Path, filter: &str) -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(1))
        .measurement_time(Duration::from_millis(10))
        .nresamples(10)
        .without_plots()
        .output_directory(&results.join("criterion"))
        .with_filter(filter)
}

#[test]
fn what_a_user_brings_stands_in_the_same_tables_and_is_measured_once() {
    let folder = tempfile::tempdir().unwrap();
    let results = Some(folder.path().to_owned());
    let invocation = Invocation { results, ..Invocation::quick() };
    let measured = |filter: &str| {
        let criterion = criterion(folder.path(), filter);
        matrix::measure(&own_backend::backends(), &invocation, criterion).unwrap()
    };
    let own = [
        "replication/quic+small-segments/nodes=3/64B/clients/1",
        "replication/quic+redb+my-sum/nodes=3/64B/clients/1",
        "replication/quic-tuned+memory(volatile)/nodes=3/64B/clients/1",
    ];
    let ours = "replication/channel+memory(volatile)/nodes=3/64B/clients/1";
    let first = measured(r"/(quic\+small-segments|quic\+redb\+my-sum)/.*clients/1$");
    assert_eq!(first.len(), 2, "{first:#?}");
    let all = r"/(quic\+small-segments|quic\+redb\+my-sum|quic-tuned\+memory.*|channel\+memory.*)/nodes=3/64B/clients/1$";
    let second = measured(all);
    assert_eq!(second.len(), 2, "what is there is not measured again: {second:#?}");
    for name in own.iter().chain([&ours]) {
        assert!(first.iter().chain(&second).any(|line| line.starts_with(name)), "{name}");
    }

    let table = std::fs::read_to_string(folder.path().join("replication.md")).unwrap();
    let rows: Vec<&str> = table.lines().filter(|line| line.contains(" | 3 | 64B | 1 | ")).collect();
    assert_eq!(rows.len(), 4, "{table}");
    for row in rows {
        assert_eq!(row.matches('|').count(), 13, "{row}");
        let rate: f64 = row.split(" | ").nth(4).unwrap().replace(',', "").parse().unwrap();
        assert!(rate > 1.0, "{row}");
    }
    assert!(table.contains("| the floor ("), "{table}");
}
