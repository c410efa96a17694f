//! The whole protocol as a plain value: no clock, no I/O, no lock, no randomness of its own.
//!
//! *Inputs*: [`step`](Engine::step) a message, [`propose`](Engine::propose), [`read`](Engine::read),
//! [`bootstrap`](Engine::bootstrap). *Completions*: [`written`](Engine::written), [`applied`](Engine::applied),
//! [`fetched`](Engine::fetched), [`snapshot_taken`](Engine::snapshot_taken), [`snapshot_sent`](Engine::snapshot_sent),
//! [`snapshot_received`](Engine::snapshot_received). *Time*: [`deadline`](Engine::deadline) says when [`tick`](Engine::tick) is due.
//! *Output*: [`ready`](Engine::ready), after any of these.

mod candidate;
mod change;
mod durable;
pub mod event;
pub mod explain;
mod follower;
mod founding;
mod invariants;
mod leader;
mod lease;
mod planted;
mod priority;
#[cfg(feature = "testing")]
mod queues;
mod reads;
pub mod ready;
mod sessions;
mod snapshot;
pub mod status;
mod transfer;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

pub use self::change::{ChangeError, ChangeStatus, Wait};
pub use self::event::{Event, FoundingEnd, Refusal, TransferReason};
pub use self::explain::{Finding, Lag};
pub use self::invariants::Violation;
pub(crate) use self::invariants::check_restored;
#[cfg(feature = "testing")]
pub use self::planted::Planted;
#[cfg(feature = "testing")]
pub use self::queues::Queues;
pub use self::ready::{
    Fetch, FetchPurpose, ReadId, ReadReady, Ready, SendSnapshot, SnapshotOutcome, SnapshotRequest,
};
pub use self::sessions::SESSIONS_LEVEL;
pub use self::status::{PeerStatus, RoleName, Status};
pub use self::transfer::TransferError;

use self::candidate::Candidate;
use self::durable::Durable;
use self::follower::Follower;
use self::founding::Founding;
use self::invariants::Summary;
use self::leader::Leader;
use self::lease::Promise;
use self::priority::LostLeaders;
use self::reads::Asks;
use self::snapshot::Snapshots;
use crate::config::{Config, ConfigError};
use crate::log::Log;
use crate::membership::{Membership, MembershipError};
use crate::message::{Dismissal, Envelope, Message};
use crate::progress::PeerFetch;
use crate::random::Random;
use crate::types::{
    Entry, EntryId, GroupId, Incarnation, Index, Level, Lineage, NodeId, Payload, Peer, Term, Time,
};
use crate::write::LogState;

/// What an engine begins with.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// The settings.
    pub config: Config,
    /// The group.
    pub group: GroupId,
    /// This node and its data folder.
    pub local: Peer,
    /// Where random timeouts come from; different on each node and at each start.
    pub seed: u64,
    /// What the log store holds.
    pub state: LogState,
    /// What the state machine holds already; 0 for one that is rebuilt.
    pub applied: Index,
    /// The time.
    pub now: Time,
}

/// One member of one Raft group.
#[derive(Debug)]
pub struct Engine {
    config: Config,
    group: GroupId,
    local: Peer,
    random: Random,
    now: Time,

    term: Term,
    /// Who got the vote in `term`. A promise only once it is durable.
    vote: Option<NodeId>,
    role: Role,
    /// Whom answers go to; this node itself where it leads.
    leader: Option<Peer>,
    /// A vote granted and not told yet, because it is not durable.
    owed_vote: Option<Peer>,
    founding: Option<Founding>,
    /// A member told that this node does not count any more.
    dismissed: Option<Dismissal>,
    lost_leaders: LostLeaders,
    promise: Promise,

    log: Log,
    durable: Durable,
    /// `applied <= applying <= min(commit, durable.index)`.
    commit: Index,
    applying: Index,
    applied: Index,
    /// Handed out to be applied and not applied: last index and bytes of each batch.
    apply_backlog: VecDeque<(Index, usize)>,
    apply_backlog_bytes: usize,
    apply_fetch: ApplyFetch,
    /// Payloads of this level are in what is applied: every member knew it when they were written.
    written_level: Level,
    snapshots: Snapshots,

