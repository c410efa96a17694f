//! What happened in the engine, for logs, metrics and tests.

use std::fmt;

use super::ready::SnapshotOutcome;
use crate::membership::Membership;
use crate::message::Dismissal;
use crate::types::{EntryId, Index, NodeId, Peer, Term};

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A follower heard no leader and asks whether it could win.
    PreCampaign {
        /// The term that it would campaign in.
        term: Term,
    },
    /// A candidate campaigns.
    Campaign {
        /// Its term.
        term: Term,
    },
    /// This node leads.
    Elected {
        /// In this term.
        term: Term,
    },
    /// This node follows; it led or campaigned before, or its term or leader changed.
    Following {
        /// The term.
        term: Term,
        /// The leader, where it is known.
        leader: Option<NodeId>,
    },
    /// A leader steps down because it hears of no majority.
    QuorumLost {
        /// The term that it led in.
        term: Term,
    },
    /// A leader steps down because its disk has not finished a write for two election timeouts.
    DiskStalled {
        /// The term that it led in.
        term: Term,
    },
    /// A leader begins to hand its leadership over.
    Transferring {
        /// To this node.
        to: NodeId,
        /// The term that it leads in.
        term: Term,
        /// Why.
        reason: TransferReason,
    },
    /// A leader goes on leading: the other node did not take over in time.
    TransferFailed {
        /// The other node.
        to: NodeId,
        /// The term that it leads in.
        term: Term,
    },
    /// A leader appended a configuration: it is in force.
    MembershipAppended {
        /// Its index.
        index: Index,
        /// The configuration.
        membership: Box<Membership>,
    },
    /// A configuration is known to be committed.
    MembershipCommitted {
        /// Its index.
        index: Index,
    },
    /// A node that is to vote took too long for each of these rounds; it is tried anew.
    CatchUpSlow {
        /// The node.
        peer: NodeId,
        /// How many rounds.
        rounds: u32,
    },
    /// A leader that votes no more steps down.
    LeftOffice {
        /// The term that it led in.
        term: Term,
    },
    /// A member told that this node does not count any more.
    Dismissed {
        /// The member.
        by: NodeId,
        /// What became of this node.
        dismissal: Dismissal,
    },
    /// A follower drops entries that differ from its leader's.
    Truncated {
        /// The first entry dropped.
        from: EntryId,
        /// The last index dropped.
        last: Index,
    },
    /// A snapshot was taken.
    SnapshotTaken {
        /// The last entry that it covers.
        last: EntryId,
    },
    /// A snapshot could not be taken.
    SnapshotFailed,
    /// The transfer of a snapshot ended.
    SnapshotSent {
        /// The receiver.
        peer: NodeId,
        /// How it ended.
        outcome: SnapshotOutcome,
    },
    /// A peer does not have the snapshot that it had taken over: it is sent again.
    SnapshotLost {
        /// The peer.
        peer: NodeId,
    },
    /// A snapshot takes the place of the log, and then of the state.
    SnapshotInstalled {
        /// The last entry that it covers.
        last: EntryId,
        /// The last entry of the log that it replaces.
        dropped: EntryId,
    },
    /// A peer's unanswered appends are taken for lost and sent again.
    Resend {
        /// The peer.
        peer: NodeId,
        /// From this index.
        from: Index,
    },
    /// A peer does not hold what it had promised to hold: its disk went back in time.
    PromiseBroken {
        /// The peer.
        peer: NodeId,
        /// What it had promised to hold.
        matched: Index,
        /// What it holds.
        last: Index,
    },
    /// A message was refused.
    Refused {
        /// The sender.
        from: Peer,
        /// Why.
        reason: Refusal,
    },
    /// This node founded the cluster and begins its first election.
    Founding,
    /// Founding was given up.
    FoundingEnded {
        /// Why.
        reason: FoundingEnd,
    },
}

