//! The loop that drives one group's engine: inputs in, `ready` out, never blocked by disk, network or machine.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Sleep;

use super::applier::{Job, Reads};
use super::change::Changes;
use super::clock::Clock;
use super::error::RaftError;
use super::guard::guarded;
use super::handover::{Handover, Handovers};
use super::log_writer::{LogWriter, Submitted};
use super::mailbox::{Bootstrap, Closed, Completion, Inputs, Mailbox, Query, Queue, ReplyTo};
use super::metrics::Meters;
use super::outbox::Outbox;
use super::pending::Pending;
use super::reading::Consistency;
use super::snapshots::{Ledger, Receiver, SnapshotReply, Transfers};
use super::status::{Counters, FatalKind, StatusBoard};
use super::trace;
use crate::engine::{
    Engine, Event, Fetch, ProposeError, ReadError, ReadId, ReadReady, Ready, Refusal, SESSIONS_LEVEL,
    TransferError,
};
use crate::log_store::{LogStore, StorageError, StorageErrorKind, Write};
use crate::session::{SessionAction, SessionEntry, SessionError};
use crate::types::{Entry, EntryId, GroupId, Index, NodeId, SnapshotMeta, Time};

/// How soon the engine hears of what was applied if nothing else wakes the driver before.
const APPLIED_DELAY: Duration = Duration::from_millis(2);

/// How long a shutdown waits for the state machine to finish what it was given.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// A time that never comes; the engine's own "never" is beyond what clocks can add.
const NEVER: Time = Duration::from_secs(365 * 24 * 3600 * 30);

/// Why the loop ends.
enum End {
    Shutdown,
    Fatal(Arc<str>),
}

/// Queries that share a read round.
struct Round {
    queries: Vec<Query>,
    began: Time,
    expires: Time,
}

/// This node's state was the newest there was, once it has applied `index`, at `at` or later.
#[derive(Clone, Copy)]
struct Fresh {
    index: Index,
    at: Time,
}

/// What a driver is made of.
pub(super) struct Parts {
    pub(super) engine: Engine,
    pub(super) group: GroupId,
    pub(super) node: NodeId,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) outbox: Outbox,
    pub(super) store: Arc<dyn LogStore>,
    pub(super) writer: Arc<LogWriter>,
    pub(super) jobs: Arc<Queue<Job>>,
    pub(super) applier: JoinHandle<()>,
    pub(super) transfers: Transfers,
    pub(super) receiver: Receiver,
    pub(super) ledger: Ledger,
    pub(super) status: StatusBoard,
    pub(super) clock: Arc<Clock>,
    pub(super) meters: Arc<Meters>,
    pub(super) timeout: Duration,
    pub(super) max_batch_bytes: usize,
    pub(super) max_open: usize,
    pub(super) max_apply_bytes: usize,
}

pub(super) struct Driver {
    parts: Parts,
    pending: Pending,
    handovers: Handovers,
    changes: Changes,
    rounds: BTreeMap<ReadId, Round>,
    /// The latest that a read was confirmed for.
    fresh: Option<Fresh>,
    fetches: JoinSet<()>,
    /// Writes handed in and not yet durable.
    writing: usize,
    /// The last index handed to the applier, and the bytes handed over since the engine last heard from it.
    handed_over: u64,
    handed_over_bytes: usize,
    /// When to tell the engine what was applied, at the latest.
    applied_due: Option<Time>,
    refused: BTreeMap<Refusal, u64>,
    overloaded: u64,
    expired: u64,
    closing: Closing,
}

/// What callers propose, many at a time.
trait Proposal: Sized {
    fn bytes(&self) -> usize;
    fn propose(all: Vec<Self>, engine: &mut Engine, now: Time) -> Result<EntryId, ProposeError>;
}

impl Proposal for Bytes {
    fn bytes(&self) -> usize {
        self.len()
    }

    fn propose(all: Vec<Self>, engine: &mut Engine, now: Time) -> Result<EntryId, ProposeError> {
        engine.propose(all, now)
    }
}