    next_read: u64,
    asks: Asks,
    failed_reads: Vec<ReadId>,
    outbox: Vec<Envelope>,
    events: Vec<Event>,
    /// Measured and not handed out; one a peer and heartbeat.
    round_trips: Vec<Duration>,
    fatal: Option<Violation>,
    fatal_told: bool,
    before: Summary,
    #[cfg(feature = "testing")]
    planted: Option<Planted>,
    /// The level of an older version, whose part it plays.
    #[cfg(feature = "testing")]
    older_level: Option<Level>,
}

#[derive(Debug)]
enum Role {
    Follower(Follower),
    PreCandidate(Candidate),
    Candidate(Candidate),
    Leader(Box<Leader>),
}

#[derive(Debug, Default)]
enum ApplyFetch {
    #[default]
    Idle,
    Asked,
    Here(Vec<Entry>),
    /// Asked for and, since a snapshot came, of no use.
    Overtaken,
}

/// No term or index comes near: a peer that names one above it is not to be believed.
const NUMBER_LIMIT: u64 = 1 << 62;

/// No honest node is this many terms ahead: taking such a term over would use the numbers up.
const TERM_LEAP_LIMIT: u64 = 1 << 32;

static NOBODY: Membership = Membership::nobody();

impl Engine {
    /// An engine that goes on from `options.state`.
    ///
    /// # Errors
    /// Where the settings make no sense, or the state contradicts itself.
    pub fn new(options: EngineOptions) -> Result<Self, EngineError> {
        let EngineOptions { config, group, local, seed, state, applied, now } = options;
        config.validate()?;
        if local.incarnation == Incarnation::UNKNOWN {
            return Err(EngineError::NoIncarnation);
        }
        check_restored(&state, applied)?;
        let LogState { hard_state, outline, snapshot, last } = state;
        let covered = snapshot.as_ref().map_or(0, |meta| meta.last.index);
        let commit = hard_state.commit.max(applied).max(covered);
        let mut engine = Self {
            random: Random::new(seed),
            now,
            term: hard_state.term,
            vote: hard_state.vote,
            role: Role::default(),
            leader: None,
            owed_vote: None,
            founding: None,
            dismissed: None,
            lost_leaders: LostLeaders::default(),
            promise: Promise::new(config.election_timeout, config.heartbeat_interval),
            durable: Durable::new(hard_state, last),
            log: Log::new(outline, last),
            commit,
            applying: applied,
            applied,
            apply_backlog: VecDeque::new(),
            apply_backlog_bytes: 0,
            apply_fetch: ApplyFetch::Idle,
            written_level: 1,
            snapshots: Snapshots::new(snapshot),
            next_read: 0,
            asks: Asks::new(Random::new(!seed).boot()),
            failed_reads: Vec::new(),
            outbox: Vec::new(),
            events: Vec::new(),
            round_trips: Vec::new(),
            fatal: None,
            fatal_told: false,
            before: Summary::default(),
            #[cfg(feature = "testing")]
            planted: None,
            #[cfg(feature = "testing")]
            older_level: None,
            config,
            group,
            local,
        };
        engine.keep_to_lease();
        engine.become_follower(engine.term, None);
        let alone =
            engine.membership().voters.iter().eq([&local.node]) && engine.membership().outgoing.is_empty();
        engine.promise_after_restart(alone);
        if let (true, Role::Follower(follower)) = (alone && !engine.is_promised(), &mut engine.role) {
            // Nobody else could lead: there is nothing to wait for.
            follower.deadline = now;
        }
        engine.before = engine.summary();
        engine.check();
        Ok(engine)
    }

