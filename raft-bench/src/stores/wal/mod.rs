//! A plain segmented write-ahead log: what a log store costs that does nothing but append.
//!
//! A folder of segments, `00000000000000000001.wal` and on. A call of `write`, with the writes of all groups in it, is one frame at
//! the end of the newest, and one fdatasync. In memory is where each entry lies, and what a group has beside its entries.
//! Truncation and compaction are records like all else; a segment of whose entries none is held any more is deleted, the
//! oldest first. So a group that never compacts keeps all segments from its first entry on: nothing old is written anew.
//!
//! Opening reads every segment. A frame that is not whole at the very end is a write that was cut short and that nobody was told
//! of: it is dropped. One with a frame after it, or in an older segment, is damage, and the log stays closed. The bytes
//! are in `docs/storage.md`.

mod format;
mod index;
mod open;
mod reader;
mod worker;
mod writer;

use std::fmt;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use raft_core::log_store::{Claim, LogState, LogStore, StorageError, StorageErrorKind, Write};
use raft_core::types::{ClusterId, Entry, GroupId, Incarnation, Index, NodeId};

use index::{Log, Owner};
use reader::Reader;
use worker::Worker;
use writer::Writer;

/// A segment that has grown to this size is followed by a new one: opening reads one at a time into memory, and a new one
/// costs two syncs.
const SEGMENT_BYTES: u64 = 64 << 20;

/// A durable [`LogStore`] in a folder of segments. Its futures run under any executor; dropping it waits for the calls already
/// made, and closes the files.
pub struct WalLogStore {
    log: Arc<Mutex<Log>>,
    folder: PathBuf,
    writer: Worker<Writer>,
    reader: Worker<Reader>,
}

impl WalLogStore {
    /// Opens the log in `folder`, which is made if it is not there. Blocks while it is read.
    ///
    /// # Errors
    /// [`StorageErrorKind::Busy`] where it is open already, [`StorageErrorKind::Format`] where it is another format's,
    /// [`StorageErrorKind::Corrupt`] where it is damaged, and I/O. Whatever is in the segments stays as it is then.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self, StorageError> {
        Self::open_with(folder, SEGMENT_BYTES)
    }

    /// As [`open`](Self::open), with segments of another size than 64 MiB.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(folder: impl AsRef<Path>, segment_bytes: u64) -> Result<Self, StorageError> {
        let folder = folder.as_ref().to_owned();
        let writer = open::open(&folder, segment_bytes)?;
        let log = Arc::clone(&writer.log);
        let start = |e: io::Error| io_error(&folder, "start a thread", &e);
        let reader = Reader { log: Arc::clone(&log), folder: folder.clone() };
        let writer = Worker::start("wal-writer", writer).map_err(start)?;
        let reader = Worker::start("wal-reader", reader).map_err(start)?;
        Ok(Self { log, folder, writer, reader })
    }

    fn stopped(&self) -> StorageError {
        error(StorageErrorKind::Failed, &self.folder, "its thread has stopped; restart the node")
    }
}

#[async_trait]
impl LogStore for WalLogStore {
    async fn claim(
        &self,
        cluster: ClusterId,
        node: NodeId,
        fresh: Incarnation,
    ) -> Result<Claim, StorageError> {
        let owner = Owner { cluster, node, incarnation: fresh, boot: 1 };
        let claimed = self.writer.run(move |writer| writer.claim(owner)).await;
        claimed.unwrap_or_else(|| Err(self.stopped()))
    }

    async fn load(&self, group: GroupId) -> Result<LogState, StorageError> {
        Ok(lock(&self.log).state(group))
    }

    async fn write(&self, writes: &[Write]) -> Result<(), StorageError> {
        // Commands are shared, not copied.
        let writes = writes.to_vec();
        let written = self.writer.run(move |writer| writer.write(&writes)).await;
        written.unwrap_or_else(|| Err(self.stopped()))
    }

    async fn read(
        &self,
        group: GroupId,
        range: RangeInclusive<Index>,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        let read = self.reader.run(move |reader| reader.read(group, range, max_bytes)).await;
        read.unwrap_or_else(|| Err(self.stopped()))
    }
}

fn lock(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

fn error(kind: StorageErrorKind, folder: &Path, what: impl fmt::Display) -> StorageError {
    StorageError::new(kind, format!("log {}: {what}", folder.display()))
}

fn damaged(folder: &Path, what: impl fmt::Display) -> StorageError {
    let advice = "set the folder aside, and let this node join the cluster again as a new node";
    error(StorageErrorKind::Corrupt, folder, format_args!("{what}; {advice}"))
}

fn io_error(folder: &Path, doing: &str, cause: &io::Error) -> StorageError {
    let (kind, advice) = match cause.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            (StorageErrorKind::Full, "make room on the device, then restart the node")
        }
        _ => (StorageErrorKind::Io, "check the folder and the device, then restart the node"),
    };
    error(kind, folder, format_args!("cannot {doing}: {cause}; {advice}"))
}
