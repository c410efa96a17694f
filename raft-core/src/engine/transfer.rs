//! Handing leadership over (thesis, 3.10): the target is brought up to date and told to campaign at once.

use std::cmp::Reverse;

use super::event::{Event, TransferReason};
use super::planted::Planted;
use super::{Engine, Role};
use crate::message::{Message, TimeoutNow};
use crate::progress::Progress;
use crate::types::{Index, NodeId, Peer, Time};

/// A transfer under way. It is part of the leader's role and ends with it.
#[derive(Debug)]
pub(super) struct Transfer {
    pub(super) to: NodeId,
    /// The leader's last entry when it began. Once the target holds it, what is left to be sent is as little as can be, and the
    /// leader takes no more proposals: else, under load, the target would never hold the whole log.
    goal: Index,
    closed: bool,
    /// The round in which TimeoutNow was sent last.
    told: Option<u64>,
    /// The leader goes on at this time.
    pub(super) deadline: Time,
}

impl Transfer {
    /// Whether proposals are refused.
    pub(super) const fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether the target was told to campaign.
    pub(super) const fn is_told(&self) -> bool {
        self.told.is_some()
    }
}

impl Engine {
    /// Begins to hand leadership over to `to`, or, where none is named, to the best: a live voter that keeps up, of the highest
    /// priority, then with the longest log. Returns to whom; the node itself where it is named, which then has nothing to do.
    ///
    /// How it ends shows in [`Status`](super::Status): another node leads, or `transferring` is `None` again while this one
    /// goes on leading, after an election timeout at the latest. Asking again for what is under way changes nothing.
    ///
    /// # Errors
    /// Nothing was begun.
    pub fn transfer_leadership(&mut self, to: Option<NodeId>, now: Time) -> Result<NodeId, TransferError> {
        self.set_now(now);
        if self.fatal.is_some() {
            return Err(TransferError::Fatal);
        }
        self.end_late_transfer();
        let Role::Leader(leading) = &self.role else {
            return Err(TransferError::NotLeader { leader: self.leader() });
        };
        if let Some(under_way) = leading.transfer.as_ref().map(|transfer| transfer.to) {
            let same = to.is_none_or(|to| to == under_way);
            return if same { Ok(under_way) } else { Err(TransferError::UnderWay { to: under_way }) };
        }
        let to = match to {
            Some(node) if node == self.local.node => return Ok(node),
            Some(node) if !self.membership().nodes.contains_key(&node) => {
                return Err(TransferError::NotMember { node });
            }
            Some(node) if !self.membership().voters.contains(&node) => {
                return Err(TransferError::NotVoter { node });
            }
            Some(node) if !leading.progress.get(&node).is_some_and(|peer| self.is_active(peer)) => {
                return Err(TransferError::Silent { node });
            }
            Some(node) => node,
            None => self.best_successor().ok_or(TransferError::NoSuccessor)?,
        };
        self.begin_transfer(to, TransferReason::Asked);
        self.check();
        Ok(to)
    }

    /// To whom this node is handing its leadership over.
    pub fn transferring(&self) -> Option<NodeId> {
        match &self.role {
            Role::Leader(leading) => leading.transfer.as_ref().map(|transfer| transfer.to),
            _ => None,
        }
    }

    pub(super) fn begin_transfer(&mut self, to: NodeId, reason: TransferReason) {
        let goal = self.log.last_index();
        let deadline = self.now.saturating_add(self.config.election_timeout);
        let Role::Leader(leading) = &mut self.role else { return };
        leading.transfer = Some(Transfer { to, goal, closed: false, told: None, deadline });
        self.events.push(Event::Transferring { to, term: self.term, reason });
    }

    fn end_late_transfer(&mut self) {
        if self.has(Planted::TransferFlagStuck) {
            return;
        }
        let Role::Leader(leading) = &mut self.role else { return };
        if let Some(late) = leading.transfer.take_if(|transfer| self.now >= transfer.deadline) {
            self.events.push(Event::TransferFailed { to: late.to, term: self.term });
        }
    }

    /// Tells the target to campaign once it holds the whole log, durably, and again in each later round: one that is lost or
    /// late costs a heartbeat interval.
    pub(super) fn emit_timeout_now(&mut self) {
        self.end_late_transfer();
        let (last, lags) = (self.log.last_index(), self.has(Planted::TransferToLagging));
        let Role::Leader(leading) = &mut self.role else { return };
        let Some(transfer) = &mut leading.transfer else { return };
        let matched = leading.progress.get(&transfer.to).map_or(0, |peer| peer.matched);
        transfer.closed |= matched >= transfer.goal || lags;
        if transfer.closed && (matched == last || lags) && transfer.told != Some(leading.round) {
            transfer.told = Some(leading.round);
            // The votes for the target break what the lease rests on.
            leading.lease.give_up();
            let (to, round) = (transfer.to, leading.round);
            if let Some(peer) = self.peer(to) {
                self.send(peer, Message::TimeoutNow(TimeoutNow { term: self.term, round }));
            }
        }
    }

