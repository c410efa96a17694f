//! What goes wrong beside the protocol: the machine, the store, the end of a node.
#![cfg(feature = "runtime")]
#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

mod cluster;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cluster::{CLUSTER, Cluster, Words, members, options, within};
use raft_core::log_store::{StorageErrorKind, Write};
use raft_core::mem::{ChannelNetwork, MemLogStore};
use raft_core::state_machine::{Batch, MachineError, Note, SnapshotView};
use raft_core::testing::{FaultStore, StoreFaults};
use raft_core::types::{Entry, HardState, Outline, Payload};
use raft_core::{
    EntryId, GroupId, Incarnation, LogStore, NodeId, Raft, RaftError, RawRaft, StartError, StateMachine,
};
use tokio::sync::Semaphore;

#[tokio::test]
async fn a_panicking_machine_stops_its_group_on_its_node() {
    let network = ChannelNetwork::new();
    let bad =
        Raft::start(options(1), MemLogStore::new(), network.transport(1), Words::default()).await.unwrap();
    within(bad.bootstrap([(1, "mem:1")])).await.unwrap();
    let good = Cluster::founded().await;

    let result = within(bad.propose(&"panic".into())).await;
    assert_eq!(result, Err(RaftError::Unknown));
    let mut status = bad.status();
    let fatal = within(status.wait_for(|status| status.fatal.is_some())).await.unwrap().fatal.clone();
    assert!(fatal.as_deref().is_some_and(|reason| reason.contains("asked to panic")), "{fatal:?}");
    for result in [
        bad.propose(&"more".into()).await.map(|_| ()),
        bad.read(&()).await.map(|_| ()),
        bad.query_local(&()).await.map(|_| ()),
        bad.bootstrap(members()).await,
        bad.wait_for(|_| false).await.map(|_| ()),
    ] {
        assert!(matches!(result, Err(RaftError::Fatal { .. })), "{result:?}");
    }
    within(bad.shutdown()).await;
    assert_eq!(good.propose("fine").await, 1);
}

/// The slow disk itself; the tests wait for conditions.
fn slow() -> impl Future<Output = ()> {
    tokio::time::sleep(Duration::from_millis(3))
}

async fn failing_store(faults: StoreFaults) {
    let network = ChannelNetwork::new();
    let kept = MemLogStore::new();
    let store = FaultStore::new(kept.clone(), faults.clone());
    let node = Raft::start(options(1), store, network.transport(1), Words::default()).await.unwrap();
    within(node.bootstrap([(1, "mem:1")])).await.unwrap();
    assert_eq!(within(node.propose(&"kept".into())).await, Ok(1));
    let before = faults.writes();
    faults.fail(StorageErrorKind::Io);
    assert_eq!(within(node.propose(&"lost".into())).await, Err(RaftError::Unknown));
    let error = within(async {
        loop {
            match node.propose(&"more".into()).await {
                Err(RaftError::Unknown) => {}
                other => return other,
            }
        }
    })
    .await;
    let Err(RaftError::Fatal { reason }) = error else { panic!("{error:?}") };
    assert!(reason.contains("a write failed (Io)"), "{reason}");
    within(node.shutdown()).await;
    assert_eq!(faults.writes() - before, 1, "a failed write is never tried again");
    assert_eq!(kept.load(GroupId(0)).await.unwrap().last, 3, "configuration, no-op, one word");
}

#[tokio::test]
async fn a_failing_store_in_memory_stops_the_group() {
    failing_store(StoreFaults::new()).await;
}

