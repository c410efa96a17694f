//! The sessions as part of the replicated state: which commands were applied, and their answers (thesis, 6.3).
//!
//! A command's way through it has two steps, since its answer is not known before the state machine gives it, and that takes a
//! whole batch. [`SessionTable::take`] decides from numbers alone whether the command is to be applied. [`SessionTable::settle`]
//! keeps the answer, and does everything that depends on answers' lengths. Both come in the order of the log, all `take` of a
//! batch before its first `settle`, and how the log is cut into batches makes no difference.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};

use bytes::{Buf, BufMut, Bytes};

use crate::codec::CodecError;
use crate::codec::session::{put_limits, take_limits};
use crate::session::{SessionAction, SessionEntry, SessionError, SessionId, SessionLimits};
use crate::types::{EntryId, Index};

/// What an answer costs beside its bytes.
const ANSWER_OVERHEAD_BYTES: u64 = 32;

/// All open sessions. The same on every node that has applied the same entries.
#[derive(Clone, Debug, Default)]
pub struct SessionTable {
    /// Log time in milliseconds: the sum of what the entries said.
    now_ms: u64,
    /// Whether an entry of a session was ever applied.
    used: bool,
    sessions: BTreeMap<SessionId, Session>,
    /// When each is over.
    ends: BTreeSet<(u64, SessionId)>,
    /// What changed since [`take_changes`](SessionTable::take_changes), where somebody wants to know.
    changes: Option<BTreeSet<Key>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Session {
    limits: SessionLimits,
    used_ms: u64,
    /// Numbers below it are done with.
    seen_below: u64,
    /// By number. Those below `seen_below` go when the entry that said so is settled.
    answers: BTreeMap<u64, Answer>,
    /// What the kept answers cost.
    bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    /// The command is being applied.
    Coming,
    Kept(Bytes),
    /// There was no room for it.
    Gone,
}

/// What becomes of a session's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Its command is to be applied, and the reply given to [`SessionTable::settle`].
    Apply,
    /// Its command was applied before, or is earlier in this batch.
    Repeated,
    /// A session was opened.
    Opened(SessionId),
    /// There is nothing more to do.
    Done,
    /// It asks for what cannot be.
    Refused(SessionError),
}

/// A part of the table by itself: what a durable machine keeps under one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Session(SessionId),
    Answer(SessionId, u64),
}

/// Something that the library wants kept under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The key: at most [`Note::MAX_KEY_BYTES`].
    pub key: Bytes,
    /// What is to be kept under it from now on; `None`: nothing.
    pub value: Option<Bytes>,
}

impl Note {
    /// The longest key.
    pub const MAX_KEY_BYTES: usize = 25;
}

impl PartialEq for SessionTable {
    fn eq(&self, other: &Self) -> bool {
        (self.now_ms, self.used, &self.sessions) == (other.now_ms, other.used, &other.sessions)
    }
}

impl Eq for SessionTable {}

impl SessionTable {
    /// Keeps account of changes from now on.
    pub fn watch(&mut self) {
        self.changes = Some(BTreeSet::new());
    }

    /// Whether an entry of a session was ever applied: then every member understood them.
    pub const fn is_used(&self) -> bool {
        self.used
    }

