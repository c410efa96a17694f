//! What a script acts on: a cluster, the messages between its nodes, and what was printed.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::Config;
use crate::engine::{Planted, Ready, SnapshotOutcome};
use crate::message::{AppendOutcome, Envelope, Message};
use crate::testing::cluster::Cluster;
use crate::testing::disk::Image;
use crate::testing::display;
use crate::testing::invariants::Broken;
use crate::testing::shelf::SnapshotFile;
use crate::types::{Level, NodeId, Time};

/// One way between two nodes.
pub(super) type Link = (NodeId, NodeId);

/// When a node's writes become durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum DiskMode {
    /// At `written` and at `settle`.
    #[default]
    Asked,
    /// At `written` only.
    Stalled,
    /// At once.
    Auto,
}

/// Appends that went over a link, to be counted.
#[derive(Clone, Copy, Default)]
pub(super) struct Traffic {
    pub(super) appends: u64,
    pub(super) heartbeats: u64,
    pub(super) conflicts: u64,
}

/// A snapshot on its way.
pub(super) struct Transfer {
    pub(super) link: Link,
    /// The sender's run.
    pub(super) run: u64,
    pub(super) number: u64,
    pub(super) file: SnapshotFile,
}

#[derive(Default)]
pub(super) struct Stage {
    pub(super) cluster: Option<Cluster>,
    /// Messages sent and not delivered, oldest first.
    pub(super) network: Vec<Envelope>,
    pub(super) cut: BTreeSet<Link>,
    pub(super) held: BTreeSet<Link>,
    pub(super) disks: BTreeMap<NodeId, DiskMode>,
    /// Snapshots that nodes write, and are not told of yet.
    pub(super) taking: BTreeMap<NodeId, SnapshotFile>,
    pub(super) transfers: Vec<Transfer>,
    /// Transfers arrive when asked for only.
    pub(super) streams_asked: bool,
    pub(super) kept: BTreeMap<String, Envelope>,
    /// Copies of data folders.
    pub(super) copies: BTreeMap<String, Image>,
    pub(super) clocks: BTreeMap<NodeId, Time>,
    pub(super) traffic: BTreeMap<Link, Traffic>,
    /// The level of payloads that nodes of older versions know.
    pub(super) levels: BTreeMap<NodeId, Level>,
    /// A bug in every engine.
    pub(super) planted: Option<Planted>,
    /// Whether nothing is printed, as while a script sets its stage.
    quiet: bool,
    output: Vec<String>,
    broken: bool,
}

impl Stage {
    /// A stage with nothing on it.
    pub(super) fn new(planted: Option<Planted>) -> Self {
        Self { planted, ..Self::default() }
    }

    /// Clears the stage; what was printed stays.
    pub(super) fn reset(&mut self) {
        *self = Self { quiet: self.quiet, output: self.take_output(), ..Self::new(self.planted) };
    }

    pub(super) fn take_output(&mut self) -> Vec<String> {
        std::mem::take(&mut self.output)
    }

    /// Does something without printing it.
    pub(super) fn quietly<T>(&mut self, act: impl FnOnce(&mut Self) -> T) -> T {
        let before = std::mem::replace(&mut self.quiet, true);
        let result = act(self);
        self.quiet = before;
        result
    }

    pub(super) fn print(&mut self, line: impl Into<String>) {
        if !self.quiet {
            self.output.push(line.into());
        }
    }

    /// A broken invariant is printed, loud or quiet, and ends the script.
    pub(super) fn report(&mut self, broken: &Broken) {
        self.output.push(format!("BROKEN {}: {}", broken.property, broken.detail));
        self.broken = true;
    }

    pub(super) const fn is_broken(&self) -> bool {
        self.broken
    }

    pub(super) fn cluster(&mut self) -> Result<&mut Cluster, String> {
        self.cluster.as_mut().ok_or_else(|| "there is no cluster yet: `cluster 1 2 3`".to_owned())
    }

    pub(super) fn nodes(&self) -> Vec<NodeId> {
        self.cluster.iter().flat_map(|cluster| &cluster.nodes).map(|node| node.id()).collect()
    }

    pub(super) fn place(&self, node: NodeId) -> Result<usize, String> {
        self.nodes().iter().position(|&id| id == node).ok_or_else(|| format!("there is no node {node}"))
    }

    pub(super) fn clock(&self, node: NodeId) -> Time {
        self.clocks.get(&node).copied().unwrap_or_default()
    }

    pub(super) fn disk(&self, node: NodeId) -> DiskMode {
        self.disks.get(&node).copied().unwrap_or_default()
    }

    pub(super) fn runs(&self, node: NodeId) -> bool {
        let place = self.place(node);
        self.cluster.iter().any(|c| place.as_ref().is_ok_and(|&p| c.nodes[p].engine().is_some()))
    }

