//! Leading: replicating, committing, and knowing that one still leads.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::change::Change;
use super::event::{Event, Refusal};
use super::lease::LeaderLease;
use super::planted::Planted;
use super::reads::Reads;
use super::ready::{Fetch, FetchPurpose, Ready};
use super::transfer::Transfer;
use super::{Engine, Role};
use crate::config::Config;
use crate::log::Log;
use crate::message::{AppendOutcome, AppendRequest, AppendResponse, Message};
use crate::progress::{Flow, Inflight, PeerFetch, Progress};
use crate::types::{Entry, EntryId, Index, NodeId, Payload, Peer, Term, Time};

/// A leader's own state, gone with its term.
#[derive(Debug)]
pub(super) struct Leader {
    /// All other members.
    pub(super) progress: BTreeMap<NodeId, Progress>,
    /// The first entry of this term: once it is committed, all before it are, and what is committed is known.
    pub(super) first_index: Index,
    /// The number that the next append carries; each heartbeat and each read round begins a new one.
    pub(super) round: u64,
    /// When the next heartbeat is due.
    pub(super) heartbeat_at: Time,
    /// When followers that got no append since are to be told what is committed.
    pub(super) notice_at: Option<Time>,
    /// Entries that are not committed, durable and applied here: the last index and bytes of each append.
    uncommitted: VecDeque<(Index, usize)>,
    pub(super) uncommitted_bytes: usize,
    pub(super) reads: Reads,
    pub(super) lease: LeaderLease,
    /// What was committed at the last heartbeat: who keeps up holds it by the next.
    pub(super) heartbeat_commit: Index,
    /// Leadership is being handed over.
    pub(super) transfer: Option<Transfer>,
    /// Up to when its log time goes: that of its last entry with one, or when it began to lead.
    pub(super) stamped_at: Time,
    /// The membership is being changed.
    pub(super) change: Box<Change>,
}

/// How long after a commit idle followers are told of it. Under load the next append tells them sooner; without load a few
/// milliseconds of theirs cost less than a message a commit.
const NOTICE_DELAY: Duration = Duration::from_millis(3);

impl Engine {
    pub(super) fn become_leader(&mut self) {
        let last = self.log.last_index();
        let inherited_bytes = self.log.bytes_in_memory_after(self.commit);
        let progress = self
            .reachable_peers()
            .map(|peer| (peer.node, Progress::new(peer.incarnation, last, self.now)))
            .collect();
        self.leader = Some(self.local);
        self.role = Role::Leader(Box::new(Leader {
            progress,
            first_index: last + 1,
            round: 0,
            // The first entry of the term goes out at once and is the first heartbeat.
            heartbeat_at: self.now.saturating_add(self.config.heartbeat_interval),
            notice_at: None,
            uncommitted: VecDeque::from([(last, inherited_bytes)]),
            uncommitted_bytes: inherited_bytes,
            reads: Reads::default(),
            lease: LeaderLease::default(),
            heartbeat_commit: self.commit,
            transfer: None,
            stamped_at: self.now,
            change: Box::default(),
        }));
        self.events.push(Event::Elected { term: self.term });
        if let Some(membership) = self.take_founding() {
            self.append_own([Payload::Membership(Box::new(membership))]);
        }
        // Paper, 8: what is committed is known once an entry of the own term is.
        self.append_own([Payload::Noop]);
    }

    /// Appends entries of the own term: the only way in which a leader's log changes.
    pub(super) fn append_own(&mut self, payloads: impl IntoIterator<Item = Payload>) {
        let term = self.term;
        let mut bytes = 0;
        for payload in payloads {
            let entry = Entry { id: EntryId::new(term, self.log.last_index() + 1), payload };
            bytes += entry.bytes();
            self.log.append(entry);
        }
        if let Role::Leader(leader) = &mut self.role {
            leader.uncommitted.push_back((self.log.last_index(), bytes));
            leader.uncommitted_bytes += bytes;
        }
    }

