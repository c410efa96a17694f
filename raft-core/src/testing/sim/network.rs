//! The simulated network: which ways are open, and when a message arrives.

use crate::message::Envelope;
use crate::testing::random::Random;

use super::settings::Settings;
use super::world::place;

/// How many messages of the past may come again.
const MEMORY: usize = 256;

/// How many come again after an election.
const RECALLED: usize = 4;

pub(super) struct Network {
    size: usize,
    /// Whether the way from one node to another is cut, row by row.
    cut: Vec<bool>,
    /// How much longer a message takes from one node to another, likewise.
    slow: Vec<u64>,
    random: Random,
    past: Vec<Envelope>,
}

/// What the network did to a message.
#[derive(Default)]
pub(super) struct Routed {
    /// When what arrives.
    pub(super) arrivals: Vec<(u64, Envelope)>,
    pub(super) lost: bool,
    pub(super) repeated: bool,
    pub(super) replayed: bool,
}

impl Network {
    pub(super) fn new(size: usize, random: Random) -> Self {
        Self { size, cut: vec![false; size * size], slow: vec![0; size * size], random, past: Vec::new() }
    }

    pub(super) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cut.get(from * self.size + to).copied().unwrap_or(false)
    }

    pub(super) fn cut(&mut self, from: usize, to: usize) {
        if let Some(cut) = self.cut.get_mut(from * self.size + to) {
            *cut = true;
        }
    }

    /// Makes a way longer by `micros`.
    pub(super) fn slow(&mut self, from: usize, to: usize, micros: u64) {
        if let Some(slow) = self.slow.get_mut(from * self.size + to) {
            *slow = micros;
        }
    }

    /// Cuts every way that `open` does not allow.
    pub(super) fn allow(&mut self, open: impl Fn(usize, usize) -> bool) {
        for from in 0..self.size {
            for to in 0..self.size {
                self.cut[from * self.size + to] = !open(from, to);
            }
        }
    }

    pub(super) fn heal(&mut self) {
        self.cut.fill(false);
        self.slow.fill(0);
    }

    /// Messages of the past that come again from a node that was just elected: it may have led before, and been answered then.
    pub(super) fn recall(&mut self, settings: &Settings, leader: usize) -> Vec<(u64, Envelope)> {
        let mut recalled = Vec::new();
        for _ in 0..RECALLED {
            let own: Vec<_> = self.past.iter().filter(|past| place(past.from.node.0) == leader).collect();
            if settings.replay > 0 && !own.is_empty() {
                let place = self.random.index(own.len());
                let delay = self.random.below(4 * settings.delay_max + 1);
                recalled.push((delay, own[place].clone()));
            }
        }
        recalled
    }

    pub(super) fn route(&mut self, settings: &Settings, envelope: Envelope) -> Routed {
        let mut routed = Routed::default();
        let random = &mut self.random;
        if settings.replay > 0 {
            if random.chance(settings.replay) && !self.past.is_empty() {
                let place = random.index(self.past.len());
                routed.arrivals.push((random.below(settings.delay_max + 1), self.past[place].clone()));
                routed.replayed = true;
            }
            // Some of the oldest stay for long: a random one makes room.
            if self.past.len() < MEMORY {
                self.past.push(envelope.clone());
            } else {
                self.past[random.index(MEMORY)] = envelope.clone();
            }
        }
        if random.chance(settings.loss) {
            routed.lost = true;
            return routed;
        }
        let mut delay = random.between(settings.delay_min, settings.delay_max);
        let (from, to) = (place(envelope.from.node.0), place(envelope.to.node.0));
        delay += self.slow.get(from * self.size + to).copied().unwrap_or(0);
        if random.chance(settings.straggle) {
            delay += random.below(settings.config.election_timeout.as_micros() as u64);
        }
        if random.chance(settings.duplicate) {
            let late = random.below(10 * settings.delay_max + 1);
            routed.arrivals.push((delay + late, envelope.clone()));
            routed.repeated = true;
        }
        routed.arrivals.push((delay, envelope));
        routed
    }
}
