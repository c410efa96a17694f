//! The event loop: what happens next, to whom, and what follows from it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::time::Duration;

use super::clients::{Client, History, PendingRead, Store, Waiting};
use super::members::Copy;
use super::network::Network;
use super::rival::Rivalry;
use super::sessions::SessionClient;
use super::settings::Settings;
use super::snapshots::{Transfer, Work};
use super::subject::{Machines, Subject};
use super::trace::Trace;
use super::{Failure, Options, Report};
use crate::engine::{Engine, Event as EngineEvent, Fetch, Ready, RoleName, SnapshotOutcome, TransferReason};
use crate::message::Envelope;
use crate::session_table::SessionTable;
use crate::testing::cluster::Cluster;
use crate::testing::display;
use crate::testing::invariants::Broken;
use crate::testing::random::{Random, mix};
use crate::testing::shelf::SnapshotFile;
use crate::types::{Entry, Index, Payload, Time};

/// Something that will happen.
pub(super) enum Event {
    Deliver(Box<Envelope>),
    /// A write is durable.
    Written {
        node: usize,
        run: u64,
        number: u64,
    },
    /// What was handed out to be applied is applied.
    Applied {
        node: usize,
        run: u64,
    },
    /// A snapshot is written.
    SnapshotTaken {
        node: usize,
        run: u64,
        file: Box<SnapshotFile>,
    },
    /// A snapshot arrives, or its stream breaks.
    Transfer(Box<Transfer>),
    /// A sender hears how a transfer ended.
    SnapshotSent {
        node: usize,
        run: u64,
        number: u64,
        outcome: SnapshotOutcome,
    },
    /// Old entries were read back.
    Fetched {
        node: usize,
        run: u64,
        fetch: Fetch,
    },
    /// A node's deadline.
    Wake {
        node: usize,
        run: u64,
    },
    Client(usize),
    SessionClient(usize),
    Nemesis,
    /// A rival of a leader gets its chance.
    Rival(Rivalry),
    /// The network is whole again.
    Heal,
    Restart {
        node: usize,
    },
    /// A step of a rolling restart.
    Stop {
        node: usize,
    },
    /// The operator founds the cluster, if it is not yet.
    Bootstrap,
    /// The operator looks after members that lost their folders.
    Mend,
    /// Nothing happens; time passes.
    Pass,
}

/// Sets the draws for sessions apart from all others.
const SESSIONS: u64 = 0x5E55_1045;

/// Sets the draws for snapshots apart from all others.
const SNAPSHOTS: u64 = 0x5AAF_5407;

/// And those for changes of the members.
const MEMBERS: u64 = 0x03E3_BE45;
/// Sets the draws for reads apart from all others.
const READS: u64 = 0x4EAD_1DE5;

/// More events at one moment than this, and nodes or engine run in circles.
const MAX_AT_ONCE: u64 = 20_000;

/// The longest command of a user's machine, with the call's number.
const MACHINE_COMMAND_BYTES: usize = 64 << 10;

/// An event at its time; those of the same time happen in the order in which they were planned.
struct Planned {
    at: u64,
    order: u64,
    event: Event,
}

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Planned {}

impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Planned {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// A node's clock: it runs at its own rate, and jumps forward at times. Microseconds.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    offset: u64,
    /// Parts of a million; a million is true.
    rate: u64,
}

impl Clock {
    fn read(self, now: u64) -> Time {
        Duration::from_micros(self.offset + now * self.rate / 1_000_000)
    }

    /// When it will show `time`.
    fn when(self, time: Time) -> u64 {
        // Up to the next microsecond, and two more for what the divisions drop.
        let time = u64::try_from(time.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX);
        (time.saturating_sub(self.offset)).saturating_mul(1_000_000) / self.rate + 2
    }
}

