//! What a node tells about itself.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::snapshots::{Progress, SnapshotStatus};
use crate::engine::{Engine, FoundingEnd, Refusal, RoleName, Status};
use crate::log_store::StorageErrorKind;
use crate::transport::LocalNode;
use crate::types::{Index, NodeId, Term, Time};

/// A node's state at one moment. The engine's part is reached directly: `status.leader`, `status.commit`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RaftStatus {
    /// The engine's state.
    pub engine: Status,
    /// The node, its data folder, and how often it was started.
    pub local: LocalNode,
    /// Why the group has stopped for good, if it has.
    pub fatal: Option<Arc<str>>,
    /// What kind of reason that is.
    pub fatal_kind: Option<FatalKind>,
    /// How founding a cluster from this node ended, if it was given up.
    pub founding_ended: Option<FoundingEnd>,
    /// What was counted since the node was started.
    pub counters: Counters,
    /// What is being done with snapshots, and what was.
    pub snapshots: SnapshotStatus,
}

impl Deref for RaftStatus {
    type Target = Status;

    fn deref(&self) -> &Status {
        &self.engine
    }
}

/// What stopped a group for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FatalKind {
    /// The log store failed. With [`StorageErrorKind::Full`]: make room on the device, then start the node again.
    Storage(StorageErrorKind),
    /// The state machine failed or panicked.
    Machine,
    /// The group found its own state broken: a bug of this library, or damage.
    Invariant,
}

impl FatalKind {
    /// A short name for programs: `disk_full`, `disk_failed`, `log_damaged`, `log_unusable`, `machine_failed`, `state_broken`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Storage(StorageErrorKind::Full) => "disk_full",
            Self::Storage(StorageErrorKind::Io | StorageErrorKind::Failed) => "disk_failed",
            Self::Storage(StorageErrorKind::Corrupt) => "log_damaged",
            Self::Storage(_) => "log_unusable",
            Self::Machine => "machine_failed",
            Self::Invariant => "state_broken",
        }
    }
}

/// What was counted since a node was started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Messages that the protocol refused, by reason.
    pub refused: BTreeMap<Refusal, u64>,
    /// Received messages dropped for want of room.
    pub dropped_messages: u64,
    /// Calls answered with `Overloaded`: proposals, session calls, reads, and wishes for other members or for a transfer.
    pub overloaded: u64,
    /// Calls answered with `Unknown` because their time was over, wherever they waited: for a leader's round, for the commit, or for the
    /// state machine.
    pub expired: u64,
}

/// The least time between two publications of mere progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(5);

/// Publishes the status: a change of role, term, leader or configuration at once, progress now and then under load, and
/// the last word always.
pub(super) struct StatusBoard {
    sender: watch::Sender<RaftStatus>,
    pub(super) founding_ended: Option<FoundingEnd>,
    shown: (RoleName, Term, Option<NodeId>),
    founded: bool,
    published: Time,
    dirty: bool,
    snapshots: Progress,
}

impl StatusBoard {
    pub(super) fn new(engine: &Engine, local: LocalNode, snapshots: Progress) -> Self {
        let status = RaftStatus {
            engine: engine.status(),
            local,
            fatal: None,
            fatal_kind: None,
            founding_ended: None,
            counters: Counters::default(),
            snapshots: SnapshotStatus::default(),
        };
        let sender = watch::Sender::new(status);
        let shown = (engine.role(), engine.term(), engine.leader());
        Self {
            sender,
            founding_ended: None,
            shown,
            founded: false,
            published: Time::ZERO,
            dirty: false,
            snapshots,
        }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<RaftStatus> {
        self.sender.subscribe()
    }

    /// Notes that something may have changed; `at_once` if it matters to somebody who waits.
    pub(super) fn update(
        &mut self,
        engine: &Engine,
        at_once: bool,
        counters: impl FnOnce() -> Counters,
        now: Time,
    ) {
        let shown = (engine.role(), engine.term(), engine.leader());
        // The first commit is what founding a cluster waits for.
        let founded = engine.commit() > Index::MIN;
        let at_once = at_once || shown != self.shown || founded != self.founded;
        if at_once || now >= self.published + PROGRESS_INTERVAL {
            self.shown = shown;
            self.founded = founded;
            self.publish(engine.status(), None, counters(), now);
        } else {
            self.dirty = true;
        }
    }

    /// When what changed must be published at the latest.
    pub(super) fn due(&self) -> Option<Time> {
        self.dirty.then_some(self.published + PROGRESS_INTERVAL)
    }

    pub(super) fn publish(
        &mut self,
        mut engine: Status,
        fatal: Option<(FatalKind, Arc<str>)>,
        counters: Counters,
        now: Time,
    ) {
        if fatal.is_some() {
            // Whatever it was, it takes no part any more.
            engine.role = RoleName::Follower;
            engine.leader = None;
            engine.peers.clear();
        }
        self.published = now;
        self.dirty = false;
        let founding_ended = self.founding_ended;
        let (fatal_kind, fatal) = fatal.unzip();
        let snapshots = self.snapshots.status();
        self.sender.send_if_modified(|status| {
            let local = status.local;
            let next = RaftStatus { engine, local, fatal, fatal_kind, founding_ended, counters, snapshots };
            let changed = next != *status;
            *status = next;
            changed
        });
    }
}
