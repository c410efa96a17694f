//! Snapshots in the runtime: taken, kept, restored from, and sent over a network in memory.
//!
//! Where time is paused it passes only while nobody works, so that a busy machine causes no elections.
#![cfg(feature = "runtime")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod stock;

use std::io::Read;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use raft_core::mem::{ChannelNetwork, MemLogStore};
use raft_core::{EntryId, NodeOptions, RaftError, RawRaft, SnapshotFile, SnapshotPlace, StartError};
use stock::{
    Cluster, Controls, Disk, Mood, Stock, damage, delete, files, holds, keys, no_snapshot, options, pause,
    put, see, snapshot_file, within,
};
use tokio::time::Instant;

const CHUNK: usize = 256 << 10;

/// A node alone, founded.
struct Alone {
    folder: tempfile::TempDir,
    store: MemLogStore,
    controls: Arc<Controls>,
    disk: Option<Arc<Mutex<Disk>>>,
    tune: fn(&mut NodeOptions),
}

impl Alone {
    fn new(tune: fn(&mut NodeOptions)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder, store: MemLogStore::new(), controls: Arc::default(), disk: None, tune }
    }

    async fn try_start(&self) -> Result<RawRaft, StartError> {
        let mut options = options(1, SnapshotPlace::folder(self.folder.path()));
        (self.tune)(&mut options);
        let machine = match &self.disk {
            Some(disk) => Stock::durable(&self.controls, disk),
            None => Stock::new(&self.controls),
        };
        let transport = ChannelNetwork::new().transport(1);
        RawRaft::start(options, self.store.clone(), transport, machine).await
    }

    async fn start(&self) -> RawRaft {
        let node = self.try_start().await.unwrap();
        within(node.bootstrap([(1, "mem:1")])).await.unwrap();
        within(node.wait_for(|status| status.leader.is_some())).await.unwrap();
        node
    }
}

async fn propose(node: &RawRaft, key: &str) {
    within(node.propose(put(key, "v"))).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_on_demand_is_durable_when_it_is_answered() {
    let alone = Alone::new(|_| {});
    let node = alone.start().await;
    propose(&node, "a").await;
    propose(&node, "b").await;
    within(node.propose(delete("a"))).await.unwrap();
    let meta = within(node.snapshot()).await.unwrap();
    let status = see(&node, |status| status.applied >= meta.last.index).await;
    assert_eq!((meta.last, &meta.membership), (status.last, &status.membership));
    assert_eq!(files(alone.folder.path()).len(), 1);
    assert_eq!(within(node.snapshot()).await.unwrap(), meta, "one that covers everything will do");

    let path = snapshot_file(alone.folder.path(), meta.last);
    let file = SnapshotFile::open(&path).unwrap();
    assert_eq!((file.cluster(), file.meta()), (stock::CLUSTER, meta.clone()));
    let latest = within(node.latest_snapshot()).await.unwrap().unwrap();
    assert_eq!(latest.meta(), meta);
    let mut bytes = Vec::new();
    latest.bytes().unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, std::fs::read(&path).unwrap());

    // The log behind it is gone, and the state is there after a restart: without the key that was deleted.
    assert_eq!(see(&node, |status| status.base == meta.last).await.snapshot, meta.last);
    propose(&node, "c").await;
    within(node.shutdown()).await;
    drop(node);
    let node = alone.start().await;
    holds(&node, &["b", "c"]).await;
    assert_eq!(alone.controls.restores.load(Ordering::SeqCst), 1);
    assert_eq!(within(node.latest_snapshot()).await.unwrap().unwrap().meta(), meta);
}

#[tokio::test(start_paused = true)]
async fn the_policy_takes_snapshots_and_two_are_kept() {
    let alone = Alone::new(|options| options.config.snapshot_entries = 10);
    let node = alone.start().await;
    for number in 0..100 {
        propose(&node, &format!("{number:03}")).await;
    }
    let status = see(&node, |status| status.snapshot.index > 90).await;
    assert!(status.snapshots.taken >= 2, "{status:?}");
    assert!(status.base.index > 80, "{status:?}");
    within(async {
        while files(alone.folder.path()).len() != 2 {
            pause().await;
        }
    })
    .await;
    within(node.shutdown()).await;
    drop(node);
    let node = alone.start().await;
    assert_eq!(keys(&node).await.len(), 100);
}

