//! The nouns that everything else is made of: identities, terms, indexes, entries and the hard state.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::membership::Membership;
use crate::session::SessionEntry;

/// A leader's period of office, counted from 1; 0 is "before the first election" (paper, 5.1).
pub type Term = u64;

/// A place in the log, counted from 1 without gaps; 0 is "before the first entry" (paper, 5.3).
pub type Index = u64;

/// Monotonic time since an origin that the driver chose. The engine never asks a clock: time is handed to it.
pub type Time = Duration;

/// Names one node of a cluster. Chosen by the operator, never used again for another node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl From<u64> for NodeId {
    fn from(id: u64) -> Self {
        Self(id)
    }
}

/// Names one Raft group. Many groups share one transport and one log store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GroupId(pub u64);

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Names one cluster. It is in every certificate, hello and data folder, so that two clusters never mix.
/// Written as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterId(pub u128);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterId({self})")
    }
}

impl FromStr for ClusterId {
    type Err = ParseClusterIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(ParseClusterIdError);
        }
        u128::from_str_radix(text, 16).map(Self).map_err(|_| ParseClusterIdError)
    }
}

/// A text is not a [`ClusterId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a cluster id is 32 hexadecimal digits")]
pub struct ParseClusterIdError;

/// Marks one data folder: a random number written when the folder is first used. A node whose disk was wiped
/// comes back with another incarnation, and is thereby known not to remember its promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Incarnation(pub u64);

impl Incarnation {
    /// Not known yet: the sender has not heard from the node. Never the mark of a folder.
    pub const UNKNOWN: Self = Self(0);

    /// Whether both are known and differ.
    pub const fn contradicts(self, other: Self) -> bool {
        self.0 != Self::UNKNOWN.0 && other.0 != Self::UNKNOWN.0 && self.0 != other.0
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Marks one history of a cluster: a random number drawn when it is founded, and anew when one node's log is declared to be
/// the cluster's after a majority was lost. Nodes of two lineages never work together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Lineage(pub u64);

impl Lineage {
    /// Not known yet: the node has no committed configuration.
    pub const UNKNOWN: Self = Self(0);

    /// That of every cluster founded by a version that drew none.
    pub const UNMARKED: Self = Self(1);

    /// The lineage that a random number stands for.
    pub const fn drawn(number: u64) -> Self {
        if number > Self::UNMARKED.0 { Self(number) } else { Self(number + 2) }
    }

    /// Whether both are known and differ: what the two say to each other is then of two histories.
    pub const fn contradicts(self, other: Self) -> bool {
        self.0 != Self::UNKNOWN.0 && other.0 != Self::UNKNOWN.0 && self.0 != other.0
    }
}

impl fmt::Display for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A node and the data folder that it runs on: both ends of every envelope.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Peer {
    /// The node.
    pub node: NodeId,
    /// Its data folder.
    pub incarnation: Incarnation,
}

/// Names an entry uniquely: two logs that hold the same id hold the same entry and the same entries before it
/// (the Log Matching Property, paper, 5.3). Ordered as "more up to date" is (paper, 5.4.1): by term, then index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EntryId {
    /// The term of the leader that made the entry.
    pub term: Term,
    /// The entry's place in the log.
    pub index: Index,
}

impl EntryId {
    /// The place before the first entry.
    pub const ZERO: Self = Self { term: 0, index: 0 };

    /// The entry at `index`, made in `term`.
    pub const fn new(term: Term, index: Index) -> Self {
        Self { term, index }
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.index)
    }
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Payload {
    /// Nothing: a new leader commits one to learn what is committed (paper, 8).
    Noop,
    /// A command for the state machine, opaque to the library.
    Command(Bytes),
    /// A configuration: in force as soon as it is appended (paper, 6).
    Membership(Box<Membership>),
    /// What concerns client sessions (thesis, 6.3). [`Level`] 2.
    Session(Box<SessionEntry>),
}

/// Which kinds of payloads a node understands: all that came with this level and those before. A kind is written only when every
/// member has said that it knows its level, so that the nodes of a cluster may be of two versions for a while.
pub type Level = u8;

/// The level of this version. 1: no-ops, commands and configurations; 2: sessions, and configurations on
/// their way to another or with suspended members; 3: configurations with a lease.
pub const LEVEL: Level = 3;

impl Payload {
    /// The level that this kind came with.
    pub fn level(&self) -> Level {
        match self {
            Self::Noop | Self::Command(_) => 1,
            Self::Membership(membership) => membership.level(),
            Self::Session(_) => 2,
        }
    }
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place and the term in which it was made.
    pub id: EntryId,
    /// What it says.
    pub payload: Payload,
}

impl Entry {
    /// What an entry costs beside its command: the memory of its place in a queue, and its header on disk and wire.
    pub const OVERHEAD_BYTES: usize = 64;

    /// The entry's index.
    pub const fn index(&self) -> Index {
        self.id.index
    }

    /// The entry's term.
    pub const fn term(&self) -> Term {
        self.id.term
    }

    /// The bytes that the entry counts for in every limit: its payload and [`Self::OVERHEAD_BYTES`].
    #[inline]
    pub fn bytes(&self) -> usize {
        Self::OVERHEAD_BYTES
            + match &self.payload {
                Payload::Noop => 0,
                Payload::Command(command) => command.len(),
                Payload::Membership(membership) => membership.bytes(),
                Payload::Session(session) => session.bytes(),
            }
    }
}

/// What a node must remember over a crash beside its log (paper, figure 2). `commit` is not needed for safety: it rides
/// along so that a restarted node may apply at once what it knew to be committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HardState {
    /// The latest term seen.
    pub term: Term,
    /// Who got the vote in that term.
    pub vote: Option<NodeId>,
    /// The highest index known to be committed.
    pub commit: Index,
}

/// A snapshot's identity: what it covers and how to check its file. Its bytes: [`codec::versioned`](crate::codec::versioned).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotMeta {
    /// The last entry that the snapshot covers.
    pub last: EntryId,
    /// The configuration in force at that entry.
    pub membership: Membership,
    /// The length of the snapshot's file in bytes.
    pub size_bytes: u64,
    /// CRC-32C of the snapshot's file up to its last four bytes, which hold it.
    pub checksum: u32,
}

/// The log without its entries: where it begins, where its terms change, which configurations it holds. The engine
/// keeps it, puts it into each [`Write`](crate::log_store::Write) that changes it, and gets it back at start; so a node
/// with a million entries starts without reading them. Its bytes: [`codec::versioned`](crate::codec::versioned).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    /// The last entry that was compacted away; [`EntryId::ZERO`] if none was.
    pub base: EntryId,
    /// The first entry of each term after `base`, ascending in term and index.
    pub terms: Vec<EntryId>,
    /// The configurations by the index of their entry, ascending; the first may lie at or before `base`.
    pub memberships: BTreeMap<Index, Membership>,
}
