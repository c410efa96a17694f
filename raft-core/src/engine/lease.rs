//! Leases: for a while after a majority heard it, a leader knows without asking that no other leads (thesis, 6.4.1).
//!
//! A follower that hears its leader lets no other be elected for an election timeout by its own clock, and remembers that over a
//! change of term; over a restart it cannot, so it then waits for as long. A leader counts from when the confirming round was *sent*, and
//! only followers that hold durably the configuration that binds them: they would keep to it even if they were restarted.
//! A leader that told another to campaign has no lease any more in its term: votes for that candidate break the promise on purpose.

use std::collections::VecDeque;
use std::time::Duration;

use super::planted::Planted;
use super::{ChangeError, Engine, Role};
use crate::membership::{Lease, Membership};
use crate::message::AppendOutcome;
use crate::progress::Progress;
use crate::types::{Index, Time};

/// What this node owes to leaders that it has heard.
#[derive(Debug)]
pub(super) struct Promise {
    /// Until then no vote is given and no campaign begun, whatever the term.
    until: Time,
    /// The same for what was promised before this process was started.
    until_after_restart: Time,
    /// The node's own election timeout and heartbeat interval, for where no lease sets them.
    own: (Duration, Duration),
    in_force: Option<Lease>,
}

impl Promise {
    pub(super) const fn new(election_timeout: Duration, heartbeat_interval: Duration) -> Self {
        let own = (election_timeout, heartbeat_interval);
        Self { until: Time::ZERO, until_after_restart: Time::ZERO, own, in_force: None }
    }
}

/// A leader's lease.
#[derive(Debug, Default)]
pub(super) struct LeaderLease {
    /// Rounds that no majority has confirmed yet, and when each was sent.
    sent: VecDeque<(u64, Time)>,
    /// When the latest confirmed round was sent.
    from: Option<Time>,
    /// Another node was told to campaign in this term.
    given_up: bool,
}

impl LeaderLease {
    pub(super) const fn give_up(&mut self) {
        self.given_up = true;
    }

    /// What was confirmed until now rests on another lease than the one that is in force from now on.
    fn begin_anew(&mut self) {
        self.sent.clear();
        self.from = None;
    }

    fn note_sent(&mut self, round: u64, now: Time, lasts: Duration) {
        // A lease from so long ago would be over.
        while self.sent.pop_front_if(|(_, sent)| now >= sent.saturating_add(lasts)).is_some() {}
        self.sent.push_back((round, now));
    }

    fn confirm(&mut self, round: u64) {
        while let Some((_, sent)) = self.sent.pop_front_if(|(number, _)| *number <= round) {
            self.from = Some(sent);
        }
    }
}

impl Engine {
    /// The lease of the configuration in force, and the index of that configuration.
    fn lease_in_force(&self) -> Option<(Index, Lease)> {
        let (index, membership) = self.log.membership()?;
        Some((index, membership.lease?))
    }

    /// The timeouts that leases rest on are the cluster's, not the node's.
    pub(super) fn keep_to_lease(&mut self) {
        let in_force = self.lease_in_force().map(|(_, lease)| lease);
        if in_force == self.promise.in_force {
            return;
        }
        self.promise.in_force = in_force;
        let (election_timeout, heartbeat_interval) = self.promise.own;
        let election_timeout = in_force.map_or(election_timeout, Lease::election_timeout);
        self.config.election_timeout = election_timeout;
        self.config.heartbeat_interval = heartbeat_interval.min(election_timeout / 2);
    }

    /// The longest election timeout of a lease that this node may be held to: that of the latest configuration that it knows to be
    /// committed, and of all after it. One that is not committed may be dropped again, and a leader that never had it goes by the one
    /// before.
    fn longest_promise(&self) -> Option<Duration> {
        let (index, in_force) = self.log.membership()?;
        if index <= self.commit || self.has(Planted::LeaseOfUncommitted) {
            return in_force.lease.map(Lease::election_timeout);
        }
        let leases = self.log.memberships_from(self.commit).filter_map(|(_, membership)| membership.lease);
        leases.map(Lease::election_timeout).max()
    }

    /// A leader's configuration with another lease, or none: from the moment it is in its log, before any follower can hold it, the leader
    /// has no lease by the one before; and one by the new only when followers that hold it have answered a round sent since.
    pub(super) fn change_lease(&mut self, before: Option<Lease>) {
        let in_force = self.lease_in_force().map(|(_, lease)| lease);
        let keeps = self.has(Planted::LeaseKeptOverChange);
        if let Role::Leader(leader) = &mut self.role
            && before != in_force
            && !keeps
        {
            leader.lease.begin_anew();
        }
    }

