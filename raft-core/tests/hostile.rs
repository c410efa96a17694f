//! An engine among peers that are who they say and say what they like: any well-formed message, with numbers at the ends of
//! their range and around the engine's own, in between ticks, proposals, reads, restarts, and a disk that takes its time. The engine
//! never panics, never finds its own state broken, keeps the contract of the log store, and holds no more than its limits.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use raft_core::engine::{EngineOptions, Fetch, Ready, RoleName};
use raft_core::message::{
    AppendOutcome, AppendRequest, AppendResponse, Envelope, Message, ReadRequest, ReadResponse, ReadTicket,
    TimeoutNow, VoteRequest, VoteResponse,
};
use raft_core::session::{Serial, SessionAction, SessionEntry, SessionId};
use raft_core::testing::disk::{Disk, Image, entries_of_terms, founded_outline};
use raft_core::types::{Entry, HardState, Lineage, Payload, Peer, Term, Time};
use raft_core::{Config, Engine, EntryId, GroupId, Incarnation, Index, Lease, Membership, NodeId, NodeInfo};

const LOCAL: NodeId = NodeId(1);

fn incarnation(node: u64) -> Incarnation {
    Incarnation(100 + node)
}

fn peer(node: u64) -> Peer {
    Peer { node: NodeId(node), incarnation: incarnation(node) }
}

fn info(node: u64, incarnation: Incarnation) -> (NodeId, NodeInfo) {
    let address = format!("n{node}:1");
    (NodeId(node), NodeInfo { address, client_address: String::new(), incarnation })
}

const LINEAGE: Lineage = Lineage(5);

fn members(nodes: &[u64]) -> Membership {
    let nodes = nodes.iter().map(|&node| info(node, incarnation(node))).collect();
    Membership { lineage: LINEAGE, ..Membership::of_voters(nodes) }
}

/// Small enough that every limit is met.
fn config(pre_vote: bool, check_quorum: bool) -> Config {
    let mut config = Config::default();
    config.pre_vote = pre_vote;
    config.check_quorum = check_quorum;
    config.max_entry_bytes = 300;
    config.max_append_bytes = 400;
    config.max_inflight_messages = 3;
    config.max_inflight_bytes = 1_000;
    config.max_uncommitted_bytes = 2_000;
    config.max_tail_bytes = 500;
    config.max_apply_bytes = 600;
    config.max_write_bytes = 700;
    config.max_pending_reads = 4;
    config
}

/// A number in a message: an end of the range, or something near what the engine itself holds.
#[derive(Clone, Copy, Debug)]
enum Number {
    Exact(u64),
    Term(i8),
    Last(i8),
    LastTerm(i8),
    Commit(i8),
    Durable(i8),
}

impl Number {
    fn of(self, engine: &Engine) -> u64 {
        let (base, offset) = match self {
            Self::Exact(number) => return number,
            Self::Term(offset) => (engine.term(), offset),
            Self::Last(offset) => (engine.last().index, offset),
            Self::LastTerm(offset) => (engine.last().term, offset),
            Self::Commit(offset) => (engine.commit(), offset),
            Self::Durable(offset) => (engine.status().durable, offset),
        };
        base.saturating_add_signed(offset.into())
    }
}

fn extreme() -> impl Strategy<Value = Number> {
    let numbers = vec![
        0,
        1,
        2,
        1 << 31,
        u64::from(u32::MAX),
        1 << 32,
        (1 << 62) - 1,
        1 << 62,
        (1 << 62) + 1,
        1 << 63,
        u64::MAX - 1,
        u64::MAX,
    ];
    prop_oneof![4 => prop::sample::select(numbers), 1 => any::<u64>()].prop_map(Number::Exact)
}

fn term() -> impl Strategy<Value = Number> {
    prop_oneof![
        1 => extreme(),
        30 => Just(Number::Term(0)),
        3 => (-2_i8..3).prop_map(Number::Term),
    ]
}

