//! The load generator, the comparison and the trouble maker, as a user runs them.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::ops::RangeInclusive;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use raft_bench::backend::{Backends, Kept};
use raft_bench::cluster::ClusterOptions;
use raft_bench::load::{self, Pace, Reports, Settings, Target};
use raft_core::log_store::{Claim, LogState, StorageError, Write};
use raft_core::mem::MemLogStore;
use raft_core::types::{Entry, GroupId, Incarnation, Index};
use raft_core::{ClusterId, LogStore, NodeId};

/// How long the store stands still, once.
const STALL: Duration = Duration::from_millis(500);

/// A store that stands still once, when it is told to.
struct Stalling {
    inner: MemLogStore,
    stall: Arc<AtomicBool>,
}

#[async_trait]
impl LogStore for Stalling {
    async fn claim(
        &self,
        cluster: ClusterId,
        node: NodeId,
        fresh: Incarnation,
    ) -> Result<Claim, StorageError> {
        self.inner.claim(cluster, node, fresh).await
    }

    async fn load(&self, group: GroupId) -> Result<LogState, StorageError> {
        self.inner.load(group).await
    }

    async fn write(&self, writes: &[Write]) -> Result<(), StorageError> {
        if self.stall.swap(false, Ordering::Relaxed) {
            // The fault itself, not a wait for something: what the generator must not leave out of its latencies.
            tokio::time::sleep(STALL).await;
        }
        self.inner.write(writes).await
    }

    async fn read(
        &self,
        group: GroupId,
        range: RangeInclusive<Index>,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        self.inner.read(group, range, max_bytes).await
    }
}

async fn under(pace: Pace) -> load::Run {
    let stall = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stall);
    let backends = Backends::ours().store("stalling", Kept::Volatile, move |_: &Path| {
        Ok(Stalling { inner: MemLogStore::new(), stall: Arc::clone(&told) })
    });
    let built = backends.choose("channel", "stalling", None).unwrap();
    let target = Target::start(&ClusterOptions { nodes: 1, ..ClusterOptions::new(built) }).await.unwrap();
    let settings = Settings {
        pace,
        payload_bytes: 64,
        warm_up: Duration::from_millis(100),
        measure: Duration::from_secs(2),
        max_open: 1 << 17,
    };
    let mut seconds = 0;
    let run = load::run(&target, &settings, |_, _| {
        seconds += 1;
        stall.store(true, Ordering::Relaxed);
    })
    .await
    .unwrap();
    assert_eq!(seconds, 2);
    target.end().await;
    run
}