impl Proposal for SessionAction {
    fn bytes(&self) -> usize {
        SessionEntry::OVERHEAD_BYTES + self.command_bytes()
    }

    fn propose(all: Vec<Self>, engine: &mut Engine, now: Time) -> Result<EntryId, ProposeError> {
        engine.propose_sessions(all, now)
    }
}

/// However the driver ends, nobody waits for it any more.
struct Closing {
    mailbox: Arc<Mailbox>,
    jobs: Arc<Queue<Job>>,
}

impl Drop for Closing {
    fn drop(&mut self) {
        let closed = if std::thread::panicking() {
            Closed::Fatal("the driver panicked; this is a bug in raft-core".into())
        } else {
            Closed::Stopped
        };
        self.mailbox.close(closed);
        self.jobs.clear();
    }
}

impl Driver {
    pub(super) fn new(parts: Parts) -> Self {
        let handed_over = parts.engine.applied_index();
        let closing = Closing { mailbox: Arc::clone(&parts.mailbox), jobs: Arc::clone(&parts.jobs) };
        Self {
            closing,
            parts,
            pending: Pending::default(),
            handovers: Handovers::default(),
            changes: Changes::default(),
            rounds: BTreeMap::new(),
            fresh: None,
            fetches: JoinSet::new(),
            writing: 0,
            handed_over,
            handed_over_bytes: 0,
            applied_due: None,
            refused: BTreeMap::new(),
            overloaded: 0,
            expired: 0,
        }
    }

    /// Drives the group until it is shut down or cannot go on.
    pub(super) async fn run(mut self) {
        let reason = match self.drive().await {
            End::Shutdown => {
                self.finish().await;
                None
            }
            End::Fatal(reason) => Some(reason),
        };
        if let Some(reason) = &reason {
            trace::error!(node = %self.parts.node, group = %self.parts.group, %reason, "the group has stopped for good");
            self.parts.mailbox.close(Closed::Fatal(Arc::clone(reason)));
            self.parts.applier.abort();
        }
        self.end(reason).await;
    }

    async fn drive(&mut self) -> End {
        let mut inputs = Inputs::default();
        let mut armed = self.deadline();
        let mut sleep = Box::pin(tokio::time::sleep_until(self.parts.clock.instant(armed)));
        if let Err(reason) = self.turn(self.now()) {
            return End::Fatal(reason);
        }
        loop {
            let wanted = self.deadline();
            // A deadline that moved away is left as it is: the loop then turns once in vain, which costs less than
            // setting the timer in every turn.
            if wanted < armed || sleep.is_elapsed() {
                armed = wanted;
                sleep.as_mut().reset(self.parts.clock.instant(armed));
            }
            wait(&self.parts.mailbox, sleep.as_mut(), &mut inputs).await;
            let now = self.now();
            if let Err(reason) = self.take_in(&mut inputs, now).and_then(|()| self.turn(now)) {
                inputs.refuse(&RaftError::Fatal { reason: Arc::clone(&reason) });
                return End::Fatal(reason);
            }
            if std::mem::take(&mut inputs.shutdown) {
                return End::Shutdown;
            }
        }
    }

    fn now(&self) -> Time {
        self.parts.clock.now()
    }

    fn deadline(&self) -> Time {
        let rounds = self.rounds.first_key_value().map(|(_, round)| round.expires);
        let Self { pending, handovers, changes, parts, applied_due, .. } = self;
        [pending.expires(), rounds, handovers.due(), changes.due(), parts.status.due(), *applied_due]
            .into_iter()
            .flatten()
            .fold(self.parts.engine.deadline().min(NEVER), Time::min)
    }

