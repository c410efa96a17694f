//! The table: what it decides, what it keeps, and that batches make no difference.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::session::Serial;

fn limits(idle_ms: u64, sessions: u32, answers: u32, bytes: u32) -> SessionLimits {
    SessionLimits {
        idle: Duration::from_millis(idle_ms),
        max_sessions: sessions,
        max_answers: answers,
        max_answer_bytes: bytes,
    }
}

fn open(index: Index, elapsed_ms: u64, limits: SessionLimits) -> (Index, SessionEntry) {
    (index, SessionEntry { elapsed_ms, action: SessionAction::Open { mark: 7, limits } })
}

fn id(index: Index) -> SessionId {
    SessionId { index, mark: 7 }
}

fn command(session: Index, number: u64, seen_below: u64, elapsed_ms: u64) -> SessionEntry {
    let serial = Serial { session: id(session), number, seen_below };
    SessionEntry { elapsed_ms, action: SessionAction::Command { serial, command: Bytes::new() } }
}

/// One entry, where the machine would reply `reply`: what its caller is told, and whether the machine was asked.
fn apply(
    table: &mut SessionTable,
    index: Index,
    entry: &SessionEntry,
    reply: &str,
) -> (Result<Bytes, SessionError>, bool) {
    let verdict = table.take(index, entry);
    let applied = verdict == Verdict::Apply;
    let reply = Bytes::copy_from_slice(reply.as_bytes());
    (table.settle(entry, verdict, applied.then_some(&reply)), applied)
}

/// A table with session 1.
fn opened(limits: SessionLimits) -> SessionTable {
    let mut table = SessionTable::default();
    let (index, entry) = open(1, 0, limits);
    let (answer, _) = apply(&mut table, index, &entry, "");
    assert_eq!(answer.unwrap(), id(1).to_bytes()[..]);
    table
}

#[test]
fn a_repeated_command_gets_its_first_answer() {
    let mut table = opened(limits(1000, 10, 4, 1000));
    let first = command(1, 0, 0, 0);
    assert_eq!(apply(&mut table, 2, &first, "one"), (Ok("one".into()), true));
    assert_eq!(apply(&mut table, 3, &first, "two"), (Ok("one".into()), false));
    // Numbers need not come in order.
    assert_eq!(apply(&mut table, 4, &command(1, 2, 0, 0), "three"), (Ok("three".into()), true));
    assert_eq!(apply(&mut table, 5, &command(1, 1, 0, 0), "two"), (Ok("two".into()), true));
}

#[test]
fn what_the_client_has_seen_is_let_go_of_and_never_applied_again() {
    let mut table = opened(limits(1000, 10, 2, 1000));
    for number in 0..2 {
        assert!(apply(&mut table, 2 + number, &command(1, number, 0, 0), "x").1);
    }
    assert_eq!(apply(&mut table, 4, &command(1, 2, 0, 0), "x"), (Err(SessionError::Full), false));
    assert_eq!(apply(&mut table, 5, &command(1, 2, 1, 0), "x"), (Ok("x".into()), true));
    assert_eq!(apply(&mut table, 6, &command(1, 0, 0, 0), "x"), (Err(SessionError::Seen), false));
    // Given up before it came.
    assert_eq!(apply(&mut table, 7, &command(1, 3, 5, 0), "x"), (Err(SessionError::Seen), false));
    assert_eq!(table.notes(EntryId::ZERO).count(), 2, "no answer is left");
}

#[test]
fn answers_are_bounded_in_bytes() {
    let mut table = opened(limits(1000, 10, 10, 100));
    let reply = "a reply of forty bytes, as it is counted";
    for number in 0..3 {
        assert!(apply(&mut table, 2 + number, &command(1, number, 0, 0), reply).1);
        assert!(table.sessions[&id(1)].bytes <= 100);
    }
    assert_eq!(apply(&mut table, 5, &command(1, 0, 0, 0), ""), (Err(SessionError::AnswerGone), false));
    assert_eq!(apply(&mut table, 6, &command(1, 2, 0, 0), ""), (Ok(reply.into()), false));
}

