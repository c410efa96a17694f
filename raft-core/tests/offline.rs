//! What an operator does to a log while no node runs on it: a new lineage after a majority was lost, a backup restored into a
//! new cluster.
#![cfg(feature = "runtime")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;

use std::collections::BTreeMap;
use std::time::Duration;

use cluster::{CLUSTER, Cluster, Words, members, options, within};
use raft_core::log_store::{LogState, Write};
use raft_core::mem::{ChannelNetwork, MemLogStore};
use raft_core::offline::{self, OfflineError};
use raft_core::runtime::SnapshotPlace;
use raft_core::types::{Entry, HardState, Lineage, Payload};
use raft_core::{
    ClusterId, EntryId, GroupId, Incarnation, LogStore, Membership, NodeId, NodeInfo, NodeOptions, Raft,
};

const NEW: Lineage = Lineage::drawn(0x4e45_5700);
const GROUP: GroupId = GroupId(0);

async fn recover(store: &MemLogStore, node: u64) -> Result<offline::NewLineage, OfflineError> {
    offline::new_lineage(store, CLUSTER, NodeId(node), GROUP, NEW).await
}

/// A cluster that has done something and is down.
async fn lost() -> Cluster {
    let mut cluster = Cluster::founded().await;
    for word in ["a", "b", "c"] {
        cluster.propose(word).await;
    }
    for id in 1..=3 {
        cluster.holds(id, &["a", "b", "c"]).await;
    }
    for id in 1..=3 {
        cluster.stop(id).await;
    }
    cluster
}

