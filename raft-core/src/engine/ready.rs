//! What the engine wants done, computed from its state when asked for.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::event::Event;
use super::invariants::Violation;
use super::planted::Planted;
use super::{ApplyFetch, Engine, Role};
use crate::membership::Membership;
use crate::message::Envelope;
use crate::types::{Entry, EntryId, HardState, Index, NodeId, Peer, SnapshotMeta, Term, Time};
use crate::write::Write;

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
    /// The state is to be replaced by this snapshot, whose file is durable and named by a durable write; then
    /// [`Engine::applied`](super::Engine::applied) with its last index. It comes after what was handed out to be applied
    /// earlier and before [`apply`](Self::apply). Its file must stay until it is restored, also when newer ones come meanwhile:
    /// hold it open.
    pub restore: Option<SnapshotMeta>,
    /// Committed entries that are durable here, in order: to be applied; then
    /// [`Engine::applied`](super::Engine::applied) with the last index.
    pub apply: Vec<Entry>,
    /// A snapshot is to be taken of the state as it is right after [`apply`](Self::apply), while later entries are applied;
    /// then [`Engine::snapshot_taken`](super::Engine::snapshot_taken).
    pub snapshot: Option<SnapshotRequest>,
    /// To be sent to peers; then [`Engine::snapshot_sent`](super::Engine::snapshot_sent) for each.
    pub send_snapshots: Vec<SendSnapshot>,
    /// Transfers of no use any more, to be stopped.
    pub abandon_snapshots: Vec<u64>,
    /// To be read from the log store; then [`Engine::fetched`](super::Engine::fetched).
    pub fetches: Vec<Fetch>,
    /// Reads that may be answered once their index is applied.
    pub reads: Vec<ReadReady>,
    /// Reads that will not be answered: this node leads no more, or follows another leader or none.
    pub failed_reads: Vec<ReadId>,
    /// How long heartbeats took to be answered since the last time. It asks for nothing.
    pub round_trips: Vec<Duration>,
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
            && self.restore.is_none()
            && self.apply.is_empty()
            && self.snapshot.is_none()
            && self.send_snapshots.is_empty()
            && self.abandon_snapshots.is_empty()
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

/// What entries are fetched for. Within a term at most one fetch for each purpose is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FetchPurpose {
    /// To be applied here.
    Apply,
    /// To be sent to a peer that lags.
    Peer(NodeId),
}

/// A snapshot to be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotRequest {
    /// The last entry that it covers: exactly what was handed out to be applied.
    pub last: EntryId,
    /// The configuration in force there.
    pub membership: Membership,
}

/// A snapshot to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendSnapshot {
    /// Names the transfer among those of this run of the process.
    pub transfer: u64,
    /// The receiver.
    pub to: Peer,
    /// The term of the leader that sends it.
    pub term: Term,
    /// The snapshot.
    pub meta: SnapshotMeta,
}

/// How the transfer of a snapshot ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SnapshotOutcome {
    /// The peer has the whole file, and its engine knows.
    Delivered,
    /// The stream broke; the next transfer may go on where it ended.
    Failed,
    /// The peer does not take it.
    Refused,
    /// Its file on this node is not what it was: another will be sent, once there is one.
    Damaged,
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
    /// Where only a lease confirms it: an answer that is not there by then must not be given, since the process may have
    /// stood still.
    pub until: Option<Time>,
}

impl Engine {
    /// What is to be done now, computed from the state and what was handed out before: a hundred proposals between two calls
    /// become one write and one append a peer.
    pub fn ready(&mut self, now: Time) -> Ready {
        self.set_now(now);
        let mut ready = Ready::default();
        if self.fatal.is_none() {
            self.count_votes();
            self.commit_by_majority();
            self.advance_change();
            self.confirm_lease();
            self.answer_by_lease(&mut ready);
            self.emit_identity_requests();
            self.emit_vote();
            self.emit_append_response();
            self.emit_read_requests(&mut ready);
            self.emit_vote_requests();
            self.emit_heartbeats();
            self.emit_timeout_now();
            self.emit_appends(&mut ready);
            self.emit_send_snapshots(&mut ready);
            self.confirm_reads(&mut ready);
            ready.write = self.emit_write();
            self.emit_restore(&mut ready);
            self.emit_apply(&mut ready);
            self.emit_snapshot(&mut ready);
            self.evict();
            self.check();
        }
        if self.fatal.is_some() {
            // Nothing leaves a group whose state is broken.
            ready = Ready::default();
            self.outbox.clear();
            self.leader = None;
            if let Role::Leader(leader) = std::mem::take(&mut self.role) {
                self.failed_reads.extend(leader.reads.own());
            }
            self.failed_reads.extend(self.asks.take_open());
            if !self.fatal_told {
                self.fatal_told = true;
                ready.fatal.clone_from(&self.fatal);
            }
        }
        ready.messages = std::mem::take(&mut self.outbox);
        ready.failed_reads = std::mem::take(&mut self.failed_reads);
        ready.events = std::mem::take(&mut self.events);
        ready.round_trips = std::mem::take(&mut self.round_trips);
        ready
    }

