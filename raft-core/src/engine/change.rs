//! Changing who belongs to the cluster (paper, 6; thesis, 4). The intent is in the log, in the configuration itself: each leader
//! carries it on from where the last one died, step by step, and nobody outside needs to.

use std::collections::{BTreeMap, BTreeSet};

use super::event::{Event, Refusal, TransferReason};
use super::planted::Planted;
use super::{Engine, Role};
use crate::membership::{Membership, MembershipError, Step, Target};
use crate::message::{Dismissal, Message};
use crate::progress::Progress;
use crate::types::{EntryId, Incarnation, Index, Level, NodeId, Payload, Peer, Time};

/// After so many rounds without keeping up, a new node is reported to be too slow (thesis, 4.2.1); then it is tried anew.
const MAX_ROUNDS: u32 = 10;

/// The level that targets and suspended members came with.
const CHANGES_LEVEL: Level = 2;

/// A leader's part in a change.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// Nodes that are to vote and must hold the log before.
    catch_ups: BTreeMap<NodeId, CatchUp>,
    /// Data folders that new nodes told of, to be bound by the next configuration.
    introduced: BTreeMap<NodeId, Incarnation>,
    /// Peers that did not hold what they had promised. They count no more.
    pub(super) broken: BTreeSet<NodeId>,
    /// This node votes no more: by then another leads, or it steps down.
    pub(super) leaving: Option<Time>,
}

/// A node that is to hold the log before it votes, in rounds (thesis, 4.2.1): each takes all that the log held when it began.
#[derive(Debug)]
struct CatchUp {
    goal: Index,
    since: Time,
    rounds: u32,
    /// The last round was shorter than an election timeout, and so is the one under way.
    done: bool,
}

impl CatchUp {
    /// Whether it has just been found too slow.
    fn observe(&mut self, matched: Index, last: Index, now: Time, timeout: Time) -> bool {
        let took = now.saturating_sub(self.since);
        if matched < self.goal {
            self.done &= took < timeout;
            return false;
        }
        self.done = took < timeout;
        self.goal = last;
        self.since = now;
        self.rounds = if self.done { 0 } else { self.rounds + 1 };
        let slow = self.rounds >= MAX_ROUNDS;
        if slow {
            self.rounds = 0;
        }
        slow
    }
}

/// Where a change of the membership stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChangeStatus {
    /// What it waits for, as far as this node can tell: only the leader sees what its peers do.
    pub waits: Vec<Wait>,
    /// Whether a joint configuration is in force.
    pub joint: bool,
}

/// What a change of the membership waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wait {
    /// The leader's first entry of its term is not committed.
    FirstCommit,
    /// The configuration of this index is not committed.
    Commit {
        /// The index.
        index: Index,
    },
    /// The node was asked which data folder it has, and has not answered.
    Identity {
        /// The node.
        node: NodeId,
    },
    /// The node does not answer.
    Silent {
        /// The node.
        node: NodeId,
    },
    /// The node must hold the log before it may vote.
    CatchUp {
        /// The node.
        node: NodeId,
        /// How far it is.
        matched: Index,
        /// How far it must come in the round under way.
        goal: Index,
        /// Rounds that took too long.
        slow_rounds: u32,
    },
    /// The node runs an older version, which cannot read what is in the log: it gets no entries and no vote until it is upgraded.
    OlderVersion {
        /// The node.
        node: NodeId,
        /// The level of payloads that it knows.
        level: Level,
        /// The level that is in the log.
        needed: Level,
    },
    /// Leadership is being handed over.
    Transfer,
}

