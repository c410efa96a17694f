#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod ahead;
mod delegate;
mod error;
mod inspect;
mod layout;
mod open;
mod pages;
mod queue;
mod reader;
mod repair;
#[cfg(feature = "testing")]
pub mod testing;
mod worker;
mod writer;

use std::fmt;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use raft_core::log_store::{Claim, LogState, LogStore, StorageError, Write};
use raft_core::types::{ClusterId, Entry, GroupId, Incarnation, Index, NodeId};
use redb::backends::FileBackend;
use redb::{Builder, Database, StorageBackend};
use tokio::sync::oneshot;

pub use inspect::{Compacted, Damage, Entries, GroupLog, GroupSize, Inspector, Owner, Report, compact};
pub use pages::Shutdown;
pub use repair::{Repair, Repaired};

use error::{Name, Panicked};
use queue::{Call, Queue};
use reader::Reader;
use worker::Worker;
use writer::Writer;

/// Settings of a [`RedbLogStore`]. The defaults are for a log that snapshots keep short.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    cache_bytes: usize,
    max_commit_bytes: usize,
    two_phase_commit: bool,
    quick_repair: bool,
    verify_on_open: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_bytes: 64 << 20,
            max_commit_bytes: 4 << 20,
            two_phase_commit: false,
            quick_repair: false,
            verify_on_open: true,
        }
    }
}

impl Options {
    /// How much memory redb may use for pages. A log is written at its end and read mostly there, so little goes a
    /// long way. Default: 64 MiB.
    #[must_use]
    pub fn cache_bytes(mut self, bytes: usize) -> Self {
        self.cache_bytes = bytes;
        self
    }

    /// How many bytes of entries one commit takes at most, of all the calls of `write` that wait for it, so that none waits
    /// long for its own. A single call is one commit however large it is. Default: 4 MiB.
    #[must_use]
    pub fn max_commit_bytes(mut self, bytes: usize) -> Self {
        self.max_commit_bytes = bytes;
        self
    }

    /// Whether a commit syncs twice: the data, then the switch to them. Default: `false`.
    ///
    /// With one sync, a crash during a commit is recognised by checksums at the next start, and the commit, which nobody was
    /// told of, is undone. That leaves two gaps which two syncs close: pages of the last commit that rot after a crash are
    /// taken for such a torn commit, and checksums can be forged by someone who controls the commands, the order of
    /// disk writes and the moment of the crash. It costs a second fdatasync: a third of the commits per second with
    /// one entry each, next to nothing with thousands.
    #[must_use]
    pub fn two_phase_commit(mut self, on: bool) -> Self {
        self.two_phase_commit = on;
        self
    }

    /// Whether each commit also stores which pages are in use, so that opening after a crash need not find that out by reading
    /// the file. Default: `false`.
    ///
    /// It includes [`two_phase_commit`](Self::two_phase_commit), and leaves little more than half as many commits with one
    /// entry. It is for logs of many gigabytes that must be back at once, together with
    /// [`verify_on_open(false)`](Self::verify_on_open).
    #[must_use]
    pub fn quick_repair(mut self, on: bool) -> Self {
        self.quick_repair = on;
        self
    }

    /// Whether opening checks every page of the file, also after an orderly shutdown; after a crash redb always does.
    /// Default: `true`.
    ///
    /// Damage is then a clear error at start. Without it, damaged entries are still found when they are read, but redb may
    /// panic on other damage (which is caught, and reported as such). The price is reading the whole file once.
    #[must_use]
    pub fn verify_on_open(mut self, on: bool) -> Self {
        self.verify_on_open = on;
        self
    }

    fn builder(&self) -> Builder {
        let mut builder = Builder::new();
        builder.set_cache_size(self.cache_bytes).set_check_integrity_on_open(self.verify_on_open);
        builder
    }
}

/// A durable [`LogStore`] in one redb file, for all groups of a node.
///
/// Its calls run under any executor: one thread writes, another reads, and the futures only wait for them. A future that is
/// dropped does not undo its call. Dropping the store waits for the calls already made, and closes the file.
pub struct RedbLogStore {
    // The order matters: fields are dropped in turn, and the last of them closes the file.
    reader: Worker<Reader>,
    writer: Worker<Writer>,
    queue: Arc<Queue>,
    name: Name,
}

