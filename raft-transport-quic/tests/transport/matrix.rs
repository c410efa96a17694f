//! The matrix of refused doors: who is refused, whoever dials; with which reason in our log; and what they are told, which is none.

use quinn::ConnectionError;
use raft_core::codec::wire;
use raft_core::transport::{LocalNode, Transport};
use raft_core::types::{ClusterId, Incarnation, Lineage, NodeId, Peer};
use raft_transport_quic::DevCa;

use crate::common::{CLUSTER, LINEAGE, Node, local, peer, until};
use crate::logs;
use crate::stranger::{Impostor, Papers, RawHello, Stranger, good_papers, name, papers, papers_of};

const OURS: u16 = *wire::VERSIONS.end();

const REFUSED: u64 = 2;
const VERSION: u64 = 3;
const MALFORMED: u64 = 4;

/// What the other end is told.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Told {
    /// An alert of TLS.
    Alert,
    /// The code that the connection is closed with.
    Code(u64),
}

impl Told {
    fn check(self, what: &str, error: &ConnectionError) {
        match (self, error) {
            (Self::Alert, ConnectionError::ConnectionClosed(close)) => {
                assert!((0x100..0x200).contains(&u64::from(close.error_code)), "{what}: {close}");
                let told = String::from_utf8_lossy(&close.reason);
                for ours in ["raft:", "expired", "cluster", "node", "issuer", "Issuer"] {
                    assert!(!told.contains(ours), "{what}: told {told}");
                }
            }
            (Self::Code(code), ConnectionError::ApplicationClosed(close)) => {
                assert_eq!(close.error_code.into_inner(), code, "{what}");
                // Who has proved to be a node of the cluster is told what speaks against it; nobody else is.
                assert_eq!(
                    !close.reason.is_empty(),
                    what == "of another lineage",
                    "{what}: the reason is nobody else's business"
                );
            }
            _ => panic!("{what}: told {error}"),
        }
    }
}

