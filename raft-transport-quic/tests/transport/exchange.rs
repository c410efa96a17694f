//! What gets through, and in which order.

use std::time::{Duration, Instant};

use crate::common::{CLUSTER, Node, append, lanes, local, options, until, vote};
use crate::logs;
use raft_core::message::Message;
use raft_core::transport::Transport;
use raft_core::types::{ClusterId, NodeId, Payload};
use raft_transport_quic::{DevCa, QuicTransport};

fn ca() -> DevCa {
    DevCa::new(CLUSTER).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_lane_keeps_its_order_both_ways() {
    let ca = ca();
    let (one, two) = (Node::start(&ca, 1).await, Node::start(&ca, 2).await);
    one.meet(&two).await;
    two.meet(&one).await;
    for batch in 0..50 {
        for (from, to) in [(&one, 2), (&two, 1)] {
            let numbers = batch * 20 + 1..=batch * 20 + 20;
            let votes = numbers.clone().map(|n| vote(from.id(), to, n));
            let appends = numbers.map(|n| append(from.id(), to, n, 300));
            from.send(to, votes.zip(appends).flat_map(|(a, b)| [a, b]).collect());
        }
    }
    until("all is there", || one.inbox.from(2).len() == 2000 && two.inbox.from(1).len() == 2000).await;
    let expected: Vec<u64> = (1..=1000).collect();
    for received in [one.inbox.from(2), two.inbox.from(1)] {
        let (votes, indexes) = lanes(&received);
        assert_eq!(votes, expected);
        assert_eq!(indexes, expected);
    }
    for node in [&one, &two] {
        let stats = node.stats();
        assert_eq!((stats.connected, stats.malformed, stats.refused), (1, 0, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_who_all_dial_have_one_connection_per_pair() {
    let ca = ca();
    let nodes = [Node::start(&ca, 1).await, Node::start(&ca, 2).await, Node::start(&ca, 3).await];
    for from in &nodes {
        for to in nodes.iter().filter(|to| to.id() != from.id()) {
            from.connect(to);
        }
    }
    let mut number = 0;
    until("everybody hears everybody's latest", || {
        number += 1;
        for from in &nodes {
            for to in nodes.iter().filter(|to| to.id() != from.id()) {
                from.send(to.id(), vec![vote(from.id(), to.id(), number)]);
            }
        }
        nodes.iter().all(|to| {
            let others = nodes.iter().filter(|from| from.id() != to.id());
            others.into_iter().all(|from| lanes(&to.inbox.from(from.id())).0.last() >= Some(&number.min(20)))
        })
    })
    .await;
    // Where two dialed each other, one connection gives way; then nobody dials any more.
    let reconnects = || nodes.iter().map(|node| node.stats().reconnects).collect::<Vec<_>>();
    loop {
        let before = reconnects();
        let later = number + 100;
        until("messages go on", || {
            number += 1;
            nodes[0].send(2, vec![vote(1, 2, number)]);
            lanes(&nodes[1].inbox.from(1)).0.last() >= Some(&later)
        })
        .await;
        if reconnects() == before {
            break;
        }
        assert!(reconnects().iter().all(|count| *count <= 4), "they go on: {:?}", reconnects());
    }
    for node in &nodes {
        assert_eq!(node.stats().connected, 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_goes_over_the_connection_that_the_question_came_by() {
    let ca = ca();
    for (asking, answering) in [(1, 2), (2, 1)] {
        let (leader, fresh) = (Node::start(&ca, asking).await, Node::start(&ca, answering).await);
        leader.meet(&fresh).await;
        fresh.send(asking, vec![vote(answering, asking, 7)]);
        until("the answer is there", || leader.inbox.from(answering).len() == 1).await;
        assert_eq!(leader.inbox.from(answering), [vote(answering, asking, 7)]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_connection_is_dropped_and_counted() {
    let node = Node::start(&ca(), 1).await;
    node.send(2, vec![vote(1, 2, 1), vote(1, 2, 2)]);
    assert_eq!((node.stats().dropped, node.stats().sent), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_to_another_node_never_leaves() {
    let ca = ca();
    let (one, two) = (Node::start(&ca, 1).await, Node::start(&ca, 2).await);
    one.meet(&two).await;
    let dropped = one.stats().dropped;
    one.send(2, vec![vote(1, 3, 1), vote(3, 2, 2), vote(1, 2, 3)]);
    until("the right one arrives", || !two.inbox.from(1).is_empty()).await;
    assert_eq!(two.inbox.from(1), [vote(1, 2, 3)]);
    assert_eq!(one.stats().dropped - dropped, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_entries_arrive_whole_and_hold_no_vote_up() {
    const SIZE: usize = 24 << 20;
    let ca = ca();
    let (one, two) = (Node::start(&ca, 1).await, Node::start(&ca, 2).await);
    one.meet(&two).await;
    one.send(2, vec![append(1, 2, 1, SIZE)]);
    one.send(2, vec![vote(1, 2, 9)]);
    until("both are there", || two.inbox.from(1).len() == 2).await;
    let received = two.inbox.from(1);
    assert_eq!(received[0], vote(1, 2, 9), "the vote overtakes");
    let Message::AppendRequest(append) = &received[1].message else { panic!("is the append") };
    let Payload::Command(command) = &append.entries[0].payload else { panic!("is a command") };
    assert_eq!(command.len(), SIZE);
    assert!(command.iter().all(|byte| *byte == 1));
}

/// Otherwise each would have memory of its own.
#[tokio::test(flavor = "multi_thread")]
async fn commands_are_slices_of_the_frame_that_they_came_in() {
    const SIZE: usize = 1000;
    const ENTRY_HEADER: usize = 25;
    let ca = ca();
    let (one, two) = (Node::start(&ca, 1).await, Node::start(&ca, 2).await);
    one.meet(&two).await;
    let mut message = append(1, 2, 1, SIZE);
    let Message::AppendRequest(request) = &mut message.message else { panic!("is an append") };
    let first = request.entries[0].clone();
    request.entries = vec![first; 20];
    one.send(2, vec![message]);
    until("it is there", || two.inbox.from(1).len() == 1).await;
    let Message::AppendRequest(append) = &two.inbox.from(1)[0].message else { panic!("is the append") };
    let places: Vec<usize> = append
        .entries
        .iter()
        .map(|entry| match &entry.payload {
            Payload::Command(command) => command.as_ptr() as usize,
            other => panic!("is a command: {other:?}"),
        })
        .collect();
    assert!(places.windows(2).all(|pair| pair[1] - pair[0] == SIZE + ENTRY_HEADER), "{places:?}");
}

#[test]
fn a_system_that_gives_smaller_buffers_is_told_of_in_the_log() {
    const MORE_THAN_THERE_IS: usize = 1 << 30;
    logs::listen();
    let mut greedy = options();
    greedy.socket_buffer_bytes = MORE_THAN_THERE_IS;
    QuicTransport::bind("127.0.0.1:0", ca().issue(NodeId(1)).unwrap(), greedy).unwrap();
    assert!(logs::said(&["WARN", "asked=1073741824", "net.core.rmem_max"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_drops_counts_and_never_blocks() {
    let ca = ca();
    let mut small = options();
    small.append_queue_bytes = 256 << 10;
    let one = Node::start_with(ca.issue(NodeId(1)).unwrap(), local(1, 1), "127.0.0.1:0", small).await;
    let two = Node::start(&ca, 2).await;
    one.meet(&two).await;
    let dropped = one.stats().dropped;
    let begin = Instant::now();
    one.send(2, (1..=1000).map(|index| append(1, 2, index, 10_000)).collect());
    assert!(begin.elapsed() < Duration::from_secs(1), "sending waits for nothing");
    let dropped = one.stats().dropped - dropped;
    assert!((900..1000).contains(&dropped), "{dropped}");
    until("the rest arrives", || two.inbox.from(1).len() as u64 == 1000 - dropped).await;
    let (_, indexes) = lanes(&two.inbox.from(1));
    assert_eq!(indexes, (1..=1000 - dropped).collect::<Vec<_>>(), "the first ones, in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_sends_what_waits_delivers_nothing_more_and_frees_the_port() {
    let ca = ca();
    let (one, two) = (Node::start(&ca, 1).await, Node::start(&ca, 2).await);
    one.meet(&two).await;
    one.send(2, (1..=100).map(|index| append(1, 2, index, 1000)).collect());
    one.transport.stop().await;
    until("the last words arrive", || two.inbox.from(1).len() == 100).await;
    assert_eq!(one.stats().connected, 0);
    until("the peer notices", || two.stats().connected == 0).await;

    let heard = one.inbox.from(2).len();
    two.send(1, vec![vote(2, 1, 1)]);
    one.send(2, vec![vote(1, 2, 1)]);
    one.transport.stop().await;
    assert_eq!(one.inbox.from(2).len(), heard);
    let address = one.transport.address();
    let again = QuicTransport::bind(&address, ca.issue(NodeId(1)).unwrap(), options());
    assert_eq!(again.expect("the port is free").address(), address);
    let error = one.transport.start(local(1, 2), one.inbox.clone()).await.unwrap_err();
    assert!(error.to_string().contains("stopped"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_say_what_to_do() {
    let ca = ca();
    let credentials = || ca.issue(NodeId(1)).unwrap();
    let node = Node::start(&ca, 1).await;
    let busy = node.transport.address();
    for (listen, expected) in [
        (busy.as_str(), "the UDP port is in use"),
        (busy.as_str(), busy.as_str()),
        ("localhost", "give an IP address and a port"),
        ("0.0.0.0:0", "set QuicOptions::advertise"),
        ("192.0.2.1:0", "none of this machine's"),
    ] {
        let error = QuicTransport::bind(listen, credentials(), options()).unwrap_err();
        assert!(error.to_string().contains(expected), "{listen}: {error}");
    }
    let mut wrong = options();
    wrong.max_mtu = Some(9000);
    let error = QuicTransport::bind("127.0.0.1:0", credentials(), wrong).unwrap_err();
    assert!(error.to_string().contains("max_mtu"), "{error}");

    let mut advertised = options();
    advertised.advertise = Some("node-1.example:0".to_owned());
    let transport = QuicTransport::bind("0.0.0.0:0", credentials(), advertised).unwrap();
    let (host, port) =
        transport.address().rsplit_once(':').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    assert_eq!(host, "node-1.example");
    assert_ne!(port, "0");

    for (local, expected) in [
        (local(2, 1), "the certificate is node 1's and the data node 2's"),
        (raft_core::transport::LocalNode { cluster: ClusterId(1), ..local(1, 1) }, "of cluster"),
    ] {
        let error = transport.start(local, node.inbox.clone()).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
    transport.start(local(1, 1), node.inbox.clone()).await.expect("is still usable");
}
