//! What a seed draws before it begins: the cluster, its settings, and which faults at which rates. Each seed leaves some
//! faults out (swarm testing; Groce et al., 2012): a fault that always happens hides what needs its absence.

use std::time::Duration;

use crate::config::Config;
use crate::session::SessionLimits;
use crate::testing::random::Random;

/// The conditions of one run. Times are in microseconds, probabilities in parts of a million.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// How many nodes there are.
    pub size: usize,
    /// How many of them are members at first; the others are blank.
    pub members: usize,
    /// The settings of every engine.
    pub config: Config,
    /// Each node's priority, in order; none where all have the same.
    pub priorities: Vec<u8>,
    /// Whether the nodes are founded before the run; otherwise node 1 bootstraps them.
    pub founded: bool,
    /// Whether a driver asks an engine once after an input, or until it wants nothing.
    pub ask_once: bool,

    /// The shortest way of a message.
    pub delay_min: u64,
    /// The longest way of a message.
    pub delay_max: u64,
    /// A message is lost.
    pub loss: u64,
    /// A message arrives twice.
    pub duplicate: u64,
    /// A message is held back by up to an election timeout.
    pub straggle: u64,
    /// Some message of the past arrives again.
    pub replay: u64,

    /// The shortest write.
    pub disk_min: u64,
    /// The longest write.
    pub disk_max: u64,
    /// A write takes up to two election timeouts.
    pub disk_stall: u64,
    /// A write fails, which is the end of the process.
    pub disk_failure: u64,
    /// The disk is full for a while: a write fails, and so does each that a restarted process begins before there is room.
    pub disk_full: u64,
    /// The process dies when it begins a write, or right after one is durable.
    pub crash_at_write: u64,

    /// How long between two faults on average; 0 for none.
    pub nemesis_pause: u64,
    /// How often each is drawn, relative to the others.
    pub nemesis: NemesisWeights,
    /// How long a node stays down at most.
    pub downtime_max: u64,
    /// How much slower or faster than real a clock may run.
    pub clock_drift: u64,

    /// How many clients there are.
    pub clients: usize,
    /// How many clients with sessions there are beside them.
    pub session_clients: usize,
    /// What a session may cost.
    pub sessions: SessionLimits,
    /// How many keys they share.
    pub keys: u64,
    /// How long a client waits between two calls at most.
    pub think_max: u64,
    /// How long a client waits for an answer before its outcome is unknown.
    pub patience: u64,
    /// The longest padding of a command in bytes.
    pub padding_max: u64,
    /// A client reads at any node, not only at the one that it takes for the leader.
    pub read_anywhere: u64,
    /// The cluster has leases, or may come to have them: clocks keep to their bound.
    pub leases: bool,
    /// A read is content with a lease.
    pub read_by_lease: u64,
    /// How long an applied batch takes at most.
    pub apply_max: u64,

    /// How long it takes to write, to send or to restore a snapshot at most.
    pub snapshot_max: u64,
    /// A snapshot fails: it cannot be written, or its transfer breaks or is refused.
    pub snapshot_failure: u64,
}

/// How often each fault is drawn, relative to the others.
#[derive(Clone, Copy, Debug, Default)]
pub struct NemesisWeights {
    /// A node dies and comes back later.
    pub crash: u64,
    /// All nodes die at once.
    pub crash_all: u64,
    /// All nodes die one after the other.
    pub rolling_restart: u64,
    /// A node stands still for a while.
    pub pause: u64,
    /// A clock jumps forward.
    pub jump: u64,
    /// One node is cut off.
    pub isolate: u64,
    /// The cluster falls in two.
    pub split: u64,
    /// Some ways are cut in one direction.
    pub one_way: u64,
    /// Each node hears only its neighbours.
    pub ring: u64,
    /// Two halves that share one node.
    pub bridge: u64,
    /// An operator asks for a transfer of leadership.
    pub transfer: u64,
    /// An operator switches leases on or off, or changes how long they last.
    pub lease: u64,
    /// A leader with a lease is kept from another node until that one wants to lead, and then from all.
    pub rival: u64,
    /// A disk finishes nothing for several election timeouts.
    pub stall: u64,
    /// An operator asks a node for a snapshot.
    pub snapshot: u64,
    /// An operator changes the members.
    pub members: u64,
    /// A node loses its data folder.
    pub lost_folder: u64,
    /// A copy of a data folder is made, or put back.
    pub old_folder: u64,
    /// The network is whole again.
    pub heal: u64,
}

