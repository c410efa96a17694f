//! What a transport counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts of a [`QuicTransport`](crate::QuicTransport) since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuicStats {
    /// Peers connected now.
    pub connected: u64,
    /// Connections made to peers that had been connected before.
    pub reconnects: u64,
    /// Messages handed to QUIC. They may still be lost with their connection.
    pub sent: u64,
    /// The bytes of frames handed to QUIC.
    pub sent_bytes: u64,
    /// Messages received and delivered to the inbox.
    pub received: u64,
    /// The bytes of frames received.
    pub received_bytes: u64,
    /// The bytes of snapshots handed to QUIC, and of answers about them.
    pub snapshot_sent_bytes: u64,
    /// The bytes of snapshots received, and of answers about them.
    pub snapshot_received_bytes: u64,
    /// Messages not sent: no connection, no room in the queue, or too large.
    pub dropped: u64,
    /// Connections that this node refused: certificate, hello, identity, or too many at once.
    pub refused: u64,
    /// Connections that this node closed because of what a peer sent: no frames, too large, or in another's name.
    pub malformed: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) reconnects: Counter,
    pub(crate) sent: Counter,
    pub(crate) sent_bytes: Counter,
    pub(crate) received: Counter,
    pub(crate) received_bytes: Counter,
    pub(crate) snapshot_sent_bytes: Counter,
    pub(crate) snapshot_received_bytes: Counter,
    pub(crate) dropped: Counter,
    pub(crate) refused: Counter,
    pub(crate) malformed: Counter,
}

impl Counters {
    pub(crate) fn snapshot(&self, connected: usize) -> QuicStats {
        QuicStats {
            connected: connected as u64,
            reconnects: self.reconnects.get(),
            sent: self.sent.get(),
            sent_bytes: self.sent_bytes.get(),
            received: self.received.get(),
            received_bytes: self.received_bytes.get(),
            snapshot_sent_bytes: self.snapshot_sent_bytes.get(),
            snapshot_received_bytes: self.snapshot_received_bytes.get(),
            dropped: self.dropped.get(),
            refused: self.refused.get(),
            malformed: self.malformed.get(),
        }
    }
}

/// Orders nothing: only counts.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: usize) {
        self.0.fetch_add(n as u64, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
