//! The snapshot files of a simulated node: whole and durable, or not there.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::node::Applied;
use crate::codec::cold;
use crate::membership::Membership;
use crate::types::{EntryId, SnapshotMeta};

/// A snapshot as a file: what the node had applied, and what else its driver keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotFile {
    /// What it covers.
    pub meta: SnapshotMeta,
    /// Its content.
    pub bytes: Bytes,
}

impl SnapshotFile {
    /// A file of `applied` and of what the driver adds.
    ///
    /// # Errors
    /// Where it does not encode.
    pub fn new(applied: Applied, membership: Membership, added: &[u8]) -> Result<Self, String> {
        let content = (applied.last, applied.chain, added);
        let bytes = Bytes::from(cold::encode(&content).map_err(|e| e.to_string())?);
        let size_bytes = bytes.len() as u64;
        let meta =
            SnapshotMeta { last: applied.last, membership, size_bytes, checksum: crc32c::crc32c(&bytes) };
        Ok(Self { meta, bytes })
    }

    /// What is in it.
    ///
    /// # Errors
    /// Where it is damaged.
    pub fn open(&self) -> Result<(Applied, Vec<u8>), String> {
        if crc32c::crc32c(&self.bytes) != self.meta.checksum {
            return Err(format!("the snapshot of {} is damaged", self.meta.last));
        }
        let (last, chain, added) = cold::decode(&self.bytes).map_err(|e| e.to_string())?;
        Ok((Applied { last, chain }, added))
    }
}

/// The snapshots of a node. They outlive crashes.
#[derive(Clone, Debug, Default)]
pub struct Shelf(BTreeMap<EntryId, SnapshotFile>);

impl Shelf {
    /// A file is there, and synced.
    pub fn put(&mut self, file: SnapshotFile) {
        self.0.insert(file.meta.last, file);
    }

    /// The snapshot of everything up to an entry.
    pub fn get(&self, last: EntryId) -> Option<&SnapshotFile> {
        self.0.get(&last)
    }

    /// A file is of no use.
    pub fn remove(&mut self, last: EntryId) {
        self.0.remove(&last);
    }

    /// The log store names this one: it stays, with the one before it and all that are newer.
    pub fn named(&mut self, last: EntryId) {
        let before = self.0.range(..last).next_back().map_or(last, |(&before, _)| before);
        self.0 = self.0.split_off(&before);
    }

    /// The node starts: what is newer than the one that the log store names was never told of.
    pub fn forget_after(&mut self, named: EntryId) {
        self.0.retain(|&last, _| last <= named);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
