//! Peers of older versions and of a newer one, whoever dials. What the older ones say, and what they must be told, is kept here byte
//! for byte: it does not change when the code does.

use quinn::{Connection, RecvStream};
use raft_core::codec::wire;
use raft_core::membership::{Lease, Membership, NodeInfo};
use raft_core::message::{
    AppendOutcome, AppendResponse, Dismissal, Envelope, Message, ReadRequest, ReadResponse, ReadTicket,
    TimeoutNow,
};
use raft_core::session::{SessionAction, SessionEntry, SessionId};
use raft_core::transport::Transport;
use raft_core::types::{Lineage, NodeId, Payload};
use raft_transport_quic::DevCa;

use crate::common::{CLUSTER, LINEAGE, Node, append, local, peer, until, vote};
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

/// The version with changes of members and with sessions, and neither reads on followers nor leases yet. What it has in common with the
/// one before it says in the same bytes.
const VERSION_3: Older = Older {
    hello: concat!(
        "52414654",                         // RAFT
        "3c00",                             // 60 bytes follow
        "01000300",                         // versions 1 to 3
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
        "03000300",
        "ed5e0000000000000000000000000000",
        "0100000000000000",
        "e903000000000000",
        "0100000000000000",
        "0300000000000000",
        "6eea110000000000",
    ),
    ..VERSION_2
};

/// Node 3 says in version 3 that it knows payloads up to level 2.
const LEVEL_IN_3: &str = concat!(
    "540000008ce78f37",
    "0100000000000000",
    "0300000000000000",
    "eb03000000000000",
    "0100000000000000",
    "e903000000000000",
    "6eea110000000000", // lineage
    "04",               // an answer to an append
    "0100000000000000", // term
    "0c00000000000000", // round
    "00",               // accepted
    "0600000000000000",
    "0600000000000000",
    "07", // priority
    "02", // level
);

/// Node 1 sends in version 3 an entry that closes a session.
const SESSION_IN_3: &str = concat!(
    "8f00000036769f9e",
    "0100000000000000",
    "0100000000000000",
    "e903000000000000",
    "0300000000000000",
    "eb03000000000000",
    "6eea110000000000",
    "03",
    "0100000000000000",
    "01000000000000000600000000000000",
    "0000000000000000",
    "0000000000000000",
    "01000000",
    "b90cc3e6",
    "19000000",
    "01000000000000000700000000000000",
    "04",               // a session
    "fa00000000000000", // milliseconds passed
    "04",               // is closed
    "0600000000000000fe00000000000000",
);

/// An append of one entry at 7, which closes a session.
fn session() -> Envelope {
    let session = SessionId { index: 6, mark: 0xfe };
    let entry = SessionEntry { elapsed_ms: 250, action: SessionAction::Close { session } };
    of_payload(Payload::Session(Box::new(entry)))
}

fn of_payload(payload: Payload) -> Envelope {
    let mut envelope = append(1, 3, 7, 0);
    let Message::AppendRequest(request) = &mut envelope.message else { panic!("is one") };
    request.entries[0].payload = payload;
    envelope
}

/// What came with later versions than the first, and with which.
fn later() -> Vec<(u16, Envelope)> {
    let of = |message| Envelope { message, ..vote(1, 3, 0) };
    let lease = Some(Lease { election_timeout_micros: 500_000, clock_drift_ppm: 1_000 });
    let info = NodeInfo { incarnation: peer(3).incarnation, ..NodeInfo::at("n3:1") };
    let members = Membership::of_voters([(NodeId(3), info)].into());
    let membership = |membership| of_payload(Payload::Membership(Box::new(membership)));
    let suspended = Membership { suspended: [NodeId(3)].into(), lineage: LINEAGE, ..members.clone() };
    let ticket = ReadTicket { boot: 5, number: 6 };
    vec![
        (2, membership(Membership { lineage: LINEAGE, ..members.clone() })),
        (2, of(Message::TimeoutNow(TimeoutNow { term: 3, round: 12 }))),
        (3, membership(suspended)),
        (3, session()),
        (3, of(Message::Dismissed { membership: 4, dismissal: Dismissal::Removed })),
        (4, membership(Membership { lineage: LINEAGE, lease, ..members })),
        (4, of(Message::ReadRequest(ReadRequest { term: 3, ticket, lease: false }))),
        (4, of(Message::ReadResponse(ReadResponse { term: 3, ticket, index: 9 }))),
    ]
}