    /// Feeds the engine with everything that waited. Messages come before time: after a pause, a leader's heartbeat
    /// that waited keeps a follower from an election.
    fn take_in(&mut self, inputs: &mut Inputs, now: Time) -> Result<(), Arc<str>> {
        // Before the completions: one of them may be a snapshot of what was just applied.
        self.hear_applied(now);
        for completion in inputs.completions.drain(..) {
            self.complete(completion, now)?;
        }
        for envelope in inputs.messages.drain(..) {
            self.parts.engine.step(envelope, now);
        }
        if inputs.shutdown {
            inputs.refuse(&RaftError::Stopped);
            return Ok(());
        }
        for bootstrap in inputs.bootstraps.drain(..) {
            self.bootstrap(bootstrap, now);
        }
        for handover in inputs.handovers.drain(..) {
            self.hand_over(handover, now);
        }
        for wish in inputs.wishes.drain(..) {
            self.overloaded += u64::from(!self.changes.add(wish, now));
        }
        if !inputs.commands.is_empty() {
            // As many places as this time, so that they need not grow step by step.
            let count = inputs.commands.len();
            let commands = std::mem::replace(&mut inputs.commands, Vec::with_capacity(count));
            let replies = std::mem::replace(&mut inputs.replies, Vec::with_capacity(count));
            self.propose(commands, replies, inputs.call_bytes, now);
        }
        if !inputs.actions.is_empty() {
            let (actions, replies) =
                (std::mem::take(&mut inputs.actions), std::mem::take(&mut inputs.action_replies));
            self.propose(actions, replies, inputs.call_bytes, now);
        }
        for reply in inputs.snapshots.drain(..) {
            self.request_snapshot(reply, now);
        }
        for reply in inputs.explains.drain(..) {
            let _gone = reply.send(self.parts.engine.explain(now));
        }
        if !inputs.reads.is_empty() {
            self.read(std::mem::take(&mut inputs.reads), now);
        }
        Ok(())
    }

    fn complete(&mut self, completion: Completion, now: Time) -> Result<(), Arc<str>> {
        match completion {
            Completion::Written(number) => {
                self.writing = self.writing.saturating_sub(1);
                self.written(number, now);
            }
            Completion::Fetched(purpose, entries) => self.parts.engine.fetched(purpose, entries, now),
            Completion::SnapshotTaken(taken) => {
                if let Err(reason) = &taken {
                    trace::warn!(node = %self.parts.node, group = %self.parts.group, %reason, "no snapshot was taken");
                    self.parts.ledger.failed(reason);
                }
                self.parts.engine.snapshot_taken(taken.ok(), now);
            }
            Completion::SnapshotSent { transfer, outcome } => {
                self.parts.engine.snapshot_sent(transfer, outcome, now);
            }
            Completion::SnapshotReceived { from, meta, reply } => {
                let _gone = reply.send(self.parts.engine.snapshot_received(from, meta, now));
            }
            Completion::Fatal(reason) => return Err(reason),
        }
        Ok(())
    }

    fn written(&mut self, number: u64, now: Time) {
        self.parts.engine.written(number, now);
        if let Some(took) = self.parts.engine.write_latency() {
            self.parts.meters.write.observe(took, 1);
        }
        self.parts.ledger.written(number);
    }

    fn request_snapshot(&mut self, reply: SnapshotReply, now: Time) {
        match self.parts.engine.request_snapshot(now) {
            Ok(index) => self.parts.ledger.want(index, reply),
            Err(error) => {
                let _gone = reply.send(Err(RaftError::Snapshot(error.to_string())));
            }
        }
    }

    fn hear_applied(&mut self, now: Time) {
        let applied = self.parts.mailbox.applied.load(Ordering::Acquire);
        if self.parts.mailbox.sessions_used.swap(false, Ordering::Acquire) {
            self.parts.engine.note_level(SESSIONS_LEVEL);
        }
        if applied > self.parts.engine.applied_index() {
            self.parts.engine.applied(applied, now);
            self.handed_over_bytes = 0;
        }
        if applied >= self.handed_over {
            self.applied_due = None;
        } else if self.applied_due.is_none_or(|due| due <= now) {
            self.applied_due = Some(now + APPLIED_DELAY);
        }
    }

    fn bootstrap(&mut self, bootstrap: Bootstrap, now: Time) {
        let Bootstrap { members, reply } = bootstrap;
        let nodes: Vec<(NodeId, String)> =
            members.iter().map(|(&node, info)| (node, info.address.clone())).collect();
        let result = self.parts.engine.bootstrap(members, now);
        if result.is_ok() {
            self.parts.outbox.connect(nodes.iter().map(|(node, address)| (*node, address.as_str())));
        }
        let _gone = reply.send(result);
    }