impl Engine {
    /// States which members the cluster is to have, whatever it has now; one that is under way is replaced. The index of the
    /// configuration that holds the intent: once that is committed, the change is carried out to the end, whoever leads.
    ///
    /// With `based_on`, only where the configuration in force is still that of this index: what was computed from an older one is
    /// refused.
    ///
    /// # Errors
    /// Nothing was begun.
    pub fn set_members(
        &mut self,
        target: Target,
        based_on: Option<Index>,
        now: Time,
    ) -> Result<Index, ChangeError> {
        target.validate().map_err(ChangeError::Invalid)?;
        for &node in target.voters.difference(&self.membership().voters) {
            if let Some(level) = self.older_level(node) {
                return Err(ChangeError::OlderVersion { node, level, needed: self.log_level() });
            }
        }
        self.begin_change(based_on, now, |membership| membership.aim(target))
    }

    /// Gives up the change under way: who became a member only for its sake goes; a joint configuration is left for what it leads to.
    ///
    /// # Errors
    /// Nothing was begun.
    pub fn give_up_change(&mut self, now: Time) -> Result<Index, ChangeError> {
        self.begin_change(None, now, Membership::give_up)
    }

    pub(super) fn begin_change(
        &mut self,
        based_on: Option<Index>,
        now: Time,
        next: impl FnOnce(&Membership) -> Membership,
    ) -> Result<Index, ChangeError> {
        self.set_now(now);
        if self.fatal.is_some() {
            return Err(ChangeError::Fatal);
        }
        if !matches!(self.role, Role::Leader(_)) {
            return Err(ChangeError::NotLeader { leader: self.leader() });
        }
        let Some((index, membership)) = self.log.membership() else { return Err(ChangeError::NotYet) };
        if based_on.is_some_and(|based_on| based_on != index) {
            return Err(ChangeError::Outdated { index });
        }
        match self.change_waits() {
            None => {}
            Some(Wait::Transfer) => return Err(ChangeError::Transferring),
            Some(_) => return Err(ChangeError::NotYet),
        }
        let next = next(membership);
        next.validate().map_err(ChangeError::Invalid)?;
        if next == *membership {
            return Ok(index);
        }
        let plain = next.target.is_none() && next.suspended.is_empty();
        if !plain && !self.answering_know(CHANGES_LEVEL) {
            return Err(ChangeError::NotKnown);
        }
        self.append_membership(next);
        self.check();
        Ok(self.log.last_index())
    }

    /// Why no configuration may be appended now: not before the leader has committed in its own term, and at most one may be
    /// uncommitted (paper, 6; the bug of one-at-a-time changes in the thesis's errata was to forget the former).
    fn change_waits(&self) -> Option<Wait> {
        let Role::Leader(leader) = &self.role else { return None };
        let (index, joint) =
            self.log.membership().map_or((0, false), |(index, m)| (index, !m.outgoing.is_empty()));
        if self.commit < leader.first_index && !self.has(Planted::ChangeBeforeNoop) {
            Some(Wait::FirstCommit)
        } else if index > self.commit && !(joint && self.has(Planted::JointLeftEarly)) {
            Some(Wait::Commit { index })
        } else if leader.transfer.as_ref().is_some_and(super::transfer::Transfer::is_closed) {
            Some(Wait::Transfer)
        } else {
            None
        }
    }

    /// Appends a configuration, which is in force from now on.
    pub(super) fn append_membership(&mut self, membership: Membership) {
        let index = self.log.last_index() + 1;
        let lease = self.membership().lease;
        self.events.push(Event::MembershipAppended { index, membership: Box::new(membership.clone()) });
        self.append_own([Payload::Membership(Box::new(membership))]);
        self.change_lease(lease);
        self.follow_membership();
    }

