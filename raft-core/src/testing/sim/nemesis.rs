//! Who does the damage: crashes, pauses, clock jumps and partitions.

use super::world::{Event, World};
use crate::engine::{Engine, RoleName};
use crate::membership::Lease;
use crate::testing::invariants::Broken;
use crate::types::NodeId;

/// Does its damage, to the node drawn where it is about one.
type Fault = fn(&mut World, usize) -> Result<(), Broken>;

impl World {
    pub(super) fn plan_nemesis(&mut self) {
        let pause = self.settings.nemesis_pause;
        if pause > 0 && !self.calm {
            let delay = self.random.below(2 * pause + 1);
            self.plan(delay, Event::Nemesis);
        }
    }

    pub(super) fn nemesis(&mut self) -> Result<(), Broken> {
        if self.calm || self.now < self.rivalry_until {
            return Ok(());
        }
        let weights = self.settings.nemesis;
        let size = self.settings.size;
        let faults: [(u64, Fault); 19] = [
            (weights.crash, Self::crash_one),
            (weights.crash_all, Self::crash_all),
            (weights.rolling_restart, Self::rolling_restart),
            (weights.pause, Self::pause),
            (weights.jump, Self::clock_jump),
            (weights.isolate, Self::isolate),
            (weights.split, Self::split),
            (weights.one_way, Self::one_way),
            (weights.ring, Self::ring),
            (weights.bridge, Self::bridge),
            (weights.transfer, Self::transfer),
            (weights.lease, Self::change_lease),
            (weights.rival, Self::raise_rival),
            (weights.stall, Self::stall),
            (weights.heal, Self::heal),
            (weights.snapshot, Self::ask_for_snapshot),
            (weights.members, Self::change_members),
            (weights.lost_folder, Self::lose_folder),
            (weights.old_folder, Self::copy_folder),
        ];
        let total = faults.iter().map(|(weight, _)| weight).sum();
        let mut drawn = self.random.below(total);
        let node = self.random.index(size);
        for (weight, fault) in faults {
            if drawn < weight {
                return fault(self, node);
            }
            drawn -= weight;
        }
        Ok(())
    }

    fn crash_one(&mut self, node: usize) -> Result<(), Broken> {
        let keep = self.random_keep(node);
        self.crash(node, keep, "crash")
    }

    fn crash_all(&mut self, _: usize) -> Result<(), Broken> {
        for node in 0..self.settings.size {
            let keep = self.random_keep(node);
            self.crash(node, keep, "crash of all")?;
        }
        Ok(())
    }

    /// As an operator does it: the next goes down when the one before has had time to come back, at times too early.
    fn rolling_restart(&mut self, first: usize) -> Result<(), Broken> {
        let size = self.settings.size;
        let longest = self.settings.downtime_max + 2 * self.election_timeout();
        let mut at = 0;
        for step in 0..size {
            self.plan(at, Event::Stop { node: (first + step) % size });
            at += self.random.below(longest);
        }
        self.nemesis_did("rolling restart", &[first]);
        Ok(())
    }

    fn pause(&mut self, node: usize) -> Result<(), Broken> {
        let longest = 4 * self.election_timeout();
        let until = self.now + self.random.below(longest);
        self.hosts[node].paused_until = until;
        self.nemesis_did("pause", &[node]);
        Ok(())
    }

    /// A clock that jumps on a follower breaks what leases rest on: it is a drift beyond any bound. On a leader it only ends its lease.
    fn clock_jump(&mut self, node: usize) -> Result<(), Broken> {
        let role = self.cluster.nodes[node].engine().map(Engine::role);
        if self.settings.leases && role != Some(RoleName::Leader) {
            return self.pause(node);
        }
        let longest = 4 * self.election_timeout();
        let by = self.random.below(longest);
        self.jump(node, by);
        self.plan_wake(node);
        self.nemesis_did("clock jump", &[node]);
        Ok(())
    }

    fn isolate(&mut self, node: usize) -> Result<(), Broken> {
        self.network.allow(|from, to| from != node && to != node);
        self.nemesis_did("isolation", &[node]);
        Ok(())
    }

    fn split(&mut self, _: usize) -> Result<(), Broken> {
        let side = self.random.next();
        self.network.allow(|from, to| side >> from & 1 == side >> to & 1);
        self.nemesis_did("split", &[]);
        Ok(())
    }

