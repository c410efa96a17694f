//! What the protocol must do, sentence by sentence: S1 to S10, the paper's central sentences, each with a test named after
//! its number. A small cluster on `testing::Cluster`, whose invariants are checked at every output.

#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use raft_core::engine::{Ready, RoleName};
use raft_core::log_store::LogState;
use raft_core::message::{AppendOutcome, Envelope, Message};
use raft_core::testing::Cluster;
use raft_core::testing::disk::{Image, entries_of_terms};
use raft_core::types::{Entry, EntryId, HardState, Payload, Term, Time};
use raft_core::{Config, NodeId};

/// A cluster whose messages and writes go through at once, unless a test holds them back. Nodes are named 1 to n.
struct Bench {
    cluster: Cluster,
    now: Time,
    network: Vec<Envelope>,
    /// Every message that was ever sent.
    sent: Vec<Envelope>,
    /// Nodes that no message reaches or leaves.
    cut: BTreeSet<u64>,
    /// Nodes whose writes are held back.
    slow_disks: BTreeSet<u64>,
    applied: BTreeMap<u64, Vec<Entry>>,
    reads: Vec<u64>,
}

impl Bench {
    fn new(size: u64) -> Self {
        Self::with_logs(&vec![&[] as &[Term]; size as usize], 0)
    }

    /// Nodes whose logs hold entries of the given terms, all in `term`. Without pre-vote and check-quorum, as in the paper.
    fn with_logs(logs: &[&[Term]], term: Term) -> Self {
        let mut config = Config::default();
        config.pre_vote = false;
        config.check_quorum = false;
        let mut cluster = Cluster::founded(logs.len(), &config);
        for (place, terms) in logs.iter().enumerate() {
            let LogState { outline, .. } = cluster.nodes[place].disk.image().state();
            let hard_state = HardState { term, ..HardState::default() };
            cluster.preload(place, Image::of(hard_state, outline, entries_of_terms(terms)));
            cluster.start(place, 1, Duration::ZERO).unwrap();
        }
        Self {
            cluster,
            now: Duration::ZERO,
            network: Vec::new(),
            sent: Vec::new(),
            cut: BTreeSet::new(),
            slow_disks: BTreeSet::new(),
            applied: BTreeMap::new(),
            reads: Vec::new(),
        }
    }

    fn size(&self) -> u64 {
        self.cluster.nodes.len() as u64
    }

    fn pump(&mut self, node: u64) -> bool {
        let place = node as usize - 1;
        let ready = self.cluster.ready(place, self.now).unwrap();
        let any = !ready.is_empty();
        let Ready { messages, write, apply, fetches, reads, .. } = ready;
        self.sent.extend(messages.iter().cloned());
        self.network.extend(messages);
        self.reads.extend(reads.iter().map(|read| read.index));
        for fetch in fetches {
            let entries = self.cluster.nodes[place].disk.image().read(&fetch.range, fetch.max_bytes);
            self.cluster.nodes[place].engine_mut().unwrap().fetched(fetch.purpose, entries, self.now);
        }
        if let Some(last) = apply.last().map(Entry::index) {
            self.applied.entry(node).or_default().extend(apply);
            self.cluster.nodes[place].engine_mut().unwrap().applied(last, self.now);
        }
        if let Some(write) = write
            && !self.slow_disks.contains(&node)
        {
            self.cluster.written(place, write.number, self.now).unwrap();
        }
        any
    }

    /// Lets everything happen that can without time passing.
    fn settle(&mut self) {
        loop {
            let mut moved = false;
            for node in 1..=self.size() {
                moved |= self.pump(node);
            }
            for envelope in std::mem::take(&mut self.network) {
                moved = true;
                let (from, to) = (envelope.from.node.0, envelope.to.node.0);
                if !self.cut.contains(&from)
                    && !self.cut.contains(&to)
                    && let Some(engine) = self.cluster.nodes[to as usize - 1].engine_mut()
                {
                    engine.step(envelope, self.now);
                    self.pump(to);
                }
            }
            if !moved {
                return;
            }
        }
    }

    fn finish_writes(&mut self, node: u64) {
        self.slow_disks.remove(&node);
        let place = node as usize - 1;
        let last = self.cluster.nodes[place].disk.in_flight().last();
        if let Some(last) = last {
            self.cluster.written(place, last, self.now).unwrap();
        }
        self.settle();
    }

