//! The bytes on wire and disk: golden, round trip, and hostile.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use raft_core::codec::{CodecError, cold, entry, versioned, wire};
use raft_core::config::{MAX_APPEND_BYTES_LIMIT, MAX_ENTRY_BYTES_LIMIT};
use raft_core::message::{
    AppendOutcome, AppendRequest, AppendResponse, Envelope, Lane, Message, ReadRequest, ReadResponse,
    ReadTicket, TimeoutNow, VoteRequest, VoteResponse,
};
use raft_core::session::{Serial, SessionAction, SessionEntry, SessionId, SessionLimits};
use raft_core::types::{Entry, HardState, Lineage, Outline, Payload, Peer, SnapshotMeta};
use raft_core::{EntryId, GroupId, Incarnation, Lease, Membership, NodeId, NodeInfo};

fn peer(node: u64, incarnation: u64) -> Peer {
    Peer { node: NodeId(node), incarnation: Incarnation(incarnation) }
}

fn envelope(message: Message) -> Envelope {
    let lineage = Lineage(0x33);
    Envelope { group: GroupId(7), from: peer(1, 0x11), to: peer(2, 0x22), lineage, message }
}

/// As version 1 carries it.
fn as_of_version_1(envelope: &Envelope) -> Envelope {
    let mut envelope = Envelope { lineage: Lineage::UNKNOWN, ..envelope.clone() };
    match &mut envelope.message {
        Message::IdentityResponse { last, .. } => *last = EntryId::ZERO,
        Message::AppendResponse(response) => (response.priority, response.level) = (0, 1),
        _ => {}
    }
    envelope
}

