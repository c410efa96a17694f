//! The simulated network: which ways are open, and when a message arrives.

use crate::message::Envelope;
use crate::testing::random::Random;

use super::settings::Settings;

/// How many messages of the past may come again.
const MEMORY: usize = 256;

pub(super) struct Network {
    size: usize,
    /// Whether the way from one node to another is cut, row by row.
    cut: Vec<bool>,
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
        Self { size, cut: vec![false; size * size], random, past: Vec::new() }
    }

    pub(super) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cut.get(from * self.size + to).copied().unwrap_or(false)
    }

    pub(super) fn cut(&mut self, from: usize, to: usize) {
        if let Some(cut) = self.cut.get_mut(from * self.size + to) {
            *cut = true;
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
