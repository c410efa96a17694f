//! What nodes say to each other. All messages are one-way; an answer is a message of its own.

use crate::types::{Entry, EntryId, GroupId, Index, Level, Lineage, Peer, Term};

/// A message on its way between two nodes of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The group that it belongs to.
    pub group: GroupId,
    /// The sender, and the data folder that it runs on.
    pub from: Peer,
    /// The intended receiver. Its incarnation may be unknown only in an [`Message::IdentityRequest`].
    pub to: Peer,
    /// The lineage that the sender belongs to; unknown where it has no committed configuration.
    pub lineage: Lineage,
    /// What is said.
    pub message: Message,
}

impl Envelope {
    /// The lane that the message should travel on.
    pub fn lane(&self) -> Lane {
        match &self.message {
            Message::AppendRequest(append) if !append.entries.is_empty() => Lane::Append,
            _ => Lane::Control,
        }
    }

    /// About how many bytes the message takes in a queue and on the wire.
    pub fn bytes(&self) -> usize {
        const HEADER_BYTES: usize = 96;
        HEADER_BYTES
            + match &self.message {
                Message::AppendRequest(append) => append.entries.iter().map(Entry::bytes).sum(),
                _ => 0,
            }
    }
}

/// Control messages must not wait behind entries: a transport keeps the two apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Votes, heartbeats and all answers: small, and late is lost.
    Control,
    /// Entries, in order.
    Append,
}

/// What one node says to another.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Message {
    /// RequestVote: a candidate asks for a vote (paper, 5.2 and 5.4.1).
    VoteRequest(VoteRequest),
    /// The answer to a [`VoteRequest`].
    VoteResponse(VoteResponse),
    /// AppendEntries: a leader's entries; without entries it is the heartbeat (paper, 5.2 and 5.3).
    AppendRequest(AppendRequest),
    /// The answer to an [`AppendRequest`].
    AppendResponse(AppendResponse),
    /// A node that founds a cluster asks who is there.
    IdentityRequest,
    /// The leader asks the receiver to campaign at once, without waiting for its timeout (thesis, 3.10).
    TimeoutNow(TimeoutNow),
    /// A node that is no member, or does not count, is told so by one that knows.
    Dismissed {
        /// The index of the committed configuration that says so: older than what the receiver knows, it says nothing.
        membership: Index,
        /// What became of the receiver.
        dismissal: Dismissal,
    },
    /// A follower asks its leader at which index it may read (thesis, 6.4).
    ReadRequest(ReadRequest),
    /// The answer to a [`ReadRequest`].
    ReadResponse(ReadResponse),
    /// The answer to an [`Message::IdentityRequest`]; the envelope's sender is the identity.
    IdentityResponse {
        /// The node already belongs to a founded cluster: it knows a configuration.
        founded: bool,
        /// Its last entry: beyond [`EntryId::ZERO`] without being founded, the state was restored from a backup.
        last: EntryId,
    },
}

impl Message {
    /// The term that the message was sent in; `None` where it carries none.
    pub fn term(&self) -> Option<Term> {
        match self {
            Self::VoteRequest(m) => Some(m.term),
            Self::VoteResponse(m) => Some(m.term),
            Self::AppendRequest(m) => Some(m.term),
            Self::AppendResponse(m) => Some(m.term),
            Self::TimeoutNow(m) => Some(m.term),
            Self::ReadRequest(m) => Some(m.term),
            Self::ReadResponse(m) => Some(m.term),
            Self::IdentityRequest | Self::IdentityResponse { .. } | Self::Dismissed { .. } => None,
        }
    }
}

/// Why a node does not count any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dismissal {
    /// It was removed from the cluster.
    Removed,
    /// Its disk went back in time: it did not hold what it had promised to hold.
    Suspended,
}

impl Dismissal {
    /// In a word, as it is printed.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Removed => "removed",
            Self::Suspended => "suspended",
        }
    }
}

