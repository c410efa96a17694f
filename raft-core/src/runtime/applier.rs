//! Owns the state machine: applies what is committed, answers the callers, a batch at a time.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::clock::Clock;
use super::error::RaftError;
use super::guard::{guarded, poll_guarded};
use super::mailbox::{Completion, Mailbox, Query, Queue};
use super::metrics::Meters;
use super::pending::Waiters;
use super::reading::Reading;
use super::snapshots::{Folder, Lent, Taker, blocking, restore};
use crate::codec::cold;
use crate::engine::SnapshotRequest;
use crate::state_machine::{Batch, Command};
use crate::types::{Entry, EntryId, Index, Payload, SnapshotMeta, Time};

/// What the library notes with each batch in a machine that is durable by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bookkeeping {
    version: u16,
    /// The last entry that the machine has applied.
    pub(super) applied: EntryId,
}

impl Bookkeeping {
    const VERSION: u16 = 1;

    pub(super) fn encode(applied: EntryId) -> Result<Bytes, String> {
        let note = Self { version: Self::VERSION, applied };
        cold::encode(&note).map(Bytes::from).map_err(|e| format!("cannot encode the bookkeeping: {e}"))
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        match bytes.first_chunk().map(|version| u16::from_le_bytes(*version)) {
            Some(Self::VERSION) => cold::decode(bytes)
                .map_err(|e| format!("the bookkeeping in the state machine is damaged ({e})")),
            Some(version) => Err(format!(
                "the bookkeeping in the state machine has version {version}, this program knows version {}: \
                 use the newer program",
                Self::VERSION
            )),
            None => Err("the bookkeeping in the state machine is damaged (too short)".to_owned()),
        }
    }
}

/// How often, while the state machine is at work, callers whose time is over are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_millis(50);

/// What the applier is asked for.
pub(super) enum Job {
    /// Apply committed entries and answer who waits for them, until `expires` at most.
    Apply {
        entries: Vec<Entry>,
        waiters: Vec<Waiters>,
        expires: Option<Instant>,
        /// The driver waits to hear of it.
        nudge: bool,
        /// When it was committed and durable.
        since: Time,
    },
    /// Answer once `index` is applied; with 0, from the state as it is.
    Read { index: Index, reads: Reads },
    /// Take a snapshot of the state as it is after the jobs before this one.
    Snapshot(SnapshotRequest),
    /// Replace the state by this snapshot.
    Restore(SnapshotMeta),
}

impl Job {
    /// Gives up whose time is over.
    fn expire(&mut self, now: Instant) {
        match self {
            Self::Apply { waiters, expires, .. } if expires.is_some_and(|e| e <= now) => {
                give_up_waiters(waiters);
            }
            Self::Read { reads, .. } if reads.expires <= now => {
                Reads { queries: std::mem::take(&mut reads.queries), ..*reads }.give_up();
            }
            _ => {}
        }
    }
}

/// Queries to be answered together, until `expires` at most.
pub(super) struct Reads {
    pub(super) queries: Vec<Query>,
    pub(super) expires: Instant,
}

impl Reads {
    fn give_up(self) {
        for query in self.queries {
            query.fail(&RaftError::Unknown);
        }
    }
}

/// Entries put together from adjacent jobs.
#[derive(Default)]
struct Gathered {
    commands: Vec<Command>,
    last: EntryId,
    waiters: Vec<Waiters>,
    expires: Option<Instant>,
    nudge: bool,
    since: Option<Time>,
}

/// What an applier is made of.
pub(super) struct Applier {
    pub(super) machine: Lent,
    pub(super) jobs: Arc<Queue<Job>>,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) clock: Arc<Clock>,
    pub(super) meters: Arc<Meters>,
    pub(super) applied: Index,
    pub(super) reads: BTreeMap<Index, Vec<Reads>>,
    pub(super) folder: Folder,
    pub(super) taker: Taker,
}

