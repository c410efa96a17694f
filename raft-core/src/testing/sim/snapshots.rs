//! Snapshots in the simulator: written aside while entries are applied, sent by a stream that breaks, restored in order.

use super::clients::Store;
use super::world::{Event, World, place};
use crate::codec::cold;
use crate::engine::{SendSnapshot, SnapshotOutcome, SnapshotRequest};
use crate::testing::invariants::Broken;
use crate::testing::shelf::SnapshotFile;
use crate::types::Entry;

/// What a node's applier is to do, in order.
pub(super) enum Work {
    Apply(Entry),
    /// From a file that is held open.
    Restore(SnapshotFile),
    Snapshot(SnapshotRequest),
}

/// A snapshot on its way.
pub(super) struct Transfer {
    pub(super) from: usize,
    /// The sender's run.
    pub(super) run: u64,
    pub(super) number: u64,
    pub(super) to: usize,
    file: SnapshotFile,
}

fn broken(detail: String) -> Broken {
    Broken::new("a snapshot holds the state", detail)
}

impl World {
    /// What the driver keeps of a node's state, beside what the cluster keeps.
    fn added(&mut self, node: usize) -> Result<Vec<u8>, Broken> {
        let machine = match &mut self.machines {
            Some(machines) => machines.snapshot(node)?,
            None => Vec::new(),
        };
        let sessions = self.sessions_for_snapshot(node)?;
        cold::encode(&(&self.hosts[node].store, machine, sessions)).map_err(|e| broken(e.to_string()))
    }

    /// Puts what was kept of a state in the place of a node's.
    pub(super) fn restore_added(&mut self, node: usize, added: &[u8]) -> Result<(), Broken> {
        let (store, machine, sessions): (Store, Vec<u8>, Vec<u8>) =
            cold::decode(added).map_err(|e| broken(e.to_string()))?;
        self.hosts[node].store = store;
        self.restore_sessions(node, &sessions)?;
        match &mut self.machines {
            Some(machines) => machines.restore(node, &machine),
            None => Ok(()),
        }
    }

    /// Takes a snapshot: the state is kept as it is now, and written aside.
    pub(super) fn take_snapshot(&mut self, node: usize, request: SnapshotRequest) -> Result<(), Broken> {
        let added = self.added(node)?;
        let applied = self.cluster.nodes[node].applied;
        if applied.last != request.last {
            let detail = format!("asked for {}, the state is at {}", request.last, applied.last);
            return Err(Broken::new("a snapshot is taken where it was asked for", detail));
        }
        let file = SnapshotFile::new(applied, request.membership, &added).map_err(broken)?;
        let (run, delay) = (self.run_of(node), self.random.below(self.settings.snapshot_max + 1));
        self.plan(delay, Event::SnapshotTaken { node, run, file: Box::new(file) });
        Ok(())
    }

    pub(super) fn snapshot_taken(&mut self, node: usize, file: SnapshotFile) -> Result<(), Broken> {
        self.event += 1;
        self.trace.mark([11, node as u64, file.meta.last.index, self.now]);
        let now = self.local_time(node);
        let fails = self.random.chance(self.settings.snapshot_failure);
        self.trace.line(
            self.event,
            self.now,
            node,
            "snapshot",
            format_args!("of {}, fails: {fails}", file.meta.last),
        );
        if fails {
            if let Some(engine) = self.cluster.nodes[node].engine_mut() {
                engine.snapshot_taken(None, now);
            }
        } else {
            self.cluster.snapshot_taken(node, file, now);
            if self.random.chance(self.settings.crash_at_write) {
                // Durable, and the log store does not name it yet.
                let keep = self.random_keep(node);
                return self.crash(node, keep, "crash after a snapshot");
            }
        }
        self.pump(node)
    }

