//! What must hold of any bytes that reach a decoder. The fuzz targets in `raft-core/fuzz` and the test `corpus` share this file.

use std::fmt::Debug;

use bytes::Bytes;
use raft_core::codec::versioned::{self, Versioned};
use raft_core::codec::{cold, entry, wire};
use raft_core::engine::EngineOptions;
use raft_core::log_store::LogState;
use raft_core::message::Envelope;
use raft_core::session::{Serial, SessionAction, SessionEntry, SessionId, SessionLimits};
use raft_core::session_table::{Note, SessionTable, Verdict};
use raft_core::types::{Entry, EntryId, HardState, Outline, Payload, Peer, SnapshotMeta, Time};
use raft_core::{Config, Engine, GroupId, Incarnation, Membership, NodeId};

/// Panics where something does not hold of these bytes.
pub(crate) type Check = fn(&[u8]);

/// A check for each decoder, under the name of its fuzz target and of its folder of seeds.
#[allow(dead_code, reason = "each fuzz target uses one")]
pub(crate) const CHECKS: &[(&str, Check)] = &[
    ("frame", frame),
    ("entry", entry),
    ("hard_state", hard_state),
    ("outline", outline),
    ("membership", membership),
    ("snapshot_meta", snapshot_meta),
    ("session_table", session_table),
    ("session_notes", session_notes),
];

const HEADER: usize = wire::FRAME_HEADER_BYTES;

/// A frame, taken for one of each version, as it stands; then its body behind a right header; then that with the checksums of its entries put right too, so
/// that a fuzzer gets behind them.
pub(crate) fn frame(bytes: &[u8]) {
    let Some((header, body)) = bytes.split_first_chunk::<HEADER>() else { return };
    let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
    match wire::body_bytes(*header) {
        Ok(known) => assert!(known == length && known <= wire::MAX_FRAME_BYTES),
        Err(_) => assert!(length > wire::MAX_FRAME_BYTES),
    }
    for version in wire::VERSIONS {
        let taken = frame_of(version, *header, body);
        assert!(!taken || length == body.len(), "a frame of another length was taken");
        frame_of(version, header_of(body), body);
        let mut mended = body.to_vec();
        mend_frame(version, &mut mended);
        frame_of(version, header_of(&mended), &mended);
    }
}

fn header_of(body: &[u8]) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    header[4..].copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
    header
}

/// Whether it was taken.
fn frame_of(version: u16, header: [u8; HEADER], body: &[u8]) -> bool {
    let Ok(envelopes) = wire::decode_frame(version, header, Bytes::copy_from_slice(body)) else {
        return false;
    };
    let mut again = Vec::new();
    wire::encode_frame(version, &envelopes, &mut again).expect("what was decoded can be encoded");
    if !envelopes.iter().flat_map(entries).any(holds_membership) {
        assert_eq!(again[..HEADER], header);
        assert_eq!(again[HEADER..], *body);
    }
    let (header, body) = again.split_first_chunk().expect("a frame has a header");
    let twice =
        wire::decode_frame(version, *header, Bytes::copy_from_slice(body)).expect("what was encoded decodes");
    assert_eq!(twice, envelopes);
    // What was decoded costs no more memory than a few times what came in.
    assert!(envelopes.len() <= body.len() / 41);
    for envelope in &envelopes {
        let _lane = envelope.lane();
        assert!(envelope.bytes() <= 96 + 10 * body.len());
    }
    true
}

fn entries(envelope: &Envelope) -> &[Entry] {
    match &envelope.message {
        raft_core::message::Message::AppendRequest(append) => &append.entries,
        _ => &[],
    }
}

/// Its sets may come in any order, and are kept sorted: the bytes may be others.
fn holds_membership(entry: &Entry) -> bool {
    matches!(entry.payload, Payload::Membership(_))
}

