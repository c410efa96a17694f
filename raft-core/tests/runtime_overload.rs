//! More than a node can take: what goes beyond a budget is refused at once, and what was taken is answered.
#![cfg(feature = "runtime")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cluster::{Cluster, Words, members, options, within};
use raft_core::client::ClientOptions;
use raft_core::engine::{RoleName, Status};
use raft_core::mem::{ChannelNetwork, MemLogStore};
use raft_core::state_machine::{Batch, MachineError, Note, SnapshotView};
use raft_core::testing::{FaultStore, StoreFaults};
use raft_core::types::Entry;
use raft_core::{Client, NodeId, NodeOptions, Raft, RaftError, RawRaft, StateMachine, Target};
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// How many callers there are.
const CALLERS: usize = 10_000;

#[tokio::test]
async fn ten_thousand_calls_of_one_client_are_answered() {
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

/// A node that is a cluster of its own, leads, and has a machine behind a gate.
async fn gated(options: NodeOptions) -> (RawRaft, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(1));
    let (network, machine) = (ChannelNetwork::new(), Gated(Arc::clone(&gate)));
    let node = RawRaft::start(options, MemLogStore::new(), network.transport(1), machine).await.unwrap();
    within(node.bootstrap([(1, "mem:1")])).await.unwrap();
    within(node.propose(Bytes::from_static(b"first"))).await.unwrap();
    // Configuration, no-op and command: the status may show a moment later what was answered.
    within(node.wait_for(|status| status.applied == 3)).await.unwrap();
    (node, gate)
}

/// Ten thousand proposals and as many reads, all of which wait at one node at once, within budgets of a few megabytes.
#[tokio::test]
async fn ten_thousand_waiting_clients_are_answered() {
    const BUDGET: usize = 2 << 20;
    let mut options = options(1);
    options.proposal_timeout = Duration::from_secs(55);
    options.max_queued_bytes = BUDGET;
    options.config.max_entry_bytes = 4 << 10;
    options.config.max_uncommitted_bytes = BUDGET;
    options.config.max_apply_bytes = 64 << 10;
    let max_apply_bytes = options.config.max_apply_bytes;
    let (node, gate) = gated(options).await;
    let shut = gate.acquire().await.unwrap();
    let before = node.status().borrow().last.index;
    let calls: Vec<_> = (0..CALLERS)
        .flat_map(|n| {
            let (writer, reader) = (node.clone(), node.clone());
            let write = tokio::spawn(async move { writer.propose(Bytes::from(n.to_string())).await });
            [write, tokio::spawn(async move { reader.read(Bytes::new()).await })]
        })
        .collect();
    let all = before + CALLERS as u64;
    let status = within(node.wait_for(|status| status.commit == all)).await.unwrap();
    assert!(calls.iter().all(|call| !call.is_finished()), "all wait at once");
    assert!(status.applied < all, "the machine has yet to see them");
    // The last entry that it was given may reach beyond.
    let most = max_apply_bytes + Entry::OVERHEAD_BYTES + CALLERS.to_string().len();
    assert!(status.apply_backlog_bytes < most, "{}", status.apply_backlog_bytes);
    assert_eq!(node.status().borrow().counters.overloaded, 0);
    drop(shut);
    for call in calls {
        within(call).await.unwrap().unwrap();
    }
    let status = within(node.wait_for(|status| status.applied == all)).await.unwrap();
    assert_eq!((status.last.index, status.apply_backlog_bytes), (all, 0), "each was applied once");
}

#[tokio::test]
async fn reads_beyond_their_number_are_refused_and_counted() {
    let mut options = options(1);
    options.proposal_timeout = Duration::from_secs(55);
    options.config.max_pending_reads = 4;
    let (node, gate) = gated(options).await;
    let shut = gate.acquire().await.unwrap();
    let before = node.status().borrow().last.index;
    let write = tokio::spawn({
        let node = node.clone();
        async move { node.propose(Bytes::from_static(b"in the way")).await }
    });
    within(node.wait_for(|status| status.last.index > before)).await.unwrap();
    let reads: Vec<_> = (0..20)
        .map(|_| {
            let node = node.clone();
            tokio::spawn(async move { node.query_local(Bytes::new()).await })
        })
        .collect();
    let mut status = node.status();
    within(status.wait_for(|status| status.counters.overloaded == 16)).await.expect("each is counted");
    drop(shut);
    let mut answered = 0;
    for read in reads {
        match within(read).await.unwrap() {
            Ok(_) => answered += 1,
            other => assert_eq!(other, Err(RaftError::Overloaded)),
        }
    }
    assert_eq!(answered, 4);
    within(write).await.unwrap().unwrap();
}

