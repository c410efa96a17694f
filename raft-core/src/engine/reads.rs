//! Linearizable reads without a log write: a round of heartbeats proves that the leader still leads, or its lease does (thesis, 6.4). A
//! follower asks its leader for the index, and reads its own state when it has applied it.

use std::collections::{BTreeMap, VecDeque};

use super::planted::Planted;
use super::ready::{ReadId, ReadReady, Ready};
use super::{Engine, ReadError, Role};
use crate::message::{Message, ReadRequest, ReadResponse, ReadTicket};
use crate::types::{Index, NodeId, Peer, Term, Time};

/// Who is to be told a read index.
#[derive(Clone, Copy, Debug)]
enum Reader {
    /// A read on this node.
    Own(ReadId),
    /// The reads of a follower.
    Peer(Peer, ReadTicket),
}

/// Reads on their way through a leader.
#[derive(Debug, Default)]
pub(super) struct Reads {
    /// The lease will do, where there is one.
    by_lease: Vec<Reader>,
    /// Came in and joined no round yet: a round must be sent after the read came.
    waiting: Vec<Reader>,
    /// Rounds sent, oldest first.
    rounds: VecDeque<Round>,
    /// Those on this node.
    count: usize,
    /// What each follower asks, so that what it asks again waits once.
    asked: BTreeMap<NodeId, Vec<ReadTicket>>,
}

#[derive(Debug)]
struct Round {
    number: u64,
    index: Index,
    readers: Vec<Reader>,
}

/// While one round is on its way, reads gather for the next.
const MAX_ROUNDS_IN_FLIGHT: usize = 2;

/// What one follower may ask at a time: what it has under way, and what it had under way before it was restarted.
const MAX_ASKED: usize = 2 * MAX_ROUNDS_IN_FLIGHT;

impl Reads {
    /// How many wait on this node.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// What the follower waits for that asks most.
    #[cfg(feature = "testing")]
    pub(super) fn asked(&self) -> usize {
        self.asked.values().map(Vec::len).max().unwrap_or(0)
    }

    fn push(&mut self, reader: Reader, by_lease: bool) {
        self.count += usize::from(matches!(reader, Reader::Own(_)));
        if by_lease { self.by_lease.push(reader) } else { self.waiting.push(reader) }
    }

    fn push_asked(&mut self, from: Peer, ticket: ReadTicket, by_lease: bool) {
        let asked = self.asked.entry(from.node).or_default();
        if asked.len() < MAX_ASKED && !asked.contains(&ticket) {
            asked.push(ticket);
            self.push(Reader::Peer(from, ticket), by_lease);
        }
    }

    pub(super) fn wants_round(&self) -> bool {
        !self.waiting.is_empty() && self.rounds.len() < MAX_ROUNDS_IN_FLIGHT
    }

    /// All that wait join round `number`, which is sent now; they read at `index`.
    pub(super) fn begin_round(&mut self, number: u64, index: Index) {
        self.rounds.push_back(Round { number, index, readers: std::mem::take(&mut self.waiting) });
    }

    /// The oldest round, if a majority answered it or a later one.
    fn next_confirmed(&mut self, number: u64) -> Option<Round> {
        let round = self.rounds.pop_front_if(|round| round.number <= number)?;
        self.forget(&round.readers);
        Some(round)
    }

    fn take_by_lease(&mut self) -> Vec<Reader> {
        let readers = std::mem::take(&mut self.by_lease);
        self.forget(&readers);
        readers
    }

    fn forget(&mut self, readers: &[Reader]) {
        for reader in readers {
            match reader {
                Reader::Own(_) => self.count -= 1,
                Reader::Peer(from, ticket) => {
                    self.asked.entry(from.node).or_default().retain(|other| other != ticket);
                }
            }
        }
    }

    /// Those on this node.
    pub(super) fn own(self) -> impl Iterator<Item = ReadId> {
        let rounds = self.rounds.into_iter().flat_map(|round| round.readers);
        rounds.chain(self.waiting).chain(self.by_lease).filter_map(|reader| match reader {
            Reader::Own(id) => Some(id),
            Reader::Peer(..) => None,
        })
    }
}