    /// How many sessions there are.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether there is no session.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// The sessions, oldest first.
    pub fn ids(&self) -> impl Iterator<Item = SessionId> + '_ {
        self.sessions.keys().copied()
    }

    /// Log time in milliseconds.
    pub const fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// The first step of an entry, at `index`: from numbers alone, what becomes of it.
    pub fn take(&mut self, index: Index, entry: &SessionEntry) -> Verdict {
        self.used = true;
        self.now_ms = self.now_ms.saturating_add(entry.elapsed_ms);
        while let Some(&(end, id)) = self.ends.first().filter(|&&(end, _)| end <= self.now_ms) {
            debug_assert!(self.sessions.get(&id).is_some_and(|session| session.end_ms() == end));
            self.remove(id);
        }
        match entry.action {
            SessionAction::Open { mark, limits } => {
                if self.sessions.len() >= limits.max_sessions as usize {
                    return Verdict::Refused(SessionError::TooMany);
                }
                let id = SessionId { index, mark };
                let session = Session {
                    limits,
                    used_ms: self.now_ms,
                    seen_below: 0,
                    answers: BTreeMap::new(),
                    bytes: 0,
                };
                self.ends.insert((session.end_ms(), id));
                self.sessions.insert(id, session);
                self.changed(Key::Session(id));
                Verdict::Opened(id)
            }
            SessionAction::Command { serial, .. } => {
                let Some(session) = self.used_now(serial.session, serial.seen_below) else {
                    return Verdict::Refused(SessionError::Expired);
                };
                let window = u64::from(session.limits.max_answers);
                if serial.number < session.seen_below {
                    Verdict::Refused(SessionError::Seen)
                } else if session.answers.contains_key(&serial.number) {
                    Verdict::Repeated
                } else if serial.number - session.seen_below >= window {
                    Verdict::Refused(SessionError::Full)
                } else {
                    session.answers.insert(serial.number, Answer::Coming);
                    Verdict::Apply
                }
            }
            SessionAction::Keep { session, seen_below } => match self.used_now(session, seen_below) {
                Some(_) => Verdict::Done,
                None => Verdict::Refused(SessionError::Expired),
            },
            SessionAction::Close { session } => {
                self.remove(session);
                Verdict::Done
            }
        }
    }

    /// The second step, with the machine's reply where the command was applied: what its caller is told. The reply to an opening
    /// is the session's id as [`SessionId::to_bytes`].
    ///
    /// # Errors
    /// What the session's client has to know.
    pub fn settle(
        &mut self,
        entry: &SessionEntry,
        verdict: Verdict,
        reply: Option<&Bytes>,
    ) -> Result<Bytes, SessionError> {
        match entry.action {
            SessionAction::Command { serial, .. } => {
                self.forget(serial.session, serial.seen_below);
                match (verdict, reply) {
                    (Verdict::Apply, Some(reply)) => {
                        self.keep(serial.session, serial.number, reply);
                        Ok(reply.clone())
                    }
                    (Verdict::Refused(error), _) => Err(error),
                    _ => self.answer(serial.session, serial.number).ok_or(SessionError::AnswerGone),
                }
            }
            SessionAction::Keep { session, seen_below } => {
                self.forget(session, seen_below);
                answer_to(verdict)
            }
            SessionAction::Open { .. } | SessionAction::Close { .. } => answer_to(verdict),
        }
    }

    /// The session, with its time begun anew.
    fn used_now(&mut self, id: SessionId, seen_below: u64) -> Option<&mut Session> {
        let session = self.sessions.get_mut(&id)?;
        if let Some(changes) = &mut self.changes {
            changes.insert(Key::Session(id));
        }
        if session.used_ms != self.now_ms {
            self.ends.remove(&(session.end_ms(), id));
            session.used_ms = self.now_ms;
            self.ends.insert((session.end_ms(), id));
        }
        session.seen_below = session.seen_below.max(seen_below);
        Some(session)
    }

    fn remove(&mut self, id: SessionId) {
        let Some(session) = self.sessions.remove(&id) else { return };
        self.ends.remove(&(session.end_ms(), id));
        if let Some(changes) = &mut self.changes {
            changes.insert(Key::Session(id));
            changes.extend(session.answers.keys().map(|&number| Key::Answer(id, number)));
        }
    }

    /// Lets go of the answers that the client has seen.
    fn forget(&mut self, id: SessionId, seen_below: u64) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        while let Some(first) = session.answers.first_entry().filter(|first| *first.key() < seen_below) {
            let (number, answer) = first.remove_entry();
            session.bytes -= answer.bytes();
            if let Some(changes) = &mut self.changes {
                changes.insert(Key::Answer(id, number));
            }
        }
    }

    fn keep(&mut self, id: SessionId, number: u64, reply: &Bytes) {
        // The session may have ended, or its client lost interest, later in this batch.
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Some(answer) = session.answers.get_mut(&number) else { return };
        *answer = Answer::Kept(reply.clone());
        session.bytes += answer.bytes();
        if let Some(changes) = &mut self.changes {
            changes.insert(Key::Answer(id, number));
        }
        let limit = u64::from(session.limits.max_answer_bytes);
        let Session { answers, bytes, .. } = session;
        for (&number, answer) in answers.iter_mut() {
            if *bytes <= limit {
                break;
            }
            if let Answer::Kept(_) = answer {
                *bytes -= answer.bytes();
                *answer = Answer::Gone;
                if let Some(changes) = &mut self.changes {
                    changes.insert(Key::Answer(id, number));
                }
            }
        }
    }

    fn answer(&self, id: SessionId, number: u64) -> Option<Bytes> {
        match self.sessions.get(&id)?.answers.get(&number)? {
            Answer::Kept(reply) => Some(reply.clone()),
            Answer::Coming | Answer::Gone => None,
        }
    }

    fn changed(&mut self, key: Key) {
        if let Some(changes) = &mut self.changes {
            changes.insert(key);
        }
    }
}

