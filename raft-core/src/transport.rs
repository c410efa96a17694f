//! The contract of a transport.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::message::Envelope;
use crate::types::{ClusterId, Lineage, NodeId, Peer};

/// The largest frame of a [`SnapshotStream`], in bytes.
pub const MAX_SNAPSHOT_FRAME_BYTES: usize = 1 << 20;

/// Who a transport speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalNode {
    /// The cluster.
    pub cluster: ClusterId,
    /// This node and its data folder.
    pub peer: Peer,
    /// Numbers this run of the node among all runs on its data folder, see [`LocalNode::boot`].
    pub boot: u64,
}

/// The lower bits of [`LocalNode::boot`] that are drawn.
const RUN_BITS: u32 = 24;

impl LocalNode {
    /// The number of a run: how often the data folder was started, this time included, and in the lower bits `drawn` at random. So
    /// later runs have higher numbers, and two runs on copies of one folder that were started equally often have different ones.
    pub const fn boot(starts: u64, drawn: u64) -> u64 {
        (starts << RUN_BITS) | (drawn & ((1 << RUN_BITS) - 1))
    }

    /// How often the data folder was started before and with the run of number `boot`.
    pub const fn starts(boot: u64) -> u64 {
        boot >> RUN_BITS
    }
}

/// Takes what a transport received. Implemented by the runtime.
pub trait Inbox: Send + Sync + 'static {
    /// Hands over envelopes from `from`, whose identity the transport has authenticated, in the order of arrival. Does not
    /// block; what there is no room for is dropped and counted.
    fn deliver(&self, from: NodeId, batch: Vec<Envelope>);

    /// Whether to talk to a peer that has proved to be `peer` of our cluster and says that this is its run `boot` (see
    /// [`LocalNode::boot`]), and that it is of `lineage`; asked at each hello.
    ///
    /// # Errors
    /// The reason to refuse it, in a sentence for the log.
    fn admit(&self, peer: Peer, boot: u64, lineage: Lineage) -> Result<(), String>;

    /// The lineage that this node belongs to now, to be said in each hello.
    fn lineage(&self) -> Lineage;

    /// A stream that `from`, whose identity the transport has authenticated, opened to send a snapshot. Does not block;
    /// dropping the stream refuses it.
    fn snapshot(&self, from: NodeId, stream: Box<dyn SnapshotStream>);
}

/// One end of a stream for a snapshot: frames in both directions, in order, without loss. Dropping it before
/// [`finish`](Self::finish) breaks the stream: the other end gets an error. So does the end of the connection, at both
/// ends. Dropping it after `finish` loses nothing of what was sent.
#[async_trait]
pub trait SnapshotStream: Send + 'static {
    /// Sends a frame of 1 to [`MAX_SNAPSHOT_FRAME_BYTES`] bytes; waits while the other end is behind. Where the future is
    /// dropped, the frame may be sent or not, and the stream may be broken.
    ///
    /// # Errors
    /// Where the stream is broken.
    async fn send(&mut self, frame: Bytes) -> Result<(), TransportError>;

    /// The other end's next frame; `None` once it has finished. Cancel safe: a frame is not lost where the future is dropped.
    ///
    /// # Errors
    /// Where the stream is broken.
    async fn receive(&mut self) -> Result<Option<Bytes>, TransportError>;

    /// Ends this direction in good order: the other end gets all frames, then `None`.
    ///
    /// # Errors
    /// Where the stream is broken.
    async fn finish(&mut self) -> Result<(), TransportError>;
}

/// Carries messages between nodes.
///
/// # Contract
/// * **May lose, repeat and delay** whole messages, and reorder them; the protocol repairs that. It should keep the order of
///   what goes to one peer on one [`Lane`](crate::message::Lane): loss of order costs time.
/// * **Never alters** a message, never makes one up, and never delivers one to another node or cluster than it was sent to.
/// * **Control does not wait behind entries**: messages of the control lane overtake the append lane.
/// * **[`send`](Self::send) never blocks.** Each peer has a queue that is bounded in bytes; over it, messages are dropped and
///   counted, older heartbeats and answers before entries.
/// * **Authenticated**: `from` in [`Inbox::deliver`] is who it says.
/// * **A connection serves both directions**: a node answers over it even if it was never told the other one's address.
/// * Errors of a connection are the transport's own business: it reconnects with backoff for as long as the peer is wanted.
///
/// `testing::suite::transport` (features `testing` and `runtime`) puts a transport through all of it.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Begins to listen and to deliver to `inbox`. Called once, before any other call.
    ///
    /// # Errors
    /// Where it cannot listen, or its credentials are not those of `local`.
    async fn start(&self, local: LocalNode, inbox: Arc<dyn Inbox>) -> Result<(), TransportError>;

    /// The address that peers reach this node at, once started: with the real port where any was asked for.
    fn address(&self) -> String;

    /// Wants a connection to `peer` at `address`, now and until told otherwise; repeated with another address, moves it.
    fn connect(&self, peer: NodeId, address: &str);

    /// Wants no connection to `peer` any more: closes it in both directions.
    fn disconnect(&self, peer: NodeId);

    /// Queues messages for `to`, in order. Never blocks; drops what there is no room for and what has no connection. An
    /// empty batch is nothing.
    fn send(&self, to: NodeId, batch: Vec<Envelope>);

    /// Opens a stream to send a snapshot to `to`, which gets it from [`Inbox::snapshot`], at the latest with the first
    /// frame. It shares the connection and must
    /// not hold up messages: those go first. Few frames are on the way at once; what more is sent waits.
    ///
    /// # Errors
    /// Where there is no connection, or the peer takes no more streams.
    async fn open_snapshot(&self, to: NodeId) -> Result<Box<dyn SnapshotStream>, TransportError>;

    /// Stops listening, tries for a moment to send what is queued, closes everything, and delivers nothing any more.
    /// Repeating it does nothing.
    async fn stop(&self);
}

/// So that who starts a node can go on asking its transport what it counts.
#[async_trait]
impl<T: Transport + ?Sized> Transport for Arc<T> {
    async fn start(&self, local: LocalNode, inbox: Arc<dyn Inbox>) -> Result<(), TransportError> {
        (**self).start(local, inbox).await
    }

    fn address(&self) -> String {
        (**self).address()
    }

    fn connect(&self, peer: NodeId, address: &str) {
        (**self).connect(peer, address);
    }

    fn disconnect(&self, peer: NodeId) {
        (**self).disconnect(peer);
    }

    fn send(&self, to: NodeId, batch: Vec<Envelope>) {
        (**self).send(to, batch);
    }

    async fn open_snapshot(&self, to: NodeId) -> Result<Box<dyn SnapshotStream>, TransportError> {
        (**self).open_snapshot(to).await
    }

    async fn stop(&self) {
        (**self).stop().await;
    }
}

/// An error of a [`Transport`]. The message says what happened and what to do.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct TransportError {
    message: String,
}

impl TransportError {
    /// `message` says what happened and what to do.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into() }
    }
}
