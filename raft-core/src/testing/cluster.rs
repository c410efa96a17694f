//! Nodes side by side, with every output checked on its way out. Who gets what and when is the caller's business.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::Config;
use crate::engine::{Engine, Fetch, Ready};
use crate::log_store::LogStore;
use crate::membership::{Membership, NodeInfo};
use crate::offline;
use crate::testing::disk::{Image, founded_outline};
use crate::testing::invariants::{Broken, Invariants, View, leases};
use crate::testing::node::{Applied, Node, incarnation};
use crate::testing::shelf::SnapshotFile;
use crate::types::{
    Entry, EntryId, GroupId, HardState, Incarnation, Lineage, NodeId, Peer, SnapshotMeta, Time,
};

/// Simulated nodes 1 to n, and the invariants over all of them. Nodes are named by their place: node 1 is at 0.
pub struct Cluster {
    /// The nodes.
    pub nodes: Vec<Node>,
    /// What is known of them, and must hold.
    pub invariants: Invariants,
    /// The history that the invariants are of: nodes of another lineage go their own way.
    lineage: Lineage,
}

impl Cluster {
    /// `size` nodes that are founded already, with empty logs; none runs yet.
    pub fn founded(size: usize, config: &Config) -> Self {
        let voters = Membership::of_voters(members(size, incarnation));
        let outline = founded_outline(Membership { lineage: LINEAGE, lease: config.lease(), ..voters });
        Self::on(size, config, |_| Image::of(HardState::default(), outline.clone(), Vec::new()))
    }

    /// The same, where one node has no vote.
    pub fn with_learner(size: usize, config: &Config, learner: NodeId) -> Self {
        let mut membership = Membership::of_voters(members(size, incarnation));
        membership.lease = config.lease();
        membership.voters.remove(&learner);
        membership.learners.insert(learner);
        let outline = founded_outline(membership);
        Self::on(size, config, |_| Image::of(HardState::default(), outline.clone(), Vec::new()))
    }

    /// Puts an old copy of its data folder back. The node must not be running.
    pub fn put_back(&mut self, place: usize, image: Image) {
        let lost = self.nodes[place].disk.image().clone();
        self.nodes[place].lost.push(lost);
        self.nodes[place].disk = super::disk::Disk::new(image);
    }

    /// `size` nodes with blank disks, to be bootstrapped; none runs yet.
    pub fn blank(size: usize, config: &Config) -> Self {
        Self::on(size, config, |_| Image::default())
    }

    fn on(size: usize, config: &Config, image: impl Fn(NodeId) -> Image) -> Self {
        let ids: Vec<NodeId> = (1..=size as u64).map(NodeId).collect();
        let mut invariants = Invariants::new(size);
        ids.iter().for_each(|&id| invariants.preloaded(&image(id)));
        let nodes = ids.iter().map(|&id| Node::new(id, config.clone(), image(id))).collect();
        Self { nodes, invariants, lineage: Lineage::UNKNOWN }
    }

    /// Gives the nodes priorities, in order, before they start.
    pub fn prioritize(&mut self, priorities: &[u8]) {
        for (node, &priority) in self.nodes.iter_mut().zip(priorities) {
            node.prioritize(priority);
        }
    }

    /// The members of a cluster of `size`, as an operator would name them for a bootstrap: by address only.
    pub fn founders(size: usize) -> BTreeMap<NodeId, NodeInfo> {
        members(size, |_| Incarnation::UNKNOWN)
    }

    /// Replaces what a node's disk holds, as if it had been written long ago. The node must not be running.
    pub fn preload(&mut self, place: usize, image: Image) {
        self.invariants.preloaded(&image);
        self.nodes[place].disk = super::disk::Disk::new(image);
    }

