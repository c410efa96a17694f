//! One writer per log store: what waits, of all groups, becomes one commit.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Waker};

use tokio::task::JoinHandle;

use super::guard::poll_guarded;
use super::mailbox::{Completion, Mailbox, lock};
use crate::log_store::{LogStore, StorageError, StorageErrorKind, Write};
use crate::types::Entry;

/// The most bytes of entries in one call of the store, so that a commit's latency stays bounded however many groups wait.
const MAX_COMMIT_BYTES: usize = 16 << 20;

type WriteFuture = Pin<Box<dyn Future<Output = Result<(), StorageError>> + Send>>;

/// A write on its way, and who is to hear of it.
struct Waiting {
    write: Write,
    group: Arc<Mailbox>,
}

/// A call of the store under way, and who is to hear of it.
struct Commit {
    future: WriteFuture,
    acknowledge: Vec<(u64, Arc<Mailbox>)>,
}

struct State {
    waiting: VecDeque<Waiting>,
    /// A call of the store is under way: the next must wait.
    busy: bool,
    /// A call that a driver began and that did not end at once.
    begun: Option<Commit>,
    /// The store has always been done at once so far, as one in memory is: a driver may call it without a detour over the
    /// writer's task.
    prompt: bool,
    groups: Vec<Weak<Mailbox>>,
    failed: Option<(StorageErrorKind, Arc<str>)>,
    closed: bool,
    waker: Option<Waker>,
}

struct Shared {
    store: Arc<dyn LogStore>,
    state: Mutex<State>,
}

/// What became of a write that was handed in.
pub(super) enum Submitted {
    /// It is durable already.
    Done,
    /// [`Completion::Written`] will follow.
    Waiting,
}

/// The writer of one store. Its task ends when this is dropped and what waits is written.
pub(crate) struct LogWriter {
    shared: Arc<Shared>,
    task: Option<JoinHandle<()>>,
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        let mut state = lock(&self.shared.state);
        state.closed = true;
        wake(&mut state);
    }
}

fn wake(state: &mut State) {
    if let Some(waker) = state.waker.take() {
        waker.wake();
    }
}

impl LogWriter {
    /// Starts the writer's task.
    pub(crate) fn spawn(store: Arc<dyn LogStore>) -> Self {
        let state = State {
            waiting: VecDeque::new(),
            busy: false,
            begun: None,
            prompt: true,
            groups: Vec::new(),
            failed: None,
            closed: false,
            waker: None,
        };
        let shared = Arc::new(Shared { store, state: Mutex::new(state) });
        let task = Some(tokio::spawn(run(Arc::clone(&shared))));
        Self { shared, task }
    }

    /// Ends the task; nothing of the store is held any more when this returns.
    pub(super) async fn close(mut self) {
        let task = self.task.take();
        drop(self);
        if let Some(task) = task {
            let _ended = task.await;
        }
    }

    /// Counts a group among those that stop when the store fails.
    pub(crate) fn register(&self, group: &Arc<Mailbox>) {
        let mut state = lock(&self.shared.state);
        state.groups.retain(|group| group.strong_count() > 0);
        state.groups.push(Arc::downgrade(group));
    }

    /// Hands a write in.
    ///
    /// # Errors
    /// Where the store has failed; every group of the store is told.
    pub(super) fn submit(&self, write: Write, group: &Arc<Mailbox>) -> Result<Submitted, Arc<str>> {
        let mut state = lock(&self.shared.state);
        if let Some((_, reason)) = &state.failed {
            return Err(Arc::clone(reason));
        }
        if state.busy || !state.prompt || !state.waiting.is_empty() {
            state.waiting.push_back(Waiting { write, group: Arc::clone(group) });
            wake(&mut state);
            return Ok(Submitted::Waiting);
        }
        state.busy = true;
        drop(state);
        let number = write.number;
        let mut future = self.shared.begin(vec![write]);
        // If it is not done, the writer's task polls it anew and leaves its own waker.
        let polled = poll_guarded(&mut future, &mut Context::from_waker(Waker::noop()));
        let mut state = lock(&self.shared.state);
        match polled {
            Poll::Ready(result) => {
                state.busy = false;
                if !state.waiting.is_empty() {
                    wake(&mut state);
                }
                drop(state);
                flatten(result).map_err(|error| self.shared.fail(&error))?;
                Ok(Submitted::Done)
            }
            Poll::Pending => {
                state.prompt = false;
                state.begun = Some(Commit { future, acknowledge: vec![(number, Arc::clone(group))] });
                wake(&mut state);
                Ok(Submitted::Waiting)
            }
        }
    }

    /// Stops every group of the store: what it reads or writes cannot be relied on.
    pub(super) fn fail(&self, error: &StorageError) -> Arc<str> {
        self.shared.fail(error)
    }

    /// How the store failed, if it has.
    pub(super) fn failure(&self) -> Option<StorageErrorKind> {
        lock(&self.shared.state).failed.as_ref().map(|&(kind, _)| kind)
    }
}

fn flatten(result: Result<Result<(), StorageError>, String>) -> Result<(), StorageError> {
    result.unwrap_or_else(|panic| Err(StorageError::new(StorageErrorKind::Failed, panic)))
}

impl Shared {
    fn begin(&self, writes: Vec<Write>) -> WriteFuture {
        let store = Arc::clone(&self.store);
        Box::pin(async move { store.write(&writes).await })
    }

    fn fail(&self, error: &StorageError) -> Arc<str> {
        let reason: Arc<str> = format!("the log store failed: {error}").into();
        let (reason, groups) = {
            let mut state = lock(&self.state);
            state.waiting.clear();
            let (_, reason) = state.failed.get_or_insert((error.kind(), reason));
            let reason = Arc::clone(reason);
            (reason, std::mem::take(&mut state.groups))
        };
        for group in groups.iter().filter_map(Weak::upgrade) {
            group.complete(Completion::Fatal(Arc::clone(&reason)));
        }
        reason
    }

    /// The next call of the store; `None` when there will be none.
    fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<Commit>> {
        let mut state = lock(&self.state);
        if let Some(commit) = state.begun.take() {
            return Poll::Ready(Some(commit));
        }
        if state.failed.is_some() {
            return Poll::Ready(None);
        }
        if !state.busy && !state.waiting.is_empty() {
            let (mut writes, mut acknowledge, mut bytes) = (Vec::new(), Vec::new(), 0);
            while let Some(next) = state.waiting.front() {
                bytes += next.write.entries.iter().map(Entry::bytes).sum::<usize>();
                if bytes > MAX_COMMIT_BYTES && !writes.is_empty() {
                    break;
                }
                if let Some(Waiting { write, group }) = state.waiting.pop_front() {
                    acknowledge.push((write.number, group));
                    writes.push(write);
                }
            }
            state.busy = true;
            return Poll::Ready(Some(Commit { future: self.begin(writes), acknowledge }));
        }
        if state.closed && !state.busy {
            return Poll::Ready(None);
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

async fn run(shared: Arc<Shared>) {
    while let Some(Commit { mut future, acknowledge }) = poll_fn(|cx| shared.poll_next(cx)).await {
        let result = poll_fn(|cx| poll_guarded(&mut future, cx)).await;
        lock(&shared.state).busy = false;
        match flatten(result) {
            Ok(()) => {
                for (number, group) in acknowledge {
                    group.complete(Completion::Written(number));
                }
            }
            Err(error) => {
                shared.fail(&error);
                return;
            }
        }
    }
}
