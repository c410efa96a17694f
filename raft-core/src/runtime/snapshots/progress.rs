//! How far snapshots are, for the status.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::super::mailbox::{Mailbox, lock};
use crate::types::{EntryId, NodeId};

/// What is being done with snapshots on a node, and what was done since it was started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnapshotStatus {
    /// The one that is being taken; its length is not known yet.
    pub taking: Option<TransferStatus>,
    /// The one that is coming in.
    pub receiving: Option<TransferStatus>,
    /// The last entry of the one that the state is being restored from.
    pub restoring: Option<EntryId>,
    /// Those that are sent, by receiver.
    pub sending: BTreeMap<NodeId, TransferStatus>,
    /// How many were taken.
    pub taken: u64,
    /// How many could not be taken, and why the last one could not.
    pub failed: u64,
    /// Why the last one that failed to be taken, sent or received did.
    pub last_failure: Option<Arc<str>>,
    /// How many transfers to other nodes were begun, those that go on after a break included.
    pub sends_begun: u64,
    /// The bytes sent, those sent again included.
    pub bytes_sent: u64,
    /// How many transfers from other nodes were begun.
    pub receives_begun: u64,
    /// How many offers and transfers of other nodes were refused.
    pub refused: u64,
}

/// How far a snapshot is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransferStatus {
    /// The last entry that it covers.
    pub last: EntryId,
    /// The bytes of its file that are done.
    pub bytes: u64,
    /// The bytes of its file; 0 while it is being taken.
    pub size_bytes: u64,
}

/// Where the tasks note what they do; the driver publishes it with the status.
#[derive(Clone)]
pub(crate) struct Progress {
    status: Arc<Mutex<SnapshotStatus>>,
    mailbox: Arc<Mailbox>,
}

impl Progress {
    pub(crate) fn new(mailbox: Arc<Mailbox>) -> Self {
        Self { status: Arc::default(), mailbox }
    }

    pub(crate) fn status(&self) -> SnapshotStatus {
        lock(&self.status).clone()
    }

    /// Changes the status and has it published.
    pub(super) fn note(&self, change: impl FnOnce(&mut SnapshotStatus)) {
        change(&mut lock(&self.status));
        self.mailbox.nudge();
    }

    /// Notes something that lasts until what is returned is dropped.
    pub(super) fn begin(&self, what: What, state: TransferStatus) -> Ongoing {
        let ongoing = Ongoing { progress: self.clone(), what, state };
        self.note(|status| ongoing.what.set(status, Some(state)));
        ongoing
    }
}

/// What lasts.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    Taking,
    Receiving,
    Restoring,
    Sending(NodeId),
}

impl What {
    fn set(self, status: &mut SnapshotStatus, state: Option<TransferStatus>) {
        match (self, state) {
            (Self::Taking, state) => status.taking = state,
            (Self::Receiving, state) => status.receiving = state,
            (Self::Restoring, state) => status.restoring = state.map(|state| state.last),
            (Self::Sending(to), Some(state)) => drop(status.sending.insert(to, state)),
            (Self::Sending(to), None) => drop(status.sending.remove(&to)),
        }
    }
}

/// Something that lasts; over when it is dropped.
pub(crate) struct Ongoing {
    progress: Progress,
    what: What,
    state: TransferStatus,
}

impl Ongoing {
    /// So many bytes are done.
    pub(super) fn at(&mut self, bytes: u64) {
        self.state.bytes = bytes;
        self.progress.note(|status| self.what.set(status, Some(self.state)));
    }

    /// So many bytes more were sent.
    pub(super) fn sent(&self, bytes: usize) {
        lock(&self.progress.status).bytes_sent += bytes as u64;
    }
}

impl Drop for Ongoing {
    fn drop(&mut self) {
        self.progress.note(|status| self.what.set(status, None));
    }
}