/// Puts the checksums of entries right in a frame's body, as far as it can be followed.
fn mend_frame(version: u16, body: &mut [u8]) {
    let ends = if version == 1 { 40 } else { 48 };
    let mut at = 0;
    while let Some(&kind) = body.get(at + ends) {
        at += ends + 1;
        at += match kind {
            1 => 26,
            2 => 10,
            3 => {
                let Some(count) = body.get(at + 40..at + 44) else { return };
                let count = u32::from_le_bytes([count[0], count[1], count[2], count[3]]);
                at += 44;
                for _ in 0..count {
                    match mend_entry(body.get_mut(at..).unwrap_or_default()) {
                        Some(length) => at += length,
                        None => return,
                    }
                }
                0
            }
            4 => match body.get(at + 16) {
                Some(0) => 33,
                Some(1) => 49,
                _ => 17,
            },
            5 => 0,
            6 if version > 1 => 17,
            _ => 1,
        };
    }
}

/// Puts an entry's checksum right; its length, where it is whole.
fn mend_entry(bytes: &mut [u8]) -> Option<usize> {
    let payload = bytes.get(4..8)?;
    let payload = u32::from_le_bytes([payload[0], payload[1], payload[2], payload[3]]) as usize;
    let length = payload.checked_add(entry::HEADER_BYTES)?;
    let checksum = crc32c::crc32c(bytes.get(4..length)?);
    bytes[..4].copy_from_slice(&checksum.to_le_bytes());
    Some(length)
}

/// An entry, as it stands and with its checksum put right, at the front of whatever follows.
pub(crate) fn entry(bytes: &[u8]) {
    entry_of(bytes);
    let mut mended = bytes.to_vec();
    mend_entry(&mut mended);
    entry_of(&mended);
}

fn entry_of(bytes: &[u8]) {
    let mut rest = Bytes::copy_from_slice(bytes);
    let Ok(decoded) = entry::decode(&mut rest) else { return };
    let taken = bytes.len() - rest.len();
    assert_eq!(rest, bytes[taken..], "what follows is left as it was");
    let mut again = Vec::new();
    entry::encode(&decoded, &mut again).expect("what was decoded can be encoded");
    if !holds_membership(&decoded) {
        assert_eq!(again, bytes[..taken]);
    }
    let mut again = Bytes::from(again);
    assert_eq!(entry::decode(&mut again).as_ref(), Ok(&decoded));
    assert!(again.is_empty());
    assert!(decoded.bytes() <= Entry::OVERHEAD_BYTES + 16 + 10 * taken);
    if let Payload::Membership(membership) = &decoded.payload {
        use_membership(membership);
    }
}

fn structure<T: Versioned + PartialEq + Debug>(bytes: &[u8]) -> Option<T> {
    let value: T = versioned::decode(bytes).ok()?;
    let again = versioned::encode(&value).expect("what was decoded can be encoded");
    // Shorter where a set named something twice.
    assert!(again.len() <= bytes.len());
    let twice: T = versioned::decode(&again).expect("what was encoded decodes");
    assert_eq!(value, twice);
    assert_eq!(again, versioned::encode(&twice).expect("as before"));
    Some(value)
}

/// A hard state, and an engine that begins with it.
pub(crate) fn hard_state(bytes: &[u8]) {
    let Ok(value) = cold::decode::<HardState>(bytes) else { return };
    assert_eq!(cold::encode(&value).expect("as before"), bytes);
    for last in [0, value.commit] {
        begin(LogState { hard_state: value, last, ..LogState::default() });
    }
}

/// An outline, and an engine that begins with it.
pub(crate) fn outline(bytes: &[u8]) {
    let Some(value) = structure::<Outline>(bytes) else { return };
    value.memberships.values().for_each(use_membership);
    let end = value.terms.last().map_or(value.base, |first| *first);
    for last in [0, end.index, end.index.saturating_add(1), u64::MAX] {
        let _term = value.term(last);
        let hard_state = HardState { term: end.term, vote: None, commit: value.base.index };
        begin(LogState { hard_state, outline: value.clone(), last, ..LogState::default() });
    }
}

/// A configuration.
pub(crate) fn membership(bytes: &[u8]) {
    if let Some(value) = structure::<Membership>(bytes) {
        use_membership(&value);
    }
}

/// A snapshot's meta data.
pub(crate) fn snapshot_meta(bytes: &[u8]) {
    if let Some(value) = structure::<SnapshotMeta>(bytes) {
        use_membership(&value.membership);
    }
}

