//! Owns the state machine: applies what is committed, answers the callers, a batch at a time.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::iter::Peekable;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use super::clock::Clock;
use super::error::RaftError;
use super::guard::{guarded, poll_guarded};
use super::mailbox::{Completion, Mailbox, Query, Queue, lock};
use super::metrics::Meters;
use super::passage::{Passage, Settling};
use super::pending::Waiters;
use super::reading::Reading;
use super::snapshots::{Folder, Lent, Taker, blocking, restore};
use crate::engine::SnapshotRequest;
use crate::session_table::SessionTable;
use crate::state_machine::{Batch, Bookkeeping};
use crate::types::{Entry, Index, SnapshotMeta, Time};

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
    /// Gives up whose time is over. Returns how many.
    fn expire(&mut self, now: Instant) -> usize {
        match self {
            Self::Apply { waiters, expires, .. } if expires.is_some_and(|e| e <= now) => {
                give_up_waiters(waiters)
            }
            Self::Read { reads, .. } if reads.expires <= now => {
                Reads { queries: std::mem::take(&mut reads.queries), ..*reads }.give_up()
            }
            _ => 0,
        }
    }
}

/// Queries to be answered together, until `expires` at most.
pub(super) struct Reads {
    pub(super) queries: Vec<Query>,
    pub(super) expires: Instant,
}

impl Reads {
    /// Returns how many there were.
    fn give_up(self) -> usize {
        let count = self.queries.len();
        for query in self.queries {
            query.fail(&RaftError::Unknown);
        }
        count
    }
}

