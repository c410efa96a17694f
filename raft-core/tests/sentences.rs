//! What the protocol must do, sentence by sentence: at least one test for each, named after its number. Each runs a
//! small cluster whose messages, disks and clocks the test holds in its hand; the invariants of
//! `raft_core::testing::invariants` are checked after every step.

#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use raft_core::engine::{Event, RoleName};
use raft_core::message::{AppendOutcome, AppendRequest, Envelope, Message, VoteRequest};
use raft_core::testing::Cluster;
use raft_core::testing::disk::{Image, entries_of_terms};
use raft_core::types::{Entry, EntryId, HardState, Index, NodeId, Payload, Term, Time};
use raft_core::{Config, Engine};

/// The logs of the paper's figure 7, by the terms of their entries: the leader of term 8, and the followers (a) to (f).
const FIGURE_7_LEADER: &[Term] = &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6];
const FIGURE_7_FOLLOWERS: [(char, &[Term]); 6] = [
    ('a', &[1, 1, 1, 4, 4, 5, 5, 6, 6]),
    ('b', &[1, 1, 1, 4]),
    ('c', &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6]),
    ('d', &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7]),
    ('e', &[1, 1, 1, 4, 4, 4, 4]),
    ('f', &[1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3]),
];

/// A cluster on a table: nodes are called 1, 2, 3 and so on.
struct Table {
    cluster: Cluster,
    clocks: Vec<Time>,
    network: VecDeque<Envelope>,
    /// Everything ever sent, delivered or not.
    sent: Vec<Envelope>,
    cut: BTreeSet<(u64, u64)>,
    stalled: BTreeSet<u64>,
    applied: BTreeMap<u64, Vec<Entry>>,
    events: Vec<(u64, Event)>,
}

impl Table {
    fn new(size: usize, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        change(&mut config);
        let mut cluster = Cluster::founded(size, &config);
        for place in 0..size {
            cluster.start(place, 0, Time::ZERO).unwrap();
        }
        Self {
            cluster,
            clocks: vec![Time::ZERO; size],
            network: VecDeque::new(),
            sent: Vec::new(),
            cut: BTreeSet::new(),
            stalled: BTreeSet::new(),
            applied: BTreeMap::new(),
            events: Vec::new(),
        }
    }

    /// Three nodes, of which node 1 leads term 1 with its first entry committed everywhere.
    fn led() -> Self {
        Self::led_with(|_| {})
    }

    fn led_with(change: impl FnOnce(&mut Config)) -> Self {
        let mut table = Self::new(3, change);
        table.elect(1);
        table.pass(1, Duration::from_millis(50));
        table.sent.clear();
        table
    }

    fn place(id: u64) -> usize {
        usize::try_from(id - 1).unwrap()
    }

    fn ids(&self) -> Vec<u64> {
        (1..=self.clocks.len() as u64).collect()
    }

    fn engine(&self, id: u64) -> &Engine {
        self.cluster.nodes[Self::place(id)].engine().unwrap()
    }

    fn engine_mut(&mut self, id: u64) -> &mut Engine {
        self.cluster.nodes[Self::place(id)].engine_mut().unwrap()
    }

    /// Replaces a node's log and term, as if it had been so for long.
    fn log(&mut self, id: u64, terms: &[Term], term: Term) {
        let place = Self::place(id);
        self.crash(id);
        let outline = self.cluster.nodes[place].disk.image().state().outline;
        let state = HardState { term, ..HardState::default() };
        self.cluster.preload(place, Image::of(state, outline, entries_of_terms(terms)));
        self.start(id);
    }

    fn crash(&mut self, id: u64) {
        self.cluster.crash(Self::place(id), 0).unwrap();
    }

    fn start(&mut self, id: u64) {
        self.applied.remove(&id);
        let now = self.clocks[Self::place(id)];
        self.cluster.start(Self::place(id), 0, now).unwrap();
    }

    fn cut(&mut self, id: u64) {
        for other in self.ids() {
            self.cut.extend([(id, other), (other, id)]);
        }
    }