    /// Peers come and go with the configuration.
    pub(super) fn follow_membership(&mut self) {
        let last = self.log.last_index();
        let peers: BTreeMap<NodeId, Incarnation> =
            self.reachable_peers().map(|peer| (peer.node, peer.incarnation)).collect();
        let (now, term, voters) = (self.now, self.term, self.membership().voters.clone());
        let unknown: BTreeSet<NodeId> = self
            .peers()
            .filter(|peer| peer.incarnation == Incarnation::UNKNOWN)
            .map(|peer| peer.node)
            .collect();
        let Role::Leader(leader) = &mut self.role else { return };
        if let Some(gone) = leader.transfer.take_if(|transfer| !voters.contains(&transfer.to)) {
            self.events.push(Event::TransferFailed { to: gone.to, term });
        }
        leader.progress.retain(|node, peer| peers.get(node) == Some(&peer.incarnation));
        leader.change.broken.retain(|node| peers.contains_key(node));
        // Once bound, what it said is used up: asked again, it may have another folder.
        leader.change.introduced.retain(|node, _| unknown.contains(node));
        for (node, incarnation) in peers {
            if !leader.change.broken.contains(&node) {
                leader.progress.entry(node).or_insert_with(|| Progress::new(incarnation, last, now));
            }
        }
    }