impl Applier {
    /// Works until the queue is closed and empty, or the machine fails.
    pub(super) async fn run(mut self) {
        let mut jobs = Vec::new();
        while self.next(&mut jobs).await {
            if let Err(error) = self.carry_out(&mut jobs).await {
                self.jobs.clear();
                let reason = format!("the state machine failed: {error}");
                self.mailbox.complete(Completion::Fatal(reason.into()));
                break;
            }
        }
        self.taker.stop().await;
    }

    /// Waits for jobs; meanwhile gives up reads whose time is over.
    async fn next(&mut self, jobs: &mut Vec<Job>) -> bool {
        loop {
            let taken = poll_fn(|cx| self.jobs.poll_take(cx, jobs));
            let Some(expires) = self.reads.values().flatten().map(|reads| reads.expires).min() else {
                return taken.await;
            };
            if let Ok(open) = tokio::time::timeout_at(expires, taken).await {
                return open;
            }
            give_up_reads(&mut self.reads, Instant::now());
        }
    }

    async fn carry_out(&mut self, jobs: &mut Vec<Job>) -> Result<(), String> {
        let mut gathered = Gathered::default();
        jobs.reverse();
        while let Some(job) = jobs.pop() {
            match job {
                Job::Apply { entries, waiters, expires, nudge, since } => {
                    gathered.commands.reserve(entries.len());
                    for entry in entries {
                        gathered.last = entry.id;
                        if let Payload::Command(bytes) = entry.payload {
                            gathered.commands.push(Command { id: entry.id, bytes });
                        }
                    }
                    gathered.waiters.extend(waiters);
                    gathered.expires = gathered.expires.or(expires);
                    gathered.nudge |= nudge;
                    gathered.since = gathered.since.or(Some(since));
                }
                Job::Read { index, reads } => self.reads.entry(index).or_default().push(reads),
                Job::Snapshot(request) => {
                    self.apply(std::mem::take(&mut gathered), jobs).await?;
                    self.snapshot(request).await;
                }
                Job::Restore(meta) => {
                    self.apply(std::mem::take(&mut gathered), jobs).await?;
                    self.restore(meta, jobs).await?;
                }
            }
        }
        self.apply(gathered, jobs).await?;
        while let Some(waiting) = self.reads.first_entry().filter(|first| *first.key() <= self.applied) {
            for query in waiting.remove().into_iter().flat_map(|reads| reads.queries) {
                self.query(query).await?;
            }
        }
        Ok(())
    }

    /// `later` are the jobs that come after.
    async fn apply(&mut self, gathered: Gathered, later: &mut [Job]) -> Result<(), String> {
        let Gathered { commands, last, mut waiters, expires, nudge, since } = gathered;
        if last.index <= self.applied {
            return Ok(());
        }
        let count = commands.len();
        // Only the indexes that are waited for are kept: on a follower, none.
        let first_waited = waiters.first().map(|waiting| waiting.first);
        let indexes: Vec<Index> = match first_waited {
            Some(_) => commands.iter().map(|command| command.id.index).collect(),
            None => Vec::new(),
        };
        let batch = Batch { commands, bookkeeping: Bookkeeping::encode(last)? };
        let machine = &self.machine;
        let apply = pin!(async move { machine.lock().await.apply(batch).await });
        let sweep = |now| {
            if expires.is_some_and(|expires| expires <= now) {
                give_up_waiters(&mut waiters);
            }
        };
        let replies = attend(apply, &self.jobs, &mut self.reads, later, sweep).await?;
        let replies = replies.map_err(|error| error.to_string())?;
        if replies.len() != count {
            return Err(format!("it gave {} replies to {count} commands", replies.len()));
        }
        self.applied = last.index;
        self.mailbox.applied.store(last.index, Ordering::Release);
        if let Some(since) = since {
            self.meters.commit_to_apply.observe(self.clock.now().saturating_sub(since), 1);
        }
        if nudge {
            self.mailbox.nudge();
        }
        let mut answers = indexes.into_iter().zip(replies);
        for Waiters { first, replies: callers, .. } in waiters {
            for (index, caller) in (first..).zip(callers) {
                if let Some((_, reply)) = answers.find(|(at, _)| *at == index) {
                    let _gone = caller.send(Ok(reply));
                }
            }
        }
        Ok(())
    }

