//! What became of operations, counted while they run.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// What became of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was carried out.
    Done,
    /// It surely was not, such as for want of room or of a leader.
    Refused,
    /// Nobody knows.
    Unknown,
}

/// Latencies are kept to three digits, up to here.
const MAX_LATENCY_NS: u64 = 120_000_000_000;

/// Operations that end at the same time on different processors seldom wait for each other with so many.
const SHARDS: usize = 8;

/// Counts and latencies of a while.
pub(super) struct Shard {
    /// Of what was carried out, and of what nobody knows: it took at least as long as it was waited for.
    latency_ns: Histogram<u64>,
    pub(super) refused: u64,
    pub(super) unknown: u64,
}

impl Shard {
    pub(super) fn new() -> Self {
        // These bounds are valid; the automatic one only serves as a way around an error that cannot be.
        let latency_ns = Histogram::new_with_bounds(1, MAX_LATENCY_NS, 3).unwrap_or_else(|_| {
            Histogram::new(3).unwrap_or_else(|_| unreachable!("three digits are allowed"))
        });
        Self { latency_ns, refused: 0, unknown: 0 }
    }

    fn note(&mut self, latency: Duration, outcome: Outcome) {
        match outcome {
            Outcome::Done => {}
            Outcome::Unknown => self.unknown += 1,
            Outcome::Refused => {
                self.refused += 1;
                return;
            }
        }
        self.latency_ns.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    pub(super) fn add(&mut self, other: &Self) {
        // Both have the same bounds.
        let added = self.latency_ns.add(&other.latency_ns);
        debug_assert!(added.is_ok());
        self.refused += other.refused;
        self.unknown += other.unknown;
    }

    /// How many were carried out.
    pub(super) fn done(&self) -> u64 {
        self.latency_ns.len() - self.unknown
    }

    pub(super) fn percentiles(&self) -> Percentiles {
        let at = |share| micros(self.latency_ns.value_at_quantile(share));
        Percentiles {
            min: micros(self.latency_ns.min()),
            mean: self.latency_ns.mean() / 1e3,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            p99_99: at(0.9999),
            max: micros(self.latency_ns.max()),
        }
    }

    /// Share and latency in microseconds, denser towards the slowest.
    pub(super) fn curve(&self) -> Vec<(f64, f64)> {
        let mut curve: Vec<(f64, f64)> = Vec::new();
        for value in self.latency_ns.iter_quantiles(5) {
            curve.push((value.quantile_iterated_to(), micros(value.value_iterated_to())));
        }
        curve
    }
}

fn micros(ns: u64) -> f64 {
    ns as f64 / 1e3
}

/// Latencies in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Percentiles {
    pub min: f64,
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p99_9: f64,
    pub p99_99: f64,
    pub max: f64,
}

/// Takes outcomes from many tasks.
pub(super) struct Recorder(Vec<Mutex<Shard>>);

impl Recorder {
    pub(super) fn new() -> Self {
        Self((0..SHARDS).map(|_| Mutex::new(Shard::new())).collect())
    }

    pub(super) fn note(&self, number: u64, latency: Duration, outcome: Outcome) {
        let place = usize::try_from(number % SHARDS as u64).unwrap_or_default();
        self.0[place].lock().unwrap_or_else(PoisonError::into_inner).note(latency, outcome);
    }

    /// Takes out what was noted since the last time.
    pub(super) fn drain(&self) -> Shard {
        let mut sum = Shard::new();
        for shard in &self.0 {
            let taken =
                std::mem::replace(&mut *shard.lock().unwrap_or_else(PoisonError::into_inner), Shard::new());
            sum.add(&taken);
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_drained_once() {
        let recorder = Recorder::new();
        for number in 0..10_000 {
            recorder.note(number, Duration::from_micros(number + 1), Outcome::Done);
        }
        recorder.note(3, Duration::from_secs(1), Outcome::Refused);
        let shard = recorder.drain();
        assert_eq!((shard.done(), shard.refused, shard.unknown), (10_000, 1, 0));
        let percentiles = shard.percentiles();
        for (value, expected) in [
            (percentiles.p50, 5_000.0),
            (percentiles.p99, 9_900.0),
            (percentiles.p99_99, 9_999.0),
            (percentiles.max, 10_000.0),
            (percentiles.mean, 5_000.5),
        ] {
            assert!((value - expected).abs() < expected / 500.0, "{value} is not about {expected}");
        }
        let curve = shard.curve();
        assert!(curve.windows(2).all(|pair| pair[0].0 <= pair[1].0 && pair[0].1 <= pair[1].1));
        assert_eq!(recorder.drain().done(), 0);
    }

    #[test]
    fn what_was_waited_for_in_vain_counts_for_as_long_as_it_was_waited_for() {
        let recorder = Recorder::new();
        for number in 0..98 {
            recorder.note(number, Duration::from_millis(1), Outcome::Done);
        }
        for number in 0..2 {
            recorder.note(number, Duration::from_secs(5), Outcome::Unknown);
        }
        for number in 0..50 {
            recorder.note(number, Duration::from_secs(9), Outcome::Refused);
        }
        let shard = recorder.drain();
        assert_eq!((shard.done(), shard.refused, shard.unknown), (98, 50, 2));
        let percentiles = shard.percentiles();
        assert!(percentiles.p90 < 1_100.0 && percentiles.p99 > 4.9e6, "{percentiles:?}");
        assert!(percentiles.max < 5.1e6, "{percentiles:?}");
    }

    #[test]
    fn the_slowest_are_kept_as_slow() {
        let recorder = Recorder::new();
        recorder.note(0, Duration::from_secs(100_000), Outcome::Done);
        assert!(recorder.drain().percentiles().max > 100e6);
    }
}
