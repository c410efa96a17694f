//! Following: taking the leader's entries, and voting.

use super::event::{Event, Refusal};
use super::planted::Planted;
use super::{Engine, Role};
use crate::message::{AppendOutcome, AppendRequest, AppendResponse, Message, VoteRequest, VoteResponse};
use crate::types::{EntryId, Index, Payload, Peer, Term, Time};

/// A follower's own state. It begins anew at each change of term or leader.
#[derive(Debug, Default)]
pub(super) struct Follower {
    /// Campaign at this time if nothing is heard.
    pub(super) deadline: Time,
    /// When the leader was last heard.
    pub(super) heard_at: Option<Time>,
    /// The log is known to equal the current leader's up to here: not the last index, which may belong to an earlier
    /// leader. Falls back to the commit index with each new term (committed entries are in every later leader's log).
    pub(super) verified: Index,
    /// The highest match promised to the leader.
    acked: Index,
    /// The highest round seen, and answered.
    pub(super) round: u64,
    round_told: u64,
    /// The leader waits for an answer, whether or not the match grew.
    pub(super) owed: bool,
    /// The refusal to be sent.
    conflict: Option<AppendOutcome>,
}

impl Engine {
    /// Follows `leader` in `term`, or waits for a leader.
    pub(super) fn become_follower(&mut self, term: Term, leader: Option<Peer>) {
        let verified = match &self.role {
            Role::Follower(before) if self.has(Planted::VerifiedKept) => before.verified,
            _ => self.commit,
        };
        // Only a vote granted or a leader heard puts an election off (paper, 5.2): a candidate that is refused does not.
        let deadline = match &self.role {
            Role::Follower(before) if before.deadline > self.now => before.deadline,
            _ => self.election_deadline(),
        };
        if let Role::Leader(led) = std::mem::take(&mut self.role) {
            self.failed_reads.extend(led.reads.own());
        }
        if term > self.term {
            self.term = term;
            self.vote = None;
            self.owed_vote = None;
        }
        if leader.is_some() && leader != self.leader {
            self.note_new_leader();
        }
        self.leader = leader;
        self.role = Role::Follower(Follower {
            deadline,
            heard_at: None,
            verified,
            acked: 0,
            round: 0,
            round_told: 0,
            owed: false,
            conflict: None,
        });
        self.events.push(Event::Following { term: self.term, leader: leader.map(|peer| peer.node) });
    }

    /// Whether the current leader was heard within an election timeout, so that no vote is to be given against it
    /// (thesis, 4.2.3).
    fn hears_leader(&self) -> bool {
        match &self.role {
            Role::Leader(_) => true,
            Role::Follower(follower) => {
                self.leader.is_some()
                    && follower
                        .heard_at
                        .is_some_and(|heard| self.now < heard.saturating_add(self.config.election_timeout))
            }
            Role::PreCandidate(_) | Role::Candidate(_) => false,
        }
    }

    pub(super) fn on_vote_request(&mut self, from: Peer, request: VoteRequest) {
        self.dismiss(from);
        let refusal =
            |term| Message::VoteResponse(VoteResponse { term, granted: false, pre_vote: request.pre_vote });
        let protects = !request.transfer
            && (self.is_promised()
                || ((request.pre_vote || self.config.check_quorum) && self.hears_leader()));
        if request.term < self.term || protects {
            self.send(from, refusal(self.term));
            return;
        }
        // Paper, 5.4.1: the later last term, or the same and the longer log, is more up to date.
        let up_to_date = request.last >= self.log.last()
            || self.has(Planted::VoteForShorterLog)
            || (request.transfer && self.has(Planted::TransferVoteIgnoresLog));
        let free = request.term > self.term
            || self.vote == Some(from.node)
            || (self.vote.is_none() && self.leader.is_none());
        if request.pre_vote {
            if up_to_date && free {
                let granted = VoteResponse { term: request.term, granted: true, pre_vote: true };
                self.send(from, Message::VoteResponse(granted));
            } else {
                self.send(from, refusal(self.term));
            }
            return;
        }
        if request.term > self.term {
            self.become_follower(request.term, None);
        }
        if up_to_date && free && matches!(self.role, Role::PreCandidate(_)) {
            self.become_follower(self.term, None);
        }
        let deadline = self.election_deadline();
        match &mut self.role {
            Role::Follower(follower) if up_to_date && free => {
                if self.vote.is_none() {
                    follower.deadline = deadline;
                }
                self.vote = Some(from.node);
                self.owed_vote = Some(from);
            }
            _ => self.send(from, refusal(self.term)),
        }
    }

    /// The vote that is granted and durable, and not told yet.
    pub(super) fn emit_vote(&mut self) {
        let Some(candidate) = self.owed_vote else { return };
        let durable = self.durable.term == self.term && self.durable.vote == Some(candidate.node);
        if durable || self.has(Planted::VoteBeforeWrite) {
            self.owed_vote = None;
            let granted = VoteResponse { term: self.term, granted: true, pre_vote: false };
            self.send(candidate, Message::VoteResponse(granted));
        }
    }

    pub(super) fn on_append_request(&mut self, from: Peer, request: AppendRequest) {
        if request.term < self.term {
            let round = if self.has(Planted::ReadRoundOfEarlierTerm) { request.round } else { 0 };
            let stale = self.append_response(round, AppendOutcome::Stale);
            self.send(from, stale);
            return;
        }
        let second = match (&self.role, self.leader) {
            (Role::Leader(_), _) => request.term == self.term,
            (_, Some(leader)) => request.term == self.term && leader != from,
            (_, None) => false,
        };
        if second {
            self.refuse(from, Refusal::SecondLeader);
            return;
        }
        if !is_log(&request) {
            self.refuse(from, Refusal::BadEntries);
            return;
        }
        if request.term > self.term || self.leader.is_none() || !matches!(self.role, Role::Follower(_)) {
            self.become_follower(request.term, Some(from));
        }
        self.leader = Some(from);
        self.dismissed = None;
        let Role::Follower(follower) = &mut self.role else { return };
        follower.heard_at = Some(self.now);
        follower.round = follower.round.max(request.round);
        self.take_entries(from, request);
        self.promise_to_leader();
        // Only now: the entries may have given or taken this node its vote.
        let deadline = self.election_deadline();
        if let Role::Follower(follower) = &mut self.role {
            follower.deadline = deadline;
        }
    }

