//! The end of a run: faults stop, and within a bounded time there must be one leader, equal logs and states, and answers
//! to new calls.

use super::world::{Event, World, place};
use crate::engine::ProposeError;
use crate::testing::invariants::Broken;
use crate::testing::linearizable::Operation;
use crate::types::NodeId;

/// Two are kept, and a third is there from when it is written until the log store names it.
const MAX_SNAPSHOTS: usize = 3;

/// How many proposals and reads must succeed in the calm.
const CALLS: usize = 10;

/// In how many of a million seeds faults stop for a majority first, while the other nodes stay down.
const MAJORITY_ONLY: u64 = 400_000;

/// How many election timeouts the cluster has to recover, and again to answer.
const PATIENCE_TIMEOUTS: u64 = 40;

impl World {
    pub(super) fn calm_down(&mut self) -> Result<(), Broken> {
        self.calm = true;
        for client in 0..self.session_clients.len() {
            self.session_client(client)?;
        }
        self.plan(0, Event::Mend);
        self.settings.calm();
        self.network.heal();
        for host in &mut self.hosts {
            host.paused_until = 0;
            host.full_until = 0;
        }
        if self.random.chance(MAJORITY_ONLY) && self.draw_core()? {
            self.trace.count("calm of a majority");
            self.trace.line(self.event, self.now, usize::MAX, "calm", "of a majority");
            self.start_core()?;
            self.recover()?;
            self.core.fill(true);
        }
        self.trace.line(self.event, self.now, usize::MAX, "calm", "");
        self.start_core()?;
        self.recover()?;
        self.preferred_leads()?;
        self.same_states()?;
        self.nothing_waits()
    }

    /// A majority that stays; all other nodes die. Not where the cluster is not founded: that needs all nodes.
    fn draw_core(&mut self) -> Result<bool, Broken> {
        let size = self.settings.members;
        // With members that come and go, who is a majority is the leader's to know.
        let weights = &self.settings.nemesis;
        let changing = weights.members + weights.lost_folder + weights.old_folder > 0;
        if size < 3 || changing || (!self.settings.founded && self.cluster.invariants.committed().is_empty())
        {
            return Ok(false);
        }
        for _ in 0..(size - 1) / 2 {
            let mut node = self.random.index(size);
            while !self.core[node] {
                node = (node + 1) % size;
            }
            self.core[node] = false;
            let keep = self.random_keep(node);
            self.crash(node, keep, "crash for the calm")?;
        }
        Ok(true)
    }

    fn start_core(&mut self) -> Result<(), Broken> {
        for node in 0..self.settings.size {
            if self.core[node] && !self.is_up(node) {
                self.start(node)?;
            }
        }
        Ok(())
    }

    /// One leader, equal logs, and answers, among the nodes that are to be up.
    fn recover(&mut self) -> Result<(), Broken> {
        // What the slowest messages and disks of before may still hold up.
        let slowest = 4 * self.settings.disk_max + 20 * self.settings.delay_max + self.settings.apply_max;
        // With the smallest limits, every entry takes a way there and back, a write and a turn of the applier for itself.
        let each = 3 * (self.settings.disk_max + self.settings.delay_max) + self.settings.apply_max;
        // A leader's log in memory may be far ahead of its own disk.
        let entries = self.cluster.nodes.iter().map(|node| {
            node.disk.ahead().last_index().max(node.engine().map_or(0, |engine| engine.status().last.index))
        });
        let entries = entries.max().unwrap_or(0);
        let patience = PATIENCE_TIMEOUTS * (self.election_timeout() + slowest) + entries * each + 2_000_000;
        let recovered = self.until(patience, Self::is_recovered)?;
        if !recovered {
            return Err(self.stuck("a calm cluster finds one leader and equal logs"));
        }
        self.last_calls(patience)?;
        if !self.until(patience, Self::is_recovered)? {
            return Err(self.stuck("a calm cluster finds one leader and equal logs"));
        }
        Ok(())
    }

