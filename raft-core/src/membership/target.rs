//! What the membership is to become, and the steps that lead there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Membership, MembershipError, NodeInfo};
use crate::types::{Incarnation, NodeId};

/// The members that a cluster is to have: an intent, kept in the configuration until it is carried out, so that each new leader
/// goes on where the last one died. Begin with [`Membership::intent`] and change it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Target {
    /// Those who are to vote.
    pub voters: BTreeSet<NodeId>,
    /// Those who are to get the log and no vote.
    pub learners: BTreeSet<NodeId>,
    /// Addresses of all of them. Where an incarnation is unknown, the one that is bound stays; a new node is asked for it.
    pub nodes: BTreeMap<NodeId, NodeInfo>,
    /// Those whose data folder was lost or replaced: each leaves, and is taken in again as a new node with the folder that it has
    /// now.
    pub readmit: BTreeSet<NodeId>,
    /// Those who are members only for the sake of this target, and go if it is given up. Kept by the library.
    pub joining: BTreeSet<NodeId>,
}

impl Target {
    /// The node is to vote.
    pub fn voter(mut self, node: impl Into<NodeId>, info: NodeInfo) -> Self {
        let node = node.into();
        self.learners.remove(&node);
        self.voters.insert(node);
        self.nodes.insert(node, info);
        self
    }

    /// The node is to get the log and no vote.
    pub fn learner(mut self, node: impl Into<NodeId>, info: NodeInfo) -> Self {
        let node = node.into();
        self.voters.remove(&node);
        self.learners.insert(node);
        self.nodes.insert(node, info);
        self
    }

    /// A member is to vote.
    pub fn promote(mut self, node: impl Into<NodeId>) -> Self {
        let node = node.into();
        self.learners.remove(&node);
        self.voters.insert(node);
        self
    }

    /// A member is to vote no more, and to go on getting the log.
    pub fn demote(mut self, node: impl Into<NodeId>) -> Self {
        let node = node.into();
        self.voters.remove(&node);
        self.learners.insert(node);
        self
    }

    /// The node is to be no member any more.
    pub fn remove(mut self, node: impl Into<NodeId>) -> Self {
        let node = node.into();
        self.voters.remove(&node);
        self.learners.remove(&node);
        self.nodes.remove(&node);
        self.readmit.remove(&node);
        self
    }

    /// The node lost its data folder, or has another one, and is to be taken in again with what it has now.
    pub fn readmit(mut self, node: impl Into<NodeId>) -> Self {
        let node = node.into();
        if let Some(info) = self.nodes.get_mut(&node) {
            info.incarnation = Incarnation::UNKNOWN;
        }
        self.readmit.insert(node);
        self
    }

    /// Checks that the target can be lived in.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn validate(&self) -> Result<(), MembershipError> {
        let Self { voters, learners, nodes, readmit, joining } = self.clone();
        if let Some(&node) = readmit.union(&joining).find(|node| !nodes.contains_key(node)) {
            return Err(MembershipError::NoRole { node });
        }
        if voters.is_subset(&readmit) {
            return Err(MembershipError::NoVoters);
        }
        Membership { voters, learners, nodes, ..Membership::default() }.validate()
    }

    pub(super) fn bytes(&self) -> usize {
        let ids = self.voters.len() + self.learners.len() + self.readmit.len() + self.joining.len();
        24 + 8 * ids + self.nodes.values().map(NodeInfo::bytes).sum::<usize>()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sets = [("voters", &self.voters), ("learners", &self.learners), ("readmit", &self.readmit)];
        super::write_sets(f, sets)
    }
}

/// What comes next on the way to a [`Target`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is no target, or all is as it wants it.
    Rest,
    /// These nodes must hold the log before they can vote.
    CatchUp(BTreeSet<NodeId>),
    /// This configuration comes next.
    Enter(Box<Membership>),
}

impl Membership {
    /// What the cluster is on its way to; where it is not, what it is. To be changed and given to `set_members`.
    pub fn intent(&self) -> Target {
        self.target.clone().unwrap_or_else(|| Target {
            voters: self.voters.clone(),
            learners: self.learners.clone(),
            nodes: self.nodes.clone(),
            ..Target::default()
        })
    }

    /// The configuration that begins the way to `target`: it holds the intent, and in it the new nodes are learners.
    pub fn aim(&self, mut target: Target) -> Self {
        let before = self.target.as_ref().map(|before| before.joining.clone()).unwrap_or_default();
        let joins = |node: &NodeId| before.contains(node) || !self.nodes.contains_key(node);
        target.joining = target.nodes.keys().copied().filter(joins).collect();
        for (&node, wanted) in &target.nodes {
            let bound = self.nodes.get(&node).map_or(Incarnation::UNKNOWN, |info| info.incarnation);
            if bound != Incarnation::UNKNOWN && wanted.incarnation.contradicts(bound) {
                target.readmit.insert(node);
            }
        }
        let aimed = Self { target: Some(target), ..self.clone() };
        if self.outgoing.is_empty() { aimed.arranged() } else { aimed }
    }