    /// Replaces a node's state.
    pub(super) fn restore(&mut self, node: usize, file: &SnapshotFile) -> Result<(), Broken> {
        let added = self.cluster.restore(node, file)?;
        let meta = &file.meta;
        self.trace.count("snapshots restored");
        // What was proposed here and is covered may have been applied, or not: no reply was given.
        let waiting = &mut self.hosts[node].waiting;
        waiting.attempts = waiting.attempts.split_off(&(meta.last.index + 1));
        let open = waiting.proposals.split_off(&(meta.last.index + 1));
        let covered = std::mem::replace(&mut waiting.proposals, open);
        waiting.truncated = waiting.truncated.split_off(&(meta.last.index + 1));
        for (_, call) in covered.into_values() {
            self.history.give_up(call);
        }
        self.restore_added(node, &added)
    }

    pub(super) fn send_snapshot(&mut self, node: usize, send: &SendSnapshot) -> Result<(), Broken> {
        let file = self.cluster.nodes[node].shelf.get(send.meta.last).cloned();
        let file = file.ok_or_else(|| broken(format!("{} is not there to be sent", send.meta.last)))?;
        let (number, to) = (send.transfer, place(send.to.node.0));
        self.hosts[node].transfers.insert(number);
        let run = self.run_of(node);
        let delay = self.random.below(self.settings.snapshot_max + 1);
        self.plan(delay, Event::Transfer(Box::new(Transfer { from: node, run, number, to, file })));
        Ok(())
    }

    /// A transfer comes to its end, one way or another.
    pub(super) fn transferred(&mut self, transfer: Transfer) -> Result<(), Broken> {
        let Transfer { from, run, number, to, file } = transfer;
        let stopped =
            self.run_of(from) != run || !self.is_up(from) || !self.hosts[from].transfers.contains(&number);
        self.event += 1;
        self.trace.mark([12, from as u64, to as u64, file.meta.last.index]);
        let cut = self.network.is_cut(from, to) || self.network.is_cut(to, from) || !self.is_up(to);
        let fails = self.settings.snapshot_failure;
        let outcome = if stopped || cut {
            SnapshotOutcome::Failed
        } else if self.random.chance(fails) {
            const WAYS: [SnapshotOutcome; 3] =
                [SnapshotOutcome::Failed, SnapshotOutcome::Refused, SnapshotOutcome::Damaged];
            WAYS[self.random.index(WAYS.len())]
        } else {
            SnapshotOutcome::Delivered
        };
        // All of it had come when the stream broke, and nobody hears of it: the sender may be gone, and others lead.
        let unheard = (stopped || cut) && fails > 0 && self.is_up(to) && self.random.chance(500_000);
        if unheard {
            self.trace.count("snapshots delivered unheard");
        }
        self.trace.line(
            self.event,
            self.now,
            to,
            "snapshot",
            format_args!("{} from {}: {outcome:?}, unheard: {unheard}", file.meta.last, from + 1),
        );
        if outcome == SnapshotOutcome::Delivered || unheard {
            let (peer, now) = (self.cluster.nodes[from].peer(), self.local_time(to));
            self.cluster.snapshot_received(to, peer, file, now);
            // Far fewer come than writes are begun.
            if self.random.chance(20 * self.settings.crash_at_write) {
                let keep = self.random_keep(to);
                self.crash(to, keep, "crash after a snapshot came")?;
            } else {
                self.pump(to)?;
            }
        }
        if !stopped {
            let delay = self.random.between(self.settings.delay_min, self.settings.delay_max);
            self.plan(delay, Event::SnapshotSent { node: from, run, number, outcome });
        }
        Ok(())
    }

    pub(super) fn snapshot_sent(
        &mut self,
        node: usize,
        number: u64,
        outcome: SnapshotOutcome,
    ) -> Result<(), Broken> {
        self.event += 1;
        self.hosts[node].transfers.remove(&number);
        let now = self.local_time(node);
        if let Some(engine) = self.cluster.nodes[node].engine_mut() {
            engine.snapshot_sent(number, outcome, now);
        }
        self.pump(node)
    }
}
