//! The load generator, the comparison and the trouble maker, as a user runs them.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use raft_bench::backend::{Backends, Kept};
use raft_bench::cluster::ClusterOptions;
use raft_bench::load::{self, Pace, Report, Reports, Settings, Target};
use raft_core::mem::MemLogStore;
use raft_core::testing::{FaultStore, StoreFaults};

/// How long the store stands still, once.
const STALL: Duration = Duration::from_millis(500);

async fn under(pace: Pace) -> load::Run {
    let faults = StoreFaults::new();
    let of_store = faults.clone();
    let open = move |_: &Path| Ok(FaultStore::new(MemLogStore::new(), of_store.clone()));
    let backends = Backends::ours().store("stalling", Kept::Volatile, open);
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
        faults.stall();
        let faults = faults.clone();
        tokio::spawn(async move {
            // The fault itself, not a wait for something: what the generator must not leave out of its latencies.
            tokio::time::sleep(STALL).await;
            faults.heal();
        });
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
    assert!(table.starts_with("3 nodes, 64 B, closed, 8 clients\n"), "{table}");
    assert!(table.contains("channel+memory(volatile)") && table.contains("p99.99 us"), "{table}");
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
        assert!(run.peak_resident_bytes > Some(1 << 20));
    }
    assert_eq!(text(&csv).lines().count(), 1 + 2);
    assert_eq!(text(&series).lines().count(), 1 + 2);
    let page = text(&html);
    assert!(
        page.matches("<svg").count() == 4 && !page.contains("http-equiv") && !page.contains("src="),
        "{page}"
    );

    assert_eq!(
        bench(&["compare", json.to_str().unwrap(), path("none").to_str().unwrap()]).status.code(),
        Some(2)
    );
}

