//! Three nodes in memory, through the handle.
#![cfg(feature = "runtime")]
#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

mod cluster;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use cluster::{Cluster, Words, hint, members, options, within};
use raft_core::mem::{ChannelNetwork, MemLogStore};
use raft_core::transport::LocalNode;
use raft_core::{NodeId, Raft, RaftError};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_founded_cluster_takes_commands_and_reads() {
    let cluster = Cluster::founded().await;
    let leader = &cluster.nodes[&cluster.leader().await];
    assert_eq!(leader.propose(&"one".into()).await, Ok(1));
    assert_eq!(leader.propose(&"two".into()).await, Ok(2));
    assert_eq!(leader.read(&()).await.unwrap(), ["one", "two"]);
    for id in 1..=3 {
        cluster.holds(id, &["one", "two"]).await;
    }
}

#[tokio::test]
async fn it_works_on_one_thread() {
    let cluster = Cluster::founded().await;
    for n in 1..=20 {
        assert_eq!(cluster.propose(&n.to_string()).await, n);
    }
}

#[tokio::test]
async fn a_single_node_is_a_cluster() {
    let network = ChannelNetwork::new();
    let store = MemLogStore::new();
    let node = Raft::start(options(1), store.clone(), network.transport(1), Words::default()).await.unwrap();
    within(node.bootstrap([(1, "mem:1")])).await.unwrap();
    assert_eq!(node.propose(&"alone".into()).await, Ok(1));
    node.shutdown().await;
    let node = Raft::start(options(1), store, network.transport(1), Words::default()).await.unwrap();
    within(node.wait_for(|status| status.applied == status.commit && status.applied >= 3)).await.unwrap();
    assert_eq!(node.read(&()).await.unwrap(), ["alone"]);
    assert_eq!(LocalNode::starts(node.local().boot), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_node_leads_after_the_leader_and_the_old_one_comes_back() {
    let mut cluster = Cluster::founded().await;
    assert_eq!(cluster.propose("before").await, 1);
    let old = cluster.leader().await;
    cluster.stop(old).await;
    assert_eq!(cluster.propose("after").await, 2);
    assert_ne!(cluster.leader().await, old);
    cluster.start(old, options(old)).await;
    cluster.holds(old, &["before", "after"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_all_rebuilds_the_state() {
    let mut cluster = Cluster::founded().await;
    for word in ["a", "b", "c"] {
        cluster.propose(word).await;
    }
    let incarnation = cluster.nodes[&1].local().peer.incarnation;
    for id in 1..=3 {
        cluster.stop(id).await;
    }
    for id in 1..=3 {
        cluster.start(id, options(id)).await;
    }
    assert_eq!(cluster.propose("d").await, 4);
    for id in 1..=3 {
        cluster.holds(id, &["a", "b", "c", "d"]).await;
    }
    assert_eq!(cluster.nodes[&1].local().peer.incarnation, incarnation);
    assert_eq!(LocalNode::starts(cluster.nodes[&1].local().boot), 2);
}

#[tokio::test]
async fn a_follower_names_the_leader_and_where_its_clients_go() {
    let cluster = Cluster::founded().await;
    let leader = cluster.leader().await;
    let follower = &cluster.nodes[&(leader % 3 + 1)];
    let address = format!("client:{leader}");
    let expected = Some((Some(NodeId(leader)), Some(address.as_str())));
    assert_eq!(hint(&follower.propose(&"x".into()).await.unwrap_err()), expected);
    assert_eq!(hint(&follower.transfer_leadership(None).await.unwrap_err()), expected);
}

#[tokio::test]
async fn a_blank_node_knows_no_leader() {
    let cluster = Cluster::blank(options).await;
    let error = cluster.nodes[&1].propose(&"x".into()).await.unwrap_err();
    assert_eq!(hint(&error), Some((None, None)));
}

#[tokio::test]
async fn bootstrapping_twice_is_ok_and_with_others_is_not() {
    let cluster = Cluster::founded().await;
    let second = within(cluster.nodes[&2].bootstrap(members())).await;
    assert_eq!(second, Ok(()));
    let others = within(cluster.nodes[&1].bootstrap([(1, "mem:1"), (2, "mem:2")])).await;
    assert!(matches!(others, Err(RaftError::Bootstrap(_))), "{others:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bootstrapping_from_all_at_once_is_ok() {
    let cluster = Cluster::blank(options).await;
    let calls: Vec<_> = cluster
        .nodes
        .values()
        .cloned()
        .map(|node| tokio::spawn(async move { node.bootstrap(members()).await }))
        .collect();
    for call in calls {
        assert_eq!(within(call).await.unwrap(), Ok(()));
    }
    assert_eq!(cluster.propose("x").await, 1);
}

#[tokio::test]
async fn members_that_make_no_cluster_are_refused() {
    let cluster = Cluster::blank(options).await;
    let node = &cluster.nodes[&1];
    let wrong: [Vec<(u64, &str)>; 3] =
        [vec![], vec![(2, "mem:2"), (3, "mem:3")], vec![(1, "mem:1"), (1, "mem:1")]];
    for members in wrong {
        let result = within(node.bootstrap(members)).await;
        assert!(matches!(result, Err(RaftError::Bootstrap(_))), "{result:?}");
    }
}

#[tokio::test]
async fn bootstrapping_with_a_member_of_another_cluster_ends() {
    let cluster = Cluster::founded().await;
    let (store, transport) = (MemLogStore::new(), cluster.network.transport(4));
    let fourth = Raft::start(options(4), store, transport, Words::default()).await.unwrap();
    let result = within(fourth.bootstrap([(4, "mem:4"), (1, "mem:1")])).await;
    assert!(matches!(result, Err(RaftError::Bootstrap(_))), "{result:?}");
}

#[tokio::test]
async fn a_command_that_is_too_large_is_refused() {
    let cluster = Cluster::blank(|node| {
        let mut options = options(node);
        options.config.max_entry_bytes = 100;
        options
    })
    .await;
    cluster.nodes[&1].bootstrap(members()).await.unwrap();
    let leader = &cluster.nodes[&cluster.leader().await];
    let error = leader.propose(&"x".repeat(200)).await.unwrap_err();
    assert!(matches!(error, RaftError::TooLarge { bytes: 208, limit: 100 }), "{error:?}");
    assert_eq!(leader.propose(&"x".repeat(90)).await, Ok(1));
}

#[tokio::test]
async fn proposals_of_a_leader_without_followers_are_overloaded_then_unknown() {
    let cluster = Cluster::blank(|node| {
        let mut options = options(node);
        options.config.election_timeout = Duration::from_secs(2);
        options.config.max_entry_bytes = 1000;
        options.config.max_uncommitted_bytes = 4000;
        options.proposal_timeout = Duration::from_millis(300);
        options
    })
    .await;
    cluster.nodes[&1].bootstrap(members()).await.unwrap();
    let leader = cluster.leader().await;
    // What is not applied counts too.
    within(cluster.nodes[&leader].wait_for(|status| status.applied >= status.last.index)).await.unwrap();
    cluster.isolate(leader);
    let calls: Vec<_> = (0..10)
        .map(|_| {
            let node = cluster.nodes[&leader].clone();
            tokio::spawn(async move { node.propose(&"x".repeat(900)).await })
        })
        .collect();
    let (mut overloaded, mut unknown) = (0, 0);
    for call in calls {
        match within(call).await.unwrap() {
            Err(RaftError::Overloaded) => overloaded += 1,
            Err(RaftError::Unknown) => unknown += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((overloaded, unknown), (6, 4));
    let counters = within(async {
        let mut status = cluster.nodes[&leader].status();
        let seen = status.wait_for(|status| status.counters.expired == 4).await.unwrap();
        seen.counters.clone()
    })
    .await;
    assert_eq!(counters.overloaded, 6);
}

#[tokio::test]
async fn calls_beyond_the_queue_are_overloaded_at_once() {
    let network = ChannelNetwork::new();
    let mut small = options(1);
    small.max_queued_bytes = 1000;
    let node = Raft::start(small, MemLogStore::new(), network.transport(1), Words::default()).await.unwrap();
    within(node.bootstrap([(1, "mem:1")])).await.unwrap();
    // On one thread the driver runs only when this task waits.
    let calls: Vec<_> = (0..20).map(|n| Box::pin(node.raw().propose(word(n)))).collect();
    let results = within(join_all(calls)).await;
    let overloaded = results.iter().filter(|result| **result == Err(RaftError::Overloaded)).count();
    let taken = results.iter().filter(|result| result.is_ok()).count();
    assert!(overloaded > 0 && taken > 0 && overloaded + taken == 20, "{overloaded} {taken}");
}

fn word(n: u64) -> bytes::Bytes {
    raft_core::codec::cold::encode(&n.to_string()).unwrap().into()
}

async fn join_all<F: Future + Unpin>(mut futures: Vec<F>) -> Vec<F::Output> {
    let mut outputs: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        for (future, output) in futures.iter_mut().zip(&mut outputs) {
            if output.is_none()
                && let std::task::Poll::Ready(value) = std::pin::Pin::new(future).poll(cx)
            {
                *output = Some(value);
            }
        }
        if outputs.iter().all(Option::is_some) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    outputs.into_iter().flatten().collect()
}

#[tokio::test]
async fn what_a_cut_off_leader_took_is_unknown_or_not_committed() {
    let cluster = Cluster::founded().await;
    let old = cluster.leader().await;
    cluster.isolate(old);
    let node = cluster.nodes[&old].clone();
    let lost = tokio::spawn(async move { node.propose(&"lost".into()).await });
    let other = old % 3 + 1;
    within(cluster.nodes[&other].wait_for(|status| status.leader.is_some_and(|leader| leader.0 != old)))
        .await
        .unwrap();
    for id in (1..=3).filter(|&id| id != old) {
        cluster.network.heal(old, id);
    }
    // The new leader's entry takes the place of the lost one.
    let result = within(lost).await.unwrap();
    assert!(matches!(result, Err(RaftError::NotCommitted | RaftError::NotLeader { .. })), "{result:?}");
    assert_eq!(cluster.propose("kept").await, 1);
    cluster.holds(old, &["kept"]).await;
}

#[tokio::test]
async fn a_cut_off_leader_answers_no_read() {
    let cluster = Cluster::founded().await;
    let old = cluster.leader().await;
    assert_eq!(cluster.propose("old").await, 1);
    cluster.isolate(old);
    let read = within(cluster.nodes[&old].read(&())).await;
    assert!(matches!(read, Err(RaftError::NotLeader { .. } | RaftError::Unknown)), "{read:?}");
    assert_eq!(cluster.nodes[&old].query_local(&()).await.unwrap(), ["old"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_never_sees_less_than_was_answered_before_it() {
    let cluster = Arc::new(Cluster::founded().await);
    let answered = Arc::new(AtomicUsize::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..4)
        .map(|n: usize| {
            let (cluster, answered, stop) = (Arc::clone(&cluster), Arc::clone(&answered), Arc::clone(&stop));
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    for node in cluster.nodes.values() {
                        if let Ok(length) = node.propose(&n.to_string()).await {
                            answered.fetch_max(length, Ordering::SeqCst);
                        }
                    }
                }
            })
        })
        .collect();
    let mut read = 0;
    let mut cut = 0;
    within(async {
        while read < 300 {
            for node in cluster.nodes.values() {
                let before = answered.load(Ordering::SeqCst);
                if let Ok(words) = node.read(&()).await {
                    assert!(words.len() >= before, "read {} after {before}", words.len());
                    read += 1;
                }
            }
            // Now and then another node is cut off, the leader among them.
            let next = read as u64 / 60 % 4;
            if next != cut {
                for (a, b) in [(1_u64, 2_u64), (2, 3), (1, 3)] {
                    cluster.network.heal(a, b);
                }
                if next > 0 {
                    cluster.isolate(next);
                }
                cut = next;
            }
        }
    })
    .await;
    stop.store(true, Ordering::SeqCst);
    for (a, b) in [(1_u64, 2_u64), (2, 3), (1, 3)] {
        cluster.network.heal(a, b);
    }
    for writer in writers {
        within(writer).await.unwrap();
    }
}

#[tokio::test]
async fn messages_beyond_the_inbox_are_dropped_and_counted() {
    let cluster = Cluster::blank(|node| {
        let mut options = options(node);
        if node == 2 {
            options.max_inbox_bytes = 1;
        }
        options
    })
    .await;
    let founder = cluster.nodes[&1].clone();
    let founding = tokio::spawn(async move { founder.bootstrap(members()).await });
    let mut status = cluster.nodes[&2].status();
    within(status.wait_for(|status| status.counters.dropped_messages > 0)).await.unwrap();
    founding.abort();
}

#[tokio::test]
async fn a_node_whose_disk_was_wiped_is_kept_out() {
    let mut cluster = Cluster::founded().await;
    let leader = cluster.leader().await;
    let wiped = leader % 3 + 1;
    cluster.propose("a").await;
    cluster.stop(wiped).await;
    cluster.stores.insert(wiped, MemLogStore::new());
    cluster.start(wiped, options(wiped)).await;
    for n in 2..=20 {
        assert_eq!(cluster.propose("b").await, n);
    }
    let status = cluster.nodes[&wiped].status().borrow().clone();
    assert!(status.membership.is_empty() && status.term == 0, "{status:?}");
}
