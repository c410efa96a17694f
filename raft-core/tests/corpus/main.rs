//! The fuzz targets' checks in a bounded form: on the seeds in the folder `seeds`, on each of them changed here and there, and
//! on bytes without any sense. The seeds are real encodings; `RAFT_REWRITE_SEEDS=1` writes them anew. What a fuzzer found is added
//! to them by hand, under any other name.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod checks;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use checks::CHECKS;
use proptest::prelude::*;
use raft_core::codec::{cold, entry, versioned, wire};
use raft_core::message::{
    AppendOutcome, AppendRequest, AppendResponse, Envelope, Message, ReadRequest, ReadResponse, ReadTicket,
    TimeoutNow, VoteRequest, VoteResponse,
};
use raft_core::session::{Serial, SessionAction, SessionEntry, SessionId, SessionLimits};
use raft_core::session_table::{Note, SessionTable};
use raft_core::types::{Entry, HardState, Lineage, Outline, Payload, Peer, SnapshotMeta};
use raft_core::{EntryId, GroupId, Incarnation, Lease, Membership, NodeId, NodeInfo};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/seeds").join(name)
}

fn seeds(name: &str) -> Vec<(String, Vec<u8>)> {
    let mut seeds: Vec<_> = fs::read_dir(folder(name))
        .unwrap()
        .map(|file| file.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap()))
        .collect();
    seeds.sort();
    seeds
}

fn peer(node: u64) -> Peer {
    Peer { node: NodeId(node), incarnation: Incarnation(0x1000 + node) }
}

fn members(ids: &[u64]) -> Membership {
    let info = |&id: &u64| {
        let info = NodeInfo {
            address: format!("node{id}.example:4000"),
            client_address: format!("node{id}.example:8000"),
            incarnation: peer(id).incarnation,
        };
        (NodeId(id), info)
    };
    let voters = Membership::of_voters(ids.iter().map(info).collect());
    Membership { lineage: Lineage::UNMARKED, ..voters }
}

/// A configuration of format 2.
fn marked(membership: Membership) -> Membership {
    Membership { lineage: Lineage(0x7e57_0001), ..membership }
}

fn joint() -> Membership {
    Membership {
        voters: [1, 2, 4].map(NodeId).into(),
        outgoing: [1, 2, 3].map(NodeId).into(),
        learners: [3].map(NodeId).into(),
        ..members(&[1, 2, 3, 4])
    }
}

fn leased() -> Membership {
    let lease = Lease { election_timeout_micros: 500_000, clock_drift_ppm: 1_000 };
    Membership { lease: Some(lease), ..marked(members(&[1, 2, 3])) }
}

fn entries() -> Vec<(&'static str, Entry)> {
    let of = |index, payload| Entry { id: EntryId::new(3, index), payload };
    vec![
        ("noop", of(7, Payload::Noop)),
        ("command", of(8, Payload::Command(Bytes::from_static(b"put k v")))),
        ("no_command", of(9, Payload::Command(Bytes::new()))),
        ("membership", of(10, Payload::Membership(Box::new(members(&[1, 2, 3]))))),
        ("joint", of(11, Payload::Membership(Box::new(joint())))),
    ]
}

fn later_entries() -> Vec<(&'static str, Entry)> {
    let of = |index, payload| Entry { id: EntryId::new(3, index), payload };
    vec![("membership_2", of(12, Payload::Membership(Box::new(marked(joint())))))]
}

fn entries_of_level_2() -> Vec<(&'static str, Entry)> {
    let session = SessionId { index: 6, mark: 0xfe };
    let serial = Serial { session, number: 9, seen_below: 7 };
    let of = |index, action| {
        let payload = Payload::Session(Box::new(SessionEntry { elapsed_ms: 250, action }));
        Entry { id: EntryId::new(3, index), payload }
    };
    vec![
        ("session_open", of(13, SessionAction::Open { mark: 0xfe, limits: SessionLimits::default() })),
        (
            "session_command",
            of(14, SessionAction::Command { serial, command: Bytes::from_static(b"put k v") }),
        ),
        ("session_keep", of(15, SessionAction::Keep { session, seen_below: 9 })),
        ("session_close", of(16, SessionAction::Close { session })),
    ]
}