    /// Takes a message. What it may not say is refused, and noted as [`Event::Refused`].
    pub fn step(&mut self, envelope: Envelope, now: Time) {
        self.set_now(now);
        if self.fatal.is_some() {
            return;
        }
        let from = envelope.from;
        if let Err(reason) = self.admit(&envelope) {
            self.refuse(from, reason);
            return;
        }
        match envelope.message {
            Message::VoteRequest(request) => self.on_vote_request(from, request),
            Message::VoteResponse(response) => self.on_vote_response(from, response),
            Message::AppendRequest(request) => self.on_append_request(from, request),
            Message::AppendResponse(response) => self.on_append_response(from, response),
            Message::TimeoutNow(told) => self.on_timeout_now(from, told),
            Message::Dismissed { membership, dismissal } => self.on_dismissed(from, membership, dismissal),
            Message::ReadRequest(request) => self.on_read_request(from, request),
            Message::ReadResponse(response) => self.on_read_response(from, response),
            Message::IdentityRequest => {
                // Only what a crash cannot undo.
                let founded = self.log.membership().is_some_and(|(index, _)| index <= self.durable.index);
                let last = self.log.last();
                self.send(from, Message::IdentityResponse { founded, last });
                // Who does not know this folder does not take itself for a member.
                if envelope.to.incarnation != Incarnation::UNKNOWN {
                    self.dismiss(from);
                }
            }
            Message::IdentityResponse { founded, last } => self.on_identity_response(from, founded, last),
        }
        self.check();
    }

    fn admit(&self, envelope: &Envelope) -> Result<(), Refusal> {
        let Envelope { group, from, to, lineage, message } = envelope;
        if *group != self.group {
            return Err(Refusal::OtherGroup);
        }
        if to.node != self.local.node || from.node == self.local.node {
            return Err(Refusal::OtherNode);
        }
        if self.lineage().contradicts(*lineage) {
            return Err(Refusal::OtherLineage);
        }
        let asks = matches!(message, Message::IdentityRequest);
        if to.incarnation != self.local.incarnation && !(asks && to.incarnation == Incarnation::UNKNOWN) {
            return Err(Refusal::OtherIncarnation);
        }
        let bound =
            self.membership().nodes.get(&from.node).map_or(Incarnation::UNKNOWN, |info| info.incarnation);
        // Nobody counts on what another folder than the bound one promises. What it asks for is another matter (thesis, 4.1): only who was
        // taken in with it can campaign and lead, and this node's roster may be the older one.
        let promises = matches!(message, Message::VoteResponse(_) | Message::AppendResponse(_));
        if promises && bound.contradicts(from.incarnation) {
            return Err(Refusal::ForeignIncarnation);
        }
        let index = match message {
            Message::AppendRequest(request) => request.prev.index,
            Message::Dismissed { membership, .. } => *membership,
            Message::ReadResponse(response) => response.index,
            _ => 0,
        };
        let term = message.term().unwrap_or(0);
        if index > NUMBER_LIMIT || term > NUMBER_LIMIT || term > self.term.saturating_add(TERM_LEAP_LIMIT) {
            return Err(Refusal::OutOfRange);
        }
        Ok(())
    }

    /// Appends commands to the log, if this node leads: all or none, without gaps. The identity of the first; a command is
    /// done when its index is applied with this term, and lost for good when its index is applied with another.
    ///
    /// # Errors
    /// The commands were not taken, and never will be.
    pub fn propose(&mut self, commands: Vec<Bytes>, now: Time) -> Result<EntryId, ProposeError> {
        self.set_now(now);
        self.may_propose(commands.iter().map(Bytes::len), 0)?;
        let first = EntryId::new(self.term, self.log.last_index() + 1);
        self.append_own(commands.into_iter().map(Payload::Command));
        self.check();
        Ok(first)
    }