/// What is around an engine on its node.
pub(super) struct Host {
    pub(super) clock: Clock,
    /// Everything that happens to it waits until then.
    pub(super) paused_until: u64,
    /// The disk is busy until then: writes follow each other.
    pub(super) disk_free_at: u64,
    /// The disk has no room until then.
    pub(super) full_until: u64,
    /// How many writes it began in all.
    writes: u64,
    /// The write after which it is to die.
    dies_after: Option<u64>,
    /// When it will be woken, where that is planned.
    wake_at: Option<u64>,
    pub(super) to_apply: VecDeque<Work>,
    applying: bool,
    /// Transfers that it began and did not hear of.
    pub(super) transfers: BTreeSet<u64>,
    pub(super) store: Store,
    pub(super) sessions: SessionTable,
    pub(super) waiting: Waiting,
}

pub(super) struct World {
    pub(super) options: Options,
    pub(super) settings: Settings,
    pub(super) random: Random,
    pub(super) cluster: Cluster,
    pub(super) hosts: Vec<Host>,
    pub(super) network: Network,
    pub(super) clients: Vec<Client>,
    pub(super) session_clients: Vec<SessionClient>,
    pub(super) history: History,
    pub(super) machines: Option<Machines>,
    pub(super) trace: Trace,
    pub(super) now: u64,
    pub(super) event: u64,
    /// Whether the faults are over.
    pub(super) calm: bool,
    /// Until then clients write nothing, and no fault comes between.
    pub(super) rivalry_until: u64,
    /// Which nodes are to be up, when faults are over.
    pub(super) core: Vec<bool>,
    /// Copies of data folders, by node.
    pub(super) copies: BTreeMap<usize, Copy>,
    order: u64,
    /// How many events happened since time last went on.
    at_once: u64,
    planned: BinaryHeap<Reverse<Planned>>,
}

impl World {
    pub(super) fn new(options: &Options, subject: &Subject) -> Self {
        let mut random = Random::new(mix(options.seed));
        let mut settings = Settings::draw(&mut random);
        settings.draw_snapshots(&mut Random::new(mix(options.seed ^ SNAPSHOTS)));
        settings.draw_sessions(&mut Random::new(mix(options.seed ^ SESSIONS)));
        settings.draw_members(&mut Random::new(mix(options.seed ^ MEMBERS)));
        if subject.store.is_some() {
            // The user's store is not ours to lose.
            settings.nemesis.lost_folder = 0;
            settings.nemesis.old_folder = 0;
        }
        settings.draw_reads(&mut Random::new(mix(options.seed ^ READS)));
        for &fault in &options.without {
            settings.switch_off(fault);
        }
        settings.drop_spares();
        if subject.machine.is_some() {
            settings.session_clients = 0;
            settings.config.max_entry_bytes = MACHINE_COMMAND_BYTES;
            settings.config.max_uncommitted_bytes += MACHINE_COMMAND_BYTES;
        }
        let size = settings.size;
        let mut cluster = if settings.founded {
            Cluster::founded(size, &settings.config)
        } else {
            Cluster::blank(size, &settings.config)
        };
        cluster.prioritize(&settings.priorities);
        let hosts = (0..size)
            .map(|_| Host {
                clock: Clock {
                    offset: random.below(10_000_000),
                    rate: 1_000_000 - settings.clock_drift + random.below(2 * settings.clock_drift + 1),
                },
                paused_until: 0,
                disk_free_at: 0,
                full_until: 0,
                writes: 0,
                dies_after: None,
                wake_at: None,
                to_apply: VecDeque::new(),
                applying: false,
                transfers: BTreeSet::new(),
                store: Store::new(),
                sessions: SessionTable::default(),
                waiting: Waiting::default(),
            })
            .collect();
        Self {
            network: Network::new(size, random.fork()),
            clients: vec![Client::default(); settings.clients],
            session_clients: (0..settings.session_clients).map(|_| SessionClient::default()).collect(),
            history: History::new(),
            machines: Machines::new(subject, size, Random::new(mix(!options.seed))),
            trace: Trace::new(options.keep_lines, options.print),
            options: options.clone(),
            settings,
            random,
            cluster,
            hosts,
            now: 0,
            event: 0,
            calm: false,
            rivalry_until: 0,
            core: vec![true; size],
            copies: BTreeMap::new(),
            order: 0,
            at_once: 0,
            planned: BinaryHeap::new(),
        }
    }

