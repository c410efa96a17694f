//! What is written: one transaction, one fsync, for the writes of all groups.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use raft_core::codec::entry;
use raft_core::codec::versioned::{self, Versioned};
use raft_core::log_store::{Claim, StorageError, StorageErrorKind, Write};
use raft_core::types::{ClusterId, Entry, GroupId, Incarnation, Index, NodeId};
use redb::{Database, Durability, ReadableDatabase, ReadableTable, Table, WriteTransaction};

use crate::Options;
use crate::error::{Name, Panicked};
use crate::layout::{
    GROUP_OUTLINE, GROUP_SNAPSHOT, GROUP_STATE, GROUPS, GroupState, Identity, LOG, STORE, STORE_IDENTITY,
    cut_rows, group_key, prefix_bytes, seal,
};
use crate::queue::Queue;
use crate::reader::{Reader, damaged_entry};

const DOING: &str = "write";
/// A buffer that one huge write has grown beyond this is given back.
const KEPT_BUFFER_BYTES: usize = 1 << 20;

pub(crate) type LogTable<'txn> = Table<'txn, (u64, u64), &'static [u8]>;
type GroupsTable<'txn> = Table<'txn, (u64, u8), &'static [u8]>;

/// A group's state before a write and after it.
type Change = (GroupState, GroupState);

pub(crate) struct Writer {
    database: Arc<Database>,
    name: Name,
    options: Options,
    /// Reads what `groups` does not know yet.
    reader: Reader,
    /// What is durable of each group that was written to, so that a write reads nothing.
    groups: HashMap<GroupId, GroupState>,
    buffer: Vec<u8>,
    /// A commit failed, or may have: nothing is written any more.
    failed: bool,
}

impl Writer {
    pub(crate) fn new(database: Arc<Database>, name: Name, options: &Options) -> Self {
        let reader = Reader { database: Arc::clone(&database), name: name.clone() };
        Self {
            database,
            name,
            options: options.clone(),
            reader,
            groups: HashMap::new(),
            buffer: Vec::new(),
            failed: false,
        }
    }

    /// Carries out the calls that wait, as many as fit, in one durable transaction. Any error is final, and all of them get it.
    pub(crate) fn write_waiting(&mut self, queue: &Queue) {
        let calls = queue.take(self.options.max_commit_bytes);
        if calls.is_empty() {
            return;
        }
        let writes: Vec<&Write> = calls.iter().flat_map(|call| &call.writes).collect();
        let written = catch_unwind(AssertUnwindSafe(|| self.last_try(|writer| writer.try_write(&writes))));
        let written =
            written.unwrap_or_else(|payload| Err(self.name.panicked(DOING, &Panicked::new(&*payload))));
        for call in calls {
            // The caller may not wait any more.
            let _ = call.reply.send(written.clone());
        }
    }

    /// Binds the store to a node, or checks that it is bound to it, and counts the boot.
    pub(crate) fn claim(
        &mut self,
        cluster: ClusterId,
        node: NodeId,
        fresh: Incarnation,
    ) -> Result<Claim, StorageError> {
        let claim = match self.identity()? {
            Some(kept) if (kept.cluster, kept.node) != (cluster, node) => {
                return Err(self.name.error(
                    StorageErrorKind::Foreign,
                    format_args!(
                        "belongs to node {} of cluster {}, not to node {node} of cluster {cluster}; \
                         give each node its own folder",
                        kept.node, kept.cluster
                    ),
                ));
            }
            Some(kept) => Claim { boot: kept.claim.boot.saturating_add(1), ..kept.claim },
            None if fresh == Incarnation::UNKNOWN => {
                return Err(self.name.error(StorageErrorKind::Invalid, "incarnation 0 marks no folder"));
            }
            None => Claim { incarnation: fresh, boot: 1 },
        };
        self.last_try(|writer| {
            let txn = writer.begin()?;
            let mut store = txn.open_table(STORE).map_err(|e| writer.name.redb(DOING, e))?;
            let row = Identity { cluster, node, claim }.encode();
            store.insert(STORE_IDENTITY, row.as_slice()).map_err(|e| writer.name.redb(DOING, e))?;
            drop(store);
            writer.commit(txn)
        })?;
        Ok(claim)
    }