    /// When all is done and equal, no queue holds anything, and no call is left without a word.
    fn nothing_waits(&mut self) -> Result<(), Broken> {
        const PATIENCE: u64 = 20_000_000;
        if self.until(PATIENCE, |world| world.waiting().is_none())? {
            return Ok(());
        }
        let waits = self.waiting().unwrap_or_default();
        Err(Broken::new("a quiet cluster's queues are empty, and each call ended", waits))
    }

    fn waiting(&self) -> Option<String> {
        // Who is no member any more hears of nothing, and its callers' time runs out.
        let leader = self.leader();
        let members = leader.map(|leader| self.members(leader)).unwrap_or_default();
        members.into_iter().find_map(|node| {
            let (node, host) = (&self.cluster.nodes[node], &self.hosts[node]);
            let queues = node.engine()?.queues();
            let calls = host.waiting.proposals.len()
                + host.waiting.attempts.len()
                + host.waiting.reads.len()
                + host.waiting.confirmed.len();
            let writes = node.disk.in_flight().len();
            let transfers = host.transfers.len();
            let quiet = queues.is_empty()
                && calls == 0
                && writes == 0
                && transfers == 0
                && host.to_apply.is_empty()
                && node.shelf.len() <= MAX_SNAPSHOTS;
            let snapshots = node.shelf.len();
            (!quiet).then(|| {
                let work =
                    format!("{calls} calls, {writes} writes, {transfers} transfers, {snapshots} snapshots");
                format!("{}: {queues:?}, {work}", node.id())
            })
        })
    }

    /// Lets things happen until `done`, at most for `patience` microseconds. Whether it was.
    fn until(&mut self, patience: u64, done: impl Fn(&Self) -> bool) -> Result<bool, Broken> {
        let end = self.now + patience;
        let mut unchecked = 0;
        while self.now < end {
            self.next()?;
            unchecked += 1;
            if unchecked >= 16 {
                unchecked = 0;
                if done(self) {
                    return Ok(true);
                }
            }
        }
        Ok(done(self))
    }

    /// The node that leads, where all agree on it.
    fn leader(&self) -> Option<usize> {
        let engine = |node: usize| self.cluster.nodes[node].engine();
        let place = self.latest_leader()?;
        let (leader, term) = (self.cluster.nodes[place].id(), engine(place)?.term());
        let members = self.members(place);
        let agreed = members.contains(&place)
            && members.into_iter().all(|node| match engine(node) {
                Some(engine) => engine.leader() == Some(leader) && engine.term() == term,
                None => !self.core[node],
            });
        agreed.then_some(place)
    }

    fn is_recovered(&self) -> bool {
        let Some(leader) = self.leader() else { return false };
        let Some(last) = self.cluster.nodes[leader].engine().map(crate::engine::Engine::last) else {
            return false;
        };
        self.is_settled(leader)
            && self.members(leader).into_iter().filter(|&node| self.core[node]).all(|node| {
                let node = &self.cluster.nodes[node];
                node.engine().is_some_and(|e| e.last() == last && e.commit() == last.index)
                    && node.applied.last == last
                    && node.disk.image().last() == last
            })
    }

    /// Where some nodes are preferred, one of them leads in the end, however often each was lost as leader before.
    fn preferred_leads(&mut self) -> Result<(), Broken> {
        const LONGEST_TRIAL_TIMEOUTS: u64 = 128;
        if self.settings.priorities.is_empty() {
            return Ok(());
        }
        let Some(leader) = self.leader() else { return Err(self.stuck("a calm cluster keeps its leader")) };
        let membership = self.cluster.nodes[leader].engine().map(|engine| engine.membership().clone());
        let voters = membership.map(|membership| membership.voters).unwrap_or_default();
        let priority = |voter: NodeId| self.settings.priorities.get(place(voter.0)).copied();
        let Some(highest) = voters.into_iter().filter_map(priority).max() else { return Ok(()) };
        let patience = 2 * LONGEST_TRIAL_TIMEOUTS * self.election_timeout() + 20 * self.settings.delay_max;
        let preferred =
            |world: &Self| world.leader().is_some_and(|leader| world.settings.priorities[leader] == highest);
        if !self.until(patience, preferred)? || !self.until(patience, Self::is_recovered)? {
            return Err(self.stuck("a calm cluster is led by a preferred node"));
        }
        Ok(())
    }

