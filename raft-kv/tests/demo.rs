//! The demo with little data: it passes, leaves nothing behind, and lets go only of what it was told to keep.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use raft_kv::client::Client;
use serde_json::Value;
use support::{exit_code, is_alive, path, program, signal, stderr, stdout, wait_until};

fn small_input(folder: &Path, rows: usize) -> PathBuf {
    let file = folder.join("small.csv");
    let rows: String = (0..rows).map(|n| format!("key-{n},\"value, {n}\",x\n")).collect();
    std::fs::write(&file, format!("id,value,rest\n{rows}key-0,again,x\n")).unwrap();
    file
}

/// The processes of the nodes whose data are in this folder.
fn nodes_in(folder: &Path) -> Vec<u32> {
    let mut nodes = Vec::new();
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // It may have ended meanwhile.
        let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).contains(path(folder)) {
            nodes.push(pid);
        }
    }
    nodes
}

#[test]
fn the_demo_passes_with_any_amount_of_data_and_leaves_nothing_behind() {
    for rows in [1, 2, 500] {
        let folder = tempfile::tempdir().unwrap();
        let input = small_input(folder.path(), rows);
        let scratch = folder.path().join("tmp");
        std::fs::create_dir(&scratch).unwrap();
        let output = program()
            .args(["demo", "--json", "--writers", "8", "--input", path(&input)])
            .env("TMPDIR", &scratch)
            .output()
            .unwrap();
        assert_eq!(exit_code(&output), 0, "{}", stderr(&output));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["keys"], rows);
        assert_eq!((&report["duplicates"], &report["keys_wrong"]), (&Value::from(1), &Value::from(0)));
        assert_eq!(report["keys_checked"], rows);
        assert_eq!(report["hashes_equal"], true);
        assert_ne!(report["killed"], report["new_leader"]);
        assert!(report["failover_ms"].as_f64().unwrap() > 0.0);
        assert_eq!(std::fs::read_dir(&scratch).unwrap().count(), 0, "the folder is gone");
        assert!(nodes_in(&scratch).is_empty(), "the nodes are gone");
    }
}

#[test]
fn an_interrupted_or_killed_demo_takes_its_nodes_along() {
    for name in ["INT", "TERM", "KILL"] {
        let folder = tempfile::tempdir().unwrap();
        let mut demo = program()
            .args(["demo", "--keep"])
            .env("TMPDIR", folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_until("three nodes run", || nodes_in(folder.path()).len() == 3);
        signal(demo.id(), name);
        let status = demo.wait().unwrap();
        assert_eq!(status.code(), (name != "KILL").then_some(1), "SIG{name}");
        wait_until("the nodes are gone", || nodes_in(folder.path()).is_empty());
    }
}

#[tokio::test]
async fn what_is_kept_goes_on_and_stops_as_told() {
    let folder = tempfile::tempdir().unwrap();
    let input = small_input(folder.path(), 50);
    let output = program()
        .args(["demo", "--json", "--keep", "--input", path(&input)])
        .env("TMPDIR", folder.path())
        .output()
        .unwrap();
    assert_eq!(exit_code(&output), 0, "{}", stderr(&output));
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let texts = |name: &str| -> Vec<String> {
        report[name].as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect()
    };
    let processes: Vec<u32> =
        report["processes"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect();
    assert_eq!(processes.len(), 3);
    let pair = Client::new(&texts("nodes")).unwrap().get("key-7", false).await.unwrap().unwrap();
    assert_eq!(pair.value, "\"value, 7\",x");
    for &process in &processes {
        assert!(is_alive(process));
        signal(process, "TERM");
    }
    wait_until("they stop", || nodes_in(folder.path()).is_empty());
    assert!(Path::new(report["folder"].as_str().unwrap()).join("node-1/log.redb").exists());
}

#[test]
fn a_demo_that_fails_keeps_its_folder_and_shows_the_logs() {
    let folder = tempfile::tempdir().unwrap();
    let mut demo = program()
        .arg("demo")
        .env("TMPDIR", folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(demo.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("the cluster is founded")));
    signal(nodes_in(folder.path())[0], "KILL");
    let last: Vec<String> = lines.collect();
    assert_eq!(demo.wait().unwrap().code(), Some(1), "{last:?}");
    let kept = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    assert!(last.last().unwrap().contains("ended by itself"), "{last:?}");
    assert!(last.last().unwrap().contains(path(&kept)), "{last:?}");
    assert!(last.iter().any(|line| line.contains("last lines of")), "{last:?}");
    assert!(kept.join("node-1.log").exists());
    wait_until("the nodes are gone", || nodes_in(folder.path()).is_empty());
}