    pub(super) fn run(mut self, subject: &Subject) -> Result<Report, Box<Failure>> {
        match self.run_through(subject) {
            Ok(()) => Ok(Report {
                trace_hash: self.trace.hash,
                writes: self.hosts.iter().map(|host| host.writes).collect(),
                counters: self.trace.counters,
            }),
            Err(broken) => Err(Box::new(Failure {
                seed: self.options.seed,
                events: self.options.events,
                without: self.options.without.clone(),
                event: self.event,
                settings: format!("{:?}", self.settings),
                broken,
                trace: self.trace.take_lines(),
            })),
        }
    }

    fn run_through(&mut self, subject: &Subject) -> Result<(), Broken> {
        if let Some(store) = &subject.store {
            for node in 0..self.settings.size {
                self.cluster.keep_in(node, store(self.cluster.nodes[node].id()))?;
            }
        }
        for node in 0..self.settings.size {
            self.start(node)?;
        }
        if !self.settings.founded {
            self.plan(1_000, Event::Bootstrap);
        }
        for client in 0..self.clients.len() {
            let at = self.random.below(self.settings.think_max + 1);
            self.plan(at, Event::Client(client));
        }
        for client in 0..self.session_clients.len() {
            self.plan(1 + client as u64, Event::SessionClient(client));
        }
        self.plan_nemesis();
        while self.event < self.options.events {
            self.next()?;
        }
        self.calm_down()?;
        self.history.check()
    }

    /// Plans an event in `delay` microseconds.
    pub(super) fn plan(&mut self, delay: u64, event: Event) {
        self.order += 1;
        self.planned.push(Reverse(Planned { at: self.now + delay, order: self.order, event }));
    }

    pub(super) fn local_time(&self, node: usize) -> Time {
        self.hosts[node].clock.read(self.now)
    }

    pub(super) fn is_up(&self, node: usize) -> bool {
        self.cluster.nodes[node].engine().is_some()
    }

    pub(super) fn run_of(&self, node: usize) -> u64 {
        self.cluster.nodes[node].run()
    }

    /// Lets the next event happen.
    pub(super) fn next(&mut self) -> Result<(), Broken> {
        self.happen()?;
        self.cluster.check_leases(|node| self.local_time(node))
    }

    fn happen(&mut self) -> Result<(), Broken> {
        let Some(Reverse(Planned { at, event, .. })) = self.planned.pop() else {
            self.plan(1_000, Event::Pass);
            return Ok(());
        };
        self.at_once = if at > self.now { 0 } else { self.at_once + 1 };
        if self.at_once > MAX_AT_ONCE {
            return Err(Broken::new("time goes on", format!("{MAX_AT_ONCE} events at one moment")));
        }
        self.now = at;
        if let Some(node) = Self::node_of(&event)
            && let Some(host) = self.hosts.get(node)
            && host.paused_until > at
        {
            self.plan(host.paused_until - at, event);
            return Ok(());
        }
        match event {
            Event::Deliver(envelope) => self.deliver(*envelope),
            Event::Written { node, run, number } if run == self.run_of(node) && self.is_up(node) => {
                self.written(node, number)
            }
            Event::Applied { node, run } if run == self.run_of(node) && self.is_up(node) => {
                self.applied(node)
            }
            Event::SnapshotTaken { node, run, file } if run == self.run_of(node) && self.is_up(node) => {
                self.snapshot_taken(node, *file)
            }
            Event::Transfer(transfer) => self.transferred(*transfer),
            Event::SnapshotSent { node, run, number, outcome }
                if run == self.run_of(node) && self.is_up(node) =>
            {
                self.snapshot_sent(node, number, outcome)
            }
            Event::Fetched { node, run, fetch } if run == self.run_of(node) && self.is_up(node) => {
                self.fetched(node, &fetch)
            }
            Event::Wake { node, run } if run == self.run_of(node) && self.is_up(node) => self.wake(node),
            Event::Client(client) => self.client(client),
            Event::SessionClient(client) => self.session_client(client),
            Event::Nemesis => {
                self.nemesis()?;
                self.plan_nemesis();
                Ok(())
            }
            Event::Rival(rivalry) => self.further_rival(rivalry),
            Event::Heal => self.heal(0),
            Event::Restart { node } if self.core[node] && !self.is_up(node) => self.start(node),
            Event::Stop { node } if !self.calm => {
                let keep = self.random_keep(node);
                self.crash(node, keep, "stop in a rolling restart")
            }
            Event::Bootstrap => self.bootstrap(),
            Event::Mend => self.mend(),
            _ => Ok(()),
        }
    }

