//! Reads on every node, by rounds and by leases, and stale ones, under the runtime.
#![cfg(feature = "runtime")]
#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

mod cluster;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cluster::{Cluster, options, within};
use raft_core::engine::RoleName;
use raft_core::mem::{ChannelNetwork, MemLogStore};
use raft_core::state_machine::{Batch, MachineError, Note, SnapshotView};
use raft_core::{Consistency, NodeOptions, RaftError, RawRaft, StateMachine};
use tokio::sync::Semaphore;

const STALE: Consistency = Consistency::Stale { max_age: None };

fn at_most(max_age: Duration) -> Consistency {
    Consistency::Stale { max_age: Some(max_age) }
}

/// With leases that last long beside what a test takes.
fn leased(node: u64) -> NodeOptions {
    let mut options = options(node);
    options.config.election_timeout = Duration::from_secs(2);
    options.config.lease_clock_drift_ppm = Some(1_000);
    options
}

async fn cluster_of(options: fn(u64) -> NodeOptions) -> Cluster {
    let cluster = Cluster::blank(options).await;
    cluster.nodes[&1].bootstrap(cluster::members()).await.unwrap();
    cluster
}

fn cut_off(cluster: &Cluster, node: u64) {
    (1..=3).filter(|&other| other != node).for_each(|other| cluster.network.cut(node, other));
}

#[tokio::test]
async fn every_node_reads_what_was_acknowledged() {
    let cluster = Cluster::founded().await;
    cluster.leader().await;
    let mut words = Vec::new();
    for number in 0..60 {
        words.push(number.to_string());
        cluster.propose(&words[number]).await;
        // At once, on another node each time, by every kind of read that may not be old.
        let node = &cluster.nodes[&(number as u64 % 3 + 1)];
        let consistency =
            [Consistency::Linearizable, Consistency::Lease, at_most(Duration::ZERO)][number / 3 % 3];
        let reading = within(node.read_with(&(), consistency)).await.unwrap();
        assert_eq!(reading.answer, words, "{consistency:?}");
        assert!(reading.applied as usize >= words.len());
    }
}

#[tokio::test]
async fn many_reads_on_a_follower_share_their_rounds() {
    let cluster = Arc::new(Cluster::founded().await);
    let leader = cluster.leader().await;
    cluster.propose("word").await;
    let follower = cluster.nodes[&(leader % 3 + 1)].clone();
    let settled = cluster.nodes[&leader]
        .wait_for(|status| status.last.index >= 3 && status.applied == status.last.index);
    let before = within(settled).await.unwrap().last;
    let reads: Vec<_> = (0..2_000)
        .map(|_| {
            let follower = follower.clone();
            tokio::spawn(async move { follower.read(&()).await })
        })
        .collect();
    for read in reads {
        assert_eq!(within(read).await.unwrap().unwrap(), ["word"]);
    }
    assert_eq!(cluster.nodes[&leader].status().borrow().last, before, "nothing was written for a read");
}

#[tokio::test]
async fn a_follower_without_a_leader_says_so() {
    let cluster = Cluster::founded().await;
    let leader = cluster.leader().await;
    let follower = leader % 3 + 1;
    cut_off(&cluster, follower);
    // It asks in vain until it gives its leader up.
    let error = within(cluster.nodes[&follower].read(&())).await.unwrap_err();
    assert!(matches!(error, RaftError::NotLeader { .. }), "{error}");
    within(cluster.nodes[&follower].wait_for(|status| status.leader.is_none())).await.unwrap();
    let error = within(cluster.nodes[&follower].read(&())).await.unwrap_err();
    assert_eq!(error, RaftError::NotLeader { leader: None, address: None });
}

#[tokio::test]
async fn a_lease_serves_while_nobody_answers_and_not_longer() {
    let cluster = cluster_of(leased).await;
    let leader = cluster.leader().await;
    cluster.propose_to(leader, "word").await;
    let node = &cluster.nodes[&leader];
    assert_eq!(within(node.read(&())).await.unwrap(), ["word"]);
    cut_off(&cluster, leader);
    for _ in 0..100 {
        assert_eq!(within(node.read_with(&(), Consistency::Lease)).await.unwrap().answer, ["word"]);
    }
    // A round gets no answer: only when the leader gives up is the caller told.
    let by_round = {
        let node = node.clone();
        tokio::spawn(async move { node.read(&()).await })
    };
    within(node.wait_for(|status| status.role != RoleName::Leader)).await.unwrap();
    let error = within(by_round).await.unwrap().unwrap_err();
    assert!(matches!(error, RaftError::NotLeader { .. }), "{error}");
    let error = within(node.read_with(&(), Consistency::Lease)).await.unwrap_err();
    assert!(matches!(error, RaftError::NotLeader { .. }), "{error}");
}

#[tokio::test]
async fn stale_reads_tell_their_index_and_keep_their_bound() {
    let cluster = Cluster::founded().await;
    let leader = cluster.leader().await;
    cluster.propose("old").await;
    let (id, node) = cluster.nodes.iter().find(|(id, _)| **id != leader).unwrap();
    let reading = within(node.read_with(&(), at_most(Duration::from_secs(60)))).await.unwrap();
    assert_eq!(reading.answer, ["old"]);
    cut_off(&cluster, *id);
    let others: Vec<_> = cluster.nodes.keys().copied().filter(|other| other != id).collect();
    let newer = within(async {
        loop {
            for other in &others {
                if let Ok(length) = cluster.nodes[other].propose(&"new".to_owned()).await {
                    return length;
                }
            }
        }
    });
    assert_eq!(newer.await, 2);
    // Known to be new a moment ago, which will do for a minute.
    for consistency in [STALE, at_most(Duration::from_secs(60))] {
        let again = within(node.read_with(&(), consistency)).await.unwrap();
        assert_eq!(again, reading, "{consistency:?}");
    }
    // It was new longer ago than this, and there is nobody to ask.
    tokio::time::sleep(Duration::from_millis(2)).await;
    let error = within(node.read_with(&(), at_most(Duration::from_millis(1)))).await.unwrap_err();
    assert!(matches!(error, RaftError::NotLeader { .. }), "{error}");
}

