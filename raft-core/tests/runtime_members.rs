//! Members that come and go, under the runtime.
#![cfg(feature = "runtime")]
#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

mod cluster;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use cluster::{Cluster, Words, hint, members, options, within};
use raft_core::engine::{RoleName, Status, Wait};
use raft_core::mem::{ChannelNetwork, ChannelTransport, MemLogStore};
use raft_core::message::{Dismissal, Envelope};
use raft_core::transport::{Inbox, LocalNode, SnapshotStream, TransportError};
use raft_core::{Membership, NodeId, NodeInfo, Raft, RaftError, SnapshotPlace, Target, Transport};

fn info(id: u64) -> NodeInfo {
    NodeInfo { client_address: format!("client:{id}"), ..NodeInfo::at(format!("mem:{id}")) }
}

async fn add_blank(cluster: &mut Cluster, id: u64) {
    cluster.stores.insert(id, MemLogStore::new());
    cluster.start(id, options(id)).await;
}

/// Asks whoever leads until the intent is committed.
async fn change(cluster: &Cluster, change: impl Fn(Target) -> Target + Send + Sync) {
    within(async {
        loop {
            for node in cluster.nodes.values() {
                match node.change_members(&change).await {
                    Ok(_) => return,
                    Err(RaftError::NotLeader { .. } | RaftError::Unknown) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// Waits until a node sees the configuration, committed and with nothing left to do.
async fn becomes(cluster: &Cluster, id: u64, wanted: &str) -> Status {
    let done =
        |status: &Status| status.membership.to_string() == wanted && status.commit >= status.membership_index;
    within(cluster.nodes[&id].wait_for(done)).await.unwrap()
}

async fn status(node: &Raft<Words>, wanted: impl Fn(&Status) -> bool) -> Status {
    within(node.wait_for(wanted)).await.unwrap()
}

#[tokio::test]
async fn three_become_five_and_three_others() {
    let mut cluster = Cluster::founded().await;
    assert_eq!(cluster.propose("a").await, 1);
    add_blank(&mut cluster, 4).await;
    add_blank(&mut cluster, 5).await;
    change(&cluster, |target| target.voter(4, info(4)).voter(5, info(5))).await;
    for id in 1..=5 {
        becomes(&cluster, id, "voters(1 2 3 4 5)").await;
    }
    assert_eq!(cluster.propose("b").await, 2);
    let leader = cluster.leader().await;
    change(&cluster, |target| target.remove(leader).remove(leader % 3 + 1)).await;
    let left: Vec<u64> = (1..=5).filter(|&id| id != leader && id != leader % 3 + 1).collect();
    let wanted = format!("voters({} {} {})", left[0], left[1], left[2]);
    for &id in &left {
        becomes(&cluster, id, &wanted).await;
    }
    // Who led knows from its own log; the other one asks, and is told.
    status(&cluster.nodes[&leader], |status| !status.membership.nodes.contains_key(&NodeId(leader))).await;
    status(&cluster.nodes[&(leader % 3 + 1)], |status| {
        status.dismissed == Some(Dismissal::Removed) || !status.membership.is_voter(NodeId(leader % 3 + 1))
    })
    .await;
    for id in [leader, leader % 3 + 1] {
        cluster.stop(id).await;
    }
    assert_eq!(cluster.propose("c").await, 3);
    for &id in &left {
        cluster.holds(id, &["a", "b", "c"]).await;
    }
}

#[tokio::test]
async fn all_three_are_replaced_at_once() {
    let mut cluster = Cluster::founded().await;
    assert_eq!(cluster.propose("a").await, 1);
    for id in 4..=6 {
        add_blank(&mut cluster, id).await;
    }
    change(&cluster, |mut target| {
        for id in 1..=3 {
            target = target.remove(id).voter(id + 3, info(id + 3));
        }
        target
    })
    .await;
    for id in 4..=6 {
        becomes(&cluster, id, "voters(4 5 6)").await;
    }
    for id in 1..=3 {
        cluster.stop(id).await;
    }
    assert_eq!(cluster.propose("b").await, 2);
    cluster.holds(6, &["a", "b"]).await;
    let status = cluster.nodes[&4].status().borrow().clone();
    assert_eq!(status.membership.nodes[&NodeId(5)].client_address, "client:5");
}

#[tokio::test]
async fn one_becomes_two_and_two_become_one() {
    let mut cluster = Cluster::blank(options).await;
    for id in [2, 3] {
        cluster.stop(id).await;
    }
    cluster.nodes[&1].bootstrap([(1, "mem:1".to_owned(), "client:1".to_owned())]).await.unwrap();
    assert_eq!(cluster.propose("a").await, 1);
    add_blank(&mut cluster, 2).await;
    change(&cluster, |target| target.voter(2, info(2))).await;
    becomes(&cluster, 2, "voters(1 2)").await;
    assert_eq!(cluster.propose("b").await, 2);
    let leader = cluster.leader().await;
    let other = 3 - leader;
    change(&cluster, |target| target.remove(leader)).await;
    becomes(&cluster, other, &format!("voters({other})")).await;
    cluster.stop(leader).await;
    assert_eq!(cluster.propose("c").await, 3);
    cluster.holds(other, &["a", "b", "c"]).await;
}

#[tokio::test]
async fn a_learner_follows_and_does_not_count() {
    let mut cluster = Cluster::founded().await;
    add_blank(&mut cluster, 4).await;
    change(&cluster, |target| target.learner(4, info(4))).await;
    becomes(&cluster, 4, "voters(1 2 3) learners(4)").await;
    assert_eq!(cluster.propose("a").await, 1);
    cluster.holds(4, &["a"]).await;
    cluster.stop(4).await;
    change(&cluster, |target| target.demote(3)).await;
    becomes(&cluster, 3, "voters(1 2) learners(3 4)").await;
    cluster.stop(3).await;
    assert_eq!(cluster.propose("b").await, 2);
}

#[tokio::test]
async fn a_wiped_voter_is_taken_in_again_only_when_told() {
    let mut cluster = Cluster::founded().await;
    assert_eq!(cluster.propose("a").await, 1);
    let leader = cluster.leader().await;
    let wiped = leader % 3 + 1;
    cluster.stop(wiped).await;
    add_blank(&mut cluster, wiped).await;
    assert_eq!(cluster.propose("b").await, 2);
    let seen = cluster.nodes[&wiped].status().borrow().clone();
    assert_eq!((seen.commit, seen.membership.clone()), (0, Membership::default()));
    change(&cluster, |target| target.readmit(wiped)).await;
    becomes(&cluster, wiped, "voters(1 2 3)").await;
    cluster.holds(wiped, &["a", "b"]).await;
    let folder = cluster.nodes[&wiped].local().peer.incarnation;
    let leader = cluster.leader().await;
    let bound = cluster.nodes[&leader].status().borrow().membership.nodes[&NodeId(wiped)].incarnation;
    assert_eq!(bound, folder);
}

#[tokio::test]
async fn what_does_not_answer_is_waited_for_and_can_be_given_up() {
    let cluster = Cluster::founded().await;
    cluster.propose("a").await;
    change(&cluster, |target| target.voter(9, info(9))).await;
    let leader = cluster.leader().await;
    let waits = |status: &Status| {
        let identity = Wait::Identity { node: NodeId(9) };
        status.change.as_ref().is_some_and(|change| change.waits.contains(&identity))
    };
    let seen = status(&cluster.nodes[&leader], waits).await;
    assert_eq!(seen.membership.to_string(), "voters(1 2 3) learners(9) -> voters(1 2 3 9)");
    assert_eq!(cluster.propose("b").await, 2);
    within(cluster.nodes[&cluster.leader().await].give_up_change()).await.unwrap();
    for id in 1..=3 {
        becomes(&cluster, id, "voters(1 2 3)").await;
    }
}

#[tokio::test]
async fn what_makes_no_cluster_or_comes_too_late_is_refused() {
    let cluster = Cluster::founded().await;
    cluster.propose("a").await;
    let leader = cluster.leader().await;
    let node = &cluster.nodes[&leader];
    let nobody = within(node.change_members(|target| target.remove(1).remove(2).remove(3))).await;
    assert_eq!(nobody, Err(RaftError::Membership("a configuration needs at least one voter".into())));
    let follower = within(cluster.nodes[&(leader % 3 + 1)].change_members(|target| target)).await;
    assert_eq!(hint(&follower.unwrap_err()).unwrap().0, Some(NodeId(leader)));
    let status = node.status().borrow().clone();
    let (intent, index) = (status.membership.intent(), status.membership_index);
    assert_eq!(within(node.set_members(intent.clone(), Some(index))).await, Ok(index));
    let late = within(node.set_members(intent.learner(9, info(9)), Some(index + 7))).await;
    assert_eq!(late, Err(RaftError::Outdated));
}

#[tokio::test]
async fn an_old_copy_of_a_folder_is_found_out() {
    let mut cluster = Cluster::founded().await;
    assert_eq!(cluster.propose("a").await, 1);
    let leader = cluster.leader().await;
    let old = leader % 3 + 1;
    let copy = cluster.stores[&old].fork();
    cluster.stop(old).await;
    cluster.start(old, options(old)).await;
    assert_eq!(cluster.propose("b").await, 2);
    cluster.holds(old, &["a", "b"]).await;
    // The copy was started as often as the folder itself: it is another run of it, and the one before may still be there.
    cluster.stop(old).await;
    cluster.stores.insert(old, copy);
    cluster.start(old, options(old)).await;
    assert_eq!(cluster.propose("c").await, 3);
    let seen = cluster.nodes[&old].status().borrow().clone();
    assert!(seen.commit < 3, "it hears nothing any more: {seen:?}");
    // Wiped, it is taken in again.
    cluster.stop(old).await;
    add_blank(&mut cluster, old).await;
    change(&cluster, |target| target.readmit(old)).await;
    becomes(&cluster, old, "voters(1 2 3)").await;
    cluster.holds(old, &["a", "b", "c"]).await;
}

#[tokio::test]
async fn a_node_with_an_old_roster_follows_a_leader_that_was_taken_in_again() {
    let mut cluster = Cluster::founded().await;
    add_blank(&mut cluster, 4).await;
    add_blank(&mut cluster, 5).await;
    change(&cluster, |target| target.voter(4, info(4)).voter(5, info(5))).await;
    for id in 1..=5 {
        becomes(&cluster, id, "voters(1 2 3 4 5)").await;
    }
    let leader = cluster.leader().await;
    let (away, wiped) = if leader == 5 { (3, 4) } else { (5, leader % 4 + 1) };
    cluster.stop(away).await;
    cluster.stop(wiped).await;
    add_blank(&mut cluster, wiped).await;
    change(&cluster, |target| target.readmit(wiped)).await;
    becomes(&cluster, wiped, "voters(1 2 3 4 5)").await;
    assert_eq!(cluster.propose("a").await, 1);
    let leader = cluster.leader().await;
    if leader != wiped {
        within(cluster.nodes[&leader].transfer_leadership(Some(NodeId(wiped)))).await.unwrap();
    }
    // It binds the leader to the folder that was lost, and hears from nobody else.
    cluster.start(away, options(away)).await;
    cluster.holds(away, &["a"]).await;
    becomes(&cluster, away, "voters(1 2 3 4 5)").await;
    assert_eq!(cluster.leader().await, wiped);
}

/// Proposes, on the only member that leads, an intent that it cannot commit, and waits until it is in its log.
async fn open_intent(node: &Raft<Words>) -> tokio::task::JoinHandle<Result<u64, RaftError>> {
    let intent = tokio::spawn({
        let node = node.clone();
        async move { node.change_members(|target| target.learner(9, info(9))).await }
    });
    within(node.wait_for(|status| status.membership.nodes.contains_key(&NodeId(9)))).await.unwrap();
    intent
}

#[tokio::test]
async fn of_an_intent_that_a_snapshot_stands_in_for_nobody_knows() {
    let with_snapshots = |id: u64| {
        let mut options = options(id);
        options.snapshots = SnapshotPlace::memory(1 << 20);
        (options.config.keep_entries, options.config.keep_bytes, options.config.keep_live_bytes) = (0, 0, 0);
        // Time alone answers nobody here.
        options.proposal_timeout = Duration::from_secs(120);
        options
    };
    let cluster = Cluster::blank(with_snapshots).await;
    within(cluster.nodes[&1].bootstrap(members())).await.unwrap();
    assert_eq!(cluster.propose("a").await, 1);
    let old = cluster.leader().await;
    cluster.isolate(old);
    let intent = open_intent(&cluster.nodes[&old]).await;
    let appended = cluster.nodes[&old].status().borrow().last.index;
    // The others go on, far beyond the place of the intent, and keep nothing but a snapshot.
    let others: Vec<u64> = (1..=3).filter(|&id| id != old).collect();
    let next = within(async {
        loop {
            let leads = |id: &u64| cluster.nodes[id].status().borrow().role == RoleName::Leader;
            match others.iter().copied().find(leads) {
                Some(id) => return id,
                None => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    })
    .await;
    for n in 0..5 {
        cluster.propose_to(next, &n.to_string()).await;
    }
    within(cluster.nodes[&next].snapshot()).await.unwrap();
    status(&cluster.nodes[&next], |status| status.base.index > appended).await;
    assert!(!intent.is_finished());
    others.iter().for_each(|&other| cluster.network.heal(old, other));
    assert_eq!(within(intent).await.unwrap(), Err(RaftError::Unknown), "it might have been committed");
    assert!(cluster.nodes[&old].status().borrow().base.index > appended, "a snapshot was installed");
}

/// A transport that panics when told to, on the driver's task.
struct Trapped {
    inner: ChannelTransport,
    armed: Arc<AtomicBool>,
}

#[async_trait]
impl Transport for Trapped {
    async fn start(&self, local: LocalNode, inbox: Arc<dyn Inbox>) -> Result<(), TransportError> {
        self.inner.start(local, inbox).await
    }

    fn address(&self) -> String {
        self.inner.address()
    }

    fn connect(&self, peer: NodeId, address: &str) {
        self.inner.connect(peer, address);
    }

    fn disconnect(&self, peer: NodeId) {
        self.inner.disconnect(peer);
    }

    fn send(&self, to: NodeId, batch: Vec<Envelope>) {
        assert!(!self.armed.load(Ordering::SeqCst), "asked to panic");
        self.inner.send(to, batch);
    }

    async fn open_snapshot(&self, to: NodeId) -> Result<Box<dyn SnapshotStream>, TransportError> {
        self.inner.open_snapshot(to).await
    }

    async fn stop(&self) {
        self.inner.stop().await;
    }
}

#[tokio::test]
async fn of_an_intent_whose_node_breaks_down_nobody_knows() {
    let network = ChannelNetwork::new();
    let armed = Arc::new(AtomicBool::new(false));
    let start = async |id: u64| {
        let transport = Trapped { inner: network.transport(id), armed: Arc::clone(&armed) };
        let mut options = options(id);
        options.config.check_quorum = false;
        Raft::start(options, MemLogStore::new(), transport, Words::default()).await.unwrap()
    };
    let nodes = [start(1).await, start(2).await];
    within(nodes[0].bootstrap([(1, "mem:1"), (2, "mem:2")])).await.unwrap();
    within(nodes[0].wait_for(|status| status.leader.is_some())).await.unwrap();
    let leads = |node: &&Raft<Words>| node.status().borrow().role == RoleName::Leader;
    let leader = nodes.iter().find(leads).unwrap();
    status(leader, |status| status.commit == status.last.index).await;
    network.cut(1, 2);
    let intent = open_intent(leader).await;
    armed.store(true, Ordering::SeqCst);
    let outcome = within(intent).await.unwrap();
    assert_eq!(outcome, Err(RaftError::Unknown), "the intent is in the log, and may be sent from there");
    // What comes later was surely not taken.
    assert!(leader.change_members(|target| target).await.unwrap_err().is_refused());
}
