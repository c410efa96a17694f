//! What must hold after every event, whatever the network, the disks and the clocks do. One file for each property,
//! checked step by step so that a long history costs no more than a short one. Each keeps its own book of what it saw
//! go out and become durable, and asks the engine nothing that the engine could be wrong about.

mod applying;
mod bounds;
mod commits;
mod elections;
pub(crate) mod leases;
mod logs;
mod memberships;
mod progress;
mod promises;
mod reads;
mod snapshots;
mod transfers;

use std::fmt;

use crate::engine::{Event, Queues, Ready, RoleName};
use crate::membership::Membership;
use crate::testing::disk::Image;
use crate::testing::node::Node;
use crate::types::{EntryId, Incarnation, Index, NodeId, Term, Time};

use commits::Commits;
use elections::Elections;
use logs::Logs;
use memberships::Memberships;
use progress::Progress;
use reads::Reads;
use snapshots::Snapshots;
use transfers::Transfers;

/// A property that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// What must hold, in words.
    pub property: &'static str,
    /// What was seen instead.
    pub detail: String,
}

impl Broken {
    /// `property` does not hold, as `detail` shows.
    pub fn new(property: &'static str, detail: impl Into<String>) -> Self {
        Self { property, detail: detail.into() }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "broken: {}: {}", self.property, self.detail)
    }
}

impl std::error::Error for Broken {}

/// A running node at one moment.
pub(crate) struct View<'a> {
    /// Its place in the cluster.
    pub(crate) place: usize,
    pub(crate) node: NodeId,
    pub(crate) incarnation: Incarnation,
    pub(crate) run: u64,
    pub(crate) role: RoleName,
    pub(crate) term: Term,
    pub(crate) commit: Index,
    pub(crate) applied: Index,
    pub(crate) last: EntryId,
    /// What it counts as durable on itself.
    pub(crate) durable: Index,
    pub(crate) queues: Queues,
    /// How many reads began on it in this run.
    pub(crate) reads_begun: u64,
    /// Its clock.
    pub(crate) now: Time,
    /// To whom it hands over, and until when.
    pub(crate) transfer: Option<(NodeId, Time)>,
    /// The configuration that it works by.
    pub(crate) membership: &'a Membership,
    /// What is durable on its disk, before the write that it wants now.
    pub(crate) image: &'a Image,
    /// What will be durable when all earlier writes have arrived.
    pub(crate) ahead: &'a Image,
}

impl<'a> View<'a> {
    pub(crate) fn of(place: usize, node: &'a Node, now: Time) -> Option<Self> {
        let engine = node.engine()?;
        Some(Self {
            place,
            node: node.id(),
            incarnation: node.peer().incarnation,
            run: node.run(),
            role: engine.role(),
            term: engine.term(),
            commit: engine.commit(),
            applied: engine.applied_index(),
            last: engine.last(),
            durable: engine.durable_index(),
            queues: engine.queues(),
            reads_begun: engine.reads_begun(),
            now,
            transfer: engine.transfer_until(),
            membership: engine.membership(),
            image: node.disk.image(),
            ahead: node.disk.ahead(),
        })
    }
}

/// All invariants of a cluster.
pub struct Invariants {
    elections: Elections,
    logs: Logs,
    commits: Commits,
    memberships: Memberships,
    progress: Progress,
    reads: Reads,
    snapshots: Snapshots,
    transfers: Transfers,
}

impl Invariants {
    /// Those of a cluster of `size` voters.
    pub fn new(size: usize) -> Self {
        Self {
            elections: Elections::default(),
            logs: Logs::default(),
            commits: Commits::default(),
            memberships: Memberships::default(),
            progress: Progress::new(size),
            reads: Reads::default(),
            snapshots: Snapshots::default(),
            transfers: Transfers::default(),
        }
    }

    /// The committed log so far, over all history.
    pub fn committed(&self) -> &[EntryId] {
        self.commits.committed()
    }

    /// The leader of a term, where there was one.
    pub fn leader_of(&self, term: Term) -> Option<NodeId> {
        self.elections.leader(term)
    }

    /// A disk's content was there from before.
    pub(crate) fn preloaded(&mut self, image: &Image) {
        self.logs.learn(image.entries());
        self.commits.preloaded(image);
        self.snapshots.forget_states();
        for (&index, membership) in &image.state().outline.memberships {
            let term = image.term(index).unwrap_or_default();
            self.snapshots.learn(EntryId::new(term, index), membership);
            self.memberships.learn(EntryId::new(term, index), membership);
        }
    }

    /// A new lineage begins: only what this disk holds is history.
    pub(crate) fn recovered(&mut self, size: usize, image: &Image) {
        *self = Self::new(size);
        self.preloaded(image);
    }

    /// A cluster is begun with the state up to `last`, which other members committed in its term.
    pub(crate) fn restored(&mut self, last: EntryId) {
        self.commits.restored(last);
        self.snapshots.learn(EntryId::ZERO, &Membership::default());
    }

    /// A node has applied so much, or was restored to it.
    pub(crate) fn reached(&mut self, node: &Node) -> Result<(), Broken> {
        self.snapshots.reached(node)
    }

    pub(crate) fn started(&mut self, place: usize, node: &Node, now: Time) -> Result<(), Broken> {
        let Some(view) = View::of(place, node, now) else { return Ok(()) };
        if let Some(engine) = node.engine() {
            Memberships::started(&view, engine.membership())?;
        }
        self.progress.started(&view, node.applied.last.index)
    }

    /// Checks what a node is and wants, against all that was seen before.
    pub(crate) fn check(&mut self, view: &View<'_>, ready: &Ready, nodes: &[Node]) -> Result<(), Broken> {
        self.progress.check(view, ready)?;
        let elected = ready.events.contains(&Event::Elected { term: view.term });
        if (elected || view.role == RoleName::Leader) && self.elections.elected(view)? {
            self.logs.elected(view, &self.commits)?;
            self.commits.elected(view, &self.logs)?;
        }
        if let Some(write) = &ready.write {
            self.logs.written(view, write)?;
        }
        // Also where it stepped down in the same breath.
        let led = self.elections.leader(view.term) == Some(view.node);
        if led {
            promises::own_count(view, &self.logs)?;
        }
        self.transfers.check(view, nodes[view.place].config().election_timeout)?;
        bounds::check(view, nodes[view.place].config())?;
        // What it commits it counts before it takes a step of a change.
        self.commits.advanced(view, led, &self.logs, &self.memberships, nodes)?;
        self.reads.check(view, ready, &self.logs, &self.memberships)?;
        self.memberships.check(view, ready, &self.logs)?;
        let handed = self.progress.handed_to_apply(view.place);
        self.snapshots.check(view, ready, &nodes[view.place].shelf, handed, &self.commits)?;
        applying::check(view, &ready.apply, &self.commits)?;
        for envelope in &ready.messages {
            self.elections.sent(view, envelope)?;
            self.logs.sent(view, envelope)?;
            self.reads.sent(view, envelope);
            self.transfers.sent(view, envelope, nodes)?;
            promises::check(view, envelope, &self.logs)?;
        }
        Ok(())
    }
}