    fn hand_over(&mut self, wish: Handover, now: Time) {
        let error = match self.parts.engine.transfer_leadership(wish.to, now) {
            Ok(to) => {
                self.overloaded += u64::from(!self.handovers.wait(wish, to, now));
                return;
            }
            Err(TransferError::NotLeader { leader }) => self.not_leader(leader),
            Err(TransferError::Fatal) => RaftError::Fatal { reason: "the group has stopped".into() },
            Err(error) => RaftError::Transfer(error.to_string()),
        };
        let _gone = wish.reply.send(Err(error));
    }

    /// Proposes in pieces that the engine can take, so that an overload hits the last ones, not all.
    fn propose<P: Proposal>(
        &mut self,
        mut proposals: Vec<P>,
        mut replies: Vec<ReplyTo>,
        bytes: usize,
        now: Time,
    ) {
        if bytes <= self.parts.max_batch_bytes {
            return self.propose_piece(proposals, replies, now);
        }
        while !proposals.is_empty() {
            let mut piece_bytes = 0;
            let count = proposals
                .iter()
                .take_while(|proposal| {
                    piece_bytes += Entry::OVERHEAD_BYTES + proposal.bytes();
                    piece_bytes <= self.parts.max_batch_bytes
                })
                .count()
                .max(1);
            let rest = (proposals.split_off(count), replies.split_off(count));
            self.propose_piece(proposals, replies, now);
            (proposals, replies) = rest;
        }
    }

    fn propose_piece<P: Proposal>(&mut self, proposals: Vec<P>, replies: Vec<ReplyTo>, now: Time) {
        let error = if self.pending.len() + proposals.len() > self.parts.max_open {
            RaftError::Overloaded
        } else {
            match P::propose(proposals, &mut self.parts.engine, now) {
                Ok(first) => return self.pending.push(first, replies, now + self.parts.timeout),
                Err(ProposeError::NotLeader { leader }) => self.not_leader(leader),
                Err(ProposeError::TooLarge { bytes, limit }) => RaftError::TooLarge { bytes, limit },
                Err(ProposeError::Empty) => return,
                Err(ProposeError::Overloaded) => RaftError::Overloaded,
                Err(ProposeError::Transferring { to }) => RaftError::Transferring { to },
                Err(ProposeError::NotKnown { .. }) => RaftError::Session(SessionError::NotYet),
                Err(ProposeError::Fatal) => RaftError::Fatal { reason: "the group has stopped".into() },
            }
        };
        if error == RaftError::Overloaded {
            self.overloaded += replies.len() as u64;
        }
        for reply in replies {
            let _gone = reply.send(Err(error.clone()));
        }
    }

    /// One round serves all reads that waited, but for those that need none.
    fn read(&mut self, queries: Vec<Query>, now: Time) {
        let (mut by_round, mut by_lease, mut at_hand) = (Vec::new(), Vec::new(), Vec::new());
        for mut query in queries {
            match query.consistency {
                Consistency::Linearizable => by_round.push(query),
                Consistency::Lease => by_lease.push(query),
                Consistency::Stale { max_age: None } => at_hand.push((0, query)),
                Consistency::Stale { max_age: Some(max_age) } => {
                    match self.fresh.map(|fresh| (fresh.index, fresh.at.saturating_add(max_age))) {
                        Some((index, until)) if now < until => {
                            query.until = Some(until);
                            at_hand.push((index, query));
                        }
                        _ => by_round.push(query),
                    }
                }
            }
        }
        let expires = self.parts.clock.instant(now + self.parts.timeout);
        for (index, query) in at_hand {
            self.parts.jobs.push(Job::Read { index, reads: Reads { queries: vec![query], expires } });
        }
        if !by_round.is_empty() {
            let begun = self.parts.engine.read(now);
            self.await_round(begun, by_round, now);
        }
        if !by_lease.is_empty() {
            let begun = self.parts.engine.read_by_lease(now);
            self.await_round(begun, by_lease, now);
        }
    }