    /// Does what a node wants done, until it wants nothing.
    fn pump(&mut self, id: u64) -> bool {
        let place = Self::place(id);
        let now = self.clocks[place];
        let mut any = false;
        loop {
            let ready = self.cluster.ready(place, now).unwrap();
            if ready.is_empty() {
                return any;
            }
            any = true;
            self.events.extend(ready.events.into_iter().map(|event| (id, event)));
            for envelope in ready.messages {
                self.sent.push(envelope.clone());
                if !self.cut.contains(&(id, envelope.to.node.0)) {
                    self.network.push_back(envelope);
                }
            }
            if let Some(last) = ready.apply.last().map(Entry::index) {
                for entry in &ready.apply {
                    self.cluster.nodes[place].applied.apply(entry).unwrap();
                }
                self.applied.entry(id).or_default().extend(ready.apply);
                self.engine_mut(id).applied(last, now);
            }
            for fetch in ready.fetches {
                let entries = self.cluster.nodes[place].disk.image().read(&fetch.range, fetch.max_bytes);
                self.engine_mut(id).fetched(fetch.purpose, entries, now);
            }
            if !self.stalled.contains(&id) {
                self.finish_writes(id);
            }
        }
    }

    /// What is on its way to a node's disk arrives.
    fn finish_writes(&mut self, id: u64) {
        let place = Self::place(id);
        let now = self.clocks[place];
        if let Some(last) = self.cluster.nodes[place].disk.in_flight().last() {
            self.cluster.written(place, last, now).unwrap();
        }
    }

    fn deliver(&mut self, envelope: Envelope) {
        let id = envelope.to.node.0;
        let now = self.clocks[Self::place(id)];
        if let Some(engine) = self.cluster.nodes[Self::place(id)].engine_mut() {
            engine.step(envelope, now);
            self.pump(id);
        }
    }

    /// Delivers everything until nothing moves.
    fn settle(&mut self) {
        loop {
            let mut moved = false;
            for id in self.ids() {
                moved |= self.pump(id);
            }
            while let Some(envelope) = self.network.pop_front() {
                moved = true;
                self.deliver(envelope);
            }
            if !moved {
                return;
            }
        }
    }

    fn tick(&mut self, id: u64, time: Duration) {
        let place = Self::place(id);
        self.clocks[place] += time;
        let now = self.clocks[place];
        self.engine_mut(id).tick(now);
        self.pump(id);
    }

    fn pass(&mut self, id: u64, time: Duration) {
        self.tick(id, time);
        self.settle();
    }

    /// A heartbeat interval passes; messages with entries are lost.
    fn pass_without_entries(&mut self, id: u64) {
        self.tick(id, Duration::from_millis(50));
        while let Some(envelope) = self.network.pop_front() {
            if !matches!(&envelope.message, Message::AppendRequest(m) if !m.entries.is_empty()) {
                self.deliver(envelope);
            }
        }
    }

    /// A node's election timeout passes; nobody else's leader has been heard for as long.
    fn elect(&mut self, id: u64) {
        for other in self.ids() {
            if other != id {
                self.clocks[Self::place(other)] += Config::default().election_timeout;
            }
        }
        self.pass(id, 2 * Config::default().election_timeout);
    }

    fn propose(&mut self, id: u64, command: &str) -> EntryId {
        let now = self.clocks[Self::place(id)];
        let entry = self.engine_mut(id).propose(vec![Bytes::from(command.to_owned())], now).unwrap();
        self.pump(id);
        entry
    }

    /// The terms of the entries on a node's disk.
    fn terms(&self, id: u64) -> Vec<Term> {
        self.cluster.nodes[Self::place(id)].disk.image().entries().iter().map(Entry::term).collect()
    }

    fn appends(&self, from: u64, to: u64) -> Vec<AppendRequest> {
        let on_link = |e: &&Envelope| (e.from.node, e.to.node) == (NodeId(from), NodeId(to));
        let append = |e: &Envelope| match &e.message {
            Message::AppendRequest(append) => Some(append.clone()),
            _ => None,
        };
        self.sent.iter().filter(on_link).filter_map(append).collect()
    }