    /// New calls at the leader, each until it is answered.
    fn last_calls(&mut self, patience: u64) -> Result<(), Broken> {
        let end = self.now + patience;
        let mut answered = 0;
        while answered < CALLS {
            let (key, value) = (answered as u64 % self.settings.keys, self.history.fresh_value());
            let operation = if answered % 2 == 0 { Operation::Put(value) } else { Operation::Get(None) };
            let call = self.history.call(key, operation);
            if let Some(leader) = self.leader() {
                let node = if answered % 4 == 1 { self.random_of_core() } else { leader };
                match self.ask(node, call, operation)? {
                    Ok(()) => {}
                    Err(ProposeError::TooLarge { .. } | ProposeError::Fatal) => {
                        return Err(self.stuck("a calm cluster takes calls"));
                    }
                    Err(_) => self.history.refused(call),
                }
            } else {
                self.history.refused(call);
                self.plan(self.election_timeout(), Event::Pass);
            }
            let left = end.saturating_sub(self.now);
            self.until(left.min(2 * self.election_timeout() + patience / 8), |world| {
                !world.history.is_open(call)
            })?;
            if self.history.is_done(call) {
                answered += 1;
            } else if self.now >= end {
                return Err(self.stuck("a calm cluster answers calls"));
            }
        }
        Ok(())
    }

    /// Where a read is to be answered as well as on the leader.
    fn random_of_core(&mut self) -> usize {
        let mut node = self.random.index(self.settings.size);
        while !self.core[node] {
            node = (node + 1) % self.settings.size;
        }
        node
    }

    fn same_states(&mut self) -> Result<(), Broken> {
        let Some(leader) = self.leader() else { return Err(self.stuck("a calm cluster keeps its leader")) };
        let members = self.members(leader);
        if let Some(machines) = &mut self.machines {
            machines.end_equal(&members)?;
        }
        for node in members {
            let (node, host) = (&self.cluster.nodes[node], &self.hosts[node]);
            let (first, first_host) = (&self.cluster.nodes[leader], &self.hosts[leader]);
            if node.applied != first.applied
                || host.store != first_host.store
                || host.sessions != first_host.sessions
            {
                return Err(Broken::new(
                    "all state machines end equal",
                    format!("{} {:?}, {} {:?}", first.id(), first.applied, node.id(), node.applied),
                ));
            }
            let committed = self.cluster.invariants.committed();
            let base = usize::try_from(node.disk.image().base().index).unwrap_or(usize::MAX);
            let held = node.disk.image().entries();
            let left = committed.get(base..).unwrap_or_default();
            if !held.iter().map(|entry| entry.id).eq(left.iter().copied()) {
                return Err(Broken::new("all logs end as what was committed", format!("{}", node.id())));
            }
        }
        Ok(())
    }

    fn stuck(&self, property: &'static str) -> Broken {
        let states: Vec<String> = self
            .cluster
            .nodes
            .iter()
            .map(|node| match node.engine() {
                Some(engine) => {
                    let status = engine.status();
                    format!(
                        "{} on {} {} by {} of {} {:?} {:?} t{} last {} durable {} commit {} applied {} {:?}",
                        node.id(),
                        node.peer().incarnation,
                        status.role.as_str(),
                        status.membership,
                        status.membership_index,
                        status.change,
                        status.dismissed,
                        status.term,
                        status.last,
                        status.durable,
                        status.commit,
                        status.applied,
                        status.peers
                    )
                }
                None => format!("{} is down", node.id()),
            })
            .collect();
        Broken::new(property, states.join("; "))
    }
}
