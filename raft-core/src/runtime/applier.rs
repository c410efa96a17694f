//! Owns the state machine: applies what is committed, answers the callers, a batch at a time.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::error::RaftError;
use super::guard::{guarded, poll_guarded};
use super::mailbox::{Completion, Mailbox, Query, Queue};
use super::pending::Waiters;
use crate::codec::cold;
use crate::state_machine::{Batch, Command, StateMachine};
use crate::types::{Entry, EntryId, Index, Payload};

/// What the library notes with each batch in a machine that is durable by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bookkeeping {
    version: u16,
    /// The last entry that the machine has applied.
    pub(super) applied: EntryId,
}

impl Bookkeeping {
    const VERSION: u16 = 1;

    fn encode(applied: EntryId) -> Result<Bytes, String> {
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

/// What the applier is asked for.
pub(super) enum Job {
    /// Apply committed entries and answer who waits for them, until `expires` at most.
    Apply {
        entries: Vec<Entry>,
        waiters: Vec<Waiters>,
        expires: Option<Instant>,
        /// The driver waits to hear of it.
        nudge: bool,
    },
    /// Answer once `index` is applied, until `expires` at most.
    Read { index: Index, queries: Vec<Query>, expires: Instant },
    /// Answer from the state as it is.
    Query(Query),
}

/// Reads that wait for their index.
struct Reads {
    queries: Vec<Query>,
    expires: Instant,
}

/// Entries put together from adjacent jobs.
#[derive(Default)]
struct Gathered {
    commands: Vec<Command>,
    last: EntryId,
    waiters: Vec<Waiters>,
    expires: Option<Instant>,
    nudge: bool,
}

pub(super) struct Applier {
    machine: Box<dyn StateMachine>,
    jobs: Arc<Queue<Job>>,
    mailbox: Arc<Mailbox>,
    applied: Index,
    reads: BTreeMap<Index, Vec<Reads>>,
}

impl Applier {
    pub(super) fn new(
        machine: Box<dyn StateMachine>,
        jobs: Arc<Queue<Job>>,
        mailbox: Arc<Mailbox>,
        applied: Index,
    ) -> Self {
        Self { machine, jobs, mailbox, applied, reads: BTreeMap::new() }
    }

    /// Works until the queue is closed and empty, or the machine fails.
    pub(super) async fn run(mut self) {
        let mut jobs = Vec::new();
        while self.next(&mut jobs).await {
            if let Err(error) = self.carry_out(&mut jobs).await {
                self.jobs.clear();
                let reason = format!("the state machine failed: {error}");
                self.mailbox.complete(Completion::Fatal(reason.into()));
                return;
            }
        }
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
            let now = Instant::now();
            for waiting in self.reads.values_mut() {
                for reads in waiting.extract_if(.., |reads| reads.expires <= now) {
                    for query in reads.queries {
                        let _gone = query.reply.send(Err(RaftError::Unknown));
                    }
                }
            }
            self.reads.retain(|_, waiting| !waiting.is_empty());
        }
    }

    async fn carry_out(&mut self, jobs: &mut Vec<Job>) -> Result<(), String> {
        let mut gathered = Gathered::default();
        let mut queries = Vec::new();
        for job in jobs.drain(..) {
            match job {
                Job::Apply { entries, waiters, expires, nudge } => {
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
                }
                Job::Read { index, queries, expires } => {
                    self.reads.entry(index).or_default().push(Reads { queries, expires });
                }
                Job::Query(query) => queries.push(query),
            }
        }
        if gathered.last.index > self.applied {
            self.apply(gathered).await?;
        }
        while let Some(waiting) = self.reads.first_entry().filter(|first| *first.key() <= self.applied) {
            for query in waiting.remove().into_iter().flat_map(|reads| reads.queries) {
                self.query(query).await?;
            }
        }
        for query in queries {
            self.query(query).await?;
        }
        Ok(())
    }

    async fn apply(&mut self, gathered: Gathered) -> Result<(), String> {
        let Gathered { commands, last, mut waiters, expires, nudge } = gathered;
        let count = commands.len();
        // Only the indexes that are waited for are kept: on a follower, none.
        let first_waited = waiters.first().map(|waiting| waiting.first);
        let indexes: Vec<Index> = match first_waited {
            Some(_) => commands.iter().map(|command| command.id.index).collect(),
            None => Vec::new(),
        };
        let batch = Batch { commands, bookkeeping: Bookkeeping::encode(last)? };
        let machine = &mut self.machine;
        let replies = within(expires, &mut waiters, async move { machine.apply(batch).await })
            .await?
            .map_err(|error| error.to_string())?;
        if replies.len() != count {
            return Err(format!("it gave {} replies to {count} commands", replies.len()));
        }
        self.applied = last.index;
        self.mailbox.applied.store(last.index, Ordering::Release);
        if nudge {
            self.mailbox.nudge();
        }
        let mut answers = indexes.into_iter().zip(replies);
        for Waiters { first, replies: callers } in waiters {
            for (index, caller) in (first..).zip(callers) {
                if let Some((_, reply)) = answers.find(|(at, _)| *at == index) {
                    let _gone = caller.send(Ok(reply));
                }
            }
        }
        Ok(())
    }

    async fn query(&mut self, query: Query) -> Result<(), String> {
        let Query { bytes, reply, permit } = query;
        let machine = &mut self.machine;
        let answer = guarded(async move { machine.query(bytes).await }).await?;
        drop(permit);
        let _gone = reply.send(answer.map_err(|error| RaftError::Query(error.to_string())));
        Ok(())
    }
}

/// Runs `apply` to its end. Where it is not done at `expires`, whoever waits is told so; it goes on all the same.
async fn within<F: Future>(
    expires: Option<Instant>,
    waiters: &mut Vec<Waiters>,
    apply: F,
) -> Result<F::Output, String> {
    let mut apply = pin!(apply);
    // A machine in memory is done at the first poll: no timer for it.
    let first = poll_fn(|cx| Poll::Ready(poll_guarded(&mut apply, cx))).await;
    if let Poll::Ready(result) = first {
        return result;
    }
    if let Some(expires) = expires {
        let rest = poll_fn(|cx| poll_guarded(&mut apply, cx));
        if let Ok(result) = tokio::time::timeout_at(expires, rest).await {
            return result;
        }
        for caller in waiters.drain(..).flat_map(|waiting| waiting.replies) {
            let _gone = caller.send(Err(RaftError::Unknown));
        }
    }
    poll_fn(|cx| poll_guarded(&mut apply, cx)).await
}
