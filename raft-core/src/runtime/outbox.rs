//! What goes to the transport: messages by peer, and whom to be connected to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::mailbox::{Mailbox, lock};
use crate::membership::Membership;
use crate::message::Envelope;
use crate::transport::{Inbox, SnapshotStream, Transport};
use crate::types::{Incarnation, Lineage, NodeId, Peer};

/// Who may talk to this node; shared with the transport's side, which asks at each hello.
#[derive(Debug, Default)]
pub(super) struct Roster {
    /// Which data folder the configuration binds each node to.
    bound: BTreeMap<NodeId, Incarnation>,
    /// What this node belongs to.
    lineage: Lineage,
}

/// The way out to the other nodes.
pub(super) struct Outbox {
    transport: Arc<dyn Transport>,
    local: NodeId,
    connected: BTreeMap<NodeId, String>,
    roster: Arc<Mutex<Roster>>,
    membership: Membership,
    lineage: Lineage,
}

impl Outbox {
    pub(super) fn new(transport: Arc<dyn Transport>, local: NodeId, roster: Arc<Mutex<Roster>>) -> Self {
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

    /// Follows the configuration: connections to its members and to nobody else. Returns whether it is another one.
    pub(super) fn follow(&mut self, membership: &Membership) -> bool {
        if self.membership == *membership {
            return false;
        }
        self.membership = membership.clone();
        lock(&self.roster).bound =
            membership.nodes.iter().map(|(&node, info)| (node, info.incarnation)).collect();
        self.connect(membership.nodes.iter().map(|(&node, info)| (node, info.address.as_str())));
        let transport = &self.transport;
        self.connected.retain(|node, _| {
            let wanted = membership.nodes.contains_key(node);
            if !wanted {
                transport.disconnect(*node);
            }
            wanted
        });
        true
    }

    /// Tells the transport's side which lineage this node belongs to.
    pub(super) fn belong(&mut self, lineage: Lineage) {
        if self.lineage != lineage {
            self.lineage = lineage;
            lock(&self.roster).lineage = lineage;
        }
    }

    pub(super) async fn stop(&self) {
        self.transport.stop().await;
    }
}

/// What the transport hands received messages to.
pub(super) struct GroupInbox {
    mailbox: Arc<Mailbox>,
    roster: Arc<Mutex<Roster>>,
}

impl GroupInbox {
    pub(super) fn new(mailbox: Arc<Mailbox>) -> (Self, Arc<Mutex<Roster>>) {
        let roster = Arc::<Mutex<Roster>>::default();
        (Self { mailbox, roster: Arc::clone(&roster) }, roster)
    }
}

impl Inbox for GroupInbox {
    fn deliver(&self, from: NodeId, mut batch: Vec<Envelope>) {
        // Whoever is authenticated speaks for itself only.
        batch.retain(|envelope| envelope.from.node == from);
        self.mailbox.deliver(batch);
    }

    fn lineage(&self) -> Lineage {
        lock(&self.roster).lineage
    }

    fn snapshot(&self, _from: NodeId, _stream: Box<dyn SnapshotStream>) {}

    fn admit(&self, peer: Peer, lineage: Lineage) -> Result<(), String> {
        let roster = lock(&self.roster);
        if roster.lineage.contradicts(lineage) {
            return Err(format!(
                "node {} belongs to lineage {lineage} of this cluster, and this node to {}: the cluster went on without one \
                 of them after a majority was lost; empty the folder of the node that is not to be kept",
                peer.node, roster.lineage
            ));
        }
        match roster.bound.get(&peer.node) {
            Some(&bound) if bound != Incarnation::UNKNOWN && bound != peer.incarnation => Err(format!(
                "node {} is bound to the data folder {bound} and comes with {}: its folder was wiped or replaced",
                peer.node, peer.incarnation
            )),
            _ => Ok(()),
        }
    }
}