#[tokio::test]
async fn wishes_for_members_beyond_their_number_are_refused_and_counted() {
    let cluster = Cluster::blank(tight).await;
    within(cluster.nodes[&1].bootstrap(members())).await.unwrap();
    let leader = cluster.leader().await;
    let node = &cluster.nodes[&leader];
    within(node.wait_for(|status| status.commit > 0 && status.commit == status.last.index)).await.unwrap();
    cluster.isolate(leader);
    let before = node.status().borrow().last.index;
    let wish = |target: Target| {
        let node = node.clone();
        tokio::spawn(async move { node.set_members(target, None).await })
    };
    let intent = node.status().borrow().membership.intent();
    let first = wish(intent.clone().remove(leader % 3 + 1));
    within(node.wait_for(|status| status.last.index > before)).await.unwrap();
    // The first cannot be committed, and the others wait for it.
    let more: Vec<_> = (0..70).map(|_| wish(intent.clone())).collect();
    let mut status = node.status();
    within(status.wait_for(|status| status.counters.overloaded == 7)).await.expect("each is counted");
    assert!(!first.is_finished());
    let refused = more.iter().filter(|wish| wish.is_finished()).count();
    assert_eq!(refused, 7, "64 are open");
}

/// What keeps a follower from answering for entries.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Trouble {
    /// It gets everything, and nothing that it says gets through.
    Silent,
    /// It answers, and its disk takes nothing.
    DiskHangs,
}

async fn a_follower_in_trouble_costs_a_window(trouble: Trouble) {
    const ENTRY: usize = 4 << 10;
    const ENTRIES: usize = 400;
    let tune = |id: u64| {
        let mut options = options(id);
        options.config.max_inflight_bytes = 128 << 10;
        options.config.max_append_bytes = 16 << 10;
        options.config.max_tail_bytes = 64 << 10;
        options
    };
    let (network, config) = (ChannelNetwork::new(), tune(1).config);
    let faults: Vec<StoreFaults> = (0..3).map(|_| StoreFaults::new()).collect();
    let mut nodes = Vec::new();
    for (id, faults) in (1..).zip(&faults) {
        let store = FaultStore::new(MemLogStore::new(), faults.clone());
        let node = Raft::start(tune(id), store, network.transport(id), Words::default());
        nodes.push(node.await.unwrap());
    }
    within(nodes[0].bootstrap(members())).await.unwrap();
    let leader = within(nodes[0].wait_for(|status| status.leader.is_some())).await.unwrap().leader.unwrap().0;
    let node = &nodes[leader as usize - 1];
    let lame = (1..=3).find(|&id| id != leader).unwrap();
    let mut seen = node.status();
    within(seen.wait_for(|status| {
        let peers = status.peers.values();
        status.role == RoleName::Leader && peers.filter(|peer| peer.matched == status.last.index).count() == 2
    }))
    .await
    .unwrap();
    match trouble {
        Trouble::Silent => network.cut_one_way(lame, leader),
        Trouble::DiskHangs => faults[lame as usize - 1].stall(),
    }
    let most = config.max_inflight_bytes + config.max_append_bytes;
    let mut highest = 0;
    for round in 0..ENTRIES / 20 {
        let calls: Vec<_> = (0..20)
            .map(|n| {
                let (node, word) = (node.clone(), format!("{round} {n} {}", "x".repeat(ENTRY)));
                tokio::spawn(async move { node.propose(&word).await })
            })
            .collect();
        for call in calls {
            within(call).await.unwrap().unwrap();
        }
        let status = node.status().borrow().clone();
        highest = highest.max(status.peers[&NodeId(lame)].inflight_bytes);
        assert!(highest < most, "{highest} bytes of a window of {most}");
        assert!(status.apply_backlog_bytes <= config.max_apply_bytes);
    }
    assert!(ENTRIES * ENTRY > 8 * most, "far more than the window");
    // All that was answered shows a moment later.
    let full = |status: &Status| {
        highest = highest.max(status.peers[&NodeId(lame)].inflight_bytes);
        highest >= config.max_inflight_bytes && status.last.index >= ENTRIES as u64
    };
    let status = within(node.wait_for(full)).await.unwrap();
    assert!(highest < most, "{highest} bytes of a window of {most}");
    assert_eq!(node.status().borrow().counters.overloaded, 0, "nobody else is held up");
    let peer = status.peers[&NodeId(lame)];
    assert!(peer.matched + ENTRIES as u64 / 2 < status.last.index, "{peer:?}");
    // Well again, it gets what it lacks.
    match trouble {
        Trouble::Silent => network.heal(lame, leader),
        Trouble::DiskHangs => faults[lame as usize - 1].heal(),
    }
    let last = status.last.index;
    within(nodes[lame as usize - 1].wait_for(|status| status.applied >= last)).await.unwrap();
}

#[tokio::test]
async fn a_follower_that_takes_bytes_and_never_answers_costs_the_leader_one_window() {
    a_follower_in_trouble_costs_a_window(Trouble::Silent).await;
}

#[tokio::test]
async fn a_follower_whose_disk_hangs_costs_the_leader_one_window() {
    a_follower_in_trouble_costs_a_window(Trouble::DiskHangs).await;
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