    /// Whether commands of these lengths are taken now, each in an entry with `extra` bytes around it.
    fn may_propose(
        &self,
        lengths: impl ExactSizeIterator<Item = usize> + Clone,
        extra: usize,
    ) -> Result<(), ProposeError> {
        if self.fatal.is_some() {
            return Err(ProposeError::Fatal);
        }
        let limit = self.config.max_entry_bytes;
        if let Some(bytes) = lengths.clone().find(|&length| length > limit) {
            return Err(ProposeError::TooLarge { bytes, limit });
        }
        let leader = self.leader();
        let Role::Leader(leading) = &self.role else { return Err(ProposeError::NotLeader { leader }) };
        if lengths.len() == 0 {
            return Err(ProposeError::Empty);
        }
        let bytes: usize = lengths.map(|length| length + extra + Entry::OVERHEAD_BYTES).sum();
        if bytes > self.config.max_uncommitted_bytes {
            return Err(ProposeError::TooLarge { bytes, limit: self.config.max_uncommitted_bytes });
        }
        if let Some(transfer) = leading.transfer.as_ref().filter(|transfer| transfer.is_closed())
            && !self.has(planted::Planted::ProposeDuringTransfer)
        {
            return Err(ProposeError::Transferring { to: transfer.to });
        }
        if leading.uncommitted_bytes.saturating_add(bytes) > self.config.max_uncommitted_bytes {
            return Err(ProposeError::Overloaded);
        }
        Ok(())
    }

    /// The bytes of entries that this node takes now before it is `Overloaded`, overheads counted; no bound where it does not lead.
    pub fn room_for_proposals(&self) -> usize {
        match &self.role {
            Role::Leader(leader) => {
                self.config.max_uncommitted_bytes.saturating_sub(leader.uncommitted_bytes)
            }
            _ => usize::MAX,
        }
    }

    /// Write `number` and all before it are durable.
    pub fn written(&mut self, number: u64, now: Time) {
        self.set_now(now);
        if !self.durable.acknowledge(number, self.now) {
            self.violate("only writes that were handed out are acknowledged", format!("write {number}"));
        }
        self.check();
    }

    /// Everything up to `index` is applied.
    pub fn applied(&mut self, index: Index, now: Time) {
        self.set_now(now);
        if index > self.applying {
            let detail = format!("applied {index}, handed out {}", self.applying);
            self.violate("only entries that were handed out are applied", detail);
            return;
        }
        self.applied = self.applied.max(index);
        while let Some(&(last, bytes)) = self.apply_backlog.front() {
            if last > index {
                break;
            }
            self.apply_backlog_bytes -= bytes;
            self.apply_backlog.pop_front();
        }
        self.release_settled();
        self.check();
    }

    /// The answer to a [`Fetch`]: entries from the start of its range on; none where the range is gone.
    pub fn fetched(&mut self, purpose: FetchPurpose, entries: Vec<Entry>, now: Time) {
        self.set_now(now);
        match (purpose, &mut self.role) {
            (FetchPurpose::Apply, _) => {
                let overtaken = matches!(self.apply_fetch, ApplyFetch::Overtaken);
                self.apply_fetch = if overtaken { ApplyFetch::Idle } else { ApplyFetch::Here(entries) };
            }
            (FetchPurpose::Peer(node), Role::Leader(leading)) => {
                if let Some(peer) = leading.progress.get_mut(&node) {
                    peer.fetch = PeerFetch::Here(entries);
                }
            }
            (FetchPurpose::Peer(_), _) => {}
        }
    }

    /// When [`tick`](Self::tick) is due at the latest, where nothing else comes before.
    pub fn deadline(&self) -> Time {
        if self.fatal.is_some() {
            return Time::MAX;
        }
        let role = match &self.role {
            Role::Follower(follower) => follower.deadline,
            Role::PreCandidate(asking) => asking.deadline.min(asking.ask_at),
            Role::Candidate(candidate) if self.candidacy_is_durable() => {
                candidate.deadline.min(candidate.ask_at)
            }
            Role::Candidate(candidate) => candidate.deadline,
            Role::Leader(leader) => {
                let transfer = leader.transfer.as_ref().map(|transfer| transfer.deadline);
                let due = [leader.notice_at, transfer, leader.change.leaving].into_iter().flatten();
                due.fold(leader.heartbeat_at, Time::min)
            }
        };
        role.min(self.founding_deadline()).min(self.asks.deadline())
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Time) {
        self.set_now(now);
        if self.fatal.is_some() {
            return;
        }
        let due = match &self.role {
            Role::Follower(follower) => self.now >= follower.deadline,
            Role::PreCandidate(candidate) | Role::Candidate(candidate) => self.now >= candidate.deadline,
            Role::Leader(_) => false,
        };
        if due {
            if matches!(self.role, Role::Follower(_)) {
                self.note_lost_leader();
            }
            self.campaign();
        }
        self.check();
    }

