//! A node with a large log that was killed is ready again in well under a second: it reads no entries to start.
//!
//! `RAFT_KV_LOG_ENTRIES` sets how many entries; a release build with 1,000,000 is what `docs/kv.md` tells of.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_core::codec::cold;
use raft_core::log_store::{LogStore as _, Write};
use raft_core::types::{Entry, EntryId, GroupId, HardState, Payload};
use raft_kv::command::Command;
use raft_storage_redb::RedbLogStore;
use serde_json::Value;
use support::{Cluster, Node, exit_code, path, run, stderr, stdout};

/// How long a start may take, however long the log.
const WELL_UNDER_A_SECOND: Duration = Duration::from_millis(700);

/// Entries that one write of the log takes.
const BATCH: u64 = 1000;

fn key_of(index: u64) -> String {
    format!("key/{index:08}")
}

/// Appends entries that each set a small key, as a leader of the log's last term would, all committed; the last index.
async fn append(log: &Path, count: u64) -> u64 {
    let store = RedbLogStore::open(log).unwrap();
    let group = GroupId::default();
    let state = store.load(group).await.unwrap();
    let term = state.hard_state.term;
    let last = state.last + count;
    let mut next = state.last + 1;
    while next <= last {
        let end = last.min(next + BATCH - 1);
        let entries = (next..=end).map(|index| {
            let command = Command::Put { key: key_of(index), value: Bytes::from(index.to_string()) };
            let payload = Payload::Command(cold::encode(&command).unwrap().into());
            Entry { id: EntryId::new(term, index), payload }
        });
        let hard_state = HardState { commit: end, ..state.hard_state };
        let write =
            Write { group, entries: entries.collect(), hard_state: Some(hard_state), ..Write::default() };
        store.write(&[write]).await.unwrap();
        next = end + 1;
    }
    last
}

/// Starts a node; how long it took until it said that it is ready.
fn time_to_ready(node: &Node) -> (Child, Duration) {
    let started = Instant::now();
    let mut child = node
        .serve()
        .args(["--json", "--follow-stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let took = started.elapsed();
    assert!(line.starts_with('{'), "the node did not become ready");
    (child, took)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_node_with_a_large_log_is_ready_at_once() {
    let count = std::env::var("RAFT_KV_LOG_ENTRIES").map_or(50_000, |text| text.parse().unwrap());
    let mut cluster = Cluster::start(1).await;
    cluster.nodes[0].kill();
    let log = cluster.nodes[0].data.join("log.redb");
    let last = append(&log, count).await;
    let size = std::fs::metadata(&log).unwrap().len();
    println!("{count} entries, a file of {size} bytes");

    // Killed as soon as it is ready: it has the file open, and cannot have closed it in order.
    let (child, orderly) = time_to_ready(&cluster.nodes[0]);
    cluster.nodes[0].child = Some(child);
    cluster.nodes[0].kill();
    let shown = run(&["log", "--data", path(&cluster.nodes[0].data), "--json"]);
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown["shutdown"], "crash");
    assert!(shown["groups"][0]["entries"].as_u64() >= Some(count), "{shown}");
    let (child, killed) = time_to_ready(&cluster.nodes[0]);
    cluster.nodes[0].child = Some(child);
    println!("ready after {orderly:?}; after a kill {killed:?}");

    let started = Instant::now();
    let read = cluster.run(&["get", &key_of(last), "--timeout", "60"]);
    assert_eq!((exit_code(&read), stdout(&read)), (0, last.to_string()), "{}", stderr(&read));
    println!("the last of them could be read {:?} later", started.elapsed());
    let read = cluster.run(&["get", &key_of(last - count + 1)]);
    assert_eq!(stdout(&read), (last - count + 1).to_string());
    assert!(orderly < WELL_UNDER_A_SECOND, "{orderly:?} after an orderly stop");
    assert!(killed < WELL_UNDER_A_SECOND, "{killed:?} after a kill");
}