fn index() -> impl Strategy<Value = Number> {
    prop_oneof![
        1 => extreme(),
        8 => Just(Number::Last(0)),
        6 => (-3_i8..3).prop_map(Number::Last),
        4 => (-3_i8..3).prop_map(Number::Commit),
        2 => (-3_i8..3).prop_map(Number::Durable),
    ]
}

fn term_of_entry() -> impl Strategy<Value = Number> {
    prop_oneof![
        1 => extreme(),
        20 => Just(Number::LastTerm(0)),
        2 => Just(Number::Term(0)),
        1 => (-2_i8..3).prop_map(Number::LastTerm),
    ]
}

/// An entry of an append, by its distance from where it belongs.
#[derive(Clone, Debug)]
struct Sent {
    term: Number,
    skipped: u64,
    payload: Payload,
}

fn sent() -> impl Strategy<Value = Sent> {
    let payload = prop_oneof![
        2 => Just(Payload::Noop),
        6 => (0_usize..900).prop_map(|bytes| Payload::Command(Bytes::from(vec![7; bytes]))),
        1 => membership().prop_map(|membership| Payload::Membership(Box::new(membership))),
        1 => session().prop_map(|session| Payload::Session(Box::new(session))),
    ];
    let skipped = prop_oneof![90 => Just(0), 1 => Just(1), 1 => Just(u64::MAX), 1 => Just(1 << 62)];
    (prop_oneof![12 => Just(Number::Term(0)), 1 => term_of_entry()], skipped, payload)
        .prop_map(|(term, skipped, payload)| Sent { term, skipped, payload })
}

/// A session entry with any numbers.
fn session() -> impl Strategy<Value = SessionEntry> {
    (any::<u64>(), any::<(u64, u64, u64, u64)>(), 0_usize..40).prop_map(
        |(elapsed_ms, (index, mark, number, seen_below), bytes)| {
            let serial = Serial { session: SessionId { index, mark }, number, seen_below };
            let action = SessionAction::Command { serial, command: vec![7; bytes].into() };
            SessionEntry { elapsed_ms, action }
        },
    )
}

/// A configuration, most often one that can be lived in.
fn membership() -> impl Strategy<Value = Membership> {
    let ids = || prop::collection::btree_set((1_u64..7).prop_map(NodeId), 0..6);
    let plain = prop::collection::btree_set(1_u64..6, 1..5)
        .prop_map(|nodes| members(&nodes.into_iter().collect::<Vec<_>>()));
    let any = (ids(), ids(), ids(), ids(), prop::sample::select(vec![0, 101, u64::MAX])).prop_map(
        |(voters, outgoing, learners, named, mark)| {
            let nodes = named.into_iter().map(|node| info(node.0, Incarnation(mark))).collect();
            Membership { voters, outgoing, learners, nodes, lineage: LINEAGE, ..Membership::default() }
        },
    );
    let joint = (prop::collection::btree_set(1_u64..5, 1..4), prop::collection::btree_set(1_u64..5, 1..4))
        .prop_map(|(voters, outgoing)| {
            let all: Vec<u64> = voters.union(&outgoing).copied().collect();
            Membership {
                voters: voters.into_iter().map(NodeId).collect(),
                outgoing: outgoing.into_iter().map(NodeId).collect(),
                ..members(&all)
            }
        });
    let lineage = prop_oneof![9 => Just(LINEAGE), 1 => (0_u64..9).prop_map(Lineage)];
    let lease = (
        prop_oneof![8 => Just(500_000), 1 => prop::num::u64::ANY],
        prop_oneof![8 => Just(1_000), 1 => prop::num::u32::ANY],
    )
        .prop_map(|(election_timeout_micros, clock_drift_ppm)| Lease {
            election_timeout_micros,
            clock_drift_ppm,
        });
    (prop_oneof![8 => plain, 1 => any, 4 => joint], lineage, prop::option::weighted(0.2, lease))
        .prop_map(|(membership, lineage, lease)| Membership { lineage, lease, ..membership })
}

