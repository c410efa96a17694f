//! Many at once who do not go on: half a handshake, a connection without a hello, streams without a word.
//!
//! `RAFT_FLOOD=5000` makes them so many.

use std::net::UdpSocket;
use std::time::Duration;

use quinn::Endpoint;
use raft_core::transport::Transport;
use raft_core::types::NodeId;
use raft_transport_quic::{DevCa, QuicOptions};
use rustls::client::Resumption;
use tokio::task::JoinSet;

use crate::common::{CLUSTER, LINEAGE, Node, local, options, until};
use crate::stranger::{RawHello, Stranger, good_papers};

const MALFORMED: u64 = 4;

fn many() -> usize {
    std::env::var("RAFT_FLOOD").map_or(300, |text| text.parse().unwrap())
}

/// A door that few can stand in at once, and not for long.
fn narrow() -> QuicOptions {
    let mut narrow = options();
    narrow.max_handshakes = 16;
    narrow.connect_timeout = Duration::from_secs(1);
    narrow
}

/// The first packets of so many handshakes, none of which goes on.
fn first_packets(ca: &DevCa, count: usize) -> Vec<Vec<u8>> {
    let nobody = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap();
    let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let config = Stranger::config(good_papers(ca, 3), Resumption::disabled());
    let mut buffer = [0; 2000];
    let begun: Vec<_> = (0..count)
        .map(|_| {
            let connecting = endpoint.connect_with(config.clone(), address, "anybody").unwrap();
            let length = tokio::task::block_in_place(|| nobody.recv(&mut buffer)).unwrap();
            (connecting, buffer[..length].to_vec())
        })
        .collect();
    begun.into_iter().map(|(_connecting, packet)| packet).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_half_handshakes_keeps_no_member_out() {
    let ca = DevCa::new(CLUSTER).unwrap();
    let credentials = ca.issue(NodeId(1)).unwrap();
    let one = Node::start_with(credentials, local(1, 1), "127.0.0.1:0", narrow()).await;
    let (two, four) = (Node::start(&ca, 2).await, Node::start(&ca, 4).await);
    two.meet(&one).await;
    let packets = first_packets(&ca, many() / 10);
    let address = one.transport.address();
    let flood = tokio::spawn(async move {
        // Each from ten addresses: an address alone is not held to be another node.
        let sockets: Vec<_> = (0..10).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        loop {
            for packet in &packets {
                for socket in &sockets {
                    socket.send_to(packet, &address).unwrap();
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    });
    // While it goes on, who is there stays, and who proves its address comes in.
    four.meet(&one).await;
    two.reach(&one).await;
    assert!(!flood.is_finished());
    flood.abort();
    assert_eq!(two.stats().reconnects, 0);
    assert_eq!(one.stats().connected, 2, "nobody else got in");
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_are_few_at_once_and_shown_out() {
    let ca = DevCa::new(CLUSTER).unwrap();
    let credentials = ca.issue(NodeId(1)).unwrap();
    let one = Node::start_with(credentials, local(1, 1), "127.0.0.1:0", narrow()).await;
    let (two, four) = (Node::start(&ca, 2).await, Node::start(&ca, 4).await);
    two.meet(&one).await;
    let mut idle = JoinSet::new();
    for _ in 0..many() {
        let (papers, address) = (good_papers(&ca, 3), one.transport.address());
        idle.spawn(async move {
            // A good certificate, and not a word: true where it got that far.
            match Stranger::dial(papers, &address).await {
                Ok(silent) => {
                    silent.connection.closed().await;
                    true
                }
                Err(_) => false,
            }
        });
    }
    four.meet(&one).await;
    let shown_out = idle.join_all().await;
    assert_eq!(shown_out.len(), many(), "none stays");
    assert!(shown_out.contains(&true), "some got as far as that");
    two.reach(&one).await;
    assert_eq!((one.stats().connected, two.stats().reconnects), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_has_one_connection_however_often_it_says_hello() {
    let ca = DevCa::new(CLUSTER).unwrap();
    let (one, two) = (Node::start(&ca, 1).await, Node::start(&ca, 2).await);
    two.meet(&one).await;
    let hello = RawHello { versions: (1, 2), local: local(3, 1), to: 1, lineage: Some(LINEAGE) }.bytes();
    let mut all = Vec::new();
    for number in 1..=many() / 5 {
        let stranger = Stranger::dial(good_papers(&ca, 3), &one.transport.address()).await.unwrap();
        assert!(stranger.hello(&hello).await.is_some());
        all.push(stranger);
        assert!(one.stats().connected <= 2, "after {number}");
    }
    let latest = all.pop().unwrap();
    for former in all {
        assert_eq!(former.close_code().await, 1, "another one is kept");
    }
    assert_eq!(latest.connection.close_reason(), None);
    assert_eq!((one.stats().connected, two.stats().reconnects), (2, 0));
}

/// Takes as long as a stream may stand still: ten seconds.
#[tokio::test(flavor = "multi_thread")]
async fn streams_that_do_not_go_on_end_their_connection() {
    let ca = DevCa::new(CLUSTER).unwrap();
    let mut patient = options();
    patient.idle_timeout = Duration::from_secs(60);
    let credentials = ca.issue(NodeId(1)).unwrap();
    let one = Node::start_with(credentials, local(1, 1), "127.0.0.1:0", patient).await;
    let two = Node::start(&ca, 2).await;
    two.meet(&one).await;
    // A stream without a byte is opened with the one after it.
    let cases: [(u64, &str, bool, &[u8]); 4] = [
        (3, "a lane that does not begin", false, &[2]),
        (4, "a frame that does not go on", false, &[1, 40, 0, 0, 0, 1]),
        (5, "a snapshot that does not begin", true, &[3]),
        (6, "a snapshot's frame that does not go on", true, &[3, 9, 0, 0, 0, 1]),
    ];
    let mut waiting = JoinSet::new();
    for (node, what, both_ways, bytes) in cases {
        let stranger = Stranger::dial(good_papers(&ca, node), &one.transport.address()).await.unwrap();
        let hello = RawHello { versions: (1, 2), local: local(node, 1), to: 1, lineage: Some(LINEAGE) };
        assert!(stranger.hello(&hello.bytes()).await.is_some(), "{what}");
        let connection = stranger.connection.clone();
        let mut snapshot = None;
        let begins = bytes.len() > 1;
        let mut opened = Vec::new();
        for _ in 0..if begins { 1 } else { 2 } {
            opened.push(if both_ways {
                let (send, receive) = connection.open_bi().await.unwrap();
                (send, Some(receive))
            } else {
                (connection.open_uni().await.unwrap(), None)
            });
        }
        opened.last_mut().unwrap().0.write_all(bytes).await.unwrap();
        if both_ways {
            snapshot = Some(one.inbox.next_snapshot(node).await);
        }
        waiting.spawn(async move {
            if let Some(stream) = &mut snapshot {
                assert!(stream.receive().await.is_err(), "{what}");
            }
            assert_eq!(stranger.close_code().await, MALFORMED, "{what}");
            drop(opened);
        });
    }
    waiting.join_all().await;
    until("each was counted", || one.stats().malformed == 4).await;
    assert_eq!((one.stats().connected, two.stats().reconnects), (1, 0));
}