/// The share of operations that took longer than half of the stall.
fn slow(run: &load::Run) -> f64 {
    let limit = STALL.as_micros() as f64 / 2.0;
    1.0 - run.curve.iter().filter(|(_, us)| *us < limit).map(|(share, _)| *share).fold(0.0, f64::max)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_open_loop_leaves_nobody_out_who_would_have_come_during_a_stall() {
    let run = under(Pace::Open { rate: 1000.0 }).await;
    // All that were due are accounted for.
    assert_eq!(run.operations + run.refused + run.unknown + run.not_sent, 2000);
    // Whoever came in the first half of the stall waited for longer than half of it: an eighth of all.
    assert!(slow(&run) > 0.05, "{:?}", run.curve);
    assert!(run.latency_us.max >= STALL.as_micros() as f64 * 0.9, "{:?}", run.latency_us);
    assert_eq!(run.series.len(), 2);
    // A waiting client sees the same stall once, among thousands of operations.
    let closed = under(Pace::Closed { clients: 1 }).await;
    assert!(slow(&closed) < 0.05 && closed.latency_us.p50 < 50_000.0, "{:?}", closed.latency_us);
}

fn bench(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_raft-bench")).args(arguments).output().unwrap()
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn load_writes_what_compare_reads() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (json, csv, series, html) = (path("a.json"), path("a.csv"), path("s.csv"), path("a.html"));
    let load = |append: bool| {
        let name = |path: &Path| path.to_str().unwrap().to_owned();
        let (json, csv, series, html) = (name(&json), name(&csv), name(&series), name(&html));
        let mut arguments = vec![
            "load",
            "--transport",
            "channel",
            "--store",
            "memory",
            "--clients",
            "8",
            "--warm-up",
            "0.1",
            "--seconds",
            "0.3",
            "--repeats",
            "2",
            "--json",
            &json,
            "--csv",
            &csv,
            "--series",
            &series,
            "--html",
            &html,
        ];
        if append {
            arguments.push("--append");
        }
        let output = bench(&arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let table = load(false);
    assert!(table.contains("channel+memory(volatile), 3 nodes, 64 B, closed, 8 clients"), "{table}");
    load(true);
    let reports = Reports::read(&json).unwrap();
    let [report] = reports.reports.as_slice() else { panic!("one report: {reports:?}") };
    assert_eq!(report.runs.len(), 4);
    for run in &report.runs {
        let latency = &run.latency_us;
        assert!(run.operations > 0 && run.operations_per_second > 0.0);
        assert!(latency.min <= latency.p50 && latency.p50 <= latency.p99_99 && latency.p99_99 <= latency.max);
        // Each command goes to two followers.
        assert!(run.sent_bytes_per_operation.unwrap() >= 2.0 * 64.0, "{run:?}");
        assert!(run.peak_resident_bytes > 1 << 20);
    }
    assert_eq!(text(&csv).lines().count(), 1 + 2);
    assert_eq!(text(&series).lines().count(), 1 + 2);
    let page = text(&html);
    assert!(
        page.matches("<svg").count() == 3 && !page.contains("http-equiv") && !page.contains("src="),
        "{page}"
    );

    // Held against itself nothing is worse; held against a slower one, it is.
    let name = json.to_str().unwrap();
    assert_eq!(bench(&["compare", name, name]).status.code(), Some(0));
    let mut slower = reports.clone();
    for run in &mut slower.reports[0].runs {
        // Beyond the noise of any machine.
        run.operations_per_second /= 1000.0;
        run.latency_us.p50 *= 1000.0;
    }
    let other = path("slower.json");
    slower.write(&other, false).unwrap();
    let worse = bench(&["compare", name, other.to_str().unwrap(), "--limit", "20"]);
    let told = String::from_utf8(worse.stdout).unwrap();
    assert_eq!(worse.status.code(), Some(1), "{told}");
    assert!(told.contains("WORSE than the limit"), "{told}");
    let better = bench(&["compare", other.to_str().unwrap(), name, "--limit", "20"]);
    assert_eq!(better.status.code(), Some(0));
    assert_eq!(bench(&["compare", name, path("none").to_str().unwrap()]).status.code(), Some(2));
}

#[test]
fn a_killed_leader_costs_time_and_no_confirmed_write() {
    let output = bench(&["trouble", "failover", "--repeats", "2", "--json"]);
    assert!(output.status.success(), "{output:?}");
    let findings: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let value = |what: &str| {
        let all = findings[0]["findings"].as_array().unwrap();
        all.iter().find(|finding| finding["what"] == what).unwrap()["value"].as_f64().unwrap()
    };
    assert_eq!(value("keys whose confirmed value is lost"), 0.0);
    assert!(value("from the kill to the next confirmed write, least") > 0.0);
    assert!(value("writes confirmed") >= 2.0 * 40.0);
}

#[test]
fn what_is_asked_for_wrongly_is_told() {
    for (arguments, told) in [
        (
            &["load", "--transport", "pigeon"][..],
            "there is no transport \"pigeon\"; there are: quic, tcp, channel",
        ),
        (&["load", "--rate", "0"], "--rate must be above 0"),
        (&["load", "--seconds", "0"], "--seconds must be above 0"),
        (&["load", "--clients", "0"], "--clients must be at least 1"),
    ] {
        let output = bench(arguments);
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && complaint.contains(told), "{arguments:?}: {complaint}");
    }
}
