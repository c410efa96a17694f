//! Snapshots: their files, taking them, sending and receiving them, restoring from them.
//!
//! The order is what safety rests on: a file and its folder are synced, then the write that names it is durable, then the state
//! is restored from it, and older ones are removed last of all.

mod file;
mod folder;
mod place;
mod progress;
mod receive;
mod restore;
mod send;
mod take;
mod throttle;

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;

use super::error::RaftError;
use super::mailbox::lock;
use super::trace;
use crate::log_store::Write;
use crate::types::{Index, SnapshotMeta};

pub use self::file::SnapshotFile;
pub(crate) use self::folder::Folder;
pub use self::place::SnapshotPlace;
pub(crate) use self::progress::Progress;
pub use self::progress::{SnapshotStatus, TransferStatus};
pub(crate) use self::receive::{Door, Receiver, Receiving};
pub(crate) use self::restore::{Lent, restore};
pub(crate) use self::send::Transfers;
pub(crate) use self::take::Taker;

/// How long a transfer may stand still: a receiver sums up and syncs a large file in that time.
const STALL_TIMEOUT: Duration = Duration::from_secs(300);

/// Does file work where blocking is allowed.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// Where the caller of a snapshot on demand waits.
pub(crate) type SnapshotReply = oneshot::Sender<Result<SnapshotMeta, RaftError>>;

/// The newest snapshot that the log store names.
pub(crate) type Latest = Arc<Mutex<Option<SnapshotMeta>>>;

/// Follows, for the driver, which snapshots the log store names, and tells those who wait for one.
pub(crate) struct Ledger {
    folder: Folder,
    latest: Latest,
    /// Those that writes under way name, by the number of the write.
    naming: VecDeque<(u64, SnapshotMeta)>,
    wanted: Vec<(Index, SnapshotReply)>,
}

impl Ledger {
    pub(crate) const fn new(folder: Folder, latest: Latest) -> Self {
        Self { folder, latest, naming: VecDeque::new(), wanted: Vec::new() }
    }

    /// Somebody waits for a snapshot of `index` or more.
    pub(crate) fn want(&mut self, index: Index, reply: SnapshotReply) {
        self.wanted.push((index, reply));
        self.answer();
    }

    /// None is coming.
    pub(crate) fn failed(&mut self, reason: &str) {
        for (_, reply) in self.wanted.drain(..) {
            let _gone = reply.send(Err(RaftError::Snapshot(reason.to_owned())));
        }
    }

    pub(crate) fn writing(&mut self, write: &Write) {
        if let Some(meta) = &write.snapshot {
            self.naming.push_back((write.number, meta.clone()));
        }
    }

    /// This write and all before it are durable: what they made needless may go.
    pub(crate) fn written(&mut self, number: u64) {
        let mut newest = None;
        while let Some((_, meta)) = self.naming.pop_front_if(|(naming, _)| *naming <= number) {
            newest = Some(meta);
        }
        let Some(meta) = newest else { return };
        let (folder, index) = (self.folder.clone(), meta.last.index);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = folder.prune(index) {
                trace::warn!(%error, "old snapshots could not be removed");
            }
        });
        *lock(&self.latest) = Some(meta);
        self.answer();
    }

    fn answer(&mut self) {
        let latest = lock(&self.latest);
        let Some(meta) = &*latest else { return };
        for (_, reply) in self.wanted.extract_if(.., |(index, _)| *index <= meta.last.index) {
            let _gone = reply.send(Ok(meta.clone()));
        }
    }
}