#[tokio::test]
async fn a_failing_store_on_disk_stops_the_group() {
    let faults = StoreFaults::new();
    faults.slow(slow);
    failing_store(faults).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_store_gathers_what_waits_into_one_write() {
    let network = ChannelNetwork::new();
    let faults = StoreFaults::new();
    faults.slow(slow);
    let store = FaultStore::new(MemLogStore::new(), faults.clone());
    let node = Raft::start(options(1), store, network.transport(1), Words::default()).await.unwrap();
    within(node.bootstrap([(1, "mem:1")])).await.unwrap();
    let before = faults.writes();
    let calls: Vec<_> = (0..200)
        .map(|n| {
            let node = node.clone();
            tokio::spawn(async move { node.propose(&n.to_string()).await })
        })
        .collect();
    for call in calls {
        within(call).await.unwrap().unwrap();
    }
    let writes = faults.writes() - before;
    assert!(writes < 50, "{writes} writes for 200 commands");
}

/// The commands applied, and the notes.
type Disk = (Vec<Bytes>, BTreeMap<Bytes, Bytes>);

/// A machine that is durable by itself: its disk outlives it.
#[derive(Clone, Default)]
struct DurableMachine {
    disk: Arc<Mutex<Disk>>,
}

#[async_trait]
impl StateMachine for DurableMachine {
    async fn bookkeeping(&mut self) -> Result<Option<Vec<Note>>, MachineError> {
        let notes = self.disk.lock().unwrap().1.clone().into_iter();
        Ok(Some(notes.map(|(key, value)| Note { key, value: Some(value) }).collect()))
    }

    async fn apply(&mut self, batch: Batch) -> Result<Vec<Bytes>, MachineError> {
        let mut disk = self.disk.lock().unwrap();
        let replies: Vec<Bytes> = batch.commands.iter().map(|command| command.bytes.clone()).collect();
        disk.0.extend(batch.commands.into_iter().map(|command| command.bytes));
        for Note { key, value } in batch.bookkeeping.notes(&replies) {
            match value {
                Some(value) => drop(disk.1.insert(key, value)),
                None => drop(disk.1.remove(&key)),
            }
        }
        Ok(replies)
    }

    async fn query(&mut self, _: Bytes) -> Result<Bytes, MachineError> {
        Err(MachineError::new("no questions"))
    }

    async fn snapshot(&mut self) -> Result<Box<dyn SnapshotView>, MachineError> {
        Err(MachineError::new("no snapshots"))
    }

    async fn restore(&mut self, _: &mut (dyn std::io::Read + Send)) -> Result<(), MachineError> {
        Err(MachineError::new("no snapshots"))
    }
}

#[tokio::test]
async fn a_durable_machine_sees_each_command_once_over_restarts() {
    let network = ChannelNetwork::new();
    let (store, machine) = (MemLogStore::new(), DurableMachine::default());
    let mut expected = Vec::new();
    for run in 0..3_u8 {
        let node =
            RawRaft::start(options(1), store.clone(), network.transport(1), machine.clone()).await.unwrap();
        within(node.bootstrap([(1, "mem:1")])).await.unwrap();
        within(node.wait_for(|status| status.leader.is_some())).await.unwrap();
        for n in 0..5 {
            let command = Bytes::from(vec![run, n]);
            assert_eq!(within(node.propose(command.clone())).await, Ok(command.clone()));
            expected.push(command);
        }
        assert_eq!(node.query_local(Bytes::new()).await, Err(RaftError::Query("no questions".into())));
        within(node.shutdown()).await;
    }
    assert_eq!(machine.disk.lock().unwrap().0, expected);

    let other_log = MemLogStore::new();
    let started = RawRaft::start(options(1), other_log, network.transport(1), machine).await;
    assert!(matches!(started, Err(StartError::Inconsistent(_))), "{started:?}");
}

#[tokio::test]
async fn a_store_of_another_node_is_refused() {
    let network = ChannelNetwork::new();
    let store = MemLogStore::new();
    store.claim(CLUSTER, NodeId(2), Incarnation(1)).await.unwrap();
    let started = Raft::start(options(1), store, network.transport(1), Words::default()).await;
    assert!(matches!(started, Err(StartError::Storage(_))), "{started:?}");
    let fresh = Raft::start(options(1), MemLogStore::new(), network.transport(1), Words::default()).await;
    assert!(fresh.is_ok(), "nothing of the refused node is left");
}

#[tokio::test]
async fn after_a_shutdown_calls_are_refused_and_the_store_is_free() {
    let mut cluster = Cluster::founded().await;
    let leader = cluster.leader().await;
    let node = cluster.nodes.remove(&leader).unwrap();
    assert_eq!(node.propose(&"x".into()).await, Ok(1));
    within(async { tokio::join!(node.shutdown(), node.shutdown()) }).await;
    assert_eq!(node.propose(&"y".into()).await, Err(RaftError::Stopped));
    assert_eq!(node.read(&()).await, Err(RaftError::Stopped));
    assert_eq!(node.query_local(&()).await, Err(RaftError::Stopped));
    assert_eq!(node.bootstrap(members()).await, Err(RaftError::Stopped));
    assert_eq!(node.status().borrow().fatal, None);
    // The handle still lives, and the node can start again.
    cluster.start(leader, options(leader)).await;
    cluster.holds(leader, &["x"]).await;
}

#[tokio::test]
async fn a_shutdown_leaves_no_call_open() {
    let cluster = Cluster::founded().await;
    let leader = cluster.leader().await;
    cluster.isolate(leader);
    let node = cluster.nodes[&leader].clone();
    let before = node.status().borrow().last.index;
    let open = tokio::spawn({
        let node = node.clone();
        async move { node.propose(&"open".into()).await }
    });
    within(node.wait_for(|status| status.last.index > before)).await.unwrap();
    within(node.shutdown()).await;
    assert_eq!(within(open).await.unwrap(), Err(RaftError::Unknown));
}

/// A machine that waits for a permit before each batch.
struct Gated {
    machine: DurableMachine,
    gate: Arc<Semaphore>,
}

#[async_trait]
impl StateMachine for Gated {
    async fn bookkeeping(&mut self) -> Result<Option<Vec<Note>>, MachineError> {
        self.machine.bookkeeping().await
    }

    async fn apply(&mut self, batch: Batch) -> Result<Vec<Bytes>, MachineError> {
        let permit = self.gate.acquire().await;
        drop(permit);
        self.machine.apply(batch).await
    }

    async fn query(&mut self, _: Bytes) -> Result<Bytes, MachineError> {
        Ok(Bytes::from(vec![u8::try_from(self.machine.disk.lock().unwrap().0.len()).unwrap()]))
    }

    async fn snapshot(&mut self) -> Result<Box<dyn SnapshotView>, MachineError> {
        self.machine.snapshot().await
    }

    async fn restore(&mut self, source: &mut (dyn std::io::Read + Send)) -> Result<(), MachineError> {
        self.machine.restore(source).await
    }
}

#[tokio::test]
async fn a_machine_that_hangs_holds_up_neither_the_protocol_nor_its_callers() {
    let network = ChannelNetwork::new();
    let gate = Arc::new(Semaphore::new(1));
    let machine = Gated { machine: DurableMachine::default(), gate: Arc::clone(&gate) };
    let mut options = options(1);
    options.proposal_timeout = Duration::from_millis(100);
    options.config.max_apply_bytes = 200;
    let node = RawRaft::start(options, MemLogStore::new(), network.transport(1), machine).await.unwrap();
    within(node.bootstrap([(1, "mem:1")])).await.unwrap();
    within(node.wait_for(|status| status.applied == 2)).await.unwrap();

    let closed = gate.acquire().await.unwrap();
    let call = |n: u8| {
        let node = node.clone();
        tokio::spawn(async move { node.propose(Bytes::from(vec![n])).await })
    };
    // More than the applier is given at a time.
    let calls: Vec<_> = (0..20).map(call).collect();
    for call in calls {
        assert_eq!(within(call).await.unwrap(), Err(RaftError::Unknown));
    }
    assert_eq!(within(node.read(Bytes::new())).await, Err(RaftError::Unknown));
    assert_eq!(within(node.query_local(Bytes::new())).await, Err(RaftError::Unknown));
    let mut seen = node.status();
    within(seen.wait_for(|status| status.counters.expired == 22)).await.expect("each is counted");
    let status = within(node.wait_for(|status| status.commit == 22)).await.unwrap();
    assert!(status.applied < 22, "{status:?}");

    drop(closed);
    within(node.wait_for(|status| status.applied == 22)).await.unwrap();
    assert_eq!(within(node.read(Bytes::new())).await, Ok(Bytes::from(vec![20])));
    assert_eq!(within(node.propose(Bytes::from_static(b"more"))).await, Ok(Bytes::from_static(b"more")));
}

#[tokio::test]
async fn a_log_that_contradicts_itself_does_not_start() {
    let network = ChannelNetwork::new();
    let store = MemLogStore::new();
    let entry = Entry { id: EntryId::new(3, 1), payload: Payload::Noop };
    let outline = Outline { terms: vec![EntryId::new(2, 1)], ..Outline::default() };
    let hard_state = HardState { term: 3, ..HardState::default() };
    let write = Write {
        entries: vec![entry],
        outline: Some(outline),
        hard_state: Some(hard_state),
        ..Write::default()
    };
    store.write(&[write]).await.unwrap();
    let started = Raft::start(options(1), store, network.transport(1), Words::default()).await;
    assert!(matches!(started, Err(StartError::Inconsistent(_))), "{started:?}");
}

/// Counts the values of it that live.
struct Counted {
    machine: DurableMachine,
    alive: Arc<AtomicUsize>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl StateMachine for Counted {
    async fn bookkeeping(&mut self) -> Result<Option<Vec<Note>>, MachineError> {
        self.machine.bookkeeping().await
    }

    async fn apply(&mut self, batch: Batch) -> Result<Vec<Bytes>, MachineError> {
        self.machine.apply(batch).await
    }

    async fn query(&mut self, query: Bytes) -> Result<Bytes, MachineError> {
        self.machine.query(query).await
    }

    async fn snapshot(&mut self) -> Result<Box<dyn SnapshotView>, MachineError> {
        self.machine.snapshot().await
    }

    async fn restore(&mut self, source: &mut (dyn std::io::Read + Send)) -> Result<(), MachineError> {
        self.machine.restore(source).await
    }
}

#[tokio::test]
async fn dropping_the_last_handle_ends_all_tasks() {
    let network = ChannelNetwork::new();
    let alive = Arc::new(AtomicUsize::new(0));
    let mut statuses = BTreeMap::new();
    for id in 1..=3 {
        alive.fetch_add(1, Ordering::SeqCst);
        let machine = Counted { machine: DurableMachine::default(), alive: Arc::clone(&alive) };
        let node =
            RawRaft::start(options(id), MemLogStore::new(), network.transport(id), machine).await.unwrap();
        statuses.insert(id, node.status());
    }
    for status in statuses.values_mut() {
        within(async { while status.changed().await.is_ok() {} }).await;
    }
    assert_eq!(alive.load(Ordering::SeqCst), 0);
    within(async {
        while tokio::runtime::Handle::current().metrics().num_alive_tasks() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[test]
fn a_runtime_that_ends_leaves_no_caller_waiting() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let node = runtime.block_on(async {
        let network = ChannelNetwork::new();
        let node = Raft::start(options(1), MemLogStore::new(), network.transport(1), Words::default())
            .await
            .unwrap();
        within(node.bootstrap([(1, "mem:1")])).await.unwrap();
        node
    });
    drop(runtime);
    let other = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    other.block_on(async {
        assert_eq!(within(node.propose(&"x".into())).await, Err(RaftError::Stopped));
        assert_eq!(within(node.query_local(&())).await, Err(RaftError::Stopped));
    });
}
