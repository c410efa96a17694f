//! The contract of a durable log.

use async_trait::async_trait;
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::types::{ClusterId, Entry, GroupId, Incarnation, Index, NodeId};
pub use crate::write::{LogState, Write};

/// Whose log a store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The store's mark, drawn when it was first claimed.
    pub incarnation: Incarnation,
    /// How often the store was claimed, this time included: it orders the runs of a node.
    pub boot: u64,
}

/// A durable log for all groups of one node.
///
/// # Contract
/// * **Durable on return.** When [`write`](Self::write) returns `Ok`, everything in it survives a crash of process, system and
///   power. Promises to other nodes are made on the strength of it.
/// * **Atomic.** After a crash each [`Write`] is there whole or not at all, and a write is there only if all
///   writes given before it are. The writes of one call may share one commit.
/// * **One writer.** Calls of `write` do not overlap. `read` and `load` may come at any time, from any task, and see every
///   write that returned before they began.
/// * **An error is final.** After `write` fails, what it held may or may not be durable; the store must fail every later
///   `write` until it is opened anew. Never retry a failed fsync: the system may have dropped the pages.
/// * **Bytes come back as they were**, or not at all: damage that is found is [`StorageErrorKind::Corrupt`].
///
/// A call must not block its thread: the first poll of `write` may come from the task that drives a group. The futures should
/// not need a particular runtime; ours run under any.
#[async_trait]
pub trait LogStore: Send + Sync + 'static {
    /// Binds the store to a node at its first use, with `fresh` as its incarnation; later checks that it is that node's,
    /// returns the incarnation kept, and counts the boot, durably.
    ///
    /// # Errors
    /// [`StorageErrorKind::Foreign`] where the store belongs to another cluster or node. Nothing is changed then.
    async fn claim(
        &self,
        cluster: ClusterId,
        node: NodeId,
        fresh: Incarnation,
    ) -> Result<Claim, StorageError>;

    /// What is held of `group`; [`LogState::default`] where nothing was ever written.
    ///
    /// # Errors
    /// I/O and damage.
    async fn load(&self, group: GroupId) -> Result<LogState, StorageError>;

    /// Carries out `writes` in order, at most one transaction in all, durable on return.
    ///
    /// # Errors
    /// I/O; [`StorageErrorKind::Invalid`] for a write that does not fit the log (a gap, a truncation of compacted entries).
    /// Every error is final for this store, see the contract.
    async fn write(&self, writes: &[Write]) -> Result<(), StorageError>;

    /// Reads entries in order from the start of `range`, which lies within the log: at least one, then as many more
    /// of the range as keep [`Entry::bytes`] in all within `max_bytes`.
    ///
    /// # Errors
    /// I/O and damage; [`StorageErrorKind::Invalid`] where the range is not wholly within the log.
    async fn read(
        &self,
        group: GroupId,
        range: RangeInclusive<Index>,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, StorageError>;
}

/// A store that others hold too, to read it beside the node that writes it.
#[async_trait]
impl<S: LogStore + ?Sized> LogStore for Arc<S> {
    async fn claim(
        &self,
        cluster: ClusterId,
        node: NodeId,
        fresh: Incarnation,
    ) -> Result<Claim, StorageError> {
        (**self).claim(cluster, node, fresh).await
    }

    async fn load(&self, group: GroupId) -> Result<LogState, StorageError> {
        (**self).load(group).await
    }

    async fn write(&self, writes: &[Write]) -> Result<(), StorageError> {
        (**self).write(writes).await
    }

    async fn read(
        &self,
        group: GroupId,
        range: RangeInclusive<Index>,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        (**self).read(group, range, max_bytes).await
    }
}

/// What went wrong in a store, for the caller to decide by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StorageErrorKind {
    /// The system refused: a failed read, write or fsync.
    Io,
    /// No room on the device.
    Full,
    /// What was read is not what was written.
    Corrupt,
    /// The data belong to another node or cluster.
    Foreign,
    /// Another process has the store open.
    Busy,
    /// The data are of a format that this version does not know.
    Format,
    /// The call breaks the contract.
    Invalid,
    /// An earlier write failed; the store must be opened anew.
    Failed,
}

/// An error of a [`LogStore`]. The message says what happened, where, and what to do.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct StorageError {
    kind: StorageErrorKind,
    message: String,
}

impl StorageError {
    /// An error of `kind`; `message` says what happened, where, and what to do.
    pub fn new(kind: StorageErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// What kind of error it is.
    pub const fn kind(&self) -> StorageErrorKind {
        self.kind
    }
}
