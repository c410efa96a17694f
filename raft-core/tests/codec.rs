//! The bytes on wire and disk: golden, round trip, and hostile.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::prelude::*;
use raft_core::codec::{CodecError, cold, entry, wire};
use raft_core::message::{
    AppendOutcome, AppendRequest, AppendResponse, Envelope, Message, VoteRequest, VoteResponse,
};
use raft_core::types::{Entry, HardState, Outline, Payload, Peer};
use raft_core::{EntryId, GroupId, Incarnation, Membership, NodeId, NodeInfo};

fn peer(node: u64, incarnation: u64) -> Peer {
    Peer { node: NodeId(node), incarnation: Incarnation(incarnation) }
}

fn envelope(message: Message) -> Envelope {
    Envelope { group: GroupId(7), from: peer(1, 0x11), to: peer(2, 0x22), message }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn decode(frame: &[u8]) -> Result<Vec<Envelope>, CodecError> {
    let (header, body) = frame.split_first_chunk().ok_or(CodecError::Truncated)?;
    wire::decode_frame(*header, Bytes::copy_from_slice(body))
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
        priority: 0,
    };
    let envelopes = [envelope(Message::VoteRequest(vote)), envelope(Message::AppendResponse(response))];
    wire::encode_frame(&envelopes, &mut frame).unwrap();
    let head = "0700000000000000" // group
        .to_owned()
        + "0100000000000000" + "1100000000000000" // from
        + "0200000000000000" + "2200000000000000"; // to
    let body = head.clone()
        + "01"
        + "0500000000000000"
        + "0400000000000000"
        + "0a00000000000000"
        + "01"
        + "00"
        + &head
        + "04"
        + "0500000000000000"
        + "0200000000000000"
        + "01"
        + "0800000000000000"
        + "0300000000000000"
        + "0600000000000000"
        + "0700000000000000";
    assert_eq!(hex(&frame[8..]), body);
    assert_eq!(frame[..4], u32::try_from(frame.len() - 8).unwrap().to_le_bytes());
    assert_eq!(decode(&frame).unwrap(), envelopes);
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

#[test]
fn the_limit_of_short_bytes_refuses_none_that_are_whole() {
    for length in [(64 << 10) - 8, (64 << 10) - 7, 65 << 10] {
        let text = "x".repeat(length);
        assert_eq!(cold::decode::<String>(&cold::encode(&text).unwrap()).unwrap(), text);
    }
    let terms: Vec<EntryId> = (1..5_000).map(|term| EntryId::new(term, term)).collect();
    for count in 4_080..4_100 {
        let outline = Outline { terms: terms[..count].to_vec(), ..Outline::default() };
        assert_eq!(cold::decode::<Outline>(&cold::encode(&outline).unwrap()).unwrap(), outline);
    }
}

fn membership() -> impl Strategy<Value = Membership> {
    (prop::collection::btree_set(1_u64..20, 1..6), any::<u64>()).prop_map(|(ids, incarnation)| {
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
        Membership::of_voters(nodes)
    })
}

fn payload() -> impl Strategy<Value = Payload> {
    prop_oneof![
        Just(Payload::Noop),
        prop::collection::vec(any::<u8>(), 0..200).prop_map(|bytes| Payload::Command(Bytes::from(bytes))),
        membership().prop_map(|membership| Payload::Membership(Box::new(membership))),
    ]
}

fn id() -> impl Strategy<Value = EntryId> {
    (any::<u64>(), any::<u64>()).prop_map(|(term, index)| EntryId::new(term, index))
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
        (any::<u64>(), any::<u64>(), outcome).prop_map(|(term, round, outcome)| {
            Message::AppendResponse(AppendResponse { term, round, outcome, priority: 0 })
        }),
        Just(Message::IdentityRequest),
        any::<bool>().prop_map(|founded| Message::IdentityResponse { founded }),
    ]
}

proptest! {
    #[test]
    fn frames_come_back_as_they_were(messages in prop::collection::vec(message(), 0..6)) {
        let envelopes: Vec<Envelope> = messages.into_iter().map(envelope).collect();
        let mut frame = Vec::new();
        wire::encode_frame(&envelopes, &mut frame).unwrap();
        prop_assert_eq!(decode(&frame).unwrap(), envelopes);
    }

    #[test]
    fn a_changed_bit_is_noticed(message in message(), at in any::<prop::sample::Index>(), bit in 0..8) {
        let mut frame = Vec::new();
        wire::encode_frame(&[envelope(message)], &mut frame).unwrap();
        let at = at.index(frame.len());
        frame[at] ^= 1_u8 << bit;
        prop_assert!(decode(&frame).is_err());
    }

    #[test]
    fn a_body_behind_a_right_checksum_may_still_be_garbage(body in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut frame = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
        frame.extend(crc32c::crc32c(&body).to_le_bytes());
        frame.extend(&body);
        // Refused or understood, and then the same bytes again: never a panic.
        if let Ok(envelopes) = decode(&frame) {
            let mut again = Vec::new();
            wire::encode_frame(&envelopes, &mut again).unwrap();
            prop_assert_eq!(again, frame);
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
        prop_assert_eq!(cold::decode::<Outline>(&cold::encode(&outline).unwrap()).unwrap(), outline);
    }

    #[test]
    fn any_bytes_are_no_outline_or_one(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(outline) = cold::decode::<Outline>(&bytes) {
            prop_assert_eq!(cold::encode(&outline).unwrap(), bytes);
        }
    }
}