    /// Campaigns at once, without asking first: the leader itself wants it. Whatever comes late, twice or from another is
    /// ignored.
    pub(super) fn on_timeout_now(&mut self, from: Peer, told: TimeoutNow) {
        let Role::Follower(follower) = &self.role else { return };
        let current = told.term == self.term && self.leader == Some(from) && told.round >= follower.round;
        let able = self.membership().is_voter(self.local.node)
            && !self.disk_stalls_for(self.config.election_timeout);
        if able && (current || self.has(Planted::LateTimeoutNow)) {
            self.note_lost_leader();
            self.become_candidate(true);
        }
    }

    pub(super) fn is_active(&self, peer: &Progress) -> bool {
        self.now < peer.heard_at.saturating_add(self.config.election_timeout)
    }

    /// The other voters that are heard from.
    fn successors(&self) -> impl Iterator<Item = (NodeId, &Progress)> + '_ {
        let progress = match &self.role {
            Role::Leader(leading) => Some(&leading.progress),
            _ => None,
        };
        progress
            .into_iter()
            .flatten()
            .map(|(&node, peer)| (node, peer))
            .filter(|(node, peer)| self.membership().voters.contains(node) && self.is_active(peer))
    }

    pub(super) fn best_successor(&self) -> Option<NodeId> {
        let Role::Leader(leading) = &self.role else { return None };
        let worth = |(node, peer): &(NodeId, &Progress)| {
            // At the start of a term, when nobody has answered yet, anyone may be dead.
            let answers = peer.received > 0 || peer.round > 0;
            let keeps_up = peer.matched >= leading.heartbeat_commit;
            (answers, keeps_up, peer.priority, peer.matched, Reverse(*node))
        };
        self.successors().max_by_key(worth).map(|(node, _)| node)
    }

    /// At each heartbeat: hands over where this node's disk hangs, or to a voter that is preferred and has kept up for long
    /// enough.
    pub(super) fn seek_successor(&mut self) {
        let (now, commit, timeout) = (self.now, self.commit, self.config.election_timeout);
        let Role::Leader(leading) = &mut self.role else { return };
        for peer in leading.progress.values_mut() {
            let active = now < peer.heard_at.saturating_add(timeout);
            // What was committed a heartbeat ago: under load the newest entries are always on their way.
            peer.steady_since = (active && peer.matched >= leading.heartbeat_commit)
                .then(|| peer.steady_since.unwrap_or(now));
        }
        leading.heartbeat_commit = commit;
        if leading.transfer.is_some() {
            return;
        }
        let found = if self.disk_stalls_for(timeout) {
            self.best_successor().map(|to| (to, TransferReason::DiskStalled))
        } else {
            self.preferred_successor().map(|to| (to, TransferReason::Preferred))
        };
        if let Some((to, reason)) = found {
            self.begin_transfer(to, reason);
        }
    }

    fn preferred_successor(&self) -> Option<NodeId> {
        let steady = |node, peer: &Progress| {
            peer.steady_since.is_some_and(|since| self.now >= since.saturating_add(self.trial_of(node)))
        };
        self.successors()
            .filter(|&(node, peer)| peer.priority > self.config.priority && steady(node, peer))
            .max_by_key(|&(node, peer)| (peer.priority, peer.matched, Reverse(node)))
            .map(|(node, _)| node)
    }

    /// Whether a write has been on its way for this long, so that another node had better lead. Not where there is no other.
    pub(super) fn disk_stalls_for(&self, patience: Time) -> bool {
        self.peers().any(|peer| self.membership().is_voter(peer.node))
            && self.durable.waits_since().is_some_and(|since| self.now >= since.saturating_add(patience))
    }
}

/// Why leadership is not handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// Another node leads, or none: only the leader can hand over.
    #[error("this node does not lead")]
    NotLeader {
        /// The leader, where it is known.
        leader: Option<NodeId>,
    },
    /// The node is not in the configuration.
    #[error("node {node} is not a member of the cluster")]
    NotMember {
        /// The node.
        node: NodeId,
    },
    /// The node does not vote, or is about to leave.
    #[error("node {node} is not a voter: a learner cannot lead")]
    NotVoter {
        /// The node.
        node: NodeId,
    },
    /// The node has not answered for an election timeout.
    #[error("node {node} does not answer")]
    Silent {
        /// The node.
        node: NodeId,
    },
    /// No other voter answers, or there is none.
    #[error("there is no other voter that answers")]
    NoSuccessor,
    /// Leadership is being handed to another node already.
    #[error("leadership is being handed to node {to} already")]
    UnderWay {
        /// The other node.
        to: NodeId,
    },
    /// The group has stopped.
    #[error("the group has stopped")]
    Fatal,
}
