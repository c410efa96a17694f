//! The engine's state as others may see it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::change::ChangeStatus;
use crate::membership::Membership;
use crate::message::Dismissal;
use crate::types::{EntryId, Index, Lineage, NodeId, Term};

/// What a node is at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RoleName {
    /// Follows a leader, or waits for one.
    #[default]
    Follower,
    /// Asks whether it could win an election.
    PreCandidate,
    /// Campaigns.
    Candidate,
    /// Leads.
    Leader,
}

impl RoleName {
    /// The role in lower case, as it is printed.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Follower => "follower",
            Self::PreCandidate => "pre-candidate",
            Self::Candidate => "candidate",
            Self::Leader => "leader",
        }
    }
}

/// The engine's state at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// The role.
    pub role: RoleName,
    /// The term.
    pub term: Term,
    /// Who got this node's vote in the term.
    pub vote: Option<NodeId>,
    /// The leader, where one is known.
    pub leader: Option<NodeId>,
    /// The highest index known to be committed.
    pub commit: Index,
    /// The highest index applied.
    pub applied: Index,
    /// The highest index durable on this node.
    pub durable: Index,
    /// The last entry.
    pub last: EntryId,
    /// How long the last write to the log store took, from when the store could begin with it.
    pub write_latency: Option<Duration>,
    /// Bytes of entries handed to the state machine and not applied.
    pub apply_backlog_bytes: usize,
    /// This node's [`Config::priority`](crate::config::Config::priority).
    pub priority: u8,
    /// On a leader: to whom it is handing over.
    pub transferring: Option<NodeId>,
    /// On a leader: whether it has a lease, and answers reads that a lease will do for without asking anybody.
    pub lease: bool,
    /// The last entry that was compacted away: the log begins after it.
    pub base: EntryId,
    /// The last entry that the newest snapshot covers.
    pub snapshot: EntryId,
    /// The configuration in force.
    pub membership: Membership,
    /// The index of its entry; 0 where there is none.
    pub membership_index: Index,
    /// Where a change of the membership stands, while one is under way.
    pub change: Option<ChangeStatus>,
    /// This node does not count any more: its log says so, or a member told it and no leader has been heard of since.
    pub dismissed: Option<Dismissal>,
    /// The lineage that the node belongs to; unknown where it knows no committed configuration.
    pub lineage: Lineage,
    /// On a leader: how far each other member is.
    pub peers: BTreeMap<NodeId, PeerStatus>,
}

/// How far a peer is, as its leader knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerStatus {
    /// Its log is durable and equal to the leader's up to here.
    pub matched: Index,
    /// The next entry to be sent.
    pub next: Index,
    /// Appends sent and unanswered.
    pub inflight: usize,
    /// Their bytes of entries.
    pub inflight_bytes: usize,
    /// How long it took to answer a heartbeat, the last time that this was measured.
    pub round_trip: Option<Duration>,
    /// Whether it answered within an election timeout.
    pub active: bool,
    /// Its priority, as it said.
    pub priority: u8,
    /// The last index of the snapshot that it needs or is sent, where it needs one.
    pub snapshot: Option<Index>,
}