/// Two sessions: one with answers of which the first had no room, and one that is new.
fn sessions() -> SessionTable {
    let mut table = SessionTable::default();
    let mut limits = SessionLimits::default();
    limits.max_answer_bytes = 80;
    let session = SessionId { index: 30, mark: 0xfe };
    let command = |number| {
        let serial = Serial { session, number, seen_below: 2 };
        SessionAction::Command { serial, command: Bytes::from_static(b"put k v") }
    };
    let open = |mark| SessionAction::Open { mark, limits };
    for (index, action) in (30..).zip([open(0xfe), command(2), command(3), command(4), open(0xff)]) {
        let entry = SessionEntry { elapsed_ms: 250, action };
        let verdict = table.take(index, &entry);
        let reply = Bytes::from_static(b"v");
        table.settle(&entry, verdict, Some(&reply)).unwrap();
    }
    table
}

/// A note as the check takes it.
fn framed(note: Note) -> Vec<u8> {
    let value = note.value.unwrap();
    let lengths = [note.key.len(), value.len()].map(|length| u8::try_from(length).unwrap());
    [&lengths[..], &note.key, &value].concat()
}

fn messages() -> Vec<(&'static str, Message)> {
    let vote = VoteRequest { term: 4, last: EntryId::new(3, 9), pre_vote: false, transfer: false };
    let append = AppendRequest {
        term: 3,
        prev: EntryId::new(3, 6),
        entries: entries().into_iter().map(|(_, entry)| entry).collect(),
        commit: 6,
        round: 12,
    };
    let answer = |outcome| {
        Message::AppendResponse(AppendResponse { term: 3, round: 12, outcome, priority: 0, level: 1 })
    };
    let accepted = AppendOutcome::Accepted { matched: 8, received: 10 };
    let conflict = AppendOutcome::Conflict { prev: 6, hint: EntryId::new(2, 4), last: 5 };
    vec![
        ("vote_request", Message::VoteRequest(vote)),
        ("pre_vote", Message::VoteRequest(VoteRequest { pre_vote: true, ..vote })),
        ("vote_response", Message::VoteResponse(VoteResponse { term: 4, granted: true, pre_vote: false })),
        ("heartbeat", Message::AppendRequest(AppendRequest { entries: Vec::new(), ..append.clone() })),
        ("append", Message::AppendRequest(append)),
        ("accepted", answer(accepted)),
        ("conflict", answer(conflict)),
        ("stale", answer(AppendOutcome::Stale)),
        ("identity_request", Message::IdentityRequest),
        ("identity_response", Message::IdentityResponse { founded: true, last: EntryId::ZERO }),
    ]
}

