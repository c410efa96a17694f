//! More than a node can take: what goes beyond a budget is refused at once, and what was taken is answered.
#![cfg(feature = "runtime")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cluster::{Cluster, members, options, within};
use raft_core::client::ClientOptions;
use raft_core::mem::{ChannelNetwork, MemLogStore};
use raft_core::state_machine::{Batch, MachineError, Note, SnapshotView};
use raft_core::{Client, NodeOptions, RaftError, RawRaft, StateMachine};
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// How many callers there are.
const CALLERS: usize = 10_000;

#[tokio::test]
async fn ten_thousand_waiting_clients_are_answered() {
    let cluster = Cluster::founded().await;
    let mut options = ClientOptions::default();
    options.timeout = Duration::from_secs(55);
    let client = Client::with_options(cluster.nodes.values().cloned(), options);
    let calls: Vec<_> = (0..CALLERS)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move { client.propose(&n.to_string()).await })
        })
        .collect();
    for call in calls {
        within(call).await.unwrap().unwrap();
    }
    assert_eq!(within(client.read(&())).await.unwrap().len(), CALLERS, "each once");
}

/// Small budgets, and an election timeout that no test waits for.
fn tight(node: u64) -> NodeOptions {
    let mut options = options(node);
    options.config.max_entry_bytes = 4 << 10;
    options.config.max_uncommitted_bytes = 64 << 10;
    options.config.check_quorum = false;
    options
}

#[tokio::test]
async fn beyond_the_budget_for_uncommitted_entries_a_call_is_refused_at_once() {
    let cluster = Cluster::blank(tight).await;
    within(cluster.nodes[&1].bootstrap(members())).await.unwrap();
    let leader = cluster.leader().await;
    cluster.isolate(leader);
    let word = "x".repeat(1 << 10);
    let began = Instant::now();
    let calls: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (node, word) = (cluster.nodes[&leader].clone(), word.clone());
            tokio::spawn(async move { (node.propose(&word).await, Instant::now()) })
        })
        .collect();
    let mut overloaded = 0;
    let mut taken = 0;
    for call in calls {
        match within(call).await.unwrap() {
            (Err(RaftError::Overloaded), at) => {
                overloaded += 1;
                // Long before those that were taken hear that nobody knows.
                assert!(at - began < Duration::from_secs(8), "{:?}", at - began);
            }
            (Err(RaftError::Unknown), _) => taken += 1,
            (other, _) => panic!("{other:?}"),
        }
    }
    assert_eq!(overloaded + taken, CALLERS);
    assert!((1..=64).contains(&taken), "{taken} of a kilobyte each were taken into 64 KiB");
    let counted = cluster.nodes[&leader].status().borrow().counters.overloaded;
    assert_eq!(counted, overloaded as u64);
    (1..=3).filter(|&other| other != leader).for_each(|other| cluster.network.heal(leader, other));
    // Only then: what the old leader still takes before it knows, nobody can tell of.
    cluster.leader().await;
    cluster.propose("room again").await;
}

/// A machine that applies nothing while its gate is shut.
struct Gated(Arc<Semaphore>);

#[async_trait]
impl StateMachine for Gated {
    async fn bookkeeping(&mut self) -> Result<Option<Vec<Note>>, MachineError> {
        Ok(None)
    }

    async fn apply(&mut self, batch: Batch) -> Result<Vec<Bytes>, MachineError> {
        let _open = self.0.acquire().await.map_err(|e| MachineError::new(e.to_string()))?;
        Ok(vec![Bytes::new(); batch.commands.len()])
    }

    async fn query(&mut self, _: Bytes) -> Result<Bytes, MachineError> {
        Ok(Bytes::new())
    }

    async fn snapshot(&mut self) -> Result<Box<dyn SnapshotView>, MachineError> {
        Err(MachineError::new("no snapshots"))
    }

    async fn restore(&mut self, _: &mut (dyn Read + Send)) -> Result<(), MachineError> {
        Err(MachineError::new("no snapshots"))
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_slow_machine_holds_up_counts_against_the_budget() {
    let gate = Arc::new(Semaphore::new(1));
    let network = ChannelNetwork::new();
    let machine = Gated(Arc::clone(&gate));
    let node = RawRaft::start(tight(1), MemLogStore::new(), network.transport(1), machine).await.unwrap();
    within(node.bootstrap([(1, "mem:1")])).await.unwrap();
    within(node.propose(Bytes::from_static(b"first"))).await.unwrap();
    let shut = gate.acquire().await.unwrap();
    let began = Instant::now();
    let mut calls = Vec::new();
    let mut refused = 0;
    // One after the other, so that each is committed before the next comes.
    for _ in 0..1_000 {
        let mut call = Box::pin(node.propose(Bytes::from(vec![0; 1 << 10])));
        let committed = node.status().borrow().commit;
        tokio::select! {
            answer = &mut call => {
                assert_eq!(answer, Err(RaftError::Overloaded));
                refused += 1;
            }
            _ = node.wait_for(|status| status.commit > committed) => calls.push(call),
        }
    }
    assert!((1..=64).contains(&calls.len()), "{} of a kilobyte each were taken into 64 KiB", calls.len());
    assert_eq!(calls.len() + refused, 1_000);
    assert!(began.elapsed() < Duration::from_secs(5), "refused at once: {:?}", began.elapsed());
    drop(shut);
    for call in calls {
        within(call).await.unwrap();
    }
    within(node.propose(Bytes::from_static(b"room again"))).await.unwrap();
}

#[tokio::test]
async fn a_dead_follower_costs_the_leader_no_more_than_its_window() {
    let mut cluster = Cluster::blank(tight).await;
    within(cluster.nodes[&1].bootstrap(members())).await.unwrap();
    let leader = cluster.leader().await;
    let dead = (1..=3).find(|&id| id != leader).unwrap();
    cluster.stop(dead).await;
    for n in 0..500 {
        cluster.propose_to(leader, &format!("{n} {}", "x".repeat(1 << 10))).await;
    }
    let status = cluster.nodes[&leader].status().borrow().clone();
    let peer = status.peers.values().find(|peer| peer.matched + 400 < status.last.index).unwrap();
    assert!(peer.inflight <= options(1).config.max_inflight_messages, "{peer:?}");
    assert_eq!(status.counters.overloaded, 0, "nobody else is held up");
}
