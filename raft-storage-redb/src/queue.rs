//! Calls of `write` that wait for the writer's thread: what waits together becomes one commit.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use raft_core::log_store::{StorageError, Write};
use raft_core::types::Entry;
use tokio::sync::oneshot;

/// One call of `write`.
pub(crate) struct Call {
    pub(crate) writes: Vec<Write>,
    pub(crate) reply: oneshot::Sender<Result<(), StorageError>>,
}

/// The calls that wait, in order.
#[derive(Default)]
pub(crate) struct Queue(Mutex<VecDeque<Call>>);

impl Queue {
    pub(crate) fn push(&self, call: Call) {
        self.lock().push_back(call);
    }

    /// The calls of the next commit: all that wait, up to `max_bytes` of entries, but one at least.
    pub(crate) fn take(&self, max_bytes: usize) -> Vec<Call> {
        let mut waiting = self.lock();
        let mut bytes = 0_usize;
        let count = waiting
            .iter()
            .take_while(|call| {
                bytes = bytes.saturating_add(call.bytes());
                bytes <= max_bytes
            })
            .count();
        let count = count.max(1).min(waiting.len());
        waiting.drain(..count).collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Call>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Call {
    fn bytes(&self) -> usize {
        self.writes.iter().flat_map(|write| &write.entries).map(Entry::bytes).sum()
    }
}