#[test]
fn sessions_are_bounded_in_number_and_expire_by_log_time() {
    let mut table = opened(limits(1000, 2, 4, 1000));
    let (index, second) = open(2, 400, limits(1000, 2, 4, 1000));
    assert!(apply(&mut table, index, &second, "").0.is_ok());
    let (index, third) = open(3, 0, limits(1000, 2, 4, 1000));
    assert_eq!(apply(&mut table, index, &third, "").0, Err(SessionError::TooMany));
    // Session 1 is in use: it lasts.
    assert!(apply(&mut table, 4, &command(1, 0, 0, 500), "x").1);
    assert!(apply(&mut table, 5, &command(1, 1, 0, 499), "x").1, "1399 of log time");
    assert_eq!(table.len(), 2);
    assert_eq!(apply(&mut table, 6, &command(2, 0, 0, 1), "x"), (Err(SessionError::Expired), false));
    assert_eq!(table.len(), 1);
    // An expired session's command is not applied again, whatever its number.
    assert_eq!(apply(&mut table, 7, &command(1, 0, 0, 999), "x"), (Err(SessionError::Expired), false));
    assert!(table.is_empty() && table.ends.is_empty());
    let keep = SessionEntry { elapsed_ms: 0, action: SessionAction::Keep { session: id(1), seen_below: 0 } };
    assert_eq!(apply(&mut table, 8, &keep, "").0, Err(SessionError::Expired));
}

#[test]
fn a_closed_session_leaves_nothing() {
    let mut table = opened(limits(1000, 10, 4, 1000));
    table.watch();
    assert!(apply(&mut table, 2, &command(1, 0, 0, 0), "x").1);
    let kept = table.take_changes(EntryId::new(1, 2));
    assert_eq!(kept.iter().filter(|note| note.value.is_some()).count(), 3);
    let close = SessionEntry { elapsed_ms: 0, action: SessionAction::Close { session: id(1) } };
    assert!(apply(&mut table, 3, &close, "").0.is_ok());
    let changes = table.take_changes(EntryId::new(1, 3));
    assert_eq!(changes.iter().filter(|note| note.value.is_none()).count(), 2, "{changes:?}");
    assert!(table.is_empty());
}

/// The notes are kept on disk and in snapshots: these bytes must never change.
#[test]
fn golden_notes() {
    let mut table = opened(limits(0x1000, 3, 4, 5000));
    assert!(apply(&mut table, 2, &command(1, 8, 6, 9), "yes").1);
    let mut bytes = Vec::new();
    table.write_to(EntryId::new(3, 2), &mut bytes).unwrap();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let golden = [
        "00",
        "1b000000",
        "0200", // version
        "0300000000000000",
        "0200000000000000",
        "0900000000000000", // log time
        "01",
        "11",
        "24000000",
        "01",
        "0000000000000001",
        "0000000000000007",
        "0900000000000000", // used
        "0600000000000000", // seen below
        "0010000000000000",
        "030000000400000088130000",
        "19",
        "04000000",
        "02",
        "0000000000000001",
        "0000000000000007",
        "0000000000000008",
        "01",
        "796573",
        "ff",
    ];
    assert_eq!(hex, golden.concat());
    let read = SessionTable::read_from(&mut &bytes[..]).unwrap();
    assert_eq!(read, (table, EntryId::new(3, 2)));
    for end in 0..bytes.len() {
        assert!(SessionTable::read_from(&mut &bytes[..end]).is_err(), "cut at {end}");
    }
    let old = Note { key: Bytes::new(), value: Some(Bytes::copy_from_slice(&hex_of_version_1())) };
    assert_eq!(SessionTable::from_notes([old]), Ok((SessionTable::default(), EntryId::new(3, 2))));
}

/// What the versions before sessions kept.
fn hex_of_version_1() -> [u8; 18] {
    let mut bytes = [0; 18];
    (bytes[0], bytes[2], bytes[10]) = (1, 3, 2);
    bytes
}