/// RequestVote (paper, figure 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoteRequest {
    /// The term that the candidate campaigns in; with `pre_vote`, the term that it would campaign in.
    pub term: Term,
    /// The candidate's last entry: the voter refuses if its own log is more up to date.
    pub last: EntryId,
    /// Only asks whether a vote would be granted; nobody's term changes (thesis, 9.6).
    pub pre_vote: bool,
    /// The leader itself asked for this election, so that the voter need not protect it (thesis, 4.2.3).
    pub transfer: bool,
}

/// The answer to a [`VoteRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoteResponse {
    /// Granted: the term of the request. Refused: the voter's own term.
    pub term: Term,
    /// Whether the vote is (or would be) the candidate's.
    pub granted: bool,
    /// Answers a pre-vote.
    pub pre_vote: bool,
}

/// AppendEntries (paper, figure 2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendRequest {
    /// The leader's term.
    pub term: Term,
    /// The entry just before `entries`: the follower refuses if its log differs there.
    pub prev: EntryId,
    /// The entries, ascending from `prev.index + 1` without gaps; none in a heartbeat.
    pub entries: Vec<Entry>,
    /// The leader's commit index, as far as this message lets the follower know its log to match.
    pub commit: Index,
    /// A number that grows within the leader's term. Its echo proves that the follower still followed when
    /// this message arrived: read rounds and leases rest on it (thesis, 6.4).
    pub round: u64,
}

/// The answer to an [`AppendRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendResponse {
    /// The follower's term. The leader takes an answer only if it is its own term.
    pub term: Term,
    /// The highest [`AppendRequest::round`] seen from this leader in this term; 0 in [`AppendOutcome::Stale`].
    pub round: u64,
    /// What became of it.
    pub outcome: AppendOutcome,
    /// The follower's [`Config::priority`](crate::config::Config::priority).
    pub priority: u8,
    /// Which payloads the follower understands.
    pub level: Level,
}

/// What became of an [`AppendRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendOutcome {
    /// The logs agree at the request's `prev`.
    Accepted {
        /// A promise: the follower's log is durable and equal to the leader's up to here.
        matched: Index,
        /// No promise: entries equal to the leader's arrived up to here and may still be on their way to disk.
        received: Index,
    },
    /// The logs differ at the request's `prev`, or the follower's is shorter.
    Conflict {
        /// The index of the `prev` that was refused.
        prev: Index,
        /// The follower's last entry that can still be the leader's: the last one at or before `prev` whose term is not
        /// above `prev`'s. Skips a whole diverging term a round (paper, end of 5.3).
        hint: EntryId,
        /// The follower's last index.
        last: Index,
    },
    /// The request's term is over: the response's term is higher.
    Stale,
}

/// TimeoutNow (thesis, 3.10). Sent again with each heartbeat until it is of no use, so it need not be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeoutNow {
    /// The leader's term: the receiver campaigns only while it follows that leader in it.
    pub term: Term,
    /// The leader's [`AppendRequest::round`]: one that arrives after an append of a later round is late, and is ignored.
    pub round: u64,
}

/// Names what a follower asks among all that it ever asked: an answer to anything else, of an earlier run of its process too, is
/// not taken for the answer to this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReadTicket {
    /// Drawn at random at each start of the follower.
    pub boot: u64,
    /// Counted within the run.
    pub number: u64,
}

/// A follower asks for a read index, for all reads that wait on it. Asked again while there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadRequest {
    /// The term of the leader that is asked; no other answers.
    pub term: Term,
    /// Repeated in the answer.
    pub ticket: ReadTicket,
    /// The leader may answer by its lease, without a round.
    pub lease: bool,
}

/// A state that has applied `index` holds all that was acknowledged before the request was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadResponse {
    /// The leader's term.
    pub term: Term,
    /// That of the request.
    pub ticket: ReadTicket,
    /// The read index.
    pub index: Index,
}
