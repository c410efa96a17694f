//! Streams for snapshots: beside the lanes, in order, bounded.

use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_core::transport::{MAX_SNAPSHOT_FRAME_BYTES, SnapshotStream, Transport};
use raft_core::types::NodeId;
use raft_transport_quic::DevCa;
use tokio::net::UdpSocket;

use crate::common::{CLUSTER, Node, local, options, until, vote};
use crate::stranger::{RawHello, Stranger, good_papers};

const MALFORMED: u64 = 4;
const BROKEN: u64 = 5;
/// How many snapshots go from one node to another at once.
const AT_ONCE: usize = 4;

async fn pair() -> (DevCa, Node, Node) {
    let ca = DevCa::new(CLUSTER).unwrap();
    let (one, two) = (Node::start(&ca, 1).await, Node::start(&ca, 2).await);
    one.meet(&two).await;
    (ca, one, two)
}

async fn open(from: &Node, to: u64) -> Box<dyn SnapshotStream> {
    from.transport.open_snapshot(NodeId(to)).await.unwrap()
}

fn frame(number: usize, size: usize) -> Bytes {
    (0..size).map(|at| (at * 7 + number) as u8).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_arrive_whole_and_in_order_both_ways() {
    let (_ca, one, two) = pair().await;
    // Whoever dialed: both ends can open one.
    for (from, to) in [(&one, &two), (&two, &one)] {
        let mut sender = open(from, to.id()).await;
        let mut receiver = to.inbox.next_snapshot(from.id()).await;
        let sizes = [1, 2, 100_000, MAX_SNAPSHOT_FRAME_BYTES, 3, MAX_SNAPSHOT_FRAME_BYTES, 65_536];
        let sending = tokio::spawn(async move {
            for (number, size) in sizes.into_iter().enumerate() {
                sender.send(frame(number, size)).await.unwrap();
            }
            sender.finish().await.unwrap();
            assert!(sender.send(frame(9, 9)).await.is_err(), "it was finished");
            assert_eq!(sender.receive().await.unwrap(), Some(frame(7, 70)));
            assert_eq!(sender.receive().await.unwrap(), None);
        });
        for (number, size) in sizes.into_iter().enumerate() {
            assert_eq!(receiver.receive().await.unwrap(), Some(frame(number, size)));
        }
        assert_eq!(receiver.receive().await.unwrap(), None);
        assert_eq!(receiver.receive().await.unwrap(), None);
        receiver.send(frame(7, 70)).await.unwrap();
        receiver.finish().await.unwrap();
        sending.await.unwrap();
        let bytes = sizes.iter().sum::<usize>() as u64;
        assert!(from.stats().snapshot_sent_bytes >= bytes && to.stats().snapshot_received_bytes >= bytes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_too_small_or_too_large_is_not_sent() {
    let (_ca, one, two) = pair().await;
    let mut sender = open(&one, 2).await;
    for size in [0, MAX_SNAPSHOT_FRAME_BYTES + 1] {
        let error = sender.send(frame(1, size)).await.unwrap_err();
        assert!(error.to_string().contains("cannot be sent"), "{error}");
    }
    sender.send(frame(1, 10)).await.unwrap();
    let mut receiver = two.inbox.next_snapshot(1).await;
    assert_eq!(receiver.receive().await.unwrap(), Some(frame(1, 10)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_end_breaks_the_stream_and_nothing_else() {
    let (_ca, one, two) = pair().await;
    for sender_goes in [true, false] {
        let mut sender = open(&one, 2).await;
        sender.send(frame(1, 10)).await.unwrap();
        let mut receiver = two.inbox.next_snapshot(1).await;
        assert_eq!(receiver.receive().await.unwrap(), Some(frame(1, 10)));
        let mut left = if sender_goes {
            drop(sender);
            receiver
        } else {
            drop(receiver);
            sender
        };
        let error = left.receive().await.unwrap_err();
        assert!(error.to_string().contains("broken"), "{error}");
        // Sending finds it out too, at the latest when the window is full.
        let error = async {
            loop {
                if let Err(error) = left.send(frame(2, 100_000)).await {
                    break error;
                }
            }
        };
        let error = error.await;
        assert!(error.to_string().contains("broken"), "{error}");
    }
    one.reach(&two).await;
    assert_eq!((one.stats().reconnects, one.stats().malformed, two.stats().malformed), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_receive_loses_nothing() {
    let (_ca, one, two) = pair().await;
    let mut sender = open(&one, 2).await;
    let mut receiver = two.inbox.next_snapshot(1).await;
    let sending = tokio::spawn(async move {
        for number in 0..50 {
            sender.send(frame(number, 200_000)).await.unwrap();
        }
        sender.finish().await.unwrap();
        sender
    });
    let mut number = 0;
    loop {
        // Drops the future after a single poll, mostly within a frame.
        tokio::select! {
            biased;
            received = receiver.receive() => match received.unwrap() {
                Some(received) => {
                    assert_eq!(received, frame(number, 200_000));
                    number += 1;
                }
                None => break,
            },
            () = tokio::task::yield_now() => {}
        }
    }
    assert_eq!(number, 50);
    sending.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_that_nobody_reads_hold_no_message_up() {
    let (_ca, one, two) = pair().await;
    let mut senders = Vec::new();
    for _ in 0..AT_ONCE {
        let mut sender = open(&one, 2).await;
        senders.push(tokio::spawn(async move {
            loop {
                if sender.send(frame(1, MAX_SNAPSHOT_FRAME_BYTES)).await.is_err() {
                    return;
                }
            }
        }));
    }
    let mut receivers = Vec::new();
    for _ in 0..AT_ONCE {
        receivers.push(two.inbox.next_snapshot(1).await);
    }
    let mut sent = 0;
    loop {
        // Until the windows are full.
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        let now = one.stats().snapshot_sent_bytes;
        if now > 0 && now == sent {
            break;
        }
        sent = now;
    }
    assert!(sent < 16 << 20, "what is on the way is bounded: {sent}");
    one.reach(&two).await;
    one.send(2, (1..=100).map(|index| crate::common::append(1, 2, index, 100_000)).collect());
    until("entries get through", || two.inbox.from(1).len() == 100).await;
    drop(receivers);
    for sender in senders {
        sender.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_takes_few_snapshots_at_once() {
    let ca = DevCa::new(CLUSTER).unwrap();
    let mut brief = options();
    brief.connect_timeout = std::time::Duration::from_millis(300);
    let credentials = ca.issue(NodeId(1)).unwrap();
    let one = Node::start_with(credentials, local(1, 1), "127.0.0.1:0", brief).await;
    let two = Node::start(&ca, 2).await;
    one.meet(&two).await;
    let mut held = Vec::new();
    for _ in 0..AT_ONCE {
        held.push((open(&one, 2).await, two.inbox.next_snapshot(1).await));
    }
    let Err(error) = one.transport.open_snapshot(NodeId(2)).await else {
        panic!("there is room for one more")
    };
    assert!(error.to_string().contains("no more snapshots now"), "{error}");
    drop(held);
    let mut third = open(&one, 2).await;
    third.send(frame(3, 30)).await.unwrap();
    let mut received = two.inbox.next_snapshot(1).await;
    assert_eq!(received.receive().await.unwrap(), Some(frame(3, 30)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_breaks_with_its_connection() {
    let (_ca, one, two) = pair().await;
    let mut sender = open(&one, 2).await;
    let mut receiver = two.inbox.next_snapshot(1).await;
    two.transport.disconnect(NodeId(1));
    assert!(receiver.receive().await.is_err());
    assert!(sender.receive().await.is_err());
    assert!(receiver.send(frame(1, 1)).await.is_err());
    let Err(error) = one.transport.open_snapshot(NodeId(9)).await else { panic!("nobody is there") };
    assert!(error.to_string().contains("not connected"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dial_that_comes_late_breaks_nothing() {
    let ca = DevCa::new(CLUSTER).unwrap();
    let mut patient = options();
    patient.connect_timeout = Duration::from_secs(2);
    let one =
        Node::start_with(ca.issue(NodeId(1)).unwrap(), local(1, 1), "127.0.0.1:0", patient.clone()).await;
    // A node that is being started: its port is there, and nobody answers yet.
    let port = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = port.local_addr().unwrap().to_string();
    one.transport.connect(NodeId(2), &address);
    port.recv_from(&mut [0; 2048]).await.unwrap();
    let dialed = Instant::now();
    drop(port);
    let two = Node::start_with(ca.issue(NodeId(2)).unwrap(), local(2, 1), &address, options()).await;
    two.meet(&one).await;
    let mut sender = open(&one, 2).await;
    let mut receiver = two.inbox.next_snapshot(1).await;
    // While the dial asks again, is answered, and would be the one to keep.
    for number in 0.. {
        sender.send(frame(number, 10_000)).await.unwrap();
        assert_eq!(receiver.receive().await.unwrap(), Some(frame(number, 10_000)));
        if dialed.elapsed() > patient.connect_timeout {
            break;
        }
    }
    assert_eq!((one.stats().reconnects, two.stats().reconnects), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_sends_no_frames_is_cut_off() {
    let (ca, one, two) = pair().await;
    let hello = RawHello { versions: (1, 2), local: local(3, 1), to: 1, lineage: Some(Default::default()) };
    let cases: [(&str, &[u8], bool); 4] = [
        ("a stream of unknown kind", &[7], false),
        ("more taken than sent", &[3, 5, 0, 0, 0x80], true),
        ("a frame too large", &[3, 1, 0, 16, 0, 9, 9], true),
        ("a frame cut off", &[3, 9, 0, 0, 0, 1, 2], true),
    ];
    for (number, (what, bytes, reaches_the_inbox)) in cases.into_iter().enumerate() {
        let stranger = Stranger::dial(good_papers(&ca, 3), &one.transport.address()).await.unwrap();
        assert!(stranger.hello(&hello.bytes()).await.is_some(), "{what}");
        let (mut send, _receive) = stranger.connection.open_bi().await.unwrap();
        send.write_all(bytes).await.unwrap();
        send.finish().unwrap();
        if reaches_the_inbox {
            assert!(one.inbox.next_snapshot(3).await.receive().await.is_err(), "{what}");
        }
        assert_eq!(stranger.close_code().await, MALFORMED, "{what}");
        until(what, || one.stats().malformed == number as u64 + 1).await;
    }
    two.reach(&one).await;
    assert_eq!(two.stats().reconnects, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_of_version_1_gets_messages_and_no_snapshot() {
    let ca = DevCa::new(CLUSTER).unwrap();
    let one = Node::start(&ca, 1).await;
    let stranger = Stranger::dial(good_papers(&ca, 3), &one.transport.address()).await.unwrap();
    let old = RawHello { versions: (1, 1), local: local(3, 1), to: 1, lineage: None };
    let answer = stranger.hello(&old.bytes()).await.unwrap();
    assert_eq!(answer[6..10], [1, 0, 1, 0], "speaks version 1");
    until("it is a peer", || one.stats().connected == 1).await;
    let Err(error) = one.transport.open_snapshot(NodeId(3)).await else { panic!("it knows none") };
    assert!(error.to_string().contains("upgrade it"), "{error}");
    one.send(3, vec![vote(1, 3, 1)]);
    let mut lane = stranger.connection.accept_uni().await.unwrap();
    let mut tag = [0];
    lane.read_exact(&mut tag).await.unwrap();
    assert!([1, 2].contains(&tag[0]), "a lane");

    // A refused stream tells its code, which is not the connection's.
    let new = Stranger::dial(good_papers(&ca, 4), &one.transport.address()).await.unwrap();
    let hello = RawHello { versions: (1, 2), local: local(4, 1), to: 1, lineage: Some(Default::default()) };
    new.hello(&hello.bytes()).await.unwrap();
    let (mut send, mut receive) = new.connection.open_bi().await.unwrap();
    send.write_all(&[3]).await.unwrap();
    drop(one.inbox.next_snapshot(4).await);
    let quinn::ReadError::Reset(code) = receive.read(&mut tag).await.unwrap_err() else { panic!("is reset") };
    assert_eq!(code.into_inner(), BROKEN);
    assert!(new.connection.close_reason().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ends_send_much_before_either_takes() {
    let (_ca, one, two) = pair().await;
    let mut ends = [open(&one, 2).await, two.inbox.next_snapshot(1).await];
    let [one, two] = &mut ends;
    // More than the window, so that the one that takes nothing yet keeps what comes, and lets the other one's word through.
    tokio::join!(
        async {
            send_some(one, 20).await;
            receive_some(one, 2).await;
        },
        async {
            send_some(two, 2).await;
            receive_some(two, 20).await;
        }
    );
}

async fn receive_some(end: &mut Box<dyn SnapshotStream>, count: usize) {
    for number in 0..count {
        assert_eq!(end.receive().await.unwrap(), Some(frame(number, 400_000)));
    }
    assert_eq!(end.receive().await.unwrap(), None);
}

async fn send_some(end: &mut Box<dyn SnapshotStream>, count: usize) {
    for number in 0..count {
        end.send(frame(number, 400_000)).await.unwrap();
    }
    end.finish().await.unwrap();
}
