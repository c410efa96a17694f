//! Leadership that moves, and leaders whose disk does not: transfers, shutdowns, stalled and full disks, under the runtime.
#![cfg(all(feature = "runtime", feature = "testing"))]
#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

mod cluster;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cluster::{Cluster, Words, hint, members, options, within};
use raft_core::engine::RoleName;
use raft_core::log_store::StorageErrorKind;
use raft_core::mem::{ChannelNetwork, MemLogStore};
use raft_core::runtime::FatalKind;
use raft_core::testing::{FaultStore, StoreFaults};
use raft_core::{NodeId, NodeOptions, Raft, RaftError};
use tokio::task::JoinHandle;

/// So long that an election for want of a leader would be noticed.
fn patient(node: u64) -> NodeOptions {
    let mut options = options(node);
    options.config.election_timeout = Duration::from_secs(10);
    options
}

/// Three nodes that would wait long for a leader, led by `first` from the start.
async fn patient_cluster(first: u64) -> Cluster {
    let cluster = Cluster::blank(patient).await;
    cluster.nodes[&first].bootstrap(members()).await.unwrap();
    assert_eq!(cluster.leader().await, first);
    cluster
}

fn other(of: u64) -> u64 {
    of % 3 + 1
}

#[tokio::test]
async fn leadership_goes_to_the_node_named_and_to_the_best() {
    let cluster = patient_cluster(1).await;
    let began = Instant::now();
    assert_eq!(within(cluster.nodes[&1].transfer_leadership(Some(NodeId(3)))).await, Ok(NodeId(3)));
    assert_eq!(cluster.leader().await, 3);
    let best = within(cluster.nodes[&3].transfer_leadership(None)).await.unwrap();
    assert_eq!(cluster.leader().await, best.0);
    assert!(began.elapsed() < Duration::from_secs(10), "nobody waited for an election timeout");
    assert_eq!(cluster.propose("on").await, 1);
}

#[tokio::test]
async fn transfers_that_cannot_be_are_refused() {
    let cluster = Cluster::founded().await;
    let leader = cluster.leader().await;
    let node = &cluster.nodes[&leader];
    assert_eq!(within(node.transfer_leadership(Some(NodeId(leader)))).await, Ok(NodeId(leader)));
    let stranger = within(node.transfer_leadership(Some(NodeId(9)))).await;
    assert_eq!(stranger, Err(RaftError::Transfer("node 9 is not a member of the cluster".into())));
    let follower = within(cluster.nodes[&other(leader)].transfer_leadership(None)).await.unwrap_err();
    assert_eq!(hint(&follower).and_then(|(node, _)| node), Some(NodeId(leader)));
    assert!(follower.is_refused());
}

#[tokio::test]
async fn a_target_that_dies_leaves_the_leader_leading() {
    let mut cluster = Cluster::founded().await;
    let leader = cluster.leader().await;
    let target = other(leader);
    cluster.network.cut(leader, target);
    let transfer = {
        let node = cluster.nodes[&leader].clone();
        tokio::spawn(async move { node.transfer_leadership(Some(NodeId(target))).await })
    };
    let refused = within(transfer).await.unwrap().unwrap_err();
    assert!(matches!(&refused, RaftError::Transfer(text) if text.contains("goes on leading")), "{refused}");
    cluster.stop(target).await;
    assert_eq!(within(cluster.nodes[&leader].propose(&"on".into())).await, Ok(1));
}

/// Clients that propose one word after another to whoever leads.
struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Vec<String>>>,
    done: Arc<AtomicUsize>,
    unknown: Arc<AtomicUsize>,
}

