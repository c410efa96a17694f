//! What is read: a group's state, and ranges of its entries.

use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::Bytes;
use raft_core::codec::CodecError;
use raft_core::codec::versioned::{self, Versioned};
use raft_core::log_store::{LogState, StorageError, StorageErrorKind};
use raft_core::types::{Entry, GroupId, Index};
use redb::{Database, ReadTransaction, ReadableDatabase};

use crate::error::Name;
use crate::layout::{
    GROUP_OUTLINE, GROUP_SNAPSHOT, GROUP_STATE, GROUPS, GroupState, LOG, count_entries, group_key,
    take_entry, unseal,
};

const DOING: &str = "read";

/// Each call is one short read transaction: an open one would keep redb from reusing pages.
pub(crate) struct Reader {
    pub(crate) database: Arc<Database>,
    pub(crate) name: Name,
}

impl Reader {
    pub(crate) fn load(&self, group: GroupId) -> Result<LogState, StorageError> {
        let txn = self.begin()?;
        let state = self.state(&txn, group)?;
        self.check_end(&txn, group, state)?;
        Ok(LogState {
            hard_state: state.hard_state,
            outline: self.versioned_row(&txn, group, GROUP_OUTLINE)?.unwrap_or_default(),
            snapshot: self.versioned_row(&txn, group, GROUP_SNAPSHOT)?,
            last: state.last,
        })
    }

    /// The group's state row; the default where it was never written.
    pub(crate) fn load_state(&self, group: GroupId) -> Result<GroupState, StorageError> {
        let txn = self.begin()?;
        let state = self.state(&txn, group)?;
        self.check_end(&txn, group, state)?;
        Ok(state)
    }

    pub(crate) fn read(
        &self,
        group: GroupId,
        range: RangeInclusive<Index>,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        let (start, end) = range.into_inner();
        let txn = self.begin()?;
        let state = self.state(&txn, group)?;
        if start > end || start <= state.base || end > state.last {
            return Err(self.name.error(
                StorageErrorKind::Invalid,
                format_args!(
                    "group {group}: entries {start} to {end} were asked for, but the log holds those after {} up to {}",
                    state.base, state.last
                ),
            ));
        }

        let log = txn.open_table(LOG).map_err(|e| self.name.redb(DOING, e))?;
        let redb = |error: redb::StorageError| self.name.redb(DOING, error);
        let before = (group.0, 0)..=(group.0, start);
        let Some(row) = log.range(before).map_err(redb)?.next_back() else {
            return Err(self.missing(group, start));
        };
        let (_, mut expected) = row.map_err(redb)?.0.value();
        let mut entries = Vec::new();
        let mut bytes = 0_usize;
        for row in log.range((group.0, expected)..=(group.0, end)).map_err(redb)? {
            let (key, value) = row.map_err(redb)?;
            if key.value().1 != expected {
                break;
            }
            let mut chunk = Bytes::copy_from_slice(value.value());
            while !chunk.is_empty() {
                let entry = take_entry(&mut chunk, expected)
                    .map_err(|error| damaged_entry(&self.name, group, expected, error))?;
                expected += 1;
                if entry.index() < start {
                    continue;
                }
                bytes = bytes.saturating_add(entry.bytes());
                if bytes > max_bytes && !entries.is_empty() {
                    return Ok(entries);
                }
                let done = entry.index() == end;
                entries.push(entry);
                if done {
                    return Ok(entries);
                }
            }
        }
        Err(self.missing(group, expected))
    }

    /// Whether state and entries are of one commit: they are written together, and where opening did not check the file, an
    /// old page in the place of a new one would show here.
    fn check_end(
        &self,
        txn: &ReadTransaction,
        group: GroupId,
        state: GroupState,
    ) -> Result<(), StorageError> {
        let redb = |error: redb::StorageError| self.name.redb(DOING, error);
        let log = txn.open_table(LOG).map_err(|e| self.name.redb(DOING, e))?;
        let row = log.range((group.0, 0)..=(group.0, Index::MAX)).map_err(redb)?.next_back();
        let mut end = state.base;
        if let Some(row) = row {
            let (key, value) = row.map_err(redb)?;
            let first = key.value().1;
            let count = count_entries(value.value())
                .map_err(|error| damaged_entry(&self.name, group, first, error))?;
            end = end.max(first.saturating_add(count).saturating_sub(1));
        }
        match end == state.last {
            true => Ok(()),
            false => Err(self.name.damaged(format_args!(
                "group {group}: its state is damaged or missing: the log ends at {end}, not at {}",
                state.last
            ))),
        }
    }

    fn begin(&self) -> Result<ReadTransaction, StorageError> {
        self.database.begin_read().map_err(|e| self.name.redb(DOING, e))
    }

    fn state(&self, txn: &ReadTransaction, group: GroupId) -> Result<GroupState, StorageError> {
        let decode = |row: &[u8]| GroupState::decode(group, row);
        Ok(self.row(txn, group, GROUP_STATE, decode)?.unwrap_or_default())
    }

    fn versioned_row<T: Versioned>(
        &self,
        txn: &ReadTransaction,
        group: GroupId,
        kind: u8,
    ) -> Result<Option<T>, StorageError> {
        self.row(txn, group, kind, |row| versioned::decode(unseal(&group_key(group, kind), row)?))
    }

    fn row<T>(
        &self,
        txn: &ReadTransaction,
        group: GroupId,
        kind: u8,
        decode: impl FnOnce(&[u8]) -> Result<T, CodecError>,
    ) -> Result<Option<T>, StorageError> {
        let groups = txn.open_table(GROUPS).map_err(|e| self.name.redb(DOING, e))?;
        let Some(row) = groups.get((group.0, kind)).map_err(|e| self.name.redb(DOING, e))? else {
            return Ok(None);
        };
        let decoded = decode(row.value());
        decoded.map(Some).map_err(|error| {
            let what = match kind {
                GROUP_STATE => "state",
                GROUP_OUTLINE => "outline",
                _ => "snapshot",
            };
            let row = format!("group {group}: the {what} row");
            let damaged = || self.name.damaged(format_args!("{row} is damaged ({error})"));
            self.name.later(&row, error).unwrap_or_else(damaged)
        })
    }

    fn missing(&self, group: GroupId, index: Index) -> StorageError {
        self.name.repairable(format_args!("group {group}: entry {index} is missing"))
    }
}

pub(crate) fn damaged_entry(name: &Name, group: GroupId, index: Index, error: CodecError) -> StorageError {
    let entry = format!("group {group}: entry {index}");
    let damaged = || name.repairable(format_args!("{entry} is damaged ({error})"));
    name.later(&entry, error).unwrap_or_else(damaged)
}