    fn node_of(event: &Event) -> Option<usize> {
        match event {
            Event::Deliver(envelope) => Some(place(envelope.to.node.0)),
            Event::Transfer(transfer) => Some(transfer.to),
            Event::SnapshotTaken { node, .. } | Event::SnapshotSent { node, .. } => Some(*node),
            Event::Written { node, .. }
            | Event::Applied { node, .. }
            | Event::Fetched { node, .. }
            | Event::Wake { node, .. } => Some(*node),
            _ => None,
        }
    }

    fn deliver(&mut self, envelope: Envelope) -> Result<(), Broken> {
        let (from, to) = (place(envelope.from.node.0), place(envelope.to.node.0));
        if to >= self.hosts.len() || !self.is_up(to) || self.network.is_cut(from, to) {
            self.trace.count("messages lost at a cut or a dead node");
            return Ok(());
        }
        self.event += 1;
        self.trace.mark([1, to as u64, envelope.message.term().unwrap_or(0), self.now]);
        if self.trace.wants_lines() {
            self.trace.line(self.event, self.now, to, "receives", display::envelope(&envelope));
        }
        let now = self.local_time(to);
        if let Some(engine) = self.cluster.nodes[to].engine_mut() {
            engine.step(envelope, now);
        }
        self.pump(to)
    }

    fn written(&mut self, node: usize, number: u64) -> Result<(), Broken> {
        self.event += 1;
        self.trace.mark([2, node as u64, number, self.now]);
        self.trace.line(self.event, self.now, node, "written", format_args!("w{number}"));
        let chosen = self.hosts[node].dies_after == Some(number);
        if chosen || self.random.chance(self.settings.crash_at_write) {
            // Durable, and nobody was told.
            let keep = self.cluster.nodes[node].disk.in_flight().filter(|&n| n <= number).count();
            let why = if chosen { "crash after the chosen write" } else { "crash after a write" };
            return self.crash(node, keep, why);
        }
        let now = self.local_time(node);
        self.cluster.written(node, number, now)?;
        self.pump(node)
    }

    fn applied(&mut self, node: usize) -> Result<(), Broken> {
        self.hosts[node].applying = false;
        let mut last = None;
        let mut work = std::mem::take(&mut self.hosts[node].to_apply);
        while let Some(next) = work.pop_front() {
            match next {
                Work::Apply(entry) => {
                    let mut entries = vec![entry];
                    while let Some(Work::Apply(_)) = work.front() {
                        if let Some(Work::Apply(entry)) = work.pop_front() {
                            entries.push(entry);
                        }
                    }
                    if let Some(machines) = &mut self.machines {
                        machines.apply(node, entries.iter())?;
                    }
                    for entry in entries {
                        self.cluster.apply(node, &entry)?;
                        self.answer(node, &entry)?;
                        last = Some(entry.index());
                    }
                }
                Work::Restore(file) => {
                    self.restore(node, &file)?;
                    last = Some(file.meta.last.index);
                }
                Work::Snapshot(request) => self.take_snapshot(node, request)?,
            }
        }
        let Some(last) = last else { return Ok(()) };
        self.event += 1;
        self.trace.mark([3, node as u64, last, self.cluster.nodes[node].applied.chain]);
        self.trace.line(self.event, self.now, node, "applied", format_args!("to {last}"));
        self.answer_reads(node, last);
        let now = self.local_time(node);
        if let Some(engine) = self.cluster.nodes[node].engine_mut() {
            engine.applied(last, now);
        }
        self.pump(node)
    }