    fn await_round(&mut self, begun: Result<ReadId, ReadError>, queries: Vec<Query>, now: Time) {
        let error = match begun {
            Ok(id) => {
                let expires = now + self.parts.timeout;
                self.rounds.insert(id, Round { queries, began: now, expires });
                return;
            }
            Err(ReadError::NotLeader { leader }) => self.not_leader(leader),
            Err(ReadError::Overloaded) => {
                self.overloaded += queries.len() as u64;
                RaftError::Overloaded
            }
            Err(ReadError::Fatal) => RaftError::Fatal { reason: "the group has stopped".into() },
        };
        answer(queries, &error);
    }

    fn not_leader(&self, leader: Option<NodeId>) -> RaftError {
        not_leader(&self.parts.engine, leader)
    }

    /// Lets time pass, and does what the engine wants done.
    fn turn(&mut self, now: Time) -> Result<(), Arc<str>> {
        if now >= self.parts.engine.deadline() {
            self.parts.engine.tick(now);
        }
        let mut changed = false;
        self.settle_changes(now);
        loop {
            let ready = self.parts.engine.ready(now);
            for took in &ready.round_trips {
                self.parts.meters.append_round_trip.observe(*took, 1);
            }
            if ready.is_empty() {
                break;
            }
            // A configuration comes and goes with an outline or an event.
            if !ready.events.is_empty() || ready.write.as_ref().is_some_and(|write| write.outline.is_some()) {
                let ended = |event: &Event| matches!(event, Event::FoundingEnded { .. });
                changed |= ready.events.iter().any(ended);
                changed |= self.parts.outbox.follow(&self.parts.engine);
            }
            // It becomes known with a commit.
            self.parts.outbox.belong(self.parts.engine.lineage());
            match self.carry_out(ready, now)? {
                // A store in memory is done at once, and with that there may be more to do.
                Some(number) => self.written(number, now),
                None => break,
            }
        }
        self.sweep(now);
        self.handovers.settle(&self.parts.engine, now);
        // What was just committed is answered now.
        self.settle_changes(now);
        let Self { parts, refused, overloaded, expired, .. } = self;
        let Parts { status, engine, mailbox, .. } = parts;
        mailbox.set_room(engine.room_for_proposals());
        status.update(engine, changed, || count(refused, *overloaded, *expired, mailbox), now);
        Ok(())
    }

    fn settle_changes(&mut self, now: Time) {
        if !self.changes.is_empty() {
            self.expired += self.changes.settle(&mut self.parts.engine, now, not_leader);
        }
    }

    /// Returns the number of the write if it is durable already.
    fn carry_out(&mut self, ready: Ready, now: Time) -> Result<Option<u64>, Arc<str>> {
        for event in ready.events {
            self.note(event);
        }
        if let Some(violation) = ready.fatal {
            return Err(violation.to_string().into());
        }
        // First the messages, then the write: the other nodes work while the disk does.
        if !ready.messages.is_empty() {
            self.parts.outbox.send(ready.messages);
        }
        let durable = ready.write.map(|write| self.write(write)).transpose()?.flatten();
        if let Some(meta) = ready.restore {
            self.restore(meta);
        }
        if !ready.apply.is_empty() {
            self.apply(ready.apply, now);
        }
        if let Some(request) = ready.snapshot {
            self.parts.jobs.push(Job::Snapshot(request));
        }
        for transfer in ready.abandon_snapshots {
            self.parts.transfers.abandon(transfer);
        }
        for send in ready.send_snapshots {
            self.parts.transfers.begin(send);
        }
        for fetch in ready.fetches {
            self.fetch(fetch);
        }
        for read in ready.reads {
            if let Some(Round { mut queries, began, expires }) = self.rounds.remove(&read.id) {
                let expires = self.parts.clock.instant(expires);
                let ReadReady { index, until, .. } = read;
                self.fresh = self.fresh.filter(|fresh| fresh.at > began).or(Some(Fresh { index, at: began }));
                for query in &mut queries {
                    query.until = until;
                }
                self.parts.jobs.push(Job::Read { index, reads: Reads { queries, expires } });
            }
        }
        for id in ready.failed_reads {
            if let Some(round) = self.rounds.remove(&id) {
                answer(round.queries, &self.not_leader(self.parts.engine.leader()));
            }
        }
        Ok(durable)
    }