    fn wait(&mut self, milliseconds: u64, node: u64) {
        self.now += Duration::from_millis(milliseconds);
        self.cluster.nodes[node as usize - 1].engine_mut().unwrap().tick(self.now);
        self.settle();
    }

    /// A node campaigns, as after a silence; nobody else does.
    fn campaign(&mut self, node: u64) {
        self.wait(1_000, node);
    }

    /// The leader's heartbeats, often enough to find lost appends.
    fn heartbeats(&mut self, leader: u64) {
        for _ in 0..4 {
            self.wait(50, leader);
        }
    }

    fn propose(&mut self, node: u64, command: &'static str) -> EntryId {
        let commands = vec![Bytes::from(command)];
        let id =
            self.cluster.nodes[node as usize - 1].engine_mut().unwrap().propose(commands, self.now).unwrap();
        self.settle();
        id
    }

    fn role(&self, node: u64) -> RoleName {
        self.cluster.nodes[node as usize - 1].engine().unwrap().role()
    }

    fn commit(&self, node: u64) -> u64 {
        self.cluster.nodes[node as usize - 1].engine().unwrap().commit()
    }

    /// The terms of a node's durable entries.
    fn log(&self, node: u64) -> Vec<Term> {
        self.cluster.nodes[node as usize - 1].disk.image().entries().iter().map(Entry::term).collect()
    }

    fn commands(&self, node: u64) -> Vec<Bytes> {
        let entries = self.applied.get(&node).map_or(&[] as &[Entry], Vec::as_slice);
        let command = |entry: &Entry| match &entry.payload {
            Payload::Command(command) => Some(command.clone()),
            _ => None,
        };
        entries.iter().filter_map(command).collect()
    }
}