/// Real encodings by target and name.
fn made() -> BTreeMap<(&'static str, String), Vec<u8>> {
    let mut made = BTreeMap::new();
    let envelope =
        |lineage, message| Envelope { group: GroupId(1), from: peer(1), to: peer(2), lineage, message };
    for version in wire::VERSIONS {
        let lineage = if version == 1 { Lineage::UNKNOWN } else { Lineage(0x7e57_0001) };
        let mut messages = messages();
        if version > 1 {
            let entries = later_entries().into_iter().map(|(_, entry)| entry).collect();
            let prev = EntryId::new(3, 11);
            let append = AppendRequest { term: 3, prev, entries, commit: 6, round: 12 };
            messages.push(("membership", Message::AppendRequest(append)));
            let outcome = AppendOutcome::Accepted { matched: 8, received: 10 };
            let preferred = AppendResponse { term: 3, round: 12, outcome, priority: 7, level: 1 };
            messages.push(("preferred", Message::AppendResponse(preferred)));
            messages.push(("timeout_now", Message::TimeoutNow(TimeoutNow { term: 3, round: 12 })));
        }
        if version > 2 {
            let entries = entries_of_level_2().into_iter().map(|(_, entry)| entry).collect();
            let prev = EntryId::new(3, 12);
            let append = AppendRequest { term: 3, prev, entries, commit: 6, round: 12 };
            messages.push(("sessions", Message::AppendRequest(append)));
            let outcome = AppendOutcome::Accepted { matched: 8, received: 10 };
            let leveled = AppendResponse { term: 3, round: 12, outcome, priority: 7, level: 2 };
            messages.push(("level", Message::AppendResponse(leveled)));
        }
        let mut all: Vec<_> =
            messages.iter().map(|(_, message)| envelope(lineage, message.clone())).collect();
        if version > 3 {
            let ticket = ReadTicket { boot: 0x1234_5678_9abc_def0, number: 5 };
            let request = ReadRequest { term: 3, ticket, lease: true };
            let response = ReadResponse { term: 3, ticket, index: 9 };
            let entry = Entry { id: EntryId::new(3, 12), payload: Payload::Membership(Box::new(leased())) };
            let prev = EntryId::new(3, 11);
            let append = AppendRequest { term: 3, prev, entries: vec![entry], commit: 6, round: 12 };
            for (name, message) in [
                ("read_request", Message::ReadRequest(request)),
                ("read_response", Message::ReadResponse(response)),
                ("leased", Message::AppendRequest(append)),
            ] {
                all.push(envelope(lineage, message.clone()));
                messages.push((name, message));
            }
        }
        let mut put = |name: &str, envelopes: &[Envelope]| {
            let mut frame = Vec::new();
            wire::encode_frame(version, envelopes, &mut frame).unwrap();
            let name = if version == 1 { name.to_owned() } else { format!("{name}_{version}") };
            made.insert(("frame", name), frame);
        };
        for ((name, _), envelope) in messages.iter().zip(&all) {
            put(name, std::slice::from_ref(envelope));
        }
        put("all", &all);
    }
    let mut put = |target, name: &str, bytes: Vec<u8>| made.insert((target, name.to_owned()), bytes);
    for (name, one) in entries().into_iter().chain(later_entries()).chain(entries_of_level_2()) {
        let mut bytes = Vec::new();
        entry::encode(&one, &mut bytes).unwrap();
        put("entry", name, bytes);
    }
    let hard_state = HardState { term: 5, vote: Some(NodeId(2)), commit: 9 };
    put("hard_state", "voted", cold::encode(&hard_state).unwrap());
    put("hard_state", "blank", cold::encode(&HardState::default()).unwrap());
    let outline = Outline {
        base: EntryId::new(2, 5),
        terms: vec![EntryId::new(2, 6), EntryId::new(4, 9)],
        memberships: BTreeMap::from([(1, members(&[1, 2, 3])), (8, joint())]),
    };
    put("outline", "compacted", versioned::encode(&outline).unwrap());
    put("outline", "blank", versioned::encode(&Outline::default()).unwrap());
    let mut later = outline;
    later.memberships.insert(9, marked(members(&[1])));
    put("outline", "compacted_2", versioned::encode(&later).unwrap());
    later.memberships.insert(10, leased());
    put("outline", "compacted_4", versioned::encode(&later).unwrap());
    put("membership", "voters", versioned::encode(&members(&[1, 2, 3])).unwrap());
    put("membership", "joint", versioned::encode(&joint()).unwrap());
    put("membership", "joint_2", versioned::encode(&marked(joint())).unwrap());
    put("membership", "leased_4", versioned::encode(&leased()).unwrap());
    let meta = SnapshotMeta {
        last: EntryId::new(3, 400),
        membership: members(&[1, 2, 3]),
        size_bytes: 1 << 20,
        checksum: 0xdead_beef,
    };
    put("snapshot_meta", "three_voters", versioned::encode(&meta).unwrap());
    let meta = SnapshotMeta { membership: marked(meta.membership), ..meta };
    put("snapshot_meta", "three_voters_2", versioned::encode(&meta).unwrap());
    let meta = SnapshotMeta { membership: leased(), ..meta };
    put("snapshot_meta", "leased_4", versioned::encode(&meta).unwrap());
    for (name, table) in [("blank", SessionTable::default()), ("two", sessions())] {
        let applied = EntryId::new(3, 40);
        let mut bytes = Vec::new();
        table.write_to(applied, &mut bytes).unwrap();
        put("session_table", name, bytes);
        put("session_notes", name, table.notes(applied).flat_map(framed).collect());
    }
    made
}