/// Reads that wait on a follower for its leader's word.
#[derive(Debug)]
pub(super) struct Asks {
    boot: u64,
    /// The number of the last ticket.
    number: u64,
    /// Whom they are asked of, and in which term: of nobody else, and in no other.
    of: Option<(Term, Peer)>,
    /// Joined no request yet.
    waiting: Vec<ReadId>,
    /// A lease will do for all of these.
    waiting_by_lease: bool,
    /// Asked, oldest first.
    under_way: VecDeque<Ask>,
    answered: Vec<ReadReady>,
    count: usize,
}

#[derive(Debug)]
struct Ask {
    number: u64,
    by_lease: bool,
    reads: Vec<ReadId>,
    again_at: Time,
}

impl Asks {
    /// None yet; `boot` tells this run of the process from all others.
    pub(super) const fn new(boot: u64) -> Self {
        Self {
            boot,
            number: 0,
            of: None,
            waiting: Vec::new(),
            waiting_by_lease: true,
            under_way: VecDeque::new(),
            answered: Vec::new(),
            count: 0,
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.count
    }

    /// When to ask again.
    pub(super) fn deadline(&self) -> Time {
        self.under_way.iter().map(|ask| ask.again_at).min().unwrap_or(Time::MAX)
    }

    fn push(&mut self, read: ReadId, by_lease: bool) {
        self.count += 1;
        self.waiting_by_lease &= by_lease;
        self.waiting.push(read);
    }

    /// All that have no answer.
    pub(super) fn take_open(&mut self) -> impl Iterator<Item = ReadId> + use<> {
        self.count = 0;
        self.of = None;
        self.waiting_by_lease = true;
        let under_way = std::mem::take(&mut self.under_way).into_iter().flat_map(|ask| ask.reads);
        under_way.chain(std::mem::take(&mut self.waiting))
    }

    /// What is to be asked now: what waits, and what had no answer for a while.
    fn due(&mut self, now: Time, again: Time) -> Vec<(ReadTicket, bool)> {
        if !self.waiting.is_empty() && self.under_way.len() < MAX_ROUNDS_IN_FLIGHT {
            self.number += 1;
            self.under_way.push_back(Ask {
                number: self.number,
                by_lease: std::mem::replace(&mut self.waiting_by_lease, true),
                reads: std::mem::take(&mut self.waiting),
                again_at: now,
            });
        }
        let boot = self.boot;
        let due = self.under_way.iter_mut().filter(|ask| now >= ask.again_at);
        due.map(|ask| {
            ask.again_at = again;
            (ReadTicket { boot, number: ask.number }, ask.by_lease)
        })
        .collect()
    }

    fn answer(&mut self, at: usize, index: Index) {
        let Some(ask) = self.under_way.remove(at) else { return };
        self.count -= ask.reads.len();
        self.answered.extend(ask.reads.into_iter().map(|id| ReadReady { id, index, until: None }));
    }
}

impl Engine {
    /// Begins a linearizable read: it comes out of [`Ready::reads`] or [`Ready::failed_reads`]. On the leader a round confirms it; a
    /// follower asks its leader.
    ///
    /// # Errors
    /// The read was not taken.
    pub fn read(&mut self, now: Time) -> Result<ReadId, ReadError> {
        self.begin_read(false, now)
    }

    /// The same by the leader's lease, where it has one; else as [`read`](Self::read).
    ///
    /// # Errors
    /// The read was not taken.
    pub fn read_by_lease(&mut self, now: Time) -> Result<ReadId, ReadError> {
        self.begin_read(true, now)
    }

    fn begin_read(&mut self, by_lease: bool, now: Time) -> Result<ReadId, ReadError> {
        self.set_now(now);
        if self.fatal.is_some() {
            return Err(ReadError::Fatal);
        }
        let id = ReadId(self.next_read + 1);
        let asked = self.whom_to_ask();
        // What has ended and was not handed out yet still takes its place.
        let ended = self.failed_reads.len() + self.asks.answered.len();
        if let Role::Leader(leading) = &mut self.role {
            if leading.reads.len() + ended >= self.config.max_pending_reads {
                return Err(ReadError::Overloaded);
            }
            leading.reads.push(Reader::Own(id), by_lease);
        } else {
            let leader = asked.ok_or(ReadError::NotLeader { leader: self.leader() })?;
            if self.asks.of != Some((self.term, leader)) {
                self.fail_asks();
                self.asks.of = Some((self.term, leader));
            }
            if self.asks.len() + self.failed_reads.len() + self.asks.answered.len()
                >= self.config.max_pending_reads
            {
                return Err(ReadError::Overloaded);
            }
            self.asks.push(id, by_lease);
        }
        self.next_read += 1;
        Ok(id)
    }

