//! Engines alone, in one thread: messages are moved, writes are durable at once, commands are applied at once.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_core::engine::{Engine, EngineOptions, Ready, RoleName};
use raft_core::log_store::LogState;
use raft_core::message::Envelope;
use raft_core::types::{GroupId, Incarnation, Index, Peer};
use raft_core::{Config, NodeId, NodeInfo};

use crate::backend::Failure;

/// The engines of one cluster, of three nodes as a rule.
pub struct Trio {
    engines: Vec<Engine>,
    leader: usize,
    /// An engine that nothing reaches, and that does nothing.
    away: Option<usize>,
    now: Duration,
    on_the_way: VecDeque<Envelope>,
    /// Messages moved since the beginning.
    messages: u64,
}

impl Trio {
    /// Founds a cluster of `nodes`.
    ///
    /// # Errors
    /// Where none of them comes to lead.
    pub fn found(nodes: usize) -> Result<Self, Failure> {
        let mut engines = Vec::new();
        let mut members = BTreeMap::new();
        for id in (1..).take(nodes) {
            let (node, incarnation) = (NodeId(id), Incarnation(100 + id));
            let address = format!("node-{id}");
            let info = NodeInfo { address, client_address: String::new(), incarnation: Incarnation::UNKNOWN };
            members.insert(node, info);
            engines.push(Engine::new(EngineOptions {
                config: Config::default(),
                group: GroupId(0),
                local: Peer { node, incarnation },
                seed: id,
                state: LogState::default(),
                applied: 0,
                now: Duration::ZERO,
            })?);
        }
        let mut trio = Self {
            engines,
            leader: 0,
            away: None,
            now: Duration::ZERO,
            on_the_way: VecDeque::new(),
            messages: 0,
        };
        trio.engines.first_mut().ok_or("no engine")?.bootstrap(members, trio.now)?;
        trio.settle();
        for _ in 0..1000 {
            if trio.engines[0].role() == RoleName::Leader {
                return Ok(trio);
            }
            trio.now = trio.engines.iter().map(Engine::deadline).min().unwrap_or(trio.now).max(trio.now);
            for engine in &mut trio.engines {
                engine.tick(trio.now);
            }
            trio.settle();
        }
        Err("no engine leads".into())
    }

    /// Proposes a batch, and lets everything happen that follows from it.
    ///
    /// # Errors
    /// Where the leader does not take it, or it is not applied there afterwards.
    pub fn propose(&mut self, commands: Vec<Bytes>) -> Result<(), Failure> {
        let wanted = self.leader().last().index + commands.len() as Index;
        self.now += Duration::from_nanos(1);
        let now = self.now;
        self.engines[self.leader].propose(commands, now)?;
        self.settle();
        if self.leader().applied_index() < wanted {
            return Err("what was proposed is not applied".into());
        }
        Ok(())
    }

    /// Lets the leader's next deadline come: a heartbeat to each follower, and their answers.
    pub fn heartbeat(&mut self) {
        self.now = self.leader().deadline().max(self.now);
        let now = self.now;
        self.engines[self.leader].tick(now);
        self.settle();
    }

    /// The leader falls silent, another is elected, and the old one comes back as a follower. How long the election took from when
    /// a timeout fired until what the new term begins with is applied: the engines' work, since time itself is made here.
    ///
    /// # Errors
    /// Where no other comes to lead.
    pub fn elect(&mut self) -> Result<Duration, Failure> {
        let old = self.leader;
        self.away = Some(old);
        let mut taken = Duration::ZERO;
        for _ in 0..1000 {
            let there = |(at, _): &(usize, &Engine)| *at != old;
            let deadlines =
                self.engines.iter().enumerate().filter(there).map(|(_, engine)| engine.deadline());
            self.now = deadlines.min().unwrap_or(self.now).max(self.now);
            let start = Instant::now();
            for (at, engine) in self.engines.iter_mut().enumerate() {
                if at != old {
                    engine.tick(self.now);
                }
            }
            self.settle();
            taken += start.elapsed();
            let leads = |(at, engine): (usize, &Engine)| at != old && engine.role() == RoleName::Leader;
            if let Some(next) = self.engines.iter().enumerate().position(leads)
                && self.engines[next].applied_index() == self.engines[next].last().index
            {
                (self.leader, self.away) = (next, None);
                self.heartbeat();
                return Ok(taken);
            }
        }
        Err("no other engine leads".into())
    }

    /// Messages moved so far.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    fn leader(&self) -> &Engine {
        &self.engines[self.leader]
    }

    /// Until no engine wants anything done.
    fn settle(&mut self) {
        loop {
            let mut quiet = true;
            for at in 0..self.engines.len() {
                quiet &= self.away == Some(at) || !self.turn(at);
            }
            while let Some(envelope) = self.on_the_way.pop_front() {
                self.messages += 1;
                let place = usize::try_from(envelope.to.node.0 - 1).unwrap_or(usize::MAX);
                if let Some(engine) = self.engines.get_mut(place).filter(|_| self.away != Some(place)) {
                    engine.step(envelope, self.now);
                }
            }
            if quiet {
                return;
            }
        }
    }

    /// Whether there was anything to do.
    fn turn(&mut self, at: usize) -> bool {
        let engine = &mut self.engines[at];
        let ready = engine.ready(self.now);
        let any = !ready.is_empty();
        let Ready { messages, write, apply, .. } = ready;
        self.on_the_way.extend(messages);
        if let Some(write) = write {
            engine.written(write.number, self.now);
        }
        if let Some(last) = apply.last() {
            engine.applied(last.index(), self.now);
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_one_append_to_each_follower_and_their_answers() {
        let mut trio = Trio::found(3).unwrap();
        // The followers take the first appends one at a time until they have answered.
        trio.propose(vec![Bytes::from_static(b"first")]).unwrap();
        let before = trio.messages();
        trio.propose(vec![Bytes::from_static(b"more"); 100]).unwrap();
        assert_eq!(trio.messages() - before, 4);
        trio.heartbeat();
        assert!(trio.messages() - before >= 8);
        assert_eq!(trio.leader().role(), RoleName::Leader);
    }

    #[test]
    fn an_election_makes_another_engine_leader_and_the_old_one_its_follower() {
        let mut trio = Trio::found(3).unwrap();
        for _ in 0..20 {
            let (old, last) = (trio.leader, trio.leader().last());
            assert!(trio.elect().unwrap() > Duration::ZERO);
            assert_ne!(trio.leader, old);
            assert_eq!(trio.leader().role(), RoleName::Leader);
            assert_eq!(trio.engines[old].role(), RoleName::Follower);
            assert!(trio.leader().last().term > last.term);
            trio.propose(vec![Bytes::from_static(b"taken")]).unwrap();
        }
    }
}
