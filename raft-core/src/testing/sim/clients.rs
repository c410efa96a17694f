//! Clients of a small key-value store, and the history of what they were told.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};

use super::sessions::Attempt;
use super::world::{Event, World, place};
use crate::engine::{ProposeError, ReadError, ReadId};
use crate::session::SessionId;
use crate::testing::invariants::Broken;
use crate::testing::linearizable::{self, Call, Operation, Verdict};
use crate::types::{Entry, EntryId, Index, Payload, Term};

/// How many bytes of a command name its call.
pub(super) const CALL_BYTES: usize = 8;

/// The longest padding of a command.
static PADDING: [u8; 400] = [0xAB; 400];

/// The number of a call in the history; it is in the command's bytes.
pub(super) type CallId = usize;

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// No answer yet: it may have happened.
    Unknown,
    /// Its caller waits no more, and will not hear of it: it may have happened, or may yet.
    GivenUp,
    /// It happened.
    Done,
    /// It never will.
    Refused,
}

struct Record {
    call: Call,
    outcome: Outcome,
}

/// A client: one call at a time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Client {
    /// What it waits for, and until when.
    pub(super) waits: Option<(CallId, u64)>,
    /// The node that it asks first.
    pub(super) target: usize,
}

/// A read that a node took and has not answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct PendingRead {
    pub(super) call: CallId,
    /// The lowest index that its answer may be read at: what was answered to anybody before it began.
    pub(super) floor: Index,
}

/// What a node's callers wait for; gone when it dies.
#[derive(Default)]
pub(super) struct Waiting {
    pub(super) proposals: BTreeMap<Index, (Term, CallId)>,
    /// What sessions' clients wait for.
    pub(super) attempts: BTreeMap<Index, (Term, Attempt)>,
    /// Proposals whose entry this node dropped: their callers know that it is unknown.
    pub(super) truncated: BTreeMap<Index, (Term, CallId)>,
    pub(super) reads: BTreeMap<ReadId, PendingRead>,
    /// Confirmed reads that wait for their index to be applied.
    pub(super) confirmed: Vec<(Index, PendingRead)>,
}

/// A node's state machine: the keys' values.
pub(super) type Store = BTreeMap<u64, u64>;

pub(super) struct History {
    records: Vec<Record>,
    clock: u64,
    /// The highest index that any answer was given at.
    answered: Index,
    /// Commands that were refused, and must never be applied.
    refused: BTreeSet<CallId>,
    /// Where sessions' commands were applied, and with which answer.
    sessions: BTreeMap<CallId, (EntryId, Option<Bytes>)>,
}

impl History {
    pub(super) const fn new() -> Self {
        Self {
            records: Vec::new(),
            clock: 0,
            answered: 0,
            refused: BTreeSet::new(),
            sessions: BTreeMap::new(),
        }
    }