    /// Lets a node say what it wants, until it wants nothing. Whether it wanted anything.
    pub(super) fn pump(&mut self, node: NodeId) -> Result<bool, String> {
        let place = self.place(node)?;
        let now = self.clock(node);
        let mut any = false;
        while !self.broken {
            let ready = match self.cluster()?.ready(place, now) {
                Ok(ready) => ready,
                Err(broken) => {
                    self.report(&broken);
                    break;
                }
            };
            if ready.is_empty() {
                break;
            }
            any = true;
            self.take(node, place, ready)?;
        }
        Ok(any)
    }

    fn take(&mut self, node: NodeId, place: usize, ready: Ready) -> Result<(), String> {
        let now = self.clock(node);
        for event in &ready.events {
            self.print(format!("{node} {}", display::event(event)));
        }
        for envelope in ready.messages {
            self.send(envelope);
        }
        if let Some(write) = &ready.write {
            self.print(format!("{node} writes {}", display::write(write)));
            if self.disk(node) == DiskMode::Auto {
                self.written(node, write.number)?;
            }
        }
        for id in ready.failed_reads {
            self.print(format!("{node} read r{} fails", id.0));
        }
        for read in ready.reads {
            let until =
                read.until.map(|until| format!(" until {} ms", until.as_millis())).unwrap_or_default();
            self.print(format!("{node} read r{} may be answered at {}{until}", read.id.0, read.index));
        }
        let mut last = None;
        if let Some(meta) = &ready.restore {
            self.print(format!("{node} restores {}", meta.last));
            let cluster = self.cluster()?;
            let restored = cluster.snapshot(place, meta).and_then(|file| cluster.restore(place, &file));
            if let Err(broken) = restored {
                self.report(&broken);
            }
            last = Some(meta.last.index);
        }
        for entry in &ready.apply {
            self.print(format!("{node} applies {} {}", entry.id, display::payload(&entry.payload)));
            if let Err(broken) = self.cluster()?.apply(place, entry) {
                self.report(&broken);
            }
            last = Some(entry.index());
        }
        if let Some(request) = ready.snapshot {
            self.print(format!("{node} takes a snapshot of {}", request.last));
            let applied = self.cluster()?.nodes[place].applied;
            self.taking.insert(node, SnapshotFile::new(applied, request.membership, &[])?);
        }
        for send in ready.send_snapshots {
            let to = send.to.node;
            self.print(format!(
                "{node} sends the snapshot of {} to {to} (s{})",
                send.meta.last, send.transfer
            ));
            let file = self.cluster()?.nodes[place].shelf.get(send.meta.last).cloned();
            let file = file.ok_or("there is no such snapshot")?;
            let run = self.cluster()?.nodes[place].run();
            self.transfers.push(Transfer { link: (node, to), run, number: send.transfer, file });
        }
        for number in ready.abandon_snapshots {
            self.print(format!("{node} stops sending s{number}"));
            self.transfers.retain(|transfer| transfer.link.0 != node || transfer.number != number);
        }
        if let Some(last) = last
            && let Some(engine) = self.cluster()?.nodes[place].engine_mut()
        {
            engine.applied(last, now);
        }
        for fetch in ready.fetches {
            self.print(format!("{node} reads back {}..{}", fetch.range.start(), fetch.range.end()));
            let node = &mut self.cluster()?.nodes[place];
            let entries = node.disk.image().read(&fetch.range, fetch.max_bytes);
            if let Some(engine) = node.engine_mut() {
                engine.fetched(fetch.purpose, entries, now);
            }
        }
        Ok(())
    }

    fn send(&mut self, envelope: Envelope) {
        let link = (envelope.from.node, envelope.to.node);
        let cut = self.cut.contains(&link);
        let read = self.levels.get(&link.1).is_none_or(|&level| highest_level(&envelope.message) <= level);
        let lost = match (cut, read) {
            (true, _) => "  (lost)",
            (false, false) => "  (not in its version)",
            (false, true) => "",
        };
        self.print(format!("{}{lost}", display::envelope(&envelope)));
        let traffic = self.traffic.entry(link).or_default();
        match &envelope.message {
            Message::AppendRequest(m) if m.entries.is_empty() => traffic.heartbeats += 1,
            Message::AppendRequest(_) => traffic.appends += 1,
            Message::AppendResponse(m) if matches!(m.outcome, AppendOutcome::Conflict { .. }) => {
                traffic.conflicts += 1;
            }
            _ => {}
        }
        if !cut && read {
            self.network.push(envelope);
        }
    }

    pub(super) fn written(&mut self, node: NodeId, number: u64) -> Result<(), String> {
        let place = self.place(node)?;
        let now = self.clock(node);
        if let Err(broken) = self.cluster()?.written(place, number, now) {
            self.report(&broken);
        }
        Ok(())
    }

    /// The snapshot that a node writes is durable, or could not be written.
    pub(super) fn taken(&mut self, node: NodeId, fails: bool) -> Result<bool, String> {
        let place = self.place(node)?;
        let now = self.clock(node);
        let Some(file) = self.taking.remove(&node) else { return Ok(false) };
        let cluster = self.cluster()?;
        if fails {
            if let Some(engine) = cluster.nodes[place].engine_mut() {
                engine.snapshot_taken(None, now);
            }
        } else {
            cluster.snapshot_taken(place, file, now);
        }
        self.pump(node)?;
        Ok(true)
    }