    fn vote_requests(&self, from: u64) -> Vec<VoteRequest> {
        let request = |e: &Envelope| match &e.message {
            Message::VoteRequest(request) if e.from.node == NodeId(from) => Some(*request),
            _ => None,
        };
        self.sent.iter().filter_map(request).collect()
    }

    fn conflicts(&self, from: u64) -> usize {
        let conflict = |e: &&Envelope| {
            e.from.node == NodeId(from)
                && matches!(&e.message, Message::AppendResponse(m) if matches!(m.outcome, AppendOutcome::Conflict { .. }))
        };
        self.sent.iter().filter(conflict).count()
    }

    fn commit(&self, id: u64) -> Index {
        self.engine(id).commit()
    }

    fn leads(&self, id: u64) -> bool {
        self.engine(id).role() == RoleName::Leader
    }

    fn commands_applied(&self, id: u64) -> Vec<String> {
        let command = |entry: &Entry| match &entry.payload {
            Payload::Command(command) => Some(String::from_utf8(command.to_vec()).unwrap()),
            _ => None,
        };
        self.applied.get(&id).into_iter().flatten().filter_map(command).collect()
    }
}

#[test]
fn s1_two_kinds_of_messages_do_it_all() {
    let mut table = Table::new(3, |config| config.pre_vote = false);
    table.elect(1);
    table.propose(1, "a");
    table.settle();
    table.pass(1, Duration::from_millis(50));
    let sent =
        |wanted: fn(&Message) -> bool| table.sent.iter().filter(|e| wanted(&e.message)).collect::<Vec<_>>();
    let requests = sent(|m| matches!(m, Message::VoteRequest(_)));
    let entries = sent(|m| matches!(m, Message::AppendRequest(m) if !m.entries.is_empty()));
    let heartbeats = sent(|m| matches!(m, Message::AppendRequest(m) if m.entries.is_empty()));
    let answers = sent(|m| matches!(m, Message::VoteResponse(_) | Message::AppendResponse(_)));
    assert_eq!(requests.len() + entries.len() + heartbeats.len() + answers.len(), table.sent.len());
    // The candidate asks; the leader replicates, and shows that it lives.
    assert!(requests.iter().chain(&entries).chain(&heartbeats).all(|e| e.from.node == NodeId(1)));
    assert_eq!((requests.len(), entries.len()), (2, 4));
    assert!(!heartbeats.is_empty());
    assert_eq!(table.commands_applied(3), ["a"]);
}

#[test]
fn s2_entries_are_numbered_without_gaps_and_carry_term_and_command() {
    let mut table = Table::led();
    assert_eq!(table.propose(1, "a"), EntryId::new(1, 2));
    assert_eq!(table.propose(1, "b"), EntryId::new(1, 3));
    table.settle();
    table.elect(2);
    assert_eq!(table.propose(2, "c"), EntryId::new(2, 5));
    table.settle();
    table.pass(2, Duration::from_millis(50));
    for id in table.ids() {
        let disk = table.cluster.nodes[Table::place(id)].disk.image();
        let held: Vec<(Term, Index)> = disk.entries().iter().map(|e| (e.term(), e.index())).collect();
        assert_eq!(held, [(1, 1), (1, 2), (1, 3), (2, 4), (2, 5)], "node {id}");
        assert_eq!(disk.entry(3).unwrap().payload, Payload::Command(Bytes::from("b")));
        assert_eq!(table.commands_applied(id), ["a", "b", "c"]);
    }
}

