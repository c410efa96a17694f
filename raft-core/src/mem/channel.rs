//! A transport between nodes of one process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use crate::message::Envelope;
use crate::transport::{
    Inbox, LocalNode, MAX_SNAPSHOT_FRAME_BYTES, SnapshotStream, Transport, TransportError,
};
use crate::types::NodeId;

/// How many frames of a snapshot are on the way at once.
const SNAPSHOT_FRAMES: usize = 4;

/// Connects nodes of one process: messages are moved from node to node without being encoded. Links can be cut and
/// healed, to see what a cluster does then. Cheap to clone: all clones are one network.
#[derive(Clone, Default)]
pub struct ChannelNetwork(Arc<Shared>);

#[derive(Default)]
struct Shared {
    links: RwLock<Links>,
    /// Told of each change of `links`: streams may be broken by it.
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct Links {
    nodes: BTreeMap<NodeId, (LocalNode, Arc<dyn Inbox>)>,
    /// Who wants a connection to whom.
    wanted: BTreeSet<(NodeId, NodeId)>,
    /// Pairs, the lower node first, that are connected: one of them wants it and both admit the other. With the number
    /// of the connection, which streams do not outlive.
    up: BTreeMap<(NodeId, NodeId), u64>,
    /// How many connections there were.
    connections: u64,
    /// Directions in which nothing gets through.
    cut: BTreeSet<(NodeId, NodeId)>,
}

fn pair(a: NodeId, b: NodeId) -> (NodeId, NodeId) {
    (a.min(b), a.max(b))
}

impl Links {
    /// Connects two nodes where that is wanted and both agree.
    fn greet(&mut self, a: NodeId, b: NodeId) {
        if self.up.contains_key(&pair(a, b)) {
            return;
        }
        let wanted = self.wanted.contains(&(a, b)) || self.wanted.contains(&(b, a));
        if let (true, Some((a_local, a_inbox)), Some((b_local, b_inbox))) =
            (wanted, self.nodes.get(&a), self.nodes.get(&b))
            && a_local.cluster == b_local.cluster
            && a_inbox.admit(b_local.peer, b_local.boot, b_inbox.lineage()).is_ok()
            && b_inbox.admit(a_local.peer, a_local.boot, a_inbox.lineage()).is_ok()
        {
            self.connections += 1;
            self.up.insert(pair(a, b), self.connections);
        }
    }

    /// The connection of two nodes, if what `from` sends on it gets through to `to`.
    fn connection(&self, from: NodeId, to: NodeId) -> Option<u64> {
        self.up.get(&pair(from, to)).copied().filter(|_| !self.cut.contains(&(from, to)))
    }

    /// The inbox at the other end of a link that is up and not cut.
    fn inbox(&self, from: NodeId, to: NodeId) -> Option<&Arc<dyn Inbox>> {
        self.connection(from, to)?;
        self.nodes.get(&to).map(|(_, inbox)| inbox)
    }
}

impl ChannelNetwork {
    /// A network without nodes.
    pub fn new() -> Self {
        Self::default()
    }

    /// The transport of `node`. Its address is `mem:` and the node's id.
    pub fn transport(&self, node: impl Into<NodeId>) -> ChannelTransport {
        ChannelTransport { network: self.clone(), node: node.into(), started: AtomicBool::new(false) }
    }

    /// Lets nothing through from `from` to `to`; the other direction stays as it is.
    pub fn cut_one_way(&self, from: impl Into<NodeId>, to: impl Into<NodeId>) {
        self.change(|links| links.cut.insert((from.into(), to.into())));
    }

    /// Lets nothing through between two nodes.
    pub fn cut(&self, a: impl Into<NodeId>, b: impl Into<NodeId>) {
        let (a, b) = (a.into(), b.into());
        self.change(|links| links.cut.extend([(a, b), (b, a)]));
    }

    /// Undoes every cut between two nodes.
    pub fn heal(&self, a: impl Into<NodeId>, b: impl Into<NodeId>) {
        let (a, b) = (a.into(), b.into());
        self.change(|links| links.cut.retain(|&(from, to)| pair(from, to) != pair(a, b)));
    }

    fn look(&self) -> RwLockReadGuard<'_, Links> {
        self.0.links.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `connection` is gone, or nothing of `from` gets through to `to`.
    async fn lost(&self, connection: u64, from: NodeId, to: NodeId) {
        let mut changed = self.0.changed.subscribe();
        // Fails only where the sender is gone, and it lives as long as we do.
        while self.look().connection(from, to) == Some(connection) && changed.changed().await.is_ok() {}
    }

