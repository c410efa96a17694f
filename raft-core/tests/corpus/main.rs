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
use raft_core::codec::{cold, entry, wire};
use raft_core::message::{
    AppendOutcome, AppendRequest, AppendResponse, Envelope, Message, VoteRequest, VoteResponse,
};
use raft_core::types::{Entry, HardState, Outline, Payload, Peer, SnapshotMeta};
use raft_core::{EntryId, GroupId, Incarnation, Membership, NodeId, NodeInfo};

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
    Membership::of_voters(ids.iter().map(info).collect())
}

fn joint() -> Membership {
    Membership {
        voters: [1, 2, 4].map(NodeId).into(),
        outgoing: [1, 2, 3].map(NodeId).into(),
        learners: [3].map(NodeId).into(),
        nodes: members(&[1, 2, 3, 4]).nodes,
    }
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

fn messages() -> Vec<(&'static str, Message)> {
    let vote = VoteRequest { term: 4, last: EntryId::new(3, 9), pre_vote: false, transfer: false };
    let append = AppendRequest {
        term: 3,
        prev: EntryId::new(3, 6),
        entries: entries().into_iter().map(|(_, entry)| entry).collect(),
        commit: 6,
        round: 12,
    };
    let answer =
        |outcome| Message::AppendResponse(AppendResponse { term: 3, round: 12, outcome, priority: 0 });
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
        ("identity_response", Message::IdentityResponse { founded: true }),
    ]
}

/// Real encodings by target and name.
fn made() -> BTreeMap<(&'static str, &'static str), Vec<u8>> {
    let mut made = BTreeMap::new();
    let envelope = |message| Envelope { group: GroupId(1), from: peer(1), to: peer(2), message };
    let mut all = Vec::new();
    for (name, message) in messages() {
        let mut frame = Vec::new();
        wire::encode_frame(&[envelope(message.clone())], &mut frame).unwrap();
        made.insert(("frame", name), frame);
        all.push(envelope(message));
    }
    let mut frame = Vec::new();
    wire::encode_frame(&all, &mut frame).unwrap();
    made.insert(("frame", "all"), frame);
    for (name, one) in entries() {
        let mut bytes = Vec::new();
        entry::encode(&one, &mut bytes).unwrap();
        made.insert(("entry", name), bytes);
    }
    let hard_state = HardState { term: 5, vote: Some(NodeId(2)), commit: 9 };
    made.insert(("hard_state", "voted"), cold::encode(&hard_state).unwrap());
    made.insert(("hard_state", "blank"), cold::encode(&HardState::default()).unwrap());
    let outline = Outline {
        base: EntryId::new(2, 5),
        terms: vec![EntryId::new(2, 6), EntryId::new(4, 9)],
        memberships: BTreeMap::from([(1, members(&[1, 2, 3])), (8, joint())]),
    };
    made.insert(("outline", "compacted"), cold::encode(&outline).unwrap());
    made.insert(("outline", "blank"), cold::encode(&Outline::default()).unwrap());
    made.insert(("membership", "voters"), cold::encode(&members(&[1, 2, 3])).unwrap());
    made.insert(("membership", "joint"), cold::encode(&joint()).unwrap());
    let meta = SnapshotMeta {
        last: EntryId::new(3, 400),
        membership: members(&[1, 2, 3]),
        size_bytes: 1 << 20,
        checksum: 0xdead_beef,
    };
    made.insert(("snapshot_meta", "three_voters"), cold::encode(&meta).unwrap());
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
