//! Load on a raft-kv that runs: three processes, one of which is killed meanwhile; and what is told where there is none.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use raft_bench::load::{Reports, Run};
use raft_bench::trouble::Nodes;

const PROGRAM: &str = env!("CARGO_BIN_EXE_raft-bench");

/// Only a program that hangs takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

async fn nodes() -> Nodes {
    Nodes::start(PathBuf::from(PROGRAM)).await.unwrap()
}

fn bench(arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Reads lines until one holds this.
fn until_told(child: &mut Child, wanted: &str) -> String {
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut told = String::new();
    while !told.contains(wanted) {
        assert!(stderr.read_line(&mut told).unwrap() > 0, "it ended without {wanted:?}: {told}");
    }
    child.stderr = Some(stderr.into_inner());
    told
}

fn only_run(json: &Path) -> Run {
    let reports = Reports::read(json).unwrap().reports;
    let [report] = reports.as_slice() else { panic!("one report: {reports:?}") };
    assert_eq!((report.subject.as_str(), report.nodes), ("raft-kv", 3));
    let [run] = report.runs.as_slice() else { panic!("one run: {report:?}") };
    run.clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_loop_goes_on_when_the_leader_is_killed() {
    let mut nodes = nodes().await;
    let folder = tempfile::tempdir().unwrap();
    let (json, html) = (folder.path().join("a.json"), folder.path().join("a.html"));
    let processes: Vec<String> = nodes.processes().iter().map(u32::to_string).collect();
    let (addresses, processes) = (nodes.addresses().join(","), processes.join(","));
    let mut load = bench(&["load", "--kv", &addresses, "--pids", &processes, "--clients", "8"])
        .args(["--warm-up", "0", "--seconds", "4", "--json"])
        .arg(&json)
        .arg("--html")
        .arg(&html)
        .spawn()
        .unwrap();
    until_told(&mut load, "raft-kv, 3 nodes, 64 B, closed, 8 clients 1/1");
    let leader = nodes.leader().await.unwrap();
    nodes.kill(leader).unwrap();
    let Output { status, stdout, stderr } = load.wait_with_output().unwrap();
    let table = String::from_utf8_lossy(&stdout);
    assert!(status.success(), "{table}{}", String::from_utf8_lossy(&stderr));
    assert!(table.contains("1 of the processes ended meanwhile"), "{table}");

    let run = only_run(&json);
    assert_eq!(run.processes_ended, 1);
    assert_eq!(run.series.len(), 4);
    // Whoever waited for a new leader was seen to wait, and all went on afterwards.
    assert!(run.latency_us.max > 100_000.0, "{:?}", run.latency_us);
    assert!(run.series.last().unwrap().operations_per_second > 0.0, "{:?}", run.series);
    // A write under way may have been lost with the leader, or with a node that sent it on to the leader; most were not.
    assert!(run.operations > run.unknown + run.refused, "{run:?}");
    assert!(run.cpu_us_per_operation.unwrap() > 0.0 && run.written_bytes_per_operation.unwrap() > 64.0);
    let page = std::fs::read_to_string(&html).unwrap();
    for title in ["Operations a second", "Latency, second by second", "Resident memory"] {
        assert!(page.contains(title), "{title}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_loop_keeps_its_rate_and_a_cluster_that_takes_no_write_is_told() {
    let mut nodes = nodes().await;
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("a.json");
    let addresses = nodes.addresses();
    // One address is enough to find the others.
    let load = bench(&["load", "--kv", &addresses[0], "--rate", "200", "--seconds", "1", "--warm-up", "0"])
        .arg("--json")
        .arg(&json)
        .output()
        .unwrap();
    assert!(load.status.success(), "{load:?}");
    let run = only_run(&json);
    assert_eq!(run.operations + run.refused + run.unknown + run.not_sent, 200);
    assert!(run.operations > 0, "{run:?}");
    // With all nodes named, what they sent is known: each command to two followers.
    let all = folder.path().join("all.json");
    let load =
        bench(&["load", "--kv", &addresses.join(","), "--rate", "200", "--seconds", "1", "--warm-up", "0"])
            .arg("--json")
            .arg(&all)
            .output()
            .unwrap();
    assert!(load.status.success(), "{load:?}");
    let sent = only_run(&all).sent_bytes_per_operation;
    assert!(sent.is_some_and(|sent| sent >= 2.0 * 64.0), "{sent:?}");
    // Nobody named processes to be watched.
    assert_eq!((run.cpu_us_per_operation, run.peak_resident_bytes), (None, None));

    // One node of three is no majority.
    nodes.kill(2).unwrap();
    nodes.kill(3).unwrap();
    let started = Instant::now();
    let refused = bench(&["load", "--kv", &addresses.join(",")]).output().unwrap();
    let told = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{told}");
    assert!(told.contains("takes no write"), "{told}");
    assert!(started.elapsed() < PATIENCE);
}

#[test]
fn what_cannot_be_loaded_is_told() {
    let own = std::process::id().to_string();
    for (arguments, told) in [
        (&["load", "--kv", "127.0.0.1:1"][..], "takes no write: cannot reach the node at 127.0.0.1:1"),
        (&["load", "--kv", "nowhere"], "`nowhere` is no address"),
        (&["load", "--kv", "127.0.0.1:1", "--pids", "4294967295"], "process 4294967295 cannot be watched"),
        (&["load", "--pids", &own], "--kv"),
        (&["load", "--kv", "127.0.0.1:1", "--transport", "quic"], "cannot be used with"),
    ] {
        let output = bench(arguments).output().unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && complaint.contains(told), "{arguments:?}: {complaint}");
    }
}

#[test]
fn interrupted_it_tells_the_runs_that_are_done_and_leaves_nothing_behind() {
    let (folder, results) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let json = results.path().join("a.json");
    let mut load = bench(&["load", "--transport", "channel", "--rate", "100", "--repeats", "2"])
        .args(["--warm-up", "0", "--seconds", "1", "--json"])
        .arg(&json)
        .env("TMPDIR", folder.path())
        .spawn()
        .unwrap();
    until_told(&mut load, "2/2");
    let sent = Command::new("sh").args(["-c", &format!("kill -INT {}", load.id())]).status().unwrap();
    assert!(sent.success());
    let mut told = String::new();
    load.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert_eq!(load.wait().unwrap().code(), Some(130), "{told}");
    assert!(told.contains("interrupted"), "{told}");
    assert_eq!(Reports::read(&json).unwrap().reports[0].runs.len(), 1);
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}