fn entries() -> impl Strategy<Value = Vec<(SessionEntry, u8)>> {
    let limits = (1_u64..40, 1_u32..4, 1_u32..5, 0_u32..200).prop_map(|(a, b, c, d)| limits(a, b, c, d));
    // Sessions are opened by early entries most often, so that commands find them.
    let session = 1_u64..12;
    let action = prop_oneof![
        3 => limits.prop_map(|limits| SessionAction::Open { mark: 7, limits }),
        12 => (session.clone(), 0_u64..8, 0_u64..6).prop_map(|(session, number, seen_below)| {
            let serial = Serial { session: id(session), number, seen_below };
            SessionAction::Command { serial, command: Bytes::new() }
        }),
        1 => (session.clone(), 0_u64..6)
            .prop_map(|(session, seen_below)| SessionAction::Keep { session: id(session), seen_below }),
        1 => session.prop_map(|session| SessionAction::Close { session: id(session) }),
    ];
    let entry = (0_u64..4, action).prop_map(|(elapsed_ms, action)| SessionEntry { elapsed_ms, action });
    prop::collection::vec((entry, 0_u8..100), 1..60)
}

proptest! {
    /// However the log is cut into batches, table, applied commands and answers are the same, but that the answer to a repeated
    /// command may be gone with a session that ends later in the batch; the notes of the changes make up the
    /// table; no number of a session is applied twice; and the limits hold.
    #[test]
    fn batches_make_no_difference(entries in entries(), cuts in prop::collection::vec(1_usize..9, 1..60)) {
        let mut single = SessionTable::default();
        let (mut applied_singly, mut answered_singly) = (Vec::new(), Vec::new());
        for (index, (entry, length)) in (1..).zip(&entries) {
            let reply = "x".repeat(usize::from(*length));
            let (answer, applied) = apply(&mut single, index, entry, &reply);
            answered_singly.push(answer);
            if applied {
                applied_singly.push(index);
            }
            for session in single.sessions.values() {
                prop_assert!(session.answers.len() <= session.limits.max_answers as usize);
                prop_assert!(session.bytes <= u64::from(session.limits.max_answer_bytes));
            }
        }
        let mut batched = SessionTable::default();
        batched.watch();
        let mut kept = BTreeMap::new();
        let (mut applied, mut numbers) = (Vec::new(), BTreeSet::new());
        let mut rest = &entries[..];
        let mut next = 1;
        for cut in cuts.into_iter().chain([entries.len()]) {
            let (batch, after) = rest.split_at(cut.min(rest.len()));
            rest = after;
            let mut verdicts = Vec::new();
            for (index, (entry, _)) in (next..).zip(batch) {
                let verdict = batched.take(index, entry);
                if verdict == Verdict::Apply {
                    applied.push(index);
                    if let SessionAction::Command { serial, .. } = &entry.action {
                        prop_assert!(numbers.insert((serial.session, serial.number)), "applied twice");
                    }
                }
                verdicts.push(verdict);
            }
            for (((entry, length), verdict), index) in batch.iter().zip(verdicts).zip(next..) {
                let reply = Bytes::from("x".repeat(usize::from(*length)));
                let answer = batched.settle(entry, verdict, (verdict == Verdict::Apply).then_some(&reply));
                let ended = match &entry.action {
                    SessionAction::Command { serial, .. } => !batched.sessions.contains_key(&serial.session),
                    _ => false,
                };
                if !(ended && verdict == Verdict::Repeated && answer == Err(SessionError::AnswerGone)) {
                    prop_assert_eq!(&answer, &answered_singly[index as usize - 1], "entry {}", index);
                }
            }
            next += batch.len() as Index;
            for Note { key, value } in batched.take_changes(EntryId::new(1, next - 1)) {
                match value {
                    Some(value) => drop(kept.insert(key, value)),
                    None => drop(kept.remove(&key)),
                }
            }
        }
        prop_assert_eq!(&batched, &single);
        prop_assert_eq!(applied, applied_singly);
        let notes = kept.into_iter().map(|(key, value)| Note { key, value: Some(value) });
        let (from_notes, at) = SessionTable::from_notes(notes).unwrap();
        prop_assert_eq!(&from_notes, &single);
        prop_assert_eq!(from_notes.ends, single.ends);
        prop_assert_eq!(at, EntryId::new(1, entries.len() as Index));
    }

    #[test]
    fn any_bytes_are_no_table_or_one(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok((table, applied)) = SessionTable::read_from(&mut &bytes[..]) {
            let mut again = Vec::new();
            table.write_to(applied, &mut again).unwrap();
            prop_assert_eq!(SessionTable::read_from(&mut &again[..]).unwrap(), (table, applied));
        }
    }
}