struct Case {
    what: &'static str,
    papers: Papers,
    /// What it says where the certificate is good.
    hello: Vec<u8>,
    told: Told,
    /// Our reason where it dials us, and where we dial it as node 3; empty where that cannot be.
    reasons: [&'static str; 2],
}

fn certificates(ca: &DevCa) -> Vec<Case> {
    let foreign = DevCa::new(CLUSTER).unwrap();
    let valid = (2020, 2090);
    let three = name(CLUSTER, 3);
    let client = format!("raft://{CLUSTER}/client/3");
    let of_another = name(ClusterId(1), 3);
    let good = hello(3).bytes();
    let case = |what, papers, reasons| Case { what, papers, hello: good.clone(), told: Told::Alert, reasons };
    let found = "found raft://";
    vec![
        case("no certificate", None, ["certificate", ""]),
        case("a foreign authority", good_papers(&foreign, 3), ["BadSignature", "BadSignature"]),
        case("another cluster", papers(ca, &of_another, valid), ["is of another cluster", found]),
        case("expired", papers(ca, &three, (2001, 2002)), ["expired", "expired"]),
        case("not yet valid", papers(ca, &three, (2080, 2090)), ["not valid yet", "not valid yet"]),
        case("a client", papers(ca, &client, valid), ["is not of the form", "is not of the form"]),
        case("no name", papers_of(ca, &[], valid), ["carries no name", "carries no name"]),
        case("a web site", papers(ca, "https://example.org", valid), ["carries no name", "carries no name"]),
        case(
            "two names",
            papers_of(ca, &[&three, &name(CLUSTER, 4)], valid),
            ["more than one", "more than one"],
        ),
        case("our own name", good_papers(ca, 1), ["is our own name", found]),
        case("another node", good_papers(ca, 4), ["", found]),
    ]
}

fn hello(node: u64) -> RawHello {
    RawHello { versions: (2, 2), local: local(node, 1), to: 1, lineage: Some(LINEAGE) }
}

fn hellos(ca: &DevCa) -> Vec<Case> {
    let good = hello(3);
    let nameless = LocalNode { peer: Peer { incarnation: Incarnation::UNKNOWN, ..peer(3) }, ..local(3, 1) };
    let foreign = LocalNode { cluster: ClusterId(1), ..local(3, 1) };
    let mut long = good.bytes();
    long[5] = 0xff;
    let case = |what, hello: Vec<u8>, code, reasons| Case {
        what,
        papers: good_papers(ca, 3),
        hello,
        told: Told::Code(code),
        reasons,
    };
    let both = |reason| [reason, reason];
    let speaks = |versions| RawHello { versions, ..good }.bytes();
    vec![
        case(
            "another node's",
            RawHello { local: local(4, 1), ..good }.bytes(),
            REFUSED,
            both("claims to be node 4"),
        ),
        case(
            "another cluster's",
            RawHello { local: foreign, ..good }.bytes(),
            REFUSED,
            both("it is of cluster"),
        ),
        case("to another node", RawHello { to: 2, ..good }.bytes(), REFUSED, both("talk to node 2")),
        case(
            "of another lineage",
            RawHello { lineage: Some(Lineage(13)), ..good }.bytes(),
            REFUSED,
            both("lineage"),
        ),
        case(
            "of later versions",
            speaks((OURS + 1, 9)),
            VERSION,
            ["speaks the versions 5 to 9, and we 1 to 4", "answered in version 9"],
        ),
        case(
            "of earlier versions",
            speaks((0, 0)),
            VERSION,
            ["speaks the versions 0 to 0", "answered in version 0"],
        ),
        case(
            "of no version",
            speaks((2, 1)),
            VERSION,
            ["speaks the versions 2 to 1", "answered in version 1"],
        ),
        case(
            "without incarnation",
            RawHello { local: nameless, ..good }.bytes(),
            MALFORMED,
            both("no incarnation"),
        ),
        case("without lineage", RawHello { lineage: None, ..good }.bytes(), MALFORMED, both("no lineage")),
        case("too long", long, MALFORMED, both("the hello is none")),
        case("cut off", good.bytes()[..30].to_vec(), MALFORMED, both("ended too early")),
        case("plain text", b"GET / HTTP/1.1\r\n\r\n".to_vec(), MALFORMED, both("the hello is none")),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_door_refuses_with_a_reason_here_and_a_plain_close_there() {
    logs::listen();
    let ca = DevCa::new(CLUSTER).unwrap();
    let (one, two) = (Node::start(&ca, 1).await, Node::start(&ca, 2).await);
    one.meet(&two).await;
    one.inbox.refuse_lineage(Lineage(13));
    let mut doors = 0;
    for Case { what, papers, hello, told, reasons: [dialed, dialing] } in
        certificates(&ca).into_iter().chain(hellos(&ca))
    {
        let counted = |before: (u64, u64)| {
            let stats = one.stats();
            (stats.refused - before.0, stats.malformed - before.1)
        };
        let expected = if told == Told::Code(MALFORMED) { (0, 1) } else { (1, 0) };
        if !dialed.is_empty() {
            doors += 1;
            let before = (one.stats().refused, one.stats().malformed);
            // TLS 1.3 lets the one who dials believe that it is through before its certificate is looked at.
            let (error, from) = Stranger::knock(papers.clone(), &hello, &one.transport.address()).await;
            told.check(what, &error);
            until(what, || logs::said(&["not taken", &format!("from={from}"), dialed])).await;
            assert_eq!(counted(before), expected, "{what}");
        }
        if !dialing.is_empty() {
            doors += 1;
            let before = (one.stats().refused, one.stats().malformed);
            let impostor = Impostor::start(papers, hello);
            one.transport.connect(NodeId(3), &impostor.address());
            until(what, || logs::said(&["not connected", &impostor.address(), dialing])).await;
            told.check(what, &impostor.told().await);
            let (refused, malformed) = counted(before);
            assert!((refused > 0, malformed > 0) == (expected.0 > 0, expected.1 > 0), "{what}");
            one.transport.disconnect(NodeId(3));
        }
        assert_eq!(one.stats().connected, 1, "{what}");
    }
    assert_eq!(doors, 44, "of the matrix");
    two.reach(&one).await;
    assert_eq!((two.stats().reconnects, one.stats().reconnects), (0, 0), "nobody else noticed");

    // The same peer with a good hello, which knows a later version too, gets in and its answer.
    let stranger = Stranger::dial(good_papers(&ca, 3), &one.transport.address()).await.unwrap();
    let answer = stranger.hello(&RawHello { versions: (1, 7), ..hello(3) }.bytes()).await;
    let expected = RawHello { versions: (OURS, OURS), local: local(1, 1), to: 3, lineage: Some(LINEAGE) };
    assert_eq!(answer, Some(expected.bytes()));
    until("it is a peer", || one.stats().connected == 2).await;
    assert_eq!((one.inbox.lineage_of(3), one.inbox.lineage_of(2)), (Some(LINEAGE), Some(LINEAGE)));
}
