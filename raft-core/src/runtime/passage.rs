//! A batch's way through the session table: what is taken from it to the state machine, and what its callers are told.

use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::error::RaftError;
use super::mailbox::lock;
use crate::session::{SessionAction, SessionEntry};
use crate::session_table::{SessionTable, Verdict};
use crate::state_machine::{Bookkeeping, Command, Note};
use crate::types::{Entry, EntryId, Index, Payload};

/// What the callers of a batch's session entries are told, ascending by index.
pub(super) type Answers = Vec<(Index, Result<Bytes, RaftError>)>;

/// A session's entry, and the place of its command among those for the machine.
struct Step {
    index: Index,
    entry: Box<SessionEntry>,
    verdict: Verdict,
    place: Option<usize>,
}

/// The entries of a batch, with their sessions' verdicts.
pub(super) struct Passage {
    table: Arc<Mutex<SessionTable>>,
    pub(super) commands: Vec<Command>,
    pub(super) last: EntryId,
    steps: Vec<Step>,
}

impl Passage {
    pub(super) const fn new(table: Arc<Mutex<SessionTable>>) -> Self {
        Self { table, commands: Vec::new(), last: EntryId::ZERO, steps: Vec::new() }
    }

    pub(super) fn push(&mut self, entries: Vec<Entry>) {
        self.commands.reserve(entries.len());
        for Entry { id, payload } in entries {
            self.last = id;
            match payload {
                Payload::Command(bytes) => self.commands.push(Command { id, bytes }),
                Payload::Session(entry) => self.take(id, entry),
                Payload::Noop | Payload::Membership(_) => {}
            }
        }
    }

    fn take(&mut self, id: EntryId, entry: Box<SessionEntry>) {
        let verdict = lock(&self.table).take(id.index, &entry);
        let place = match &entry.action {
            SessionAction::Command { command, .. } if verdict == Verdict::Apply => {
                self.commands.push(Command { id, bytes: command.clone() });
                Some(self.commands.len() - 1)
            }
            _ => None,
        };
        self.steps.push(Step { index: id.index, entry, verdict, place });
    }

    /// Parts with the commands, for the state machine.
    pub(super) fn take_commands(&mut self) -> Vec<Command> {
        std::mem::take(&mut self.commands)
    }

    /// The machine has applied the commands, and these are its replies, as many.
    fn settle(&mut self, replies: &[Bytes]) -> Answers {
        if self.steps.is_empty() {
            return Answers::new();
        }
        let mut table = lock(&self.table);
        let settled = self.steps.drain(..).map(|Step { index, entry, verdict, place }| {
            let reply = place.and_then(|place| replies.get(place));
            (index, table.settle(&entry, verdict, reply).map_err(RaftError::Session))
        });
        settled.collect()
    }
}

/// A passage whose commands are with the machine. The machine asks for the notes in the middle of its transaction, if it is durable by
/// itself; else the passage is settled when it is done.
#[derive(Clone)]
pub(super) struct Settling(Arc<Mutex<Stage>>);

enum Stage {
    Waiting(Passage),
    Settled(Answers),
}

impl Settling {
    pub(super) fn new(passage: Passage) -> Self {
        Self(Arc::new(Mutex::new(Stage::Waiting(passage))))
    }

    /// What a machine that keeps notes is given.
    pub(super) fn bookkeeping(&self) -> Bookkeeping {
        let settling = self.clone();
        Bookkeeping::new(move |replies| settling.settle(replies))
    }

    fn settle(&self, replies: &[Bytes]) -> Vec<Note> {
        let mut stage = lock(&self.0);
        let Stage::Waiting(passage) = &mut *stage else { return Vec::new() };
        let answers = passage.settle(replies);
        let notes = lock(&passage.table).take_changes(passage.last);
        *stage = Stage::Settled(answers);
        notes
    }

    /// What the callers are told, now that the machine is done; `None` where it has not asked for the notes that it keeps.
    pub(super) fn end(self, replies: &[Bytes], keeps_notes: bool) -> Option<Answers> {
        let mut stage = lock(&self.0);
        match &mut *stage {
            Stage::Settled(answers) => Some(std::mem::take(answers)),
            Stage::Waiting(_) if keeps_notes => None,
            Stage::Waiting(passage) => Some(passage.settle(replies)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{Serial, SessionId, SessionLimits};

    fn entry(index: Index, action: SessionAction) -> Entry {
        let entry = SessionEntry { elapsed_ms: 0, action };
        Entry { id: EntryId::new(1, index), payload: Payload::Session(Box::new(entry)) }
    }

    fn command(index: Index, session: SessionId, number: u64) -> Entry {
        let serial = Serial { session, number, seen_below: 0 };
        entry(index, SessionAction::Command { serial, command: Bytes::from(number.to_string()) })
    }

    #[test]
    fn a_number_that_comes_twice_in_a_batch_is_applied_once_and_answered_alike() {
        let session = SessionId { index: 1, mark: 7 };
        for keeps_notes in [false, true] {
            let mut table = SessionTable::default();
            table.watch();
            let table = Arc::new(Mutex::new(table));
            let mut passage = Passage::new(Arc::clone(&table));
            passage.push(vec![
                entry(1, SessionAction::Open { mark: 7, limits: SessionLimits::default() }),
                command(2, session, 0),
                command(3, session, 1),
                command(4, session, 0),
                command(5, session, 1),
                command(6, session, 0),
            ]);
            let commands: Vec<Index> =
                passage.take_commands().iter().map(|command| command.id.index).collect();
            assert_eq!(commands, [2, 3], "each number is applied once");
            let settling = Settling::new(passage);
            let replies = ["first", "second"].map(Bytes::from);
            if keeps_notes {
                assert!(!settling.bookkeeping().notes(&replies).is_empty());
            }
            let answers = settling.end(&replies, keeps_notes).unwrap();
            let opened = Bytes::copy_from_slice(&session.to_bytes());
            let expected =
                [opened, "first".into(), "second".into(), "first".into(), "second".into(), "first".into()];
            assert_eq!(answers, (1..).zip(expected.map(Ok)).collect::<Vec<_>>());
        }
    }
}
