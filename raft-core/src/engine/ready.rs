//! What the engine wants done, computed from its state when asked for.

use std::ops::RangeInclusive;

use super::event::Event;
use super::invariants::Violation;
use crate::log_store::Write;
use crate::message::Envelope;
use crate::types::{Entry, Index, NodeId};

/// What is to be done now. It owns its data; each part stands alone, and none needs a call back but the completions
/// named at it. Nothing in it is handed out twice.
#[derive(Debug, Default)]
#[must_use = "what a Ready asks for is not asked for again"]
pub struct Ready {
    /// To be sent, in order, before the write is begun: the promises in them rest on earlier writes.
    pub messages: Vec<Envelope>,
    /// To be written; when it is durable, [`Engine::written`](super::Engine::written) with its number. Writes are
    /// carried out in the order in which they were handed out.
    pub write: Option<Write>,
    /// Committed entries that are durable here, in order: to be applied; then
    /// [`Engine::applied`](super::Engine::applied) with the last index.
    pub apply: Vec<Entry>,
    /// To be read from the log store; then [`Engine::fetched`](super::Engine::fetched).
    pub fetches: Vec<Fetch>,
    /// Reads that may be answered once their index is applied.
    pub reads: Vec<ReadReady>,
    /// Reads that will not be answered: this node leads no more.
    pub failed_reads: Vec<ReadId>,
    /// What happened since the last time, for logs, metrics and tests.
    pub events: Vec<Event>,
    /// The group's own state is broken: nothing may be done for it any more.
    pub fatal: Option<Violation>,
}

impl Ready {
    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
            && self.write.is_none()
            && self.apply.is_empty()
            && self.fetches.is_empty()
            && self.reads.is_empty()
            && self.failed_reads.is_empty()
            && self.events.is_empty()
            && self.fatal.is_none()
    }
}

/// Entries that are no longer in memory. They are durable when this is handed out; a truncation may overtake it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// What they are for.
    pub purpose: FetchPurpose,
    /// Which entries.
    pub range: RangeInclusive<Index>,
    /// The most bytes to read; at least one entry is read.
    pub max_bytes: usize,
}

/// What entries are fetched for; at most one fetch for each purpose is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FetchPurpose {
    /// To be applied here.
    Apply,
    /// To be sent to a peer that lags.
    Peer(NodeId),
}

/// Names a read among those of one engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadId(pub u64);

/// A read whose round is confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadReady {
    /// The read.
    pub id: ReadId,
    /// The read is linearizable on any state that has applied at least this index.
    pub index: Index,
}
