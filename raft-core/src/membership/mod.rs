//! Who belongs to the cluster, who votes, and what a majority is.

mod target;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::target::{Step, Target};
use crate::types::{Incarnation, Level, Lineage, NodeId};

/// The most voters: beyond nine, a majority costs more than it protects.
pub const MAX_VOTERS: usize = 9;

/// The longest address, in bytes: a DNS name of 253 and a port.
pub const MAX_ADDRESS_BYTES: usize = 272;

/// What the cluster knows of a node beside its vote.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Where its transport listens: a host name or IP address and a port. Its meaning is the transport's.
    pub address: String,
    /// Where the application's clients reach it, for `NotLeader` hints; empty if they do not. Opaque to the library.
    pub client_address: String,
    /// The data folder that the node's promises live in.
    pub incarnation: Incarnation,
}

impl NodeInfo {
    /// A node at `address`, whose data folder is to be asked for.
    pub fn at(address: impl Into<String>) -> Self {
        Self { address: address.into(), ..Self::default() }
    }

    fn bytes(&self) -> usize {
        40 + self.address.len() + self.client_address.len()
    }
}

/// A configuration. Outside a change `outgoing` is empty; in a joint configuration (paper, 6) `voters` are those to come,
/// `outgoing` those to leave, and a majority of *each* is needed. A node in `outgoing` and `learners` becomes a learner
/// when the joint configuration is left. Its bytes: [`codec::versioned`](crate::codec::versioned).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Those who vote and are counted.
    pub voters: BTreeSet<NodeId>,
    /// The voters of the old configuration while a change is under way.
    pub outgoing: BTreeSet<NodeId>,
    /// Those who get the log and are never counted.
    pub learners: BTreeSet<NodeId>,
    /// Addresses and incarnations of all of the above.
    pub nodes: BTreeMap<NodeId, NodeInfo>,
    /// The history of the cluster that the configuration belongs to; drawn by the node that founds it, and kept by each change.
    pub lineage: Lineage,
    /// What the cluster is on its way to; the leader carries it out to the end.
    pub target: Option<Target>,
    /// Members that did not hold what they had promised to hold: their disks went back in time. They count in no majority until
    /// they are taken in again with a new folder.
    pub suspended: BTreeSet<NodeId>,
    /// What lease reads rest on; `None` where the cluster has none. Drawn up when the cluster is founded or by
    /// [`Engine::set_lease`](crate::Engine::set_lease), and kept by each change of the members.
    pub lease: Option<Lease>,
}

/// What all nodes of a cluster keep to so that a leader may answer reads by a lease (thesis, 6.4.1). It is part of the configuration
/// and not of a node's settings: a promise that rests on it must hold whatever a node is restarted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Lease {
    /// The election timeout of every node, in microseconds: so long a node that hears its leader lets no other be elected.
    pub election_timeout_micros: u64,
    /// How much faster or slower than true a node's clock may run, in parts of a million.
    pub clock_drift_ppm: u32,
}

impl Lease {
    /// The highest [`clock_drift_ppm`](Self::clock_drift_ppm): a lease is a third of an election timeout then.
    pub const MAX_CLOCK_DRIFT_PPM: u32 = 500_000;

    /// The shortest and longest election timeout that a lease may rest on, in microseconds: two heartbeats, and an hour.
    const ELECTION_TIMEOUT_MICROS: std::ops::RangeInclusive<u64> = 2_000..=3_600_000_000;

    /// No lease, where a format has a place for one.
    pub(crate) const NONE: Self = Self { election_timeout_micros: 0, clock_drift_ppm: 0 };

    /// The election timeout of every node.
    pub const fn election_timeout(self) -> Duration {
        Duration::from_micros(self.election_timeout_micros)
    }

    /// How long a lease lasts by its leader's clock. While a follower's fast clock shows an election timeout, a slow leader's shows so
    /// much.
    pub fn duration(self) -> Duration {
        let drift = u64::from(self.clock_drift_ppm.min(Self::MAX_CLOCK_DRIFT_PPM));
        Duration::from_micros(
            self.election_timeout_micros.saturating_mul(1_000_000 - drift) / (1_000_000 + drift),
        )
    }

    fn is_valid(self) -> bool {
        self.clock_drift_ppm <= Self::MAX_CLOCK_DRIFT_PPM
            && Self::ELECTION_TIMEOUT_MICROS.contains(&self.election_timeout_micros)
    }
}

impl Membership {
    /// A plain configuration in which all `nodes` vote.
    pub fn of_voters(nodes: BTreeMap<NodeId, NodeInfo>) -> Self {
        Self { voters: nodes.keys().copied().collect(), nodes, ..Self::default() }
    }

    pub(crate) const fn nobody() -> Self {
        Self {
            voters: BTreeSet::new(),
            outgoing: BTreeSet::new(),
            learners: BTreeSet::new(),
            nodes: BTreeMap::new(),
            lineage: Lineage::UNKNOWN,
            target: None,
            suspended: BTreeSet::new(),
            lease: None,
        }
    }

    /// The level of payloads that it is one of.
    pub fn level(&self) -> Level {
        if self.lease.is_some() {
            3
        } else if self.target.is_some() || !self.suspended.is_empty() {
            2
        } else {
            1
        }
    }

    /// Whether the node's vote counts.
    pub fn is_voter(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.outgoing.contains(&node)
    }

    /// All nodes that get the log.
    pub fn members(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.nodes.keys().copied()
    }