impl Load {
    fn start(nodes: &BTreeMap<u64, Raft<Words>>, count: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (done, unknown) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let client = |client| {
            let nodes: Vec<_> = nodes.values().cloned().collect();
            let (stop, done, unknown) = (Arc::clone(&stop), Arc::clone(&done), Arc::clone(&unknown));
            tokio::spawn(async move {
                let mut confirmed = Vec::new();
                let (mut at, mut number) = (0, 0);
                while !stop.load(Ordering::Relaxed) {
                    let word = format!("{client}-{number}");
                    match nodes[at].propose(&word).await {
                        Ok(_) => {
                            confirmed.push(word);
                            number += 1;
                            done.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(RaftError::Unknown) => {
                            number += 1;
                            unknown.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => {
                            assert!(error.is_refused(), "{error}");
                            at = match (error, at) {
                                (RaftError::NotLeader { leader: Some(leader), .. }, _) => {
                                    leader.0 as usize - 1
                                }
                                (RaftError::Transferring { to }, _) => to.0 as usize - 1,
                                _ => (at + 1) % nodes.len(),
                            };
                            tokio::time::sleep(Duration::from_millis(1)).await;
                        }
                    }
                }
                confirmed
            })
        };
        let clients = (0..count).map(client).collect();
        Self { stop, clients, done, unknown }
    }

    /// Waits until this many more are confirmed.
    async fn goes_on(&self, more: usize) {
        let wanted = self.done.load(Ordering::Relaxed) + more;
        within(async {
            while self.done.load(Ordering::Relaxed) < wanted {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }

    /// All that was confirmed, and how many proposals were left unknown.
    async fn end(self) -> (Vec<String>, usize) {
        self.stop.store(true, Ordering::Relaxed);
        let mut confirmed = Vec::new();
        for client in self.clients {
            confirmed.extend(within(client).await.unwrap());
        }
        (confirmed, self.unknown.load(Ordering::Relaxed))
    }
}

/// Every node holds all these words once.
async fn all_hold(nodes: &BTreeMap<u64, Raft<Words>>, mut words: Vec<String>) {
    words.sort_unstable();
    for node in nodes.values() {
        within(async {
            loop {
                let mut held = node.query_local(&()).await.unwrap();
                held.sort_unstable();
                if held == words {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_transfers_under_load_lose_nothing() {
    let cluster = patient_cluster(1).await;
    let load = Load::start(&cluster.nodes, 8);
    let mut leader = 1;
    for _ in 0..50 {
        load.goes_on(20).await;
        let to = other(leader);
        assert_eq!(
            within(cluster.nodes[&leader].transfer_leadership(Some(NodeId(to)))).await,
            Ok(NodeId(to))
        );
        leader = to;
    }
    load.goes_on(20).await;
    let (confirmed, unknown) = load.end().await;
    assert_eq!(unknown, 0, "what the old leader took, the new one commits");
    all_hold(&cluster.nodes, confirmed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_hands_over_first() {
    let mut cluster = patient_cluster(2).await;
    let load = Load::start(&cluster.nodes, 4);
    load.goes_on(50).await;
    let began = Instant::now();
    within(cluster.nodes[&2].shutdown()).await;
    load.goes_on(50).await;
    assert!(began.elapsed() < Duration::from_secs(10), "nobody waited for an election timeout");
    let (confirmed, unknown) = load.end().await;
    assert_eq!(unknown, 0, "open calls are answered before the node ends");
    cluster.nodes.remove(&2);
    all_hold(&cluster.nodes, confirmed).await;
}

#[tokio::test]
async fn a_preferred_node_comes_to_lead() {
    let prefer = |node| {
        let mut options = options(node);
        options.config.priority = if node == 3 { 9 } else { 0 };
        options
    };
    let mut cluster = Cluster::blank(prefer).await;
    cluster.nodes[&1].bootstrap(members()).await.unwrap();
    let leads = |node: &Raft<Words>| {
        let node = node.clone();
        async move { within(node.wait_for(|status| status.role == RoleName::Leader)).await.unwrap() }
    };
    let status = leads(&cluster.nodes[&3]).await;
    assert_eq!((status.priority, status.transferring), (9, None));
    // Nobody waits for it where it is gone, and it gets the leadership back when it has kept up.
    cluster.stop(3).await;
    cluster.propose("without").await;
    cluster.start(3, prefer(3)).await;
    leads(&cluster.nodes[&3]).await;
    cluster.holds(3, &["without"]).await;
}

/// Three nodes whose stores can be put into trouble.
struct Troubled {
    cluster: Cluster,
    faults: BTreeMap<u64, StoreFaults>,
}

impl Troubled {
    async fn founded(options: impl Fn(u64) -> NodeOptions) -> Self {
        let network = ChannelNetwork::new();
        let stores = (1..=3).map(|id| (id, MemLogStore::new())).collect();
        let faults = (1..=3).map(|id| (id, StoreFaults::new())).collect();
        let cluster = Cluster { network, stores, nodes: BTreeMap::new() };
        let mut troubled = Self { cluster, faults };
        for id in 1..=3 {
            troubled.start(id, options(id)).await;
        }
        troubled.cluster.nodes[&1].bootstrap(members()).await.unwrap();
        troubled
    }

    async fn start(&mut self, id: u64, options: NodeOptions) {
        let store = FaultStore::new(self.cluster.stores[&id].clone(), self.faults[&id].clone());
        let transport = self.cluster.network.transport(id);
        let node = Raft::start(options, store, transport, Words::default()).await.unwrap();
        self.cluster.nodes.insert(id, node);
    }

    /// Waits until a node other than `id` leads.
    async fn others_lead(&self, id: u64) -> u64 {
        within(async {
            loop {
                for (&other, node) in self.cluster.nodes.iter().filter(|&(&other, _)| other != id) {
                    if node.status().borrow().role == RoleName::Leader {
                        return other;
                    }
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await
    }
}

#[tokio::test]
async fn a_leader_whose_disk_hangs_hands_over_and_does_not_take_it_back() {
    let slow = |node| {
        let mut options = options(node);
        options.config.election_timeout = Duration::from_millis(500);
        options
    };
    let troubled = Troubled::founded(slow).await;
    let leader = troubled.cluster.leader().await;
    troubled.faults[&leader].stall();
    let hanging = troubled.cluster.nodes[&leader].clone();
    let open = tokio::spawn(async move { hanging.propose(&"open".into()).await });
    let next = troubled.others_lead(leader).await;
    let term = troubled.cluster.nodes[&next].status().borrow().term;
    assert_eq!(within(troubled.cluster.nodes[&next].propose(&"on".into())).await, Ok(2));
    // It neither campaigns nor disturbs for some election timeouts, while its disk hangs and after.
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(1_500) {
        assert!(within(troubled.cluster.nodes[&next].propose(&"more".into())).await.is_ok());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    troubled.faults[&leader].heal();
    assert_eq!(within(open).await.unwrap(), Ok(1), "the next leader committed it");
    let last = troubled.cluster.nodes[&next].status().borrow().last.index;
    within(troubled.cluster.nodes[&leader].wait_for(|status| status.applied >= last)).await.unwrap();
    let status = troubled.cluster.nodes[&next].status().borrow().clone();
    assert_eq!((status.role, status.term), (RoleName::Leader, term));
}

#[tokio::test]
async fn a_follower_whose_disk_hangs_holds_nobody_up() {
    let small = |node| {
        let mut options = patient(node);
        options.config.max_inflight_bytes = 64 << 10;
        options.config.max_tail_bytes = 256 << 10;
        options
    };
    let troubled = Troubled::founded(small).await;
    let leader = troubled.cluster.leader().await;
    let hanging = other(leader);
    troubled.faults[&hanging].stall();
    let word = "x".repeat(8 << 10);
    let node = &troubled.cluster.nodes[&leader];
    for _ in 0..200 {
        assert!(within(node.propose(&word)).await.is_ok());
    }
    let status = node.status().borrow().clone();
    assert_eq!(status.role, RoleName::Leader);
    // 1.6 MB went by; what is on its way to the one that hangs is as much as its window.
    let peer = status.peers[&NodeId(hanging)];
    assert!(peer.inflight <= 9 && peer.matched < status.commit, "{peer:?}");
    let behind = troubled.cluster.nodes[&hanging].status().borrow().last.index;
    assert!(behind < status.commit / 2, "{behind} of {} were sent", status.commit);
    troubled.faults[&hanging].heal();
    within(troubled.cluster.nodes[&hanging].wait_for(|s| s.applied >= status.commit)).await.unwrap();
}

#[tokio::test]
async fn a_full_disk_stops_the_node_which_says_so_and_comes_back_when_there_is_room() {
    let mut troubled = Troubled::founded(options).await;
    for leads in [true, false] {
        let leader = troubled.cluster.leader().await;
        let full = if leads { leader } else { other(leader) };
        let before = troubled.cluster.propose("before").await;
        troubled.faults[&full].fail(StorageErrorKind::Full);
        // The next write meets it.
        let on = troubled.cluster.nodes[&leader].clone();
        let word = tokio::spawn(async move { on.propose(&"meanwhile".into()).await });
        let mut status = troubled.cluster.nodes[&full].status();
        let status = within(status.wait_for(|status| status.fatal.is_some())).await.unwrap().clone();
        assert_eq!(status.fatal_kind, Some(FatalKind::Storage(StorageErrorKind::Full)));
        assert_eq!(FatalKind::Storage(StorageErrorKind::Full).as_str(), "disk_full");
        assert!(status.fatal.as_deref().is_some_and(|reason| reason.contains("make room")), "{status:?}");
        let refused = within(troubled.cluster.nodes[&full].propose(&"refused".into())).await;
        assert!(matches!(refused, Err(RaftError::Fatal { .. })), "{refused:?}");
        let outcome = within(word).await.unwrap();
        assert!(matches!(outcome, Ok(_) | Err(RaftError::Unknown)), "{outcome:?}");

        // The others go on without it.
        let node = troubled.cluster.nodes.remove(&full).unwrap();
        assert!(troubled.cluster.propose("after").await > before);
        within(node.shutdown()).await;
        // Room is made, the node is started again.
        troubled.faults[&full].heal();
        troubled.start(full, options(full)).await;
        let leader = troubled.cluster.leader().await;
        let commit = troubled.cluster.nodes[&leader].status().borrow().commit;
        let back = &troubled.cluster.nodes[&full];
        within(back.wait_for(|status| status.applied >= commit)).await.unwrap();
    }
}