/// What a peer says, its numbers not yet settled.
#[derive(Clone, Debug)]
enum Said {
    VoteRequest { term: Number, last: (Number, Number), pre_vote: bool, transfer: bool },
    VoteResponse { term: Number, granted: bool, pre_vote: bool },
    Append { term: Number, prev: (Number, Number), entries: Vec<Sent>, commit: Number, round: Number },
    Accepted { term: Number, round: Number, matched: Number, received: Number },
    Conflict { term: Number, round: Number, prev: Number, hint: (Number, Number), last: Number },
    Stale { term: Number, round: Number },
    TimeoutNow { term: Number, round: Number },
    ReadRequest { term: Number, boot: Number, number: Number, lease: bool },
    ReadResponse { term: Number, boot: Number, number: Number, index: Number },
    IdentityRequest,
    IdentityResponse(bool, (Number, Number)),
}

fn round() -> impl Strategy<Value = Number> {
    prop_oneof![4 => (0_u64..12).prop_map(Number::Exact), 1 => extreme()]
}

fn said() -> impl Strategy<Value = Said> {
    let id = || (term_of_entry(), index());
    prop_oneof![
        2 => (term(), id(), any::<bool>(), any::<bool>())
            .prop_map(|(term, last, pre_vote, transfer)| Said::VoteRequest { term, last, pre_vote, transfer }),
        3 => (prop_oneof![term(), Just(Number::Term(1))], any::<bool>(), any::<bool>())
            .prop_map(|(term, granted, pre_vote)| Said::VoteResponse { term, granted, pre_vote }),
        6 => (term(), id(), prop::collection::vec(sent(), 0..5), index(), round())
            .prop_map(|(term, prev, entries, commit, round)| Said::Append { term, prev, entries, commit, round }),
        4 => (term(), round(), index(), index())
            .prop_map(|(term, round, matched, received)| Said::Accepted { term, round, matched, received }),
        2 => (term(), round(), index(), id(), index())
            .prop_map(|(term, round, prev, hint, last)| Said::Conflict { term, round, prev, hint, last }),
        1 => (term(), round()).prop_map(|(term, round)| Said::Stale { term, round }),
        2 => (term(), round()).prop_map(|(term, round)| Said::TimeoutNow { term, round }),
        2 => (term(), round(), round(), any::<bool>())
            .prop_map(|(term, boot, number, lease)| Said::ReadRequest { term, boot, number, lease }),
        2 => (term(), round(), round(), index())
            .prop_map(|(term, boot, number, index)| Said::ReadResponse { term, boot, number, index }),
        1 => Just(Said::IdentityRequest),
        1 => (any::<bool>(), id()).prop_map(|(founded, last)| Said::IdentityResponse(founded, last)),
    ]
}