/// Runs of two clusters in turn, each over a store of its own, as a report each.
async fn in_turn(all: [&StoreFaults; 2]) -> [Reports; 2] {
    let settings = Settings {
        pace: Pace::Closed { clients: 8 },
        payload_bytes: 64,
        warm_up: Duration::from_millis(50),
        measure: Duration::from_millis(300),
        max_open: 1,
    };
    let report = Report::new("it", 1, &settings);
    let mut reports = [report.clone(), report];
    for _ in 0..4 {
        for (report, faults) in reports.iter_mut().zip(all) {
            let faults = faults.clone();
            let open = move |_: &Path| Ok(FaultStore::new(MemLogStore::new(), faults.clone()));
            let backends = Backends::ours().store("it", Kept::Volatile, open);
            let built = backends.choose("channel", "it", None).unwrap();
            let options = ClusterOptions { nodes: 1, ..ClusterOptions::new(built) };
            let target = Target::start(&options).await.unwrap();
            report.runs.push(load::run(&target, &settings, |_, _| ()).await.unwrap());
            target.end().await;
        }
    }
    reports.map(|report| Reports { reports: vec![report], ..Reports::default() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compare_exits_with_1_where_a_slowdown_was_planted_and_else_with_0() {
    let folder = tempfile::tempdir().unwrap();
    let [first, second] = ["first.json", "second.json"].map(|name| folder.path().join(name));
    let compared = |reports: &[Reports; 2]| {
        reports[0].write(&first, false).unwrap();
        reports[1].write(&second, false).unwrap();
        // What the machine's neighbours do to four short runs is less than a factor of three.
        let output = bench(&["compare", first.to_str().unwrap(), second.to_str().unwrap(), "--limit", "200"]);
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (equal, slow) = (StoreFaults::new(), StoreFaults::new());
    let (code, told) = compared(&in_turn([&equal, &equal]).await);
    assert_eq!(code, Some(0), "{told}");
    assert!(!told.contains("do not alternate"), "{told}");
    // The planted slowdown itself: a write in memory takes microseconds; now each takes this long.
    slow.slow(|| tokio::time::sleep(Duration::from_millis(5)));
    let reports = in_turn([&equal, &slow]).await;
    let (code, told) = compared(&reports);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("WORSE than the limit"), "{told}");
    // The other way round it is an improvement.
    let [mut before, after] = reports;
    assert_eq!(compared(&[after.clone(), before.clone()]).0, Some(0));
    // One run of nothing, or another length: nothing can be told.
    let mut dead = before.clone();
    dead.reports[0].runs[3].operations_per_second = 0.0;
    assert_eq!(compared(&[after.clone(), dead]).0, Some(2));
    before.reports[0].seconds = 0.6;
    assert_eq!(compared(&[after, before]).0, Some(2));
}

/// Makes trouble, and gives what was found under a name.
fn found_by(trouble: &str, arguments: &[&str]) -> impl Fn(&str) -> f64 {
    let output = bench(&[&["trouble", trouble, "--json"], arguments].concat());
    assert!(output.status.success(), "{output:?}");
    let findings: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    move |what| {
        let all = findings[0]["findings"].as_array().unwrap();
        let found = all.iter().find(|finding| finding["what"] == what);
        found.unwrap_or_else(|| panic!("{what}: {all:?}"))["value"].as_f64().unwrap()
    }
}

#[test]
fn every_trouble_is_made_and_told() {
    /// A trouble, what is found above zero, and what is found to be zero.
    type Case = (&'static str, &'static [&'static str], &'static [&'static str]);
    const CASES: [Case; 5] = [
        ("slow-follower", &["one slow: carried out", "one slow: p99.9"], &[]),
        ("snapshot", &["with: carried out", "snapshots taken", "time of a snapshot, median"], &[]),
        ("members", &["with: carried out", "from the call until the new configuration alone counts"], &[]),
        // What half of the load comes to is left open: the load was measured while the others had not begun, or had ended.
        ("overload", &["closed loop of 1024 clients: carried out"], &[]),
        ("idle", &[], &["written"]),
    ];
    let small = ["--transport", "channel", "--store", "memory", "--clients", "4", "--repeats", "1"];
    std::thread::scope(|scope| {
        for (trouble, some, none) in CASES {
            scope.spawn(move || {
                let value = found_by(trouble, &small);
                for what in some {
                    assert!(value(what) > 0.0, "{trouble}: {what}");
                }
                for what in none {
                    assert_eq!(value(what), 0.0, "{trouble}: {what}");
                }
            });
        }
    });
}

#[test]
fn a_killed_leader_costs_time_and_no_confirmed_write() {
    let value = found_by("failover", &["--repeats", "2"]);
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
        (&["load", "--rate", "0"], "a rate must be 0.001 to 1000000000 operations a second, not 0.0"),
        (&["load", "--rate", "1e-300"], "a second, not 1e-300"),
        (&["load", "--rate", "1e300"], "a rate must be"),
        (&["load", "--seconds", "0"], "--seconds must be above 0"),
        (&["load", "--rate", "inf"], "a rate must be"),
        (&["load", "--seconds", "1e18"], "--seconds must be 0 to 86400"),
        (&["load", "--clients", "0"], "--clients must be at least 1"),
        (&["load", "--clients", "99999999"], "--clients must be at most 1048576"),
        (&["load", "--repeats", "0"], "--repeats must be at least 1"),
        (&["load", "--transport", "quic,tcp", "--label", "new"], "--label names one subject"),
        (&["load", "--json", "/no/such/folder/a.json"], "there is no folder /no/such/folder"),
        (&["load", "--store", "memory", "--payload", "5000000", "--warm-up", "0"], "split it"),
        (&["compare", "a", "b", "--limit", "nan"], "--limit must be at least 0"),
        (&["trouble", "idle", "--repeats", "0"], "must be at least 1"),
    ] {
        let output = bench(arguments);
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && complaint.contains(told), "{arguments:?}: {complaint}");
    }
}