/// As version 2 carries it.
fn as_of_version_2(envelope: &Envelope) -> Envelope {
    let mut envelope = envelope.clone();
    if let Message::AppendResponse(response) = &mut envelope.message {
        response.level = 1;
    }
    envelope
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn decode(version: u16, frame: &[u8]) -> Result<Vec<Envelope>, CodecError> {
    let (header, body) = frame.split_first_chunk().ok_or(CodecError::Truncated)?;
    wire::decode_frame(version, *header, Bytes::copy_from_slice(body))
}

/// The layout is a promise to older and newer nodes: these bytes must never change.
#[test]
fn golden_bytes_of_an_entry() {
    let mut bytes = Vec::new();
    let command = Entry { id: EntryId::new(3, 9), payload: Payload::Command(Bytes::from("abc")) };
    entry::encode(&command, &mut bytes).unwrap();
    let checksum = hex(&crc32c::crc32c(&bytes[4..]).to_le_bytes());
    assert_eq!(
        hex(&bytes),
        checksum + "03000000" + "0300000000000000" + "0900000000000000" + "01" + "616263"
    );
    assert_eq!(hex(&bytes[..4]), "7ef07a22");
}

#[test]
fn golden_bytes_of_a_frame() {
    let mut frame = Vec::new();
    let vote = VoteRequest { term: 5, last: EntryId::new(4, 10), pre_vote: true, transfer: false };
    let response = AppendResponse {
        term: 5,
        round: 2,
        outcome: AppendOutcome::Conflict { prev: 8, hint: EntryId::new(3, 6), last: 7 },
        priority: 9,
        level: 2,
    };
    let envelopes = [envelope(Message::VoteRequest(vote)), envelope(Message::AppendResponse(response))];
    wire::encode_frame(1, &envelopes, &mut frame).unwrap();
    let head = "0700000000000000" // group
        .to_owned()
        + "0100000000000000" + "1100000000000000" // from
        + "0200000000000000" + "2200000000000000"; // to
    let body = |head: &str, priority: &str| {
        head.to_owned()
            + "01"
            + "0500000000000000"
            + "0400000000000000"
            + "0a00000000000000"
            + "01"
            + "00"
            + head
            + "04"
            + "0500000000000000"
            + "0200000000000000"
            + "01"
            + "0800000000000000"
            + "0300000000000000"
            + "0600000000000000"
            + "0700000000000000"
            + priority
    };
    assert_eq!(hex(&frame[8..]), body(&head, ""));
    assert_eq!(frame[..4], u32::try_from(frame.len() - 8).unwrap().to_le_bytes());
    assert_eq!(decode(1, &frame).unwrap(), envelopes.each_ref().map(as_of_version_1));
    frame.clear();
    wire::encode_frame(2, &envelopes, &mut frame).unwrap();
    let head = head + "3300000000000000"; // lineage
    assert_eq!(hex(&frame[8..]), body(&head, "09"));
    assert_eq!(decode(2, &frame).unwrap(), envelopes.each_ref().map(as_of_version_2));
    frame.clear();
    wire::encode_frame(3, &envelopes, &mut frame).unwrap();
    assert_eq!(hex(&frame[8..]), body(&head, "0902")); // level
    assert_eq!(decode(3, &frame).unwrap(), envelopes);
}

fn session(action: SessionAction) -> Payload {
    Payload::Session(Box::new(SessionEntry { elapsed_ms: 0x0102, action }))
}

const SESSION: SessionId = SessionId { index: 6, mark: 0xfe };

#[test]
fn golden_bytes_of_session_entries() {
    let serial = Serial { session: SESSION, number: 9, seen_below: 7 };
    let mut limits = SessionLimits::default();
    limits.idle = Duration::from_millis(0x1000);
    (limits.max_sessions, limits.max_answers, limits.max_answer_bytes) = (3, 4, 5);
    let number = |number: u64| hex(&number.to_le_bytes());
    let id = number(6) + &number(0xfe);
    for (action, golden) in [
        (
            SessionAction::Open { mark: 0xfe, limits },
            "01".to_owned() + &number(0xfe) + &number(0x1000) + "03000000" + "04000000" + "05000000",
        ),
        (
            SessionAction::Command { serial, command: Bytes::from("abc") },
            "02".to_owned() + &id + &number(9) + &number(7) + "616263",
        ),
        (SessionAction::Keep { session: SESSION, seen_below: 7 }, "03".to_owned() + &id + &number(7)),
        (SessionAction::Close { session: SESSION }, "04".to_owned() + &id),
    ] {
        let whole = Entry { id: EntryId::new(3, 9), payload: session(action) };
        let mut bytes = Vec::new();
        entry::encode(&whole, &mut bytes).unwrap();
        let length = bytes.len() - entry::HEADER_BYTES;
        assert_eq!(hex(&bytes[4..8]), hex(&u32::try_from(length).unwrap().to_le_bytes()));
        assert_eq!(hex(&bytes[24..]), "04".to_owned() + &number(0x0102) + &golden);
        assert!(whole.bytes() >= bytes.len());
        assert_eq!(entry::decode(&mut Bytes::from(bytes)).unwrap(), whole);
    }
}

#[test]
fn the_largest_command_fits_into_a_session_too() {
    let serial = Serial { session: SESSION, number: 1, seen_below: 0 };
    let whole = |bytes| {
        let command = Bytes::from(vec![1; bytes]);
        Entry { id: EntryId::new(1, 1), payload: session(SessionAction::Command { serial, command }) }
    };
    let mut bytes = Vec::new();
    entry::encode(&whole(MAX_ENTRY_BYTES_LIMIT), &mut bytes).unwrap();
    assert_eq!(entry::decode(&mut Bytes::from(bytes)).unwrap(), whole(MAX_ENTRY_BYTES_LIMIT));
    let refused = entry::encode(&whole(MAX_ENTRY_BYTES_LIMIT + 1), &mut Vec::new());
    assert_eq!(refused, Err(CodecError::TooLarge));
}

#[test]
fn golden_bytes_of_reads() {
    let ticket = ReadTicket { boot: 0x44, number: 6 };
    let envelopes = [
        envelope(Message::ReadRequest(ReadRequest { term: 5, ticket, lease: true })),
        envelope(Message::ReadResponse(ReadResponse { term: 5, ticket, index: 9 })),
    ];
    let mut frame = Vec::new();
    wire::encode_frame(4, &envelopes, &mut frame).unwrap();
    let head = "0700000000000000" // group
        .to_owned()
        + "0100000000000000" + "1100000000000000" // from
        + "0200000000000000" + "2200000000000000" // to
        + "3300000000000000"; // lineage
    let numbers = "0500000000000000".to_owned() + "4400000000000000" + "0600000000000000";
    let request = format!("{head}09{numbers}01");
    let response = format!("{head}0a{numbers}0900000000000000");
    assert_eq!(hex(&frame[8..]), format!("{request}{response}"));
    assert_eq!(decode(4, &frame).unwrap(), envelopes);
    assert_eq!(envelopes.each_ref().map(Envelope::lane), [Lane::Control; 2]);
    for version in [1, 2, 3] {
        frame.clear();
        let refused = wire::encode_frame(version, &envelopes[..1], &mut frame);
        assert_eq!((refused, frame.len()), (Err(CodecError::Unsupported), 0));
        // As version 4 wrote it, but for the lineage that version 1 has no room for.
        let body = if version == 1 { request.replacen("3300000000000000", "", 1) } else { request.clone() };
        let body: Vec<u8> = (0..body.len() / 2)
            .map(|at| u8::from_str_radix(&body[2 * at..2 * at + 2], 16).unwrap())
            .collect();
        let mut old = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
        old.extend(crc32c::crc32c(&body).to_le_bytes());
        old.extend(body);
        assert_eq!(decode(version, &old), Err(CodecError::UnknownKind(9)));
    }
}

#[test]
fn versions_that_are_not_known_are_refused() {
    for version in [0, wire::VERSIONS.end() + 1, u16::MAX] {
        let mut frame = vec![7];
        let refused = wire::encode_frame(version, &[envelope(Message::IdentityRequest)], &mut frame);
        assert_eq!((refused, &frame[..]), (Err(CodecError::Unsupported), &[7][..]));
        assert_eq!(decode(version, &[0; 8]), Err(CodecError::Unsupported));
    }
}

const LEASE: Lease = Lease { election_timeout_micros: 500_000, clock_drift_ppm: 1_000 };

fn one_voter(lineage: Lineage) -> Membership {
    let info =
        NodeInfo { address: "a:1".to_owned(), client_address: String::new(), incarnation: Incarnation(5) };
    Membership { lineage, ..Membership::of_voters(BTreeMap::from([(NodeId(1), info)])) }
}

/// The configuration of `one_voter` as the first version wrote it.
const ONE_VOTER: &str = concat!(
    "0100000000000000", // voters
    "0100000000000000",
    "0000000000000000", // outgoing
    "0000000000000000", // learners
    "0100000000000000", // nodes
    "0100000000000000",
    "0300000000000000",
    "613a31", // address
    "0000000000000000",
    "0500000000000000", // incarnation
);

#[test]
fn golden_bytes_of_structures_that_have_grown() {
    let old = one_voter(Lineage::UNMARKED);
    let new = one_voter(Lineage(0x77));
    let lineage = "7700000000000000";
    let mark = "0200ffffffffffff";
    assert_eq!(hex(&versioned::encode(&old).unwrap()), ONE_VOTER);
    assert_eq!(hex(&versioned::encode(&new).unwrap()), format!("{mark}{ONE_VOTER}{lineage}"));
    let outline = |membership: &Membership| Outline {
        base: EntryId::new(1, 2),
        terms: vec![EntryId::new(3, 3)],
        memberships: BTreeMap::from([(2, membership.clone())]),
    };
    let id = |term, index| format!("{term:02x}00000000000000{index:02x}00000000000000");
    let one = "0100000000000000";
    let head = id(1, 2) + one + &id(3, 3) + one + "0200000000000000";
    assert_eq!(hex(&versioned::encode(&outline(&old)).unwrap()), format!("{head}{ONE_VOTER}"));
    let later = format!("{mark}{head}{ONE_VOTER}{lineage}");
    assert_eq!(hex(&versioned::encode(&outline(&new)).unwrap()), later);
    let meta =
        |membership| SnapshotMeta { last: EntryId::new(3, 9), membership, size_bytes: 10, checksum: 11 };
    let tail = "0a00000000000000".to_owned() + "0b000000";
    let bytes = versioned::encode(&meta(old.clone())).unwrap();
    assert_eq!(hex(&bytes), format!("{}{ONE_VOTER}{tail}", id(3, 9)));
    let bytes = versioned::encode(&meta(new.clone())).unwrap();
    assert_eq!(hex(&bytes), format!("{mark}{}{ONE_VOTER}{lineage}{tail}", id(3, 9)));
    assert_eq!(versioned::decode(&bytes), Ok(meta(new)));
    let leased = Membership { lease: Some(LEASE), ..one_voter(Lineage(0x77)) };
    let lease = "20a1070000000000".to_owned() + "e8030000"; // election timeout, drift
    let mark = "0400ffffffffffff";
    let change = "00".to_owned() + "0000000000000000"; // no target, nobody suspended
    let bytes = versioned::encode(&leased).unwrap();
    assert_eq!(hex(&bytes), format!("{mark}{ONE_VOTER}{lineage}{change}{lease}"));
    assert_eq!(versioned::decode(&bytes), Ok(leased.clone()));
    let mut both = outline(&old);
    both.memberships.insert(3, leased.clone());
    assert_eq!(versioned::decode(&versioned::encode(&both).unwrap()), Ok(both));
    let bytes = versioned::encode(&meta(leased.clone())).unwrap();
    assert_eq!(hex(&bytes), format!("{mark}{}{ONE_VOTER}{lineage}{change}{lease}{tail}", id(3, 9)));
    assert_eq!(versioned::decode(&bytes), Ok(meta(leased)));
}

#[test]
fn what_a_version_cannot_carry_is_refused() {
    let of = |lineage| Entry {
        id: EntryId::new(1, 1),
        payload: Payload::Membership(Box::new(one_voter(lineage))),
    };
    let append = |entry| {
        let append =
            AppendRequest { term: 1, prev: EntryId::ZERO, entries: vec![entry], commit: 0, round: 1 };
        [envelope(Message::AppendRequest(append))]
    };
    let mut frame = Vec::new();
    wire::encode_frame(1, &append(of(Lineage::UNMARKED)), &mut frame).unwrap();
    frame.clear();
    let refused = wire::encode_frame(1, &append(of(Lineage(9))), &mut frame);
    assert_eq!((refused, frame.len()), (Err(CodecError::Unsupported), 0));
    let leased = Membership { lease: Some(LEASE), ..one_voter(Lineage(9)) };
    let leased = Entry { id: EntryId::new(1, 1), payload: Payload::Membership(Box::new(leased)) };
    for (version, refused) in [(1, true), (2, true), (3, true), (4, false)] {
        frame.clear();
        let encoded = wire::encode_frame(version, &append(leased.clone()), &mut frame);
        assert_eq!(encoded.is_err(), refused, "version {version}");
    }
    let close = Entry { id: EntryId::new(1, 1), payload: session(SessionAction::Close { session: SESSION }) };
    frame.clear();
    for version in [1, 2] {
        let refused = wire::encode_frame(version, &append(close.clone()), &mut frame);
        assert_eq!((refused, frame.len()), (Err(CodecError::Unsupported), 0));
    }
    wire::encode_frame(3, &append(close), &mut frame).unwrap();
    let as_version_2 = decode(2, &frame);
    assert_eq!(as_version_2, Err(CodecError::Unsupported));
    frame.clear();
    // A format that is not known is told from bytes that are broken.
    let mut bytes = versioned::encode(&one_voter(Lineage(9))).unwrap();
    bytes[0] = 5;
    assert_eq!(versioned::decode::<Membership>(&bytes), Err(CodecError::Unsupported));
    // One value, one encoding: what fits the first format is not written in the second.
    let mut bytes = versioned::encode(&one_voter(Lineage(9))).unwrap();
    let at = bytes.len() - 8;
    bytes[at] = 1;
    assert_eq!(versioned::decode::<Membership>(&bytes), Err(CodecError::Malformed));
}

/// bincode is not kept up any more; the structures' bytes are those of its oldest layout, which others read too: fixed
/// widths, little-endian, lengths of eight bytes, a tag of one byte for an option.
#[test]
fn golden_bytes_of_a_cold_structure() {
    let state = HardState { term: 2, vote: Some(NodeId(3)), commit: 4 };
    let bytes = cold::encode(&state).unwrap();
    assert_eq!(hex(&bytes), "0200000000000000".to_owned() + "01" + "0300000000000000" + "0400000000000000");
    assert_eq!(cold::decode::<HardState>(&bytes).unwrap(), state);
    assert_eq!(cold::encode("ab").unwrap(), b"\x02\0\0\0\0\0\0\0ab");
    let mut longer = bytes.clone();
    longer.push(0);
    assert_eq!(cold::decode::<HardState>(&longer), Err(CodecError::Trailing));
    assert_eq!(cold::decode::<HardState>(&bytes[..bytes.len() - 1]), Err(CodecError::Malformed));
}

#[test]
fn a_length_that_lies_allocates_nothing() {
    let mut text = u64::MAX.to_le_bytes().to_vec();
    assert_eq!(cold::decode::<String>(&text), Err(CodecError::Malformed));
    text[..8].copy_from_slice(&(100_u64 << 30).to_le_bytes());
    assert_eq!(cold::decode::<Vec<u8>>(&text), Err(CodecError::Malformed));
    assert_eq!(wire::body_bytes([0xff; 8]), Err(CodecError::TooLarge));
    let mut header = [0; 25];
    header[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(entry::decode(&mut Bytes::copy_from_slice(&header)), Err(CodecError::TooLarge));
}

/// A frame of small things takes many times its bytes once it is decoded, so their number has a limit too.
#[test]
fn a_frame_holds_so_many_messages_and_entries_and_no_more() {
    let question = envelope(Message::IdentityRequest);
    let noops = |count: usize| {
        let entries = vec![Entry { id: EntryId::new(1, 1), payload: Payload::Noop }; count];
        let append = AppendRequest { term: 1, prev: EntryId::ZERO, entries, commit: 0, round: 0 };
        envelope(Message::AppendRequest(append))
    };
    let frame = |envelopes: &[&Envelope]| {
        let mut frame = Vec::new();
        wire::encode_frame(2, envelopes.iter().copied(), &mut frame).map(|()| frame)
    };
    // As a sender that keeps to no limit makes it.
    let unlimited = |parts: &[Vec<u8>]| {
        let body: Vec<u8> =
            parts.iter().flat_map(|part| &part[wire::FRAME_HEADER_BYTES..]).copied().collect();
        let mut frame = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
        frame.extend(crc32c::crc32c(&body).to_le_bytes());
        frame.extend(body);
        frame
    };

    let most = frame(&vec![&question; wire::MAX_FRAME_MESSAGES]).unwrap();
    assert_eq!(decode(2, &most).unwrap().len(), wire::MAX_FRAME_MESSAGES);
    assert_eq!(frame(&vec![&question; wire::MAX_FRAME_MESSAGES + 1]), Err(CodecError::TooLarge));
    let one_more = unlimited(&[most, frame(&[&question]).unwrap()]);
    assert_eq!(decode(2, &one_more), Err(CodecError::TooLarge));

    let (all, one) = (noops(wire::MAX_FRAME_ENTRIES), noops(1));
    let most = frame(&[&all]).unwrap();
    assert_eq!(decode(2, &most).unwrap(), std::slice::from_ref(&all));
    assert_eq!(frame(&[&all, &one]), Err(CodecError::TooLarge));
    let one_more = unlimited(&[most, frame(&[&one]).unwrap()]);
    assert_eq!(decode(2, &one_more), Err(CodecError::TooLarge));
    // The largest append of small entries is far from it.
    const { assert!(MAX_APPEND_BYTES_LIMIT / Entry::OVERHEAD_BYTES < wire::MAX_FRAME_ENTRIES) };
}

#[test]
fn the_limit_of_short_bytes_refuses_none_that_are_whole() {
    for length in [(64 << 10) - 8, (64 << 10) - 7, 65 << 10] {
        let text = "x".repeat(length);
        assert_eq!(cold::decode::<String>(&cold::encode(&text).unwrap()).unwrap(), text);
    }
    let terms: Vec<EntryId> = (1..5_000).map(|term| EntryId::new(term, term)).collect();
    for count in 4_080..4_100 {
        let outline = Outline { terms: terms[..count].to_vec(), ..Outline::default() };
        assert_eq!(versioned::decode::<Outline>(&versioned::encode(&outline).unwrap()).unwrap(), outline);
    }
}

fn membership() -> impl Strategy<Value = Membership> {
    let lineage = prop_oneof![any::<u64>().prop_map(Lineage), Just(Lineage::UNMARKED)];
    (prop::collection::btree_set(1_u64..20, 1..6), any::<u64>(), lineage).prop_map(
        |(ids, incarnation, lineage)| {
            let voters: BTreeSet<NodeId> = ids.into_iter().map(NodeId).collect();
            let info = |node: &NodeId| {
                let info = NodeInfo {
                    address: format!("h{node}:1"),
                    client_address: String::new(),
                    incarnation: Incarnation(incarnation),
                };
                (*node, info)
            };
            let nodes: BTreeMap<NodeId, NodeInfo> = voters.iter().map(info).collect();
            let lease = (incarnation % 2 == 1).then_some(LEASE);
            Membership { lineage, lease, ..Membership::of_voters(nodes) }
        },
    )
}

fn payload() -> impl Strategy<Value = Payload> {
    prop_oneof![
        Just(Payload::Noop),
        prop::collection::vec(any::<u8>(), 0..200).prop_map(|bytes| Payload::Command(Bytes::from(bytes))),
        membership().prop_map(|membership| Payload::Membership(Box::new(membership))),
        (any::<u64>(), action()).prop_map(|(elapsed_ms, action)| {
            Payload::Session(Box::new(SessionEntry { elapsed_ms, action }))
        }),
    ]
}

fn action() -> impl Strategy<Value = SessionAction> {
    let session = || any::<(u64, u64)>().prop_map(|(index, mark)| SessionId { index, mark });
    prop_oneof![
        (any::<u64>(), any::<u64>(), any::<[u32; 3]>()).prop_map(|(mark, idle, numbers)| {
            let mut limits = SessionLimits::default();
            limits.idle = Duration::from_millis(idle);
            [limits.max_sessions, limits.max_answers, limits.max_answer_bytes] = numbers;
            SessionAction::Open { mark, limits }
        }),
        (session(), any::<(u64, u64)>(), prop::collection::vec(any::<u8>(), 0..100)).prop_map(
            |(session, (number, seen_below), bytes)| {
                let serial = Serial { session, number, seen_below };
                SessionAction::Command { serial, command: bytes.into() }
            }
        ),
        (session(), any::<u64>())
            .prop_map(|(session, seen_below)| SessionAction::Keep { session, seen_below }),
        session().prop_map(|session| SessionAction::Close { session }),
    ]
}

fn id() -> impl Strategy<Value = EntryId> {
    (any::<u64>(), any::<u64>()).prop_map(|(term, index)| EntryId::new(term, index))
}

fn ticket() -> impl Strategy<Value = ReadTicket> {
    (any::<u64>(), any::<u64>()).prop_map(|(boot, number)| ReadTicket { boot, number })
}

fn message() -> impl Strategy<Value = Message> {
    let entries =
        prop::collection::vec((id(), payload()).prop_map(|(id, payload)| Entry { id, payload }), 0..5);
    let outcome = prop_oneof![
        (any::<u64>(), any::<u64>())
            .prop_map(|(matched, received)| AppendOutcome::Accepted { matched, received }),
        (any::<u64>(), id(), any::<u64>()).prop_map(|(prev, hint, last)| AppendOutcome::Conflict {
            prev,
            hint,
            last
        }),
        Just(AppendOutcome::Stale),
    ];
    prop_oneof![
        (any::<u64>(), id(), any::<bool>(), any::<bool>()).prop_map(|(term, last, pre_vote, transfer)| {
            Message::VoteRequest(VoteRequest { term, last, pre_vote, transfer })
        }),
        (any::<u64>(), any::<bool>(), any::<bool>()).prop_map(|(term, granted, pre_vote)| {
            Message::VoteResponse(VoteResponse { term, granted, pre_vote })
        }),
        (any::<u64>(), id(), entries, any::<u64>(), any::<u64>()).prop_map(
            |(term, prev, entries, commit, round)| {
                Message::AppendRequest(AppendRequest { term, prev, entries, commit, round })
            }
        ),
        (any::<u64>(), any::<u64>(), outcome, any::<(u8, u8)>()).prop_map(
            |(term, round, outcome, (priority, level))| {
                Message::AppendResponse(AppendResponse { term, round, outcome, priority, level })
            }
        ),
        (any::<u64>(), any::<u64>())
            .prop_map(|(term, round)| Message::TimeoutNow(TimeoutNow { term, round })),
        (any::<u64>(), ticket(), any::<bool>())
            .prop_map(|(term, ticket, lease)| { Message::ReadRequest(ReadRequest { term, ticket, lease }) }),
        (any::<u64>(), ticket(), any::<u64>()).prop_map(|(term, ticket, index)| {
            Message::ReadResponse(ReadResponse { term, ticket, index })
        }),
        Just(Message::IdentityRequest),
        (any::<bool>(), id()).prop_map(|(founded, last)| Message::IdentityResponse { founded, last }),
    ]
}

proptest! {
    #[test]
    fn frames_come_back_as_they_were(messages in prop::collection::vec(message(), 0..6)) {
        let envelopes: Vec<Envelope> = messages.into_iter().map(envelope).collect();
        let mut frame = Vec::new();
        wire::encode_frame(4, &envelopes, &mut frame).unwrap();
        prop_assert_eq!(decode(4, &frame).unwrap(), &envelopes[..]);
        for envelope in &envelopes {
            for (version, as_of) in
                [(1, as_of_version_1(envelope)), (2, as_of_version_2(envelope)), (3, envelope.clone())]
            {
                frame.clear();
                match wire::encode_frame(version, [envelope], &mut frame) {
                    Ok(()) => prop_assert_eq!(decode(version, &frame).unwrap(), [as_of]),
                    Err(error) => prop_assert_eq!(error, CodecError::Unsupported),
                }
            }
        }
    }

    #[test]
    fn a_changed_bit_is_noticed(message in message(), at in any::<prop::sample::Index>(), bit in 0..8) {
        let mut frame = Vec::new();
        wire::encode_frame(4, &[envelope(message)], &mut frame).unwrap();
        let at = at.index(frame.len());
        frame[at] ^= 1_u8 << bit;
        prop_assert!(decode(4, &frame).is_err());
    }

    #[test]
    fn a_body_behind_a_right_checksum_may_still_be_garbage(body in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut frame = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
        frame.extend(crc32c::crc32c(&body).to_le_bytes());
        frame.extend(&body);
        // Refused or understood, and then the same bytes again: never a panic.
        for version in wire::VERSIONS {
            if let Ok(envelopes) = decode(version, &frame) {
                let mut again = Vec::new();
                wire::encode_frame(version, &envelopes, &mut again).unwrap();
                prop_assert_eq!(&again, &frame);
            }
        }
    }

    #[test]
    fn entries_cut_short_are_noticed(payload in payload(), at in any::<prop::sample::Index>()) {
        let mut bytes = Vec::new();
        let whole = Entry { id: EntryId::new(1, 2), payload };
        entry::encode(&whole, &mut bytes).unwrap();
        let cut = Bytes::copy_from_slice(&bytes[..at.index(bytes.len())]);
        prop_assert_eq!(entry::decode(&mut cut.clone()), Err(CodecError::Truncated));
        prop_assert_eq!(entry::decode(&mut Bytes::from(bytes)).unwrap(), whole);
    }

    #[test]
    fn outlines_come_back_as_they_were(first in id(), memberships in prop::collection::vec(membership(), 0..3)) {
        let memberships = (1_u64..).zip(memberships).collect();
        let outline = Outline { base: EntryId::ZERO, terms: vec![first], memberships };
        prop_assert_eq!(versioned::decode::<Outline>(&versioned::encode(&outline).unwrap()).unwrap(), outline);
    }

    #[test]
    fn any_bytes_are_no_outline_or_one(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(outline) = versioned::decode::<Outline>(&bytes) {
            prop_assert_eq!(versioned::encode(&outline).unwrap(), bytes);
        }
    }
}