#[test]
fn s3_a_committed_entry_is_durable_and_stays_and_all_before_it_are_committed() {
    let mut table = Table::led();
    table.cut(3);
    table.stalled = BTreeSet::from([1, 2]);
    let (first, second) = (table.propose(1, "a"), table.propose(1, "b"));
    table.settle();
    // Both nodes have it in memory, and that is not enough; one disk of three neither.
    assert_eq!(table.commit(1), 1);
    table.stalled.remove(&1);
    table.finish_writes(1);
    table.settle();
    assert_eq!(table.commit(1), 1);
    assert_eq!(table.commands_applied(1), Vec::<String>::new());
    table.stalled.clear();
    table.finish_writes(2);
    table.settle();
    assert_eq!(table.commit(1), second.index);
    assert_eq!(table.commands_applied(1), ["a", "b"]);
    // Whoever leads next holds both, in their places; the node that missed them gets them and applies the same.
    table.crash(1);
    table.cut.clear();
    table.elect(2);
    table.pass(2, Duration::from_millis(50));
    assert!(table.leads(2));
    for id in [2, 3] {
        assert_eq!(table.cluster.nodes[Table::place(id)].disk.image().term(first.index), Some(1));
        assert_eq!(table.commands_applied(id), ["a", "b"], "node {id}");
    }
}

#[test]
fn s4_replicated_in_parallel_repeated_until_answered_and_committed_by_a_majority() {
    let mut table = Table::led();
    // It goes to both, in one breath with the own write: no disk has it yet.
    table.stalled.insert(1);
    let entry = table.propose(1, "a");
    for follower in [2, 3] {
        let appends = table.appends(1, follower);
        assert_eq!(appends.len(), 1);
        assert_eq!(appends[0].entries[0].id, entry);
    }
    assert_eq!(table.cluster.nodes[0].disk.image().last_index(), 1);
    table.stalled.clear();
    table.finish_writes(1);
    // Both messages are lost. The leader repeats them as long as it is not answered.
    table.network.clear();
    assert_eq!(table.commit(1), 1);
    table.cut(3);
    let mut rounds = 0;
    while table.commit(1) < entry.index {
        rounds += 1;
        assert!(rounds <= 5, "the append is not repeated");
        table.pass(1, Duration::from_millis(50));
    }
    // Its own disk and one follower are a majority: it is applied, and the follower is told by the next append.
    assert_eq!(table.commands_applied(1), ["a"]);
    assert_eq!(table.commands_applied(2), Vec::<String>::new());
    table.propose(1, "b");
    table.settle();
    assert_eq!(table.appends(1, 2).last().unwrap().commit, entry.index);
    assert_eq!(table.commands_applied(2), ["a"]);
    // The one that is cut off is not forgotten either.
    table.cut.clear();
    for _ in 0..5 {
        table.pass(1, Duration::from_millis(50));
    }
    assert_eq!(table.commands_applied(3), ["a", "b"]);
}

#[test]
fn s5_the_six_followers_of_figure_7_get_the_leaders_log() {
    for (name, terms) in FIGURE_7_FOLLOWERS {
        let mut table = Table::new(3, |config| config.pre_vote = false);
        table.log(1, FIGURE_7_LEADER, 7);
        table.log(2, terms, 7);
        table.log(3, FIGURE_7_LEADER, 7);
        table.elect(1);
        table.settle();
        assert!(table.leads(1), "({name})");
        let wanted = [FIGURE_7_LEADER, &[8]].concat();
        assert_eq!(table.terms(2), wanted, "({name})");
        assert_eq!(table.terms(1), wanted, "({name})");
        // Each parts from the leader's log in one place or none: one refusal finds it.
        let refused = usize::from(!matches!(name, 'c' | 'd'));
        assert_eq!(table.conflicts(2), refused, "({name})");
        table.pass(1, Duration::from_millis(50));
        assert_eq!(table.applied[&1], table.applied[&2], "({name})");
    }
}

