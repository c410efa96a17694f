//! Where the driver's inputs wait. One lock a call, one wake-up a batch.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::change::Wish;
use super::error::RaftError;
use super::handover::Handover;
use super::reading::{Consistency, Reading};
use super::snapshots::SnapshotReply;
use crate::engine::{BootstrapError, FetchPurpose, Finding, SnapshotOutcome};
use crate::membership::NodeInfo;
use crate::message::Envelope;
use crate::session::{SessionAction, SessionEntry};
use crate::types::{Entry, Index, NodeId, Peer, SnapshotMeta, Time};

/// Where a call's answer goes.
pub(crate) type ReplyTo = oneshot::Sender<Result<Bytes, RaftError>>;

/// What a call costs in the queue beside its bytes.
const CALL_OVERHEAD_BYTES: usize = Entry::OVERHEAD_BYTES;

/// A lock whose holder panicked still guards data that are whole: no code of ours panics within.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A question to the state machine.
pub(crate) struct Query {
    pub(crate) bytes: Bytes,
    pub(crate) consistency: Consistency,
    /// An answer that is not there by then is not given: another way is tried.
    pub(crate) until: Option<Time>,
    pub(crate) reply: oneshot::Sender<Result<Reading<Bytes>, RaftError>>,
    pub(crate) permit: Permit,
}

impl Query {
    /// A caller who is gone does not mind.
    pub(crate) fn fail(self, error: &RaftError) {
        let _gone = self.reply.send(Err(error.clone()));
    }
}

/// Founding members, as a caller named them.
pub(crate) struct Bootstrap {
    pub(crate) members: BTreeMap<NodeId, NodeInfo>,
    pub(crate) reply: oneshot::Sender<Result<(), BootstrapError>>,
}

/// What the tasks beside the driver tell it.
pub(crate) enum Completion {
    /// This write and all before it are durable.
    Written(u64),
    /// Entries were read.
    Fetched(FetchPurpose, Vec<Entry>),
    /// A snapshot was taken and is durable, or why not.
    SnapshotTaken(Result<SnapshotMeta, Arc<str>>),
    /// A transfer to a peer has ended; this node's own file may turn out to be damaged.
    SnapshotSent { transfer: u64, outcome: SnapshotOutcome },
    /// A snapshot came in, is checked and durable; the reply says whether it is of use.
    SnapshotReceived { from: Peer, meta: SnapshotMeta, reply: oneshot::Sender<bool> },
    /// The group cannot go on.
    Fatal(Arc<str>),
}

/// Everything that waited.
#[derive(Default)]
pub(crate) struct Inputs {
    pub(crate) commands: Vec<Bytes>,
    /// One for each of `commands`.
    pub(crate) replies: Vec<ReplyTo>,
    /// What is asked of the sessions.
    pub(crate) actions: Vec<SessionAction>,
    /// One for each of `actions`.
    pub(crate) action_replies: Vec<ReplyTo>,
    /// The cost of `commands`, `actions` and `reads`.
    pub(crate) call_bytes: usize,
    /// That of `commands` and `actions` alone.
    proposal_bytes: usize,
    pub(crate) reads: Vec<Query>,
    pub(crate) bootstraps: Vec<Bootstrap>,
    pub(crate) handovers: Vec<Handover>,
    pub(crate) wishes: Vec<Wish>,
    pub(crate) snapshots: Vec<SnapshotReply>,
    pub(crate) explains: Vec<oneshot::Sender<Vec<Finding>>>,
    pub(crate) messages: Vec<Envelope>,
    message_bytes: usize,
    pub(crate) completions: Vec<Completion>,
    /// Only look around: the applier has come far, or something was counted.
    pub(crate) nudged: bool,
    pub(crate) shutdown: bool,
}

impl Inputs {
    fn is_empty(&self) -> bool {
        self.messages.is_empty()
            && self.commands.is_empty()
            && self.actions.is_empty()
            && self.completions.is_empty()
            && self.reads.is_empty()
            && self.bootstraps.is_empty()
            && self.handovers.is_empty()
            && self.wishes.is_empty()
            && self.snapshots.is_empty()
            && self.explains.is_empty()
            && !self.nudged
            && !self.shutdown
    }
}