    /// The leader, where this node follows one that it has heard within two election timeouts: by then a voter campaigns, and a
    /// learner, which never does, had better tell that there is nobody to ask.
    fn whom_to_ask(&self) -> Option<Peer> {
        let Role::Follower(follower) = &self.role else { return None };
        let heard = follower.heard_at?;
        let silent = self.now >= heard.saturating_add(2 * self.config.election_timeout);
        self.leader.filter(|_| !silent)
    }

    fn fail_asks(&mut self) {
        self.failed_reads.extend(self.asks.take_open());
    }

    /// What a follower's reads ask of the leader; with another leader, or none, they fail.
    pub(super) fn emit_read_requests(&mut self, ready: &mut Ready) {
        ready.reads.append(&mut self.asks.answered);
        let Some((term, leader)) = self.asks.of.filter(|_| self.asks.len() > 0) else { return };
        if (self.term, self.whom_to_ask()) != (term, Some(leader)) {
            self.fail_asks();
            return;
        }
        let again = self.now.saturating_add(self.config.heartbeat_interval);
        for (ticket, lease) in self.asks.due(self.now, again) {
            self.send(leader, Message::ReadRequest(ReadRequest { term, ticket, lease }));
        }
    }

    /// Only who leads in the term that is asked for knows; others keep silent, and the follower learns of the next leader soon.
    pub(super) fn on_read_request(&mut self, from: Peer, request: ReadRequest) {
        let Role::Leader(leader) = &mut self.role else { return };
        if request.term == self.term && leader.progress.contains_key(&from.node) {
            leader.reads.push_asked(from, request.ticket, request.lease);
        }
    }

    pub(super) fn on_read_response(&mut self, from: Peer, response: ReadResponse) {
        let ReadResponse { term, ticket, index } = response;
        if self.has(Planted::LateReadIndex) {
            self.asks.answer(0, index);
            return;
        }
        // Of this leader in this term, to what this process asked and waits for: what comes late is an answer to nothing.
        if term != self.term || self.asks.of != Some((term, from)) || ticket.boot != self.asks.boot {
            return;
        }
        if let Some(at) = self.asks.under_way.iter().position(|ask| ask.number == ticket.number) {
            self.asks.answer(at, index);
        }
    }

    /// Reads that the lease will do for: answered by it, or, where there is none, by the next round.
    pub(super) fn answer_by_lease(&mut self, ready: &mut Ready) {
        let until = self.lease_until();
        let Role::Leader(leader) = &mut self.role else { return };
        if until.is_none() {
            let mut readers = std::mem::take(&mut leader.reads.by_lease);
            leader.reads.waiting.append(&mut readers);
            return;
        }
        let readers = leader.reads.take_by_lease();
        self.answer_readers(readers, self.commit, until, ready);
    }

    /// Reads whose round a majority answered: this node led when they came.
    pub(super) fn confirm_reads(&mut self, ready: &mut Ready) {
        let Role::Leader(leader) = &self.role else { return };
        if leader.reads.rounds.is_empty() {
            return;
        }
        let answered = |voter| {
            if voter == self.local.node {
                leader.round
            } else {
                leader.progress.get(&voter).map_or(0, |peer| peer.round)
            }
        };
        let confirmed = self.quorum(answered);
        loop {
            let Role::Leader(leader) = &mut self.role else { return };
            let Some(round) = leader.reads.next_confirmed(confirmed) else { return };
            self.answer_readers(round.readers, round.index, None, ready);
        }
    }

    fn answer_readers(&mut self, readers: Vec<Reader>, index: Index, until: Option<Time>, ready: &mut Ready) {
        for reader in readers {
            match reader {
                Reader::Own(id) => ready.reads.push(ReadReady { id, index, until }),
                Reader::Peer(to, ticket) => {
                    let response = ReadResponse { term: self.term, ticket, index };
                    self.send(to, Message::ReadResponse(response));
                }
            }
        }
    }
}