impl Said {
    fn message(self, engine: &Engine) -> Message {
        let number = |number: Number| number.of(engine);
        let id = |(term, index): (Number, Number)| EntryId::new(number(term), number(index));
        let answer = |term, round, outcome| {
            Message::AppendResponse(AppendResponse {
                term: number(term),
                round: number(round),
                outcome,
                priority: 0,
                level: 1,
            })
        };
        match self {
            Self::VoteRequest { term, last, pre_vote, transfer } => {
                Message::VoteRequest(VoteRequest { term: number(term), last: id(last), pre_vote, transfer })
            }
            Self::VoteResponse { term, granted, pre_vote } => {
                Message::VoteResponse(VoteResponse { term: number(term), granted, pre_vote })
            }
            Self::Append { term, prev, entries, commit, round } => {
                let prev = id(prev);
                let mut index = prev.index;
                let entries = entries
                    .into_iter()
                    .map(|sent| {
                        index = index.wrapping_add(1).wrapping_add(sent.skipped);
                        Entry { id: EntryId::new(number(sent.term), index), payload: sent.payload }
                    })
                    .collect();
                let (term, commit, round) = (number(term), number(commit), number(round));
                Message::AppendRequest(AppendRequest { term, prev, entries, commit, round })
            }
            Self::Accepted { term, round, matched, received } => {
                let (matched, received) = (number(matched), number(received));
                answer(term, round, AppendOutcome::Accepted { matched, received })
            }
            Self::Conflict { term, round, prev, hint, last } => {
                let (prev, hint, last) = (number(prev), id(hint), number(last));
                answer(term, round, AppendOutcome::Conflict { prev, hint, last })
            }
            Self::Stale { term, round } => answer(term, round, AppendOutcome::Stale),
            Self::TimeoutNow { term, round } => {
                Message::TimeoutNow(TimeoutNow { term: number(term), round: number(round) })
            }
            Self::ReadRequest { term, boot, number: counted, lease } => {
                let ticket = ReadTicket { boot: number(boot), number: number(counted) };
                Message::ReadRequest(ReadRequest { term: number(term), ticket, lease })
            }
            Self::ReadResponse { term, boot, number: counted, index } => {
                let ticket = ReadTicket { boot: number(boot), number: number(counted) };
                Message::ReadResponse(ReadResponse { term: number(term), ticket, index: number(index) })
            }
            Self::IdentityRequest => Message::IdentityRequest,
            Self::IdentityResponse(founded, last) => Message::IdentityResponse { founded, last: id(last) },
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// From a node on its right or another folder, to this folder or another.
    Hear {
        from: u64,
        right: bool,
        to: u64,
        /// Other than this node's own.
        lineage: Option<u64>,
        said: Said,
    },
    /// All members grant what this node asks, until it leads.
    Elect,
    /// A peer accepts everything.
    Agree {
        from: u64,
    },
    /// A peer leads, and sends so many entries one after another.
    Flood {
        from: u64,
        count: u8,
        bytes: usize,
    },
    /// A leader of a later term overwrites the last entries.
    Overwrite {
        from: u64,
        last: u8,
    },
    /// Wait so many milliseconds, or until the deadline.
    Wait(u16),
    Due,
    Ready,
    /// So many of the writes on their way are durable.
    Written(u8),
    Applied,
    Fetched,
    Propose(u8, usize),
    Read(bool),
    Transfer(Option<u64>),
    /// The process dies with so many of its writes durable, and starts again.
    Restart(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let from = || prop_oneof![10 => 2_u64..4, 1 => prop::sample::select(vec![0, 1, 4, 5, u64::MAX])];
    let right = || prop::bool::weighted(0.95);
    let to = prop_oneof![20 => Just(101_u64), 1 => Just(0), 1 => Just(7)];
    let lineage = prop_oneof![20 => Just(None), 1 => Just(Some(0)), 1 => Just(Some(7)), 1 => any::<u64>().prop_map(Some)];
    prop_oneof![
        14 => (from(), right(), to, lineage, said())
            .prop_map(|(from, right, to, lineage, said)| Step::Hear { from, right, to, lineage, said }),
        1 => (2_u64..4, 1_u8..100, 0_usize..300).prop_map(|(from, count, bytes)| Step::Flood { from, count, bytes }),
        1 => Just(Step::Elect),
        2 => (2_u64..4, 0_u8..5).prop_map(|(from, last)| Step::Overwrite { from, last }),
        3 => (2_u64..4).prop_map(|from| Step::Agree { from }),
        2 => (0_u16..300).prop_map(Step::Wait),
        3 => Just(Step::Due),
        8 => Just(Step::Ready),
        5 => (1_u8..3).prop_map(Step::Written),
        3 => Just(Step::Applied),
        2 => Just(Step::Fetched),
        2 => (0_u8..4, 0_usize..310).prop_map(|(count, bytes)| Step::Propose(count, bytes)),
        2 => any::<bool>().prop_map(Step::Read),
        1 => prop::option::of(0_u64..5).prop_map(Step::Transfer),
        1 => (0_u8..3).prop_map(Step::Restart),
    ]
}

/// An engine and what it was promised.
struct Bench {
    config: Config,
    now: Time,
    engine: Engine,
    disk: Disk,
    /// Handed out to be applied: last index and bytes of each batch.
    applying: VecDeque<(Index, usize)>,
    applied: Index,
    fetches: VecDeque<Fetch>,
    reads: usize,
    commit: Index,
    term: Term,
    heard_since_ready: usize,
}

impl Bench {
    fn new(config: Config, image: Image) -> Self {
        let disk = Disk::new(image);
        let now = Time::from_secs(1);
        let engine = Self::start(&config, &disk, now);
        Self {
            config,
            now,
            engine,
            disk,
            applying: VecDeque::new(),
            applied: 0,
            fetches: VecDeque::new(),
            reads: 0,
            commit: 0,
            term: 0,
            heard_since_ready: 0,
        }
    }

    fn start(config: &Config, disk: &Disk, now: Time) -> Engine {
        Engine::new(EngineOptions {
            config: config.clone(),
            group: GroupId(0),
            local: peer(1),
            seed: 1,
            state: disk.image().state(),
            applied: 0,
            now,
        })
        .unwrap()
    }

    fn hear(&mut self, from: Peer, to: Incarnation, message: Message) {
        self.hear_of(self.engine.lineage(), from, to, message);
    }

    fn hear_of(&mut self, lineage: Lineage, from: Peer, to: Incarnation, message: Message) {
        let to = Peer { node: LOCAL, incarnation: to };
        self.heard_since_ready += 1;
        self.engine.step(Envelope { group: GroupId(0), from, to, lineage, message }, self.now);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Hear { from, right, to, lineage, said } => {
                let message = said.message(&self.engine);
                let mark = if right { Incarnation(from.saturating_add(100)) } else { Incarnation(9) };
                let own = self.engine.lineage();
                let lineage = lineage.map_or(own, Lineage);
                let before = (self.engine.status(), own.contradicts(lineage));
                let from = Peer { node: NodeId(from), incarnation: mark };
                self.hear_of(lineage, from, Incarnation(to), message);
                if before.1 {
                    assert_eq!(
                        self.engine.status(),
                        before.0,
                        "a message of another lineage changed something"
                    );
                }
            }
            Step::Flood { from, count, bytes } => {
                for _ in 0..count {
                    let (term, prev) = (self.engine.term(), self.engine.last());
                    let payload = Payload::Command(Bytes::from(vec![1; bytes]));
                    let entries = vec![Entry { id: EntryId::new(term, prev.index + 1), payload }];
                    let request = AppendRequest { term, prev, entries, commit: prev.index, round: 1 };
                    self.hear(peer(from), incarnation(1), Message::AppendRequest(request));
                }
            }
            Step::Elect => self.elect(),
            Step::Agree { from } => {
                let (term, last) = (self.engine.term(), self.engine.last().index);
                let outcome = AppendOutcome::Accepted { matched: last, received: last };
                let response = Message::AppendResponse(AppendResponse {
                    term,
                    round: 0,
                    outcome,
                    priority: 0,
                    level: 1,
                });
                self.hear(peer(from), incarnation(1), response);
            }
            Step::Overwrite { from, last } => {
                let index = self.engine.last().index.saturating_sub(last.into());
                let Some(before) = self.disk.ahead().term(index) else { return };
                let (term, prev) = (self.engine.term() + 1, EntryId::new(before, index));
                let entries = vec![Entry { id: EntryId::new(term, index + 1), payload: Payload::Noop }];
                let request = AppendRequest { term, prev, entries, commit: index, round: 1 };
                self.hear(peer(from), incarnation(1), Message::AppendRequest(request));
            }
            Step::Wait(millis) => {
                self.now += Duration::from_millis(millis.into());
                self.engine.tick(self.now);
            }
            Step::Due => self.due(),
            Step::Ready => self.ready(),
            Step::Written(count) => self.written(count.into()),
            Step::Applied => {
                if let Some((last, _)) = self.applying.pop_front() {
                    self.applied = last;
                    self.engine.applied(last, self.now);
                }
            }
            Step::Fetched => {
                if let Some(fetch) = self.fetches.pop_front() {
                    let entries = self.disk.image().read(&fetch.range, fetch.max_bytes);
                    self.engine.fetched(fetch.purpose, entries, self.now);
                }
            }
            Step::Propose(count, bytes) => {
                let commands = vec![Bytes::from(vec![5; bytes]); count.into()];
                let _taken_or_refused = self.engine.propose(commands, self.now);
            }
            Step::Read(by_lease) => {
                let read =
                    if by_lease { self.engine.read_by_lease(self.now) } else { self.engine.read(self.now) };
                self.reads += usize::from(read.is_ok());
            }
            Step::Transfer(to) => {
                let _begun_or_refused = self.engine.transfer_leadership(to.map(NodeId), self.now);
            }
            Step::Restart(keep) => {
                let keep = usize::from(keep).min(self.disk.in_flight().len());
                self.disk.crash(keep).unwrap();
                self.engine = Self::start(&self.config, &self.disk, self.now);
                self.applying.clear();
                self.fetches.clear();
                (self.applied, self.reads, self.commit, self.heard_since_ready) = (0, 0, 0, 0);
                // Nothing that left rested on the lost writes.
                self.term = self.engine.term();
            }
        }
        assert!(self.engine.term() >= self.term && self.engine.commit() >= self.commit);
        (self.term, self.commit) = (self.engine.term(), self.engine.commit());
    }

    fn due(&mut self) {
        self.now = self.engine.deadline().clamp(self.now, self.now + Duration::from_secs(10));
        self.engine.tick(self.now);
    }

    fn written(&mut self, count: usize) {
        let number = self.disk.in_flight().take(count).last();
        if let Some(number) = number {
            self.disk.complete(number).unwrap();
            self.engine.written(number, self.now);
        }
    }

    fn elect(&mut self) {
        self.due();
        for _ in 0..6 {
            self.ready();
            self.written(2);
            let pre_vote = self.engine.role() == RoleName::PreCandidate;
            let term = self.engine.term() + u64::from(pre_vote);
            for node in [2, 3] {
                let granted = VoteResponse { term, granted: true, pre_vote };
                self.hear(peer(node), incarnation(1), Message::VoteResponse(granted));
            }
        }
    }

    fn ready(&mut self) {
        let ready = self.engine.ready(self.now);
        assert_eq!(ready.fatal, None);
        self.check_bounds(&ready);
        if let Some(write) = ready.write {
            self.disk.submit(write).unwrap();
        }
        if let Some(last) = ready.apply.last() {
            self.applying.push_back((last.index(), ready.apply.iter().map(Entry::bytes).sum()));
        }
        self.fetches.extend(ready.fetches);
        self.reads -= ready.reads.len() + ready.failed_reads.len();
        self.heard_since_ready = 0;
    }

    fn check_bounds(&self, ready: &Ready) {
        const LARGEST: usize = 1_000;
        let config = &self.config;
        let status = self.engine.status();
        let bytes = |entries: &[Entry]| entries.iter().map(Entry::bytes).sum::<usize>();
        if let Some(write) = &ready.write {
            assert!(bytes(&write.entries) <= config.max_write_bytes + LARGEST);
        }
        assert!(self.disk.in_flight().len() + usize::from(ready.write.is_some()) <= 2);
        let backlog: usize = self.applying.iter().map(|&(_, bytes)| bytes).sum();
        assert!(backlog + bytes(&ready.apply) <= config.max_apply_bytes + LARGEST);
        for (at, entry) in
            (self.applying.back().map_or(self.applied, |&(last, _)| last) + 1..).zip(&ready.apply)
        {
            assert_eq!(entry.index(), at);
            assert_eq!(self.disk.image().entry(at), Some(entry));
        }
        assert!(self.reads <= config.max_pending_reads);
        // An answer a message, and what a peer may be sent at once.
        let others = status.membership.nodes.len() + 2;
        let unasked = others * (config.max_inflight_messages + 3);
        assert!(ready.messages.len() <= self.heard_since_ready + unasked, "{}", ready.messages.len());
        assert!(ready.events.len() <= 3 * self.heard_since_ready + 8 * others + 50);
        for peer in status.peers.values() {
            assert!(peer.inflight <= config.max_inflight_messages);
            assert!(peer.matched < peer.next && peer.next <= status.last.index + 1);
        }
        for envelope in &ready.messages {
            if let Message::AppendRequest(append) = &envelope.message {
                assert!(bytes(&append.entries) <= config.max_append_bytes.max(LARGEST));
            }
        }
        // What is not durable must be in memory: entries without a payload would take this much.
        let pending = usize::try_from(status.last.index - status.durable).unwrap() * Entry::OVERHEAD_BYTES;
        let append = 5 * LARGEST;
        let most =
            2 * config.max_tail_bytes + config.max_uncommitted_bytes.max(config.max_inflight_bytes) + append;
        assert!(pending <= most, "{pending} bytes of entries wait for the disk, {most} at most");
        assert!(self.fetches.len() + ready.fetches.len() <= 8 * others);
    }
}

/// What the disk holds at first.
fn image() -> impl Strategy<Value = Image> {
    let founded = || founded_outline(members(&[1, 2, 3]));
    let with_log = prop::collection::vec(0_u64..3, 0..12).prop_flat_map(move |steps| {
        let terms: Vec<Term> = steps
            .iter()
            .scan(1, |term, step| {
                *term += step;
                Some(*term)
            })
            .collect();
        let last = terms.len() as u64;
        let term = terms.last().copied().unwrap_or(1);
        (Just(terms), prop::sample::select(vec![term, term + 1, 1 << 40, (1 << 62) - 1, 1 << 62]), 0..=last)
            .prop_map(move |(terms, term, commit)| {
                Image::of(HardState { term, vote: None, commit }, founded(), entries_of_terms(&terms))
            })
    });
    prop_oneof![
        1 => Just(Image::default()),
        1 => Just(Image::of(HardState::default(), founded_outline(members(&[1])), Vec::new())),
        6 => with_log,
    ]
}

/// How many runs: more at will, by `RAFT_HOSTILE_RUNS`.
fn runs() -> u32 {
    std::env::var("RAFT_HOSTILE_RUNS").map_or(300, |runs| runs.parse().unwrap())
}

/// A leader that keeps no window cannot fill the memory of a follower whose disk stalls; when the disk is back, so is the follower.
#[test]
fn entries_that_wait_for_the_disk_are_bounded() {
    let image = Image::of(HardState::default(), founded_outline(members(&[1, 2, 3])), Vec::new());
    let mut bench = Bench::new(config(true, true), image);
    let send = |bench: &mut Bench| {
        for _ in 0..1_000 {
            let (term, prev) = (1, bench.engine.last());
            let payload = Payload::Command(Bytes::from_static(&[0; 100]));
            let entries = vec![Entry { id: EntryId::new(term, prev.index + 1), payload }];
            let request = AppendRequest { term, prev, entries, commit: 0, round: 1 };
            bench.hear(peer(2), incarnation(1), Message::AppendRequest(request));
        }
        bench.ready();
        bench.engine.last().index
    };
    let taken = send(&mut bench);
    assert_eq!(taken, 3_000 / 164 + 1);
    assert_eq!(send(&mut bench), taken);
    bench.written(2);
    bench.ready();
    assert!(send(&mut bench) > taken);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: runs(), max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_peers_say_the_engine_goes_on(
        image in image(),
        (pre_vote, check_quorum, founds) in any::<(bool, bool, bool)>(),
        steps in prop::collection::vec(step(), 1..250),
    ) {
        let mut bench = Bench::new(config(pre_vote, check_quorum), image);
        if founds {
            let unknown: BTreeMap<_, _> = (1..4).map(|node| info(node, Incarnation::UNKNOWN)).collect();
            let _only_if_blank = bench.engine.bootstrap(unknown, bench.now);
        }
        for step in steps {
            bench.step(step);
        }
        bench.ready();
    }
}