/// The seeds are what this version writes: so they also show that it still reads what the first one wrote.
#[test]
fn the_seeds_are_what_is_written() {
    let rewrite = std::env::var_os("RAFT_REWRITE_SEEDS").is_some();
    for ((target, name), bytes) in made() {
        let path = folder(target).join(name);
        if rewrite {
            fs::create_dir_all(folder(target)).unwrap();
            fs::write(&path, &bytes).unwrap();
        }
        assert_eq!(fs::read(&path).ok().as_ref(), Some(&bytes), "{}", path.display());
    }
}

#[test]
fn every_seed_passes_its_check() {
    for (target, check) in CHECKS {
        let seeds = seeds(target);
        assert!(!seeds.is_empty(), "{target}");
        seeds.iter().for_each(|(_, bytes)| check(bytes));
    }
}

#[test]
fn a_seed_cut_anywhere_passes_its_check() {
    for (target, check) in CHECKS {
        for (_, bytes) in seeds(target) {
            (0..bytes.len()).for_each(|end| check(&bytes[..end]));
        }
    }
}

/// How a seed is changed.
#[derive(Clone, Debug)]
enum Change {
    Byte(prop::sample::Index, u8),
    Number(prop::sample::Index, u64),
    Remove(prop::sample::Index, usize),
    Repeat(prop::sample::Index, usize),
}

impl Change {
    fn make(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let (Self::Byte(at, _) | Self::Number(at, _) | Self::Remove(at, _) | Self::Repeat(at, _)) = self;
        let at = at.index(bytes.len());
        match *self {
            Self::Byte(_, value) => bytes[at] = value,
            Self::Number(_, number) => {
                bytes.iter_mut().skip(at).zip(number.to_le_bytes()).for_each(|(to, from)| *to = from);
            }
            Self::Remove(_, length) => drop(bytes.drain(at..bytes.len().min(at + length))),
            Self::Repeat(_, length) => {
                let part = bytes[at..bytes.len().min(at + length)].to_vec();
                bytes.splice(at..at, part);
            }
        }
    }
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<prop::sample::Index>;
    let number = prop_oneof![
        any::<u64>(),
        0_u64..300,
        Just(u64::MAX),
        Just(u64::MAX - 1),
        Just(1 << 63),
        Just(1 << 62),
        Just(u64::from(u32::MAX)),
        Just(127 << 20),
    ];
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, value)| Change::Byte(at, value)),
        (at(), number).prop_map(|(at, number)| Change::Number(at, number)),
        (at(), 1_usize..60).prop_map(|(at, length)| Change::Remove(at, length)),
        (at(), 1_usize..60).prop_map(|(at, length)| Change::Repeat(at, length)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn changed_seeds_pass_their_checks(
        target in prop::sample::select(CHECKS),
        seed in any::<prop::sample::Index>(),
        changes in prop::collection::vec(change(), 1..5),
    ) {
        let seeds = made().into_iter().filter(|((of, _), _)| *of == target.0).map(|(_, bytes)| bytes);
        let seeds: Vec<Vec<u8>> = seeds.collect();
        let mut bytes = seed.get(&seeds).clone();
        changes.iter().for_each(|change| change.make(&mut bytes));
        target.1(&bytes);
    }

    #[test]
    fn any_bytes_pass_every_check(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        CHECKS.iter().for_each(|(_, check)| check(&bytes));
    }
}