    /// Runs what may fail at most once: after an error, or a panic, only a store opened anew knows what is durable.
    fn last_try<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        if self.failed {
            return Err(self.name.error(
                StorageErrorKind::Failed,
                "an earlier write failed, nothing is written any more; restart the node",
            ));
        }
        self.failed = true;
        let done = work(self)?;
        self.failed = false;
        Ok(done)
    }

    fn identity(&self) -> Result<Option<Identity>, StorageError> {
        let txn = self.database.begin_read().map_err(|e| self.name.redb(DOING, e))?;
        let store = txn.open_table(STORE).map_err(|e| self.name.redb(DOING, e))?;
        let row = store.get(STORE_IDENTITY).map_err(|e| self.name.redb(DOING, e))?;
        row.map(|row| Identity::decode(row.value()))
            .transpose()
            .map_err(|error| self.name.damaged(format_args!("the identity row is damaged ({error})")))
    }

    fn try_write(&mut self, writes: &[&Write]) -> Result<(), StorageError> {
        let (states, latest) = self.check(writes)?;
        let txn = self.begin()?;
        {
            let mut log = txn.open_table(LOG).map_err(|e| self.name.redb(DOING, e))?;
            let mut groups = txn.open_table(GROUPS).map_err(|e| self.name.redb(DOING, e))?;
            for (write, &(before, after)) in writes.iter().zip(&states) {
                self.carry_out(write, before, after, &mut log, &mut groups)?;
            }
            for (group, state) in &latest {
                if self.groups.get(group) != Some(state) {
                    let row = state.encode(*group);
                    let key = (group.0, GROUP_STATE);
                    groups.insert(key, row.as_slice()).map_err(|e| self.name.redb(DOING, e))?;
                }
            }
        }
        self.commit(txn)?;
        self.groups.extend(latest);
        Ok(())
    }

    /// The state of each write's group before and after it, and of each group after all. Finds every write that does not
    /// fit before any is begun.
    fn check(
        &mut self,
        writes: &[&Write],
    ) -> Result<(Vec<Change>, HashMap<GroupId, GroupState>), StorageError> {
        let mut latest: HashMap<GroupId, GroupState> = HashMap::new();
        let mut states = Vec::with_capacity(writes.len());
        for write in writes {
            let known = latest.get(&write.group).or_else(|| self.groups.get(&write.group));
            let before = match known {
                Some(state) => *state,
                None => {
                    let durable = self.reader.load_state(write.group)?;
                    self.groups.insert(write.group, durable);
                    durable
                }
            };
            let after = before.after(write).map_err(|why| {
                let number = write.number;
                let what = format_args!("group {}: write {number} {why}; this is a bug", write.group);
                self.name.error(StorageErrorKind::Invalid, what)
            })?;
            latest.insert(write.group, after);
            states.push((before, after));
        }
        Ok((states, latest))
    }

    fn carry_out(
        &mut self,
        write: &Write,
        before: GroupState,
        after: GroupState,
        log: &mut LogTable<'_>,
        groups: &mut GroupsTable<'_>,
    ) -> Result<(), StorageError> {
        let group = write.group;
        if let Some(snapshot) = &write.snapshot {
            self.put_versioned(group, GROUP_SNAPSHOT, snapshot, groups)?;
        }
        if let Some(from) = write.truncate_from.filter(|from| *from <= before.last) {
            self.truncate(group, before.base, from, log)?;
        }
        insert_entries(&self.name, group, &write.entries, &mut self.buffer, log)?;
        if let Some(outline) = &write.outline {
            self.put_versioned(group, GROUP_OUTLINE, outline, groups)?;
        }
        if after.base > before.base {
            self.compact(group, after, log)?;
        }
        Ok(())
    }

    /// Drops the entries from `from` on; a chunk that begins before it is written again without them.
    fn truncate(
        &self,
        group: GroupId,
        base: Index,
        from: Index,
        log: &mut LogTable<'_>,
    ) -> Result<(), StorageError> {
        let redb = |error: redb::StorageError| self.name.redb(DOING, error);
        if from - 1 == base {
            // Nothing is kept, be it in chunks that the mark has not passed wholly.
            return log.retain_in((group.0, 0)..=(group.0, Index::MAX), |_, _| false).map_err(redb);
        }
        log.retain_in((group.0, from)..=(group.0, Index::MAX), |_, _| false).map_err(redb)?;
        let kept = {
            let Some(row) = log.range((group.0, 0)..(group.0, from)).map_err(redb)?.next_back() else {
                return Err(self.name.damaged(format_args!("group {group}: entry {} is missing", from - 1)));
            };
            let (key, value) = row.map_err(redb)?;
            let (_, first) = key.value();
            let chunk = value.value();
            let kept_bytes = prefix_bytes(chunk, first, from)
                .map_err(|(index, error)| damaged_entry(&self.name, group, index, error))?;
            (kept_bytes < chunk.len()).then(|| (first, chunk[..kept_bytes].to_vec()))
        };
        if let Some((first, chunk)) = kept {
            log.insert((group.0, first), chunk.as_slice()).map_err(redb)?;
        }
        Ok(())
    }

    /// Drops the chunks that lie wholly at `after.base` or below. One that does in part stays: the mark decides.
    fn compact(&self, group: GroupId, after: GroupState, log: &mut LogTable<'_>) -> Result<(), StorageError> {
        let redb = |error: redb::StorageError| self.name.redb(DOING, error);
        if after.last == after.base {
            return log.retain_in((group.0, 0)..=(group.0, Index::MAX), |_, _| false).map_err(redb);
        }
        let first_kept = {
            let before = (group.0, 0)..=(group.0, after.base + 1);
            let Some(row) = log.range(before).map_err(redb)?.next_back() else {
                let what = format_args!("group {group}: entry {} is missing", after.base + 1);
                return Err(self.name.damaged(what));
            };
            row.map_err(redb)?.0.value()
        };
        log.retain_in((group.0, 0)..first_kept, |_, _| false).map_err(redb)
    }

    fn put_versioned<T: Versioned>(
        &self,
        group: GroupId,
        kind: u8,
        value: &T,
        groups: &mut GroupsTable<'_>,
    ) -> Result<(), StorageError> {
        let row = seal_versioned(&self.name, group, kind, value)?;
        groups.insert((group.0, kind), row.as_slice()).map_err(|e| self.name.redb(DOING, e))?;
        Ok(())
    }

    fn begin(&self) -> Result<WriteTransaction, StorageError> {
        let mut txn = self.database.begin_write().map_err(|e| self.name.redb(DOING, e))?;
        txn.set_two_phase_commit(self.options.two_phase_commit);
        txn.set_quick_repair(self.options.quick_repair);
        txn.set_durability(Durability::Immediate)
            .map_err(|e| self.name.error(StorageErrorKind::Io, format_args!("cannot {DOING}: {e}")))?;
        Ok(txn)
    }

    fn commit(&self, txn: WriteTransaction) -> Result<(), StorageError> {
        txn.commit().map_err(|e| self.name.redb("commit", e))
    }
}