    fn moment(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// The floor of a read that begins now.
    pub(super) const fn answered(&self) -> Index {
        self.answered
    }

    pub(super) fn call(&mut self, key: u64, operation: Operation) -> CallId {
        let called = self.moment();
        let call = Call { key, operation, called, returned: None };
        self.records.push(Record { call, outcome: Outcome::Unknown });
        self.records.len() - 1
    }

    /// A value that no other call writes.
    pub(super) const fn fresh_value(&self) -> u64 {
        self.records.len() as u64 + 1
    }

    pub(super) fn refused(&mut self, call: CallId) {
        if let Some(record) = self.records.get_mut(call) {
            record.outcome = Outcome::Refused;
            self.refused.insert(call);
        }
    }

    /// The caller waits no more.
    pub(super) fn give_up(&mut self, call: CallId) {
        if let Some(record) = self.records.get_mut(call) {
            record.outcome = Outcome::GivenUp;
        }
    }

    /// A write was applied where its caller waits.
    pub(super) fn written(&mut self, call: CallId, id: EntryId, found: Option<u64>) {
        let now = self.moment();
        self.answered = self.answered.max(id.index);
        let Some(record) = self.open_record(call) else { return };
        if let Operation::CompareAndSwap { seen, .. } = &mut record.call.operation {
            *seen = found;
        }
        record.call.returned = Some(now);
        record.outcome = Outcome::Done;
    }

    pub(super) fn read(&mut self, call: CallId, value: Option<u64>, index: Index) {
        let now = self.moment();
        self.answered = self.answered.max(index);
        let Some(record) = self.open_record(call) else { return };
        record.call.operation = Operation::Get(value);
        record.call.returned = Some(now);
        record.outcome = Outcome::Done;
    }

    fn open_record(&mut self, call: CallId) -> Option<&mut Record> {
        self.records.get_mut(call).filter(|record| record.outcome == Outcome::Unknown)
    }

    pub(super) fn is_open(&self, call: CallId) -> bool {
        self.records.get(call).is_some_and(|record| record.outcome == Outcome::Unknown)
    }

    /// The bytes of a call's command.
    fn command(call: CallId, rest: &[u8]) -> Bytes {
        let mut bytes = BytesMut::with_capacity(CALL_BYTES + rest.len());
        bytes.put_u64_le(call as u64);
        bytes.put_slice(rest);
        bytes.freeze()
    }

    /// The call that a command is of.
    fn call_in(bytes: &Bytes) -> Option<CallId> {
        let number = bytes.get(..CALL_BYTES)?.try_into().ok()?;
        usize::try_from(u64::from_le_bytes(number)).ok()
    }

    /// Applies an entry to a node's state: the call, and the value that it found.
    pub(super) fn apply(
        &self,
        entry: &Entry,
        store: &mut Store,
    ) -> Result<Option<(CallId, Option<u64>)>, Broken> {
        let Payload::Command(command) = &entry.payload else { return Ok(None) };
        self.apply_command(entry.id, command, store)
    }

    /// Applies the command of an entry.
    pub(super) fn apply_command(
        &self,
        id: EntryId,
        command: &Bytes,
        store: &mut Store,
    ) -> Result<Option<(CallId, Option<u64>)>, Broken> {
        let Some(call) = Self::call_in(command) else { return Ok(None) };
        let Some(record) = self.records.get(call) else {
            return Err(Broken::new("only what was proposed is applied", format!("{id}")));
        };
        if self.refused.contains(&call) {
            return Err(Broken::new(
                "what was refused never happens",
                format!("{id} applies call {call}, which was refused"),
            ));
        }
        let Call { key, operation, .. } = record.call;
        let found = store.get(&key).copied();
        match operation {
            Operation::Put(value) => {
                store.insert(key, value);
            }
            Operation::CompareAndSwap { expected, new, .. } if expected == found => {
                store.insert(key, new);
            }
            Operation::CompareAndSwap { .. } | Operation::Get(_) => {}
        }
        Ok(Some((call, found)))
    }

    /// A session's command is applied on one node at `id`.
    pub(super) fn applied_once(
        &mut self,
        call: CallId,
        id: EntryId,
        session: SessionId,
    ) -> Result<(), Broken> {
        let &mut (first, _) = self.sessions.entry(call).or_insert((id, None));
        if first == id {
            return Ok(());
        }
        Err(Broken::new(
            "a session's command is applied at most once",
            format!("call {call} of session {session} at {first} and at {id}"),
        ))
    }

    /// Whoever asks again gets the first answer.
    pub(super) fn same_answer(&mut self, call: CallId, answer: &Bytes) -> Result<(), Broken> {
        let Some((id, first)) = self.sessions.get_mut(&call) else {
            return Err(Broken::new("what is answered was applied", format!("call {call}")));
        };
        let first = first.get_or_insert_with(|| answer.clone());
        if first == answer {
            return Ok(());
        }
        Err(Broken::new(
            "a repeated command gets its first answer",
            format!("call {call} at {id}: {answer:?}, before {first:?}"),
        ))
    }

    /// Checks that the whole history could have come from a single copy.
    pub(super) fn check(&self) -> Result<(), Broken> {
        const PROPERTY: &str = "the clients' history is linearizable";
        let calls: Vec<Call> =
            self.records.iter().filter(|r| r.outcome != Outcome::Refused).map(|r| r.call).collect();
        match linearizable::check(&calls) {
            Verdict::Linearizable => Ok(()),
            Verdict::Violation { key, detail } => Err(Broken::new(PROPERTY, format!("key {key}: {detail}"))),
            Verdict::Undecided { key } => Err(Broken::new(PROPERTY, format!("key {key}: undecided"))),
        }
    }

    pub(super) fn is_done(&self, call: CallId) -> bool {
        self.records.get(call).is_some_and(|record| record.outcome == Outcome::Done)
    }

    pub(super) fn key(&self, call: CallId) -> u64 {
        self.records.get(call).map_or(0, |record| record.call.key)
    }
}

impl World {
    /// A client's turn: it looks whether its call was answered, and makes another.
    pub(super) fn client(&mut self, client: usize) -> Result<(), Broken> {
        if self.calm {
            return Ok(());
        }
        if let Some((call, until)) = self.clients[client].waits {
            if self.history.is_open(call) && self.now < until {
                let delay = self.settings.think_max.min(until - self.now) + 1;
                self.plan(delay, Event::Client(client));
                return Ok(());
            }
            if self.history.is_open(call) {
                self.trace.count("calls given up");
                self.history.give_up(call);
            }
            self.clients[client].waits = None;
        }
        let delay = self.random.below(self.settings.think_max + 1) + 1;
        self.plan(delay, Event::Client(client));
        let key = self.random.below(self.settings.keys);
        let new = self.history.fresh_value();
        let operation = match self.random.below(10) {
            0..4 if self.now >= self.rivalry_until => Operation::Put(new),
            4..8 => Operation::Get(None),
            _ if self.now < self.rivalry_until => Operation::Get(None),
            _ => {
                let guess = self.random.index(self.settings.size);
                let expected = self.hosts[guess].store.get(&key).copied();
                Operation::CompareAndSwap { expected, new, seen: None }
            }
        };
        let mut node = self.clients[client].target;
        if matches!(operation, Operation::Get(_)) && self.random.chance(self.settings.read_anywhere) {
            node = self.random.index(self.settings.size);
        }
        if !self.is_up(node) || self.hosts[node].paused_until > self.now {
            self.clients[client].target = self.random.index(self.settings.size);
            return Ok(());
        }
        let call = self.history.call(key, operation);
        match self.ask(node, call, operation)? {
            Ok(()) => self.clients[client].waits = Some((call, self.now + self.settings.patience)),
            Err(refused) => {
                self.history.refused(call);
                let leader = match refused {
                    ProposeError::NotLeader { leader } => leader.map(|leader| place(leader.0)),
                    ProposeError::Overloaded => {
                        self.trace.count("calls refused: overloaded");
                        Some(node)
                    }
                    _ => None,
                };
                self.clients[client].target = match leader {
                    Some(leader) if self.random.chance(900_000) => leader,
                    _ => self.random.index(self.settings.size),
                };
            }
        }
        Ok(())
    }