    /// Applies an entry to the node's store, and tells a caller who waits here for its index.
    fn answer(&mut self, node: usize, entry: &Entry) -> Result<(), Broken> {
        if let Payload::Session(asked) = &entry.payload {
            self.apply_session(node, entry, asked)?;
        } else {
            self.hosts[node].waiting.attempts.remove(&entry.index());
        }
        let host = &mut self.hosts[node];
        let done = self.history.apply(entry, &mut host.store)?;
        if let Some((term, call)) = host.waiting.truncated.remove(&entry.index())
            && term != entry.term()
        {
            self.trace.count("proposals overwritten");
            self.history.refused(call);
        }
        let Some((term, call)) = host.waiting.proposals.remove(&entry.index()) else { return Ok(()) };
        if term != entry.term() {
            return Err(Broken::new(
                "a proposal's entry is not replaced before a truncation is told",
                format!("call {call} of term {term}; {} is applied", entry.id),
            ));
        }
        match done {
            Some((applied, found)) if applied == call => self.history.written(call, entry.id, found),
            _ => {
                return Err(Broken::new(
                    "an entry is what was proposed under its id",
                    format!("{} is not call {call}", entry.id),
                ));
            }
        }
        self.trace.count("proposals acknowledged");
        Ok(())
    }

    fn answer_reads(&mut self, node: usize, applied: Index) {
        let host = &mut self.hosts[node];
        let (ready, later): (Vec<_>, Vec<_>) =
            host.waiting.confirmed.drain(..).partition(|&(index, _)| index <= applied);
        host.waiting.confirmed = later;
        for (_, read) in ready {
            self.answer_read(node, applied, read);
        }
    }

    fn answer_read(&mut self, node: usize, applied: Index, read: PendingRead) {
        let key = self.history.key(read.call);
        let value = self.hosts[node].store.get(&key).copied();
        self.history.read(read.call, value, applied);
        self.trace.count("reads answered");
    }

    fn fetched(&mut self, node: usize, fetch: &Fetch) -> Result<(), Broken> {
        self.event += 1;
        let entries = self.cluster.read(node, fetch)?;
        let now = self.local_time(node);
        if let Some(engine) = self.cluster.nodes[node].engine_mut() {
            engine.fetched(fetch.purpose, entries, now);
        }
        self.pump(node)
    }

    fn wake(&mut self, node: usize) -> Result<(), Broken> {
        self.hosts[node].wake_at = None;
        let now = self.local_time(node);
        let Some(engine) = self.cluster.nodes[node].engine_mut() else { return Ok(()) };
        if engine.deadline() <= now {
            self.event += 1;
            let deadline = engine.deadline();
            engine.tick(now);
            let late = now.saturating_sub(deadline);
            self.trace.line(self.event, self.now, node, "wakes", format_args!("{late:?} after its deadline"));
            self.trace.mark([4, node as u64, self.now, 0]);
            return self.pump(node);
        }
        self.plan_wake(node);
        Ok(())
    }

    /// Asks a node what it wants, and sees to it.
    pub(super) fn pump(&mut self, node: usize) -> Result<(), Broken> {
        loop {
            let now = self.local_time(node);
            let ready = self.cluster.ready(node, now)?;
            if ready.is_empty() {
                break;
            }
            self.take(node, ready)?;
            if self.settings.ask_once || !self.is_up(node) {
                break;
            }
        }
        self.plan_wake(node);
        Ok(())
    }

