//! Peers that come back, move, or are sent away.

use std::time::{Duration, Instant};

use raft_core::transport::{LocalNode, Transport};
use raft_core::types::{NodeId, Peer};
use raft_transport_quic::{Credentials, DevCa, QuicOptions};

use crate::common::{CLUSTER, Node, local, options, until, vote};

fn ca() -> DevCa {
    DevCa::new(CLUSTER).unwrap()
}

/// Options with which a dead peer is not found by its silence while a test runs.
fn patient() -> QuicOptions {
    let mut options = options();
    options.idle_timeout = Duration::from_secs(60);
    options
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_stopped_is_found_again() {
    let ca = ca();
    let (one, two) = (Node::start(&ca, 1).await, Node::start(&ca, 2).await);
    one.meet(&two).await;
    let address = two.transport.address();
    two.transport.stop().await;
    until("the end is noticed", || one.stats().connected == 0).await;
    let again = Node::start_with(ca.issue(NodeId(2)).unwrap(), local(2, 2), &address, options()).await;
    one.reach(&again).await;
    again.reach(&one).await;
    assert_eq!(one.stats().reconnects, 1);
}

/// A node on a tokio runtime of its own, so that it can die without a word, as a killed process does.
struct Mortal {
    runtime: tokio::runtime::Runtime,
    node: Node,
}

impl Mortal {
    async fn start(credentials: Credentials, local: LocalNode, listen: &str, options: QuicOptions) -> Self {
        let listen = listen.to_owned();
        tokio::task::spawn_blocking(move || {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            let node = runtime.block_on(Node::start_with(credentials, local, &listen, options));
            Self { runtime, node }
        })
        .await
        .unwrap()
    }

    async fn kill(self) {
        tokio::task::spawn_blocking(move || {
            self.runtime.shutdown_timeout(Duration::from_secs(5));
            drop(self.node);
        })
        .await
        .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_and_restarted_peer_is_noticed_long_before_the_idle_timeout() {
    let ca = ca();
    for dials in [1, 2] {
        let one = Node::start_with(ca.issue(NodeId(1)).unwrap(), local(1, 1), "127.0.0.1:0", patient()).await;
        let credentials = ca.issue(NodeId(2)).unwrap();
        let two = Mortal::start(credentials.clone(), local(2, 1), "127.0.0.1:0", patient()).await;
        let address = two.node.transport.address();
        if dials == 1 {
            one.meet(&two.node).await;
        } else {
            two.node.meet(&one).await;
        }
        two.kill().await;
        assert_eq!(one.stats().connected, 1, "a death is silent");
        let again = Mortal::start(credentials, local(2, 2), &address, patient()).await;
        let begin = Instant::now();
        if dials == 2 {
            again.node.connect(&one);
        }
        one.reach(&again.node).await;
        assert!(begin.elapsed() < Duration::from_secs(5), "took {:?}", begin.elapsed());
        assert_eq!(one.stats().reconnects, 1);
        again.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_peer_is_found_by_its_silence() {
    let ca = ca();
    let mut brief = options();
    brief.idle_timeout = Duration::from_secs(1);
    let one = Node::start_with(ca.issue(NodeId(1)).unwrap(), local(1, 1), "127.0.0.1:0", brief).await;
    let two = Mortal::start(ca.issue(NodeId(2)).unwrap(), local(2, 1), "127.0.0.1:0", options()).await;
    one.meet(&two.node).await;
    two.kill().await;
    let begin = Instant::now();
    until("it is given up", || one.stats().connected == 0).await;
    assert!(begin.elapsed() < Duration::from_secs(5), "took {:?}", begin.elapsed());
    let dropped = one.stats().dropped;
    one.send(2, vec![vote(1, 2, 1)]);
    until("it is dropped", || one.stats().dropped > dropped).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_moved_is_found_at_its_new_address() {
    let ca = ca();
    let (one, two) = (Node::start(&ca, 1).await, Node::start(&ca, 2).await);
    one.meet(&two).await;
    // A wrong address does no harm while the old one works.
    one.transport.connect(NodeId(2), "127.0.0.1:9");
    one.reach(&two).await;
    let moved = Node::start_with(ca.issue(NodeId(2)).unwrap(), local(2, 2), "127.0.0.1:0", options()).await;
    one.connect(&moved);
    one.reach(&moved).await;
    moved.reach(&one).await;
    assert_eq!(one.stats().connected, 1);
    until("the old place is left", || two.stats().connected == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_with_another_data_folder_takes_the_place_of_the_former() {
    let ca = ca();
    let (one, two) = (Node::start(&ca, 1).await, Node::start(&ca, 2).await);
    one.meet(&two).await;
    let wiped = Peer { incarnation: raft_core::types::Incarnation(5), ..two.local.peer };
    let local = LocalNode { peer: wiped, ..local(2, 1) };
    let fresh = Node::start_with(ca.issue(NodeId(2)).unwrap(), local, "127.0.0.1:0", options()).await;
    fresh.connect(&one);
    until("the new one is the peer", || fresh.stats().connected == 1 && two.stats().connected == 0).await;
    let mut message = vote(2, 1, 5);
    message.from = wiped;
    until("it is heard", || {
        fresh.send(1, vec![message.clone()]);
        one.inbox.from(2).contains(&message)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_peer_is_cut_off_and_stays_out() {
    let ca = ca();
    let nodes = [Node::start(&ca, 1).await, Node::start(&ca, 2).await, Node::start(&ca, 3).await];
    let [one, two, three] = &nodes;
    one.meet(two).await;
    two.meet(one).await;
    one.meet(three).await;
    one.inbox.refuse(2);
    one.transport.disconnect(NodeId(2));
    assert_eq!(one.stats().connected, 1);
    let refused = one.stats().refused;
    until("it knocks and is refused", || one.stats().refused >= refused + 3).await;
    assert_eq!((one.stats().connected, two.stats().connected), (1, 0));
    two.send(1, vec![vote(2, 1, 1)]);
    one.reach(three).await;
    assert!(one.inbox.from(2).is_empty());
}

/// Credentials of `node` by `issuer`, for who trusts all of `authorities`.
fn trusting(issuer: &DevCa, node: u64, authorities: &[&DevCa]) -> Credentials {
    let (certificate, key) = issuer.issue_pem(NodeId(node)).unwrap();
    let authorities: String = authorities.iter().map(|ca| ca.ca_pem()).collect();
    Credentials::from_pem(&authorities, &certificate, &key).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_moves_to_another_authority_and_no_connection_ends() {
    let (old, new) = (ca(), ca());
    let (one, two) = (Node::start(&old, 1).await, Node::start(&old, 2).await);
    one.meet(&two).await;
    let newcomer = async |issuer: &DevCa, node: u64| {
        let credentials = trusting(issuer, node, &[&old, &new]);
        Node::start_with(credentials, local(node, 1), "127.0.0.1:0", options()).await
    };
    let refused = async |stranger: Node, by: &Node| {
        let before = by.stats().refused;
        stranger.connect(by);
        until("it is refused", || by.stats().refused > before).await;
        assert!(by.inbox.from(stranger.id()).is_empty());
        stranger.transport.stop().await;
    };
    // Who has a certificate of the other authority is foreign yet.
    refused(newcomer(&new, 3).await, &one).await;

    // First everybody trusts both, then everybody shows the new one, then nobody trusts the old one.
    for (issuer, authorities) in [(&old, [&old, &new].as_slice()), (&new, &[&old, &new]), (&new, &[&new])] {
        for node in [&one, &two] {
            node.transport.reload(trusting(issuer, node.id(), authorities)).unwrap();
        }
        one.reach(&two).await;
        two.reach(&one).await;
    }
    let three = newcomer(&new, 3).await;
    three.meet(&one).await;
    two.meet(&three).await;
    refused(newcomer(&old, 4).await, &two).await;

    one.reach(&two).await;
    two.reach(&one).await;
    let connected = || [&one, &two].map(|node| node.stats().connected);
    until("they are connected to each other and to the new one", || connected() == [2, 2]).await;
    assert_eq!(
        [&one, &two].map(|node| node.stats().reconnects),
        [0, 0],
        "the first connection is still there"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_nodes_credentials_are_not_taken_and_the_old_ones_stay() {
    let ca = ca();
    let (one, two) = (Node::start(&ca, 1).await, Node::start(&ca, 2).await);
    let elsewhere = DevCa::new(raft_core::types::ClusterId(1)).unwrap();
    for other in [ca.issue(NodeId(2)).unwrap(), elsewhere.issue(NodeId(1)).unwrap()] {
        let error = one.transport.reload(other).unwrap_err();
        assert!(error.to_string().contains("use the certificate issued for this node"), "{error}");
    }
    one.meet(&two).await;
}
