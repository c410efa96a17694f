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

/// The ends of a group's log: all that a store needs to know to tell which writes fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogSpan {
    /// All entries at this index and below are compacted; 0 if none is.
    pub compacted: Index,
    /// The last entry's index; `compacted` if no entry is held.
    pub last: Index,
}

impl LogSpan {
    /// The ends after `write`.
    ///
    /// # Errors
    /// [`StorageErrorKind::Invalid`] where it does not fit, as [`Write`] says.
    pub fn after(self, write: &Write) -> Result<Self, StorageError> {
        let Self { mut compacted, mut last } = self;
        let misfit = |what: String| {
            let message = format!("group {}: write {} {what}; this is a bug", write.group, write.number);
            StorageError::new(StorageErrorKind::Invalid, message)
        };
        if let Some(from) = write.truncate_from {
            if from <= compacted {
                return Err(misfit(format!("truncates from {from}, but the log begins after {compacted}")));
            }
            last = last.min(from - 1);
        }
        let follows = |last: Index, entry: &Entry| last.checked_add(1) == Some(entry.index());
        if let (Some(mark), Some(first)) = (write.compact_to, write.entries.first())
            && (last == compacted && mark > last && follows(mark, first))
        {
            last = mark;
        }
        for entry in &write.entries {
            if !follows(last, entry) {
                return Err(misfit(format!("appends entry {} after index {last}", entry.id)));
            }
            last = entry.index();
        }
        compacted = compacted.max(write.compact_to.unwrap_or(0));
        Ok(Self { compacted, last: last.max(compacted) })
    }
}

/// A durable log for all groups of one node.
///
/// # Contract
/// * **Durable on return.** When [`write`](Self::write) returns `Ok`, everything in it survives a crash of process, system and
///   power. Promises to other nodes are made on the strength of it.
/// * **Atomic.** After a crash each [`Write`] is there whole or not at all, and a write is there only if all
///   writes given before it are. The writes of one call may share one commit. A call that fails, or whose future is dropped
///   early, is like a crash: some of its writes, from the first on, may be there; of a write that was refused, nothing is.
/// * **One writer.** Calls of `write` and `claim` do not overlap; who drops one early opens the store anew. `read` and `load` may
///   come at any time, from any task, and see every write that returned before they began. Beside a write they see each
///   [`Write`] in it whole or not at all, and none without those before it.
/// * **An error is final.** After `write` fails, what it held may or may not be durable; the store must fail every later
///   `write` and `claim` with [`StorageErrorKind::Failed`] until it is opened anew. Never retry a failed fsync: the system may
///   have dropped the pages. A read that fails, and a claim that is refused, end nothing.
/// * **Bytes come back as they were**, or not at all: damage that is found is [`StorageErrorKind::Corrupt`].
/// * **No judgement.** Beyond what [`LogSpan::after`] finds, a store checks nothing: hard state, outline and snapshot need not fit the
///   entries, and terms may go anywhere. Groups have any number and share nothing. A command has up to
///   [`MAX_ENTRY_BYTES_LIMIT`](crate::config::MAX_ENTRY_BYTES_LIMIT) bytes.
///
/// The suite `raft_core::testing::suite::log_store` (feature `testing`) puts a store through this, case by case.
///
/// A call must not block its thread: the first poll of `write` may come from the task that drives a group. The futures should
/// not need a particular runtime; ours run under any.
#[async_trait]
pub trait LogStore: Send + Sync + 'static {
    /// Binds the store to a node at its first use, with `fresh` as its incarnation; later checks that it is that node's,
    /// returns the incarnation kept, whatever `fresh` is, and counts the boot, durably: 1, 2, 3. The log is not touched.
    ///
    /// # Errors
    /// [`StorageErrorKind::Foreign`] where the store belongs to another cluster or node, [`StorageErrorKind::Invalid`] where
    /// the first `fresh` is [`Incarnation::UNKNOWN`]. Nothing is changed then, and nothing counted. I/O.
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

    /// Carries out `writes` in order, at most one transaction in all, durable on return. A later write sees the earlier ones of
    /// its group. No writes, and a write without parts, change nothing.
    ///
    /// # Errors
    /// I/O; [`StorageErrorKind::Invalid`] for a write that does not fit the log as [`Write`] says (a gap, a truncation of
    /// compacted entries). Every error is final for this store, see the contract.
    async fn write(&self, writes: &[Write]) -> Result<(), StorageError>;

    /// Reads entries in order from the start of `range`, which lies within the log: at least one, then as many more
    /// of the range as keep [`Entry::bytes`] in all within `max_bytes`. The first that does not fit ends the read.
    ///
    /// # Errors
    /// I/O and damage; [`StorageErrorKind::Invalid`] where the range is empty, or not wholly within the log: it is never cut.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{EntryId, Payload};

    #[test]
    fn there_is_no_entry_after_the_highest_index() {
        let append = |index| {
            let entry = Entry { id: EntryId::new(1, index), payload: Payload::Noop };
            Write { entries: vec![entry], ..Write::default() }
        };
        let before = LogSpan { compacted: Index::MAX - 1, last: Index::MAX - 1 };
        let full = LogSpan { last: Index::MAX, ..before };
        assert_eq!(before.after(&append(Index::MAX)).expect("fits"), full);
        for index in [0, 1, Index::MAX] {
            assert!(full.after(&append(index)).is_err(), "{index}");
        }
    }
}