    /// Commits what a majority holds durably, but only through an entry of the own term: an old one could still be
    /// overwritten (paper, 5.4.2 and figure 8).
    pub(super) fn commit_by_majority(&mut self) {
        let Role::Leader(leader) = &self.role else { return };
        let matched = |voter| {
            if voter == self.local.node {
                self.durable.index
            } else {
                leader.progress.get(&voter).map_or(0, |peer| peer.matched)
            }
        };
        let index = self.quorum(matched);
        let own_term = self.log.term(index) == Some(self.term) || self.has(Planted::CommitOldTerm);
        let before = self.commit;
        let grew = index > before && own_term;
        if grew {
            self.commit = index;
            self.note_commit(before);
        }
        let Role::Leader(leader) = &mut self.role else { return };
        if grew && leader.notice_at.is_none() {
            leader.notice_at = Some(self.now.saturating_add(NOTICE_DELAY));
        }
        self.release_settled();
    }

    /// Makes room for what is done with. What a slow state machine holds up is not: else more would be taken than can be answered in
    /// time.
    pub(super) fn release_settled(&mut self) {
        let settled = self.commit.min(self.durable.index).min(self.applied);
        let Role::Leader(leader) = &mut self.role else { return };
        while let Some(&(last, bytes)) = leader.uncommitted.front() {
            if last > settled {
                break;
            }
            leader.uncommitted_bytes -= bytes;
            leader.uncommitted.pop_front();
        }
    }

    pub(super) fn on_append_response(&mut self, from: Peer, response: AppendResponse) {
        if response.term > self.term {
            self.become_follower(response.term, None);
            return;
        }
        // An answer of an earlier term, be it to this very node, says nothing of this one.
        if response.term < self.term && !self.has(Planted::LateResponse) {
            return;
        }
        // The peer answers a request of an earlier term, perhaps this node's own: its round is not of this term either.
        if response.outcome == AppendOutcome::Stale && !self.has(Planted::ReadRoundOfEarlierTerm) {
            return;
        }
        let (last, lease_index) = (self.log.last_index(), self.lease_index());
        let (leaks, never_resends) = (self.has(Planted::WindowLeaked), self.has(Planted::NeverResend));
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(peer) = leader.progress.get_mut(&from.node) else { return };
        let promised = match response.outcome {
            AppendOutcome::Accepted { matched, received } => matched.max(received),
            AppendOutcome::Conflict { prev, .. } => prev,
            AppendOutcome::Stale => 0,
        };
        let foreign_round = response.outcome != AppendOutcome::Stale && response.round > leader.round;
        if promised > last || foreign_round {
            self.refuse(from, Refusal::BeyondLog);
            return;
        }
        peer.heard_at = self.now;
        peer.round = peer.round.max(response.round);
        self.round_trips.extend(peer.note_round_trip(response.round, self.now));
        peer.note_promise(response.outcome, response.round, lease_index);
        peer.priority = response.priority;
        peer.level = response.level;
        match response.outcome {
            AppendOutcome::Accepted { matched, received } => {
                peer.accept(matched, received, leader.round, !leaks);
                if peer.lost_snapshot() {
                    peer.probe_from(peer.received + 1);
                    self.events.push(Event::SnapshotLost { peer: from.node });
                }
                let patience = 2 * self.config.heartbeat_interval;
                if peer.lost_append(leader.round, self.now, patience) && !never_resends {
                    peer.probe_from(peer.received + 1);
                    self.events.push(Event::Resend { peer: from.node, from: peer.next });
                }
            }
            AppendOutcome::Conflict { prev, hint, last } => {
                if prev <= peer.matched {
                    // An old answer, unless it was given after the promise.
                    if response.round > peer.matched_round {
                        let matched = peer.matched;
                        self.events.push(Event::PromiseBroken { peer: from.node, matched, last });
                        self.distrust(from.node);
                    }
                    return;
                }
                let expected = match peer.flow {
                    Flow::Probe { .. } => prev + 1 == peer.next,
                    Flow::Replicate => prev < peer.next,
                    Flow::Snapshot { .. } => false,
                };
                if expected {
                    // The last of our entries that can be the follower's too.
                    let highest = hint.index.min(prev);
                    let base = self.log.base().index;
                    let common = self.log.last_not_above(highest, hint.term);
                    let common = if highest < base || common.term > hint.term {
                        // They part at the base or before it: the peer needs a snapshot.
                        highest.min(base.saturating_sub(1))
                    } else {
                        common.index
                    };
                    peer.probe_from(common + 1);
                }
            }
            AppendOutcome::Stale => {}
        }
    }