    fn change<T>(&self, change: impl FnOnce(&mut Links) -> T) -> T {
        let changed = change(&mut self.0.links.write().unwrap_or_else(PoisonError::into_inner));
        self.0.changed.send_replace(());
        changed
    }
}

/// One node's end of a [`ChannelNetwork`].
pub struct ChannelTransport {
    network: ChannelNetwork,
    node: NodeId,
    started: AtomicBool,
}

impl ChannelTransport {
    fn leave(&self) {
        if self.started.swap(false, Ordering::Relaxed) {
            self.network.change(|links| {
                links.nodes.remove(&self.node);
                links.wanted.retain(|&(from, _)| from != self.node);
                links.up.retain(|&(a, b), _| a != self.node && b != self.node);
            });
        }
    }
}

impl Drop for ChannelTransport {
    fn drop(&mut self) {
        self.leave();
    }
}

#[async_trait]
impl Transport for ChannelTransport {
    async fn start(&self, local: LocalNode, inbox: Arc<dyn Inbox>) -> Result<(), TransportError> {
        if local.peer.node != self.node {
            return Err(TransportError::new(format!(
                "the transport is that of node {}, not of node {}",
                self.node, local.peer.node
            )));
        }
        self.network.change(|links| {
            if links.nodes.contains_key(&self.node) {
                return Err(TransportError::new(format!("node {} runs already on this network", self.node)));
            }
            links.nodes.insert(self.node, (local, inbox));
            self.started.store(true, Ordering::Relaxed);
            Ok(())
        })
    }

    fn address(&self) -> String {
        format!("mem:{}", self.node)
    }

    fn connect(&self, peer: NodeId, _address: &str) {
        self.network.change(|links| links.wanted.insert((self.node, peer)));
    }

    fn disconnect(&self, peer: NodeId) {
        self.network.change(|links| {
            links.wanted.remove(&(self.node, peer));
            links.up.remove(&pair(self.node, peer));
        });
    }

    fn send(&self, to: NodeId, batch: Vec<Envelope>) {
        if batch.is_empty() {
            return;
        }
        // Delivered before the lock is free: nothing is once the receiver has stopped.
        if let Some(inbox) = self.network.look().inbox(self.node, to) {
            inbox.deliver(self.node, batch);
            return;
        }
        self.network.change(|links| links.greet(self.node, to));
        if let Some(inbox) = self.network.look().inbox(self.node, to) {
            inbox.deliver(self.node, batch);
        }
    }

    async fn open_snapshot(&self, to: NodeId) -> Result<Box<dyn SnapshotStream>, TransportError> {
        let opened = self.network.change(|links| {
            links.greet(self.node, to);
            links.connection(self.node, to).zip(links.inbox(self.node, to).map(Arc::clone))
        });
        let Some((connection, inbox)) = opened else {
            return Err(TransportError::new(format!("node {to} is not connected")));
        };
        let (there, from_here) = mpsc::channel(SNAPSHOT_FRAMES);
        let (back, from_there) = mpsc::channel(SNAPSHOT_FRAMES);
        let end = |from, to, sender, receiver| {
            let network = self.network.clone();
            let sender = Some(sender);
            Box::new(ChannelStream { network, connection, from, to, sender, receiver, ended: false })
        };
        inbox.snapshot(self.node, end(to, self.node, back, from_here));
        Ok(end(self.node, to, there, from_there))
    }

    async fn stop(&self) {
        self.leave();
    }
}

/// What travels on a [`ChannelStream`].
enum Frame {
    Bytes(Bytes),
    /// The sender has finished. A channel that closes without it is a broken stream.
    End,
}

/// One end of a stream between two nodes; broken with their connection, and as soon as it is used over a link that is cut.
struct ChannelStream {
    network: ChannelNetwork,
    connection: u64,
    from: NodeId,
    to: NodeId,
    sender: Option<mpsc::Sender<Frame>>,
    receiver: mpsc::Receiver<Frame>,
    /// The other end has finished.
    ended: bool,
}

impl ChannelStream {
    fn broken(&self) -> TransportError {
        TransportError::new(format!("the stream between nodes {} and {} is broken", self.from, self.to))
    }

    async fn push(&mut self, frame: Frame) -> Result<(), TransportError> {
        let sent = match &self.sender {
            Some(sender) => tokio::select! {
                biased;
                () = self.network.lost(self.connection, self.from, self.to) => false,
                sent = sender.send(frame) => sent.is_ok(),
            },
            None => false,
        };
        if !sent {
            self.sender = None;
            return Err(self.broken());
        }
        Ok(())
    }
}

#[async_trait]
impl SnapshotStream for ChannelStream {
    async fn send(&mut self, frame: Bytes) -> Result<(), TransportError> {
        if frame.is_empty() || frame.len() > MAX_SNAPSHOT_FRAME_BYTES {
            return Err(TransportError::new(format!("a frame of {} bytes cannot be sent", frame.len())));
        }
        self.push(Frame::Bytes(frame)).await
    }

    async fn receive(&mut self) -> Result<Option<Bytes>, TransportError> {
        if self.ended {
            return Ok(None);
        }
        let received = tokio::select! {
            biased;
            // What has arrived is here, whatever became of the connection.
            received = self.receiver.recv() => received,
            () = self.network.lost(self.connection, self.to, self.from) => None,
        };
        match received {
            Some(Frame::Bytes(bytes)) => Ok(Some(bytes)),
            Some(Frame::End) => {
                self.ended = true;
                Ok(None)
            }
            None => Err(self.broken()),
        }
    }

    async fn finish(&mut self) -> Result<(), TransportError> {
        self.push(Frame::End).await?;
        self.sender = None;
        Ok(())
    }
}