    fn write(&mut self, write: Write) -> Result<Option<u64>, Arc<str>> {
        let number = write.number;
        self.parts.ledger.writing(&write);
        match self.parts.writer.submit(write, &self.parts.mailbox)? {
            Submitted::Done => Ok(Some(number)),
            Submitted::Waiting => {
                self.writing += 1;
                Ok(None)
            }
        }
    }

    fn apply(&mut self, entries: Vec<Entry>, now: Time) {
        let Some(last) = entries.last() else { return };
        self.handed_over = last.index();
        self.handed_over_bytes += entries.iter().map(Entry::bytes).sum::<usize>();
        // The engine holds entries back while the applier has too much: then it waits to hear of it.
        let nudge = self.handed_over_bytes >= self.parts.max_apply_bytes / 2;
        self.applied_due.get_or_insert(now + APPLIED_DELAY);
        let expires = self.pending.expires().map(|expires| self.parts.clock.instant(expires));
        let waiters = self.pending.resolve(&entries);
        for waiting in &waiters {
            let took = (now + self.parts.timeout).saturating_sub(waiting.expires);
            self.parts.meters.propose_to_commit.observe(took, waiting.replies.len() as u64);
        }
        self.parts.jobs.push(Job::Apply { entries, waiters, expires, nudge, since: now });
    }

    fn restore(&mut self, meta: SnapshotMeta) {
        self.handed_over = meta.last.index;
        self.pending.overtake(meta.last.index);
        self.parts.jobs.push(Job::Restore(meta));
    }

    fn fetch(&mut self, fetch: Fetch) {
        while self.fetches.try_join_next().is_some() {}
        let Fetch { purpose, range, max_bytes } = fetch;
        let Parts { store, writer, mailbox, group, .. } = &self.parts;
        let (store, writer, mailbox, group) =
            (Arc::clone(store), Arc::clone(writer), Arc::clone(mailbox), *group);
        self.fetches.spawn(async move {
            match guarded(store.read(group, range, max_bytes)).await {
                Ok(Ok(entries)) => mailbox.complete(Completion::Fetched(purpose, entries)),
                // A truncation or compaction came first: the engine asks anew for what is there now.
                Ok(Err(error)) if error.kind() == StorageErrorKind::Invalid => {
                    mailbox.complete(Completion::Fetched(purpose, Vec::new()));
                }
                Ok(Err(error)) => {
                    writer.fail(&error);
                }
                Err(panic) => {
                    writer.fail(&StorageError::new(StorageErrorKind::Failed, panic));
                }
            }
        });
    }

    /// Gives up what has been open for too long.
    fn sweep(&mut self, now: Time) {
        self.expired += self.pending.expire(now) as u64;
        while let Some(first) = self.rounds.first_entry().filter(|first| first.get().expires <= now) {
            let queries = first.remove().queries;
            self.expired += queries.len() as u64;
            answer(queries, &RaftError::Unknown);
        }
    }

    fn note(&mut self, event: Event) {
        self.parts.meters.count(&event);
        let (node, group) = (self.parts.node, self.parts.group);
        match event {
            Event::Refused { from, reason } => {
                let count = self.refused.entry(reason).or_default();
                *count += 1;
                // Rarer and rarer: a peer must not be able to fill the disk with log lines.
                if count.is_power_of_two() {
                    trace::warn!(%node, %group, from = %from.node, %reason, count, "refused a message");
                }
            }
            Event::FoundingEnded { reason } => {
                self.parts.status.founding_ended = Some(reason);
                trace::info!(%node, %group, ?reason, "founding was given up");
            }
            Event::PromiseBroken { .. } => trace::warn!(%node, %group, ?event),
            Event::Resend { .. } => trace::debug!(%node, %group, ?event),
            _ => trace::info!(%node, %group, ?event),
        }
    }