/// Inserts entries, which follow each other, as rows of their own: no earlier row is written again.
pub(crate) fn insert_entries(
    name: &Name,
    group: GroupId,
    entries: &[Entry],
    buffer: &mut Vec<u8>,
    log: &mut LogTable<'_>,
) -> Result<(), StorageError> {
    let mut starts = Vec::with_capacity(entries.len());
    buffer.clear();
    for e in entries {
        starts.push(buffer.len());
        entry::encode(e, buffer).map_err(|error| {
            let what = format_args!("group {group}: entry {} cannot be stored ({error})", e.index());
            name.error(StorageErrorKind::Invalid, what)
        })?;
    }
    for row in cut_rows(&starts, buffer.len()) {
        let first = entries[row.start].index();
        let end = starts.get(row.end).copied().unwrap_or(buffer.len());
        log.insert((group.0, first), &buffer[starts[row.start]..end]).map_err(|e| name.redb(DOING, e))?;
    }
    if buffer.capacity() > KEPT_BUFFER_BYTES {
        *buffer = Vec::new();
    }
    Ok(())
}

/// A row of the groups' table that holds a structure of the core's.
pub(crate) fn seal_versioned<T: Versioned>(
    name: &Name,
    group: GroupId,
    kind: u8,
    value: &T,
) -> Result<Vec<u8>, StorageError> {
    let body = versioned::encode(value).map_err(|error| {
        let what = format_args!("group {group}: a row cannot be stored ({error})");
        name.error(StorageErrorKind::Invalid, what)
    })?;
    Ok(seal(&group_key(group, kind), &body))
}
