//! Leadership that moves, with real processes under load: nothing confirmed is lost, and nobody waits for an election timeout
//! where a leader goes on purpose. What was measured is printed (`-- --nocapture`).
//!
//! `RAFT_KV_TRANSFERS` sets how many transfers, `RAFT_KV_ROLLS` how many rolling restarts.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic, and tells what it measured")]

mod support;

use std::time::{Duration, Instant};

use serde_json::Value;
use support::load::Load;
use support::{Cluster, eventually, exit_code, run, stderr, stdout};

/// Nobody waits for longer, be the machine ever so slow: without the hand-over it would be an election timeout or two.
const LONGEST_GAP: Duration = Duration::from_secs(5);

fn number(name: &str) -> Option<usize> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn rolling_restart_under_load() {
    let mut cluster = Cluster::start(3).await;
    let load = Load::start(&cluster.addresses());
    let quiet = Instant::now();
    load.goes_on(200).await;
    let undisturbed = load.longest_gap(quiet);
    let mut longest = Duration::ZERO;
    for roll in 0..number("RAFT_KV_ROLLS").unwrap_or(1) {
        for place in 0..cluster.nodes.len() {
            let led = cluster.leader().await == place;
            let began = Instant::now();
            cluster.nodes[place].stop().await;
            let stopped = began.elapsed();
            load.goes_on(50).await;
            let gap = load.longest_gap(began);
            cluster.nodes[place].start().await;
            // The next goes down when this one has all.
            let commit = cluster.nodes[cluster.leader().await].status().await.unwrap().commit;
            eventually("the node has caught up", async || {
                cluster.nodes[place].status().await.filter(|status| status.applied >= commit)
            })
            .await;
            let what = if led { "the leader" } else { "a follower" };
            println!(
                "restart {roll}: node {}, {what}: stopped in {stopped:.0?}, longest gap {gap:.0?}",
                cluster.nodes[place].id
            );
            longest = longest.max(gap);
        }
    }
    let (confirmed, unknown) = load.end(&cluster.addresses()).await;
    cluster.settled().await;
    println!(
        "rolling restart: {confirmed} writes confirmed, {unknown} unknown, longest gap {longest:.0?} (before, undisturbed: \
         {undisturbed:.0?})"
    );
    assert!(longest < LONGEST_GAP, "{longest:?} without a confirmed write");
}

#[tokio::test(flavor = "multi_thread")]
async fn transfers_under_load() {
    let cluster = Cluster::start(3).await;
    let load = Load::start(&cluster.addresses());
    let quiet = Instant::now();
    load.goes_on(200).await;
    let undisturbed = load.longest_gap(quiet);
    let began = Instant::now();
    let mut gaps = Vec::new();
    let transfers = number("RAFT_KV_TRANSFERS").unwrap_or(50);
    for _ in 0..transfers {
        let to = cluster.nodes[(cluster.leader().await + 1) % 3].id.to_string();
        let asked = Instant::now();
        let output = cluster.run(&["transfer", "--to", &to]);
        assert_eq!(exit_code(&output), 0, "{}", stderr(&output));
        assert_eq!(stdout(&output), format!("OK node {to} leads"));
        load.goes_on(20).await;
        gaps.push(load.longest_gap(asked));
    }
    gaps.sort_unstable();
    let (median, longest) = (gaps[gaps.len() / 2], load.longest_gap(began));
    let (confirmed, unknown) = load.end(&cluster.addresses()).await;
    cluster.settled().await;
    println!(
        "{transfers} transfers: {confirmed} writes confirmed, {unknown} unknown, gap median {median:.0?}, longest {longest:.0?} \
         (before, undisturbed: {undisturbed:.0?})"
    );
    assert!(longest < LONGEST_GAP, "{longest:?} without a confirmed write");
}

#[tokio::test(flavor = "multi_thread")]
async fn transfers_are_answered_clearly() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.nodes[cluster.leader().await].id;
    // To whom it leads already.
    let same = cluster.run(&["transfer", "--to", &leader.to_string()]);
    assert_eq!(stdout(&same), format!("OK node {leader} leads"));
    // The best, through any node.
    let best = cluster.run(&["transfer", "--json"]);
    let best: Value = serde_json::from_slice(&best.stdout).unwrap();
    assert_ne!(best["leader"].as_u64(), Some(leader));
    let stranger = cluster.run(&["transfer", "--to", "9"]);
    assert_eq!(exit_code(&stranger), 1);
    let told = "raft-kv: leadership was not handed over: node 9 is not a member of the cluster";
    assert_eq!(stderr(&stranger), told);
    let stranger = cluster.run(&["transfer", "--to", "9", "--json"]);
    let stranger: Value = serde_json::from_slice(&stranger.stderr).unwrap();
    assert_eq!(stranger["error"], "conflict");

    let dead = cluster.leader().await;
    let dead = (dead + 1) % 3;
    cluster.nodes[dead].kill();
    let id = cluster.nodes[dead].id.to_string();
    let refused = eventually("the dead node is missed", async || {
        let output = cluster.run(&["transfer", "--to", &id]);
        (exit_code(&output) == 1).then(|| stderr(&output))
    })
    .await;
    assert!(refused.contains("does not answer") || refused.contains("did not take over"), "{refused}");
    // And the cluster works on.
    assert_eq!(exit_code(&cluster.run(&["put", "a", "1"])), 0);

    let usage = run(&["transfer", "--to", "two"]);
    assert_eq!(exit_code(&usage), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_preferred_node_leads_in_the_end() {
    let mut cluster = Cluster::prepare(3);
    cluster.nodes[2].priority = 9;
    for node in &mut cluster.nodes {
        node.start().await;
    }
    let founded = run(&cluster.init_args().iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(exit_code(&founded), 0, "{}", stderr(&founded));
    let status = eventually("node 3 leads", async || {
        cluster.nodes[2].status().await.filter(|status| status.role == "leader")
    })
    .await;
    assert_eq!(status.priority, 9);
}