    /// Heartbeats that are due, and with them whether this node may go on leading.
    pub(super) fn emit_heartbeats(&mut self) {
        let Role::Leader(leader) = &self.role else { return };
        let due = self.now >= leader.heartbeat_at;
        if due && self.config.check_quorum {
            let event = if !self.hears_majority() {
                Some(Event::QuorumLost { term: self.term })
            } else if self.disk_stalls_for(2 * self.config.election_timeout) {
                Some(Event::DiskStalled { term: self.term })
            } else {
                None
            };
            if let Some(event) = event {
                self.events.push(event);
                self.become_follower(self.term, None);
                return;
            }
        }
        if due {
            self.seek_successor();
            self.ask_identities();
        }
        let Role::Leader(leader) = &self.role else { return };
        // A read must not be served before an entry of the own term is committed.
        let knows_commit = self.commit >= leader.first_index || self.has(Planted::ReadBeforeNoop);
        let read = leader.reads.wants_round() && knows_commit;
        let Role::Leader(leader) = &mut self.role else { return };
        if due || read {
            leader.round += 1;
        }
        if due || read {
            self.note_round_sent();
        }
        let Role::Leader(leader) = &mut self.role else { return };
        if read {
            leader.reads.begin_round(leader.round, self.commit);
        }
        if due {
            leader.heartbeat_at = self.now.saturating_add(self.config.heartbeat_interval);
        }
        let notice = leader.notice_at.is_some_and(|at| self.now >= at);
        if due || notice {
            leader.notice_at = None;
        }
        if !(due || read || notice) {
            return;
        }
        let sender = Sender { term: self.term, commit: self.commit, round: leader.round, log: &self.log };
        let mut requests = Vec::new();
        for (&node, peer) in &mut leader.progress {
            let told = peer.told_commit >= self.commit.min(peer.matched);
            if due || read || !told {
                peer.time_round(sender.round, self.now);
                requests.push((node, sender.heartbeat(peer)));
            }
        }
        self.send_appends(requests);
    }

    fn hears_majority(&self) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        let nanos = |time: Time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let heard = |voter| {
            if voter == self.local.node {
                nanos(self.now)
            } else {
                leader.progress.get(&voter).map_or(0, |peer| nanos(peer.heard_at))
            }
        };
        let majority_heard = self.quorum(heard);
        nanos(self.now).saturating_sub(majority_heard) < nanos(self.config.election_timeout)
    }

    /// Entries for every peer that has room for them.
    pub(super) fn emit_appends(&mut self, ready: &mut Ready) {
        let level = self.needed_level();
        let Role::Leader(leader) = &mut self.role else { return };
        let sender = Sender { term: self.term, commit: self.commit, round: leader.round, log: &self.log };
        let mut requests = Vec::new();
        // Who cannot read what is in the log is asked by heartbeats only, until it runs a newer version.
        for (&node, peer) in leader.progress.iter_mut().filter(|(_, peer)| !peer.is_older_than(level)) {
            let active = self.now < peer.heard_at.saturating_add(self.config.election_timeout);
            while let Some(request) = sender.append(peer, active, &self.config) {
                requests.push((node, request));
            }
            peer.drop_stale_fetch();
            if let Some(fetch) = sender.fetch(node, peer, active, &self.config) {
                ready.fetches.push(fetch);
            }
        }
        self.send_appends(requests);
    }

    fn send_appends(&mut self, requests: Vec<(NodeId, AppendRequest)>) {
        for (node, mut request) in requests {
            if self.has(Planted::CommitBeyondMatch) {
                request.commit = self.commit;
            }
            if let Some(peer) = self.peer(node) {
                self.send(peer, Message::AppendRequest(request));
            }
        }
    }
}