    /// A view that cannot be had is no reason to stop: the state is as it was, and the log goes on growing.
    async fn snapshot(&mut self, request: SnapshotRequest) {
        let machine = &self.machine;
        match guarded(async move { machine.lock().await.snapshot().await }).await {
            Ok(Ok(view)) => self.taker.write_out(view, request),
            Ok(Err(error)) => self.taker.failed(error.to_string()),
            Err(panic) => self.taker.failed(panic),
        }
    }

    async fn restore(&mut self, meta: SnapshotMeta, later: &mut [Job]) -> Result<(), String> {
        let last = meta.last;
        let (machine, folder) = (&self.machine, self.folder.clone());
        let restoring = self.taker.restoring(last);
        let work = pin!(async move {
            let snapshot = blocking(move || folder.checked_as(&meta)).await;
            let snapshot =
                snapshot.map_err(|e| format!("the snapshot of {last} cannot be read back: {e}"))?;
            restore(machine, snapshot, Bookkeeping::encode(last)?).await
        });
        attend(work, &self.jobs, &mut self.reads, later, |_| {}).await??;
        drop(restoring);
        self.applied = last.index;
        self.mailbox.applied.store(last.index, Ordering::Release);
        self.mailbox.nudge();
        Ok(())
    }

    async fn query(&mut self, query: Query) -> Result<(), String> {
        let (machine, bytes) = (&self.machine, query.bytes.clone());
        let answer = guarded(async move { machine.lock().await.query(bytes).await }).await?;
        // The process may have stood still since it was confirmed, and another node lead by now.
        if query.until.is_some_and(|until| self.clock.now() >= until) {
            self.mailbox.read_again(query);
            return Ok(());
        }
        let Query { reply, permit, .. } = query;
        drop(permit);
        let reading = answer.map(|answer| Reading::new(answer, self.applied));
        let _gone = reply.send(reading.map_err(|error| RaftError::Query(error.to_string())));
        Ok(())
    }
}

/// Waits for the machine, and meanwhile gives up callers whose time is over: those that `sweep` sees to, those of reads, and
/// those of jobs that come later or wait in the queue.
async fn attend<T>(
    mut work: impl Future<Output = T> + Unpin,
    queue: &Queue<Job>,
    reads: &mut BTreeMap<Index, Vec<Reads>>,
    later: &mut [Job],
    mut sweep: impl FnMut(Instant),
) -> Result<T, String> {
    // A machine in memory is done at the first poll: no timer for it.
    if let Poll::Ready(done) = poll_fn(|cx| Poll::Ready(poll_guarded(&mut work, cx))).await {
        return done;
    }
    loop {
        let rest = tokio::time::timeout(SWEEP_INTERVAL, poll_fn(|cx| poll_guarded(&mut work, cx)));
        if let Ok(done) = rest.await {
            return done;
        }
        let now = Instant::now();
        sweep(now);
        give_up_reads(reads, now);
        later.iter_mut().for_each(|job| job.expire(now));
        queue.visit(|job| job.expire(now));
    }
}

/// Tells those whose time is over that the outcome is not known.
fn give_up_reads(reads: &mut BTreeMap<Index, Vec<Reads>>, now: Instant) {
    for waiting in reads.values_mut() {
        for over in waiting.extract_if(.., |reads| reads.expires <= now) {
            over.give_up();
        }
    }
    reads.retain(|_, waiting| !waiting.is_empty());
}

fn give_up_waiters(waiters: &mut Vec<Waiters>) {
    for caller in waiters.drain(..).flat_map(|waiting| waiting.replies) {
        let _gone = caller.send(Err(RaftError::Unknown));
    }
}
