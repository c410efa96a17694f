//! The engine by itself: a cluster whose disks and network do at once what they are asked.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use raft_core::engine::{EngineOptions, RoleName};
use raft_core::log_store::LogState;
use raft_core::message::{AppendOutcome, AppendRequest, AppendResponse, Envelope, Message, VoteResponse};
use raft_core::types::{Entry, Lineage, Outline, Peer, Time};
use raft_core::{Config, Engine, EntryId, GroupId, Incarnation, Membership, NodeId, NodeInfo};

struct Cluster {
    now: Time,
    nodes: BTreeMap<NodeId, (Engine, Vec<Entry>)>,
}

impl Cluster {
    fn new(size: u64) -> Self {
        let now = Duration::from_secs(1);
        let nodes = (1..=size)
            .map(|id| {
                let options = EngineOptions {
                    config: Config::default(),
                    group: GroupId(0),
                    local: Peer { node: NodeId(id), incarnation: Incarnation(100 + id) },
                    seed: id,
                    state: LogState::default(),
                    applied: 0,
                    now,
                };
                (NodeId(id), (Engine::new(options).unwrap(), Vec::new()))
            })
            .collect();
        Self { now, nodes }
    }

    fn engine(&mut self, id: u64) -> &mut Engine {
        &mut self.nodes.get_mut(&NodeId(id)).unwrap().0
    }