/// Why a mailbox takes nothing any more.
#[derive(Clone, Debug)]
pub(crate) enum Closed {
    Stopped,
    Fatal(Arc<str>),
}

impl From<Closed> for RaftError {
    fn from(closed: Closed) -> Self {
        match closed {
            Closed::Stopped => Self::Stopped,
            Closed::Fatal(reason) => Self::Fatal { reason },
        }
    }
}

#[derive(Default)]
struct State {
    inputs: Inputs,
    waker: Option<Waker>,
    closed: Option<Closed>,
    /// The driver has ended: nobody hears of completions.
    ended: bool,
}

/// The driver's mailbox.
pub(crate) struct Mailbox {
    state: Mutex<State>,
    max_call_bytes: usize,
    max_message_bytes: usize,
    /// The bytes of proposals that the engine had room for at the end of the driver's last turn. What is beyond it is refused by whoever
    /// proposes: under an overload the driver has enough to do.
    room: AtomicUsize,
    /// What the applier has applied. Read by the driver in every turn, so that most batches need no wake-up of their own.
    pub(crate) applied: AtomicU64,
    /// The state was restored from a snapshot that holds sessions.
    pub(crate) sessions_used: AtomicBool,
    /// Messages dropped for want of room.
    pub(crate) dropped: AtomicU64,
    /// Calls refused for want of room before the driver saw them.
    pub(crate) overloaded: AtomicU64,
    /// Calls that the applier gave up because their time was over.
    pub(crate) expired: AtomicU64,
}

impl Mailbox {
    pub(crate) fn new(max_call_bytes: usize, max_message_bytes: usize, applied: Index) -> Self {
        Self {
            state: Mutex::default(),
            max_call_bytes,
            max_message_bytes,
            room: AtomicUsize::new(usize::MAX),
            applied: AtomicU64::new(applied),
            sessions_used: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
            overloaded: AtomicU64::new(0),
            expired: AtomicU64::new(0),
        }
    }

    fn call(&self, bytes: usize, put: impl FnOnce(&mut Inputs)) -> Result<(), RaftError> {
        self.call_within(None, bytes, put)
    }

    /// `room` is what there is for proposals, where it is one.
    fn call_within(
        &self,
        room: Option<usize>,
        bytes: usize,
        put: impl FnOnce(&mut Inputs),
    ) -> Result<(), RaftError> {
        let mut state = lock(&self.state);
        if let Some(closed) = &state.closed {
            return Err(closed.clone().into());
        }
        let cost = CALL_OVERHEAD_BYTES + bytes;
        let total = state.inputs.call_bytes + cost;
        let proposed = state.inputs.proposal_bytes + cost;
        if total > self.max_call_bytes || room.is_some_and(|room| proposed > room) {
            self.overloaded.fetch_add(1, Ordering::Relaxed);
            return Err(RaftError::Overloaded);
        }
        state.inputs.call_bytes = total;
        if room.is_some() {
            state.inputs.proposal_bytes = proposed;
        }
        put(&mut state.inputs);
        wake(state);
        Ok(())
    }

    pub(crate) fn propose(&self, command: Bytes, reply: ReplyTo) -> Result<(), RaftError> {
        self.call_to_propose(command.len(), |inputs| {
            inputs.commands.push(command);
            inputs.replies.push(reply);
        })
    }

    pub(crate) fn act(&self, action: SessionAction, reply: ReplyTo) -> Result<(), RaftError> {
        self.call_to_propose(SessionEntry::OVERHEAD_BYTES + action.command_bytes(), |inputs| {
            inputs.actions.push(action);
            inputs.action_replies.push(reply);
        })
    }

    fn call_to_propose(&self, bytes: usize, put: impl FnOnce(&mut Inputs)) -> Result<(), RaftError> {
        self.call_within(Some(self.room.load(Ordering::Relaxed)), bytes, put)
    }

