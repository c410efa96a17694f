//! Messages to measure with.

use bytes::Bytes;
use raft_core::NodeId;
use raft_core::message::{AppendOutcome, AppendRequest, AppendResponse, Envelope, Message};
use raft_core::types::{Entry, EntryId, GroupId, Incarnation, Lineage, Payload, Peer};

/// A message of node 1 to node 2.
pub fn envelope(message: Message) -> Envelope {
    let peer = |node| Peer { node: NodeId(node), incarnation: Incarnation(100 + node) };
    Envelope { group: GroupId(0), from: peer(1), to: peer(2), lineage: Lineage(9), message }
}

/// Entries of term 1 from `first` on.
pub fn entries(first: u64, count: u64, payload_bytes: usize) -> Vec<Entry> {
    let command = Bytes::from(vec![7; payload_bytes]);
    (first..first + count)
        .map(|index| Entry { id: EntryId::new(1, index), payload: Payload::Command(command.clone()) })
        .collect()
}

/// An append of these entries.
pub fn append(first: u64, count: u64, payload_bytes: usize) -> Envelope {
    let prev = EntryId::new(u64::from(first > 1), first - 1);
    let entries = entries(first, count, payload_bytes);
    envelope(Message::AppendRequest(AppendRequest { term: 1, prev, entries, commit: first - 1, round: 1 }))
}

/// What a follower answers to an append.
pub fn answer(round: u64) -> Envelope {
    let outcome = AppendOutcome::Accepted { matched: round, received: round };
    envelope(Message::AppendResponse(AppendResponse { term: 1, round, outcome, priority: 0, level: 2 }))
}