    fn take(&mut self, node: usize, ready: Ready) -> Result<(), Broken> {
        for event in &ready.events {
            self.note(node, event);
        }
        for envelope in ready.messages {
            self.send(node, envelope);
        }
        let run = self.run_of(node);
        for fetch in ready.fetches {
            self.trace.count("fetches");
            let delay = self.random.between(self.settings.disk_min, self.settings.disk_max);
            self.plan(delay, Event::Fetched { node, run, fetch });
        }
        for send in &ready.send_snapshots {
            self.send_snapshot(node, send)?;
        }
        for number in &ready.abandon_snapshots {
            self.trace.count("snapshot transfers abandoned");
            self.hosts[node].transfers.remove(number);
        }
        let mut takes = self.settings.apply_max;
        if ready.restore.is_some() {
            takes = takes.max(self.settings.snapshot_max);
        }
        let restore = ready.restore.map(|meta| self.cluster.snapshot(node, &meta)).transpose()?;
        let to_apply = &mut self.hosts[node].to_apply;
        to_apply.extend(restore.map(Work::Restore));
        to_apply.extend(ready.apply.into_iter().map(Work::Apply));
        to_apply.extend(ready.snapshot.map(Work::Snapshot));
        if !to_apply.is_empty() && !self.hosts[node].applying {
            self.hosts[node].applying = true;
            let delay = self.random.below(takes + 1);
            self.plan(delay, Event::Applied { node, run });
        }
        for id in ready.failed_reads {
            self.hosts[node].waiting.reads.remove(&id);
        }
        for read in ready.reads {
            let Some(pending) = self.hosts[node].waiting.reads.remove(&read.id) else {
                return Err(Broken::new("a read is answered once", format!("{:?}", read.id)));
            };
            self.trace.count(match (read.until, self.cluster.nodes[node].engine().map(Engine::role)) {
                (Some(_), _) => "reads by a lease",
                (None, Some(RoleName::Leader)) => "reads by a round",
                (None, _) => "reads on a follower",
            });
            if read.index < pending.floor {
                return Err(Broken::new(
                    "a read is no older than what was answered before it began",
                    format!("reads at {}, {} was answered", read.index, pending.floor),
                ));
            }
            let applied = self.cluster.nodes[node].applied.last.index;
            if read.index <= applied {
                self.answer_read(node, applied, pending);
            } else {
                self.hosts[node].waiting.confirmed.push((read.index, pending));
            }
        }
        match ready.write {
            Some(write) => {
                if self.trace.wants_lines() {
                    self.trace.line(self.event, self.now, node, "writes", display::write(&write));
                }
                self.begin_write(node, write.number)
            }
            None => Ok(()),
        }
    }

    fn begin_write(&mut self, node: usize, number: u64) -> Result<(), Broken> {
        self.trace.mark([5, node as u64, number, 0]);
        self.trace.count("writes");
        self.hosts[node].writes += 1;
        let before = self.cluster.nodes[node].disk.in_flight().len().saturating_sub(1);
        let ordinal = self.hosts[node].writes;
        if let Some(crash) = self.options.crash_at
            && (crash.node, crash.write) == (node, ordinal)
        {
            if !crash.durable {
                return self.crash(node, before, "crash before the chosen write");
            }
            self.hosts[node].dies_after = Some(number);
        }
        if self.random.chance(self.settings.disk_full) {
            let longest = 8 * self.election_timeout();
            self.hosts[node].full_until = self.now + self.random.below(longest);
        }
        if self.hosts[node].full_until > self.now {
            let keep = self.random.index(before + 1);
            return self.crash(node, keep, "disk full");
        }
        let failed = self.random.chance(self.settings.disk_failure);
        if failed && self.options.retry_fsync {
            self.cluster.nodes[node].disk.forget(number);
        } else if failed {
            let keep = self.random_keep(node);
            return self.crash(node, keep, "disk failure");
        }
        if self.random.chance(self.settings.crash_at_write) {
            let keep = self.random_keep(node);
            return self.crash(node, keep, "crash at a write");
        }
        let mut takes = self.random.between(self.settings.disk_min, self.settings.disk_max);
        if self.random.chance(self.settings.disk_stall) {
            self.trace.count("disk stalls");
            takes += self.random.below(2 * self.election_timeout());
        }
        let host = &mut self.hosts[node];
        host.disk_free_at = host.disk_free_at.max(self.now) + takes;
        let delay = host.disk_free_at - self.now;
        let run = self.run_of(node);
        self.plan(delay, Event::Written { node, run, number });
        Ok(())
    }

    pub(super) fn random_keep(&mut self, node: usize) -> usize {
        let in_flight = self.cluster.nodes[node].disk.in_flight().len();
        self.random.index(in_flight + 1)
    }