#[test]
fn s6_a_leader_holds_what_is_committed_and_only_appends() {
    let mut table = Table::led_with(|config| config.check_quorum = false);
    table.cut(3);
    let entry = table.propose(1, "a");
    table.settle();
    assert_eq!(table.commit(1), entry.index);
    // Node 3 lacks the committed entry: it cannot be elected, however often it tries.
    table.crash(1);
    table.cut.clear();
    for _ in 0..3 {
        table.elect(3);
        assert!(!table.leads(3));
    }
    table.elect(2);
    assert!(table.leads(2));
    assert_eq!(table.terms(2), [1, 1, 2]);
    assert_eq!(table.terms(3), [1, 1, 2]);
    // A leader with an entry that its successor lacks keeps it as long as it leads, and drops it as a follower.
    table.start(1);
    table.pass(2, Duration::from_millis(50));
    table.cut(2);
    table.propose(2, "lost");
    table.elect(3);
    assert!(table.leads(2) && table.leads(3));
    assert_eq!(table.terms(2), [1, 1, 2, 2]);
    table.events.clear();
    table.cut.clear();
    table.pass(3, Duration::from_millis(50));
    assert_eq!(table.terms(2), [1, 1, 2, 3]);
    let truncations: Vec<u64> = table
        .events
        .iter()
        .filter(|(_, e)| matches!(e, Event::Truncated { .. }))
        .map(|(id, _)| *id)
        .collect();
    assert_eq!(truncations, [2]);
    assert_eq!(table.engine(2).role(), RoleName::Follower);
}

#[test]
fn s7_a_vote_goes_to_the_log_that_is_at_least_as_up_to_date_and_a_majority_elects() {
    // The candidate's log, the voter's, and whether it gets the vote: the later last term, then the longer log.
    for (own, voter, granted) in [
        (&[1_u64, 2][..], &[1_u64, 1, 1, 1][..], true),
        (&[1, 1, 1, 1], &[1, 2], false),
        (&[1, 2, 2], &[1, 2], true),
        (&[1, 2], &[1, 2, 2], false),
        (&[1, 2], &[1, 2], true),
        (&[], &[1], false),
    ] {
        let mut table = Table::new(3, |config| config.pre_vote = false);
        table.log(1, own, 2);
        table.log(2, voter, 2);
        table.crash(3);
        table.elect(1);
        let last = EntryId::new(own.last().copied().unwrap_or(0), own.len() as Index);
        let requests = table.vote_requests(1);
        assert!(!requests.is_empty());
        assert!(requests.iter().all(|request| (request.term, request.last) == (3, last)), "{requests:?}");
        // With node 3 down, node 2's vote decides.
        assert_eq!(table.leads(1), granted, "{own:?} asks {voter:?}");
    }
    // Of five, the own vote and one other are no majority; a third is.
    let mut table = Table::new(5, |config| config.pre_vote = false);
    for id in [3, 4, 5] {
        table.cut(id);
    }
    table.elect(1);
    assert!(!table.leads(1));
    table.cut.retain(|&(from, to)| ![from, to].contains(&3) || ![from, to].contains(&1));
    table.pass(1, Duration::from_millis(50));
    assert!(table.leads(1));
}

#[test]
fn s8_an_append_names_the_entry_before_and_the_follower_takes_the_leaders_from_where_the_logs_part() {
    let mut table = Table::new(3, |config| config.pre_vote = false);
    table.log(1, &[1, 1, 3, 3], 4);
    table.log(2, &[1, 1, 2, 2, 2], 4);
    table.log(3, &[1, 1, 3, 3], 4);
    table.elect(1);
    let appends = table.appends(1, 2);
    // First the end of the leader's log, which the follower does not hold and refuses; then the first place where the logs
    // part, and everything after it.
    assert_eq!(appends[0].prev, EntryId::new(3, 4));
    assert_eq!(table.conflicts(2), 1);
    assert_eq!(appends[1].prev, EntryId::new(1, 2));
    assert_eq!(appends[1].entries.first().unwrap().id, EntryId::new(3, 3));
    assert_eq!(table.terms(2), [1, 1, 3, 3, 5]);
    let drops: Vec<&Event> =
        table.events.iter().map(|(_, e)| e).filter(|e| matches!(e, Event::Truncated { .. })).collect();
    assert_eq!(drops, [&Event::Truncated { from: EntryId::new(2, 3), last: 5 }]);
    // Each entry names its place: the same append again changes nothing.
    let again = table
        .sent
        .iter()
        .rfind(|e| {
            e.to.node == NodeId(2) && !matches!(&e.message, Message::AppendRequest(m) if m.entries.is_empty())
        })
        .unwrap()
        .clone();
    table.events.clear();
    table.deliver(again);
    assert_eq!(table.terms(2), [1, 1, 3, 3, 5]);
    assert!(table.events.is_empty());
}