    /// Ends in good order: what is on its way to disk gets there, what is committed is applied and answered.
    async fn finish(&mut self) {
        let mut inputs = Inputs::default();
        while self.writing > 0 {
            poll_fn(|cx| self.parts.mailbox.poll_waiting(cx)).await;
            self.parts.mailbox.take(&mut inputs);
            inputs.messages.clear();
            for completion in inputs.completions.drain(..) {
                match completion {
                    Completion::Written(_) => self.writing = self.writing.saturating_sub(1),
                    Completion::Fatal(_) => self.writing = 0,
                    _ => {}
                }
            }
        }
        self.parts.jobs.close();
        if tokio::time::timeout(DRAIN_TIMEOUT, &mut self.parts.applier).await.is_err() {
            self.parts.applier.abort();
        }
    }

    fn fatal_kind(&self) -> FatalKind {
        match self.parts.writer.failure() {
            Some(kind) => FatalKind::Storage(kind),
            None if self.parts.engine.is_broken() => FatalKind::Invariant,
            None => FatalKind::Machine,
        }
    }

    /// Answers whoever still waits, lets go of transport, store and machine, and publishes the last status.
    async fn end(mut self, fatal: Option<Arc<str>>) {
        self.pending.abandon();
        let error = fatal.clone().map_or(RaftError::Stopped, |reason| RaftError::Fatal { reason });
        for (_, round) in std::mem::take(&mut self.rounds) {
            answer(round.queries, &error);
        }
        self.changes.abandon(&error);
        self.parts.jobs.clear();
        let now = self.now();
        let counters = count(&self.refused, self.overloaded, self.expired, &self.parts.mailbox);
        let fatal = fatal.map(|reason| (self.fatal_kind(), reason));
        self.parts.status.publish(self.parts.engine.status(), fatal, counters, now);
        self.parts.outbox.stop().await;
        self.fetches.shutdown().await;
        self.parts.transfers.shutdown().await;
        let Self { parts, fetches, closing, .. } = self;
        drop((closing, fetches));
        let Parts { store, writer, status, outbox, applier, receiver, transfers, .. } = parts;
        receiver.stop().await;
        drop((store, outbox, transfers));
        if !applier.is_finished() {
            let _ended = tokio::time::timeout(DRAIN_TIMEOUT, applier).await;
        }
        if let Some(writer) = Arc::into_inner(writer) {
            writer.close().await;
        }
        // Last of all: a shutdown waits for it.
        drop(status);
    }
}

fn not_leader(engine: &Engine, leader: Option<NodeId>) -> RaftError {
    let info = leader.and_then(|leader| engine.membership().nodes.get(&leader));
    let address = info.map(|info| {
        if info.client_address.is_empty() { info.address.clone() } else { info.client_address.clone() }
    });
    RaftError::NotLeader { leader, address }
}

fn answer(queries: Vec<Query>, error: &RaftError) {
    for query in queries {
        query.fail(error);
    }
}

fn count(refused: &BTreeMap<Refusal, u64>, overloaded: u64, expired: u64, mailbox: &Mailbox) -> Counters {
    Counters {
        refused: refused.clone(),
        dropped_messages: mailbox.dropped.load(Ordering::Relaxed),
        overloaded: overloaded + mailbox.overloaded.load(Ordering::Relaxed),
        expired: expired + mailbox.expired.load(Ordering::Relaxed),
    }
}

/// Waits for inputs or the timer. What arrives is not taken at once but after one round of the scheduler: callers who
/// were woken together propose together, and a busy driver leaves its thread to others.
async fn wait(mailbox: &Mailbox, mut sleep: Pin<&mut Sleep>, inputs: &mut Inputs) {
    let mut went_round = false;
    poll_fn(|cx| {
        if mailbox.poll_waiting(cx).is_pending() {
            return sleep.as_mut().poll(cx);
        }
        if went_round {
            mailbox.take(inputs);
            return Poll::Ready(());
        }
        went_round = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