    fn send(&mut self, node: usize, envelope: Envelope) {
        let to = place(envelope.to.node.0);
        self.trace.mark([6, node as u64, to as u64, envelope.message.term().unwrap_or(0)]);
        if self.trace.wants_lines() {
            self.trace.line(self.event, self.now, node, "sends", display::envelope(&envelope));
        }
        self.trace.count("messages");
        if self.network.is_cut(node, to) {
            self.trace.count("messages lost at a cut or a dead node");
            return;
        }
        let routed = self.network.route(&self.settings, envelope);
        for (happened, name) in [
            (routed.lost, "messages lost"),
            (routed.repeated, "messages repeated"),
            (routed.replayed, "messages replayed"),
        ] {
            if happened {
                self.trace.count(name);
            }
        }
        for (delay, envelope) in routed.arrivals {
            self.plan(delay, Event::Deliver(Box::new(envelope)));
        }
    }

    fn note(&mut self, node: usize, event: &EngineEvent) {
        if self.trace.wants_lines() {
            self.trace.line(self.event, self.now, node, "event", display::event(event));
        }
        if let EngineEvent::Elected { .. } = event {
            for (delay, envelope) in self.network.recall(&self.settings, node) {
                self.trace.count("messages replayed");
                self.plan(delay, Event::Deliver(Box::new(envelope)));
            }
        }
        if let EngineEvent::SnapshotInstalled { last, .. } = event {
            // What lay beyond is dropped like what is truncated; what it covers is given up when it is restored.
            let waiting = &mut self.hosts[node].waiting;
            drop(waiting.attempts.split_off(&(last.index + 1)));
            for (index, (term, call)) in waiting.proposals.split_off(&(last.index + 1)) {
                waiting.truncated.insert(index, (term, call));
                self.history.give_up(call);
            }
        }
        if let EngineEvent::Truncated { from, last } = event {
            // Whoever waits for them hears that it is unknown: another node may hold them still.
            for index in from.index..=*last {
                let waiting = &mut self.hosts[node].waiting;
                waiting.attempts.remove(&index);
                if let Some((term, call)) = waiting.proposals.remove(&index) {
                    waiting.truncated.insert(index, (term, call));
                    self.trace.count("proposals truncated");
                    self.history.give_up(call);
                }
            }
        }
        self.trace.count(match event {
            EngineEvent::PreCampaign { .. } => "pre-campaigns",
            EngineEvent::Campaign { .. } => "campaigns",
            EngineEvent::Elected { .. } => "elections won",
            EngineEvent::Following { .. } => "followings",
            EngineEvent::QuorumLost { .. } => "quorums lost",
            EngineEvent::DiskStalled { .. } => "leaders with a stalled disk",
            EngineEvent::Transferring { reason, .. } => match reason {
                TransferReason::Preferred => "transfers to the preferred",
                TransferReason::DiskStalled => "transfers off a stalled disk",
                _ => "transfers asked for",
            },
            EngineEvent::TransferFailed { .. } => "transfers failed",
            EngineEvent::Truncated { .. } => "truncations",
            EngineEvent::Resend { .. } => "resends",
            EngineEvent::PromiseBroken { .. } => "promises broken",
            EngineEvent::Refused { reason, .. } => match reason {
                crate::engine::Refusal::SecondLeader => "refusals: second leader",
                crate::engine::Refusal::TruncatesCommitted => "refusals: truncates committed",
                crate::engine::Refusal::BadEntries => "refusals: bad entries",
                crate::engine::Refusal::Overloaded => "refusals: overloaded",
                crate::engine::Refusal::BeyondLog => "refusals: beyond log",
                _ => "refusals: not for this node",
            },
            EngineEvent::SnapshotTaken { .. } => "snapshots taken",
            EngineEvent::SnapshotFailed => "snapshots failed",
            EngineEvent::SnapshotSent { outcome, .. } => match outcome {
                SnapshotOutcome::Delivered => "snapshots delivered",
                SnapshotOutcome::Failed => "snapshot transfers broken",
                SnapshotOutcome::Refused => "snapshot transfers refused",
                SnapshotOutcome::Damaged => "snapshot transfers of damaged files",
            },
            EngineEvent::SnapshotLost { .. } => "delivered snapshots lost",
            EngineEvent::SnapshotInstalled { .. } => "snapshots installed",
            EngineEvent::MembershipAppended { membership, .. } => {
                if membership.outgoing.is_empty() {
                    "plain configurations"
                } else {
                    "joint configurations"
                }
            }
            EngineEvent::MembershipCommitted { .. } => "configurations committed",
            EngineEvent::CatchUpSlow { .. } => "nodes too slow to join",
            EngineEvent::LeftOffice { .. } => "leaders that left office",
            EngineEvent::Dismissed { .. } => "dismissals heard",
            EngineEvent::Founding => "foundings",
            EngineEvent::FoundingEnded { .. } => "foundings given up",
        });
    }

