//! An inbox that remembers what it was given.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::bench::{PROBES, lineage_of, lock};
use crate::message::{Envelope, Message};
use crate::transport::{Inbox, LocalNode, SnapshotStream};
use crate::types::{Lineage, NodeId, Payload, Peer};

/// See above.
pub(super) struct Recorder {
    local: LocalNode,
    state: Mutex<State>,
    /// Of all entries that arrived.
    pub(super) entry_bytes: AtomicUsize,
    pub(super) messages: AtomicUsize,
    /// Counts what arrives and keeps nothing of it.
    pub(super) only_counts: AtomicBool,
    /// Drops streams at once.
    pub(super) refuses_streams: AtomicBool,
}

#[derive(Default)]
struct State {
    received: Vec<(NodeId, Envelope)>,
    probes: BTreeSet<(NodeId, u64)>,
    refused: BTreeSet<NodeId>,
    asked: Vec<(Peer, Lineage)>,
    streams: VecDeque<(NodeId, Box<dyn SnapshotStream>)>,
    /// What was expected, and what came.
    fault: Option<(String, String)>,
}

impl Recorder {
    pub(super) fn new(local: LocalNode) -> Self {
        Self {
            local,
            state: Mutex::default(),
            entry_bytes: AtomicUsize::new(0),
            messages: AtomicUsize::new(0),
            only_counts: AtomicBool::new(false),
            refuses_streams: AtomicBool::new(false),
        }
    }

    /// What arrived from `node`, but for probes.
    pub(super) fn from(&self, node: NodeId) -> Vec<Envelope> {
        let state = lock(&self.state);
        state
            .received
            .iter()
            .filter(|(from, _)| *from == node)
            .map(|(_, envelope)| envelope.clone())
            .collect()
    }

    /// How many messages arrived, but for probes.
    pub(super) fn count(&self) -> usize {
        self.messages.load(Ordering::Relaxed)
    }

    pub(super) fn bytes(&self) -> usize {
        self.entry_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn has_probe(&self, from: NodeId, number: u64) -> bool {
        lock(&self.state).probes.contains(&(from, number))
    }

    pub(super) fn has_any_probe(&self, number: u64) -> bool {
        lock(&self.state).probes.iter().any(|(_, probe)| *probe == number)
    }

    /// From now on, this node is not admitted.
    pub(super) fn refuse(&self, node: NodeId) {
        lock(&self.state).refused.insert(node);
    }

    pub(super) fn allow(&self, node: NodeId) {
        lock(&self.state).refused.remove(&node);
    }

    /// Whom the transport asked about, and of which lineage it was said to be.
    pub(super) fn asked(&self) -> Vec<(Peer, Lineage)> {
        lock(&self.state).asked.clone()
    }

    pub(super) fn take_stream(&self) -> Option<(NodeId, Box<dyn SnapshotStream>)> {
        lock(&self.state).streams.pop_front()
    }

    /// The first thing that holds in every case and did not.
    pub(super) fn fault(&self) -> Option<(String, String)> {
        lock(&self.state).fault.clone()
    }
}

impl Inbox for Recorder {
    fn deliver(&self, from: NodeId, batch: Vec<Envelope>) {
        let mut state = lock(&self.state);
        let mut fault = |expected: String, came: String| {
            state.fault.get_or_insert((expected, came));
        };
        if batch.is_empty() {
            fault("no empty batch is delivered".to_owned(), format!("one, from node {from}"));
        }
        for envelope in &batch {
            if envelope.to.node != self.local.peer.node {
                fault(
                    format!("node {} gets only what was sent to it", self.local.peer.node),
                    format!("a message to node {}", envelope.to.node),
                );
            }
        }
        let only_counts = self.only_counts.load(Ordering::Relaxed);
        for envelope in batch {
            if let (PROBES, Message::VoteResponse(vote)) = (envelope.group, &envelope.message) {
                state.probes.insert((from, vote.term));
                continue;
            }
            if let Message::AppendRequest(append) = &envelope.message {
                let bytes = append.entries.iter().map(|entry| match &entry.payload {
                    Payload::Command(command) => command.len(),
                    _ => 0,
                });
                self.entry_bytes.fetch_add(bytes.sum(), Ordering::Relaxed);
            }
            self.messages.fetch_add(1, Ordering::Relaxed);
            if !only_counts {
                state.received.push((from, envelope));
            }
        }
    }

    fn admit(&self, peer: Peer, _boot: u64, lineage: Lineage) -> Result<(), String> {
        let mut state = lock(&self.state);
        state.asked.push((peer, lineage));
        if state.refused.contains(&peer.node) {
            return Err(format!("the case refuses node {}", peer.node));
        }
        Ok(())
    }

    fn lineage(&self) -> Lineage {
        lineage_of(self.local.peer.node)
    }

    fn snapshot(&self, from: NodeId, stream: Box<dyn SnapshotStream>) {
        if !self.refuses_streams.load(Ordering::Relaxed) {
            lock(&self.state).streams.push_back((from, stream));
        }
    }
}