    fn settle(&mut self) {
        let mut messages = Vec::new();
        loop {
            let mut quiet = true;
            for (engine, applied) in self.nodes.values_mut() {
                let ready = engine.ready(self.now);
                assert_eq!(ready.fatal, None);
                quiet &= ready.is_empty();
                messages.extend(ready.messages);
                if let Some(write) = ready.write {
                    engine.written(write.number, self.now);
                }
                if let Some(last) = ready.apply.last() {
                    engine.applied(last.index(), self.now);
                }
                applied.extend(ready.apply);
            }
            for envelope in messages.drain(..) {
                let now = self.now;
                self.nodes.get_mut(&envelope.to.node).unwrap().0.step(envelope, now);
            }
            if quiet {
                return;
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            let next = self.nodes.values().map(|(engine, _)| engine.deadline()).min().unwrap();
            self.now = next.clamp(self.now, end);
            for (engine, _) in self.nodes.values_mut() {
                engine.tick(self.now);
            }
            self.settle();
        }
    }
}

fn members(size: u64) -> BTreeMap<NodeId, NodeInfo> {
    (1..=size)
        .map(|id| (NodeId(id), NodeInfo { address: format!("node{id}:1"), ..NodeInfo::default() }))
        .collect()
}

/// What node 2, running on folder `incarnation`, says to node 1.
fn from_second(incarnation: u64, message: Message) -> Envelope {
    Envelope {
        group: GroupId(0),
        from: Peer { node: NodeId(2), incarnation: Incarnation(incarnation) },
        to: Peer { node: NodeId(1), incarnation: Incarnation(101) },
        lineage: Lineage::UNKNOWN,
        message,
    }
}

#[test]
fn a_founded_cluster_replicates_and_reads() {
    for size in [1, 2, 3, 4, 5, 9] {
        let mut cluster = Cluster::new(size);
        let now = cluster.now;
        cluster.engine(1).bootstrap(members(size), now).unwrap();
        cluster.settle();
        assert_eq!(cluster.engine(1).role(), RoleName::Leader);
        let first = cluster.engine(1).propose(vec![Bytes::from("a"), Bytes::from("b")], now).unwrap();
        let read = cluster.engine(1).read(now).unwrap();
        let ready = cluster.engine(1).ready(now);
        assert_eq!(ready.messages.is_empty(), size == 1);
        if size == 1 {
            assert_eq!(ready.reads[0].id, read);
        }
        let write = ready.write.unwrap();
        for envelope in ready.messages {
            let to = envelope.to.node.0;
            cluster.engine(to).step(envelope, now);
        }
        cluster.engine(1).written(write.number, now);
        cluster.settle();
        cluster.pass(Duration::from_millis(20));
        for (engine, applied) in cluster.nodes.values() {
            assert_eq!(engine.commit(), first.index + 1);
            assert_eq!(applied.len() as u64, first.index + 1);
            assert_eq!(engine.leader(), Some(NodeId(1)));
        }
    }
}

#[test]
fn an_idle_cluster_keeps_its_leader() {
    let mut cluster = Cluster::new(3);
    let now = cluster.now;
    cluster.engine(1).bootstrap(members(3), now).unwrap();
    cluster.settle();
    cluster.pass(Duration::from_secs(30));
    for (engine, _) in cluster.nodes.values() {
        assert_eq!((engine.term(), engine.leader()), (1, Some(NodeId(1))));
    }
}

/// What a leader sends to `to`, and what comes back, with the follower's disk held.
#[test]
fn an_append_that_a_crash_forgot_is_sent_again() {
    let mut cluster = Cluster::new(3);
    let now = cluster.now;
    cluster.engine(1).bootstrap(members(3), now).unwrap();
    cluster.settle();
    let last = cluster.engine(1).last();
    cluster.engine(1).propose(vec![Bytes::from("x")], now).unwrap();
    let _sent = cluster.engine(1).ready(now);
    // Follower 2 says that the entry arrived, forgets it in a crash, and from then on knows only what it had promised.
    let mut asked = Vec::new();
    for step in 1..40_u32 {
        let now = now + step * Duration::from_millis(10);
        let engine = cluster.engine(1);
        engine.tick(now);
        for envelope in engine.ready(now).messages {
            let Message::AppendRequest(AppendRequest { prev, entries, round, .. }) = envelope.message else {
                continue;
            };
            if envelope.to.node != NodeId(2) {
                continue;
            }
            asked.push((prev, entries.len()));
            let received = if step < 6 { last.index + 1 } else { last.index };
            let outcome = AppendOutcome::Accepted { matched: last.index, received };
            let answer = AppendResponse { term: 1, round, outcome, priority: 0, level: 1 };
            engine.step(from_second(102, Message::AppendResponse(answer)), now);
        }
    }
    assert!(asked.contains(&(last, 1)), "{asked:?}");
}

#[test]
fn a_member_wiped_while_the_cluster_is_founded_is_asked_again() {
    let mut cluster = Cluster::new(2);
    let now = cluster.now;
    cluster.engine(1).bootstrap(members(2), now).unwrap();
    let _asked = cluster.engine(1).ready(now);
    cluster
        .engine(1)
        .step(from_second(999, Message::IdentityResponse { founded: false, last: EntryId::ZERO }), now);
    assert_eq!(cluster.engine(1).role(), RoleName::PreCandidate);
    // The folder 999 is gone; the node now runs on the one that the fixture gave it.
    cluster.pass(Duration::from_secs(5));
    let leader = cluster.engine(1).leader();
    assert_eq!(leader, Some(NodeId(1)));
    assert_eq!(cluster.engine(2).leader(), leader);
}

#[test]
fn a_term_from_nowhere_is_not_taken_over() {
    let mut cluster = Cluster::new(3);
    let now = cluster.now;
    cluster.engine(1).bootstrap(members(3), now).unwrap();
    cluster.settle();
    for term in [u64::MAX, 1 << 62, 1 << 40] {
        let response = VoteResponse { term, granted: false, pre_vote: false };
        cluster.engine(1).step(from_second(102, Message::VoteResponse(response)), now);
        assert_eq!((cluster.engine(1).term(), cluster.engine(1).role()), (1, RoleName::Leader));
    }
}

#[test]
fn a_leader_whose_disk_stalls_lets_another_lead() {
    let mut cluster = Cluster::new(3);
    let now = cluster.now;
    cluster.engine(1).bootstrap(members(3), now).unwrap();
    cluster.settle();
    cluster.engine(1).propose(vec![Bytes::from("x")], now).unwrap();
    let stalled = cluster.engine(1).ready(now);
    let stalled_write = stalled.write.unwrap();
    for envelope in stalled.messages {
        let to = envelope.to.node.0;
        cluster.engine(to).step(envelope, now);
    }
    cluster.pass(Duration::from_secs(5));
    let leader = cluster.engine(2).leader().unwrap();
    assert_ne!(leader, NodeId(1));
    assert_eq!(cluster.engine(1).role(), RoleName::Follower);
    // The disk comes back, and with it the node, with all its promises.
    let now = cluster.now;
    cluster.engine(1).written(stalled_write.number, now);
    cluster.settle();
    cluster.pass(Duration::from_secs(1));
    let commit = cluster.engine(leader.0).commit();
    assert_eq!(cluster.engine(1).commit(), commit);
}

/// A request of this leader's own earlier term, delivered late, is answered in the present term: that is no echo of a round of it.
#[test]
fn a_stale_answer_confirms_no_read() {
    let mut cluster = Cluster::new(3);
    let now = cluster.now;
    cluster.engine(1).bootstrap(members(3), now).unwrap();
    cluster.settle();
    let answer = |outcome| {
        from_second(
            102,
            Message::AppendResponse(AppendResponse { term: 1, round: 1, outcome, priority: 0, level: 1 }),
        )
    };
    let read = cluster.engine(1).read(now).unwrap();
    let _heartbeats = cluster.engine(1).ready(now);
    cluster.engine(1).step(answer(AppendOutcome::Stale), now);
    assert!(cluster.engine(1).ready(now).reads.is_empty());
    let last = cluster.engine(1).last().index;
    cluster.engine(1).step(answer(AppendOutcome::Accepted { matched: last, received: last }), now);
    assert_eq!(cluster.engine(1).ready(now).reads[0].id, read);
}

/// What a store gives back may be damaged; counting on from the last number there is would overflow.
#[test]
fn a_state_that_leaves_no_room_to_count_on_is_refused() {
    use raft_core::EntryId;
    use raft_core::types::{HardState, Outline};

    let end = EntryId::new(1, u64::MAX);
    let terms = vec![EntryId::new(1, 1)];
    let full =
        LogState { last: u64::MAX, outline: Outline { terms, ..Outline::default() }, ..LogState::default() };
    let compacted = LogState { outline: Outline { base: end, ..Outline::default() }, ..full.clone() };
    let term =
        LogState { hard_state: HardState { term: u64::MAX, ..HardState::default() }, ..LogState::default() };
    for mut state in [full, compacted, term] {
        state.hard_state.term = state.hard_state.term.max(1);
        let refused = Engine::new(EngineOptions {
            config: Config::default(),
            group: GroupId(0),
            local: Peer { node: NodeId(1), incarnation: Incarnation(101) },
            seed: 1,
            applied: state.outline.base.index,
            state,
            now: Time::ZERO,
        });
        assert!(refused.unwrap_err().to_string().contains("leave room to count on"));
    }
}

#[test]
fn a_higher_priority_campaigns_earlier_and_still_by_chance() {
    let now = Duration::from_secs(1);
    let timeout = Config::default().election_timeout;
    let waits = |priority| -> Vec<Duration> {
        let wait = |seed| {
            let mut config = Config::default();
            config.priority = priority;
            let membership = Membership::of_voters(members(3));
            let outline = Outline { memberships: BTreeMap::from([(0, membership)]), ..Outline::default() };
            let engine = Engine::new(EngineOptions {
                config,
                group: GroupId(0),
                local: Peer { node: NodeId(1), incarnation: Incarnation(101) },
                seed,
                state: LogState { outline, ..LogState::default() },
                applied: 0,
                now,
            });
            engine.unwrap().deadline() - now
        };
        (0..1_000).map(wait).collect()
    };
    for (priority, most) in [(0, 2 * timeout), (128, timeout * 7 / 4), (255, timeout * 151 / 100)] {
        let waits = waits(priority);
        let (shortest, longest) = (waits.iter().min().unwrap(), waits.iter().max().unwrap());
        assert!(*shortest >= timeout && *longest < most, "{priority}: {shortest:?} to {longest:?}");
        // As far apart as two that campaign at once must be, most of the time.
        assert!(*longest - *shortest > (most - timeout) * 9 / 10, "{priority}: {shortest:?} to {longest:?}");
    }
}