    /// Makes a call at a node.
    pub(super) fn ask(
        &mut self,
        node: usize,
        call: CallId,
        operation: Operation,
    ) -> Result<Result<(), ProposeError>, Broken> {
        let now = self.local_time(node);
        let floor = self.history.answered();
        let padding = self.random.index(self.settings.padding_max as usize + 1);
        let own = match &mut self.machines {
            Some(machines) if !matches!(operation, Operation::Get(_)) => Some(machines.command()?),
            _ => None,
        };
        let rest = own.as_deref().unwrap_or(&PADDING[..padding.min(PADDING.len())]);
        let Some(engine) = self.cluster.nodes[node].engine_mut() else {
            return Ok(Err(ProposeError::NotLeader { leader: None }));
        };
        let waiting = &mut self.hosts[node].waiting;
        let by_lease = self.random.chance(self.settings.read_by_lease);
        let taken = match operation {
            Operation::Get(_) => match if by_lease { engine.read_by_lease(now) } else { engine.read(now) } {
                Ok(id) => {
                    waiting.reads.insert(id, PendingRead { call, floor });
                    Ok(())
                }
                Err(ReadError::NotLeader { leader }) => Err(ProposeError::NotLeader { leader }),
                Err(ReadError::Overloaded) => Err(ProposeError::Overloaded),
                Err(ReadError::Fatal) => Err(ProposeError::Fatal),
            },
            _ => engine.propose(vec![History::command(call, rest)], now).map(|id| {
                waiting.proposals.insert(id.index, (id.term, call));
            }),
        };
        if let Err(ProposeError::TooLarge { .. }) = taken {
            return Err(Broken::new("a command fits into an entry", format!("{} bytes", rest.len())));
        }
        self.event += u64::from(taken.is_ok());
        self.trace.mark([10, node as u64, call as u64, u64::from(taken.is_ok())]);
        self.trace.line(
            self.event,
            self.now,
            node,
            "call",
            format_args!("{call} {operation:?}{}", if taken.is_ok() { "" } else { " refused" }),
        );
        self.pump(node)?;
        Ok(taken)
    }
}