    fn one_way(&mut self, node: usize) -> Result<(), Broken> {
        let size = self.settings.size;
        let bits = self.random.next();
        let outward = self.random.chance(500_000);
        for other in (0..size).filter(|&other| other != node && bits >> other & 1 == 1) {
            if outward {
                self.network.cut(node, other);
            } else {
                self.network.cut(other, node);
            }
        }
        self.nemesis_did("one-way cut", &[node]);
        Ok(())
    }

    fn ring(&mut self, _: usize) -> Result<(), Broken> {
        let size = self.settings.size;
        self.network.allow(|from, to| (from + 1) % size == to || (to + 1) % size == from);
        self.nemesis_did("ring", &[]);
        Ok(())
    }

    fn bridge(&mut self, node: usize) -> Result<(), Broken> {
        let side = self.random.next();
        self.network.allow(|from, to| from == node || to == node || side >> from & 1 == side >> to & 1);
        self.nemesis_did("bridge", &[node]);
        Ok(())
    }

    fn ask_for_snapshot(&mut self, node: usize) -> Result<(), Broken> {
        let now = self.local_time(node);
        self.nemesis_did("snapshot asked for", &[node]);
        if let Some(engine) = self.cluster.nodes[node].engine_mut() {
            // Refused where nothing is committed yet.
            let _refused = engine.request_snapshot(now);
        }
        self.pump(node)
    }

    pub(super) fn heal(&mut self, _: usize) -> Result<(), Broken> {
        self.network.heal();
        self.nemesis_did("heal", &[]);
        Ok(())
    }

    /// Asks whoever leads, or one of those who think so, for any other node or the best.
    fn transfer(&mut self, first: usize) -> Result<(), Broken> {
        let size = self.settings.size;
        let leads = |node: &usize| {
            self.cluster.nodes[*node].engine().is_some_and(|engine| engine.role() == RoleName::Leader)
        };
        let Some(node) = (0..size).map(|step| (first + step) % size).find(leads) else { return Ok(()) };
        let named = self.random.chance(700_000).then(|| NodeId(1 + self.random.below(size as u64)));
        let now = self.local_time(node);
        let asked =
            self.cluster.nodes[node].engine_mut().map(|engine| engine.transfer_leadership(named, now));
        let name = if matches!(asked, Some(Ok(_))) { "transfer" } else { "transfer refused" };
        self.nemesis_did(name, &[node]);
        self.pump(node)
    }

    /// Asks whoever leads, or one of those who think so, for other leases or none.
    fn change_lease(&mut self, first: usize) -> Result<(), Broken> {
        let size = self.settings.size;
        let leads = |node: &usize| {
            self.cluster.nodes[*node].engine().is_some_and(|engine| engine.role() == RoleName::Leader)
        };
        let Some(node) = (0..size).map(|step| (first + step) % size).find(leads) else { return Ok(()) };
        let timeout = self.election_timeout();
        let lasts = self.random.chance(700_000).then(|| timeout / 2 + self.random.below(2 * timeout));
        self.ask_for_lease(node, lasts)
    }

    /// Asks a leader for leases that rest on an election timeout, or for none.
    pub(super) fn ask_for_lease(&mut self, node: usize, micros: Option<u64>) -> Result<(), Broken> {
        let drift = self.settings.clock_drift as u32;
        let lease = micros.map(|micros| Lease { election_timeout_micros: micros, clock_drift_ppm: drift });
        let now = self.local_time(node);
        let asked = self.cluster.nodes[node].engine_mut().map(|engine| engine.set_lease(lease, now));
        self.nemesis_did(
            if matches!(asked, Some(Ok(_))) { "lease changed" } else { "lease not changed" },
            &[node],
        );
        self.pump(node)
    }

    /// The disk finishes nothing new for a while, and the process lives.
    fn stall(&mut self, node: usize) -> Result<(), Broken> {
        let longest = 6 * self.election_timeout();
        let until = self.now + self.random.below(longest);
        let host = &mut self.hosts[node];
        host.disk_free_at = host.disk_free_at.max(until);
        self.nemesis_did("disk hang", &[node]);
        Ok(())
    }

    pub(super) fn nemesis_did(&mut self, name: &'static str, nodes: &[usize]) {
        let node = nodes.first().copied().unwrap_or(usize::MAX);
        self.trace.count(name);
        self.event += 1;
        self.trace.mark([9, node as u64, self.now, 0]);
        self.trace.line(self.event, self.now, node, "fault", name);
    }
}
