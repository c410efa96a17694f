//! Peers of older versions and of a newer one, whoever dials. What the older ones say, and what they must be told, is kept here byte
//! for byte: it does not change when the code does.

use quinn::{Connection, RecvStream};
use raft_core::codec::wire;
use raft_core::message::Message;
use raft_core::transport::Transport;
use raft_core::types::{Lineage, NodeId, Payload};
use raft_transport_quic::DevCa;

use crate::common::{CLUSTER, LINEAGE, Node, append, local, until, vote};
use crate::stranger::{Impostor, RawHello, Stranger, good_papers};

/// What node 3 of an older version and node 1 say to each other, in hexadecimal digits.
struct Older {
    /// Whether it dials or answers.
    hello: &'static str,
    /// What node 1 answers where it is dialed.
    answer: &'static str,
    /// Lanes from their first byte on, each with a frame of one message.
    control: &'static str,
    append: &'static str,
    our_control: &'static str,
    our_append: &'static str,
    /// What is heard of its lineage.
    lineage: Lineage,
    takes_snapshots: bool,
}

/// The first version: neither lineage nor snapshots.
const VERSION_1: Older = Older {
    hello: concat!(
        "52414654",                         // RAFT
        "3400",                             // 52 bytes follow
        "01000100",                         // versions 1 to 1
        "ed5e0000000000000000000000000000", // cluster
        "0300000000000000",                 // node
        "eb03000000000000",                 // incarnation
        "0100000000000000",                 // boot
        "0100000000000000",                 // to node 1
    ),
    answer: concat!(
        "52414654",
        "3c00",
        "01000100",
        "ed5e0000000000000000000000000000",
        "0100000000000000",
        "e903000000000000",
        "0100000000000000",
        "0300000000000000",
        "6eea110000000000",
    ),
    control: concat!(
        "01",               // control
        "33000000d70fe226", // length, checksum
        "0100000000000000", // group
        "0300000000000000", // from
        "eb03000000000000",
        "0100000000000000", // to
        "e903000000000000",
        "02",               // an answer to a vote
        "0700000000000000", // term
        "0000",
    ),
    append: concat!(
        "02", // append
        "710000004d30d360",
        "0100000000000000",
        "0300000000000000",
        "eb03000000000000",
        "0100000000000000",
        "e903000000000000",
        "03",               // an append
        "0100000000000000", // term
        "01000000000000000400000000000000",
        "0000000000000000", // commit
        "0000000000000000", // round
        "01000000",         // one entry
        "06a6a9ce",
        "03000000",
        "01000000000000000500000000000000",
        "01", // a command
        "6f6c64",
    ),
    our_control: concat!(
        "01",
        "33000000aaac73b2",
        "0100000000000000",
        "0100000000000000",
        "e903000000000000",
        "0300000000000000",
        "eb03000000000000",
        "02",
        "0800000000000000",
        "0000",
    ),
    our_append: concat!(
        "02",
        "700000006d9a076a",
        "0100000000000000",
        "0100000000000000",
        "e903000000000000",
        "0300000000000000",
        "eb03000000000000",
        "03",
        "0100000000000000",
        "01000000000000000500000000000000",
        "0000000000000000",
        "0000000000000000",
        "01000000",
        "439aa082",
        "02000000",
        "01000000000000000600000000000000",
        "01",
        "0606",
    ),
    lineage: Lineage::UNKNOWN,
    takes_snapshots: false,
};

/// The version with lineages, and no changes of members, sessions or reads on followers yet.
const VERSION_2: Older = Older {
    hello: concat!(
        "52414654",                         // RAFT
        "3c00",                             // 60 bytes follow
        "01000200",                         // versions 1 to 2
        "ed5e0000000000000000000000000000", // cluster
        "0300000000000000",                 // node
        "eb03000000000000",                 // incarnation
        "0100000000000000",                 // boot
        "0100000000000000",                 // to node 1
        "6eea110000000000",                 // lineage
    ),
    answer: concat!(
        "52414654",
        "3c00",
        "02000200",
        "ed5e0000000000000000000000000000",
        "0100000000000000",
        "e903000000000000",
        "0100000000000000",
        "0300000000000000",
        "6eea110000000000",
    ),
    control: concat!(
        "01",               // control
        "3b000000da2f02e7", // length, checksum
        "0100000000000000", // group
        "0300000000000000", // from
        "eb03000000000000",
        "0100000000000000", // to
        "e903000000000000",
        "6eea110000000000", // lineage
        "02",               // an answer to a vote
        "0700000000000000", // term
        "0000",
    ),
    append: concat!(
        "02", // append
        "79000000a015fa87",
        "0100000000000000",
        "0300000000000000",
        "eb03000000000000",
        "0100000000000000",
        "e903000000000000",
        "6eea110000000000", // lineage
        "03",               // an append
        "0100000000000000", // term
        "01000000000000000400000000000000",
        "0000000000000000", // commit
        "0000000000000000", // round
        "01000000",         // one entry
        "06a6a9ce",
        "03000000",
        "01000000000000000500000000000000",
        "01", // a command
        "6f6c64",
    ),
    our_control: concat!(
        "01",
        "3b00000094165976",
        "0100000000000000",
        "0100000000000000",
        "e903000000000000",
        "0300000000000000",
        "eb03000000000000",
        "6eea110000000000", // lineage
        "02",
        "0800000000000000",
        "0000",
    ),
    our_append: concat!(
        "02",
        "78000000f153fd21",
        "0100000000000000",
        "0100000000000000",
        "e903000000000000",
        "0300000000000000",
        "eb03000000000000",
        "6eea110000000000", // lineage
        "03",
        "0100000000000000",
        "01000000000000000500000000000000",
        "0000000000000000",
        "0000000000000000",
        "01000000",
        "439aa082",
        "02000000",
        "01000000000000000600000000000000",
        "01",
        "0606",
    ),
    lineage: LINEAGE,
    takes_snapshots: true,
};

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// Reads a lane's beginning, as long as either of ours is.
async fn lane(connection: &Connection) -> (Vec<u8>, RecvStream) {
    let mut stream = connection.accept_uni().await.unwrap();
    let mut begin = vec![0; 9];
    stream.read_exact(&mut begin).await.unwrap();
    let mut body = vec![0; usize::from(begin[1])];
    stream.read_exact(&mut body).await.unwrap();
    begin.extend(body);
    (begin, stream)
}