    /// Makes a node's log the beginning of a new lineage, as an operator does. The node must not be running.
    ///
    /// # Errors
    /// Where [`offline::new_lineage`] refuses it.
    pub fn recover(&mut self, place: usize, lineage: Lineage) -> Result<offline::NewLineage, String> {
        let node = &mut self.nodes[place];
        let mut image = node.disk.image().clone();
        let (write, done) =
            offline::plan_new_lineage(image.state(), GroupId::default(), node.peer(), lineage)
                .map_err(|refused| refused.to_string())?;
        image.write(&write)?;
        self.lineage = lineage;
        self.invariants.recovered(self.nodes.len(), &image);
        self.nodes[place].disk = super::disk::Disk::new(image);
        Ok(done)
    }

    /// Begins a blank node's log with a state from a backup that ends at `last`. The node must not be running.
    ///
    /// # Errors
    /// Where the log is not blank.
    pub fn restore_backup(&mut self, place: usize, last: EntryId) -> Result<(), String> {
        let applied = Applied { last, chain: 1 };
        let file = SnapshotFile::new(applied, Membership::default(), &[])?;
        let mut image = Image::default();
        image.write(&offline::write_from_snapshot(GroupId::default(), file.meta.clone()))?;
        self.invariants.restored(last);
        let node = &mut self.nodes[place];
        node.shelf.put(file);
        node.disk = super::disk::Disk::new(image);
        Ok(())
    }

    fn is_of_history(&self, place: usize) -> bool {
        let lineage = self.nodes[place].engine().map_or(Lineage::UNKNOWN, Engine::lineage);
        !lineage.contradicts(self.lineage)
    }

    /// Keeps a node's log in a store of the user's, which is empty.
    ///
    /// # Errors
    /// Where the store breaks its contract.
    pub fn keep_in(&mut self, place: usize, store: Arc<dyn LogStore>) -> Result<(), Broken> {
        self.nodes[place].disk.keep_in(store).map_err(contract)
    }

    /// Reads back what a node's engine asked for.
    ///
    /// # Errors
    /// Where the user's store does not give what was written.
    pub fn read(&self, place: usize, fetch: &Fetch) -> Result<Vec<Entry>, Broken> {
        self.nodes[place].disk.read(&fetch.range, fetch.max_bytes).map_err(contract)
    }

    /// Starts a node's process: from its log, and from the snapshot that the log names. What the driver had added to that.
    ///
    /// # Errors
    /// Where the engine refuses its own disk, or the snapshot is not there.
    pub fn start(&mut self, place: usize, seed: u64, now: Time) -> Result<Option<Vec<u8>>, Broken> {
        let node = &mut self.nodes[place];
        let local = node.peer();
        node.disk.open(local).map_err(contract)?;
        let named = node.disk.image().state().snapshot;
        node.shelf.forget_after(named.as_ref().map_or(EntryId::ZERO, |meta| meta.last));
        node.applied = Applied::default();
        let file = named.map(|meta| self.snapshot(place, &meta)).transpose()?;
        let added = file.map(|file| self.restore(place, &file)).transpose()?;
        let node = &mut self.nodes[place];
        node.start(seed, now).map_err(|e| Broken::new("a node starts from its own disk", e.to_string()))?;
        self.invariants.started(place, &self.nodes[place], now)?;
        Ok(added)
    }

    /// Applies an entry to a node's state.
    ///
    /// # Errors
    /// Where it is not the next, or the state is not that of the other nodes.
    pub fn apply(&mut self, place: usize, entry: &Entry) -> Result<(), Broken> {
        let node = &mut self.nodes[place];
        node.applied
            .apply(entry)
            .map_err(|detail| Broken::new("entries are applied once and in order", detail))?;
        if self.is_of_history(place) { self.invariants.reached(&self.nodes[place]) } else { Ok(()) }
    }

    /// A snapshot that a node's log store or engine names.
    ///
    /// # Errors
    /// Where its file is not there.
    pub fn snapshot(&self, place: usize, meta: &SnapshotMeta) -> Result<SnapshotFile, Broken> {
        let file = self.nodes[place].shelf.get(meta.last).cloned();
        file.ok_or_else(|| {
            Broken::new("a named snapshot is there and whole", format!("there is none of {}", meta.last))
        })
    }