impl RedbLogStore {
    /// Opens the log at `path` with the default [`Options`]; creates it, and the folders above it, if it is not there.
    ///
    /// It blocks while the file is checked; within an async program with a large log, call it where blocking is allowed.
    ///
    /// # Errors
    /// [`Busy`](raft_core::log_store::StorageErrorKind::Busy) where the file is open already,
    /// [`Format`](raft_core::log_store::StorageErrorKind::Format) where it is no log or one of another version,
    /// [`Corrupt`](raft_core::log_store::StorageErrorKind::Corrupt) where it is damaged, and I/O. The file is left as it
    /// is.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StorageError> {
        Self::open_with(path, &Options::default())
    }

    /// As [`open`](Self::open), with other options.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(path: impl AsRef<Path>, options: &Options) -> Result<Self, StorageError> {
        Self::open_wrapped(path.as_ref(), options, |file| file)
    }

    fn open_wrapped<B: StorageBackend>(
        path: &Path,
        options: &Options,
        wrap: impl FnOnce(FileBackend) -> B,
    ) -> Result<Self, StorageError> {
        let name = Name::new(path.display());
        let database = open::open_file(path, &name, options, wrap)?;
        Self::start(database, name, options)
    }

    /// Opens the log that a storage backend of redb's holds, or begins one in it if it is empty: for tests that count or
    /// break writes and syncs, and for places other than a file.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn with_backend(backend: impl StorageBackend, options: &Options) -> Result<Self, StorageError> {
        let name = Name::new("(custom backend)");
        let database = open::open_backend(backend, &name, options)?;
        Self::start(database, name, options)
    }

    fn start(database: Database, name: Name, options: &Options) -> Result<Self, StorageError> {
        let database = Arc::new(database);
        let reader = Reader { database: Arc::clone(&database), name: name.clone() };
        let writer = Writer::new(database, name.clone(), options);
        let io = |e| name.io("start a thread", &e);
        let reader = Worker::start("raft-log-reader", reader).map_err(io)?;
        let writer = Worker::start("raft-log-writer", writer).map_err(io)?;
        Ok(Self { reader, writer, queue: Arc::default(), name })
    }
}

impl fmt::Debug for RedbLogStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedbLogStore").field("name", &self.name).finish_non_exhaustive()
    }
}

#[async_trait]
impl LogStore for RedbLogStore {
    async fn claim(
        &self,
        cluster: ClusterId,
        node: NodeId,
        fresh: Incarnation,
    ) -> Result<Claim, StorageError> {
        let claimed = self.writer.run(move |writer| writer.claim(cluster, node, fresh)).await;
        claimed.unwrap_or_else(|panic| Err(self.name.panicked("claim", &panic)))
    }

    async fn load(&self, group: GroupId) -> Result<LogState, StorageError> {
        let loaded = self.reader.run(move |reader| reader.load(group)).await;
        loaded.unwrap_or_else(|panic| Err(self.name.panicked("read", &panic)))
    }

    async fn write(&self, writes: &[Write]) -> Result<(), StorageError> {
        let (reply, done) = oneshot::channel();
        // Commands are shared, not copied.
        self.queue.push(Call { writes: writes.to_vec(), reply });
        let queue = Arc::clone(&self.queue);
        // One job a call, and each job takes what waits: so the last job finds all calls done, at the latest.
        let told = self.writer.give(move |writer| writer.write_waiting(&queue));
        let stopped = || Err(self.name.panicked("write", &Panicked::stopped()));
        if told { done.await.unwrap_or_else(|_| stopped()) } else { stopped() }
    }

    async fn read(
        &self,
        group: GroupId,
        range: RangeInclusive<Index>,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        let read = self.reader.run(move |reader| reader.read(group, range, max_bytes)).await;
        read.unwrap_or_else(|panic| Err(self.name.panicked("read", &panic)))
    }
}