/// The sessions at the front of a snapshot, and whatever follows.
pub(crate) fn session_table(bytes: &[u8]) {
    let mut rest = bytes;
    let Ok((table, applied)) = SessionTable::read_from(&mut rest) else { return };
    let taken = bytes.len() - rest.len();
    assert_eq!(rest, &bytes[taken..], "what follows is left as it was");
    let mut again = Vec::new();
    table.write_to(applied, &mut again).expect("what was read can be written");
    // What the version before sessions wrote is nine bytes shorter.
    assert!(
        again.len() == taken || (again.len() == taken + 9 && !table.is_used()),
        "{} {taken}",
        again.len()
    );
    assert_eq!(
        SessionTable::read_from(&mut &again[..]).expect("what was written is read"),
        (table.clone(), applied)
    );
    use_sessions(table, applied);
}

/// What a machine that is durable by itself gives back, one note after another: the lengths of key and value in a byte each, and both.
pub(crate) fn session_notes(mut bytes: &[u8]) {
    let mut notes = Vec::new();
    while let Some((&[key, value], rest)) = bytes.split_first_chunk() {
        let (key, value) = (usize::from(key).min(rest.len()), usize::from(value));
        let (key, rest) = rest.split_at(key);
        let (value, rest) = rest.split_at(value.min(rest.len()));
        let [key, value] = [key, value].map(Bytes::copy_from_slice);
        notes.push(Note { key, value: Some(value) });
        bytes = rest;
    }
    let count = notes.len();
    let Ok((table, applied)) = SessionTable::from_notes(notes) else { return };
    let again: Vec<Note> = table.notes(applied).collect();
    assert_eq!(again.len(), count);
    assert_eq!(SessionTable::from_notes(again).expect("what was noted decodes"), (table.clone(), applied));
    use_sessions(table, applied);
}

/// Sessions that were read go on: commands, new ones, and time.
fn use_sessions(mut table: SessionTable, applied: EntryId) {
    table.watch();
    let known: Vec<SessionId> = table.ids().take(4).collect();
    let mut actions = vec![SessionAction::Open { mark: 7, limits: SessionLimits::default() }];
    for session in known {
        let command = |number, seen_below| {
            let serial = Serial { session, number, seen_below };
            SessionAction::Command { serial, command: Bytes::from_static(b"c") }
        };
        actions.extend([command(0, 0), command(1, 0), command(u64::MAX, 2), command(3, u64::MAX)]);
        actions.push(SessionAction::Keep { session, seen_below: 1 });
        actions.push(SessionAction::Close { session });
    }
    let reply = Bytes::from_static(b"done");
    // What is read may be anywhere up to the end of the numbers; a node is started on none of those.
    for (action, step) in actions.into_iter().zip(1..) {
        let index = applied.index.saturating_add(step);
        let entry = SessionEntry { elapsed_ms: 1_000, action };
        let verdict = table.take(index, &entry);
        let reply = (verdict == Verdict::Apply).then_some(&reply);
        let _told = table.settle(&entry, verdict, reply);
        let _notes = table.take_changes(EntryId::new(applied.term, index));
    }
    let ages = SessionEntry {
        elapsed_ms: u64::MAX,
        action: SessionAction::Open { mark: 8, limits: SessionLimits::default() },
    };
    let _verdict = table.take(applied.index, &ages);
}

fn use_membership(membership: &Membership) {
    let valid = membership.validate().is_ok();
    let everybody = membership.quorum(|_| u64::MAX);
    assert!(!valid || everybody == u64::MAX);
    assert_eq!(membership.quorum(|_| 0), 0);
    assert!(!membership.to_string().is_empty() && membership.bytes() >= 16);
}

/// A state that a store might give back begins an engine or is refused; an engine that began goes on for a while.
fn begin(state: LogState) {
    let applied = state.outline.base.index;
    let options = EngineOptions {
        config: Config::default(),
        group: GroupId::default(),
        local: Peer { node: NodeId(1), incarnation: Incarnation(1) },
        seed: 1,
        state,
        applied,
        now: Time::ZERO,
    };
    let Ok(mut engine) = Engine::new(options) else { return };
    for _ in 0..8 {
        let now = engine.deadline().min(Time::from_secs(1_000_000));
        engine.tick(now);
        let ready = engine.ready(now);
        assert_eq!(ready.fatal, None);
        if let Some(write) = ready.write {
            engine.written(write.number, now);
        }
        let _status = engine.status();
    }
}