    /// The intent is given up: who became a member only for its sake goes, what has begun to take effect is finished.
    pub fn give_up(&self) -> Self {
        let Some(target) = &self.target else { return self.clone() };
        // A joint configuration is left for the one that it leads to.
        let voters = self.voters.clone();
        let stays = |node: &NodeId| !target.joining.contains(node) && !voters.contains(node);
        let learners: BTreeSet<NodeId> = self.learners.iter().copied().filter(stays).collect();
        let named = |node: &NodeId| voters.contains(node) || learners.contains(node);
        let nodes = self.nodes.iter().filter(|(node, _)| named(node)).map(|(&n, info)| (n, info.clone()));
        self.aim(Target { nodes: nodes.collect(), voters, learners, ..Target::default() })
    }

    /// The node's data folder is known.
    pub fn bind(&self, node: NodeId, incarnation: Incarnation) -> Self {
        let mut bound = self.clone();
        if let Some(info) = bound.nodes.get_mut(&node) {
            info.incarnation = incarnation;
        }
        if bound.outgoing.is_empty() { bound.arranged() } else { bound }
    }

    /// The next step towards the target, where `caught_up` tells who holds the log. At most one configuration may be uncommitted, so
    /// it is to be taken only when this one is committed.
    pub fn next_step(&self, caught_up: impl Fn(NodeId) -> bool) -> Step {
        if !self.outgoing.is_empty() {
            return Step::Enter(Box::new(self.left()));
        }
        let Some(target) = &self.target else { return Step::Rest };
        let arranged = self.arranged();
        if arranged != *self {
            return Step::Enter(Box::new(arranged));
        }
        // Whose folder is to be bound anew cannot vote until it is.
        let voters: BTreeSet<NodeId> = target.voters.difference(&target.readmit).copied().collect();
        if voters == self.voters || voters.is_empty() {
            return Step::Rest;
        }
        let behind: BTreeSet<NodeId> =
            voters.difference(&self.voters).copied().filter(|&node| !caught_up(node)).collect();
        if !behind.is_empty() {
            return Step::CatchUp(behind);
        }
        let mut joint = self.clone();
        joint.learners = target.learners.union(&target.readmit).copied().collect();
        joint.outgoing = std::mem::replace(&mut joint.voters, voters);
        Step::Enter(Box::new(joint))
    }

    /// The joint configuration is left (paper, 6).
    fn left(&self) -> Self {
        let mut left = Self { outgoing: BTreeSet::new(), ..self.clone() };
        left.drop_strangers();
        left.arranged()
    }

    /// All that the target wants and that changes no vote: learners come and go, addresses move, folders are let go of. Without the
    /// target, where it is reached.
    fn arranged(&self) -> Self {
        let mut next = self.clone();
        let Some(mut target) = next.target.take() else { return next };
        for (&node, wanted) in &mut target.nodes {
            let info = next.nodes.entry(node).or_default();
            let bound = info.incarnation;
            *info = NodeInfo { incarnation: bound, ..wanted.clone() };
            if !next.voters.contains(&node) {
                next.learners.insert(node);
                if bound == Incarnation::UNKNOWN {
                    info.incarnation = wanted.incarnation;
                }
                if target.readmit.remove(&node) {
                    let kept = wanted.incarnation == bound;
                    info.incarnation = if kept { Incarnation::UNKNOWN } else { wanted.incarnation };
                    next.suspended.remove(&node);
                }
            }
            // From here on the configuration knows it.
            if !target.readmit.contains(&node) {
                wanted.incarnation = Incarnation::UNKNOWN;
            }
        }
        next.learners.retain(|node| target.nodes.contains_key(node));
        next.drop_strangers();
        let reached = target.voters == next.voters
            && target.learners == next.learners
            && target.readmit.is_empty()
            && next.nodes.values().all(|info| info.incarnation != Incarnation::UNKNOWN);
        if !reached {
            next.target = Some(target);
        }
        next
    }

    fn drop_strangers(&mut self) {
        let Self { voters, outgoing, learners, nodes, suspended, .. } = self;
        nodes.retain(|node, _| voters.contains(node) || outgoing.contains(node) || learners.contains(node));
        suspended.retain(|node| nodes.contains_key(node));
    }
}