    /// How long the last write took, from when the store could begin with it.
    pub const fn write_latency(&self) -> Option<Duration> {
        self.durable.latency
    }

    /// The role.
    pub const fn role(&self) -> RoleName {
        match &self.role {
            Role::Follower(_) => RoleName::Follower,
            Role::PreCandidate(_) => RoleName::PreCandidate,
            Role::Candidate(_) => RoleName::Candidate,
            Role::Leader(_) => RoleName::Leader,
        }
    }

    /// Whether the group's own state was found broken.
    pub const fn is_broken(&self) -> bool {
        self.fatal.is_some()
    }

    /// The term.
    pub const fn term(&self) -> Term {
        self.term
    }

    /// The leader of the term, where it is known.
    pub fn leader(&self) -> Option<NodeId> {
        self.leader.map(|leader| leader.node)
    }

    /// The highest index known to be committed.
    pub const fn commit(&self) -> Index {
        self.commit
    }

    /// The highest index applied.
    pub const fn applied_index(&self) -> Index {
        self.applied
    }

    /// The term of the entry at `index`; `None` where the log holds none.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        self.log.term(index)
    }

    /// The last entry.
    pub fn last(&self) -> EntryId {
        self.log.last()
    }

    /// The configuration in force: the latest in the log, committed or not (paper, 6); nobody where there is none.
    pub fn membership(&self) -> &Membership {
        match (self.log.membership(), &self.founding) {
            (Some((_, membership)), _) => membership,
            (None, Some(founding)) => &founding.membership,
            (None, None) => &NOBODY,
        }
    }

    /// The lineage that this node belongs to: that of the latest configuration that it knows to be committed. One that is not
    /// committed says nothing yet: a founding that loses the race must leave nobody behind.
    pub fn lineage(&self) -> Lineage {
        self.log.membership_at(self.commit).map_or(Lineage::UNKNOWN, |membership| membership.lineage)
    }

    /// The state as others may see it.
    pub fn status(&self) -> Status {
        let peers = match &self.role {
            Role::Leader(leader) => leader
                .progress
                .iter()
                .map(|(&node, peer)| {
                    let status = PeerStatus {
                        matched: peer.matched,
                        next: peer.next,
                        inflight: peer.inflights.len(),
                        inflight_bytes: peer.inflights.bytes(),
                        round_trip: peer.round_trip,
                        active: self.now < peer.heard_at.saturating_add(self.config.election_timeout),
                        priority: peer.priority,
                        snapshot: peer.snapshot(),
                    };
                    (node, status)
                })
                .collect(),
            _ => BTreeMap::new(),
        };
        Status {
            role: self.role(),
            term: self.term,
            vote: self.vote,
            leader: self.leader(),
            commit: self.commit,
            applied: self.applied,
            durable: self.durable.index,
            last: self.log.last(),
            write_latency: self.durable.latency,
            apply_backlog_bytes: self.apply_backlog_bytes,
            priority: self.config.priority,
            transferring: self.transferring(),
            lease: self.lease_until().is_some(),
            base: self.log.base(),
            snapshot: self.snapshots.latest.as_ref().map_or(EntryId::ZERO, |meta| meta.last),
            membership: self.membership().clone(),
            membership_index: self.log.membership().map_or(0, |(index, _)| index),
            change: self.change_status(),
            dismissed: self.dismissal(),
            lineage: self.lineage(),
            peers,
        }
    }

    /// What a majority of the configuration in force reaches.
    fn quorum(&self, number: impl Fn(NodeId) -> u64) -> u64 {
        let membership = self.membership();
        if let Some(wrong) = self.planted_membership(membership) {
            return wrong.quorum(number);
        }
        if self.has(planted::Planted::EvenQuorum) {
            let mut numbers: Vec<u64> = membership.voters.iter().map(|&voter| number(voter)).collect();
            numbers.sort_unstable_by(|a, b| b.cmp(a));
            return numbers.get(numbers.len().saturating_sub(1) / 2).copied().unwrap_or(0);
        }
        membership.quorum(number)
    }

    fn set_now(&mut self, now: Time) {
        self.now = self.now.max(now);
    }

    fn peer(&self, node: NodeId) -> Option<Peer> {
        let info = self.membership().nodes.get(&node)?;
        Some(Peer { node, incarnation: info.incarnation })
    }

    /// Notes that a configuration is known to be committed now, after `before`.
    fn note_commit(&mut self, before: Index) {
        let Some((index, _)) = self.log.membership_entry_at(self.commit) else { return };
        if index > before {
            self.events.push(Event::MembershipCommitted { index });
        }
    }

    /// All other members.
    fn peers(&self) -> impl Iterator<Item = Peer> + '_ {
        self.membership()
            .nodes
            .iter()
            .filter(|(node, _)| **node != self.local.node)
            .map(|(&node, info)| Peer { node, incarnation: info.incarnation })
    }

    fn send(&mut self, to: Peer, message: Message) {
        let lineage = self.lineage();
        self.outbox.push(Envelope { group: self.group, from: self.local, to, lineage, message });
    }

    fn refuse(&mut self, from: Peer, reason: Refusal) {
        self.events.push(Event::Refused { from, reason });
    }

    fn violate(&mut self, rule: &'static str, detail: String) {
        self.fatal.get_or_insert(Violation { rule, detail });
    }

    /// Checks the invariants, of this state and from the one before; in every build.
    fn check(&mut self) {
        self.keep_to_lease();
        let summary = self.summary();
        if let Err(violation) = summary.check(&self.before) {
            self.fatal.get_or_insert(violation);
        }
        self.before = summary;
    }
}

