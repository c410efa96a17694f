//! Taking a snapshot: the machine's view is written out aside while it goes on applying.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::JoinHandle;

use super::super::guard::caught;
use super::super::mailbox::{Completion, Mailbox};
use super::folder::Folder;
use super::progress::{Ongoing, Progress, TransferStatus, What};
use crate::engine::SnapshotRequest;
use crate::session_table::SessionTable;
use crate::state_machine::SnapshotView;
use crate::types::{EntryId, SnapshotMeta};

/// Writes views out, one at a time: the engine asks for no other before.
pub(crate) struct Taker {
    folder: Folder,
    progress: Progress,
    mailbox: Arc<Mailbox>,
    stop: Arc<AtomicBool>,
    task: Option<JoinHandle<()>>,
}

impl Drop for Taker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Taker {
    pub(crate) fn new(folder: Folder, progress: Progress, mailbox: Arc<Mailbox>) -> Self {
        Self { folder, progress, mailbox, stop: Arc::default(), task: None }
    }

    /// Writes a view and the sessions out on a thread of its own; the driver hears of it.
    pub(crate) fn write_out(
        &mut self,
        view: Box<dyn SnapshotView>,
        sessions: SessionTable,
        request: SnapshotRequest,
    ) {
        let (folder, progress, mailbox, stop) =
            (self.folder.clone(), self.progress.clone(), Arc::clone(&self.mailbox), Arc::clone(&self.stop));
        self.task = Some(tokio::task::spawn_blocking(move || {
            let SnapshotRequest { last, membership } = request;
            let start = TransferStatus { last, ..TransferStatus::default() };
            let mut ongoing = progress.begin(What::Taking, start);
            let mut observe = |bytes| {
                ongoing.at(bytes);
                let stopped = stop.load(Ordering::Relaxed);
                if stopped { Err(io::Error::other("the node is being stopped")) } else { Ok(()) }
            };
            let state = |sink: &mut dyn Write| view.write_to(sink);
            let written = caught(|| folder.write(last, membership, &sessions, state, &mut observe));
            drop(ongoing);
            let taken = written.and_then(|written| written.map_err(|error| error.to_string()));
            tell(&progress, &mailbox, taken);
        }));
    }

    /// Shows that the state is being restored, until what is returned is dropped.
    pub(crate) fn restoring(&self, last: EntryId) -> Ongoing {
        self.progress.begin(What::Restoring, TransferStatus { last, ..TransferStatus::default() })
    }

    /// There is no view.
    pub(crate) fn failed(&self, reason: String) {
        tell(&self.progress, &self.mailbox, Err(reason));
    }

    /// Ends what is under way, and returns when nothing of the machine is held any more.
    pub(crate) async fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(task) = self.task.take() {
            let _ended = task.await;
        }
    }
}

fn tell(progress: &Progress, mailbox: &Mailbox, taken: Result<SnapshotMeta, String>) {
    let taken = taken.map_err(Arc::<str>::from);
    progress.note(|status| match &taken {
        Ok(_) => status.taken += 1,
        Err(reason) => {
            status.failed += 1;
            status.last_failure = Some(Arc::clone(reason));
        }
    });
    mailbox.complete(Completion::SnapshotTaken(taken));
}