    /// How many bytes of proposals the engine takes now.
    pub(crate) fn set_room(&self, bytes: usize) {
        self.room.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn read(&self, query: Query) -> Result<(), RaftError> {
        self.call(query.bytes.len(), |inputs| inputs.reads.push(query))
    }

    pub(crate) fn bootstrap(&self, bootstrap: Bootstrap) -> Result<(), RaftError> {
        self.call(0, |inputs| inputs.bootstraps.push(bootstrap))
    }

    pub(crate) fn hand_over(&self, handover: Handover) -> Result<(), RaftError> {
        self.call(0, |inputs| inputs.handovers.push(handover))
    }

    pub(crate) fn change(&self, wish: Wish) -> Result<(), RaftError> {
        self.call(0, |inputs| inputs.wishes.push(wish))
    }

    pub(crate) fn snapshot(&self, reply: SnapshotReply) -> Result<(), RaftError> {
        self.call(0, |inputs| inputs.snapshots.push(reply))
    }

    pub(crate) fn explain(&self, reply: oneshot::Sender<Vec<Finding>>) -> Result<(), RaftError> {
        self.call(0, |inputs| inputs.explains.push(reply))
    }

    /// A read whose confirmation was over before its answer was there is confirmed by a majority.
    pub(crate) fn read_again(&self, query: Query) {
        let query = Query { consistency: Consistency::Linearizable, until: None, ..query };
        let mut state = lock(&self.state);
        if let Some(closed) = state.closed.clone() {
            drop(state);
            return query.fail(&closed.into());
        }
        state.inputs.reads.push(query);
        wake(state);
    }

    /// Takes received messages; what there is no room for is dropped and counted.
    pub(crate) fn deliver(&self, batch: Vec<Envelope>) {
        let mut state = lock(&self.state);
        if state.closed.is_some() {
            return;
        }
        let mut dropped = 0;
        for envelope in batch {
            let total = state.inputs.message_bytes + envelope.bytes();
            if total > self.max_message_bytes {
                dropped += 1;
            } else {
                state.inputs.message_bytes = total;
                state.inputs.messages.push(envelope);
            }
        }
        if dropped > 0 {
            self.dropped.fetch_add(dropped, Ordering::Relaxed);
            // The status is to show it, even where nothing else happens.
            state.inputs.nudged = true;
        }
        wake(state);
    }

    pub(crate) fn complete(&self, completion: Completion) {
        let mut state = lock(&self.state);
        if !state.ended {
            state.inputs.completions.push(completion);
        }
        wake(state);
    }

    /// Makes the driver look at `applied`.
    pub(crate) fn nudge(&self) {
        let mut state = lock(&self.state);
        state.inputs.nudged = true;
        wake(state);
    }

    /// Counts a call that was refused for want of room elsewhere. The status is to show it, even where nothing else happens.
    pub(crate) fn count_overloaded(&self) {
        self.overloaded.fetch_add(1, Ordering::Relaxed);
        self.nudge();
    }

    /// Counts calls that the applier has given up.
    pub(crate) fn count_expired(&self, calls: usize) {
        if calls > 0 {
            self.expired.fetch_add(calls as u64, Ordering::Relaxed);
            self.nudge();
        }
    }

    /// Asks the driver to end; calls are refused from now on.
    pub(crate) fn shut_down(&self) {
        let mut state = lock(&self.state);
        state.closed.get_or_insert(Closed::Stopped);
        state.inputs.shutdown = true;
        wake(state);
    }

    /// Takes nothing any more, and refuses what waits.
    pub(crate) fn close(&self, closed: Closed) {
        let mut state = lock(&self.state);
        if !matches!(state.closed, Some(Closed::Fatal(_))) {
            state.closed = Some(closed.clone());
        }
        state.ended = true;
        let mut inputs = std::mem::take(&mut state.inputs);
        drop(state);
        inputs.refuse(&closed.into());
    }

    pub(crate) fn closed(&self) -> Option<RaftError> {
        lock(&self.state).closed.clone().map(RaftError::from)
    }

    /// Ready where something waits.
    pub(crate) fn poll_waiting(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = lock(&self.state);
        if !state.inputs.is_empty() {
            return Poll::Ready(());
        }
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Swaps what waits with `inputs`, which the driver has emptied and whose memory is used again.
    pub(crate) fn take(&self, inputs: &mut Inputs) {
        (inputs.call_bytes, inputs.proposal_bytes, inputs.message_bytes) = (0, 0, 0);
        (inputs.nudged, inputs.shutdown) = (false, false);
        std::mem::swap(&mut lock(&self.state).inputs, inputs);
    }
}

impl Inputs {
    /// Tells the callers that their calls were not taken.
    pub(crate) fn refuse(&mut self, error: &RaftError) {
        for query in self.reads.drain(..) {
            query.fail(error);
        }
        for reply in self.replies.drain(..).chain(self.action_replies.drain(..)) {
            let _gone = reply.send(Err(error.clone()));
        }
        for reply in self.snapshots.drain(..) {
            let _gone = reply.send(Err(error.clone()));
        }
        self.commands.clear();
        self.actions.clear();
        self.bootstraps.clear();
        self.handovers.clear();
        for wish in self.wishes.drain(..) {
            let _gone = wish.reply.send(Err(error.clone()));
        }
        self.explains.clear();
    }
}

/// Wakes the driver after the lock is free, and only if it sleeps.
fn wake(mut state: MutexGuard<'_, State>) {
    let waker = state.waker.take();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// Bounds how many questions are open at once, and their bytes.
pub(crate) struct Gauge {
    count: AtomicUsize,
    bytes: AtomicUsize,
    max_count: usize,
    max_bytes: usize,
}

impl Gauge {
    pub(crate) fn new(max_count: usize, max_bytes: usize) -> Self {
        Self { count: AtomicUsize::new(0), bytes: AtomicUsize::new(0), max_count, max_bytes }
    }

    /// Room for one more question; given back when the permit is dropped.
    pub(crate) fn admit(self: &Arc<Self>, bytes: usize) -> Option<Permit> {
        let permit = Permit { gauge: Arc::clone(self), bytes };
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let total = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let full = count >= self.max_count || total.saturating_add(bytes) > self.max_bytes;
        (!full).then_some(permit)
    }
}

/// A place in a [`Gauge`].
pub(crate) struct Permit {
    gauge: Arc<Gauge>,
    bytes: usize,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.gauge.count.fetch_sub(1, Ordering::Relaxed);
        self.gauge.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

struct QueueState<T> {
    items: Vec<T>,
    waker: Option<Waker>,
    closed: bool,
}

/// A queue to one task, emptied whole. Its producers bound it.
pub(crate) struct Queue<T>(Mutex<QueueState<T>>);

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self(Mutex::new(QueueState { items: Vec::new(), waker: None, closed: false }))
    }
}

impl<T> Queue<T> {
    /// False where the queue is closed.
    pub(crate) fn push(&self, item: T) -> bool {
        let mut state = lock(&self.0);
        if state.closed {
            return false;
        }
        state.items.push(item);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Shows what waits.
    pub(crate) fn visit(&self, look: impl FnMut(&mut T)) {
        lock(&self.0).items.iter_mut().for_each(look);
    }

    /// Takes nothing any more; what waits is still handed out.
    pub(crate) fn close(&self) {
        let mut state = lock(&self.0);
        state.closed = true;
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Takes nothing any more, and drops what waits.
    pub(crate) fn clear(&self) {
        self.close();
        let items = std::mem::take(&mut lock(&self.0).items);
        drop(items);
    }

    /// Swaps what waits with `items`, which is empty; false once closed and empty.
    pub(crate) fn poll_take(&self, cx: &mut Context<'_>, items: &mut Vec<T>) -> Poll<bool> {
        let mut state = lock(&self.0);
        if !state.items.is_empty() {
            std::mem::swap(&mut state.items, items);
            return Poll::Ready(true);
        }
        if state.closed {
            return Poll::Ready(false);
        }
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}