impl Default for Role {
    fn default() -> Self {
        Self::Follower(Follower::default())
    }
}

/// Why an engine cannot begin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The settings make no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The stored state contradicts itself.
    #[error(transparent)]
    State(#[from] Violation),
    /// The data folder has no mark.
    #[error("this node's incarnation is unknown: claim the log store first")]
    NoIncarnation,
}

/// Why commands were not taken. They never will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// Another node leads, or none.
    #[error("this node does not lead")]
    NotLeader {
        /// The leader, where it is known.
        leader: Option<NodeId>,
    },
    /// Too much is uncommitted already; try again later.
    #[error("too much is uncommitted")]
    Overloaded,
    /// Leadership is being handed to another node: propose there, or here again if it does not take over.
    #[error("leadership is being handed to node {to}")]
    Transferring {
        /// The other node.
        to: NodeId,
    },
    /// There is no command.
    #[error("there is no command")]
    Empty,
    /// Not every member is known to understand what was proposed.
    #[error("not every member is known to understand payloads of level {level}")]
    NotKnown {
        /// The level that it came with.
        level: Level,
    },
    /// A command is longer than `max_entry_bytes`, or all together than `max_uncommitted_bytes`.
    #[error("{bytes} bytes are too large: at most {limit}")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The group has stopped.
    #[error("the group has stopped")]
    Fatal,
}

/// Why a read was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// Another node leads, or none.
    #[error("this node does not lead")]
    NotLeader {
        /// The leader, where it is known.
        leader: Option<NodeId>,
    },
    /// Too many reads wait already; try again later.
    #[error("too many reads wait")]
    Overloaded,
    /// The group has stopped.
    #[error("the group has stopped")]
    Fatal,
}

/// Why no snapshot is taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// There is nothing to take one of.
    #[error("nothing is committed on this node yet")]
    Nothing,
    /// The group has stopped.
    #[error("the group has stopped")]
    Fatal,
}

/// Why a cluster was not founded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BootstrapError {
    /// This node has a log: it belongs to a cluster.
    #[error("this node already belongs to a cluster")]
    NotBlank,
    /// The members make no configuration.
    #[error(transparent)]
    Invalid(MembershipError),
    /// This node is not among the members.
    #[error("this node is not among the members")]
    NotMember,
    /// The group has stopped.
    #[error("the group has stopped")]
    Fatal,
}