    /// A transfer ends so.
    pub(super) fn transferred(&mut self, transfer: Transfer, outcome: SnapshotOutcome) -> Result<(), String> {
        let (from, to) = transfer.link;
        let (sender, receiver) = (self.place(from)?, self.place(to)?);
        if outcome == SnapshotOutcome::Delivered {
            let (peer, now) = (self.cluster()?.nodes[sender].peer(), self.clock(to));
            let used = self.cluster()?.snapshot_received(receiver, peer, transfer.file, now);
            self.print(format!("{to} {} the snapshot of {from}", if used { "takes" } else { "needs not" }));
            self.pump(to)?;
        }
        let now = self.clock(from);
        let node = &mut self.cluster()?.nodes[sender];
        let same_run = node.run() == transfer.run;
        if let Some(engine) = node.engine_mut().filter(|_| same_run) {
            engine.snapshot_sent(transfer.number, outcome, now);
        }
        self.pump(from).map(drop)
    }

    /// Hands a message to its receiver.
    pub(super) fn deliver(&mut self, envelope: Envelope) -> Result<(), String> {
        let to = envelope.to.node;
        let place = self.place(to)?;
        let now = self.clock(to);
        if let Some(engine) = self.cluster()?.nodes[place].engine_mut() {
            engine.step(envelope, now);
        }
        self.pump(to).map(|_| ())
    }

    /// Takes the messages of a link, or all of them, off the network.
    pub(super) fn take_messages(&mut self, link: Option<Link>) -> Vec<Envelope> {
        let wanted = |e: &Envelope| link.is_none_or(|link| link == (e.from.node, e.to.node));
        let (taken, left) = std::mem::take(&mut self.network).into_iter().partition(wanted);
        self.network = left;
        taken
    }

    /// Delivers and writes everything until nothing moves, but what is held.
    pub(super) fn settle(&mut self) -> Result<(), String> {
        // Without the clock moving, a cluster that does not come to rest is one that talks to itself.
        for _ in 0..10_000 {
            if self.broken {
                return Ok(());
            }
            let mut moved = false;
            for node in self.nodes() {
                moved |= self.pump(node)?;
                let place = self.place(node)?;
                let last = self.cluster()?.nodes[place].disk.in_flight().last();
                if let Some(last) = last
                    && self.disk(node) != DiskMode::Stalled
                    && self.runs(node)
                {
                    self.written(node, last)?;
                    self.pump(node)?;
                    moved = true;
                }
            }
            for node in self.nodes() {
                if self.disk(node) != DiskMode::Stalled {
                    moved |= self.taken(node, false)?;
                }
            }
            let free =
                |transfer: &Transfer| !self.held.contains(&transfer.link) && self.runs(transfer.link.1);
            let free = self.transfers.iter().position(free).filter(|_| !self.streams_asked);
            if let Some(at) = free {
                let transfer = self.transfers.remove(at);
                let cut = self.cut.contains(&transfer.link);
                let outcome = if cut { SnapshotOutcome::Failed } else { SnapshotOutcome::Delivered };
                self.transferred(transfer, outcome)?;
                moved = true;
            }
            let held = self.held.clone();
            let (go, stay) = std::mem::take(&mut self.network)
                .into_iter()
                .partition(|e: &Envelope| !held.contains(&(e.from.node, e.to.node)));
            self.network = stay;
            for envelope in go {
                moved = true;
                self.deliver(envelope)?;
            }
            if !moved {
                return Ok(());
            }
        }
        Err("the cluster does not come to rest".to_owned())
    }

    /// Moves a node's clock on by the longest time that it can wait for a leader, so that it campaigns.
    pub(super) fn campaign(&mut self, node: NodeId) -> Result<(), String> {
        let place = self.place(node)?;
        let now = self.clock(node) + 2 * Config::default().election_timeout;
        self.clocks.insert(node, now);
        let Some(engine) = self.cluster()?.nodes[place].engine_mut() else {
            return Err(format!("node {node} does not run"));
        };
        engine.tick(now);
        self.pump(node).map(drop)
    }

    /// Moves a node's clock to its deadline and tells it so.
    pub(super) fn timeout(&mut self, node: NodeId) -> Result<(), String> {
        let place = self.place(node)?;
        let now = self.clock(node);
        let Some(engine) = self.cluster()?.nodes[place].engine_mut() else {
            return Err(format!("node {node} does not run"));
        };
        let now = now.max(engine.deadline());
        engine.tick(now);
        self.clocks.insert(node, now);
        Ok(())
    }
}

/// The highest level of the payloads in a message; a version of the wire that came before it cannot carry them.
fn highest_level(message: &Message) -> Level {
    match message {
        Message::AppendRequest(m) => m.entries.iter().map(|entry| entry.payload.level()).max().unwrap_or(1),
        _ => 1,
    }
}