#[tokio::test]
async fn applying_goes_on_while_a_snapshot_is_written() {
    let alone = Alone::new(|_| {});
    let node = alone.start().await;
    propose(&node, "before").await;
    let gate = alone.controls.shut();
    let taking = tokio::spawn({
        let node = node.clone();
        async move { node.snapshot().await }
    });
    let status = see(&node, |status| status.snapshots.taking.is_some()).await;
    for number in 0..20 {
        propose(&node, &number.to_string()).await;
    }
    assert!(!taking.is_finished());
    drop(gate);
    let meta = within(taking).await.unwrap().unwrap();
    assert_eq!(Some(meta.last), status.snapshots.taking.map(|taking| taking.last));
    let mut state = Vec::new();
    let file = SnapshotFile::open(snapshot_file(alone.folder.path(), meta.last)).unwrap();
    file.state().unwrap().read_to_end(&mut state).unwrap();
    let text = String::from_utf8_lossy(&state);
    assert!(text.contains("before") && !text.contains("19"), "exactly what was applied at its place: {text}");
    see(&node, |status| status.snapshots.taking.is_none()).await;
    within(node.shutdown()).await;
    drop(node);
    let node = alone.start().await;
    assert_eq!(keys(&node).await.len(), 21);
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_cannot_be_taken_does_no_harm() {
    let alone = Alone::new(|_| {});
    let node = alone.start().await;
    for (count, (mood, words)) in [
        (Mood::NoView, "no view, as asked"),
        (Mood::ViewPanics, "panic: the view was asked to panic"),
        (Mood::ViewFails, "no room, as asked"),
    ]
    .into_iter()
    .enumerate()
    {
        propose(&node, &format!("{count}")).await;
        *alone.controls.mood.lock().unwrap() = mood;
        let reason = no_snapshot(within(node.snapshot()).await);
        assert!(reason.contains(words), "{reason}");
        assert!(files(alone.folder.path()).is_empty(), "{:?}", files(alone.folder.path()));
        let status = see(&node, |status| status.snapshots.failed == count as u64 + 1).await;
        assert!(status.snapshots.last_failure.as_deref().is_some_and(|reason| reason.contains(words)));
        assert_eq!((status.base, status.fatal), (EntryId::ZERO, None));
    }
    propose(&node, "more").await;
    *alone.controls.mood.lock().unwrap() = Mood::Fine;
    within(node.snapshot()).await.unwrap();
    holds(&node, &["0", "1", "2", "more"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_full_place_does_no_harm() {
    // In memory, with room for one snapshot of the small state and none of the large one.
    let place = SnapshotPlace::memory(2000);
    let (network, store, controls) = (ChannelNetwork::new(), MemLogStore::new(), Arc::default());
    let start = || {
        let options = options(1, place.clone());
        RawRaft::start(options, store.clone(), network.transport(1), Stock::new(&controls))
    };
    let node = start().await.unwrap();
    within(node.bootstrap([(1, "mem:1")])).await.unwrap();
    within(node.propose(put("small", vec![1; 500]))).await.unwrap();
    let small = within(node.snapshot()).await.unwrap();
    within(node.propose(put("large", vec![2; 5000]))).await.unwrap();
    let reason = no_snapshot(within(node.snapshot()).await);
    assert!(reason.contains("full"), "{reason}");
    within(node.propose(delete("large"))).await.unwrap();
    let again = within(node.snapshot()).await.unwrap();
    assert!(again.last.index > small.last.index, "what had no room has left nothing behind");
    within(node.shutdown()).await;
    drop(node);
    let node = start().await.unwrap();
    holds(&node, &["small"]).await;

    // Beyond the largest that is allowed.
    let alone = Alone::new(|options| options.max_snapshot_bytes = 1000);
    let node = alone.start().await;
    within(node.propose(put("large", vec![2; 1 << 19]))).await.unwrap();
    let reason = no_snapshot(within(node.snapshot()).await);
    assert!(reason.contains("max_snapshot_bytes"), "{reason}");
    assert!(files(alone.folder.path()).is_empty());
}

#[tokio::test(start_paused = true)]
async fn without_a_place_nothing_is_taken_and_nothing_lost() {
    let alone = Alone::new(|options| {
        options.snapshots = SnapshotPlace::none();
        options.config.snapshot_entries = 1;
    });
    let node = alone.start().await;
    assert!(within(node.latest_snapshot()).await.unwrap().is_none());
    for key in ["a", "b", "c"] {
        propose(&node, key).await;
    }
    let reason = no_snapshot(within(node.snapshot()).await);
    assert!(reason.contains("NodeOptions::snapshots"), "{reason}");
    assert_eq!(node.status().borrow().base, EntryId::ZERO);
}

/// A node with two snapshots, of which the log still reaches back to the older.
async fn with_two(alone: &Alone) -> [EntryId; 2] {
    let node = alone.start().await;
    propose(&node, "a").await;
    let older = within(node.snapshot()).await.unwrap().last;
    propose(&node, "b").await;
    let newer = within(node.snapshot()).await.unwrap().last;
    propose(&node, "c").await;
    within(node.shutdown()).await;
    [older, newer]
}

#[tokio::test(start_paused = true)]
async fn a_damaged_snapshot_is_not_restored_from() {
    let alone = Alone::new(|options| options.config.keep_entries = 2);
    let [older, newer] = with_two(&alone).await;
    std::fs::write(alone.folder.path().join("somebody's.txt"), "else").unwrap();
    damage(&snapshot_file(alone.folder.path(), newer));
    let node = alone.start().await;
    holds(&node, &["a", "b", "c"]).await;
    assert_eq!(node.status().borrow().snapshot, older, "from the older one and the log");
    // And the node is whole again.
    let meta = within(node.snapshot()).await.unwrap();
    within(node.shutdown()).await;
    drop(node);
    damage(&snapshot_file(alone.folder.path(), older));
    let node = alone.start().await;
    assert_eq!(node.status().borrow().snapshot, meta.last);
    holds(&node, &["a", "b", "c"]).await;
    within(node.shutdown()).await;
    assert_eq!(std::fs::read(alone.folder.path().join("somebody's.txt")).unwrap(), b"else");
}

#[tokio::test(start_paused = true)]
async fn without_a_sound_snapshot_a_compacted_node_says_what_to_do() {
    let alone = Alone::new(|_| {});
    let [_, newer] = with_two(&alone).await;
    damage(&snapshot_file(alone.folder.path(), newer));
    let error = alone.try_start().await.map(|_| ()).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, StartError::Snapshot(_)), "{error:?}");
    for words in [&newer.to_string(), "checksum", "empty folder", &alone.folder.path().display().to_string()]
    {
        assert!(text.contains(words), "{text}");
    }
    std::fs::remove_file(snapshot_file(alone.folder.path(), newer)).unwrap();
    let text = alone.try_start().await.map(|_| ()).unwrap_err().to_string();
    assert!(text.contains("No such file"), "{text}");
    let alone = Alone { tune: |options| options.snapshots = SnapshotPlace::none(), ..alone };
    let text = alone.try_start().await.map(|_| ()).unwrap_err().to_string();
    assert!(text.contains("NodeOptions::snapshots"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn with_its_whole_log_a_node_needs_no_snapshot() {
    let alone = Alone::new(|options| options.config.keep_entries = 1000);
    let [older, newer] = with_two(&alone).await;
    for last in [older, newer] {
        damage(&snapshot_file(alone.folder.path(), last));
    }
    let node = alone.start().await;
    holds(&node, &["a", "b", "c"]).await;
    assert_eq!(alone.controls.restores.load(Ordering::SeqCst), 0);
    within(node.snapshot()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_a_crash_left_behind_is_removed() {
    let alone = Alone::new(|_| {});
    let [_, newer] = with_two(&alone).await;
    let unknown = EntryId::new(newer.term, newer.index + 1);
    std::fs::copy(snapshot_file(alone.folder.path(), newer), snapshot_file(alone.folder.path(), unknown))
        .unwrap();
    let unfinished = format!("{:016x}-.new", 0);
    let part = format!("{:016x}-{:016x}-{:016x}-{:016x}-{:08x}.part", 0, newer.term, newer.index, 100, 7);
    for name in [&unfinished, &part] {
        std::fs::write(alone.folder.path().join(name), "half").unwrap();
    }
    let node = alone.start().await;
    holds(&node, &["a", "b", "c"]).await;
    let left = files(alone.folder.path());
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(left.iter().all(|name| name.ends_with(".snap")), "{left:?}");
}

#[tokio::test(start_paused = true)]
async fn a_durable_machine_is_restored_only_where_the_log_does_not_reach_it() {
    let mut alone = Alone::new(|_| {});
    alone.disk = Some(Arc::default());
    let disk = Arc::clone(alone.disk.as_ref().unwrap());
    let node = alone.start().await;
    propose(&node, "a").await;
    within(node.snapshot()).await.unwrap();
    propose(&node, "b").await;
    within(node.shutdown()).await;
    drop(node);
    let before = alone.controls.applied.load(Ordering::SeqCst);

    let node = alone.start().await;
    holds(&node, &["a", "b"]).await;
    assert_eq!(alone.controls.restores.load(Ordering::SeqCst), 0);
    assert_eq!(alone.controls.applied.load(Ordering::SeqCst), before, "nothing is applied twice");
    within(node.shutdown()).await;
    drop(node);

    // The machine's disk was replaced by an empty one.
    *disk.lock().unwrap() = Disk::default();
    let node = alone.start().await;
    holds(&node, &["a", "b"]).await;
    assert_eq!(alone.controls.restores.load(Ordering::SeqCst), 1);
    within(node.shutdown()).await;
    drop(node);
    let noted = disk.lock().unwrap().notes.len();
    assert!(noted > 0, "the library's notes were committed after the restore");
    let node = alone.start().await;
    holds(&node, &["a", "b"]).await;
    assert_eq!(alone.controls.restores.load(Ordering::SeqCst), 1, "and from it the machine goes on");
}

/// Cuts a follower off, lets the others go on and compact, and makes the connection whole again.
async fn left_behind(cluster: &Cluster, value_bytes: usize) -> (u64, u64) {
    cluster.propose(put("gone", "v")).await;
    let behind = cluster.follower().await;
    cluster.holds(behind, &["gone"]).await;
    for other in cluster.nodes.keys().copied().filter(|&other| other != behind) {
        cluster.network.cut(behind, other);
    }
    let leader = cluster.leader().await;
    cluster.propose(delete("gone")).await;
    for key in ["a", "b", "c"] {
        cluster.propose(put(key, vec![7; value_bytes])).await;
    }
    // Whoever leads later has nothing but a snapshot for it.
    for node in cluster.nodes.iter().filter(|(id, _)| **id != behind).map(|(_, node)| node) {
        see(node, |status| status.commit >= cluster.status(leader).commit).await;
        let meta = within(node.snapshot()).await.unwrap();
        see(node, |status| status.base == meta.last).await;
    }
    (leader, behind)
}

fn reconnect(cluster: &Cluster, node: u64) {
    (1..=3).filter(|&other| other != node).for_each(|other| cluster.network.heal(node, other));
}

#[tokio::test(start_paused = true)]
async fn an_idle_leader_brings_a_lagging_follower_up() {
    let mut cluster = Cluster::founded(|_| {}).await;
    let (leader, behind) = left_behind(&cluster, 100).await;
    let last = cluster.status(leader).last;
    reconnect(&cluster, behind);
    cluster.holds(behind, &["a", "b", "c"]).await;
    let status = see(&cluster.nodes[&behind], |status| status.snapshot.index > 0).await;
    assert_eq!(status.last, last, "without a new write");
    assert_eq!(status.membership, cluster.status(leader).membership);
    assert_eq!(status.snapshots.receives_begun, 1);
    assert_eq!(cluster.streams.rules().opened, 1);
    see(&cluster.nodes[&leader], |status| status.snapshots.sending.is_empty()).await;

    cluster.propose(put("d", "v")).await;
    cluster.holds(behind, &["a", "b", "c", "d"]).await;
    cluster.stop(behind).await;
    cluster.start(behind).await;
    cluster.holds(behind, &["a", "b", "c", "d"]).await;
    assert_eq!(cluster.streams.rules().opened, 1);
}

#[tokio::test(start_paused = true)]
async fn a_transfer_that_breaks_goes_on_where_it_ended() {
    let cluster = Cluster::founded(|_| {}).await;
    let (leader, behind) = left_behind(&cluster, 2 * CHUNK).await;
    let size = cluster.nodes[&leader].latest_snapshot().await.unwrap().unwrap().meta().size_bytes;
    let chunks = usize::try_from(size).unwrap().div_ceil(CHUNK);
    assert!(chunks > 6, "{chunks}");
    // Each stream breaks after one chunk: the whole is made of as many transfers, and hardly a byte goes twice.
    cluster.streams.rules().break_after = Some(1);
    reconnect(&cluster, behind);
    cluster.holds(behind, &["a", "b", "c"]).await;
    let opened = cluster.streams.rules().opened;
    assert!(opened >= chunks, "{opened} streams for {chunks} chunks");
    let status = see(&cluster.nodes[&leader], |status| {
        status.snapshots.sending.is_empty() && status.snapshots.sends_begun == opened as u64
    })
    .await;
    assert!(status.snapshots.bytes_sent <= size + CHUNK as u64, "{status:?}, {size}");
}

#[tokio::test(start_paused = true)]
async fn a_restarted_receiver_goes_on_where_it_ended() {
    let mut cluster = Cluster::founded(|_| {}).await;
    let (leader, behind) = left_behind(&cluster, 2 * CHUNK).await;
    let size = cluster.nodes[&leader].latest_snapshot().await.unwrap().unwrap().meta().size_bytes;
    cluster.streams.rules().break_after = Some(3);
    reconnect(&cluster, behind);
    within(async {
        while cluster.streams.rules().chunks < 3 {
            pause().await;
        }
    })
    .await;
    cluster.stop(behind).await;
    let parts = files(&cluster.place(behind));
    assert!(parts.iter().any(|name| name.ends_with(".part")), "{parts:?}");
    cluster.streams.rules().break_after = None;
    cluster.start(behind).await;
    cluster.holds(behind, &["a", "b", "c"]).await;
    let status = cluster.status(leader);
    assert!(status.snapshots.bytes_sent <= size + 3 * CHUNK as u64, "{status:?}, {size}");
    assert!(!files(&cluster.place(behind)).iter().any(|name| name.ends_with(".part")));
}

#[tokio::test(start_paused = true)]
async fn another_leader_completes_what_the_first_began() {
    let mut cluster = Cluster::founded(|_| {}).await;
    let (leader, behind) = left_behind(&cluster, 2 * CHUNK).await;
    cluster.streams.rules().break_after = Some(3);
    reconnect(&cluster, behind);
    within(async {
        while cluster.streams.rules().chunks < 3 {
            pause().await;
        }
    })
    .await;
    cluster.stop(leader).await;
    cluster.streams.rules().break_after = None;
    cluster.holds(behind, &["a", "b", "c"]).await;
    cluster.propose(put("d", "v")).await;
    cluster.start(leader).await;
    for id in 1..=3 {
        cluster.holds(id, &["a", "b", "c", "d"]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_altered_on_the_way_is_never_installed() {
    let cluster = Cluster::founded(|_| {}).await;
    let (leader, behind) = left_behind(&cluster, CHUNK).await;
    cluster.streams.rules().alter = Some(|frame| {
        let mut bytes = frame.to_vec();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        Bytes::from(bytes)
    });
    reconnect(&cluster, behind);
    let status = see(&cluster.nodes[&behind], |status| status.snapshots.refused >= 2).await;
    assert!(
        status.snapshots.last_failure.as_deref().is_some_and(|text| text.contains("damaged")),
        "{status:?}"
    );
    assert_eq!(keys(&cluster.nodes[&behind]).await, ["gone"], "the old state is kept");
    let told = see(&cluster.nodes[&leader], |status| status.snapshots.last_failure.is_some()).await;
    assert!(told.snapshots.last_failure.as_deref().is_some_and(|text| text.contains("damaged")), "{told:?}");
    cluster.streams.rules().alter = None;
    cluster.holds(behind, &["a", "b", "c"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_senders_own_damage_is_found_and_mended() {
    let cluster = Cluster::founded(|_| {}).await;
    let (leader, behind) = left_behind(&cluster, CHUNK).await;
    let last = cluster.status(leader).snapshot;
    damage(&snapshot_file(&cluster.place(leader), last));
    reconnect(&cluster, behind);
    let status = see(&cluster.nodes[&leader], |status| status.snapshots.last_failure.is_some()).await;
    assert!(
        status.snapshots.last_failure.as_deref().is_some_and(|text| text.contains("checksum")),
        "{status:?}"
    );
    // With the next write there is something to take a new snapshot of.
    cluster.propose(put("d", "v")).await;
    cluster.holds(behind, &["a", "b", "c", "d"]).await;
    assert!(cluster.status(leader).snapshot.index > last.index);
}

#[tokio::test]
async fn a_slow_restore_is_no_failure() {
    let cluster = Cluster::founded(|options| options.proposal_timeout = Duration::from_millis(500)).await;
    let (leader, behind) = left_behind(&cluster, 100).await;
    let term = cluster.status(leader).term;
    let gate = cluster.controls[&behind].shut();
    reconnect(&cluster, behind);
    see(&cluster.nodes[&behind], |status| status.snapshots.restoring.is_some()).await;
    // Several election timeouts long: the node acknowledges and stores what comes, and asks for nothing twice.
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < Duration::from_secs(1) {
        cluster.propose(put(&format!("new-{count:03}"), "v")).await;
        count += 1;
        pause().await;
    }
    let last = cluster.status(leader).last.index;
    see(&cluster.nodes[&behind], |status| status.durable >= last).await;
    let waiting = within(cluster.nodes[&behind].query_local(Bytes::new())).await;
    assert_eq!(waiting, Err(RaftError::Unknown), "who asks meanwhile is answered in time");
    drop(gate);
    within(async {
        while keys(&cluster.nodes[&behind]).await.len() != 3 + count {
            pause().await;
        }
    })
    .await;
    assert_eq!(cluster.status(behind).fatal, None);
    // Another leader, as a busy machine may bring one about, would know nothing of the first one's transfer.
    let elections = cluster.status(behind).term - term;
    assert!(cluster.streams.rules().opened as u64 <= 1 + elections);
}

#[tokio::test(start_paused = true)]
async fn a_slow_transfer_is_not_answered_with_another() {
    let cluster = Cluster::founded(|options| options.snapshot_bytes_per_second = Some(1 << 20)).await;
    let (leader, behind) = left_behind(&cluster, 2 * CHUNK).await;
    let term = cluster.status(leader).term;
    let start = Instant::now();
    reconnect(&cluster, behind);
    let sending = see(&cluster.nodes[&leader], |status| {
        status.snapshots.sending.values().any(|sending| sending.bytes > 0)
    })
    .await;
    let sending = sending.snapshots.sending.values().next().copied().unwrap();
    assert!(sending.bytes <= sending.size_bytes && sending.last == cluster.status(leader).snapshot);
    see(&cluster.nodes[&behind], |status| status.snapshots.receiving.is_some_and(|part| part.bytes > 0))
        .await;
    cluster.holds(behind, &["a", "b", "c"]).await;
    // 1.5 MiB, the last chunk of which need not wait for itself.
    assert!(start.elapsed() > Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(cluster.streams.rules().opened, 1);
    assert_eq!(cluster.status(leader).term, term);
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_below_an_installed_snapshot_learns_that_nobody_knows() {
    let cluster = Cluster::founded(|_| {}).await;
    cluster.propose(put("first", "v")).await;
    let old = cluster.leader().await;
    for other in (1..=3).filter(|&other| other != old) {
        cluster.network.cut(old, other);
    }
    // Taken by the leader that is cut off, never committed.
    let waiting: Vec<_> = (0..3)
        .map(|number| {
            let node = cluster.nodes[&old].clone();
            tokio::spawn(async move { node.propose(put(&format!("lost-{number}"), "v")).await })
        })
        .collect();
    see(&cluster.nodes[&old], |status| status.last.index == status.commit + 3).await;
    let new = within(async {
        loop {
            let new = (1..=3).find(|&id| id != old && cluster.status(id).leader.is_some_and(|l| l.0 == id));
            match new {
                Some(new) => return new,
                None => pause().await,
            }
        }
    })
    .await;
    for key in ["a", "b", "c", "d", "e"] {
        within(cluster.nodes[&new].propose(put(key, "v"))).await.unwrap();
    }
    let meta = within(cluster.nodes[&new].snapshot()).await.unwrap();
    see(&cluster.nodes[&new], |status| status.base == meta.last).await;
    reconnect(&cluster, old);
    for answer in waiting {
        let answer = within(answer).await.unwrap();
        assert_eq!(answer, Err(RaftError::Unknown));
    }
    cluster.holds(old, &["a", "b", "c", "d", "e", "first"]).await;
}