    fn emit_write(&mut self) -> Option<Write> {
        if !self.durable.may_write() {
            return None;
        }
        let last = self.log.last_index();
        let handed = self.durable.handed;
        let entries = if handed < last {
            match self.log.slice(handed + 1, last, self.config.max_write_bytes) {
                Some((entries, _)) => entries,
                None => {
                    self.violate("what is not written is in memory", format!("entry {}", handed + 1));
                    return None;
                }
            }
        } else {
            Vec::new()
        };
        let vote_is_written = self.durable.handed_vote == (self.term, self.vote);
        if entries.is_empty() && vote_is_written && !self.snapshots.unwritten {
            return None;
        }
        let (snapshot, compact_to) = self.take_unwritten_snapshot().unzip();
        let upper = handed + entries.len() as Index;
        let truncate_from = self.durable.truncate_from;
        // The commit index rides along; alone it is no reason to write.
        let vote = self.vote.filter(|_| !self.has(Planted::VoteForgotten));
        let hard_state = HardState { term: self.term, vote, commit: self.commit.min(upper) };
        Some(Write {
            group: self.group,
            number: self.durable.hand_out(upper, self.term, self.vote, self.now),
            snapshot,
            truncate_from,
            entries,
            hard_state: Some(hard_state),
            outline: self.log.take_outline(upper),
            compact_to: compact_to.flatten(),
        })
    }

    fn emit_apply(&mut self, ready: &mut Ready) {
        let own_disk = if self.has(Planted::ApplyBeforeDisk) { self.commit } else { self.durable.index };
        let limit = self.commit.min(own_disk);
        if self.snapshots.installing {
            return;
        }
        while self.applying < limit {
            let room = self.config.max_apply_bytes.saturating_sub(self.apply_backlog_bytes);
            if room == 0 {
                return;
            }
            let next = self.applying + 1;
            let (entries, bytes) = match self.log.slice(next, limit, room) {
                Some(slice) => slice,
                None => match self.fetched_to_apply(next, limit, room, ready) {
                    Some(fetched) => fetched,
                    None => return,
                },
            };
            self.applying += entries.len() as Index;
            self.apply_backlog.push_back((self.applying, bytes));
            self.apply_backlog_bytes += bytes;
            self.snapshots.note_applied(bytes);
            self.note_levels(&entries);
            if ready.apply.is_empty() {
                ready.apply = entries;
            } else {
                ready.apply.extend(entries);
            }
        }
    }

    /// Entries that were read back to be applied; asks for them where they are not here.
    fn fetched_to_apply(
        &mut self,
        next: Index,
        limit: Index,
        max_bytes: usize,
        ready: &mut Ready,
    ) -> Option<(Vec<Entry>, usize)> {
        match std::mem::take(&mut self.apply_fetch) {
            waiting @ (ApplyFetch::Asked | ApplyFetch::Overtaken) => {
                self.apply_fetch = waiting;
                None
            }
            ApplyFetch::Here(mut entries) if entries.first().is_some_and(|first| first.index() == next) => {
                entries.truncate(usize::try_from(limit + 1 - next).unwrap_or(usize::MAX));
                // What is durable and committed is there, whole and in order.
                let contiguous = entries.iter().zip(next..).all(|(entry, index)| {
                    entry.index() == index && self.log.term(index) == Some(entry.term())
                });
                if !contiguous {
                    self.violate("the log store gives back what was written", format!("entries from {next}"));
                    return None;
                }
                let bytes = entries.iter().map(Entry::bytes).sum();
                Some((entries, bytes))
            }
            ApplyFetch::Here(entries) if entries.is_empty() => {
                self.violate("the log store gives back what was written", format!("no entry at {next}"));
                None
            }
            ApplyFetch::Here(_) | ApplyFetch::Idle => {
                self.apply_fetch = ApplyFetch::Asked;
                let range = next..=limit.min(self.log.first_in_memory() - 1);
                ready.fetches.push(Fetch { purpose: FetchPurpose::Apply, range, max_bytes });
                None
            }
        }
    }

    /// Keeps memory bounded: what is durable can be read back. What waits to be applied is let go last.
    fn evict(&mut self) {
        let max = self.config.max_tail_bytes;
        self.log.evict(self.durable.index.min(self.applying), max);
        self.log.evict(self.durable.index, max.saturating_mul(2));
    }
}