    /// Plans to wake a node at its deadline, unless it is woken by then anyway.
    pub(super) fn plan_wake(&mut self, node: usize) {
        let Some(engine) = self.cluster.nodes[node].engine() else { return };
        let deadline = engine.deadline();
        if deadline == Time::MAX {
            return;
        }
        let at = self.hosts[node].clock.when(deadline).max(self.now);
        if self.hosts[node].wake_at.is_none_or(|planned| at < planned) {
            self.hosts[node].wake_at = Some(at);
            let run = self.run_of(node);
            self.plan(at - self.now, Event::Wake { node, run });
        }
    }

    pub(super) fn start(&mut self, node: usize) -> Result<(), Broken> {
        let now = self.local_time(node);
        self.event += 1;
        self.trace.mark([7, node as u64, self.now, 0]);
        self.trace.line(self.event, self.now, node, "starts", "");
        let seed = self.random.next();
        if let Some(added) = self.cluster.start(node, seed, now)? {
            self.restore_added(node, &added)?;
        }
        if let (Some(bug), Some(engine)) = (self.options.planted, self.cluster.nodes[node].engine_mut()) {
            engine.plant(bug);
        }
        self.pump(node)
    }

    pub(super) fn crash(&mut self, node: usize, keep: usize, why: &'static str) -> Result<(), Broken> {
        if !self.is_up(node) {
            return Ok(());
        }
        self.trace.count(why);
        self.trace.mark([8, node as u64, keep as u64, self.now]);
        let lost = self.cluster.nodes[node].disk.in_flight().len() - keep;
        self.trace.line(self.event, self.now, node, "dies", format_args!("{why}, {lost} writes lost"));
        self.cluster.crash(node, keep)?;
        if let Some(machines) = &mut self.machines {
            machines.restart(node);
        }
        let host = &mut self.hosts[node];
        host.paused_until = 0;
        host.disk_free_at = 0;
        host.dies_after = None;
        host.wake_at = None;
        host.to_apply.clear();
        host.applying = false;
        host.transfers.clear();
        host.store.clear();
        host.sessions = SessionTable::default();
        host.waiting = Waiting::default();
        let down = self.random.below(self.settings.downtime_max + 1);
        self.plan(down, Event::Restart { node });
        Ok(())
    }

    fn bootstrap(&mut self) -> Result<(), Broken> {
        let now = self.local_time(0);
        let members = Cluster::founders(self.settings.members);
        let Some(engine) = self.cluster.nodes[0].engine_mut() else {
            self.plan(100_000, Event::Bootstrap);
            return Ok(());
        };
        // It is refused once the node has a log, and is repeated until then: a crash may have undone it.
        if engine.bootstrap(members, now).is_ok() {
            self.plan(500_000, Event::Bootstrap);
        } else if self.cluster.invariants.committed().is_empty() {
            self.plan(2_000_000, Event::Bootstrap);
        }
        self.pump(0)
    }

    pub(super) fn election_timeout(&self) -> u64 {
        self.settings.config.election_timeout.as_micros() as u64
    }

    pub(super) fn jump(&mut self, node: usize, by: u64) {
        self.hosts[node].clock.offset += by;
        self.hosts[node].wake_at = None;
    }
}

pub(super) const fn place(node: u64) -> usize {
    (node as usize).wrapping_sub(1)
}