    /// The other members that can be sent to: those whose folder is known and whose promises hold.
    pub(super) fn reachable_peers(&self) -> impl Iterator<Item = Peer> + '_ {
        let membership = self.membership();
        self.peers().filter(|peer| {
            peer.incarnation != Incarnation::UNKNOWN && !membership.suspended.contains(&peer.node)
        })
    }

    /// A peer does not hold what it promised to hold: it counts no more, and the next configuration says so to every later leader.
    pub(super) fn distrust(&mut self, node: NodeId) {
        let Role::Leader(leader) = &mut self.role else { return };
        leader.progress.remove(&node);
        leader.change.broken.insert(node);
    }

    /// The leader's next step of a change, if one is due.
    pub(super) fn advance_change(&mut self) {
        let Some((index, membership)) = self.log.membership() else { return };
        let leaves = index <= self.commit && !membership.is_voter(self.local.node);
        if let (false, Role::Leader(leader)) = (leaves, &mut self.role) {
            leader.change.leaving = None;
        }
        if leaves {
            return self.leave_office();
        }
        if self.change_waits().is_some() {
            return;
        }
        let Role::Leader(leader) = &self.role else { return };
        let broken: BTreeSet<NodeId> =
            leader.change.broken.difference(&membership.suspended).copied().collect();
        let introduced = membership.nodes.iter().find_map(|(node, info)| {
            let known = leader.change.introduced.get(node);
            known.filter(|_| info.incarnation == Incarnation::UNKNOWN).map(|&known| (*node, known))
        });
        let next = if !broken.is_empty() && self.answering_know(CHANGES_LEVEL) {
            let mut next = membership.clone();
            next.suspended.extend(broken);
            next
        } else if let Some((node, incarnation)) = introduced {
            membership.bind(node, incarnation)
        } else if membership.target.is_some() || !membership.outgoing.is_empty() {
            self.observe_catch_ups();
            let Role::Leader(leader) = &self.role else { return };
            let done = |node| {
                let held = leader.change.catch_ups.get(&node).is_some_and(|catch_up| catch_up.done);
                held && self.older_level(node).is_none()
            };
            match self.membership().next_step(done) {
                Step::Enter(next) => *next,
                Step::Rest | Step::CatchUp(_) => return,
            }
        } else {
            return;
        };
        // A majority of both halves must be there: what cannot be committed could not be taken back either.
        if self.silent_voters(&next).is_none() {
            self.append_membership(next);
        }
    }

    /// The voters of `next` that do not answer, where so many are silent that it could not be committed now.
    fn silent_voters(&self, next: &Membership) -> Option<Vec<NodeId>> {
        let Role::Leader(leader) = &self.role else { return None };
        // Who has promised nothing in this term is not known to be alive at all.
        let answers = |node: NodeId| {
            let promised = |peer: &Progress| self.is_active(peer) && peer.matched > 0;
            node == self.local.node || leader.progress.get(&node).is_some_and(promised)
        };
        if next.quorum(|node| u64::from(answers(node))) == 1 {
            return None;
        }
        Some(next.voters.union(&next.outgoing).copied().filter(|&node| !answers(node)).collect())
    }

    fn observe_catch_ups(&mut self) {
        let (last, now, timeout) = (self.log.last_index(), self.now, self.config.election_timeout);
        let joining: BTreeSet<NodeId> = match self.log.membership() {
            Some((_, Membership { target: Some(target), voters, .. })) => {
                target.voters.difference(voters).copied().collect()
            }
            _ => BTreeSet::new(),
        };
        let Role::Leader(leader) = &mut self.role else { return };
        leader.change.catch_ups.retain(|node, _| joining.contains(node));
        for node in joining {
            let Some(peer) = leader.progress.get(&node) else {
                leader.change.catch_ups.remove(&node);
                continue;
            };
            let begin = || CatchUp { goal: last, since: now, rounds: 0, done: false };
            let catch_up = leader.change.catch_ups.entry(node).or_insert_with(begin);
            if catch_up.observe(peer.matched, last, now, timeout) {
                self.events.push(Event::CatchUpSlow { peer: node, rounds: MAX_ROUNDS });
            }
        }
    }

    /// A leader that votes no more has committed that: it hands over, and steps down (thesis, 4.2.2).
    fn leave_office(&mut self) {
        let (now, timeout) = (self.now, self.config.election_timeout);
        let Role::Leader(leader) = &mut self.role else { return };
        if self.commit < leader.first_index {
            return;
        }
        match leader.change.leaving {
            None => {
                leader.change.leaving = Some(now.saturating_add(timeout));
                if leader.transfer.is_none()
                    && let Some(to) = self.best_successor()
                {
                    self.begin_transfer(to, TransferReason::Leaving);
                }
            }
            Some(until) if now >= until => {
                self.events.push(Event::LeftOffice { term: self.term });
                self.become_follower(self.term, None);
            }
            Some(_) => {}
        }
    }

    /// Members whose data folder is not known are asked for it, at each heartbeat.
    pub(super) fn ask_identities(&mut self) {
        let unknown: Vec<Peer> =
            self.peers().filter(|peer| peer.incarnation == Incarnation::UNKNOWN).collect();
        for peer in unknown {
            self.send(peer, Message::IdentityRequest);
        }
    }

    /// A member that the leader asked says which data folder it has.
    pub(super) fn on_introduction(&mut self, from: Peer, founded: bool, last: EntryId) {
        let asked = self
            .membership()
            .nodes
            .get(&from.node)
            .is_some_and(|info| info.incarnation == Incarnation::UNKNOWN);
        let Role::Leader(leader) = &mut self.role else { return };
        if !asked || from.incarnation == Incarnation::UNKNOWN {
            return;
        }
        if !founded && last != EntryId::ZERO {
            // A restored backup: taking the node in would drop it.
            self.refuse(from, Refusal::HoldsState);
            return;
        }
        leader.change.introduced.insert(from.node, from.incarnation);
    }

    /// Tells a node that asks and is no member any more that it was removed, or why it does not count.
    pub(super) fn dismiss(&mut self, to: Peer) {
        let Some((index, membership)) = self.log.membership_entry_at(self.commit) else { return };
        let dismissal = if !membership.nodes.contains_key(&to.node) {
            Dismissal::Removed
        } else if membership.suspended.contains(&to.node) {
            Dismissal::Suspended
        } else {
            return;
        };
        // A newer configuration that is not known to be committed may have it again.
        if self.membership().nodes.contains_key(&to.node) && dismissal == Dismissal::Removed {
            return;
        }
        self.send(to, Message::Dismissed { membership: index, dismissal });
    }

    /// Why this node does not count any more, as far as it knows.
    pub(super) fn dismissal(&self) -> Option<Dismissal> {
        let committed = self.log.membership().filter(|(index, _)| *index <= self.commit);
        let removed = committed.is_some_and(|(_, membership)| {
            !membership.is_empty() && !membership.nodes.contains_key(&self.local.node)
        });
        self.dismissed.or(removed.then_some(Dismissal::Removed))
    }

    /// A member says that a committed configuration, not older than the one known here, is without this node. It may be the very one
    /// that is known: whoever crashed before its commit was on disk does not know that it is committed.
    pub(super) fn on_dismissed(&mut self, from: Peer, membership: Index, dismissal: Dismissal) {
        let Some((known, own)) = self.log.membership() else { return };
        let news = membership >= known && own.nodes.contains_key(&from.node);
        if !news || matches!(self.role, Role::Leader(_)) || self.dismissed == Some(dismissal) {
            return;
        }
        self.dismissed = Some(dismissal);
        self.events.push(Event::Dismissed { by: from.node, dismissal });
        self.become_follower(self.term, None);
        if let Role::Follower(follower) = &mut self.role {
            follower.deadline = Time::MAX;
        }
    }

    /// Whether this node may campaign: it votes in the configuration in force, or in one that may still be. Without the latter, a
    /// node that alone holds the uncommitted entry of its removal would block all others (thesis, 4.2.2).
    pub(super) fn may_campaign(&self) -> bool {
        let in_force = self.membership();
        let node = self.local.node;
        (in_force.is_voter(node) && !in_force.suspended.contains(&node))
            || self.log.memberships_from(self.commit).any(|(_, membership)| membership.is_voter(node))
    }

    /// A member without a vote that hears no leader asks the others: it may have been removed.
    pub(super) fn ask_whether_removed(&mut self) {
        let peers: Vec<Peer> = self.reachable_peers().collect();
        for peer in peers {
            self.send(peer, Message::IdentityRequest);
        }
        let deadline = self.election_deadline();
        if let Role::Follower(follower) = &mut self.role {
            follower.deadline = deadline;
        }
    }

    /// Where the change of the membership stands, if one is under way.
    pub fn change_status(&self) -> Option<ChangeStatus> {
        let (_, membership) = self.log.membership()?;
        let unknown = |(node, info): (&NodeId, &crate::membership::NodeInfo)| {
            (info.incarnation == Incarnation::UNKNOWN).then_some(*node)
        };
        let asked: Vec<NodeId> = membership.nodes.iter().filter_map(unknown).collect();
        let joint = !membership.outgoing.is_empty();
        if membership.target.is_none() && !joint && asked.is_empty() {
            return None;
        }
        let mut waits = Vec::new();
        if let Role::Leader(leader) = &self.role {
            waits.extend(self.change_waits());
            waits.extend(asked.iter().map(|&node| Wait::Identity { node }));
            let done = |node| {
                let held = leader.change.catch_ups.get(&node).is_some_and(|catch_up| catch_up.done);
                held && self.older_level(node).is_none()
            };
            let silent = |node| leader.progress.get(&node).is_none_or(|peer| !self.is_active(peer));
            match membership.next_step(done) {
                Step::CatchUp(nodes) => {
                    for node in nodes.into_iter().filter(|node| !asked.contains(node)) {
                        if let Some(level) = self.older_level(node) {
                            waits.push(Wait::OlderVersion { node, level, needed: self.log_level() });
                            continue;
                        }
                        let catch_up = leader.change.catch_ups.get(&node);
                        waits.push(match (leader.progress.get(&node), catch_up) {
                            (Some(peer), Some(catch_up)) if !silent(node) => Wait::CatchUp {
                                node,
                                matched: peer.matched,
                                goal: catch_up.goal,
                                slow_rounds: catch_up.rounds,
                            },
                            _ => Wait::Silent { node },
                        });
                    }
                }
                Step::Enter(next) => {
                    let silent = self.silent_voters(&next).unwrap_or_default();
                    waits.extend(silent.into_iter().map(|node| Wait::Silent { node }));
                }
                Step::Rest => {}
            }
        }
        Some(ChangeStatus { waits, joint })
    }

    /// Whom this node may have to talk to: the members of each configuration that may be in force, with the newest addresses, and
    /// those that it founds a cluster with.
    pub fn contacts(&self) -> BTreeMap<NodeId, String> {
        let mut contacts: BTreeMap<NodeId, String> =
            self.founding.iter().flat_map(super::founding::Founding::addresses).collect();
        let older = self.log.memberships_from(self.commit).map(|(_, membership)| membership);
        for membership in older.chain([self.membership()]) {
            for (&node, info) in &membership.nodes {
                contacts.insert(node, info.address.clone());
            }
        }
        contacts.remove(&self.local.node);
        contacts
    }
}

