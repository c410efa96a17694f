//! Campaigning: first asking whether an election could be won (thesis, 9.6), then holding it (paper, 5.2).

use std::collections::BTreeSet;

use super::event::Event;
use super::planted::Planted;
use super::{Engine, Role};
use crate::message::{Message, VoteRequest, VoteResponse};
use crate::types::{NodeId, Peer, Time};

/// A candidate's own state, also that of one who only asks.
#[derive(Debug)]
pub(super) struct Candidate {
    /// Begin again at this time.
    pub(super) deadline: Time,
    /// Ask those who have not answered, now or at this time.
    pub(super) ask_at: Time,
    /// The leader asked for it.
    transfer: bool,
    /// Who granted it.
    pub(super) granted: BTreeSet<NodeId>,
}

impl Engine {
    /// Begins to campaign, if this node may.
    pub(super) fn campaign(&mut self) {
        if !self.may_campaign() {
            self.become_follower(self.term, None);
            self.ask_whether_removed();
            return;
        }
        // It could not win before its disk has its vote; all it could do is to disturb the others with its term.
        if self.disk_stalls_for(self.config.election_timeout) || self.is_promised() {
            self.put_off_campaign();
            return;
        }
        if self.config.pre_vote {
            self.leader = None;
            self.role = Role::PreCandidate(self.new_candidate(false));
            self.events.push(Event::PreCampaign { term: self.term + 1 });
        } else {
            self.become_candidate(false);
        }
    }

    fn put_off_campaign(&mut self) {
        let deadline = self.election_deadline();
        match &mut self.role {
            Role::Follower(follower) => follower.deadline = deadline,
            _ => self.become_follower(self.term, None),
        }
    }

    /// Campaigns in the next term; with `transfer` because the leader asked for it.
    pub(super) fn become_candidate(&mut self, transfer: bool) {
        self.term += 1;
        self.vote = Some(self.local.node);
        self.owed_vote = None;
        self.leader = None;
        self.role = Role::Candidate(self.new_candidate(transfer));
        self.events.push(Event::Campaign { term: self.term });
    }

    fn new_candidate(&mut self, transfer: bool) -> Candidate {
        Candidate { deadline: self.election_deadline(), ask_at: self.now, transfer, granted: BTreeSet::new() }
    }

    pub(super) fn on_vote_response(&mut self, from: Peer, response: VoteResponse) {
        let pre_granted = response.pre_vote && response.granted;
        if response.term > self.term && !pre_granted {
            self.become_follower(response.term, None);
            return;
        }
        match &mut self.role {
            Role::PreCandidate(asking) if pre_granted && response.term == self.term + 1 => {
                asking.granted.insert(from.node);
            }
            Role::Candidate(candidate)
                if response.granted && !response.pre_vote && response.term == self.term =>
            {
                candidate.granted.insert(from.node);
            }
            _ => {}
        }
    }

    /// Whether the own `(term, vote)` is on disk, and with it the log that a vote request would tell of.
    pub(super) fn candidacy_is_durable(&self) -> bool {
        if self.has(Planted::VoteRequestBeforeWrite) {
            return true;
        }
        self.durable.term == self.term
            && self.durable.vote == Some(self.local.node)
            && self.durable.index == self.log.last_index()
    }

    /// Goes on to the next role where a majority granted it.
    pub(super) fn count_votes(&mut self) {
        let won = |candidate: &Candidate, own: bool| {
            let granted = |voter| {
                u64::from(if voter == self.local.node { own } else { candidate.granted.contains(&voter) })
            };
            self.quorum(granted) == 1
        };
        match &self.role {
            Role::PreCandidate(asking) if won(asking, true) => {
                self.become_candidate(false);
            }
            Role::Candidate(candidate) if won(candidate, self.candidacy_is_durable()) => {
                self.become_leader();
            }
            _ => {}
        }
    }

    /// Asks those who have not granted it yet, again at each heartbeat interval. No request for a vote leaves before the
    /// candidate's own vote is durable: so no term is ever campaigned twice by one node.
    pub(super) fn emit_vote_requests(&mut self) {
        let durable = self.candidacy_is_durable();
        let again = self.now.saturating_add(self.config.heartbeat_interval);
        let (candidate, pre_vote) = match &mut self.role {
            Role::PreCandidate(asking) => (asking, true),
            Role::Candidate(candidate) if durable => (candidate, false),
            _ => return,
        };
        if self.now < candidate.ask_at {
            return;
        }
        candidate.ask_at = again;
        let (transfer, granted) = (candidate.transfer, candidate.granted.clone());
        let term = if pre_vote { self.term + 1 } else { self.term };
        let request = VoteRequest { term, last: self.log.last(), pre_vote, transfer };
        let voters: Vec<Peer> = self
            .peers()
            .filter(|peer| self.membership().is_voter(peer.node) && !granted.contains(&peer.node))
            .collect();
        for voter in voters {
            self.send(voter, Message::VoteRequest(request));
        }
    }
}