impl Settings {
    /// Draws the conditions of a seed.
    pub fn draw(random: &mut Random) -> Self {
        let size = match random.below(40) {
            0 => 7,
            1 => 9,
            2..4 => 1,
            4..7 => 2,
            7..11 => 4,
            11..21 => 5,
            _ => 3,
        };
        let delay_max = pick(random, &[300, 2_000, 10_000, 40_000]);
        let disk_max = pick(random, &[100, 1_000, 8_000, 40_000]);
        Self {
            size,
            members: size,
            config: draw_config(random),
            priorities: if random.chance(400_000) {
                (0..size).map(|_| pick(random, &[0, 1, 100, 255]) as u8).collect()
            } else {
                Vec::new()
            },
            founded: random.chance(700_000),
            ask_once: random.chance(500_000),
            delay_min: delay_max / pick(random, &[1, 4, 20]),
            delay_max,
            loss: sometimes(random, &[1_000, 20_000, 100_000, 250_000]),
            duplicate: sometimes(random, &[5_000, 50_000, 200_000]),
            straggle: sometimes(random, &[2_000, 20_000, 100_000]),
            replay: sometimes(random, &[1_000, 10_000, 50_000]),
            disk_min: disk_max / pick(random, &[1, 4, 20]),
            disk_max,
            disk_stall: sometimes(random, &[500, 5_000]),
            disk_failure: sometimes(random, &[200, 2_000]),
            disk_full: sometimes(random, &[100, 1_000]),
            crash_at_write: sometimes(random, &[200, 2_000, 10_000]),
            nemesis_pause: sometimes(random, &[50_000, 300_000, 2_000_000]),
            nemesis: NemesisWeights {
                crash: sometimes(random, &[2, 10]),
                crash_all: sometimes(random, &[1, 3]),
                rolling_restart: sometimes(random, &[1, 3]),
                pause: sometimes(random, &[2, 6]),
                jump: sometimes(random, &[2, 6]),
                isolate: sometimes(random, &[2, 10]),
                split: sometimes(random, &[2, 10]),
                one_way: sometimes(random, &[2, 10]),
                ring: sometimes(random, &[1, 4]),
                bridge: sometimes(random, &[1, 4]),
                transfer: sometimes(random, &[4, 20]),
                lease: 0,
                rival: 0,
                stall: sometimes(random, &[1, 6]),
                snapshot: 0,
                members: 0,
                lost_folder: 0,
                old_folder: 0,
                heal: 8,
            },
            downtime_max: pick(random, &[20_000, 500_000, 3_000_000]),
            clock_drift: sometimes(random, &[1_000, 100_000]),
            clients: 1 + random.index(6),
            session_clients: 0,
            sessions: SessionLimits::default(),
            keys: 1 + random.below(4),
            think_max: pick(random, &[1_000, 20_000, 200_000]),
            patience: pick(random, &[200_000, 2_000_000]),
            padding_max: pick(random, &[0, 32, 400]),
            read_anywhere: 0,
            leases: false,
            read_by_lease: 0,
            apply_max: pick(random, &[10, 2_000, 50_000]),
            snapshot_max: 0,
            snapshot_failure: 0,
        }
    }

    /// Draws how snapshots are taken and kept, from a source of its own: a seed that takes none runs as if there were none.
    pub(super) fn draw_snapshots(&mut self, random: &mut Random) {
        let config = &mut self.config;
        let often = sometimes(random, &[1, 5, 30, 200]);
        if often > 0 {
            config.snapshot_entries = often;
            config.snapshot_bytes =
                usize::try_from(pick(random, &[200, 5_000, 1 << 20])).unwrap_or(usize::MAX);
        }
        config.keep_entries = pick(random, &[0, 1, 10, 100]);
        config.keep_bytes = usize::try_from(pick(random, &[0, 500, 1 << 20])).unwrap_or(usize::MAX);
        config.keep_live_bytes = usize::try_from(pick(random, &[0, 0, 1 << 20])).unwrap_or(usize::MAX);
        self.snapshot_max = pick(random, &[100, 20_000, 1_000_000]);
        self.snapshot_failure = sometimes(random, &[10_000, 100_000, 400_000]);
        self.nemesis.snapshot = sometimes(random, &[2, 10]);
    }

    /// Draws whether clients have sessions, likewise.
    pub(super) fn draw_sessions(&mut self, random: &mut Random) {
        self.session_clients = usize::try_from(sometimes(random, &[1, 2, 5])).unwrap_or(0);
        let idle_ms = pick(random, &[500, 10_000, 3_600_000]);
        let (answers, bytes) = (pick(random, &[1, 4, 1_000]) as u32, pick(random, &[0, 100, 65_536]) as u32);
        self.sessions = super::sessions::limits(idle_ms, answers, bytes);
    }

