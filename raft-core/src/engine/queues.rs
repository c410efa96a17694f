//! What waits inside an engine, for the test bench: everything is bounded, and empty when nothing is going on.

use super::{ApplyFetch, Engine, Role};
use crate::progress::PeerFetch;
use crate::types::{NodeId, Time};

/// How much waits in an engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queues {
    /// Appends sent and not matched, of the peer that has most.
    pub inflight_messages: usize,
    /// Their bytes, of the peer that has most.
    pub inflight_bytes: usize,
    /// Reads without an answer.
    pub reads: usize,
    /// Read indexes that a follower asked for and did not get, of the follower that asks most.
    pub asked: usize,
    /// Bytes of entries handed out to be applied and not applied.
    pub apply_backlog_bytes: usize,
    /// Writes handed out and not durable.
    pub writes: usize,
    /// Messages that wait to be handed out.
    pub messages: usize,
    /// Fetches asked for, or come and not used.
    pub fetches: usize,
}

impl Queues {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Engine {
    /// What waits.
    pub fn queues(&self) -> Queues {
        let mut queues = Queues {
            apply_backlog_bytes: self.apply_backlog_bytes,
            writes: self.durable.in_flight(),
            messages: self.outbox.len(),
            reads: self.asks.len(),
            fetches: usize::from(!matches!(self.apply_fetch, ApplyFetch::Idle)),
            ..Queues::default()
        };
        if let Role::Leader(leader) = &self.role {
            queues.reads += leader.reads.len();
            queues.asked = leader.reads.asked();
            for peer in leader.progress.values() {
                queues.inflight_messages = queues.inflight_messages.max(peer.inflights.len());
                queues.inflight_bytes = queues.inflight_bytes.max(peer.inflights.bytes());
                queues.fetches += usize::from(!matches!(peer.fetch, PeerFetch::Idle));
            }
        }
        queues
    }

    /// To whom this node hands its leadership over, and until when.
    pub fn transfer_until(&self) -> Option<(NodeId, Time)> {
        match &self.role {
            Role::Leader(leader) => leader.transfer.as_ref().map(|transfer| (transfer.to, transfer.deadline)),
            _ => None,
        }
    }

    /// How many reads began on this node in this run.
    pub const fn reads_begun(&self) -> u64 {
        self.next_read
    }

    /// The highest index that this node counts as durable on itself.
    pub const fn durable_index(&self) -> crate::types::Index {
        self.durable.index
    }
}