/// Why the members are not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// Another node leads, or none: only the leader can do it.
    #[error("this node does not lead")]
    NotLeader {
        /// The leader, where it is known.
        leader: Option<NodeId>,
    },
    /// The leader has just begun, or a configuration is being committed: try again in a moment.
    #[error("a configuration is being committed: try again")]
    NotYet,
    /// Leadership is being handed to another node.
    #[error("leadership is being handed over")]
    Transferring,
    /// The configuration in force is another one than the caller knew.
    #[error("the configuration has changed meanwhile: it is that of index {index} now")]
    Outdated {
        /// The index of the configuration in force.
        index: Index,
    },
    /// A member that answers runs a version that knows no such changes: upgrade it first.
    #[error("a member runs a version that does not know how members are changed: upgrade it first")]
    NotKnown,
    /// A member has not said since this node leads that it understands leases: it does not answer, or is to be upgraded first.
    #[error(
        "not every member is known to understand leases: all must answer, and run a version that knows them"
    )]
    LeaseNotKnown,
    /// A node that is to vote runs a version that cannot read what is in the log: upgrade it first.
    #[error(
        "node {node} runs a version that knows payloads up to level {level}, and there are some of level {needed} in the log: \
         upgrade it first"
    )]
    OlderVersion {
        /// The node.
        node: NodeId,
        /// The level that it knows.
        level: Level,
        /// The level that is in the log.
        needed: Level,
    },
    /// The target makes no configuration.
    #[error(transparent)]
    Invalid(MembershipError),
    /// The group has stopped.
    #[error("the group has stopped")]
    Fatal,
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Time = Time::from_millis(500);

    fn at(millis: u64) -> Time {
        Time::from_millis(millis)
    }

    fn begun() -> CatchUp {
        CatchUp { goal: 100, since: at(0), rounds: 0, done: false }
    }

    #[test]
    fn a_round_takes_what_the_log_held_when_it_began() {
        let mut catch_up = begun();
        assert!(!catch_up.observe(40, 150, at(400), TIMEOUT));
        assert!(!catch_up.done);
        assert!(!catch_up.observe(100, 180, at(499), TIMEOUT));
        assert_eq!((catch_up.done, catch_up.goal, catch_up.rounds), (true, 180, 0));
    }

    #[test]
    fn who_falls_behind_again_is_not_caught_up() {
        let mut catch_up = begun();
        assert!(!catch_up.observe(100, 180, at(10), TIMEOUT));
        assert!(!catch_up.observe(150, 300, at(509), TIMEOUT));
        assert!(catch_up.done);
        assert!(!catch_up.observe(150, 300, at(510), TIMEOUT));
        assert!(!catch_up.done);
    }

    #[test]
    fn ten_slow_rounds_are_reported_and_then_it_is_tried_anew() {
        let mut catch_up = begun();
        let (mut now, mut last) = (0, 100);
        for round in 1..=2 * MAX_ROUNDS {
            now += 500;
            let slow = catch_up.observe(last, last + 10, at(now), TIMEOUT);
            last += 10;
            assert_eq!(slow, round % MAX_ROUNDS == 0, "round {round}");
            assert!(!catch_up.done);
        }
    }
}