    /// Draws how members come and go, from a source of its own, like snapshots.
    pub(super) fn draw_members(&mut self, random: &mut Random) {
        self.nemesis.members = sometimes(random, &[4, 20, 60]);
        self.nemesis.lost_folder = sometimes(random, &[2, 10]);
        self.nemesis.old_folder = sometimes(random, &[4, 20]);
        if self.nemesis.members > 0 {
            // Until a leader finds it out, nobody knows that a smaller cluster could not do without the node.
            self.nemesis.old_folder = 0;
        }
        if self.nemesis.members + self.nemesis.lost_folder > 0 {
            // Who comes in later learns the first configuration from the log.
            self.founded = false;
        }
        if self.nemesis.members == 0 {
            return;
        }
        for _ in 0..random.below(4) {
            self.size += 1;
            if !self.priorities.is_empty() {
                self.priorities.push(pick(random, &[0, 1, 100, 255]) as u8);
            }
        }
    }

    /// Draws how clients read, and whether the cluster has leases, from a source of its own too. The bound on the drift of clocks is
    /// what they do drift: more than the bound is not survived, and less would not show that the bound is enough.
    pub(super) fn draw_reads(&mut self, random: &mut Random) {
        self.read_anywhere = pick(random, &[0, 200_000, 700_000]);
        if random.chance(600_000) {
            self.leases = true;
            self.nemesis.lease = pick(random, &[0, 20, 80]);
            if self.nemesis.lease == 0 || random.chance(700_000) {
                self.config.lease_clock_drift_ppm = u32::try_from(self.clock_drift).ok();
            }
            self.read_by_lease = pick(random, &[200_000, 600_000, 1_000_000]);
            self.nemesis.rival = pick(random, &[0, 20, 80, 320]);
            if self.nemesis.rival > 0 && !(1..300_000).contains(&self.nemesis_pause) {
                self.nemesis_pause = 300_000;
            }
        }
    }

    /// Without changes of the members, blank nodes would stay blank.
    pub(super) fn drop_spares(&mut self) {
        if self.nemesis.members == 0 {
            self.size = self.members;
            self.priorities.truncate(self.members);
        }
    }

    /// The same cluster with no fault left.
    pub(super) fn calm(&mut self) {
        self.loss = 0;
        self.duplicate = 0;
        self.straggle = 0;
        self.replay = 0;
        self.disk_stall = 0;
        self.disk_failure = 0;
        self.disk_full = 0;
        self.crash_at_write = 0;
        self.nemesis_pause = 0;
        self.snapshot_failure = 0;
    }
}

fn draw_config(random: &mut Random) -> Config {
    let mut config = Config::default();
    config.election_timeout = Duration::from_millis(pick(random, &[150, 300, 500]));
    config.heartbeat_interval =
        config.election_timeout / u32::try_from(pick(random, &[3, 6, 10])).unwrap_or(10);
    config.pre_vote = random.chance(800_000);
    config.check_quorum = random.chance(800_000);
    let size = |random: &mut Random, small: &[u64], default: usize| {
        if random.chance(500_000) { default } else { usize::try_from(pick(random, small)).unwrap_or(default) }
    };
    config.max_entry_bytes = 1_000;
    config.max_append_bytes = size(random, &[1, 200, 1_000], config.max_append_bytes);
    config.max_inflight_messages = size(random, &[1, 2, 8], config.max_inflight_messages);
    config.max_inflight_bytes = size(random, &[1, 500, 4_000], config.max_inflight_bytes);
    config.max_uncommitted_bytes = size(random, &[1_100, 3_000, 20_000], config.max_uncommitted_bytes);
    config.max_tail_bytes = size(random, &[0, 300, 2_000], config.max_tail_bytes);
    config.max_apply_bytes = size(random, &[1, 500], config.max_apply_bytes);
    config.max_write_bytes = size(random, &[1, 300, 2_000], config.max_write_bytes);
    config.max_pending_reads = size(random, &[1, 3], config.max_pending_reads);
    config
}

fn pick(random: &mut Random, values: &[u64]) -> u64 {
    values[random.index(values.len())]
}

/// None of it in half of all seeds.
fn sometimes(random: &mut Random, values: &[u64]) -> u64 {
    let value = pick(random, values);
    if random.chance(500_000) { value } else { 0 }
}