/// Entries put together from adjacent jobs.
struct Gathered {
    passage: Passage,
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
    /// The clients' sessions as they are at `applied`.
    pub(super) sessions: Arc<Mutex<SessionTable>>,
    /// The machine keeps the library's notes.
    pub(super) keeps_notes: bool,
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
            self.mailbox.count_expired(give_up_reads(&mut self.reads, Instant::now()));
        }
    }

    async fn carry_out(&mut self, jobs: &mut Vec<Job>) -> Result<(), String> {
        let mut gathered = self.gather();
        jobs.reverse();
        while let Some(job) = jobs.pop() {
            match job {
                Job::Apply { entries, waiters, expires, nudge, since } => {
                    gathered.passage.push(entries);
                    gathered.waiters.extend(waiters);
                    gathered.expires = gathered.expires.or(expires);
                    gathered.nudge |= nudge;
                    gathered.since = gathered.since.or(Some(since));
                }
                Job::Read { index, reads } => self.reads.entry(index).or_default().push(reads),
                Job::Snapshot(request) => {
                    self.apply(std::mem::replace(&mut gathered, self.gather()), jobs).await?;
                    self.snapshot(request).await;
                }
                Job::Restore(meta) => {
                    self.apply(std::mem::replace(&mut gathered, self.gather()), jobs).await?;
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

    fn gather(&self) -> Gathered {
        let passage = Passage::new(Arc::clone(&self.sessions));
        Gathered { passage, waiters: Vec::new(), expires: None, nudge: false, since: None }
    }

    /// `later` are the jobs that come after.
    async fn apply(&mut self, gathered: Gathered, later: &mut [Job]) -> Result<(), String> {
        let Gathered { mut passage, mut waiters, expires, nudge, since } = gathered;
        let last = passage.last;
        if last.index <= self.applied {
            return Ok(());
        }
        let commands = passage.take_commands();
        let count = commands.len();
        // Only the indexes that are waited for are kept: on a follower, none.
        let indexes: Vec<Index> =
            if waiters.is_empty() { Vec::new() } else { commands.iter().map(|c| c.id.index).collect() };
        let settling = Settling::new(passage);
        let bookkeeping = if self.keeps_notes { settling.bookkeeping() } else { Bookkeeping::default() };
        let batch = Batch { commands, bookkeeping };
        let machine = &self.machine;
        let apply = pin!(async move { machine.lock().await.apply(batch).await });
        let sweep = |now| {
            if expires.is_some_and(|expires| expires <= now) { give_up_waiters(&mut waiters) } else { 0 }
        };
        let replies = attend(apply, &self.mailbox, &self.jobs, &mut self.reads, later, sweep).await?;
        let replies = replies.map_err(|error| error.to_string())?;
        if replies.len() != count {
            return Err(format!("it gave {} replies to {count} commands", replies.len()));
        }
        let answers = settling.end(&replies, self.keeps_notes).ok_or(
            "it gives notes back at start, and did not ask for those of a batch (Batch::bookkeeping)",
        )?;
        self.applied = last.index;
        self.mailbox.applied.store(last.index, Ordering::Release);
        if let Some(since) = since {
            self.meters.commit_to_apply.observe(self.clock.now().saturating_sub(since), 1);
        }
        if nudge {
            self.mailbox.nudge();
        }
        let mut answers = answers.into_iter().peekable();
        let mut replies = indexes.into_iter().zip(replies).peekable();
        for Waiters { first, replies: callers, .. } in waiters {
            for (index, caller) in (first..).zip(callers) {
                // A session may know better than the machine, and has answers without a command.
                let answer = at(&mut answers, index).or_else(|| at(&mut replies, index).map(Ok));
                if let Some(answer) = answer {
                    let _gone = caller.send(answer);
                }
            }
        }
        Ok(())
    }

    /// A view that cannot be had is no reason to stop: the state is as it was, and the log goes on growing.
    async fn snapshot(&mut self, request: SnapshotRequest) {
        let machine = &self.machine;
        match guarded(async move { machine.lock().await.snapshot().await }).await {
            Ok(Ok(view)) => {
                let sessions = lock(&self.sessions).clone();
                self.taker.write_out(view, sessions, request);
            }
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
            restore(machine, snapshot).await
        });
        let mut sessions = attend(work, &self.mailbox, &self.jobs, &mut self.reads, later, |_| 0).await??;
        drop(restoring);
        if self.keeps_notes {
            sessions.watch();
        }
        self.mailbox.sessions_used.fetch_or(sessions.is_used(), Ordering::Release);
        *lock(&self.sessions) = sessions;
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

/// Waits for the machine, and meanwhile gives up callers whose time is over: those that `sweep` sees to and counts, those of reads,
/// and those of jobs that come later or wait in the queue.
async fn attend<T>(
    mut work: impl Future<Output = T> + Unpin,
    mailbox: &Mailbox,
    queue: &Queue<Job>,
    reads: &mut BTreeMap<Index, Vec<Reads>>,
    later: &mut [Job],
    mut sweep: impl FnMut(Instant) -> usize,
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
        let mut expired = sweep(now) + give_up_reads(reads, now);
        expired += later.iter_mut().map(|job| job.expire(now)).sum::<usize>();
        queue.visit(|job| expired += job.expire(now));
        mailbox.count_expired(expired);
    }
}

/// What there is for `index`, of a list that ascends; what lies before it is dropped.
fn at<T>(list: &mut Peekable<impl Iterator<Item = (Index, T)>>, index: Index) -> Option<T> {
    while list.next_if(|(at, _)| *at < index).is_some() {}
    list.next_if(|(at, _)| *at == index).map(|(_, found)| found)
}

/// Tells those whose time is over that the outcome is not known. Returns how many.
fn give_up_reads(reads: &mut BTreeMap<Index, Vec<Reads>>, now: Instant) -> usize {
    let mut count = 0;
    for waiting in reads.values_mut() {
        count += waiting.extract_if(.., |reads| reads.expires <= now).map(Reads::give_up).sum::<usize>();
    }
    reads.retain(|_, waiting| !waiting.is_empty());
    count
}

fn give_up_waiters(waiters: &mut Vec<Waiters>) -> usize {
    let mut count = 0;
    for caller in waiters.drain(..).flat_map(|waiting| waiting.replies) {
        let _gone = caller.send(Err(RaftError::Unknown));
        count += 1;
    }
    count
}