/// Has `one` say something on each lane, which must be this.
async fn told_by(one: &Node, peer: &Connection, expected: [&str; 2]) -> [RecvStream; 2] {
    one.send(3, vec![vote(1, 3, 8), append(1, 3, 6, 2)]);
    let mut told = [lane(peer).await, lane(peer).await];
    told.sort_by_key(|(bytes, _)| bytes[0]);
    for ((told, _), expected) in told.iter().zip(expected) {
        assert_eq!(*told, bytes(expected));
    }
    told.map(|(_, stream)| stream)
}

impl Older {
    /// The older peer's part once it is let in: it says what it says, and must be told what it understands.
    async fn converse(&self, one: &Node, connection: &Connection) {
        let mut lanes = Vec::new();
        for said in [self.control, self.append] {
            let mut stream = connection.open_uni().await.unwrap();
            stream.write_all(&bytes(said)).await.unwrap();
            lanes.push(stream);
        }
        until("both messages are heard", || one.inbox.from(3).len() == 2).await;
        let heard = one.inbox.from(3);
        let (mut vote, mut entry) = (vote(3, 1, 7), append(3, 1, 5, 3));
        (vote.lineage, entry.lineage) = (self.lineage, self.lineage);
        let Message::AppendRequest(request) = &mut entry.message else { panic!("is one") };
        request.entries[0].payload = Payload::Command("old".into());
        assert!(heard.contains(&vote) && heard.contains(&entry), "{heard:?}");

        let _open = told_by(one, connection, [self.our_control, self.our_append]).await;

        match one.transport.open_snapshot(NodeId(3)).await {
            Ok(_) => assert!(self.takes_snapshots),
            Err(error) => {
                assert!(!self.takes_snapshots && error.to_string().contains("upgrade it"), "{error}");
            }
        }
        assert_eq!(connection.close_reason(), None);
        assert_eq!((one.stats().malformed, one.stats().refused), (0, 0));
    }

    async fn dials(&self) {
        let ca = DevCa::new(CLUSTER).unwrap();
        let one = Node::start(&ca, 1).await;
        let old = Stranger::dial(good_papers(&ca, 3), &one.transport.address()).await.unwrap();
        assert_eq!(old.hello(&bytes(self.hello)).await, Some(bytes(self.answer)));
        self.converse(&one, &old.connection).await;
    }

    /// It answers in its own version.
    async fn is_dialed(&self, answer: Vec<u8>) {
        let ca = DevCa::new(CLUSTER).unwrap();
        let one = Node::start(&ca, 1).await;
        let old = Impostor::start(good_papers(&ca, 3), answer);
        one.transport.connect(NodeId(3), &old.address());
        let connection = old.dialed().await;
        self.converse(&one, &connection).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_of_version_1_is_spoken_with_in_its_version() {
    VERSION_1.dials().await;
    VERSION_1.is_dialed(bytes(VERSION_1.hello)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_of_version_2_is_spoken_with_in_its_version() {
    VERSION_2.dials().await;
    let mut answer = bytes(VERSION_2.hello);
    answer[6] = 2;
    VERSION_2.is_dialed(answer).await;
}

/// What a newer peer says: another version beside ours, and more than we know.
fn new_hello(versions: (u16, u16)) -> Vec<u8> {
    let mut hello = RawHello { versions, local: local(3, 1), to: 1, lineage: Some(LINEAGE) }.bytes();
    hello.extend([0xff; 10]);
    hello[4] += 10;
    hello
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_peer_is_spoken_with_in_our_version() {
    const OURS: u16 = *wire::VERSIONS.end();
    let ca = DevCa::new(CLUSTER).unwrap();
    let one = Node::start(&ca, 1).await;
    let dialing = Stranger::dial(good_papers(&ca, 3), &one.transport.address()).await.unwrap();
    let answer = RawHello { versions: (OURS, OURS), local: local(1, 1), to: 3, lineage: Some(LINEAGE) };
    assert_eq!(dialing.hello(&new_hello((OURS, OURS + 1))).await, Some(answer.bytes()));
    until("it is a peer", || one.stats().connected == 1).await;
    one.transport.disconnect(NodeId(3));

    // One that is dialed takes the higher of what both know.
    let dialed = Impostor::start(good_papers(&ca, 3), new_hello((OURS, OURS)));
    one.transport.connect(NodeId(3), &dialed.address());
    let connection = dialed.dialed().await;
    until("it is a peer again", || one.stats().connected == 1).await;
    // These messages are the same in all versions from 2 on.
    let _open = told_by(&one, &connection, [VERSION_2.our_control, VERSION_2.our_append]).await;
    assert_eq!((one.stats().malformed, one.stats().refused), (0, 0));
}