/// The messages of a lane's next frames in `version`, up to one like `last`.
async fn frames(version: u16, stream: &mut RecvStream, last: fn(&Message) -> bool) -> Vec<Message> {
    let mut told = Vec::new();
    while !told.last().is_some_and(last) {
        let mut header = [0; wire::FRAME_HEADER_BYTES];
        stream.read_exact(&mut header).await.unwrap();
        let mut body = vec![0; wire::body_bytes(header).unwrap()];
        stream.read_exact(&mut body).await.unwrap();
        let envelopes = wire::decode_frame(version, header, body.into()).unwrap();
        told.extend(envelopes.into_iter().map(|envelope| envelope.message));
    }
    told.pop();
    told
}

/// A peer is told all that its version has words for, and nothing else, whatever is asked of the transport.
async fn is_told_what_it_knows(version: u16, older: &Older) {
    let ca = DevCa::new(CLUSTER).unwrap();
    let one = Node::start(&ca, 1).await;
    let old = Stranger::dial(good_papers(&ca, 3), &one.transport.address()).await.unwrap();
    assert_eq!(old.hello(&bytes(older.hello)).await, Some(bytes(older.answer)));
    until("it is a peer", || one.stats().connected == 1).await;
    let [mut control, mut appends] =
        told_by(&one, &old.connection, [older.our_control, older.our_append]).await;
    let before = one.stats().dropped;
    let later = later();
    one.send(3, later.iter().map(|(_, envelope)| envelope.clone()).collect());
    one.send(3, vec![vote(1, 3, 99), append(1, 3, 99, 2)]);
    let mut told = frames(version, &mut control, |m| matches!(m, Message::VoteResponse(_))).await;
    let marked = |m: &Message| matches!(m, Message::AppendRequest(append) if append.prev.index == 98);
    told.extend(frames(version, &mut appends, marked).await);
    let (known, unknown): (Vec<_>, Vec<_>) = later.into_iter().partition(|(since, _)| *since <= version);
    assert_eq!(told.len(), known.len(), "{told:?}");
    assert!(known.iter().all(|(_, envelope)| told.contains(&envelope.message)), "{told:?}");
    assert_eq!(one.stats().dropped - before, unknown.len() as u64);
    assert_eq!(old.connection.close_reason(), None);
}

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
    told(one, peer, append(1, 3, 6, 2), expected).await
}

/// The same with another append.
async fn told(one: &Node, peer: &Connection, append: Envelope, expected: [&str; 2]) -> [RecvStream; 2] {
    one.send(3, vec![vote(1, 3, 8), append]);
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

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_of_version_3_is_spoken_with_in_its_version() {
    VERSION_3.dials().await;
    let mut answer = bytes(VERSION_3.hello);
    answer[6] = 3;
    VERSION_3.is_dialed(answer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_of_version_3_says_its_level_and_is_told_of_sessions() {
    let ca = DevCa::new(CLUSTER).unwrap();
    let one = Node::start(&ca, 1).await;
    let old = Stranger::dial(good_papers(&ca, 3), &one.transport.address()).await.unwrap();
    assert_eq!(old.hello(&bytes(VERSION_3.hello)).await, Some(bytes(VERSION_3.answer)));
    let mut stream = old.connection.open_uni().await.unwrap();
    stream.write_all(&[&[1], &bytes(LEVEL_IN_3)[..]].concat()).await.unwrap();
    until("its answer is heard", || one.inbox.from(3).len() == 1).await;
    let outcome = AppendOutcome::Accepted { matched: 6, received: 6 };
    let answer = AppendResponse { term: 1, round: 12, outcome, priority: 7, level: 2 };
    assert_eq!(one.inbox.from(3)[0].message, Message::AppendResponse(answer));
    let of_session = format!("02{SESSION_IN_3}");
    let _open = told(&one, &old.connection, session(), [VERSION_3.our_control, &of_session]).await;
    assert_eq!((one.stats().malformed, one.stats().refused), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_peer_is_told_what_it_knows() {
    for (version, older) in [(1, &VERSION_1), (2, &VERSION_2), (3, &VERSION_3)] {
        is_told_what_it_knows(version, older).await;
    }
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