impl Event {
    /// A short name for programs, such as `elected`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::PreCampaign { .. } => "pre_campaign",
            Self::Campaign { .. } => "campaign",
            Self::Elected { .. } => "elected",
            Self::Following { .. } => "following",
            Self::QuorumLost { .. } => "quorum_lost",
            Self::DiskStalled { .. } => "disk_stalled",
            Self::Transferring { .. } => "transferring",
            Self::TransferFailed { .. } => "transfer_failed",
            Self::MembershipAppended { .. } => "membership_appended",
            Self::MembershipCommitted { .. } => "membership_committed",
            Self::CatchUpSlow { .. } => "catch_up_slow",
            Self::LeftOffice { .. } => "left_office",
            Self::Dismissed { .. } => "dismissed",
            Self::Truncated { .. } => "truncated",
            Self::SnapshotTaken { .. } => "snapshot_taken",
            Self::SnapshotFailed => "snapshot_failed",
            Self::SnapshotSent { .. } => "snapshot_sent",
            Self::SnapshotLost { .. } => "snapshot_lost",
            Self::SnapshotInstalled { .. } => "snapshot_installed",
            Self::Resend { .. } => "resend",
            Self::PromiseBroken { .. } => "promise_broken",
            Self::Refused { .. } => "refused",
            Self::Founding => "founding",
            Self::FoundingEnded { .. } => "founding_ended",
        }
    }
}

/// Why a message was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Refusal {
    /// It is for another group.
    OtherGroup,
    /// It is for another node.
    OtherNode,
    /// It is for this node with another data folder.
    OtherIncarnation,
    /// The sender's data folder is not the one that the membership binds it to.
    ForeignIncarnation,
    /// The sender belongs to another lineage of the cluster: a majority was lost, and one node's log was declared to be the
    /// cluster's without it.
    OtherLineage,
    /// Two leaders in one term, or a leader of one's own term.
    SecondLeader,
    /// It would drop committed entries.
    TruncatesCommitted,
    /// Its entries have gaps, or terms that go back or above the leader's.
    BadEntries,
    /// It promises more than the log holds.
    BeyondLog,
    /// Its term or index is beyond any real one.
    OutOfRange,
    /// It is a snapshot that cannot be: of no entry, or with a configuration that nobody can live in.
    BadSnapshot,
    /// Too many entries wait for the disk already.
    Overloaded,
    /// It is to become a member and holds a restored state, which would be lost.
    HoldsState,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OtherGroup => "it is for another group",
            Self::OtherNode => "it is for another node",
            Self::OtherIncarnation => "it is for another data folder of this node",
            Self::ForeignIncarnation => "the sender's data folder is not the one that belongs to the cluster",
            Self::OtherLineage => "the sender belongs to another lineage of the cluster",
            Self::SecondLeader => "there is another leader in this term",
            Self::TruncatesCommitted => "it would drop committed entries",
            Self::BadEntries => "its entries are not a log",
            Self::BeyondLog => "it promises more than the log holds",
            Self::OutOfRange => "its term or index is beyond any real one",
            Self::BadSnapshot => "it is no snapshot of a state",
            Self::Overloaded => "too many entries wait for the disk already",
            Self::HoldsState => {
                "the node holds a restored state: found a cluster with it, or empty its folder"
            }
        })
    }
}

/// Why a leader hands its leadership over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TransferReason {
    /// It was asked to.
    Asked,
    /// The other node has a higher priority.
    Preferred,
    /// A write of this node has not finished for an election timeout.
    DiskStalled,
    /// This node votes no more.
    Leaving,
}

impl fmt::Display for TransferReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Asked => "asked to",
            Self::Preferred => "which is preferred",
            Self::DiskStalled => "its own disk is stalled",
            Self::Leaving => "it votes no more itself",
        })
    }
}

impl fmt::Display for FoundingEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AlreadyFounded { by } => {
                write!(f, "node {by} already belongs to a cluster")
            }
            Self::Behind { by } => {
                write!(f, "node {by} was restored from a backup and holds more: found the cluster there")
            }
            Self::Overtaken => f.write_str("another node's founding came first"),
        }
    }
}

/// Why founding a cluster was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FoundingEnd {
    /// A member already belongs to a founded cluster.
    AlreadyFounded {
        /// The member.
        by: NodeId,
    },
    /// A member holds more than this node: it was restored from a backup, and the cluster is to be founded there.
    Behind {
        /// The member.
        by: NodeId,
    },
    /// Another node's founding came first: its leader sent its log.
    Overtaken,
}
