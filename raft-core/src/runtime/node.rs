//! A group on this node, running: its tasks are started here and spoken to from here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::applier::{Applier, Job, Reads};
use super::change::{What, Wish};
use super::clock::Clock;
use super::driver::{Driver, Parts};
use super::error::{RaftError, StartError};
use super::handover::Handover;
use super::log_writer::LogWriter;
use super::mailbox::{Bootstrap, Gauge, Mailbox, Query, Queue, lock};
use super::metrics::Meters;
#[cfg(feature = "metrics")]
use super::metrics::Metrics;
use super::options::NodeOptions;
use super::outbox::{GroupInbox, Outbox, Roster};
use super::reading::{Consistency, Reading};
use super::recover::{Recovered, recover};
use super::snapshots::{
    Folder, Latest, Ledger, Progress, Receiver, Receiving, SnapshotFile, Taker, Transfers, blocking,
};
use super::status::{RaftStatus, StatusBoard};
use super::trace;
use crate::codec::CodecError;
use crate::engine::{BootstrapError, Finding, FoundingEnd, RoleName};
use crate::log_store::LogStore;
use crate::membership::NodeInfo;
use crate::session::{SessionAction, SessionId, SessionLimits};
use crate::state_machine::StateMachine;
use crate::transport::{LocalNode, Transport};
use crate::types::{Entry, Index, Lineage, NodeId, SnapshotMeta, Time};

/// The part of [`Config::max_uncommitted_bytes`](crate::Config::max_uncommitted_bytes) that one batch of proposals
/// may take: when the engine is full, most callers still get their turn.
const BATCH_SHARE: usize = 8;

/// Longer waits are beyond what clocks can add.
const MAX_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 3600);

/// A running group. Ends when this is dropped.
pub(crate) struct Node {
    mailbox: Arc<Mailbox>,
    jobs: Arc<Queue<Job>>,
    #[cfg(feature = "metrics")]
    meters: Arc<Meters>,
    gauge: Arc<Gauge>,
    pub(crate) status: watch::Receiver<RaftStatus>,
    pub(crate) local: LocalNode,
    pub(crate) address: String,
    client_address: String,
    max_entry_bytes: usize,
    timeout: Duration,
    /// How long a leader may take to come forward: several elections.
    patience: Duration,
    folder: Folder,
    latest: Latest,
    session_limits: SessionLimits,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.mailbox.shut_down();
    }
}

impl Node {
    pub(crate) async fn start(
        options: NodeOptions,
        store: Arc<dyn LogStore>,
        transport: Arc<dyn Transport>,
        machine: Box<dyn StateMachine>,
    ) -> Result<Self, StartError> {
        let clock = Arc::new(Clock::new());
        let meters = Arc::new(Meters::default());
        let timeout = options.proposal_timeout.min(MAX_TIMEOUT);
        let machine = Arc::new(tokio::sync::Mutex::new(machine));
        let folder = Folder::new(
            options.snapshots.clone(),
            options.cluster,
            options.group,
            options.max_snapshot_bytes,
        );
        if folder.is_none() {
            trace::info!(node = %options.node, "no place for snapshots is set: the log is never compacted");
        }
        let Recovered { engine, local, applied, sessions, keeps_notes, snapshot } =
            recover(&options, &*store, &machine, &folder, Time::ZERO).await?;
        let config = &options.config;
        let mailbox = Mailbox::new(options.max_queued_bytes, options.max_inbox_bytes, applied.index);
        let mailbox = Arc::new(mailbox);
        let roster = Roster::default();
        let progress = Progress::new(Arc::clone(&mailbox));
        let (receiver, door) = Receiver::spawn(Receiving {
            folder: folder.clone(),
            local: local.peer,
            roster: roster.clone(),
            progress: progress.clone(),
            mailbox: Arc::clone(&mailbox),
        });
        let mut outbox = Outbox::new(Arc::clone(&transport), options.node, roster.clone());
        let inbox = GroupInbox { mailbox: Arc::clone(&mailbox), roster, snapshots: door };
        outbox.belong(engine.lineage());
        transport.start(local, Arc::new(inbox)).await?;
        let address = transport.address();
        outbox.follow(&engine);

        let jobs = Arc::new(Queue::default());
        let applier = Applier {
            machine,
            jobs: Arc::clone(&jobs),
            mailbox: Arc::clone(&mailbox),
            clock: Arc::clone(&clock),
            meters: Arc::clone(&meters),
            applied: applied.index,
            sessions: Arc::new(Mutex::new(sessions)),
            keeps_notes,
            reads: BTreeMap::new(),
            folder: folder.clone(),
            taker: Taker::new(folder.clone(), progress.clone(), Arc::clone(&mailbox)),
        };
        let transfers = Transfers::new(
            folder.clone(),
            local.peer,
            transport,
            options.snapshot_bytes_per_second,
            progress.clone(),
            Arc::clone(&mailbox),
        );
        let latest = Latest::new(snapshot.into());
        let writer = Arc::new(LogWriter::spawn(Arc::clone(&store)));
        writer.register(&mailbox);
        let board = StatusBoard::new(&engine, local, progress);
        let status = board.subscribe();
        let driver = Driver::new(Parts {
            engine,
            group: options.group,
            node: options.node,
            mailbox: Arc::clone(&mailbox),
            outbox,
            store,
            writer,
            jobs: Arc::clone(&jobs),
            applier: tokio::spawn(applier.run()),
            transfers,
            receiver,
            ledger: Ledger::new(folder.clone(), Arc::clone(&latest)),
            status: board,
            clock,
            meters: Arc::clone(&meters),
            timeout,
            max_batch_bytes: config.max_uncommitted_bytes / BATCH_SHARE,
            max_open: options.max_open_proposals,
            max_apply_bytes: config.max_apply_bytes,
        });
        tokio::spawn(driver.run());
        Ok(Self {
            mailbox,
            jobs,
            #[cfg(feature = "metrics")]
            meters,
            gauge: Arc::new(Gauge::new(config.max_pending_reads, options.max_queued_bytes)),
            status,
            local,
            address,
            client_address: options.client_address,
            max_entry_bytes: options.config.max_entry_bytes,
            timeout,
            patience: options.config.election_timeout * 4,
            folder,
            latest,
            session_limits: options.sessions,
        })
    }

