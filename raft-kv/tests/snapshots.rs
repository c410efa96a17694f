//! A large state comes to a node that has none of it, over a limited rate, with either end killed in the middle: it goes on
//! where it was, in no more transfers than there were interruptions and one, and in little memory.
//!
//! `RAFT_KV_STATE_MIB` sets how large the state is, `RAFT_KV_RATE_MIB` how much of it a second may be sent. The full size is
//! 200 and 5.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic, and tells what it measured")]

mod support;

use std::fs;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_kv::api::StatusBody;
use raft_kv::client::Client;
use support::{Cluster, Node, PATIENCE, eventually, eventually_within};

const VALUE_BYTES: usize = 256 << 10;

/// How much memory a node may take beside its state, in MiB.
const BESIDE_THE_STATE_MIB: u64 = 100;

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap())
}

/// The most memory that a node's process has taken, and what it takes now, in MiB.
fn memory_mib(node: &Node) -> (u64, u64) {
    let pid = node.child.as_ref().unwrap().id();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let of = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
    };
    (of("VmHWM:"), of("VmRSS:"))
}

/// Forgets the most memory that a process has taken so far.
fn forget_peak(node: &Node) {
    let pid = node.child.as_ref().unwrap().id();
    fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
}

async fn status(node: &Node) -> StatusBody {
    eventually("the node answers", async || node.status().await).await
}

/// Waits until the node has so much of the snapshot that is coming in; how much it is then.
async fn received(node: &Node, bytes: u64, patience: Duration) -> u64 {
    eventually_within(patience, "the snapshot comes in", async || {
        let receiving = node.status().await?.snapshots.receiving?;
        (receiving.bytes >= bytes).then_some(receiving.bytes)
    })
    .await
}

/// How many transfers the nodes that run have begun.
async fn begun(cluster: &Cluster) -> u64 {
    let mut all = 0;
    for node in cluster.nodes.iter().filter(|node| node.child.is_some()) {
        all += status(node).await.snapshots.sends_begun;
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_state_survives_a_kill_of_either_end() {
    let (state_mib, rate_mib) = (number("RAFT_KV_STATE_MIB", 12), number("RAFT_KV_RATE_MIB", 3));
    let state_bytes = state_mib << 20;
    let values = state_bytes / VALUE_BYTES as u64;
    let patience = PATIENCE + 2 * Duration::from_secs(state_mib / rate_mib);
    // A few on the way: so many entries are also kept behind each.
    let entries = values / 5;
    let mut cluster = Cluster::prepare(3);
    for node in &mut cluster.nodes {
        node.more = ["--snapshot-rate", &rate_mib.to_string(), "--snapshot-entries", &entries.to_string()]
            .map(str::to_owned)
            .to_vec();
    }
    cluster.found().await;
    // Which node is to come from nothing.
    let late = (cluster.leader().await + 1) % 3;
    let needed = status(&cluster.nodes[late]).await.last.index;
    cluster.nodes[late].kill();
    let client = Client::new(&cluster.addresses()).unwrap().with_timeout(Duration::from_secs(60));
    for number in 0..values {
        let mut value = vec![0; VALUE_BYTES];
        fastrand::Rng::with_seed(number).fill(&mut value);
        client.put(&format!("large/{number:06}"), Bytes::from(value)).await.unwrap();
    }
    // The leader keeps the log for a node that it takes to be alive, and looks again with its next snapshot.
    eventually("the others have snapshots, and no log from the beginning", async || {
        client.put("more", Bytes::from_static(b"more")).await.unwrap();
        for place in (0..3).filter(|&place| place != late) {
            cluster.nodes[place].status().await.filter(|status| status.snapshots.log_after > needed)?;
        }
        Some(())
    })
    .await;
    let leader = cluster.leader().await;
    forget_peak(&cluster.nodes[leader]);
    let (_, sender_before) = memory_mib(&cluster.nodes[leader]);

    let term = status(&cluster.nodes[leader]).await.term;
    let began = Instant::now();
    cluster.nodes[late].start().await;
    // The receiver dies, and goes on from what it had.
    let third = received(&cluster.nodes[late], state_bytes / 4, patience).await;
    cluster.nodes[late].kill();
    cluster.nodes[late].start().await;
    let resumed = received(&cluster.nodes[late], 1, patience).await;
    assert!(resumed * 10 >= third * 9, "went on at {resumed} of {third} bytes that were there");
    received(&cluster.nodes[late], state_bytes / 2, patience).await;
    let before = begun(&cluster).await;
    let (sender_peak, _) = memory_mib(&cluster.nodes[leader]);

    // The sender dies. Alone the two others have a majority, of which one needs the state first.
    let next = 3 - late - leader;
    forget_peak(&cluster.nodes[next]);
    let (_, next_before) = memory_mib(&cluster.nodes[next]);
    cluster.nodes[leader].kill();
    cluster.nodes[leader].start().await;
    eventually_within(patience, "the node has the whole state", async || {
        cluster.nodes[late].status().await.filter(|status| status.keys > values)
    })
    .await;
    let took = began.elapsed();
    let (receiver_peak, receiver_now) = memory_mib(&cluster.nodes[late]);
    let (next_peak, _) = memory_mib(&cluster.nodes[next]);
    let settled = cluster.settled().await;
    let transfers = before + begun(&cluster).await;
    let last = status(&cluster.nodes[cluster.leader().await]).await;
    let leaders = last.term - term;
    println!(
        "{state_mib} MiB at {rate_mib} MiB/s: {took:.1?}; {transfers} transfers begun, {before} of them before the sender died, \
         {leaders} new leaders; the receiver went on at {} KiB of {} KiB; memory of the sender {sender_before} -> {sender_peak} \
         MiB, of the next sender {next_before} -> {next_peak} MiB, of the receiver {receiver_peak} MiB at most and \
         {receiver_now} MiB at the end",
        resumed >> 10,
        third >> 10,
    );
    assert!(settled.iter().all(|status| status.keys == values + 1), "{settled:?}");
    // One, one more for the receiver's death, and one for each new leader: three, where only the sender's death brought one.
    assert!(transfers <= 2 + leaders, "{transfers} transfers, {leaders} new leaders");
    for (who, peak) in [("sender", sender_peak), ("next sender", next_peak), ("receiver", receiver_peak)] {
        assert!(peak <= state_mib + BESIDE_THE_STATE_MIB, "the {who} took {peak} MiB");
    }
}