/// The leader of figure 7, and its followers a to f.
const LEADER: &[Term] = &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6];
const FOLLOWERS: [&[Term]; 6] = [
    &[1, 1, 1, 4, 4, 5, 5, 6, 6],
    &[1, 1, 1, 4],
    &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
    &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
    &[1, 1, 1, 4, 4, 4, 4],
    &[1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
];

#[test]
fn s1_candidates_send_vote_requests_and_leaders_send_append_entries() {
    let mut bench = Bench::new(3);
    bench.campaign(1);
    bench.propose(1, "a");
    let before_heartbeat = bench.sent.len();
    bench.wait(50, 1);
    for (place, envelope) in bench.sent.iter().enumerate() {
        match &envelope.message {
            Message::VoteRequest(_) => assert_eq!(envelope.from.node, NodeId(1), "only the candidate asks"),
            Message::AppendRequest(append) => {
                assert_eq!(envelope.from.node, NodeId(1), "only the leader appends");
                let heartbeat = place >= before_heartbeat;
                assert_eq!(append.entries.is_empty(), heartbeat, "{append:?}");
            }
            Message::VoteResponse(_) | Message::AppendResponse(_) => {
                assert_eq!(envelope.to.node, NodeId(1), "others only answer");
            }
            other => panic!("a third kind of message: {other:?}"),
        }
    }
}

#[test]
fn s2_entries_are_numbered_without_gaps_and_carry_term_and_command() {
    let mut bench = Bench::new(3);
    bench.campaign(1);
    let first = bench.propose(1, "a");
    let second = bench.propose(1, "b");
    assert_eq!((first, second), (EntryId::new(1, 2), EntryId::new(1, 3)));
    for node in 1..=3 {
        let entries = bench.cluster.nodes[node - 1].disk.image().entries();
        let ids: Vec<EntryId> = entries.iter().map(|entry| entry.id).collect();
        assert_eq!(ids, (1..=3).map(|index| EntryId::new(1, index)).collect::<Vec<_>>());
        assert_eq!(entries[1].payload, Payload::Command("a".into()));
        assert_eq!(entries[2].payload, Payload::Command("b".into()));
    }
}

#[test]
fn s3_committed_entries_are_durable_and_every_machine_executes_the_same() {
    let mut bench = Bench::new(3);
    bench.campaign(1);
    bench.slow_disks.extend([2, 3]);
    let id = bench.propose(1, "a");
    assert!(bench.commit(1) < id.index, "on one disk of three it is not committed");
    bench.finish_writes(2);
    assert_eq!(bench.commit(1), id.index, "on two of three it is, and all before it");
    bench.finish_writes(3);
    bench.heartbeats(1);
    let executed: Vec<_> = (1..=3).map(|node| bench.applied[&node].clone()).collect();
    assert!(executed.iter().all(|entries| *entries == executed[0]));
    assert_eq!(executed[0].iter().map(Entry::index).collect::<Vec<_>>(), vec![1, 2]);
    // No other entry is ever committed at its index, whoever leads later.
    bench.campaign(3);
    bench.heartbeats(3);
    assert_eq!(bench.cluster.invariants.committed()[..2], [EntryId::new(1, 1), id]);
}

#[test]
fn s4_a_majority_commits_and_what_is_not_answered_is_repeated() {
    let mut bench = Bench::new(3);
    bench.campaign(1);
    bench.cut.insert(3);
    let before = bench.sent.len();
    let id = bench.propose(1, "a");
    let receivers: BTreeSet<u64> = bench.sent[before..]
        .iter()
        .filter(|e| matches!(&e.message, Message::AppendRequest(m) if !m.entries.is_empty()))
        .map(|e| e.to.node.0)
        .collect();
    assert_eq!(receivers, BTreeSet::from([2, 3]), "sent to all others at once");
    assert_eq!(bench.commit(1), id.index, "the answer of one of two is a majority");
    assert_eq!(bench.commands(1), ["a"], "the leader applies it");
    assert!(bench.commands(2).is_empty(), "a follower learns of it from a later append");
    bench.wait(50, 1);
    assert_eq!(bench.commands(2), ["a"]);
    // Node 3 missed it: the leader repeats it until it answers.
    bench.cut.clear();
    bench.heartbeats(1);
    assert_eq!(bench.commands(3), ["a"]);
}

#[test]
fn s5_the_six_followers_of_figure_7_get_the_leaders_log() {
    for follower in FOLLOWERS {
        let mut bench = Bench::with_logs(&[LEADER, follower, LEADER], 7);
        bench.campaign(1);
        bench.heartbeats(1);
        assert_eq!(bench.role(1), RoleName::Leader);
        let expected: Vec<Term> = LEADER.iter().copied().chain([8]).collect();
        assert_eq!(bench.log(2), expected, "from {follower:?}");
        assert_eq!(bench.applied[&1], bench.applied[&2]);
    }
    // All of them at once, as in the figure: a, b, e and f elect the leader; c and d have the longer logs.
    let mut logs = vec![LEADER];
    logs.extend(FOLLOWERS);
    let mut bench = Bench::with_logs(&logs, 7);
    bench.campaign(1);
    bench.heartbeats(1);
    assert_eq!(bench.role(1), RoleName::Leader);
    for node in 2..=7 {
        assert_eq!(bench.log(node), bench.log(1), "node {node}");
    }
}

#[test]
fn s6_a_leader_holds_all_that_is_committed_and_only_appends() {
    let mut bench = Bench::new(5);
    bench.campaign(1);
    bench.cut.extend([4, 5]);
    let id = bench.propose(1, "a");
    assert_eq!(bench.commit(1), id.index);
    // A node without the entry cannot win; one with it can, and appends to what it holds.
    bench.cut.clear();
    bench.cut.insert(1);
    bench.campaign(4);
    assert_ne!(bench.role(4), RoleName::Leader);
    let before = bench.log(2);
    bench.campaign(2);
    bench.campaign(2);
    assert_eq!(bench.role(2), RoleName::Leader);
    let after = bench.log(2);
    assert_eq!(after[..before.len()], before[..], "the leader kept its log");
    assert_eq!(after.len(), before.len() + 1);
    // Only a follower truncates: node 4 takes the leader's log.
    bench.heartbeats(2);
    assert_eq!(bench.log(4), after);
}

#[test]
fn s7_a_voter_refuses_a_candidate_whose_log_is_less_up_to_date() {
    let cases: [(&[Term], &[Term], bool); 5] = [
        (&[1, 1], &[1, 1], true),
        (&[1, 1, 1], &[1, 1], true),
        (&[1, 1], &[1, 1, 1], false),
        (&[2], &[1, 1, 1], true),
        (&[1, 1, 1], &[2], false),
    ];
    for (candidate, voters, wins) in cases {
        let mut bench = Bench::with_logs(&[candidate, voters, voters], 2);
        bench.campaign(1);
        let request = bench.sent.iter().find_map(|e| match &e.message {
            Message::VoteRequest(request) => Some(*request),
            _ => None,
        });
        let last = EntryId::new(*candidate.last().unwrap(), candidate.len() as u64);
        assert_eq!(request.unwrap().last, last, "the request tells the last entry");
        assert_eq!(bench.role(1) == RoleName::Leader, wins, "{candidate:?} asks {voters:?}");
        for envelope in &bench.sent {
            if let Message::VoteResponse(response) = &envelope.message {
                assert_eq!(response.granted, wins, "{candidate:?} asks {voters:?}");
            }
        }
    }
}

#[test]
fn s8_a_follower_refuses_what_does_not_fit_and_takes_everything_after_the_parting() {
    let mut bench = Bench::with_logs(&[&[1, 1, 3, 3], &[1, 1, 2, 2, 2], &[1, 1, 3, 3]], 3);
    bench.campaign(1);
    let appends: Vec<_> = bench
        .sent
        .iter()
        .filter(|e| e.to.node == NodeId(2))
        .filter_map(|e| match &e.message {
            Message::AppendRequest(append) if !append.entries.is_empty() => Some(append.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(appends[0].prev, EntryId::new(3, 4), "each append names the entry before its own");
    let refused = bench.sent.iter().any(|e| {
        matches!(&e.message, Message::AppendResponse(m) if e.from.node == NodeId(2)
            && matches!(m.outcome, AppendOutcome::Conflict { prev: 4, .. }))
    });
    assert!(refused, "the follower's log differs there");
    assert_eq!(appends[1].prev, EntryId::new(1, 2), "the leader finds where the logs part");
    assert_eq!(appends[1].entries[0].id, EntryId::new(3, 3), "and sends everything after it");
    assert_eq!(bench.log(2), vec![1, 1, 3, 3, 4], "the follower drops its own and takes the leader's");
}

#[test]
fn s9_an_entry_of_an_earlier_term_is_committed_only_by_one_of_the_own_term() {
    // Figure 8 (c) and (e): entry 2.2 comes to be on a majority while nothing of term 4 is on any other node.
    let mut bench = Bench::with_logs(&[&[1, 2], &[1, 2], &[1], &[1], &[1, 3]], 3);
    bench.cut.extend([4, 5]);
    bench.slow_disks.insert(2);
    bench.slow_disks.insert(3);
    bench.campaign(1);
    // The votes of 2 and 3 become durable; then their disks are slow again, so that nothing of term 4 gets on them.
    for voter in [2, 3] {
        let last = bench.cluster.nodes[voter - 1].disk.in_flight().last().unwrap();
        bench.cluster.written(voter - 1, last, bench.now).unwrap();
    }
    bench.settle();
    assert_eq!(bench.role(1), RoleName::Leader);
    // Node 3's next write brings entry 2.2, not 4.3.
    let last = bench.cluster.nodes[2].disk.in_flight().next().unwrap();
    bench.cluster.written(2, last, bench.now).unwrap();
    assert_eq!(bench.log(3), vec![1, 2]);
    bench.pump(3);
    let answers = std::mem::take(&mut bench.network);
    for envelope in answers {
        bench.cluster.nodes[0].engine_mut().unwrap().step(envelope, bench.now);
    }
    bench.pump(1);
    assert!((1..=3).all(|node| bench.log(node).starts_with(&[1, 2])), "2.2 is on three of five disks");
    assert_eq!(bench.commit(1), 0, "and not committed by counting");
    // An entry of term 4 on a majority commits it, and all before it.
    bench.finish_writes(2);
    bench.finish_writes(3);
    bench.heartbeats(1);
    assert_eq!(bench.commit(1), 3);
    assert_eq!(bench.log(2), vec![1, 2, 4]);
}

#[test]
fn s10_a_leader_commits_a_noop_to_learn_what_is_committed() {
    let mut bench = Bench::with_logs(&[&[1, 1], &[1, 1], &[1, 1]], 1);
    bench.slow_disks.extend([2, 3]);
    bench.campaign(1);
    for voter in [2, 3] {
        let last = bench.cluster.nodes[voter - 1].disk.in_flight().last().unwrap();
        bench.cluster.written(voter - 1, last, bench.now).unwrap();
    }
    bench.settle();
    assert_eq!(bench.role(1), RoleName::Leader);
    assert_eq!(bench.commit(1), 0, "it does not know that its entries are committed");
    bench.cluster.nodes[0].engine_mut().unwrap().read(bench.now).unwrap();
    bench.settle();
    assert!(bench.reads.is_empty(), "and serves no read until it does");
    bench.finish_writes(2);
    assert_eq!(bench.commit(1), 3, "without any client's command");
    let noop = bench.applied[&1].last().unwrap();
    assert_eq!((noop.id, &noop.payload), (EntryId::new(2, 3), &Payload::Noop));
    assert_eq!(bench.reads, [3]);
}
