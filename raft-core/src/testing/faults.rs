//! A log store in trouble: one that is slow, hangs, has no room, or fails, in front of any other.

use std::fmt;
use std::future::poll_fn;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use async_trait::async_trait;

use crate::log_store::{Claim, LogState, LogStore, StorageError, StorageErrorKind, Write};
use crate::types::{ClusterId, Entry, GroupId, Incarnation, Index, NodeId};

/// Puts stores into trouble and out of it. Clones are the same handle.
#[derive(Clone, Debug, Default)]
pub struct StoreFaults(Arc<Mutex<State>>);

/// Gives what each write waits for before it begins.
type Delay = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

#[derive(Default)]
struct State {
    trouble: Option<Trouble>,
    delay: Option<Delay>,
    waiting: Vec<Waker>,
    writes: u64,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slow = self.delay.is_some();
        f.debug_struct("State").field("trouble", &self.trouble).field("slow", &slow).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug)]
enum Trouble {
    Stalled,
    Fails(StorageErrorKind),
}

impl StoreFaults {
    /// No trouble yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on each write takes longer, by as much as what `wait` gives takes, such as a runtime's timer. Other troubles come on top.
    pub fn slow<W>(&self, wait: impl Fn() -> W + Send + Sync + 'static)
    where
        W: Future<Output = ()> + Send + 'static,
    {
        self.lock().delay = Some(Arc::new(move || Box::pin(wait())));
    }

    /// From now on writes begin and do not end, until [`heal`](Self::heal).
    pub fn stall(&self) {
        self.lock().trouble = Some(Trouble::Stalled);
    }

    /// From now on writes fail, as a device without room (`Full`) or one that is broken (`Io`) does.
    pub fn fail(&self, kind: StorageErrorKind) {
        self.set(Some(Trouble::Fails(kind)));
    }

    /// The device is well again: what hangs goes on. A store that has failed stays failed until it is opened anew.
    pub fn heal(&self) {
        self.lock().delay = None;
        self.set(None);
    }

    /// How many writes were asked for so far, those that were refused included.
    pub fn writes(&self) -> u64 {
        self.lock().writes
    }

    fn set(&self, trouble: Option<Trouble>) {
        let mut state = self.lock();
        state.trouble = trouble;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn pass(&self) -> Result<(), StorageError> {
        let delay = self.lock().delay.clone();
        if let Some(delay) = delay {
            delay().await;
        }
        poll_fn(|cx| {
            let mut state = self.lock();
            match state.trouble {
                None => Poll::Ready(Ok(())),
                Some(Trouble::Fails(kind)) => {
                    let message = format!(
                        "a write failed ({kind:?}), as the test asked: make room or mend it, then start again"
                    );
                    Poll::Ready(Err(StorageError::new(kind, message)))
                }
                Some(Trouble::Stalled) => {
                    state.waiting.push(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

/// A log store whose writes meet the troubles of a [`StoreFaults`]. Making another in front of the same store is opening it
/// anew.
#[derive(Debug)]
pub struct FaultStore<S> {
    inner: S,
    faults: StoreFaults,
    failed: AtomicBool,
}

impl<S: LogStore> FaultStore<S> {
    /// `inner`, with these troubles.
    pub const fn new(inner: S, faults: StoreFaults) -> Self {
        Self { inner, faults, failed: AtomicBool::new(false) }
    }
}

#[async_trait]
impl<S: LogStore> LogStore for FaultStore<S> {
    async fn claim(
        &self,
        cluster: ClusterId,
        node: NodeId,
        fresh: Incarnation,
    ) -> Result<Claim, StorageError> {
        self.inner.claim(cluster, node, fresh).await
    }

    async fn load(&self, group: GroupId) -> Result<LogState, StorageError> {
        self.inner.load(group).await
    }

    async fn write(&self, writes: &[Write]) -> Result<(), StorageError> {
        self.faults.lock().writes += 1;
        if self.failed.load(Ordering::SeqCst) {
            let message = "an earlier write failed: the store must be opened anew";
            return Err(StorageError::new(StorageErrorKind::Failed, message));
        }
        let passed = self.faults.pass().await;
        self.failed.store(passed.is_err(), Ordering::SeqCst);
        passed?;
        self.inner.write(writes).await
    }

    async fn read(
        &self,
        group: GroupId,
        range: RangeInclusive<Index>,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        self.inner.read(group, range, max_bytes).await
    }
}
