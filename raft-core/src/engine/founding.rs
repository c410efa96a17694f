//! Founding a cluster: one node is told the members, asks each who it is, and wins the first election. Its first entry is the
//! configuration, so the rest is the ordinary protocol; doing it twice, or on several nodes at once with the same members,
//! is no more than a contested election.

use std::collections::{BTreeMap, BTreeSet};

use super::event::{Event, FoundingEnd};
use super::{BootstrapError, Engine, Role};
use crate::membership::{Membership, NodeInfo};
use crate::message::Message;
use crate::types::{EntryId, Incarnation, NodeId, Peer, Time};

/// A cluster in the making.
#[derive(Debug)]
pub(super) struct Founding {
    /// The members as they were given, with the incarnations known by now.
    members: BTreeMap<NodeId, NodeInfo>,
    /// Those whose incarnation was not given. They are asked until the cluster is founded: one may be wiped meanwhile.
    asked: BTreeSet<NodeId>,
    /// When to ask next; `None` where nobody is asked.
    ask_at: Option<Time>,
    /// The configuration to found, in force on this node alone once everybody is known.
    pub(super) membership: Membership,
}

impl Founding {
    pub(super) fn addresses(&self) -> impl Iterator<Item = (NodeId, String)> {
        self.members.iter().map(|(&node, info)| (node, info.address.clone()))
    }

    fn incarnation(&self, node: NodeId) -> Incarnation {
        self.members.get(&node).map_or(Incarnation::UNKNOWN, |info| info.incarnation)
    }
}

impl Engine {
    /// Founds a cluster of `members`, this node among them, all of which vote. A member whose incarnation is not given is
    /// asked for it, whether it belongs to a cluster already, and whether it holds more than this node; so it must be up. Then this node campaigns. To be called on one node; calling it again, or on
    /// several with the same members, does no harm.
    ///
    /// # Errors
    /// Where this node already has a log or founds a cluster of others, or the members make no configuration.
    pub fn bootstrap(
        &mut self,
        members: BTreeMap<NodeId, NodeInfo>,
        now: Time,
    ) -> Result<(), BootstrapError> {
        self.set_now(now);
        if self.fatal.is_some() {
            return Err(BootstrapError::Fatal);
        }
        if !self.may_found() {
            return Err(BootstrapError::NotBlank);
        }
        if let Some(founding) = &self.founding {
            let named = members.iter().map(|(&node, info)| (node, info.address.clone()));
            return if founding.addresses().eq(named) { Ok(()) } else { Err(BootstrapError::NotBlank) };
        }
        Membership::of_voters(members.clone()).validate().map_err(BootstrapError::Invalid)?;
        let mut members = members;
        match members.get_mut(&self.local.node) {
            Some(own) => own.incarnation = self.local.incarnation,
            None => return Err(BootstrapError::NotMember),
        }
        let unknown = members.iter().filter(|(_, info)| info.incarnation == Incarnation::UNKNOWN);
        let asked: BTreeSet<NodeId> = unknown.map(|(&node, _)| node).collect();
        let ask_at = (!asked.is_empty()).then_some(self.now);
        self.founding = Some(Founding { members, asked, ask_at, membership: Membership::default() });
        self.events.push(Event::Founding);
        self.found_if_all_known();
        self.check();
        Ok(())
    }

    /// Whether there is no log yet, but for what a restored snapshot stands for.
    fn may_found(&self) -> bool {
        self.log.membership().is_none() && self.log.last() == self.log.base()
    }

    pub(super) fn founding_deadline(&self) -> Time {
        self.founding.as_ref().and_then(|founding| founding.ask_at).unwrap_or(Time::MAX)
    }

    pub(super) fn emit_identity_requests(&mut self) {
        let Some(founding) = &mut self.founding else { return };
        if founding.ask_at.is_none_or(|at| self.now < at) {
            return;
        }
        let unknown = |node: &&NodeId| founding.incarnation(**node) == Incarnation::UNKNOWN;
        let missing: Vec<NodeId> = founding.asked.iter().filter(unknown).copied().collect();
        let (to_ask, pause) = if missing.is_empty() {
            (founding.asked.iter().copied().collect(), self.config.election_timeout)
        } else {
            (missing, self.config.heartbeat_interval)
        };
        founding.ask_at = Some(self.now.saturating_add(pause));
        for node in to_ask {
            self.send(Peer { node, incarnation: Incarnation::UNKNOWN }, Message::IdentityRequest);
        }
    }

    pub(super) fn on_identity_response(&mut self, from: Peer, founded: bool, last: EntryId) {
        let Some(founding) = &mut self.founding else { return self.on_introduction(from, founded, last) };
        let Some(info) = founding.members.get_mut(&from.node) else { return };
        if founded {
            self.end_founding(FoundingEnd::AlreadyFounded { by: from.node });
            return;
        }
        if last > self.log.last() {
            // A restored state. It would not vote for this node, but blank nodes could, and the state would be lost.
            self.end_founding(FoundingEnd::Behind { by: from.node });
            return;
        }
        let news = from.incarnation != Incarnation::UNKNOWN && info.incarnation != from.incarnation;
        if news && founding.asked.contains(&from.node) {
            info.incarnation = from.incarnation;
            self.found_if_all_known();
        }
    }

    /// Campaigns among the members once each is known; anew when one came back with another folder, whose promises are gone.
    fn found_if_all_known(&mut self) {
        let Some(founding) = &mut self.founding else { return };
        if founding.members.values().any(|info| info.incarnation == Incarnation::UNKNOWN) {
            return;
        }
        let voters = Membership::of_voters(founding.members.clone());
        founding.membership = Membership { lease: self.config.lease(), ..voters };
        if self.leader.is_none() {
            self.campaign();
        } else {
            let deadline = self.election_deadline();
            if let Role::Follower(follower) = &mut self.role {
                follower.deadline = deadline;
            }
        }
    }

    /// Entries of another leader came first.
    pub(super) fn overtake_founding(&mut self) {
        if self.founding.is_some() {
            self.end_founding(FoundingEnd::Overtaken);
        }
    }

    fn end_founding(&mut self, reason: FoundingEnd) {
        self.founding = None;
        self.events.push(Event::FoundingEnded { reason });
    }

    /// The configuration to begin the log with, if this leader founds the cluster.
    pub(super) fn take_founding(&mut self) -> Option<Membership> {
        if !self.may_found() {
            return None;
        }
        let mut membership = self.founding.take()?.membership;
        membership.lineage = self.random.lineage();
        Some(membership)
    }
}