#[tokio::test]
async fn one_node_goes_on_and_the_others_stay_out() {
    let mut cluster = lost().await;
    let before = cluster.stores[&2].load(GROUP).await.unwrap();
    let done = recover(&cluster.stores[&2], 2).await.unwrap();
    let after = cluster.stores[&2].load(GROUP).await.unwrap();
    assert_eq!(done.last.index, before.last);
    assert_eq!(done.first, EntryId::new(before.hard_state.term + 1, before.last + 1));
    assert_eq!(done.membership.voters.len(), 3);
    assert_ne!(done.membership.lineage, NEW);
    assert_eq!((after.last, after.hard_state.commit), (done.first.index, done.first.index));

    cluster.start(2, options(2)).await;
    assert_eq!(cluster.propose("d").await, 4);
    cluster.holds(2, &["a", "b", "c", "d"]).await;
    let status = cluster.nodes[&2].status().borrow().clone();
    assert_eq!(status.lineage, NEW);
    assert_eq!(status.membership.to_string(), "voters(2)");

    // The lost ones come back after all, and are a majority of their own: they go on among themselves.
    cluster.start(1, options(1)).await;
    cluster.start(3, options(3)).await;
    let old = within(async {
        loop {
            match cluster.nodes[&1].propose(&"old".to_owned()).await {
                Ok(length) => return length,
                Err(error) => assert!(error.is_refused(), "{error}"),
            }
            if let Ok(length) = cluster.nodes[&3].propose(&"old".to_owned()).await {
                return length;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    assert_eq!(old, 4);
    cluster.holds(1, &["a", "b", "c", "old"]).await;
    assert_eq!(cluster.propose_to(2, "e").await, 5);
    cluster.holds(2, &["a", "b", "c", "d", "e"]).await;
    let of = |id: u64| cluster.nodes[&id].status().borrow().clone();
    assert_eq!((of(2).term, of(2).leader), (status.term, Some(NodeId(2))));
    assert_eq!((of(1).lineage, of(3).lineage), (done.membership.lineage, done.membership.lineage));
}

#[tokio::test]
async fn refused_it_changes_nothing() {
    let cluster = lost().await;
    let store = &cluster.stores[&1];
    let before = store.load(GROUP).await.unwrap();
    let foreign = offline::new_lineage(store, ClusterId(9), NodeId(1), GROUP, NEW).await;
    assert!(matches!(foreign, Err(OfflineError::Store(_))), "{foreign:?}");
    let other = offline::new_lineage(store, CLUSTER, NodeId(2), GROUP, NEW).await;
    assert!(matches!(other, Err(OfflineError::Store(_))), "{other:?}");
    let group = offline::new_lineage(store, CLUSTER, NodeId(1), GroupId(7), NEW).await;
    assert!(matches!(group, Err(OfflineError::Blank)), "{group:?}");
    assert_eq!(store.load(GROUP).await.unwrap(), before);
    let blank = MemLogStore::new();
    assert!(matches!(recover(&blank, 1).await, Err(OfflineError::Blank)));

    recover(store, 1).await.unwrap();
    let recovered = store.load(GROUP).await.unwrap();
    let again = recover(store, 1).await;
    assert!(matches!(again, Err(OfflineError::Alone { lineage: NEW, .. })), "{again:?}");
    assert_eq!(store.load(GROUP).await.unwrap(), recovered);
}

#[tokio::test]
async fn a_log_of_another_node_or_folder_is_refused() {
    let info = |incarnation| NodeInfo {
        address: "mem:1".into(),
        client_address: String::new(),
        incarnation: Incarnation(incarnation),
    };
    let state = |node, incarnation| {
        let others = BTreeMap::from([(NodeId(node), info(incarnation)), (NodeId(8), info(8))]);
        let mut state = LogState::default();
        state.outline.memberships.insert(0, Membership::of_voters(others));
        state
    };
    let local = raft_core::types::Peer { node: NodeId(1), incarnation: Incarnation(5) };
    let refused = offline::preview_new_lineage(state(2, 5), local, NEW);
    assert!(matches!(refused, Err(OfflineError::NotMember { .. })), "{refused:?}");
    let refused = offline::preview_new_lineage(state(1, 6), local, NEW);
    assert!(matches!(refused, Err(OfflineError::OtherFolder { .. })), "{refused:?}");
    assert!(offline::preview_new_lineage(state(1, 5), local, NEW).is_ok());
    let broken = LogState { last: 3, ..state(1, 5) };
    let refused = offline::preview_new_lineage(broken, local, NEW);
    assert!(matches!(refused, Err(OfflineError::Log(_))), "{refused:?}");
}

/// A node that joins the new lineage reads the configurations of the old one on its way through the log, in small steps and
/// with a restart between: it never takes itself for one of those.
#[tokio::test]
async fn a_new_node_comes_through_the_old_lineage() {
    let mut cluster = lost().await;
    let done = recover(&cluster.stores[&1], 1).await.unwrap();
    // What a membership change will do: a learner joins.
    let fourth = MemLogStore::new();
    fourth.claim(CLUSTER, NodeId(4), Incarnation(0x44)).await.unwrap();
    let store = cluster.stores[&1].clone();
    let mut state = store.load(GROUP).await.unwrap();
    let mut membership = state.outline.memberships.last_key_value().unwrap().1.clone();
    membership.learners.insert(NodeId(4));
    membership.nodes.insert(
        NodeId(4),
        NodeInfo { address: "mem:4".into(), client_address: String::new(), incarnation: Incarnation(0x44) },
    );
    let id = EntryId::new(done.first.term, done.first.index + 1);
    state.outline.memberships.insert(id.index, membership.clone());
    let joined = Write {
        entries: vec![Entry { id, payload: Payload::Membership(Box::new(membership)) }],
        hard_state: Some(HardState { commit: id.index, ..state.hard_state }),
        outline: Some(state.outline),
        ..Write::default()
    };
    store.write(&[joined]).await.unwrap();

    let mut small = options(1);
    small.config.max_append_bytes = 100;
    cluster.start(1, small).await;
    cluster.stores.insert(4, fourth);
    for _ in 0..4 {
        cluster.start(4, options(4)).await;
        // Waits for nothing: it is stopped at any moment.
        tokio::time::sleep(Duration::from_millis(3)).await;
        let status = cluster.nodes[&4].status().borrow().clone();
        assert!([Lineage::UNKNOWN, NEW].contains(&status.lineage), "{status:?}");
        cluster.stop(4).await;
    }
    cluster.start(4, options(4)).await;
    cluster.holds(4, &["a", "b", "c"]).await;
    within(cluster.nodes[&4].wait_for(|status| status.lineage == NEW)).await.unwrap();
}

/// What a backup holds, in the place of a new node.
async fn restored(place: &SnapshotPlace) -> MemLogStore {
    const NEXT: ClusterId = ClusterId(0x0f2e);
    let old = SnapshotPlace::memory(1 << 20);
    let mut first = options(1);
    first.snapshots = old.clone();
    let node = Raft::start(first, MemLogStore::new(), ChannelNetwork::new().transport(1), Words::default())
        .await
        .unwrap();
    node.bootstrap([(1_u64, "mem:1".to_owned())]).await.unwrap();
    for word in ["x", "y"] {
        node.propose(&word.to_owned()).await.unwrap();
    }
    node.snapshot().await.unwrap();
    let backup = node.latest_snapshot().await.unwrap().unwrap();
    let last = backup.meta().last;
    let mut state = backup.state().unwrap();
    let meta = place.write(NEXT, GROUP, last, &Membership::default(), &mut state).unwrap();
    let store = MemLogStore::new();
    let begin = async |store: &MemLogStore| {
        offline::begin_from_snapshot(store, NEXT, NodeId(1), Incarnation(7), GROUP, meta.clone()).await
    };
    begin(&store).await.unwrap();
    let again = begin(&store).await;
    assert!(matches!(again, Err(OfflineError::NotBlank)), "{again:?}");
    store
}

async fn start(network: &ChannelNetwork, id: u64, place: SnapshotPlace, store: MemLogStore) -> Raft<Words> {
    let mut new = NodeOptions::new(ClusterId(0x0f2e), id);
    new.config = options(id).config;
    new.client_address = format!("client:{id}");
    new.snapshots = place;
    Raft::start(new, store, network.transport(id), Words::default()).await.unwrap()
}

#[tokio::test]
async fn a_backup_becomes_a_new_cluster() {
    let place = SnapshotPlace::memory(1 << 20);
    let store = restored(&place).await;
    let network = ChannelNetwork::new();
    let mut nodes = vec![start(&network, 1, place.clone(), store).await];
    for id in [2, 3] {
        nodes.push(start(&network, id, SnapshotPlace::memory(1 << 20), MemLogStore::new()).await);
    }
    assert_eq!(nodes[0].query_local(&()).await.unwrap(), ["x", "y"], "before it is founded");

    // Told to found by mistake, a blank node refuses, though it and the other blank one are a majority.
    let mistaken = within(nodes[1].bootstrap(members())).await;
    assert!(
        mistaken.as_ref().is_err_and(|error| error.to_string().contains("found the cluster there")),
        "{mistaken:?}"
    );

    within(nodes[0].bootstrap(members())).await.unwrap();
    assert_eq!(within(nodes[0].propose(&"z".to_owned())).await.unwrap(), 3);
    for node in &nodes {
        within(async {
            while node.query_local(&()).await.unwrap() != ["x", "y", "z"] {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
    }
    for node in &nodes {
        // The status follows a little later than the state.
        within(node.wait_for(|status| status.lineage != Lineage::UNKNOWN)).await.unwrap();
    }
    let lineages: Vec<Lineage> = nodes.iter().map(|node| node.status().borrow().lineage).collect();
    assert!(lineages.iter().all(|lineage| *lineage == lineages[0]), "{lineages:?}");
}
