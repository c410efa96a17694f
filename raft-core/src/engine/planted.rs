//! Bugs to plant on purpose: a test bench that has never caught one has proved nothing. Without the feature `testing` none can be
//! planted, and the questions after them compile to nothing.

use super::Engine;
#[cfg(feature = "testing")]
use super::Role;
use crate::membership::Membership;

/// A bug that a real implementation had, or could have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[cfg_attr(not(feature = "testing"), expect(unreachable_pub, reason = "public with the feature"))]
#[cfg_attr(not(feature = "testing"), expect(dead_code, reason = "planted with the feature only"))]
pub enum Planted {
    /// The vote is not written with its term, so a restart forgets it.
    VoteForgotten,
    /// A vote request leaves before the candidate's own vote is durable.
    VoteRequestBeforeWrite,
    /// A vote is told before it is durable.
    VoteBeforeWrite,
    /// Entries are acknowledged before they are durable.
    AckBeforeFsync,
    /// The last index is acknowledged, not the one verified to be the leader's.
    MatchLastIndex,
    /// What was verified against one leader counts for the next.
    VerifiedKept,
    /// A truncation does not lower what writes under way will have made durable.
    NoClamp,
    /// Entries of earlier terms are committed by counting copies (figure 8).
    CommitOldTerm,
    /// Every append truncates after its `prev`, differing or not.
    TruncateMatching,
    /// A follower takes the leader's commit index beyond what the append verified.
    CommitBeyondMatch,
    /// A vote for a candidate with a shorter log.
    VoteForShorterLog,
    /// A read is served before the leader committed in its own term.
    ReadBeforeNoop,
    /// The answer to a request of an earlier term counts for a read round of this one.
    ReadRoundOfEarlierTerm,
    /// A follower takes any read index for the answer to what it asked last.
    LateReadIndex,
    /// A restarted node votes though it may have promised before not to.
    LeaseKeptOverRestart,
    /// A leader that told another to campaign serves reads by its lease.
    LeaseKeptAfterTimeoutNow,
    /// A lease begins when its round is answered, not when it was sent.
    LeaseFromAnswer,
    /// A lease that was confirmed under one configuration lasts as long as the next one says.
    LeaseKeptOverChange,
    /// What a node promises rests on the latest configuration alone, though that may be dropped again.
    LeaseOfUncommitted,
    /// Entries are applied before they are durable here.
    ApplyBeforeDisk,
    /// A late answer of an earlier term counts for this one.
    LateResponse,
    /// Matched appends never leave the window.
    WindowLeaked,
    /// Half of an even number of voters is taken for a majority.
    EvenQuorum,
    /// A lost window of appends is never sent again.
    NeverResend,
    /// A leader whose transfer came to nothing never goes on.
    TransferFlagStuck,
    /// Leadership is handed to a node that lacks entries.
    TransferToLagging,
    /// A leader that has told another to take over still takes proposals.
    ProposeDuringTransfer,
    /// A candidate that was asked to take over gets votes whatever its log.
    TransferVoteIgnoresLog,
    /// TimeoutNow is obeyed however old it is.
    LateTimeoutNow,
    /// A snapshot is installed that lies behind the commit index.
    SnapshotBehindCommit,
    /// A snapshot replaces a log that matches it, and so drops the entries after it.
    MatchingSuffixDropped,
    /// A snapshot is installed without its configuration.
    SnapshotWithoutMembership,
    /// A snapshot is taken without the clients' sessions. Not the engine's, but the driver's of the simulator.
    SessionsLeftOut,
    /// The log is compacted beyond the snapshot.
    CompactPastSnapshot,
    /// Learners count in majorities.
    LearnerCounted,
    /// A joint configuration is left before it is committed.
    JointLeftEarly,
    /// Of a joint configuration only the half to come counts.
    JointHalfIgnored,
    /// A leader counts itself where it does not vote.
    RemovedLeaderCounts,
    /// A configuration counts once it is committed, not once it is appended.
    MembershipAtCommit,
    /// A restart forgets all configurations but the oldest.
    MembershipForgotten,
    /// A configuration is appended before the leader has committed in its term.
    ChangeBeforeNoop,
}

#[cfg(feature = "testing")]
impl Planted {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::VoteForgotten,
        Self::VoteRequestBeforeWrite,
        Self::VoteBeforeWrite,
        Self::AckBeforeFsync,
        Self::MatchLastIndex,
        Self::VerifiedKept,
        Self::NoClamp,
        Self::CommitOldTerm,
        Self::TruncateMatching,
        Self::CommitBeyondMatch,
        Self::VoteForShorterLog,
        Self::ReadBeforeNoop,
        Self::ReadRoundOfEarlierTerm,
        Self::LateReadIndex,
        Self::LeaseKeptOverRestart,
        Self::LeaseKeptAfterTimeoutNow,
        Self::LeaseFromAnswer,
        Self::LeaseKeptOverChange,
        Self::LeaseOfUncommitted,
        Self::ApplyBeforeDisk,
        Self::LateResponse,
        Self::WindowLeaked,
        Self::EvenQuorum,
        Self::NeverResend,
        Self::TransferFlagStuck,
        Self::TransferToLagging,
        Self::ProposeDuringTransfer,
        Self::TransferVoteIgnoresLog,
        Self::LateTimeoutNow,
        Self::SnapshotBehindCommit,
        Self::MatchingSuffixDropped,
        Self::SnapshotWithoutMembership,
        Self::SessionsLeftOut,
        Self::CompactPastSnapshot,
        Self::LearnerCounted,
        Self::JointLeftEarly,
        Self::JointHalfIgnored,
        Self::RemovedLeaderCounts,
        Self::MembershipAtCommit,
        Self::MembershipForgotten,
        Self::ChangeBeforeNoop,
    ];
}

impl Engine {
    /// Plants a bug.
    #[cfg(feature = "testing")]
    pub fn plant(&mut self, bug: Planted) {
        if bug == Planted::MembershipForgotten {
            self.log.forget_memberships();
        }
        self.planted = Some(bug);
    }

    #[cfg(feature = "testing")]
    pub(super) fn has(&self, bug: Planted) -> bool {
        self.planted == Some(bug)
    }

    /// What majorities are counted in where a bug about that is planted.
    #[cfg(feature = "testing")]
    pub(super) fn planted_membership(&self, in_force: &Membership) -> Option<Membership> {
        let planted = self.planted?;
        let mut wrong = in_force.clone();
        match planted {
            Planted::LearnerCounted => wrong.voters.extend(&in_force.learners),
            Planted::JointHalfIgnored => wrong.outgoing.clear(),
            Planted::RemovedLeaderCounts if matches!(self.role, Role::Leader(_)) => {
                wrong.voters.insert(self.local.node);
            }
            Planted::MembershipAtCommit => wrong = self.log.membership_at(self.commit)?.clone(),
            _ => return None,
        }
        Some(wrong)
    }

    #[cfg(not(feature = "testing"))]
    #[inline(always)]
    #[expect(clippy::unused_self, reason = "with the feature it is used")]
    pub(super) const fn planted_membership(&self, _: &Membership) -> Option<Membership> {
        None
    }

    #[cfg(not(feature = "testing"))]
    #[inline(always)]
    #[expect(clippy::unused_self, reason = "with the feature it is used")]
    pub(super) const fn has(&self, _: Planted) -> bool {
        false
    }
}