fn answer_to(verdict: Verdict) -> Result<Bytes, SessionError> {
    match verdict {
        Verdict::Opened(id) => Ok(Bytes::copy_from_slice(&id.to_bytes())),
        Verdict::Refused(error) => Err(error),
        Verdict::Apply | Verdict::Repeated | Verdict::Done => Ok(Bytes::new()),
    }
}

impl Session {
    fn end_ms(&self) -> u64 {
        let idle = u64::try_from(self.limits.idle.as_millis()).unwrap_or(u64::MAX);
        self.used_ms.saturating_add(idle)
    }
}

impl Answer {
    fn bytes(&self) -> u64 {
        match self {
            Self::Kept(reply) => ANSWER_OVERHEAD_BYTES + reply.len() as u64,
            Self::Coming | Self::Gone => 0,
        }
    }
}

/// The version of the notes.
const VERSION: u16 = 2;

/// The notes before sessions came: where the machine is, and nothing else.
const WITHOUT_SESSIONS: u16 = 1;

const SESSION: u8 = 1;
const ANSWER: u8 = 2;

/// The table as notes, integers in values little-endian:
///
/// | key | value |
/// | --- | --- |
/// | empty | version 2 in two bytes; term and index of the last entry applied, log time in ms, 8 each; whether sessions were ever used, 1 |
/// | 1, the session's index and mark, big-endian | last used, seen below, 8 each; limits as in [`codec::session`](crate::codec::session) |
/// | 2, index, mark, number, big-endian | 0: gone; 1 and then the answer |
///
/// Version 1 has the empty key only, without what follows the index. Keys are big-endian so that what belongs together lies together
/// where they are sorted.
impl SessionTable {
    /// What changed since it was last asked, beside where the machine is, which is `applied` now.
    pub fn take_changes(&mut self, applied: EntryId) -> Vec<Note> {
        let changes = self.changes.as_mut().map(std::mem::take).unwrap_or_default();
        let mut notes = vec![self.head(applied)];
        notes.extend(changes.into_iter().map(|key| self.note(key)));
        notes
    }

