//! More than a node can take: what goes beyond a budget is refused at once, and what was taken is answered.
#![cfg(feature = "runtime")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;

use std::future::Future;
use std::io::Read;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cluster::{Cluster, Words, members, options, within};
use raft_core::client::ClientOptions;
use raft_core::engine::{RoleName, Status};
use raft_core::log_store::{Claim, LogState, LogStore, StorageError, Write};
use raft_core::mem::{ChannelNetwork, MemLogStore};
use raft_core::state_machine::{Batch, MachineError, Note, SnapshotView};
use raft_core::testing::{FaultStore, StoreFaults};
use raft_core::types::{ClusterId, Entry, GroupId, Incarnation, Index, NodeId};
use raft_core::{Client, NodeOptions, Raft, RaftError, RawRaft, StateMachine, Target};
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
    // The status shows a moment later what was answered: beside the words, the configuration and a no-op.
    let node = &cluster.nodes[&leader];
    let status = within(node.wait_for(|status| status.last.index >= 502)).await.unwrap();
    let peer = status.peers[&NodeId(dead)];
    assert!(peer.matched + 400 < status.last.index, "{peer:?}");
    assert!(peer.inflight <= options(1).config.max_inflight_messages, "{peer:?}");
    assert_eq!(node.status().borrow().counters.overloaded, 0, "nobody else is held up");
}

/// How long a command takes on a machine or a disk of known slowness.
const EACH: Duration = Duration::from_millis(10);

/// The bytes of a command, and what each costs against the budget.
const COMMAND: usize = 1 << 10;
const COST: usize = COMMAND + Entry::OVERHEAD_BYTES;

/// The most bytes that machine or disk get at once.
const BATCH: usize = 8 << 10;

/// Takes a while for each command, and notes how much it is given at once.
#[derive(Clone, Default)]
struct Slow {
    each: Duration,
    most: Arc<AtomicUsize>,
}

#[async_trait]
impl StateMachine for Slow {
    async fn bookkeeping(&mut self) -> Result<Option<Vec<Note>>, MachineError> {
        Ok(None)
    }