    /// Switches leases on or off in a running cluster, or changes what they rest on: by a configuration with the same members. The index of
    /// the configuration; done when that is committed.
    ///
    /// # Errors
    /// Nothing was begun.
    pub fn set_lease(&mut self, lease: Option<Lease>, now: Time) -> Result<Index, ChangeError> {
        let on = lease.is_some() && self.membership().lease.is_none();
        let level = Membership { lease, ..Membership::default() }.level();
        // Who does not know what a lease is could not even read the log.
        if on && matches!(self.role, Role::Leader(_)) && !self.all_know(level) {
            return Err(ChangeError::LeaseNotKnown);
        }
        self.begin_change(None, now, |membership| Membership { lease, ..membership.clone() })
    }

    /// What was promised before the start is not known: as if the leader had been heard just now. Not where this node is alone and has led
    /// since it is, or always was: nobody else can lead then. Before, the leader that left office for it may still count on it.
    pub(super) fn promise_after_restart(&mut self, alone: bool) {
        let (Some(timeout), Some((index, _))) = (self.longest_promise(), self.log.membership()) else {
            return;
        };
        // In a later term only who holds the configuration can have led, and so only this node.
        let term = self.log.term(index).unwrap_or(self.log.base().term);
        let led_alone = index <= 1 || self.log.last().term > term;
        if !(alone && led_alone) {
            self.promise.until_after_restart = self.now.saturating_add(timeout);
        }
    }

    /// The leader was heard.
    pub(super) fn promise_to_leader(&mut self) {
        if let Some(timeout) = self.longest_promise() {
            self.promise.until = self.promise.until.max(self.now.saturating_add(timeout));
        }
    }

    /// Whether this node owes it to a leader to let no other be elected.
    pub(super) fn is_promised(&self) -> bool {
        let forgets = self.has(Planted::LeaseKeptOverRestart);
        self.now < self.promise.until || (self.now < self.promise.until_after_restart && !forgets)
    }

    /// Until when this node owes it to a leader to let no other be elected.
    pub(super) fn promised_until(&self) -> Option<Time> {
        let until = self.promise.until.max(self.promise.until_after_restart);
        (until > Time::ZERO).then_some(until)
    }

    pub(super) fn note_round_sent(&mut self) {
        let Some((_, lease)) = self.lease_in_force() else { return };
        let Role::Leader(leader) = &mut self.role else { return };
        leader.lease.note_sent(leader.round, self.now, lease.duration());
    }

    /// The index from which on a follower's promise counts.
    pub(super) fn lease_index(&self) -> Index {
        self.lease_in_force().map_or(Index::MAX, |(index, _)| index)
    }

    /// A majority answered: the lease begins anew, from when that round was sent.
    pub(super) fn confirm_lease(&mut self) {
        let Role::Leader(leader) = &self.role else { return };
        if leader.lease.sent.is_empty() {
            return;
        }
        let answered = |voter| {
            if voter == self.local.node {
                leader.round
            } else {
                leader.progress.get(&voter).map_or(0, |peer| peer.lease_round)
            }
        };
        let confirmed = self.quorum(answered);
        let from_answer = self.has(Planted::LeaseFromAnswer);
        let Role::Leader(leader) = &mut self.role else { return };
        let before = leader.lease.from;
        leader.lease.confirm(confirmed);
        if from_answer && leader.lease.from != before {
            leader.lease.from = Some(self.now);
        }
    }

    /// Until when this leader's lease lasts, if it has one now.
    pub fn lease_until(&self) -> Option<Time> {
        let (_, lease) = self.lease_in_force()?;
        let Role::Leader(leader) = &self.role else { return None };
        let given_up = leader.lease.given_up && !self.has(Planted::LeaseKeptAfterTimeoutNow);
        // As for rounds: before, this node does not know what is committed.
        let knows_commit = self.commit >= leader.first_index;
        let until = leader.lease.from?.saturating_add(lease.duration());
        (knows_commit && !given_up && self.now < until).then_some(until)
    }
}

impl Progress {
    /// A promise counts that rests on a configuration that the follower cannot forget.
    pub(super) fn note_promise(&mut self, outcome: AppendOutcome, round: u64, lease_index: Index) {
        if let AppendOutcome::Accepted { matched, .. } = outcome
            && matched >= lease_index
        {
            self.lease_round = self.lease_round.max(round);
        }
    }
}
