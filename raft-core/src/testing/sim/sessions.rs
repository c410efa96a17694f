//! Clients with sessions: they repeat a command that is not answered, at any node, also while an earlier attempt is on its way; and
//! each command is applied at most once, with one answer.

use bytes::{BufMut, Bytes, BytesMut};

use super::clients::CallId;
use super::world::{Event, World, place};
use crate::codec::cold;
use crate::engine::{Planted, ProposeError, SESSIONS_LEVEL};
use crate::session::{Numbers, SessionAction, SessionEntry, SessionError, SessionId, SessionLimits};
use crate::session_table::{SessionTable, Verdict};
use crate::testing::invariants::Broken;
use crate::testing::linearizable::Operation;
use crate::types::{Entry, EntryId};

/// A client with a session: one call at a time, however many attempts it takes.
#[derive(Debug, Default)]
pub(super) struct SessionClient {
    numbers: Option<Numbers>,
    call: Option<Sent>,
    /// Counts what it asked for: an answer to something earlier says nothing to it.
    turn: u64,
    target: usize,
}

/// A command under way.
#[derive(Clone, Debug)]
struct Sent {
    call: CallId,
    number: u64,
    command: Bytes,
}

/// An attempt that a node took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    client: usize,
    turn: u64,
    /// What it asks for; nothing: to open a session.
    call: Option<CallId>,
}

/// What a session costs in a run.
pub(super) fn limits(idle_ms: u64, answers: u32, bytes: u32) -> SessionLimits {
    let idle = std::time::Duration::from_millis(idle_ms);
    SessionLimits { idle, max_sessions: 3, max_answers: answers, max_answer_bytes: bytes }
}

impl World {
    /// A client's turn: it opens a session, makes a call, or repeats one.
    pub(super) fn session_client(&mut self, client: usize) -> Result<(), Broken> {
        if self.calm {
            if let Some(sent) = self.session_clients[client].call.take() {
                self.history.give_up(sent.call);
            }
            return Ok(());
        }
        let pause = self.random.below(self.settings.think_max + self.settings.patience / 8 + 1) + 1;
        self.plan(pause, Event::SessionClient(client));
        let node = self.session_clients[client].target;
        if self.now < self.rivalry_until {
            return Ok(());
        }
        if self.random.chance(200_000) || !self.is_up(node) || self.hosts[node].paused_until > self.now {
            self.session_clients[client].target = self.random.index(self.settings.size);
            return Ok(());
        }
        let action = self.next_action(client);
        let state = &self.session_clients[client];
        let attempt = Attempt { client, turn: state.turn, call: state.call.as_ref().map(|sent| sent.call) };
        let now = self.local_time(node);
        let Some(engine) = self.cluster.nodes[node].engine_mut() else { return Ok(()) };
        match engine.propose_sessions(vec![action], now) {
            Ok(id) => {
                self.event += 1;
                self.hosts[node].waiting.attempts.insert(id.index, (id.term, attempt));
                self.trace.count("session attempts");
                let line = format_args!("client {client} tries {:?} as {id}", attempt.call);
                self.trace.line(self.event, self.now, node, "session", line);
            }
            Err(ProposeError::NotLeader { leader: Some(leader) }) => {
                self.session_clients[client].target = place(leader.0);
            }
            Err(_) => self.session_clients[client].target = self.random.index(self.settings.size),
        }
        self.pump(node)
    }

    fn next_action(&mut self, client: usize) -> SessionAction {
        let key = self.random.below(self.settings.keys);
        let state = &mut self.session_clients[client];
        let Some(numbers) = &mut state.numbers else {
            return SessionAction::Open { mark: client as u64, limits: self.settings.sessions };
        };
        let sent = state.call.get_or_insert_with(|| {
            let operation = Operation::Put(self.history.fresh_value());
            let call = self.history.call(key, operation);
            let mut command = BytesMut::new();
            command.put_u64_le(call as u64);
            state.turn += 1;
            Sent { call, number: numbers.begin(), command: command.freeze() }
        });
        SessionAction::Command { serial: numbers.serial(sent.number), command: sent.command.clone() }
    }