    /// The whole table, and where the machine is.
    pub fn notes(&self, applied: EntryId) -> impl Iterator<Item = Note> + '_ {
        let parts = self.sessions.iter().flat_map(|(&id, session)| {
            let answers = session.answers.keys().map(move |&number| Key::Answer(id, number));
            std::iter::once(Key::Session(id)).chain(answers)
        });
        std::iter::once(self.head(applied)).chain(parts.map(|key| self.note(key)))
    }

    fn head(&self, applied: EntryId) -> Note {
        let mut value = Vec::with_capacity(27);
        value.put_u16_le(VERSION);
        value.put_u64_le(applied.term);
        value.put_u64_le(applied.index);
        value.put_u64_le(self.now_ms);
        value.put_u8(u8::from(self.used));
        Note { key: Bytes::new(), value: Some(value.into()) }
    }

    fn note(&self, key: Key) -> Note {
        let mut name = Vec::with_capacity(Note::MAX_KEY_BYTES);
        let (Key::Session(id) | Key::Answer(id, _)) = key;
        name.put_u8(if matches!(key, Key::Session(_)) { SESSION } else { ANSWER });
        name.put_u64(id.index);
        name.put_u64(id.mark);
        let session = self.sessions.get(&id);
        let value = match key {
            Key::Session(_) => session.map(|session| {
                let mut value = Vec::new();
                value.put_u64_le(session.used_ms);
                value.put_u64_le(session.seen_below);
                put_limits(&session.limits, &mut value);
                value
            }),
            Key::Answer(_, number) => {
                name.put_u64(number);
                session.and_then(|session| session.answers.get(&number)).map(|answer| match answer {
                    Answer::Kept(reply) => [&[1], &reply[..]].concat(),
                    Answer::Coming | Answer::Gone => vec![0],
                })
            }
        };
        Note { key: name.into(), value: value.map(Bytes::from) }
    }

    /// What the notes that were kept make up, and where the machine is. Their order does not matter.
    ///
    /// # Errors
    /// Where they are not such notes, or one is missing.
    pub fn from_notes(notes: impl IntoIterator<Item = Note>) -> Result<(Self, EntryId), CodecError> {
        let mut table = Self::default();
        let mut applied = None;
        let mut answers = Vec::new();
        for Note { mut key, value } in notes {
            let mut value = value.ok_or(CodecError::Malformed)?;
            match key.try_get_u8() {
                Err(_) => {
                    let head = table.take_head(&mut value)?;
                    if applied.replace(head).is_some() {
                        return Err(CodecError::Malformed);
                    }
                }
                Ok(SESSION) => {
                    let id = take_id(&mut key)?;
                    let session = take_session(&mut value)?;
                    table.ends.insert((session.end_ms(), id));
                    if table.sessions.insert(id, session).is_some() {
                        return Err(CodecError::Malformed);
                    }
                }
                Ok(ANSWER) => {
                    let (id, number) = (take_id(&mut key)?, key.try_get_u64().map_err(cut)?);
                    let answer = match value.try_get_u8().map_err(cut)? {
                        0 => Answer::Gone,
                        1 => Answer::Kept(std::mem::take(&mut value)),
                        other => return Err(CodecError::UnknownKind(other)),
                    };
                    answers.push((id, number, answer));
                }
                Ok(other) => return Err(CodecError::UnknownKind(other)),
            }
            if !key.is_empty() || !value.is_empty() {
                return Err(CodecError::Trailing);
            }
        }
        for (id, number, answer) in answers {
            let session = table.sessions.get_mut(&id).ok_or(CodecError::Malformed)?;
            session.bytes += answer.bytes();
            if session.answers.insert(number, answer).is_some() {
                return Err(CodecError::Malformed);
            }
        }
        Ok((table, applied.ok_or(CodecError::Truncated)?))
    }

    fn take_head(&mut self, value: &mut Bytes) -> Result<EntryId, CodecError> {
        let version = value.try_get_u16_le().map_err(cut)?;
        if version != VERSION && version != WITHOUT_SESSIONS {
            return Err(CodecError::Unsupported);
        }
        let applied = EntryId::new(take_u64(value)?, take_u64(value)?);
        if version == VERSION {
            self.now_ms = take_u64(value)?;
            self.used = match value.try_get_u8().map_err(cut)? {
                0 => false,
                1 => true,
                other => return Err(CodecError::UnknownKind(other)),
            };
        }
        Ok(applied)
    }

    /// Writes all notes one after another: the key's length in one byte, the value's in four, both; then `ff`.
    ///
    /// # Errors
    /// Those of `sink`.
    pub fn write_to(&self, applied: EntryId, sink: &mut dyn Write) -> io::Result<()> {
        for Note { key, value } in self.notes(applied) {
            let value = value.unwrap_or_default();
            let too_long = |_| io::Error::other("a note is too long");
            sink.write_all(&[u8::try_from(key.len()).map_err(too_long)?])?;
            sink.write_all(&u32::try_from(value.len()).map_err(too_long)?.to_le_bytes())?;
            sink.write_all(&key)?;
            sink.write_all(&value)?;
        }
        sink.write_all(&[END])
    }

    /// Reads what [`write_to`](Self::write_to) wrote, and nothing after it.
    ///
    /// # Errors
    /// Those of `source`; [`InvalidData`](io::ErrorKind::InvalidData) where it is no such table.
    pub fn read_from(source: &mut dyn Read) -> io::Result<(Self, EntryId)> {
        let mut notes = Vec::new();
        loop {
            let mut key_bytes = [0];
            source.read_exact(&mut key_bytes)?;
            if key_bytes[0] == END {
                break;
            }
            let mut value_bytes = [0; 4];
            source.read_exact(&mut value_bytes)?;
            let key = read_bytes(source, u32::from(key_bytes[0]))?;
            let value = read_bytes(source, u32::from_le_bytes(value_bytes))?;
            notes.push(Note { key: key.into(), value: Some(value.into()) });
        }
        let damaged = |error: CodecError| {
            io::Error::new(io::ErrorKind::InvalidData, format!("the sessions do not decode: {error}"))
        };
        Self::from_notes(notes).map_err(damaged)
    }
}

/// Stands where a key's length would, after the last note.
const END: u8 = 0xff;

/// Allocates no more than there is, whatever the length says.
fn read_bytes(source: &mut dyn Read, length: u32) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(u64::from(length)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == u64::from(length) { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn cut<E>(_: E) -> CodecError {
    CodecError::Truncated
}

fn take_u64(bytes: &mut Bytes) -> Result<u64, CodecError> {
    bytes.try_get_u64_le().map_err(cut)
}

fn take_id(key: &mut Bytes) -> Result<SessionId, CodecError> {
    Ok(SessionId { index: key.try_get_u64().map_err(cut)?, mark: key.try_get_u64().map_err(cut)? })
}

fn take_session(value: &mut Bytes) -> Result<Session, CodecError> {
    Ok(Session {
        used_ms: take_u64(value)?,
        seen_below: take_u64(value)?,
        limits: take_limits(value)?,
        answers: BTreeMap::new(),
        bytes: 0,
    })
}

#[cfg(test)]
mod tests;