    pub(crate) async fn propose(&self, command: Bytes) -> Result<Bytes, RaftError> {
        if command.len() > self.max_entry_bytes {
            return Err(RaftError::TooLarge { bytes: command.len(), limit: self.max_entry_bytes });
        }
        let (reply, answer) = oneshot::channel();
        self.mailbox.propose(command, reply)?;
        answer.await.unwrap_or(Err(RaftError::Unknown))
    }

    pub(crate) async fn open_session(&self) -> Result<SessionId, RaftError> {
        let action = SessionAction::Open { mark: fastrand::u64(..), limits: self.session_limits };
        let id = self.act(action).await?;
        let id = id.as_ref().try_into().map_err(|_| RaftError::Decode(CodecError::Truncated))?;
        Ok(SessionId::from_bytes(id))
    }

    /// Asks something of the sessions; the reply's bytes.
    pub(crate) async fn act(&self, action: SessionAction) -> Result<Bytes, RaftError> {
        let bytes = action.command_bytes();
        if bytes > self.max_entry_bytes {
            return Err(RaftError::TooLarge { bytes, limit: self.max_entry_bytes });
        }
        let (reply, answer) = oneshot::channel();
        self.mailbox.act(action, reply)?;
        answer.await.unwrap_or(Err(RaftError::Unknown))
    }

    pub(crate) async fn read(
        &self,
        bytes: Bytes,
        consistency: Consistency,
    ) -> Result<Reading<Bytes>, RaftError> {
        let Some(permit) = self.gauge.admit(Entry::OVERHEAD_BYTES + bytes.len()) else {
            self.mailbox.count_overloaded();
            return Err(RaftError::Overloaded);
        };
        let (reply, answer) = oneshot::channel();
        let query = Query { bytes, consistency, until: None, reply, permit };
        if consistency == (Consistency::Stale { max_age: None }) {
            // Nothing for the driver to do.
            let reads = Reads { queries: vec![query], expires: Instant::now() + self.timeout };
            if !self.jobs.push(Job::Read { index: 0, reads }) {
                return Err(self.ended());
            }
        } else {
            self.mailbox.read(query)?;
        }
        answer.await.unwrap_or_else(|_| Err(self.ended()))
    }

    #[cfg(feature = "metrics")]
    pub(crate) fn metrics(&self) -> Metrics {
        self.meters.read()
    }

    pub(crate) async fn explain(&self) -> Result<Vec<Finding>, RaftError> {
        let (reply, answer) = oneshot::channel();
        self.mailbox.explain(reply)?;
        answer.await.map_err(|_| self.ended())
    }

    pub(crate) async fn snapshot(&self) -> Result<SnapshotMeta, RaftError> {
        if self.folder.is_none() {
            let text = "there is no place for snapshots: set NodeOptions::snapshots";
            return Err(RaftError::Snapshot(text.to_owned()));
        }
        let (reply, answer) = oneshot::channel();
        self.mailbox.snapshot(reply)?;
        answer.await.unwrap_or_else(|_| Err(self.ended()))
    }

