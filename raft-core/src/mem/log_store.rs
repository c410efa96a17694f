//! A log store in memory.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::log_store::{Claim, LogState, LogStore, StorageError, StorageErrorKind, Write};
use crate::types::{ClusterId, Entry, GroupId, Incarnation, Index, NodeId};

/// A [`LogStore`] in memory that keeps the whole contract but one point: "durable" lasts as long as one of its clones. So a
/// node can be stopped and started again on a clone, as on a disk.
#[derive(Clone, Debug, Default)]
pub struct MemLogStore(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    owner: Option<(ClusterId, NodeId, Incarnation)>,
    boot: u64,
    groups: BTreeMap<GroupId, Group>,
    failed: bool,
}

/// One group's log: `entries` follow `compacted` without gaps; `state.last` is the last of them.
#[derive(Debug, Default)]
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

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn invalid(message: impl Into<String>) -> StorageError {
    StorageError::new(StorageErrorKind::Invalid, message)
}

impl Group {
    fn check(&self, write: &Write) -> Result<(), StorageError> {
        let mut last = self.state.last;
        if let Some(from) = write.truncate_from {
            if from <= self.compacted {
                return Err(invalid(format!("truncation at {from}: compacted up to {}", self.compacted)));
            }
            last = last.min(from - 1);
        }
        let base = self.compacted.max(write.compact_to.unwrap_or(0));
        for entry in &write.entries {
            // An empty log goes on after what is compacted.
            let next = if last <= base { base.max(last) + 1 } else { last + 1 };
            if entry.index() != next && entry.index() != last + 1 {
                return Err(invalid(format!("entry {} leaves a gap after {last}", entry.id)));
            }
            last = entry.index();
        }
        Ok(())
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
        let mut inner = self.lock();
        let (owner_cluster, owner_node, incarnation) = *inner.owner.get_or_insert((cluster, node, fresh));
        if (owner_cluster, owner_node) != (cluster, node) {
            return Err(StorageError::new(
                StorageErrorKind::Foreign,
                format!(
                    "the store belongs to node {owner_node} of cluster {owner_cluster}, not to node {node} of cluster \
                     {cluster}: give each node a store of its own"
                ),
            ));
        }
        inner.boot += 1;
        Ok(Claim { incarnation, boot: inner.boot })
    }

    async fn load(&self, group: GroupId) -> Result<LogState, StorageError> {
        Ok(self.lock().groups.get(&group).map(|group| group.state.clone()).unwrap_or_default())
    }

    async fn write(&self, writes: &[Write]) -> Result<(), StorageError> {
        let mut inner = self.lock();
        if inner.failed {
            return Err(StorageError::new(
                StorageErrorKind::Failed,
                "an earlier write was invalid: nothing more is written",
            ));
        }
        for write in writes {
            let group = inner.groups.entry(write.group).or_default();
            if let Err(error) = group.check(write) {
                inner.failed = true;
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
        let inner = self.lock();
        let outside = || invalid(format!("entries {range:?} are not within the log"));
        let group = inner.groups.get(&group).ok_or_else(outside)?;
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