    /// Applies what an entry asks of the sessions on one node, and tells who waits for it there.
    pub(super) fn apply_session(
        &mut self,
        node: usize,
        entry: &Entry,
        asked: &SessionEntry,
    ) -> Result<(), Broken> {
        let verdict = self.hosts[node].sessions.take(entry.index(), asked);
        let mut reply = None;
        if let (Verdict::Apply, SessionAction::Command { serial, command }) = (verdict, &asked.action) {
            let found = self.history.apply_command(entry.id, command, &mut self.hosts[node].store)?;
            let Some((call, found)) = found else {
                return Err(Broken::new("only what was proposed is applied", format!("{}", entry.id)));
            };
            self.history.applied_once(call, entry.id, serial.session)?;
            let encoded = cold::encode(&found).map_err(|e| Broken::new("a reply encodes", e.to_string()))?;
            reply = Some(Bytes::from(encoded));
        }
        let told = self.hosts[node].sessions.settle(asked, verdict, reply.as_ref());
        if verdict == Verdict::Repeated {
            self.trace.count("repeated commands not applied again");
        }
        match self.hosts[node].waiting.attempts.remove(&entry.index()) {
            Some((term, attempt)) if term == entry.term() => self.hear(attempt, entry.id, told),
            _ => Ok(()),
        }
    }

    fn hear(
        &mut self,
        attempt: Attempt,
        at: EntryId,
        told: Result<Bytes, SessionError>,
    ) -> Result<(), Broken> {
        if let (Some(call), Ok(answer)) = (attempt.call, &told) {
            self.history.same_answer(call, answer)?;
        }
        let state = &mut self.session_clients[attempt.client];
        if state.turn != attempt.turn || state.call.as_ref().map(|sent| sent.call) != attempt.call {
            return Ok(());
        }
        match (attempt.call, told) {
            (None, Ok(id)) => {
                let id: [u8; SessionId::BYTES] = id
                    .as_ref()
                    .try_into()
                    .map_err(|_| Broken::new("an opening is answered with an id", format!("{at}")))?;
                state.numbers = Some(Numbers::new(SessionId::from_bytes(id)));
                self.trace.count("sessions opened");
            }
            (Some(call), Ok(_)) => {
                if let (Some(sent), Some(numbers)) = (state.call.take(), &mut state.numbers) {
                    numbers.end(sent.number);
                }
                self.history.written(call, at, None);
                self.trace.count("session commands answered");
            }
            (Some(call), Err(SessionError::Expired)) => {
                // It may have been applied by an earlier attempt.
                (state.call, state.numbers) = (None, None);
                self.history.give_up(call);
                self.trace.count("sessions expired");
            }
            (Some(call), Err(SessionError::AnswerGone | SessionError::Seen)) => {
                if let (Some(sent), Some(numbers)) = (state.call.take(), &mut state.numbers) {
                    numbers.end(sent.number);
                }
                self.history.give_up(call);
            }
            _ => {}
        }
        Ok(())
    }

    /// The sessions as a snapshot keeps them.
    pub(super) fn sessions_for_snapshot(&self, node: usize) -> Result<Vec<u8>, Broken> {
        let mut bytes = Vec::new();
        let left_out = self.options.planted == Some(Planted::SessionsLeftOut);
        let empty = SessionTable::default();
        let table = if left_out { &empty } else { &self.hosts[node].sessions };
        let written = table.write_to(EntryId::ZERO, &mut bytes);
        written.map_err(|e| Broken::new("the sessions can be written", e.to_string()))?;
        Ok(bytes)
    }

    pub(super) fn restore_sessions(&mut self, node: usize, mut bytes: &[u8]) -> Result<(), Broken> {
        let read = SessionTable::read_from(&mut bytes);
        let (table, _) = read.map_err(|e| Broken::new("the sessions can be read", e.to_string()))?;
        if let Some(engine) = self.cluster.nodes[node].engine_mut()
            && table.is_used()
        {
            engine.note_level(SESSIONS_LEVEL);
        }
        self.hosts[node].sessions = table;
        Ok(())
    }
}
