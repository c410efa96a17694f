//! What a node tells of itself: metrics, health, and why nothing goes on.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::BTreeMap;

use raft_kv::api::HealthBody;
use support::{Cluster, eventually, exit_code, run, stdout};

async fn get(cluster: &Cluster, place: usize, path: &str) -> Option<(u16, String)> {
    let answer = reqwest::get(format!("http://{}{path}", cluster.nodes[place].http)).await.ok()?;
    Some((answer.status().as_u16(), answer.text().await.ok()?))
}

async fn health(cluster: &Cluster, place: usize, path: &str) -> Option<(u16, HealthBody)> {
    let (status, body) = get(cluster, place, path).await?;
    Some((status, serde_json::from_str(&body).unwrap()))
}

/// The samples of a node, by name and labels.
async fn metrics(cluster: &Cluster, place: usize) -> BTreeMap<String, f64> {
    let (status, text) = get(cluster, place, "/metrics").await.unwrap();
    assert_eq!(status, 200);
    assert!(text.ends_with("# EOF\n"), "{text}");
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_tell_what_happened() {
    const PUTS: u64 = 20;
    let cluster = Cluster::start(3).await;
    for number in 0..PUTS {
        assert_eq!(exit_code(&cluster.run(&["put", &format!("k{number}"), "v"])), 0);
    }
    cluster.settled().await;
    let leader = cluster.leader().await;
    let mut led = 0.0;
    for place in 0..3 {
        // What is applied shows a moment later.
        let seen = eventually("all that was put shows", async || {
            let seen = metrics(&cluster, place).await;
            (seen["raft_keys"] == PUTS as f64 && seen["raft_applied_index"] >= PUTS as f64).then_some(seen)
        })
        .await;
        led += seen["raft_is_leader"];
        let count = |name: &str| seen[&format!("raft_{name}_seconds_count")];
        assert!(count("log_write") > 0.0 && count("commit_to_apply") > 0.0, "{seen:?}");
        // The buckets add up to the count, and the last holds all.
        for name in ["log_write", "commit_to_apply", "propose_to_commit", "append_round_trip"] {
            assert_eq!(seen[&format!("raft_{name}_seconds_bucket{{le=\"+Inf\"}}")], count(name), "{name}");
        }
        if place == leader {
            // Each in a session of its own: that is opened and closed, too.
            assert_eq!(count("propose_to_commit"), 3.0 * PUTS as f64);
            assert!(count("append_round_trip") > 0.0);
            assert_eq!(seen["raft_events_total{event=\"elected\"}"], 1.0);
            for peer in (1..=3).filter(|&peer| peer != place + 1) {
                assert_eq!(seen[&format!("raft_peer_is_active{{peer=\"{peer}\"}}")], 1.0);
            }
        } else {
            assert_eq!(count("propose_to_commit"), 0.0);
        }
        assert_eq!(seen["raft_voters"], 3.0);
    }
    assert_eq!(led, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_tells_a_node_that_waits_from_one_that_serves() {
    let mut cluster = Cluster::prepare(3);
    for node in &mut cluster.nodes {
        node.start().await;
    }
    assert_eq!(health(&cluster, 0, "/livez").await.unwrap(), (200, HealthBody { ok: true, reasons: vec![] }));
    let (status, ready) = health(&cluster, 0, "/readyz").await.unwrap();
    assert_eq!((status, ready.reasons), (503, vec!["This node belongs to no cluster.".to_owned()]));
    let args = cluster.init_args();
    assert_eq!(exit_code(&run(&args.iter().map(String::as_str).collect::<Vec<_>>())), 0);
    for place in 0..3 {
        eventually("every node is ready", async || {
            health(&cluster, place, "/readyz").await.filter(|(status, _)| *status == 200)
        })
        .await;
    }
    // Alone, it lives, is of no use to clients, and says why.
    cluster.nodes[1].kill();
    cluster.nodes[2].kill();
    let reasons = eventually("the node that is left knows no leader", async || {
        let (status, body) = health(&cluster, 0, "/health").await?;
        let why = body.reasons.join(" ");
        (status == 503 && why.contains("1 of 3 voters granted it, not 2, 3")).then_some(body.reasons)
    })
    .await;
    assert!(reasons.contains(&"No leader is known.".to_owned()), "{reasons:?}");
    assert_eq!(health(&cluster, 0, "/livez").await.unwrap().0, 200);
    let node = cluster.nodes[0].http.to_string();
    eventually("the command line says why", async || {
        stdout(&run(&["status", "--nodes", &node])).contains("voters granted it").then_some(())
    })
    .await;
}