    async fn apply(&mut self, batch: Batch) -> Result<Vec<Bytes>, MachineError> {
        let count = batch.commands.len();
        self.most.fetch_max(count, Ordering::Relaxed);
        tokio::time::sleep(self.each * u32::try_from(count).unwrap()).await;
        Ok(vec![Bytes::new(); count])
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

/// A log store that takes a while for each entry, and notes how many it is given at once.
#[derive(Default)]
struct SlowStore {
    store: MemLogStore,
    most: Arc<AtomicUsize>,
}

#[async_trait]
impl LogStore for SlowStore {
    async fn claim(
        &self,
        cluster: ClusterId,
        node: NodeId,
        fresh: Incarnation,
    ) -> Result<Claim, StorageError> {
        self.store.claim(cluster, node, fresh).await
    }

    async fn load(&self, group: GroupId) -> Result<LogState, StorageError> {
        self.store.load(group).await
    }

    async fn write(&self, writes: &[Write]) -> Result<(), StorageError> {
        let entries: usize = writes.iter().map(|write| write.entries.len()).sum();
        self.most.fetch_max(entries, Ordering::Relaxed);
        tokio::time::sleep(EACH * u32::try_from(entries).unwrap()).await;
        self.store.write(writes).await
    }

    async fn read(
        &self,
        group: GroupId,
        range: RangeInclusive<Index>,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        self.store.read(group, range, max_bytes).await
    }
}

/// What callers met with who came far faster than they could be served.
struct Load {
    served: usize,
    refused: usize,
    /// The longest that one who was served had to wait.
    longest: Duration,
}

/// Ten times as many callers as can be served, for ten seconds of a time that passes only while nobody works.
async fn overload(node: &RawRaft) -> Load {
    const PER_TURN: usize = 10;
    const TURNS: usize = 1_000;
    let load = Arc::new(Mutex::new(Load { served: 0, refused: 0, longest: Duration::ZERO }));
    let mut calls = Vec::new();
    let began = Instant::now();
    for turn in 0..TURNS {
        tokio::time::sleep_until(began + EACH * u32::try_from(turn).unwrap()).await;
        for _ in 0..PER_TURN {
            let (node, load) = (node.clone(), Arc::clone(&load));
            calls.push(tokio::spawn(async move {
                let came = Instant::now();
                let answer = node.propose(Bytes::from(vec![0; COMMAND])).await;
                let waited = came.elapsed();
                let mut load = load.lock().unwrap();
                match answer {
                    Ok(_) => {
                        load.served += 1;
                        load.longest = load.longest.max(waited);
                    }
                    Err(RaftError::Overloaded) => {
                        load.refused += 1;
                        assert!(waited <= Duration::from_millis(1), "refused at once: {waited:?}");
                    }
                    Err(other) => panic!("{other:?}"),
                }
            }));
        }
    }
    for call in calls {
        within(call).await.unwrap();
    }
    let load = std::mem::replace(
        &mut *load.lock().unwrap(),
        Load { served: 0, refused: 0, longest: Duration::ZERO },
    );
    assert_eq!(load.served + load.refused, PER_TURN * TURNS);
    // Overload costs nothing of what can be done: a command each EACH, for as long as they came.
    assert!(load.served >= TURNS * 95 / 100, "{} served", load.served);
    load
}

/// What was taken waits for what the budget holds, EACH of it one after the other, and for the rest of the batch that it came to be in.
/// It comes near to that with each budget: so it is the budget, and nothing else, that bounds the wait.
fn assert_bounded(load: &Load, budget: usize, batch: usize) {
    let lasts = |bytes: usize| EACH * u32::try_from(bytes / COST).unwrap();
    let bound = lasts(budget) + lasts(batch) + Duration::from_millis(5);
    let Load { longest, .. } = *load;
    assert!(longest <= bound, "{longest:?} for {budget} bytes, {bound:?} at most");
    assert!(longest >= lasts(budget) * 9 / 10, "{longest:?} for {budget} bytes, {bound:?} at most");
}

#[tokio::test(start_paused = true)]
async fn with_a_slow_machine_what_is_taken_waits_no_longer_than_the_budget_lasts() {
    for budget in [16 << 10, 64 << 10, 128 << 10] {
        let machine = Slow { each: EACH, ..Slow::default() };
        let most = Arc::clone(&machine.most);
        let mut options = tight(1);
        options.config.max_uncommitted_bytes = budget;
        options.config.max_apply_bytes = BATCH;
        let network = ChannelNetwork::new();
        let node = RawRaft::start(options, MemLogStore::new(), network.transport(1), machine).await.unwrap();
        within(node.bootstrap([(1, "mem:1")])).await.unwrap();
        within(node.propose(Bytes::from_static(b"first"))).await.unwrap();
        let load = overload(&node).await;
        assert_bounded(&load, budget, BATCH);
        let most = most.load(Ordering::Relaxed);
        // One goes beyond, so that the largest can be applied.
        assert!((2..=BATCH / COST + 1).contains(&most), "{most} commands at once are beyond max_apply_bytes");
        within(node.propose(Bytes::from_static(b"room again"))).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn with_a_slow_disk_what_is_taken_waits_no_longer_than_the_budget_lasts() {
    for budget in [16 << 10, 64 << 10] {
        let mut options = tight(1);
        options.config.max_uncommitted_bytes = budget;
        // A leader steps down from a disk on which one write takes too long.
        options.config.max_write_bytes = BATCH;
        options.config.election_timeout = Duration::from_secs(30);
        let store = SlowStore::default();
        let network = ChannelNetwork::new();
        let node = RawRaft::start(options, store, network.transport(1), Slow::default()).await.unwrap();
        within(node.bootstrap([(1, "mem:1")])).await.unwrap();
        within(node.propose(Bytes::from_static(b"first"))).await.unwrap();
        let load = overload(&node).await;
        assert_bounded(&load, budget, BATCH);
        within(node.propose(Bytes::from_static(b"room again"))).await.unwrap();
    }
}

/// Starts so many calls, one after the other; those that are refused at once, and those that wait.
async fn call<T, F: Future<Output = Result<T, RaftError>>>(
    count: usize,
    make: impl Fn() -> F,
) -> (usize, Vec<Pin<Box<F>>>) {
    let began = Instant::now();
    let mut calls = Vec::new();
    let mut refused = 0;
    for _ in 0..count {
        let mut call = Box::pin(make());
        tokio::select! {
            biased;
            answer = &mut call => {
                assert!(matches!(answer, Err(RaftError::Overloaded)));
                refused += 1;
            }
            // Time goes on when nobody has anything to do: the call waits.
            () = tokio::time::sleep(Duration::from_millis(1)) => calls.push(call),
        }
    }
    assert!(began.elapsed() <= Duration::from_millis(2 * count as u64), "{:?}", began.elapsed());
    (refused, calls)
}

/// A leader that nobody hears, and the others.
async fn cut_off(tune: impl Fn(&mut NodeOptions)) -> (Cluster, u64) {
    let cluster = Cluster::blank(|id| {
        let mut options = tight(id);
        tune(&mut options);
        options
    })
    .await;
    within(cluster.nodes[&1].bootstrap(members())).await.unwrap();
    let leader = cluster.leader().await;
    within(cluster.nodes[&leader].read(&())).await.unwrap();
    cluster.isolate(leader);
    (cluster, leader)
}

#[tokio::test(start_paused = true)]
async fn beyond_the_budget_for_open_proposals_a_call_is_refused_at_once() {
    let (cluster, leader) = cut_off(|options| options.max_open_proposals = 10).await;
    let word = "small".to_owned();
    let (refused, waiting) = call(30, || cluster.nodes[&leader].propose(&word)).await;
    assert_eq!((refused, waiting.len()), (20, 10));
    for call in waiting {
        assert_eq!(within(call).await, Err(RaftError::Unknown));
    }
}

#[tokio::test(start_paused = true)]
async fn beyond_the_budget_for_reads_a_read_is_refused_at_once() {
    let (cluster, leader) = cut_off(|options| options.config.max_pending_reads = 10).await;
    let (refused, waiting) = call(30, || cluster.nodes[&leader].read(&())).await;
    assert_eq!((refused, waiting.len()), (20, 10));
    for read in waiting {
        assert!(within(read).await.is_err(), "nobody confirmed it");
    }
}

#[tokio::test(start_paused = true)]
async fn beyond_the_wishes_for_a_transfer_that_may_wait_one_is_refused_at_once() {
    let (cluster, leader) = cut_off(|_| {}).await;
    let to = NodeId((1..=3).find(|&id| id != leader).unwrap());
    let node = cluster.nodes[&leader].clone();
    // All come before an election timeout is over, when the transfer ends.
    let calls: Vec<_> = (0..200)
        .map(|_| {
            let node = node.clone();
            tokio::spawn(async move { (node.transfer_leadership(Some(to)).await, Instant::now()) })
        })
        .collect();
    let began = Instant::now();
    let mut refused = 0;
    for call in calls {
        match within(call).await.unwrap() {
            (Err(RaftError::Overloaded), at) => {
                assert_eq!(at, began);
                refused += 1;
            }
            (Err(RaftError::Transfer(_)), at) => assert!(at > began),
            (other, _) => panic!("{other:?}"),
        }
    }
    assert_eq!(refused, 200 - 64);
    let mut status = node.status();
    within(status.wait_for(|status| status.counters.overloaded == refused)).await.expect("each is counted");
}

#[tokio::test(start_paused = true)]
async fn a_client_has_no_more_under_way_than_it_may() {
    let store = SlowStore::default();
    let most = Arc::clone(&store.most);
    let network = ChannelNetwork::new();
    let node = Raft::start(tight(1), store, network.transport(1), Words::default()).await.unwrap();
    within(node.bootstrap([(1, "mem:1")])).await.unwrap();
    let mut options = ClientOptions::default();
    options.max_under_way = 4;
    let client = Client::with_options([node], options);
    let calls: Vec<_> = (0..100)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move { client.propose(&n.to_string()).await })
        })
        .collect();
    for call in calls {
        within(call).await.unwrap().unwrap();
    }
    let most = most.load(Ordering::Relaxed);
    assert!((2..=4).contains(&most), "{most} at once");
}