    /// Puts a snapshot in the place of a node's state; what the driver had added to it.
    ///
    /// # Errors
    /// Where it is damaged, or its state is not that of the other nodes.
    pub fn restore(&mut self, place: usize, file: &SnapshotFile) -> Result<Vec<u8>, Broken> {
        let node = &mut self.nodes[place];
        let added = node
            .restore(file)
            .map_err(|detail| Broken::new("a named snapshot is there and whole", detail))?;
        self.invariants.reached(node)?;
        Ok(added)
    }

    /// A snapshot of a node is durable, and its engine is told.
    pub fn snapshot_taken(&mut self, place: usize, file: SnapshotFile, now: Time) {
        let node = &mut self.nodes[place];
        let (last, meta) = (file.meta.last, file.meta.clone());
        node.shelf.put(file);
        let used = node.engine_mut().is_none_or(|engine| engine.snapshot_taken(Some(meta), now));
        if !used {
            node.shelf.remove(last);
        }
    }

    /// A whole snapshot from another node is durable on this one, and its engine is told. Whether it will be installed.
    pub fn snapshot_received(&mut self, place: usize, from: Peer, file: SnapshotFile, now: Time) -> bool {
        let node = &mut self.nodes[place];
        let (last, meta) = (file.meta.last, file.meta.clone());
        let held = node.shelf.get(last).is_some();
        if !held {
            node.shelf.put(file);
        }
        let used = node.engine_mut().is_some_and(|engine| engine.snapshot_received(from, meta, now));
        if !used && !held {
            node.shelf.remove(last);
        }
        used
    }

    /// Kills a node's process; of its writes on their way the first `keep` were durable after all.
    ///
    /// # Errors
    /// Where a write breaks the contract of the log store.
    pub fn crash(&mut self, place: usize, keep: usize) -> Result<(), Broken> {
        self.nodes[place].crash(keep).map_err(contract)
    }

    /// What a node wants done now, checked. Its write is on its way to the disk already; all else is up to the caller.
    /// Nothing where the node does not run.
    ///
    /// # Errors
    /// Where an invariant is broken.
    pub fn ready(&mut self, place: usize, now: Time) -> Result<Ready, Broken> {
        let Some(engine) = self.nodes[place].engine_mut() else { return Ok(Ready::default()) };
        let ready = engine.ready(now);
        if let Some(violation) = &ready.fatal {
            return Err(Broken::new("no engine finds its own state broken", violation.to_string()));
        }
        if let Some(view) = View::of(place, &self.nodes[place], now).filter(|_| self.is_of_history(place)) {
            self.invariants.check(&view, &ready, &self.nodes)?;
        }
        if let Some(write) = &ready.write {
            self.nodes[place].disk.submit(write.clone()).map_err(contract)?;
        }
        Ok(ready)
    }

    /// Whether nobody leads beside a leader with a lease, where `clock` tells each node's time.
    ///
    /// # Errors
    /// Where another does.
    pub fn check_leases(&self, clock: impl Fn(usize) -> Time) -> Result<(), Broken> {
        leases::check(&self.nodes, clock)
    }

    /// A node's writes through `number` are durable, and it is told so.
    ///
    /// # Errors
    /// Where a write breaks the contract of the log store.
    pub fn written(&mut self, place: usize, number: u64, now: Time) -> Result<(), Broken> {
        let node = &mut self.nodes[place];
        node.disk.complete(number).map_err(contract)?;
        if let Some(named) = node.disk.image().state().snapshot {
            node.shelf.named(named.last);
        }
        if let Some(engine) = node.engine_mut() {
            engine.written(number, now);
        }
        Ok(())
    }
}

/// Of a cluster that was founded long ago.
const LINEAGE: Lineage = Lineage(0x0A11_CE00);

fn contract(detail: String) -> Broken {
    Broken::new("writes keep the contract of the log store", detail)
}

fn members(size: usize, incarnation: impl Fn(NodeId) -> Incarnation) -> BTreeMap<NodeId, NodeInfo> {
    (1..=size as u64)
        .map(NodeId)
        .map(|id| {
            let info = NodeInfo {
                address: format!("n{id}:1"),
                client_address: String::new(),
                incarnation: incarnation(id),
            };
            (id, info)
        })
        .collect()
}