    /// Brings the log to the leader's as far as the request goes (paper, figure 2, AppendEntries 2 to 5).
    fn take_entries(&mut self, from: Peer, request: AppendRequest) {
        let AppendRequest { prev, entries, commit, .. } = request;
        let last_new = prev.index + entries.len() as Index;
        let heartbeat = entries.is_empty();
        let Role::Follower(follower) = &mut self.role else { return };
        // What is committed is in the leader's log too: only what lies beyond needs comparing.
        if prev.index >= self.commit && self.log.term(prev.index) != Some(prev.term) {
            let last = self.log.last_index();
            let hint = self.log.last_not_above(prev.index, prev.term);
            follower.conflict = Some(AppendOutcome::Conflict { prev: prev.index, hint, last });
            return;
        }
        let parting = entries.iter().position(|entry| {
            entry.index() >= self.log.base().index && self.log.term(entry.index()) != Some(entry.term())
        });
        let parting = parting.or((self.has(Planted::TruncateMatching) && !heartbeat).then_some(0));
        if let Some(parting) = parting {
            let from_index = entries[parting].index();
            if from_index <= self.commit {
                self.refuse(from, Refusal::TruncatesCommitted);
                return;
            }
            // As if lost: the leader sends it again. One that keeps its window is not refused.
            if self.log.bytes_in_memory() > self.max_bytes_in_memory() {
                self.refuse(from, Refusal::Overloaded);
                return;
            }
            if from_index <= self.log.last_index() {
                self.truncate(from_index);
            }
            for entry in entries.into_iter().skip(parting) {
                self.log.append(entry);
            }
            self.overtake_founding();
        }
        let durable = self.durable.index;
        let sure = if self.has(Planted::CommitBeyondMatch) { self.log.last_index() } else { last_new };
        let Role::Follower(follower) = &mut self.role else { return };
        follower.verified = follower.verified.max(last_new);
        // A heartbeat or a read round wants its answer at once. So do entries that arrived before and are on disk: the leader
        // may have lost the answer. New entries are answered when they are.
        follower.owed |= heartbeat || follower.round > follower.round_told || last_new <= durable;
        let before = self.commit;
        self.commit = before.max(commit.min(sure));
        self.note_commit(before);
    }

    /// What is on disk goes from memory beyond twice `max_tail_bytes`; the rest waits for the disk, and is as much as a leader
    /// may have under way, whatever this one sends.
    fn max_bytes_in_memory(&self) -> usize {
        let waiting = self.config.max_inflight_bytes.max(self.config.max_uncommitted_bytes);
        self.config.max_tail_bytes.saturating_mul(2).saturating_add(waiting)
    }

    /// Drops entries from `from` on: only followers do, and only at the first entry that differs.
    fn truncate(&mut self, from: Index) {
        let term = self.log.term(from).unwrap_or(0);
        let last = self.log.last_index();
        self.events.push(Event::Truncated { from: EntryId::new(term, from), last });
        self.log.truncate(from);
        self.durable.truncate(from, !self.has(Planted::NoClamp));
        let Role::Follower(follower) = &mut self.role else { return };
        follower.verified = follower.verified.min(from - 1);
    }

    /// The answer to the leader, if it is owed one or the promise grew.
    pub(super) fn emit_append_response(&mut self) {
        let Some(leader) = self.leader else { return };
        let early = self.has(Planted::AckBeforeFsync);
        let unverified = self.has(Planted::MatchLastIndex);
        let Role::Follower(follower) = &mut self.role else { return };
        let conflict = follower.conflict.take();
        let durable = if early { self.log.last_index() } else { self.durable.index };
        let verified = if unverified { self.log.last_index() } else { follower.verified };
        // A promise counts only in a term that this node cannot forget.
        let matched = if self.durable.term == self.term || early { durable.min(verified) } else { 0 };
        // Beside a refusal a grown match can wait for the next answer: the leader would take it for the probe's.
        let accepted = (follower.owed || (matched > follower.acked && conflict.is_none())).then(|| {
            follower.owed = false;
            AppendOutcome::Accepted { matched, received: follower.verified }
        });
        follower.acked = follower.acked.max(matched);
        let round = follower.round;
        for outcome in conflict.into_iter().chain(accepted) {
            if let Role::Follower(follower) = &mut self.role {
                follower.round_told = round;
            }
            self.send(leader, self.append_response(round, outcome));
        }
    }

    fn append_response(&self, round: u64, outcome: AppendOutcome) -> Message {
        let (term, priority) = (self.term, self.config.priority);
        Message::AppendResponse(AppendResponse { term, round, outcome, priority, level: self.own_level() })
    }
}

/// Whether the request's entries follow `prev` without gaps, in terms that do not go back nor above the leader's, and hold
/// configurations that can be lived in.
fn is_log(request: &AppendRequest) -> bool {
    let mut before = request.prev;
    request.entries.iter().all(|entry| {
        let follows = entry.index() == before.index + 1 && entry.term() >= before.term.max(1);
        before = entry.id;
        follows
            && !matches!(&entry.payload, Payload::Membership(membership) if membership.validate().is_err())
    }) && before.term <= request.term
}
