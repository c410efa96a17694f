//! Who is turned away, and that nobody else notices.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use raft_core::codec::wire;
use raft_core::transport::{LocalNode, Transport};
use raft_core::types::{ClusterId, Incarnation, NodeId, Peer};
use raft_transport_quic::{Credentials, CredentialsError, DevCa};
use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls_pki_types::ServerName;

use crate::common::{CLUSTER, LINEAGE, Node, append, local, options, peer, until, vote};
use crate::stranger::{RawHello, Stranger, good_papers, name, papers};

const MALFORMED: u64 = 4;

fn ca() -> DevCa {
    DevCa::new(CLUSTER).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shows_no_good_certificate_is_not_talked_to() {
    let ca = ca();
    let one = Node::start(&ca, 1).await;
    // The node at the address that is said to be node 3's is another one, or not of ours.
    let foreign = DevCa::new(CLUSTER).unwrap();
    let other_cluster = DevCa::new(ClusterId(1)).unwrap();
    let elsewhere = LocalNode { cluster: ClusterId(1), ..local(3, 1) };
    let start =
        async |credentials, local| Node::start_with(credentials, local, "127.0.0.1:0", options()).await;
    let impostors = [
        ("another node", Node::start(&ca, 2).await),
        ("a foreign authority", Node::start(&foreign, 3).await),
        ("another cluster", start(other_cluster.issue(NodeId(3)).unwrap(), elsewhere).await),
    ];
    for (what, impostor) in &impostors {
        let refused = one.stats().refused;
        one.transport.connect(NodeId(3), &impostor.transport.address());
        until(what, || one.stats().refused >= refused + 2).await;
        one.send(3, vec![vote(1, 3, 1)]);
        assert_eq!((one.stats().connected, one.stats().sent), (0, 0), "{what}");
        assert!(impostor.inbox.from(1).is_empty(), "{what}");
    }
    // Nobody speaks QUIC there, and nobody is there.
    let plain = UdpSocket::bind("127.0.0.1:0").unwrap();
    one.transport.connect(NodeId(3), &plain.local_addr().unwrap().to_string());
    let mut packet = [0; 2000];
    let count = tokio::task::spawn_blocking(move || plain.recv(&mut packet).map(|count| (count, packet)));
    let (count, packet) = count.await.unwrap().unwrap();
    assert!(
        !packet[..count].windows(4).any(|bytes| bytes == b"raft" || bytes == b"RAFT"),
        "not in plaintext"
    );
    one.transport.connect(NodeId(3), "no.such.host.invalid:7000");
    let three = Node::start(&ca, 3).await;
    one.meet(&three).await;
}

fn frame(envelopes: &[raft_core::message::Envelope]) -> Vec<u8> {
    let mut out = Vec::new();
    wire::encode_frame(2, envelopes, &mut out).unwrap();
    out
}

/// Cases of what a member of the cluster may send that is not in order.
fn bad_lanes() -> Vec<(&'static str, Vec<u8>, bool)> {
    let control = |bytes: &[u8]| [&[1], bytes].concat();
    let entries = |bytes: &[u8]| [&[2], bytes].concat();
    let mut damaged = frame(&[append(3, 1, 1, 100)]);
    *damaged.last_mut().unwrap() ^= 1;
    let other_incarnation = Peer { incarnation: Incarnation(1), ..peer(3) };
    let mut forged = vote(3, 1, 1);
    forged.from = other_incarnation;
    vec![
        ("a stream of unknown kind", vec![77], false),
        ("garbage", control(&[0xa5; 4000]), false),
        ("an oversize frame", entries(&[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]), false),
        ("a frame too large for its lane", control(&[0, 0, 0, 1, 0, 0, 0, 0]), false),
        ("a damaged frame", entries(&damaged), false),
        ("a frame cut off", entries(&frame(&[append(3, 1, 1, 100)])[..50]), true),
        ("another node's message", control(&frame(&[vote(2, 1, 66)])), false),
        ("another incarnation's message", control(&frame(&[forged])), false),
        ("a message to another node", control(&frame(&[vote(3, 2, 66)])), false),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_sends_garbage_is_cut_off_alone() {
    let ca = ca();
    let (one, two) = (Node::start(&ca, 1).await, Node::start(&ca, 2).await);
    one.meet(&two).await;
    let hello = RawHello { versions: (1, 2), local: local(3, 1), to: 1, lineage: Some(LINEAGE) }.bytes();
    for (number, (what, bytes, ends)) in bad_lanes().into_iter().enumerate() {
        let stranger = Stranger::dial(good_papers(&ca, 3), &one.transport.address()).await.unwrap();
        assert!(stranger.hello(&hello).await.is_some(), "{what}");
        let mut good = vec![1];
        good.extend(frame(&[vote(3, 1, 1)]));
        let _good = stranger.lane(&good).await;
        until("the good one is heard", || one.inbox.from(3).len() == number + 1).await;
        let mut lane = stranger.lane(&bytes).await;
        if ends {
            lane.finish().unwrap();
        }
        assert_eq!(stranger.close_code().await, MALFORMED, "{what}");
        until(what, || one.stats().malformed == number as u64 + 1).await;
        assert_eq!(one.inbox.from(3).len(), number + 1, "{what}: nothing of it is delivered");
        assert!(one.inbox.from(2).is_empty(), "{what}: nothing in another's name");
    }
    until("it is gone", || one.stats().connected == 1).await;
    two.reach(&one).await;
    assert_eq!(
        one.stats().reconnects,
        bad_lanes().len() as u64 - 1,
        "the good peer never lost its connection"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_quic_disturb_nobody() {
    let ca = ca();
    let (one, two) = (Node::start(&ca, 1).await, Node::start(&ca, 2).await);
    one.meet(&two).await;
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for size in 0..1400 {
        let packet: Vec<u8> = (0..size).map(|_| fastrand::u8(..)).collect();
        socket.send_to(&packet, one.transport.address()).unwrap();
        socket.send_to(b"GET / HTTP/1.1\r\n\r\n", one.transport.address()).unwrap();
    }
    two.reach(&one).await;
    assert_eq!((one.stats().connected, one.stats().reconnects, one.stats().malformed), (1, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_is_shown_out_and_leaves_room_for_others() {
    let ca = ca();
    let mut narrow = options();
    narrow.max_handshakes = 2;
    narrow.connect_timeout = Duration::from_millis(500);
    let credentials = ca.issue(NodeId(1)).unwrap();
    let one = Node::start_with(credentials, local(1, 1), "127.0.0.1:0", narrow).await;
    let first = Stranger::dial(good_papers(&ca, 3), &one.transport.address()).await.unwrap();
    let second = Stranger::dial(good_papers(&ca, 4), &one.transport.address()).await.unwrap();
    let refused = one.stats().refused;
    assert!(Stranger::dial(good_papers(&ca, 5), &one.transport.address()).await.is_err(), "there is no room");
    assert_eq!(one.stats().refused, refused + 1);
    for silent in [first, second] {
        assert_eq!(silent.close_code().await, 0);
    }
    let two = Node::start(&ca, 2).await;
    two.meet(&one).await;
}

/// Where a client keeps what would let it come back without being verified.
#[derive(Debug, Default)]
struct Tickets(AtomicUsize);

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, _: Tls13ClientSessionValue) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        None
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_a_ticket_to_come_back_with() {
    let ca = ca();
    let one = Node::start(&ca, 1).await;
    let tickets = Arc::new(Tickets::default());
    let config = Stranger::config(good_papers(&ca, 3), Resumption::store(Arc::clone(&tickets) as _));
    let hello = RawHello { versions: (1, 2), local: local(3, 1), to: 1, lineage: Some(LINEAGE) }.bytes();
    for _ in 0..2 {
        let stranger = Stranger::dial_with(config.clone(), &one.transport.address()).await.unwrap();
        assert!(stranger.hello(&hello).await.is_some());
        // Tickets come right after the handshake: what is heard now was sent after them.
        one.send(3, vec![vote(1, 3, 1)]);
        until("it is a peer", || one.stats().connected == 1).await;
        let mut lane = stranger.connection.accept_uni().await.unwrap();
        lane.read_exact(&mut [0]).await.unwrap();
        assert_eq!(tickets.0.load(Ordering::Relaxed), 0);
    }

    // The client's own store, which would take one: there is no going on without a whole handshake.
    let config = Stranger::config(good_papers(&ca, 3), Resumption::in_memory_sessions(8));
    let stranger = Stranger::dial_with(config.clone(), &one.transport.address()).await.unwrap();
    assert!(stranger.hello(&hello).await.is_some());
    drop(stranger);
    assert!(Stranger::early(config, &one.transport.address()).is_none(), "0-RTT");
}

#[test]
fn credentials_say_what_is_wrong_with_them() {
    let ca = ca();
    let (certificate, key) = ca.issue_pem(NodeId(1)).unwrap();
    let (_, other_key) = ca.issue_pem(NodeId(1)).unwrap();
    let foreign = DevCa::new(CLUSTER).unwrap();
    let read =
        |ca: &str, certificate: &str, key: &str| Credentials::from_pem(ca, certificate, key).unwrap_err();
    assert_eq!(read(ca.ca_pem(), &certificate, &other_key), CredentialsError::KeyMismatch);
    for (error, expected) in [
        (read("", &certificate, &key), "ca.pem is not usable: it holds no certificate"),
        (read(ca.ca_pem(), "nothing", &key), "node.pem is not usable: it holds no certificate"),
        (read(ca.ca_pem(), &certificate, &certificate), "node.key is not usable: it holds no private key"),
        (read(foreign.ca_pem(), &certificate, &key), "node.pem is not valid under ca.pem"),
        (read(ca.ca_pem(), ca.ca_pem(), &ca.ca_key_pem()), "node.pem is not valid under ca.pem"),
    ] {
        assert!(error.to_string().starts_with(expected), "{error}");
    }
    for ((certificate, key), expected) in [
        (papers(&ca, &name(CLUSTER, 1), (2001, 2002)).unwrap(), "expired"),
        (papers(&ca, &name(CLUSTER, 1), (2080, 2090)).unwrap(), "not valid yet"),
        (papers(&ca, "raft://1/node/1", (2020, 2090)).unwrap(), "is not of the form"),
        (papers(&ca, "https://example.org", (2020, 2090)).unwrap(), "carries no name"),
    ] {
        let error = read(ca.ca_pem(), &certificate, &key).to_string();
        assert!(error.contains(expected), "{error}");
    }

    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.pem"), ca.ca_pem()).unwrap();
    std::fs::write(folder.path().join("node.pem"), &certificate).unwrap();
    let error = Credentials::load(folder.path()).unwrap_err().to_string();
    assert!(error.contains("node.key") && error.contains("cannot read"), "{error}");
    std::fs::write(folder.path().join("node.key"), &key).unwrap();
    let credentials = Credentials::load(folder.path()).unwrap();
    assert_eq!((credentials.cluster(), credentials.node()), (CLUSTER, NodeId(1)));
    assert!(!format!("{credentials:?}").contains("PRIVATE"));
}

#[test]
fn a_development_authority_can_be_taken_up_again() {
    let ca = ca();
    let again = DevCa::from_pem(ca.ca_pem(), &ca.ca_key_pem()).unwrap();
    assert_eq!(again.cluster(), CLUSTER);
    let (certificate, key) = again.issue_pem(NodeId(8)).unwrap();
    assert_eq!(Credentials::from_pem(ca.ca_pem(), &certificate, &key).unwrap().node(), NodeId(8));
    let foreign = DevCa::new(CLUSTER).unwrap();
    assert!(DevCa::from_pem(ca.ca_pem(), &foreign.ca_key_pem()).is_err(), "another authority's key");
    assert!(DevCa::from_pem(&certificate, &key).is_err(), "a node is no authority");
}
