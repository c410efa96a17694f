//! Reads after the leader was killed or stood still: always of the newest value that was confirmed, on whatever node.
//!
//! `RAFT_KV_READ_ROUNDS` sets how many rounds.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_core::Consistency;
use raft_kv::api::LeaseBody;
use raft_kv::client::Client;
use support::{Cluster, PATIENCE, eventually, exit_code, run, signal, stderr, stdout};

/// The default of [`raft_core::Config::election_timeout`], which the nodes run with.
const ELECTION_TIMEOUT: Duration = Duration::from_millis(500);

fn rounds(default: u32) -> u32 {
    std::env::var("RAFT_KV_READ_ROUNDS").map_or(default, |rounds| rounds.parse().unwrap())
}

fn client(nodes: &[String]) -> Client {
    Client::new(nodes).unwrap().with_timeout(PATIENCE)
}

fn value(round: u32) -> Bytes {
    Bytes::from(format!("value {round}"))
}

async fn leased_cluster() -> Cluster {
    let mut cluster = Cluster::prepare(3);
    for node in &mut cluster.nodes {
        node.more = vec!["--lease-clock-drift".to_owned(), "1000".to_owned()];
    }
    cluster.found().await;
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_value_is_read_at_once_after_the_leader_was_killed() {
    let mut cluster = leased_cluster().await;
    let all = client(&cluster.addresses());
    for round in 0..rounds(8) {
        let leader = cluster.leader().await;
        let put = all.put("key", value(round)).await.unwrap();
        cluster.nodes[leader].kill();
        // At once, from each node that is left, by either way; the lease of the dead leader must not be in anyone's way for long.
        let reads = (0..3).filter(|&place| place != leader).flat_map(|place| {
            let address = cluster.nodes[place].http.to_string();
            [Consistency::Linearizable, Consistency::Lease].map(|level| (address.clone(), level))
        });
        let reads: Vec<_> = reads
            .map(|(address, level)| {
                tokio::spawn(async move { (client(&[address]).get_with("key", level).await, level) })
            })
            .collect();
        for read in reads {
            let (pair, level) = read.await.unwrap();
            let pair = pair.unwrap().expect("the key is there");
            assert_eq!((pair.value, pair.revisions), (value(round), put), "round {round}, {level:?}");
        }
        cluster.nodes[leader].start().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stood_still_reads_nothing_old() {
    let cluster = leased_cluster().await;
    let all = client(&cluster.addresses());
    all.put("key", value(0)).await.unwrap();
    for round in 1..=rounds(4) {
        let leader = cluster.leader().await;
        let stopped = client(&[cluster.nodes[leader].http.to_string()]);
        // The lease is in force.
        let pair = stopped.get_with("key", Consistency::Lease).await.unwrap().unwrap();
        assert_eq!(pair.value, value(round - 1));
        let pid = cluster.nodes[leader].child.as_ref().unwrap().id();
        signal(pid, "STOP");
        let since = Instant::now();
        // Straight to the next leader: what a node passed on to the one that stands still could happen later.
        let next = eventually("another node leads", async || {
            for place in (0..3).filter(|&place| place != leader) {
                if cluster.nodes[place].status().await.is_some_and(|status| status.role == "leader") {
                    return Some(place);
                }
            }
            None
        })
        .await;
        client(&[cluster.nodes[next].http.to_string()]).put("key", value(round)).await.unwrap();
        // These wait for it when it comes to itself: before it hears of anything else, perhaps.
        let waiting: Vec<_> = [Consistency::Lease, Consistency::Linearizable]
            .into_iter()
            .cycle()
            .take(16)
            .map(|level| {
                let address = cluster.nodes[leader].http.to_string();
                tokio::spawn(async move { (client(&[address]).get_with("key", level).await, level) })
            })
            .collect();
        tokio::time::sleep((3 * ELECTION_TIMEOUT).saturating_sub(since.elapsed())).await;
        signal(pid, "CONT");
        for level in [Consistency::Lease, Consistency::Linearizable] {
            let pair = stopped.get_with("key", level).await.unwrap().unwrap();
            assert_eq!(pair.value, value(round), "round {round}, {level:?}, after it");
        }
        for read in waiting {
            let (pair, level) = read.await.unwrap();
            assert_eq!(pair.unwrap().unwrap().value, value(round), "round {round}, {level:?}, before it");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_reads_as_fresh_as_it_is_told() {
    let mut cluster = Cluster::start(3).await;
    let put = cluster.run(&["put", "key", "value"]);
    assert_eq!(exit_code(&put), 0, "{}", stderr(&put));
    let leader = cluster.leader().await;
    for place in 0..3 {
        let node = cluster.nodes[place].http.to_string();
        for level in ["linearizable", "lease"] {
            let get = run(&["get", "key", "--consistency", level, "--nodes", &node]);
            assert_eq!((exit_code(&get), stdout(&get).as_str()), (0, "value"), "{level}: {}", stderr(&get));
        }
        let fresh = run(&["get", "key", "--consistency", "stale", "--max-age", "0.001", "--nodes", &node]);
        assert_eq!((exit_code(&fresh), stdout(&fresh).as_str()), (0, "value"), "{}", stderr(&fresh));
        let scan = run(&["scan", "--consistency", "lease", "--nodes", &node]);
        assert_eq!(stdout(&scan), "key\tvalue", "{}", stderr(&scan));
    }
    for wrong in [
        &["get", "key", "--consistency", "newest"][..],
        &["get", "key", "--max-age", "1"],
        &["get", "key", "--stale", "--consistency", "lease"],
    ] {
        assert_eq!(exit_code(&run(wrong)), 2, "{wrong:?}");
    }
    // A node that is left alone still tells what it has, and only that.
    let alone = (leader + 1) % 3;
    let address = cluster.nodes[alone].http.to_string();
    eventually("it has the value", async || {
        let get = run(&["get", "key", "--stale", "--nodes", &address]);
        (stdout(&get) == "value").then_some(())
    })
    .await;
    for place in (0..3).filter(|&place| place != alone) {
        cluster.nodes[place].kill();
    }
    let own = run(&["get", "key", "--consistency", "stale", "--nodes", &address]);
    assert_eq!(stdout(&own), "value", "{}", stderr(&own));
    let recent = run(&["get", "key", "--stale", "--max-age", "0.001", "--nodes", &address, "--timeout", "3"]);
    assert_eq!(exit_code(&recent), 1, "{}", stdout(&recent));
    let header = reqwest::get(format!("http://{address}/kv/key?consistency=stale")).await.unwrap();
    let applied = header.headers()["raft-kv-applied"].to_str().unwrap().parse::<u64>().unwrap();
    assert!(applied >= 3, "{applied}");
}

/// The processor time that a process has used so far.
#[cfg(target_os = "linux")]
fn processor_time(pid: u32) -> Duration {
    const TICK: Duration = Duration::from_millis(10);
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // After the name, which may hold anything, in brackets.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<u32>().unwrap();
    TICK * (ticks(11) + ticks(12))
}

/// Reads so many times with 64 callers; the leader's processor time for each, and how many a second.
#[cfg(target_os = "linux")]
async fn cost(
    cluster: &Cluster,
    leader: usize,
    place: usize,
    reads: u32,
    level: Consistency,
) -> (Duration, f64) {
    const CALLERS: u32 = 64;
    let pid = cluster.nodes[leader].child.as_ref().unwrap().id();
    let address = cluster.nodes[place].http.to_string();
    // A URL of its own, so that nothing leads the caller to the leader.
    let http = reqwest::Client::new();
    let level = if level == Consistency::Lease { "?consistency=lease" } else { "" };
    let url = format!("http://{address}/kv/key{level}");
    let (before, began) = (processor_time(pid), Instant::now());
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (http, url) = (http.clone(), url.clone());
            tokio::spawn(async move {
                for _ in 0..reads / CALLERS {
                    let answer = http.get(&url).send().await.unwrap();
                    assert_eq!(answer.status(), 200);
                    assert_eq!(answer.bytes().await.unwrap(), value(0));
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    let done = reads / CALLERS * CALLERS;
    ((processor_time(pid) - before) / done, f64::from(done) / began.elapsed().as_secs_f64())
}

/// A read on a follower costs the leader a share of a message, not the read. `RAFT_KV_READ_COST` sets how many reads are measured.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_read_on_a_follower_costs_the_leader_at_most_half() {
    let reads = std::env::var("RAFT_KV_READ_COST").map_or(12_800, |reads| reads.parse().unwrap());
    let cluster = leased_cluster().await;
    client(&cluster.addresses()).put("key", value(0)).await.unwrap();
    let leader = cluster.leader().await;
    let follower = (leader + 1) % 3;
    for level in [Consistency::Linearizable, Consistency::Lease] {
        let (own, own_rate) = cost(&cluster, leader, leader, reads, level).await;
        let (other, other_rate) = cost(&cluster, leader, follower, reads, level).await;
        println!(
            "{level:?}: the leader's processor time per read {own:?} on itself ({own_rate:.0}/s), {other:?} on a follower \
             ({other_rate:.0}/s)"
        );
        assert_eq!(cluster.leader().await, leader, "another node led meanwhile");
        assert!(2 * other <= own, "{level:?}: {other:?} on a follower, {own:?} on itself");
    }
}

/// How many nodes' status shows what lease reads rest on, or that there are none.
async fn show_lease(cluster: &Cluster, lease: Option<LeaseBody>) {
    for node in &cluster.nodes {
        eventually("the node shows what lease reads rest on", async || {
            node.status().await.filter(|status| status.lease == lease)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_are_switched_on_and_off_while_the_cluster_runs() {
    let cluster = Cluster::start(3).await;
    client(&cluster.addresses()).put("key", value(1)).await.unwrap();
    show_lease(&cluster, None).await;

    let args = ["lease", "on", "--clock-drift", "2000", "--election-timeout", "400"];
    let on = eventually("all members have said that they know leases", async || {
        let on = cluster.run(&args);
        (exit_code(&on) == 0).then_some(on)
    })
    .await;
    assert!(stdout(&on).contains("lease reads are on"), "{}", stdout(&on));
    show_lease(&cluster, Some(LeaseBody { election_timeout_ms: 400, clock_drift_ppm: 2_000 })).await;
    let pair = client(&cluster.addresses()).get_with("key", Consistency::Lease).await.unwrap().unwrap();
    assert_eq!(pair.value, value(1));

    let odd = ["lease", "on", "--clock-drift", "900000"];
    let refused = cluster.run(&odd);
    assert_eq!(exit_code(&refused), 1, "{}", stderr(&refused));
    assert!(stderr(&refused).contains("out of range"), "{}", stderr(&refused));

    let off = cluster.run(&["lease", "off"]);
    assert_eq!(exit_code(&off), 0, "{}", stderr(&off));
    show_lease(&cluster, None).await;
    let pair = client(&cluster.addresses()).get_with("key", Consistency::Lease).await.unwrap().unwrap();
    assert_eq!(pair.value, value(1), "by a round");
}
