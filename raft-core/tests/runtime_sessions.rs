//! Sessions under the runtime: a command that is repeated is applied once, over failover, restart and snapshot; and the client.
#![cfg(feature = "runtime")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;
mod stock;

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cluster::{Cluster, Words, members, options, within};
use raft_core::client::ClientOptions;
use raft_core::engine::RoleName;
use raft_core::mem::{ChannelNetwork, MemLogStore};
use raft_core::session::{Serial, SessionError, SessionId};
use raft_core::session_table::SessionTable;
use raft_core::state_machine::{Batch, MachineError, Note, SnapshotView};
use raft_core::{
    Client, ClientError, GroupId, LogStore, NodeId, NodeInfo, NodeOptions, Raft, RaftError, RawRaft,
    SnapshotPlace, StateMachine,
};
use stock::{Controls, Disk, Stock, put};
use tokio::task::JoinSet;

fn serial(session: SessionId, number: u64) -> Serial {
    Serial { session, number, seen_below: 0 }
}

/// Opens a session at whoever leads.
async fn open(cluster: &Cluster) -> SessionId {
    within(async {
        loop {
            match cluster.nodes[&cluster.leader().await].open_session().await {
                Ok(session) => return session,
                Err(error) => assert!(error.is_refused(), "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await
}

/// Sends one command of a session to all nodes at once, and twice to each, and again until one has answered it.
async fn send_to_all(cluster: &Cluster, serial: Serial, word: &str) -> usize {
    within(async {
        loop {
            let mut sent = JoinSet::new();
            for node in cluster.nodes.values().flat_map(|node| [node, node]) {
                let (node, word) = (node.clone(), word.to_owned());
                sent.spawn(async move { node.propose_in(serial, &word).await });
            }
            let mut answers = Vec::new();
            for outcome in sent.join_all().await {
                match outcome {
                    Ok(answer) => answers.push(answer),
                    Err(RaftError::Unknown) => {}
                    Err(error) => assert!(error.is_refused(), "{error}"),
                }
            }
            if let Some(&first) = answers.first() {
                assert!(answers.iter().all(|&answer| answer == first), "{answers:?}");
                return first;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await
}

#[tokio::test]
async fn the_same_command_is_applied_once_over_failover_restart_and_snapshot() {
    let places: Vec<SnapshotPlace> = (0..4).map(|_| SnapshotPlace::memory(1 << 20)).collect();
    let with_place = |id: u64| {
        let mut options = options(id);
        options.snapshots = places[id as usize].clone();
        (options.config.keep_entries, options.config.keep_bytes) = (0, 0);
        options
    };
    let mut cluster = Cluster::blank(with_place).await;
    within(cluster.nodes[&1].bootstrap(members())).await.unwrap();
    let session = open(&cluster).await;
    let first = send_to_all(&cluster, serial(session, 0), "once").await;
    assert_eq!(first, 1);
    assert_eq!(send_to_all(&cluster, serial(session, 0), "once").await, 1, "a second time");
    assert_eq!(cluster.propose("two").await, 2);
    // Failover.
    let old = cluster.leader().await;
    cluster.stop(old).await;
    assert_eq!(send_to_all(&cluster, serial(session, 0), "once").await, 1, "at another leader");
    assert_eq!(send_to_all(&cluster, serial(session, 1), "three").await, 3);
    // A snapshot on each node, and nothing else left of what was applied; then all start from it.
    for node in cluster.nodes.values() {
        let last = node.status().borrow().last.index;
        within(node.wait_for(|status| status.applied >= last)).await.unwrap();
        within(node.snapshot()).await.unwrap();
    }
    for id in 1..=3 {
        cluster.stop(id).await;
    }
    for id in 1..=3 {
        cluster.start(id, with_place(id)).await;
    }
    assert_eq!(send_to_all(&cluster, serial(session, 0), "once").await, 1, "after a snapshot");
    assert_eq!(send_to_all(&cluster, serial(session, 1), "three").await, 3, "after a snapshot");
    for id in 1..=3 {
        cluster.holds(id, &["once", "two", "three"]).await;
    }
}

/// A node that is a cluster of its own, and leads.
async fn alone(tune: fn(&mut NodeOptions)) -> Raft<Words> {
    let mut options = options(1);
    tune(&mut options);
    let network = ChannelNetwork::new();
    let node = Raft::start(options, MemLogStore::new(), network.transport(1), Words::default());
    let node = within(node).await.unwrap();
    within(node.bootstrap([(1, "mem:1")])).await.unwrap();
    within(node.wait_for(|status| status.role == RoleName::Leader)).await.unwrap();
    node
}

async fn pass(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_expired_is_told_so_and_its_command_is_not_applied_again() {
    let node = alone(|options| {
        options.sessions.idle = Duration::from_secs(60);
        options.sessions.max_sessions = 1;
    })
    .await;
    let word = "once".to_owned();
    let session = node.open_session().await.unwrap();
    assert_eq!(node.open_session().await, Err(RaftError::Session(SessionError::TooMany)));
    assert_eq!(node.propose_in(serial(session, 0), &word).await, Ok(1));
    // In use, it lasts.
    for _ in 0..3 {
        pass(59_000).await;
        node.keep_session(session, 0).await.unwrap();
    }
    assert_eq!(node.propose_in(serial(session, 0), &word).await, Ok(1), "its first answer");
    pass(60_001).await;
    let expired = RaftError::Session(SessionError::Expired);
    assert_eq!(node.propose_in(serial(session, 0), &word).await, Err(expired.clone()));
    assert_eq!(node.propose_in(serial(session, 1), &word).await, Err(expired.clone()));
    assert_eq!(node.keep_session(session, 2).await, Err(expired));
    assert_eq!(node.query_local(&()).await.unwrap(), ["once"]);
    assert_ne!(node.open_session().await.unwrap(), session, "there is room again");
}

#[tokio::test(start_paused = true)]
async fn a_client_opens_a_new_session_where_the_old_one_expired() {
    let node = alone(|options| options.sessions.idle = Duration::from_secs(60)).await;
    let client = Client::new([node.clone()]);
    assert_eq!(client.propose(&"a".to_owned()).await, Ok(1));
    pass(60_001).await;
    assert_eq!(client.propose(&"b".to_owned()).await, Ok(2));
}

#[tokio::test(start_paused = true)]
async fn a_client_is_told_what_its_session_does_not_allow() {
    let node = alone(|options| options.sessions.max_answers = 2).await;
    let session = node.open_session().await.unwrap();
    let call = |number, seen_below| {
        let node = node.clone();
        async move { node.propose_in(Serial { session, number, seen_below }, &"x".to_owned()).await }
    };
    assert_eq!(call(0, 0).await, Ok(1));
    assert_eq!(call(1, 0).await, Ok(2));
    assert_eq!(call(2, 0).await, Err(RaftError::Session(SessionError::Full)));
    assert_eq!(call(2, 1).await, Ok(3));
    let seen = RaftError::Session(SessionError::Seen);
    assert!(!seen.is_refused());
    assert_eq!(call(0, 0).await, Err(seen));
    node.close_session(session).await.unwrap();
    node.close_session(session).await.unwrap();
    assert_eq!(call(2, 1).await, Err(RaftError::Session(SessionError::Expired)));
}

#[tokio::test]
async fn a_durable_machine_keeps_the_sessions_in_its_own_transaction() {
    let network = ChannelNetwork::new();
    let (store, disk, controls) =
        (MemLogStore::new(), Arc::<Mutex<Disk>>::default(), Arc::<Controls>::default());
    let start = async || {
        let machine = Stock::durable(&controls, &disk);
        let options = options(1);
        let node = RawRaft::start(options, store.clone(), network.transport(1), machine).await.unwrap();
        within(node.bootstrap([(1, "mem:1")])).await.unwrap();
        within(
            node.wait_for(|status| status.role == RoleName::Leader && status.applied >= status.last.index),
        )
        .await
        .unwrap();
        node
    };
    let node = start().await;
    let session = within(node.open_session()).await.unwrap();
    let first = within(node.propose_in(serial(session, 0), put("a", "1"))).await.unwrap();
    within(node.propose(put("b", "1"))).await.unwrap();
    within(node.shutdown()).await;
    let applied = controls.applied.load(Ordering::SeqCst);
    let node = start().await;
    assert_eq!(within(node.propose_in(serial(session, 0), put("a", "1"))).await.unwrap(), first);
    assert_eq!(controls.applied.load(Ordering::SeqCst), applied, "nothing is applied again");
    within(node.close_session(session)).await.unwrap();
    within(node.shutdown()).await;
    assert_eq!(disk.lock().unwrap().notes.len(), 1, "only where the machine is");
    assert_eq!(Bytes::copy_from_slice(&1_u64.to_le_bytes()), first);
}

/// What a machine that is durable by itself has on its disk: what it applied, in order, and the library's notes.
#[derive(Clone, Default)]
struct Kept {
    applied: Vec<Bytes>,
    notes: BTreeMap<Bytes, Bytes>,
}

/// A machine that is durable by itself. Around each of its transactions it keeps a copy of its disk and of the log as they were, such as a
/// crash at that moment would leave them. The reply is how many commands it has applied.
#[derive(Clone, Default)]
struct Ledger {
    kept: Arc<Mutex<Kept>>,
    store: MemLogStore,
    crashes: Arc<Mutex<Vec<(MemLogStore, Kept)>>>,
}

impl Ledger {
    fn of(store: MemLogStore, kept: Kept) -> Self {
        Self { kept: Arc::new(Mutex::new(kept)), store, crashes: Arc::default() }
    }

    fn note_crash(&self) {
        let kept = self.kept.lock().unwrap().clone();
        self.crashes.lock().unwrap().push((self.store.fork(), kept));
    }

    async fn start(&self) -> RawRaft {
        let transport = ChannelNetwork::new().transport(1);
        let node = RawRaft::start(options(1), self.store.clone(), transport, self.clone()).await.unwrap();
        within(node.bootstrap([(1, "mem:1")])).await.unwrap();
        within(
            node.wait_for(|status| status.role == RoleName::Leader && status.applied >= status.last.index),
        )
        .await
        .unwrap();
        node
    }
}

#[async_trait]
impl StateMachine for Ledger {
    async fn bookkeeping(&mut self) -> Result<Option<Vec<Note>>, MachineError> {
        let notes = self.kept.lock().unwrap().notes.clone();
        Ok(Some(notes.into_iter().map(|(key, value)| Note { key, value: Some(value) }).collect()))
    }

    async fn apply(&mut self, batch: Batch) -> Result<Vec<Bytes>, MachineError> {
        self.note_crash();
        let mut kept = self.kept.lock().unwrap().clone();
        let mut replies = Vec::new();
        for command in batch.commands {
            kept.applied.push(command.bytes);
            replies.push(Bytes::from(kept.applied.len().to_string()));
        }
        for Note { key, value } in batch.bookkeeping.notes(&replies) {
            match value {
                Some(value) => kept.notes.insert(key, value),
                None => kept.notes.remove(&key),
            };
        }
        *self.kept.lock().unwrap() = kept;
        // Nobody was told yet.
        self.note_crash();
        Ok(replies)
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

#[tokio::test]
async fn a_crash_around_any_transaction_of_a_durable_machine_repeats_and_loses_nothing() {
    let ledger = Ledger::default();
    let node = ledger.start().await;
    let session = within(node.open_session()).await.unwrap();
    ledger.crashes.lock().unwrap().clear();
    let command = |number: u64| Bytes::from(format!("command {number}"));
    let mut answers = Vec::new();
    for number in 0..5 {
        answers.push(within(node.propose_in(serial(session, number), command(number))).await.unwrap());
    }
    within(node.shutdown()).await;
    let crashes = std::mem::take(&mut *ledger.crashes.lock().unwrap());
    assert_eq!(crashes.len(), 10, "before and after each of five transactions");
    for (store, kept) in crashes {
        let before = kept.applied.len();
        let ledger = Ledger::of(store, kept);
        let node = ledger.start().await;
        for (number, first) in (0..).zip(&answers) {
            let again = within(node.propose_in(serial(session, number), command(number))).await.unwrap();
            assert_eq!(again, first, "command {number} after a crash with {before} applied");
        }
        within(node.shutdown()).await;
        let expected: Vec<Bytes> = (0..5).map(command).collect();
        assert_eq!(ledger.kept.lock().unwrap().applied, expected, "after a crash with {before} applied");
    }
}

#[tokio::test]
async fn attempts_in_one_batch_get_the_same_answer() {
    let node = alone(|_| {}).await;
    let session = node.open_session().await.unwrap();
    let (first, second) = ("first".to_owned(), "second".to_owned());
    // Nothing lets the driver in between: one turn of it takes them all.
    let answers = within(async {
        tokio::join!(
            node.propose_in(serial(session, 0), &first),
            node.propose_in(serial(session, 1), &second),
            node.propose_in(serial(session, 0), &first),
            node.propose_in(serial(session, 1), &second),
        )
    })
    .await;
    assert_eq!(answers, (Ok(1), Ok(2), Ok(1), Ok(2)));
    assert_eq!(node.query_local(&()).await.unwrap(), [first, second]);
}

/// Copies of a node's disks, as a crash at this moment leaves them.
fn crash_image(store: &MemLogStore, disk: &Arc<Mutex<Disk>>) -> (MemLogStore, Arc<Mutex<Disk>>) {
    // The log's first: what the machine has is at least as new.
    let store = store.fork();
    (store, Arc::new(Mutex::new(disk.lock().unwrap().clone())))
}

/// Where a durable machine is, as it noted.
fn noted(disk: &Arc<Mutex<Disk>>) -> u64 {
    let notes = disk.lock().unwrap().notes.clone().into_iter();
    let notes = notes.map(|(key, value)| Note { key, value: Some(value) });
    SessionTable::from_notes(notes).unwrap().1.index
}

#[tokio::test]
async fn a_durable_machine_that_is_ahead_of_the_log_after_a_crash_repeats_nothing() {
    let (store, disk) = (MemLogStore::new(), Arc::<Mutex<Disk>>::default());
    let start = async |store: &MemLogStore, disk: &Arc<Mutex<Disk>>| {
        let controls = Arc::<Controls>::default();
        let (network, machine) = (ChannelNetwork::new(), Stock::durable(&controls, disk));
        let node = RawRaft::start(options(1), store.clone(), network.transport(1), machine).await.unwrap();
        within(node.bootstrap([(1, "mem:1")])).await.unwrap();
        within(
            node.wait_for(|status| status.role == RoleName::Leader && status.applied == status.last.index),
        )
        .await
        .unwrap();
        (node, controls)
    };
    let (node, controls) = start(&store, &disk).await;
    let session = within(node.open_session()).await.unwrap();
    let first = within(node.propose_in(serial(session, 0), put("a", "1"))).await.unwrap();
    assert_eq!(controls.applied.load(Ordering::SeqCst), 1);
    let (store, disk) = crash_image(&store, &disk);
    let known = store.load(GroupId::default()).await.unwrap().hard_state.commit;
    assert!(known < noted(&disk), "the log knows of {known}, the machine is at {}", noted(&disk));
    drop(node);
    // Twice: the second start finds what the first one left.
    for _ in 0..2 {
        let (node, controls) = start(&store, &disk).await;
        assert_eq!(within(node.propose_in(serial(session, 0), put("a", "1"))).await, Ok(first.clone()));
        assert_eq!(controls.applied.load(Ordering::SeqCst), 0, "it was applied before the crash");
        within(node.shutdown()).await;
    }
    let (node, controls) = start(&store, &disk).await;
    let second = within(node.propose_in(serial(session, 1), put("b", "2"))).await.unwrap();
    assert_eq!(
        (second, controls.applied.load(Ordering::SeqCst)),
        (Bytes::copy_from_slice(&2_u64.to_le_bytes()), 1)
    );
}

#[tokio::test]
async fn a_snapshot_brings_the_sessions_into_a_durable_machine() {
    let network = ChannelNetwork::new();
    let places: Vec<SnapshotPlace> = (0..4).map(|_| SnapshotPlace::memory(1 << 20)).collect();
    let stores: Vec<MemLogStore> = (0..4).map(|_| MemLogStore::new()).collect();
    let disks: Vec<Arc<Mutex<Disk>>> = (0..4).map(|_| Arc::default()).collect();
    let start = async |network: &ChannelNetwork, id: u64, store: &MemLogStore, disk: &Arc<Mutex<Disk>>| {
        let controls = Arc::<Controls>::default();
        let mut options = options(id);
        options.snapshots = places[id as usize].clone();
        (options.config.keep_entries, options.config.keep_bytes, options.config.keep_live_bytes) = (0, 0, 0);
        let machine = Stock::durable(&controls, disk);
        let node = RawRaft::start(options, store.clone(), network.transport(id), machine).await.unwrap();
        (node, controls)
    };
    let (one, _) = start(&network, 1, &stores[1], &disks[1]).await;
    let (two, _) = start(&network, 2, &stores[2], &disks[2]).await;
    within(one.bootstrap([(1, "mem:1"), (2, "mem:2")])).await.unwrap();
    let leader = within(one.wait_for(|status| status.leader.is_some())).await.unwrap().leader.unwrap();
    let leader = if leader == NodeId(1) { &one } else { &two };
    within(leader.wait_for(|status| status.role == RoleName::Leader && status.commit == status.last.index))
        .await
        .unwrap();
    let session = within(leader.open_session()).await.unwrap();
    let first = within(leader.propose_in(serial(session, 0), put("a", "1"))).await.unwrap();
    within(leader.propose(put("b", "1"))).await.unwrap();
    within(leader.snapshot()).await.unwrap();
    within(leader.wait_for(|status| status.base.index > 0)).await.unwrap();
    // The third node comes to that, and there is nothing but the snapshot to bring it there.
    let (three, controls) = start(&network, 3, &stores[3], &disks[3]).await;
    within(leader.change_members(|target| target.voter(3, NodeInfo::at("mem:3")))).await.unwrap();
    within(three.wait_for(|status| status.membership.to_string() == "voters(1 2 3)" && status.applied > 0))
        .await
        .unwrap();
    assert_eq!(controls.restores.load(Ordering::SeqCst), 1, "it came by snapshot");
    let wants = NodeId(3);
    within(async {
        while three.status().borrow().role != RoleName::Leader {
            for node in [&one, &two] {
                let _refused = node.transfer_leadership(Some(wants)).await;
            }
        }
    })
    .await;
    let again = within(three.propose_in(serial(session, 0), put("a", "1"))).await;
    assert_eq!(again, Ok(first.clone()), "its first answer, of another node");
    assert_eq!(controls.applied.load(Ordering::SeqCst), 0, "the snapshot holds what it did");
    // It crashes; its machine goes on from its own disk.
    let (store, disk) = crash_image(&stores[3], &disks[3]);
    for node in [three, one, two] {
        within(node.shutdown()).await;
    }
    let network = ChannelNetwork::new();
    let (one, _) = start(&network, 1, &stores[1], &disks[1]).await;
    let (three, controls) = start(&network, 3, &store, &disk).await;
    let again = within(async {
        loop {
            match three.propose_in(serial(session, 0), put("a", "1")).await {
                Ok(answer) => return answer,
                Err(error) if error.is_refused() => {
                    let _refused = one.transfer_leadership(Some(wants)).await;
                }
                Err(error) => assert_eq!(error, RaftError::Unknown),
            }
        }
    })
    .await;
    assert_eq!(again, first, "after a crash, too");
    let counted = (controls.applied.load(Ordering::SeqCst), controls.restores.load(Ordering::SeqCst));
    assert_eq!(counted, (0, 0), "neither applied nor restored again");
}

#[tokio::test]
async fn a_client_finds_the_leader_and_repeats_without_harm() {
    let mut cluster = Cluster::founded().await;
    let mut options = ClientOptions::default();
    options.timeout = Duration::from_secs(50);
    let client = Client::with_options(cluster.nodes.values().cloned(), options);
    let calls = |from: usize| -> Vec<_> {
        (from..from + 200)
            .map(|n| {
                let client = client.clone();
                tokio::spawn(async move { client.propose(&n.to_string()).await })
            })
            .collect()
    };
    let mut open = calls(0);
    for call in &mut open {
        within(call).await.unwrap().unwrap();
    }
    // The leader is cut off with calls under way; later it stops.
    let more = calls(200);
    let old = cluster.leader().await;
    cluster.isolate(old);
    for call in more {
        within(call).await.unwrap().unwrap();
    }
    assert_eq!(within(client.read(&())).await.unwrap().len(), 400, "each was applied once");
    (1..=3).filter(|&id| id != old).for_each(|id| cluster.network.heal(old, id));
    cluster.stop(old).await;
    assert_eq!(within(client.propose(&"last".to_owned())).await, Ok(401));
    within(client.close()).await.unwrap();
    assert_eq!(within(client.propose(&"another session".to_owned())).await, Ok(402));
}

/// Nobody can ask a dead node whether it knows sessions.
#[tokio::test]
async fn sessions_begin_while_a_member_is_dead() {
    let mut cluster = Cluster::founded().await;
    let leader = cluster.leader().await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    cluster.stop(others[0]).await;
    // A leader that never heard of it.
    within(cluster.nodes[&leader].transfer_leadership(Some(NodeId(others[1])))).await.unwrap();
    let client = Client::new(cluster.nodes.values().cloned().collect::<Vec<_>>());
    assert_eq!(within(client.propose(&"first".to_owned())).await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn without_a_leader_a_client_tells_refused_from_unknown() {
    let network = ChannelNetwork::new();
    let node = Raft::start(options(1), MemLogStore::new(), network.transport(1), Words::default());
    let node = node.await.unwrap();
    let client = Client::new([node.clone()]);
    let error = client.propose(&"a".to_owned()).await.unwrap_err();
    assert_eq!(error, ClientError::Refused(RaftError::NotLeader { leader: None, address: None }));
    assert!(error.is_refused());
    node.shutdown().await;
    let nobody = Client::<Words>::new([]);
    assert!(nobody.read(&()).await.unwrap_err().is_refused());
}