/// Makes the appends of one leader at one moment.
struct Sender<'a> {
    term: Term,
    commit: Index,
    round: u64,
    log: &'a Log,
}

impl Sender<'_> {
    fn request(&self, peer: &mut Progress, prev: EntryId, entries: Vec<Entry>) -> AppendRequest {
        // Never beyond what this message lets the follower know its log to match.
        let commit = self.commit.min(prev.index + entries.len() as Index);
        // Nor into an earlier lineage: a new node would take itself for one of those, and this one's leader for a stranger.
        let commit = if commit < self.log.lineage_start() { 0 } else { commit };
        peer.told_commit = peer.told_commit.max(commit);
        AppendRequest { term: self.term, prev, entries, commit, round: self.round }
    }

    /// An append without entries: at the match, so that it holds whatever is in flight; while probing, at the probe.
    fn heartbeat(&self, peer: &mut Progress) -> AppendRequest {
        let index = match peer.flow {
            Flow::Probe { .. } => peer.next - 1,
            Flow::Replicate | Flow::Snapshot { .. } => peer.matched,
        };
        let prev = self.log.term(index).map_or(EntryId::ZERO, |term| EntryId::new(term, index));
        self.request(peer, prev, Vec::new())
    }

    /// The next append, if one may be sent and its entries are at hand.
    fn append(&self, peer: &mut Progress, active: bool, config: &Config) -> Option<AppendRequest> {
        if !self.may_send(peer, active, config) {
            return None;
        }
        let prev_index = peer.next - 1;
        let prev = EntryId::new(self.log.term(prev_index)?, prev_index);
        let last = self.log.last_index();
        let (entries, bytes) = match self.log.slice(peer.next, last, config.max_append_bytes) {
            Some(slice) => slice,
            None => self.fetched(peer)?,
        };
        let last = prev.index + entries.len() as Index;
        peer.inflights.push(Inflight { last, bytes, round: self.round });
        match &mut peer.flow {
            Flow::Probe { sent } => *sent = true,
            Flow::Replicate | Flow::Snapshot { .. } => peer.next = last + 1,
        }
        Some(self.request(peer, prev, entries))
    }

    fn may_send(&self, peer: &Progress, active: bool, config: &Config) -> bool {
        peer.next <= self.log.last_index()
            && !peer.inflights.is_full(config.max_inflight_messages, config.max_inflight_bytes)
            && match peer.flow {
                // The silent are asked by heartbeats only.
                Flow::Probe { sent } => !sent && active,
                Flow::Replicate => true,
                Flow::Snapshot { .. } => false,
            }
    }

    /// Entries that were read back, if they are still the next ones.
    fn fetched(&self, peer: &mut Progress) -> Option<(Vec<Entry>, usize)> {
        if !matches!(peer.fetch, PeerFetch::Here(_)) {
            return None;
        }
        let PeerFetch::Here(entries) = std::mem::take(&mut peer.fetch) else { return None };
        let fits = entries.first().is_some_and(|first| first.index() == peer.next)
            && entries
                .iter()
                .zip(peer.next..)
                .all(|(entry, index)| entry.index() == index && self.log.term(index) == Some(entry.term()));
        fits.then(|| {
            let bytes = entries.iter().map(Entry::bytes).sum();
            (entries, bytes)
        })
    }

    /// What must be read back before the peer can be sent its next entries.
    fn fetch(&self, node: NodeId, peer: &mut Progress, active: bool, config: &Config) -> Option<Fetch> {
        let wanted = self.may_send(peer, active, config)
            && matches!(peer.fetch, PeerFetch::Idle)
            && peer.next > self.log.base().index
            && peer.next < self.log.first_in_memory();
        wanted.then(|| {
            peer.fetch = PeerFetch::Asked;
            Fetch {
                purpose: FetchPurpose::Peer(node),
                range: peer.next..=self.log.first_in_memory() - 1,
                max_bytes: config.max_append_bytes,
            }
        })
    }
}