    pub(crate) async fn latest_snapshot(&self) -> Result<Option<SnapshotFile>, RaftError> {
        loop {
            let Some(meta) = lock(&self.latest).clone() else { return Ok(None) };
            let (folder, wanted) = (self.folder.clone(), meta.clone());
            match blocking(move || folder.checked_as(&wanted)).await {
                Ok(snapshot) => return Ok(Some(snapshot)),
                // Newer ones came meanwhile and this one was removed.
                Err(_) if lock(&self.latest).as_ref() != Some(&meta) => {}
                Err(error) => return Err(RaftError::Snapshot(error.to_string())),
            }
        }
    }

    /// Why nothing is answered any more.
    fn ended(&self) -> RaftError {
        self.mailbox.closed().unwrap_or(RaftError::Unknown)
    }

    pub(crate) async fn bootstrap(&self, mut members: BTreeMap<NodeId, NodeInfo>) -> Result<(), RaftError> {
        if let Some(own) = members.get_mut(&self.local.peer.node)
            && own.client_address.is_empty()
        {
            own.client_address.clone_from(&self.client_address);
        }
        let wanted: Vec<(NodeId, String)> =
            members.iter().map(|(&node, info)| (node, info.address.clone())).collect();
        let (reply, answer) = oneshot::channel();
        self.mailbox.bootstrap(Bootstrap { members, reply })?;
        let mut begun = false;
        match answer.await {
            Ok(Ok(())) => begun = true,
            // Founded already, by the same call perhaps.
            Ok(Err(BootstrapError::NotBlank)) => {}
            Ok(Err(BootstrapError::Fatal)) | Err(_) => return Err(self.ended()),
            Ok(Err(error)) => return Err(RaftError::Bootstrap(error.to_string())),
        }
        // A configuration is committed: not one that is only being founded, nor the state of a backup without members.
        let founded = |status: &RaftStatus| status.lineage != Lineage::UNKNOWN;
        let given_up =
            |status: &RaftStatus| status.founding_ended.filter(|end| *end != FoundingEnd::Overtaken);
        let mut seen = self.wait_for(|status| founded(status) || given_up(status).is_some()).await?;
        if let Some(end) = given_up(&seen).filter(|_| !founded(&seen)) {
            // If that cluster has this node for a member, its leader comes forward soon.
            seen = tokio::time::timeout(self.patience, self.wait_for(founded))
                .await
                .unwrap_or_else(|_| Err(RaftError::Bootstrap(end.to_string())))?;
        }
        if begun && seen.founding_ended.is_none() {
            // Whoever joined since has not been asked for here.
            return Ok(());
        }
        let joining = |node: &NodeId| {
            seen.membership.target.as_ref().is_some_and(|target| target.joining.contains(node))
        };
        let members = seen.membership.nodes.iter().filter(|(node, _)| !joining(node));
        let found: Vec<(NodeId, String)> =
            members.map(|(&node, info)| (node, info.address.clone())).collect();
        if found == wanted {
            return Ok(());
        }
        Err(RaftError::Bootstrap(format!("it is founded already, with other members: {}", seen.membership)))
    }

    pub(crate) async fn transfer_leadership(&self, to: Option<NodeId>) -> Result<NodeId, RaftError> {
        let (reply, answer) = oneshot::channel();
        self.mailbox.hand_over(Handover { to, patience: self.patience, reply })?;
        answer.await.unwrap_or_else(|_| Err(self.ended()))
    }

    pub(crate) async fn change(&self, what: What) -> Result<Index, RaftError> {
        let (reply, answer) = oneshot::channel();
        self.mailbox.change(Wish { what, patience: self.timeout, reply })?;
        // Whoever ends without a word may have appended the intent.
        answer.await.unwrap_or(Err(RaftError::Unknown))
    }

    /// Waits until the status is as wanted.
    pub(crate) async fn wait_for(
        &self,
        mut wanted: impl FnMut(&RaftStatus) -> bool,
    ) -> Result<RaftStatus, RaftError> {
        let mut status = self.status.clone();
        let seen = status.wait_for(|status| status.fatal.is_some() || wanted(status)).await;
        let seen = seen.map(|status| status.clone()).map_err(|_| RaftError::Stopped)?;
        match seen.fatal {
            Some(reason) => Err(RaftError::Fatal { reason }),
            None => Ok(seen),
        }
    }

    /// Lets another node lead, so that the cluster need not wait for an election timeout; and hears what becomes of the calls
    /// that are open, which the next leader commits.
    async fn leave(&self) {
        if self.transfer_leadership(None).await.is_ok() {
            let last = self.status.borrow().last.index;
            let _ended = self.wait_for(|status| status.applied >= last).await;
        }
    }

    /// Ends the group in good order, and returns when its tasks have ended.
    pub(crate) async fn shut_down(&self) {
        if self.status.borrow().role == RoleName::Leader {
            let _too_late = tokio::time::timeout(self.patience, self.leave()).await;
        }
        self.mailbox.shut_down();
        let mut status = self.status.clone();
        while status.changed().await.is_ok() {}
    }
}
