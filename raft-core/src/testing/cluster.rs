//! Nodes side by side, with every output checked on its way out. Who gets what and when is the caller's business.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::Config;
use crate::engine::{Fetch, Ready};
use crate::log_store::LogStore;
use crate::membership::{Membership, NodeInfo};
use crate::testing::disk::{Image, founded_outline};
use crate::testing::invariants::{Broken, Invariants, View};
use crate::testing::node::{Node, incarnation};
use crate::types::{Entry, HardState, Incarnation, Lineage, NodeId, Time};

/// Simulated nodes 1 to n, and the invariants over all of them. Nodes are named by their place: node 1 is at 0.
pub struct Cluster {
    /// The nodes.
    pub nodes: Vec<Node>,
    /// What is known of them, and must hold.
    pub invariants: Invariants,
}

impl Cluster {
    /// `size` nodes that are founded already, with empty logs; none runs yet.
    pub fn founded(size: usize, config: &Config) -> Self {
        let voters = Membership::of_voters(members(size, incarnation));
        let outline = founded_outline(Membership { lineage: LINEAGE, ..voters });
        Self::on(size, config, |_| Image::of(HardState::default(), outline.clone(), Vec::new()))
    }

    /// `size` nodes with blank disks, to be bootstrapped; none runs yet.
    pub fn blank(size: usize, config: &Config) -> Self {
        Self::on(size, config, |_| Image::default())
    }

    fn on(size: usize, config: &Config, image: impl Fn(NodeId) -> Image) -> Self {
        let ids: Vec<NodeId> = (1..=size as u64).map(NodeId).collect();
        Self {
            nodes: ids.iter().map(|&id| Node::new(id, config.clone(), image(id))).collect(),
            invariants: Invariants::new(size),
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

    /// Starts a node's process.
    ///
    /// # Errors
    /// Where the engine refuses its own disk.
    pub fn start(&mut self, place: usize, seed: u64, now: Time) -> Result<(), Broken> {
        let node = &mut self.nodes[place];
        let local = node.peer();
        node.disk.open(local).map_err(contract)?;
        node.start(seed, now).map_err(|e| Broken::new("a node starts from its own disk", e.to_string()))?;
        self.invariants.started(place, &self.nodes[place])
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
        if let Some(view) = View::of(place, &self.nodes[place]) {
            self.invariants.check(&view, &ready, &self.nodes)?;
        }
        if let Some(write) = &ready.write {
            self.nodes[place].disk.submit(write.clone()).map_err(contract)?;
        }
        Ok(ready)
    }

    /// A node's writes through `number` are durable, and it is told so.
    ///
    /// # Errors
    /// Where a write breaks the contract of the log store.
    pub fn written(&mut self, place: usize, number: u64, now: Time) -> Result<(), Broken> {
        let node = &mut self.nodes[place];
        node.disk.complete(number).map_err(contract)?;
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