/// Counts commands; a query waits for the gate where it is shut.
struct Gated {
    count: u8,
    gate: Arc<Semaphore>,
    asked: Arc<AtomicUsize>,
}

#[async_trait]
impl StateMachine for Gated {
    async fn apply(&mut self, batch: Batch) -> Result<Vec<Bytes>, MachineError> {
        self.count += u8::try_from(batch.commands.len()).unwrap();
        Ok(batch.commands.iter().map(|_| Bytes::from(vec![self.count])).collect())
    }

    async fn query(&mut self, _: Bytes) -> Result<Bytes, MachineError> {
        let count = self.count;
        self.asked.fetch_add(1, Ordering::Relaxed);
        let _open = self.gate.acquire().await.unwrap();
        Ok(Bytes::from(vec![count]))
    }

    async fn bookkeeping(&mut self) -> Result<Option<Vec<Note>>, MachineError> {
        Ok(None)
    }

    async fn snapshot(&mut self) -> Result<Box<dyn SnapshotView>, MachineError> {
        Err(MachineError::new("no snapshots"))
    }

    async fn restore(&mut self, _: &mut (dyn std::io::Read + Send)) -> Result<(), MachineError> {
        Err(MachineError::new("no snapshots"))
    }
}

/// The answer was begun within the lease, and is there when the lease is over: another node may lead and have written by then.
#[tokio::test]
async fn an_answer_that_outlasts_its_lease_is_not_given() {
    let network = ChannelNetwork::new();
    let (gate, asked) = (Arc::new(Semaphore::new(1)), Arc::new(AtomicUsize::new(0)));
    let mut nodes = BTreeMap::new();
    for id in 1..=3_u64 {
        let mut options = options(id);
        options.config.election_timeout = Duration::from_millis(1_500);
        options.config.lease_clock_drift_ppm = Some(1_000);
        let own = if id == 1 { Arc::clone(&gate) } else { Arc::new(Semaphore::new(1)) };
        let machine = Gated { count: 0, gate: own, asked: Arc::clone(&asked) };
        let node = RawRaft::start(options, MemLogStore::new(), network.transport(id), machine).await.unwrap();
        nodes.insert(id, node);
    }
    within(nodes[&1].bootstrap((1..=3).map(|id| (id, format!("mem:{id}"))))).await.unwrap();
    within(nodes[&1].wait_for(|status| status.role == RoleName::Leader)).await.unwrap();
    assert_eq!(within(nodes[&1].propose(Bytes::from_static(b"a"))).await.unwrap(), vec![1]);
    within(nodes[&1].wait_for(|status| status.lease)).await.unwrap();
    // The query begins, confirmed by a lease, and hangs.
    let shut = gate.acquire().await.unwrap();
    let read = {
        let node = nodes[&1].clone();
        tokio::spawn(async move { node.read_with(Bytes::new(), Consistency::Lease).await })
    };
    within(async {
        while asked.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    network.cut(1, 2);
    network.cut(1, 3);
    let newer = within(async {
        loop {
            for id in [2, 3] {
                match nodes[&id].propose(Bytes::from_static(b"b")).await {
                    Ok(count) => return count,
                    Err(error) => assert!(error.is_refused(), "{error}"),
                }
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    assert_eq!(newer.await, vec![2]);
    drop(shut);
    // It is asked again, of a majority; cut off, there is none.
    let error = within(read).await.unwrap().unwrap_err();
    assert!(matches!(error, RaftError::NotLeader { .. } | RaftError::Unknown), "{error}");
    network.heal(1, 2);
    network.heal(1, 3);
    let answer = within(async {
        loop {
            match nodes[&1].read_with(Bytes::new(), Consistency::Lease).await {
                Ok(reading) => return reading.answer,
                Err(error) => assert!(matches!(error, RaftError::NotLeader { .. }), "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    assert_eq!(answer.await, vec![2]);
}

/// The lease's timeouts are the cluster's: what a node is started with does not count.
#[tokio::test]
async fn a_node_keeps_to_the_cluster_s_timeouts() {
    let mut cluster = cluster_of(leased).await;
    let leader = cluster.leader().await;
    cluster.propose("word").await;
    let other = leader % 3 + 1;
    cluster.stop(other).await;
    let mut hasty = options(other);
    hasty.config.election_timeout = Duration::from_millis(40);
    hasty.config.heartbeat_interval = Duration::from_millis(20);
    cut_off(&cluster, other);
    let restarted = tokio::time::Instant::now();
    cluster.start(other, hasty).await;
    // It hears nobody. By its own settings it would campaign within 80 ms.
    let node = cluster.nodes[&other].clone();
    within(node.wait_for(|status| status.role != RoleName::Follower)).await.unwrap();
    assert!(restarted.elapsed() >= Duration::from_secs(2), "{:?}", restarted.elapsed());
}