#[test]
fn s9_an_old_term_is_not_committed_by_counting_copies_but_through_the_own_term() {
    // Figure 8 (c): node 1 leads term 4 and holds 2.2, as node 2 does. Appends carry one entry each.
    let figure_8 = || {
        let mut table = Table::new(5, |config| {
            config.pre_vote = false;
            config.check_quorum = false;
            config.max_append_bytes = 1;
        });
        for (id, terms) in [(1, &[1_u64, 2][..]), (2, &[1, 2]), (3, &[1]), (4, &[1]), (5, &[1, 3])] {
            table.log(id, terms, 3);
        }
        table.crash(5);
        table.cut(4);
        table.tick(1, 2 * Config::default().election_timeout);
        // Everything is delivered but entries of term 4.
        while let Some(envelope) = table.network.pop_front() {
            let own = |m: &AppendRequest| m.entries.iter().any(|entry| entry.term() == 4);
            let probe = |m: &AppendRequest| m.prev.index == 2 && table.terms(envelope.to.node.0).len() < 2;
            match &envelope.message {
                Message::AppendRequest(m) if own(m) && !probe(m) => {}
                _ => table.deliver(envelope),
            }
        }
        table.pass_without_entries(1);
        assert!(table.leads(1));
        assert_eq!((table.terms(2), table.terms(3)), (vec![1, 2], vec![1, 2]));
        let matched: Vec<Index> = table.engine(1).status().peers.values().map(|peer| peer.matched).collect();
        assert_eq!(matched, [2, 2, 0, 0]);
        // Three of five hold 2.2 on disk, the leader knows it, and it is not committed.
        assert_eq!(table.commit(1), 0);
        table
    };
    // (e): an entry of term 4 on a majority commits it and all before.
    let mut table = figure_8();
    for _ in 0..5 {
        table.pass(1, Duration::from_millis(50));
    }
    assert_eq!(table.terms(2), [1, 2, 4]);
    assert_eq!(table.commit(1), 3);
    table.crash(1);
    table.start(5);
    for _ in 0..3 {
        table.elect(5);
        assert!(!table.leads(5));
    }
    // (d): without it, node 5 wins and overwrites 2.2.
    let mut table = figure_8();
    table.crash(1);
    table.network.clear();
    table.cut.clear();
    table.start(5);
    table.elect(5);
    table.elect(5);
    assert!(table.leads(5));
    assert_eq!((table.terms(2), table.terms(3)), (vec![1, 3, 5], vec![1, 3, 5]));
}

#[test]
fn s10_a_new_leader_learns_what_is_committed_by_a_noop_without_a_client() {
    let mut table = Table::led();
    let entry = table.propose(1, "a");
    table.settle();
    assert_eq!(table.commit(1), entry.index);
    // Node 2 holds the entry, was not told that it is committed, and leads.
    table.crash(1);
    assert_eq!(table.commit(2), 1);
    table.cut.insert((3, 2));
    table.tick(3, Config::default().election_timeout);
    table.cut.clear();
    table.sent.clear();
    table.tick(2, 2 * Config::default().election_timeout);
    while !table.leads(2) {
        let envelope = table.network.pop_front().unwrap();
        table.deliver(envelope);
    }
    assert_eq!(table.commit(2), 1);
    let first = table.appends(2, 3).remove(0);
    assert_eq!(first.entries.len(), 1);
    assert_eq!(first.entries[0].payload, Payload::Noop);
    assert_eq!(first.entries[0].id, EntryId::new(2, 3));
    // The no-op on a majority is all that it takes: no client has said anything.
    table.settle();
    assert_eq!(table.commit(2), 3);
    assert_eq!(table.commands_applied(2), ["a"]);
}
