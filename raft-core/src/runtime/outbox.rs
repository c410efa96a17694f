//! What goes to the transport: messages by peer, and whom to be connected to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::mailbox::{Mailbox, lock};
use super::snapshots::Door;
use crate::engine::Engine;
use crate::membership::Membership;
use crate::message::Envelope;
use crate::transport::{Inbox, LocalNode, SnapshotStream, Transport};
use crate::types::{Incarnation, Lineage, NodeId, Peer};

/// Who may talk to this node; shared with the transport's side, which asks at each hello.
#[derive(Clone, Default)]
pub(super) struct Roster(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    /// Which data folder the configuration binds each node to.
    bound: BTreeMap<NodeId, Incarnation>,
    /// What this node belongs to.
    lineage: Lineage,
    /// The latest run of each node that was heard of, on the folder that it has.
    runs: BTreeMap<NodeId, (Incarnation, u64)>,
}

/// Peers whose runs are remembered: far more than a cluster has, however often its nodes are replaced.
const MAX_RUNS: usize = 1024;

impl Roster {
    fn follow(&self, membership: &Membership) {
        let bound = membership.nodes.iter().map(|(&node, info)| (node, info.incarnation));
        lock(&self.0).bound = bound.collect();
    }

    fn lineage(&self) -> Lineage {
        lock(&self.0).lineage
    }

    /// Whether to talk to a peer whose run is `boot`; if not, why. An old copy of a folder shows itself by a run that is older than
    /// one that was heard of, and a second process on a copy by one that is as old.
    fn admit(&self, peer: Peer, boot: u64, lineage: Lineage) -> Result<(), String> {
        self.belongs(peer, lineage)?;
        let mut known = lock(&self.0);
        let (node, starts) = (peer.node, LocalNode::starts(boot));
        match known.runs.get(&node) {
            Some(&(folder, seen)) if folder == peer.incarnation && seen != boot => {
                let before = LocalNode::starts(seen);
                if starts < before {
                    return Err(format!(
                        "node {node} runs on an old copy of its data folder: this is start {starts} of it, and start {before} was seen; \
                         stop it, empty the folder, and readmit the node"
                    ));
                }
                if starts == before {
                    return Err(format!(
                        "two processes run as node {node} on copies of one data folder: stop one of them, and remove its folder"
                    ));
                }
            }
            _ => {}
        }
        if known.runs.len() < MAX_RUNS || known.runs.contains_key(&node) {
            known.runs.insert(node, (peer.incarnation, boot));
        }
        Ok(())
    }

    /// Whether a peer says that it is of this node's `lineage`, and has the folder that it is bound to, or is known by now to the cluster
    /// with another one; if not, why.
    pub(super) fn belongs(&self, peer: Peer, lineage: Lineage) -> Result<(), String> {
        let known = lock(&self.0);
        if known.lineage.contradicts(lineage) {
            return Err(format!(
                "node {} belongs to lineage {lineage} of this cluster, and this node to {}: the cluster went on without one \
                 of them after a majority was lost; empty the folder of the node that is not to be kept",
                peer.node, known.lineage
            ));
        }
        match known.bound.get(&peer.node) {
            // Who knows a committed configuration with a folder other than this node knows was taken in again since then: this
            // node's roster is the older one. The engine counts no promise of it until it knows, too.
            Some(&bound) if bound.contradicts(peer.incarnation) && lineage == Lineage::UNKNOWN => {
                Err(format!(
                    "node {} is bound to the data folder {bound} and comes with {}: its folder was wiped or replaced",
                    peer.node, peer.incarnation
                ))
            }
            _ => Ok(()),
        }
    }
}

/// The way out to the other nodes.
pub(super) struct Outbox {
    transport: Arc<dyn Transport>,
    local: NodeId,
    connected: BTreeMap<NodeId, String>,
    roster: Roster,
    membership: Membership,
    lineage: Lineage,
}

impl Outbox {
    pub(super) fn new(transport: Arc<dyn Transport>, local: NodeId, roster: Roster) -> Self {
        Self {
            transport,
            local,
            connected: BTreeMap::new(),
            roster,
            membership: Membership::default(),
            lineage: Lineage::UNKNOWN,
        }
    }

    /// Sends messages, each peer's in one call and in order.
    pub(super) fn send(&self, messages: Vec<Envelope>) {
        let mut batches: Vec<(NodeId, Vec<Envelope>)> = Vec::new();
        for envelope in messages {
            let to = envelope.to.node;
            match batches.iter_mut().find(|(peer, _)| *peer == to) {
                Some((_, batch)) => batch.push(envelope),
                None => batches.push((to, vec![envelope])),
            }
        }
        for (peer, batch) in batches {
            self.transport.send(peer, batch);
        }
    }

    /// Wants a connection to each of these nodes.
    pub(super) fn connect<'a>(&mut self, nodes: impl IntoIterator<Item = (NodeId, &'a str)>) {
        for (node, address) in nodes {
            let known = self.connected.get(&node).is_some_and(|known| known == address);
            if node != self.local && !known {
                self.transport.connect(node, address);
                self.connected.insert(node, address.to_owned());
            }
        }
    }

    /// Follows the configuration: connections to its members, to those of one that may still be in force, and to nobody else.
    /// Returns whether the configuration is another one.
    pub(super) fn follow(&mut self, engine: &Engine) -> bool {
        let contacts = engine.contacts();
        self.connect(contacts.iter().map(|(&node, address)| (node, address.as_str())));
        let transport = &self.transport;
        self.connected.retain(|node, _| {
            // The last leader may be on its way out, and still waits for answers.
            let wanted = contacts.contains_key(node) || engine.leader() == Some(*node);
            if !wanted {
                transport.disconnect(*node);
            }
            wanted
        });
        let membership = engine.membership();
        if self.membership == *membership {
            return false;
        }
        self.membership = membership.clone();
        self.roster.follow(membership);
        true
    }

    /// Tells the transport's side which lineage this node belongs to.
    pub(super) fn belong(&mut self, lineage: Lineage) {
        if self.lineage != lineage {
            self.lineage = lineage;
            lock(&self.roster.0).lineage = lineage;
        }
    }

    pub(super) async fn stop(&self) {
        self.transport.stop().await;
    }
}

/// What the transport hands received messages to.
pub(super) struct GroupInbox {
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) roster: Roster,
    pub(super) snapshots: Door,
}

impl Inbox for GroupInbox {
    fn deliver(&self, from: NodeId, mut batch: Vec<Envelope>) {
        // Whoever is authenticated speaks for itself only.
        batch.retain(|envelope| envelope.from.node == from);
        self.mailbox.deliver(batch);
    }

    fn lineage(&self) -> Lineage {
        self.roster.lineage()
    }

    fn snapshot(&self, from: NodeId, stream: Box<dyn SnapshotStream>) {
        self.snapshots.enter(from, stream);
    }

    fn admit(&self, peer: Peer, boot: u64, lineage: Lineage) -> Result<(), String> {
        self.roster.admit(peer, boot, lineage)
    }
}