    /// Whether nobody votes: a node that has not been told of a configuration yet.
    pub fn is_empty(&self) -> bool {
        self.voters.is_empty()
    }

    /// The highest number that a majority of voters reach, where `number` gives each voter's; in a joint configuration a
    /// majority of each half. With match indexes it is what is committed, with 1 for a granted vote whether the election is
    /// won, with times of contact how long ago a majority was heard. 0 where nobody votes.
    pub fn quorum(&self, number: impl Fn(NodeId) -> u64) -> u64 {
        let half = |voters: &BTreeSet<NodeId>| {
            let mut numbers = [0; 16];
            let mut count = 0;
            for &voter in voters.iter().take(numbers.len()) {
                let counts = self.suspended.is_empty() || !self.suspended.contains(&voter);
                numbers[count] = if counts { number(voter) } else { 0 };
                count += 1;
            }
            let numbers = &mut numbers[..count];
            numbers.sort_unstable_by(|a, b| b.cmp(a));
            numbers.get(count / 2).copied().unwrap_or(0)
        };
        let incoming = half(&self.voters);
        if self.outgoing.is_empty() { incoming } else { incoming.min(half(&self.outgoing)) }
    }

    /// About how many bytes the configuration takes in the log.
    pub fn bytes(&self) -> usize {
        let ids = self.voters.len() + self.outgoing.len() + self.learners.len() + self.suspended.len();
        let infos: usize = self.nodes.values().map(NodeInfo::bytes).sum();
        24 + 8 * ids + infos + self.target.as_ref().map_or(0, Target::bytes)
    }

    /// Checks that the configuration can be lived in.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn validate(&self) -> Result<(), MembershipError> {
        if self.voters.is_empty() {
            return Err(MembershipError::NoVoters);
        }
        if self.voters.len() > MAX_VOTERS || self.outgoing.len() > MAX_VOTERS {
            return Err(MembershipError::TooManyVoters { count: self.voters.len().max(self.outgoing.len()) });
        }
        if self.lease.is_some_and(|lease| !lease.is_valid()) {
            return Err(MembershipError::Lease);
        }
        if let Some(&node) = self.voters.intersection(&self.learners).next() {
            return Err(MembershipError::VoterAndLearner { node });
        }
        let named: BTreeSet<NodeId> =
            self.voters.iter().chain(&self.outgoing).chain(&self.learners).copied().collect();
        for &node in &named {
            let Some(info) = self.nodes.get(&node) else { return Err(MembershipError::NoAddress { node }) };
            for address in [&info.address, &info.client_address] {
                if address.len() > MAX_ADDRESS_BYTES {
                    return Err(MembershipError::AddressTooLong { node, bytes: address.len() });
                }
            }
            if info.address.is_empty() {
                return Err(MembershipError::NoAddress { node });
            }
        }
        if let Some(&node) = self.nodes.keys().find(|node| !named.contains(node)) {
            return Err(MembershipError::NoRole { node });
        }
        if let Some(&node) = self.suspended.iter().find(|node| !named.contains(node)) {
            return Err(MembershipError::NoRole { node });
        }
        self.target.as_ref().map_or(Ok(()), Target::validate)
    }
}

impl fmt::Display for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { voters, outgoing, learners, suspended, target, lease, .. } = self;
        let sets =
            [("voters", voters), ("outgoing", outgoing), ("learners", learners), ("suspended", suspended)];
        write_sets(f, sets)?;
        if let Some(lease) = lease {
            write!(f, " lease({} ms drift {})", lease.election_timeout().as_millis(), lease.clock_drift_ppm)?;
        }
        match target {
            Some(target) => write!(f, " -> {target}"),
            None => Ok(()),
        }
    }
}

/// Writes the first set, and those that hold something.
fn write_sets<'a>(
    f: &mut fmt::Formatter<'_>,
    sets: impl IntoIterator<Item = (&'a str, &'a BTreeSet<NodeId>)>,
) -> fmt::Result {
    for (place, (name, set)) in sets.into_iter().enumerate() {
        if place > 0 && set.is_empty() {
            continue;
        }
        write!(f, "{}{name}(", if place == 0 { "" } else { " " })?;
        for (place, node) in set.iter().enumerate() {
            write!(f, "{}{node}", if place == 0 { "" } else { " " })?;
        }
        write!(f, ")")?;
    }
    Ok(())
}

/// A configuration that cannot be lived in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MembershipError {
    /// Nobody votes.
    #[error("a configuration needs at least one voter")]
    NoVoters,
    /// More than [`MAX_VOTERS`].
    #[error("{count} voters are too many: at most {MAX_VOTERS}")]
    TooManyVoters {
        /// How many there are.
        count: usize,
    },
    /// A node has no address.
    #[error("node {node} has no address")]
    NoAddress {
        /// The node.
        node: NodeId,
    },
    /// An address is longer than [`MAX_ADDRESS_BYTES`].
    #[error("an address of node {node} has {bytes} bytes: at most {MAX_ADDRESS_BYTES}")]
    AddressTooLong {
        /// The node.
        node: NodeId,
        /// The address's length.
        bytes: usize,
    },
    /// A lease that no cluster can keep to.
    #[error("the lease's clock drift or election timeout is out of range")]
    Lease,
    /// A node is to vote and not to vote at once.
    #[error("node {node} is both voter and learner")]
    VoterAndLearner {
        /// The node.
        node: NodeId,
    },
    /// A node has an address and is neither voter nor learner.
    #[error("node {node} has an address but no role")]
    NoRole {
        /// The node.
        node: NodeId,
    },
}
