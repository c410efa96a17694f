//! Peers of an older version and of a newer one, whoever dials. What the older one says, and what it must be told, is kept here byte
//! for byte: it does not change when the code does.

use quinn::{Connection, RecvStream};
use raft_core::transport::Transport;
use raft_core::types::{Lineage, NodeId};
use raft_transport_quic::DevCa;

use crate::common::{CLUSTER, LINEAGE, Node, append, local, until, vote};
use crate::stranger::{Impostor, RawHello, Stranger, good_papers};

/// What node 3 of version 1 says to node 1: whether it dials or answers.
const OLD_HELLO: &str = concat!(
    "52414654",                         // RAFT
    "3400",                             // 52 bytes follow
    "01000100",                         // versions 1 to 1
    "ed5e0000000000000000000000000000", // cluster
    "0300000000000000",                 // node
    "eb03000000000000",                 // incarnation
    "0100000000000000",                 // boot
    "0100000000000000",                 // to node 1
);

/// What node 1 answers: version 1, and a lineage that such a peer skips.
const OUR_ANSWER: &str = concat!(
    "52414654",
    "3c00",
    "01000100",
    "ed5e0000000000000000000000000000",
    "0100000000000000",
    "e903000000000000",
    "0100000000000000",
    "0300000000000000",
    "6eea110000000000",
);

/// Lanes of version 1, from their first byte on, each with a frame of one message.
const OLD_CONTROL: &str = concat!(
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
);
const OLD_APPEND: &str = concat!(
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
);
const OUR_CONTROL: &str = concat!(
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
);
const OUR_APPEND: &str = concat!(
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
);

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

/// The lanes of `one`, with a message on each.
async fn told_by(one: &Node, peer: &Connection) -> [Vec<u8>; 2] {
    one.send(3, vec![vote(1, 3, 8), append(1, 3, 6, 2)]);
    let mut told = [lane(peer).await, lane(peer).await];
    told.sort_by_key(|(bytes, _)| bytes[0]);
    told.map(|(bytes, _)| bytes)
}

/// The old peer's part once it is let in: it says what it says, and must be told what it understands.
async fn converse(one: &Node, old: &Connection) {
    let mut lanes = Vec::new();
    for said in [OLD_CONTROL, OLD_APPEND] {
        let mut stream = old.open_uni().await.unwrap();
        stream.write_all(&bytes(said)).await.unwrap();
        lanes.push(stream);
    }
    until("both messages are heard", || one.inbox.from(3).len() == 2).await;
    let heard = one.inbox.from(3);
    let unknown = |envelope| raft_core::message::Envelope { lineage: Lineage::UNKNOWN, ..envelope };
    assert!(heard.contains(&unknown(vote(3, 1, 7))), "{heard:?}");
    let mut entry = unknown(append(3, 1, 5, 3));
    let raft_core::message::Message::AppendRequest(request) = &mut entry.message else { panic!("is one") };
    request.entries[0].payload = raft_core::types::Payload::Command("old".into());
    assert!(heard.contains(&entry), "{heard:?}");

    assert_eq!(told_by(one, old).await, [bytes(OUR_CONTROL), bytes(OUR_APPEND)]);

    let Err(error) = one.transport.open_snapshot(NodeId(3)).await else { panic!("it knows none") };
    assert!(error.to_string().contains("upgrade it"), "{error}");
    assert_eq!(old.close_reason(), None);
    assert_eq!((one.stats().malformed, one.stats().refused), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_peer_that_dials_is_spoken_with_in_its_version() {
    let ca = DevCa::new(CLUSTER).unwrap();
    let one = Node::start(&ca, 1).await;
    let old = Stranger::dial(good_papers(&ca, 3), &one.transport.address()).await.unwrap();
    assert_eq!(old.hello(&bytes(OLD_HELLO)).await, Some(bytes(OUR_ANSWER)));
    converse(&one, &old.connection).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_peer_that_is_dialed_is_spoken_with_in_its_version() {
    let ca = DevCa::new(CLUSTER).unwrap();
    let one = Node::start(&ca, 1).await;
    let old = Impostor::start(good_papers(&ca, 3), bytes(OLD_HELLO));
    one.transport.connect(NodeId(3), &old.address());
    let connection = old.dialed().await;
    converse(&one, &connection).await;
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
    let ca = DevCa::new(CLUSTER).unwrap();
    let one = Node::start(&ca, 1).await;
    let dialing = Stranger::dial(good_papers(&ca, 3), &one.transport.address()).await.unwrap();
    let answer = RawHello { versions: (2, 2), local: local(1, 1), to: 3, lineage: Some(LINEAGE) };
    assert_eq!(dialing.hello(&new_hello((2, 3))).await, Some(answer.bytes()));
    until("it is a peer", || one.stats().connected == 1).await;
    one.transport.disconnect(NodeId(3));

    // One that is dialed takes the higher of what both know.
    let dialed = Impostor::start(good_papers(&ca, 3), new_hello((2, 2)));
    one.transport.connect(NodeId(3), &dialed.address());
    let connection = dialed.dialed().await;
    until("it is a peer again", || one.stats().connected == 1).await;
    let told = told_by(&one, &connection).await;
    let of_ours = [OUR_CONTROL, OUR_APPEND].map(|hex| bytes(hex).len() + 8);
    assert_eq!(told.map(|lane| lane.len()), of_ours, "frames with the lineage");
    assert_eq!((one.stats().malformed, one.stats().refused), (0, 0));
}
