//! A disk that counts what is done to it.

use std::io;
use std::ops::Sub;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use redb::StorageBackend;

use crate::delegate::delegate_locks;

/// How often something was done to a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tally {
    /// Reads.
    pub reads: u64,
    /// The bytes in them.
    pub read_bytes: u64,
    /// Writes.
    pub writes: u64,
    /// The bytes in them.
    pub written_bytes: u64,
    /// Syncs.
    pub syncs: u64,
    /// Changes of the file's length.
    pub resizes: u64,
}

impl Sub for Tally {
    type Output = Self;

    /// What was done since `before`.
    fn sub(self, before: Self) -> Self {
        Self {
            reads: self.reads - before.reads,
            read_bytes: self.read_bytes - before.read_bytes,
            writes: self.writes - before.writes,
            written_bytes: self.written_bytes - before.written_bytes,
            syncs: self.syncs - before.syncs,
            resizes: self.resizes - before.resizes,
        }
    }
}

#[derive(Debug, Default)]
struct Shared {
    reads: AtomicU64,
    read_bytes: AtomicU64,
    writes: AtomicU64,
    written_bytes: AtomicU64,
    syncs: AtomicU64,
    resizes: AtomicU64,
}

/// The handle by which the counts of a [`CountingBackend`] are read. Its clones are the same handle.
#[derive(Clone, Debug, Default)]
pub struct Counts(Arc<Shared>);

impl Counts {
    /// Nothing counted yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// What was done so far.
    pub fn tally(&self) -> Tally {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Shared { reads, read_bytes, writes, written_bytes, syncs, resizes } = &*self.0;
        Tally {
            reads: of(reads),
            read_bytes: of(read_bytes),
            writes: of(writes),
            written_bytes: of(written_bytes),
            syncs: of(syncs),
            resizes: of(resizes),
        }
    }
}

/// A storage backend of redb's that does what another one does, and counts.
#[derive(Debug)]
pub struct CountingBackend<B> {
    inner: B,
    counts: Counts,
}

impl<B: StorageBackend> CountingBackend<B> {
    /// `inner`, counted by `counts`.
    pub fn new(inner: B, counts: &Counts) -> Self {
        Self { inner, counts: counts.clone() }
    }
}

fn count(what: &AtomicU64, by: usize) {
    what.fetch_add(by as u64, Ordering::Relaxed);
}

impl<B: StorageBackend> StorageBackend for CountingBackend<B> {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        count(&self.counts.0.reads, 1);
        count(&self.counts.0.read_bytes, out.len());
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        count(&self.counts.0.resizes, 1);
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        count(&self.counts.0.syncs, 1);
        self.inner.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        count(&self.counts.0.writes, 1);
        count(&self.counts.0.written_bytes, data.len());
        self.inner.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }

    delegate_locks!();
}
