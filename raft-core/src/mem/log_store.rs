//! A log store in memory.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::log_store::{Claim, LogSpan, LogState, LogStore, StorageError, StorageErrorKind, Write};
use crate::types::{ClusterId, Entry, GroupId, Incarnation, Index, NodeId};

/// A [`LogStore`] in memory that keeps the whole contract but one point: "durable" lasts as long as one of its clones. A clone
/// is the same log opened anew: so a node can be stopped and started again on a clone, as on a disk.
#[derive(Debug, Default)]
pub struct MemLogStore {
    log: Arc<Mutex<Log>>,
    /// A write failed since this was opened.
    failed: AtomicBool,
}

#[derive(Clone, Debug, Default)]
struct Log {
    owner: Option<(ClusterId, NodeId, Incarnation)>,
    boot: u64,
    groups: BTreeMap<GroupId, Group>,
}

/// One group's log: `entries` follow `compacted` without gaps; `state.last` is the last of them.
#[derive(Clone, Debug, Default)]
struct Group {
    state: LogState,
    compacted: Index,
    entries: VecDeque<Entry>,
}

impl MemLogStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// A log of its own that holds the same, as when a data folder is copied.
    #[must_use]
    pub fn fork(&self) -> Self {
        let log = self.lock().clone();
        Self { log: Arc::new(Mutex::new(log)), failed: AtomicBool::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_not_failed(&self) -> Result<(), StorageError> {
        if !self.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(StorageError::new(
            StorageErrorKind::Failed,
            "an earlier write was invalid, nothing more is written; restart the node",
        ))
    }
}

impl Clone for MemLogStore {
    fn clone(&self) -> Self {
        Self { log: Arc::clone(&self.log), failed: AtomicBool::default() }
    }
}

fn invalid(message: impl Into<String>) -> StorageError {
    StorageError::new(StorageErrorKind::Invalid, message)
}

impl Group {
    fn span(&self) -> LogSpan {
        LogSpan { compacted: self.compacted, last: self.last() }
    }

    fn write(&mut self, write: &Write) {
        if let Some(snapshot) = &write.snapshot {
            self.state.snapshot = Some(snapshot.clone());
        }
        if let Some(from) = write.truncate_from {
            let keep = from.saturating_sub(self.compacted + 1);
            self.entries.truncate(usize::try_from(keep).unwrap_or(usize::MAX));
        }
        if let Some(first) = write.entries.first() {
            if first.index() > self.last() + 1 {
                self.entries.clear();
                self.compacted = first.index() - 1;
            }
            self.entries.extend(write.entries.iter().cloned());
        }
        if let Some(hard_state) = write.hard_state {
            self.state.hard_state = hard_state;
        }
        if let Some(outline) = &write.outline {
            self.state.outline = outline.clone();
        }
        if let Some(to) = write.compact_to.filter(|&to| to > self.compacted) {
            let count = usize::try_from(to - self.compacted).unwrap_or(usize::MAX);
            self.entries.drain(..count.min(self.entries.len()));
            self.compacted = to;
        }
        self.state.last = self.last();
    }

    fn last(&self) -> Index {
        self.entries.back().map_or(self.compacted, Entry::index)
    }
}

#[async_trait]
impl LogStore for MemLogStore {
    async fn claim(
        &self,
        cluster: ClusterId,
        node: NodeId,
        fresh: Incarnation,
    ) -> Result<Claim, StorageError> {
        self.check_not_failed()?;
        let mut log = self.lock();
        if log.owner.is_none() && fresh == Incarnation::UNKNOWN {
            return Err(invalid("incarnation 0 marks no store"));
        }
        let (owner_cluster, owner_node, incarnation) = *log.owner.get_or_insert((cluster, node, fresh));
        if (owner_cluster, owner_node) != (cluster, node) {
            return Err(StorageError::new(
                StorageErrorKind::Foreign,
                format!(
                    "the store belongs to node {owner_node} of cluster {owner_cluster}, not to node {node} of cluster \
                     {cluster}: give each node a store of its own"
                ),
            ));
        }
        log.boot += 1;
        Ok(Claim { incarnation, boot: log.boot })
    }

    async fn load(&self, group: GroupId) -> Result<LogState, StorageError> {
        Ok(self.lock().groups.get(&group).map(|group| group.state.clone()).unwrap_or_default())
    }

    async fn write(&self, writes: &[Write]) -> Result<(), StorageError> {
        self.check_not_failed()?;
        let mut log = self.lock();
        for write in writes {
            let group = log.groups.entry(write.group).or_default();
            if let Err(error) = group.span().after(write) {
                self.failed.store(true, Ordering::Release);
                return Err(error);
            }
            group.write(write);
        }
        Ok(())
    }

    async fn read(
        &self,
        group: GroupId,
        range: RangeInclusive<Index>,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        let log = self.lock();
        let outside = || invalid(format!("entries {range:?} are not within the log"));
        let group = log.groups.get(&group).ok_or_else(outside)?;
        if range.is_empty() || *range.start() <= group.compacted || *range.end() > group.last() {
            return Err(outside());
        }
        let skip = usize::try_from(range.start() - group.compacted - 1).map_err(|_| outside())?;
        let mut bytes = 0;
        let mut entries = Vec::new();
        for entry in group.entries.range(skip..).take_while(|entry| entry.index() <= *range.end()) {
            bytes += entry.bytes();
            if bytes > max_bytes && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        Ok(entries)
    }
}
