//! What a node measures: how long things take, and how often what happened. Read by
//! [`Raft::metrics`](crate::Raft::metrics); the feature `metrics`.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::mailbox::lock;
use crate::engine::Event;

/// The upper bounds of the buckets, in microseconds: from a write to memory to an election, each twice the one before. What is longer is
/// counted beyond the last.
const BOUNDS_MICROS: [u64; BUCKETS - 1] = {
    let mut bounds = [0; BUCKETS - 1];
    let mut at = 0;
    while at < bounds.len() {
        bounds[at] = 25 << at;
        at += 1;
    }
    bounds
};

const BUCKETS: usize = 20;

/// How often something took how long.
#[derive(Default)]
pub(super) struct Histogram {
    counts: [AtomicU64; BUCKETS],
    sum_nanos: AtomicU64,
}

impl Histogram {
    pub(super) fn observe(&self, took: Duration, times: u64) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_MICROS.partition_point(|bound| *bound < micros);
        self.counts[bucket].fetch_add(times, Ordering::Relaxed);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).saturating_mul(times);
        self.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    fn read(&self) -> Distribution {
        let bounds = BOUNDS_MICROS.iter().map(|&micros| Duration::from_micros(micros)).chain([Duration::MAX]);
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        Distribution {
            buckets: bounds.zip(counts).collect(),
            sum: Duration::from_nanos(self.sum_nanos.load(Ordering::Relaxed)),
        }
    }
}

/// What is measured, written by the tasks of a node.
#[derive(Default)]
pub(super) struct Meters {
    pub(super) propose_to_commit: Histogram,
    pub(super) commit_to_apply: Histogram,
    pub(super) write: Histogram,
    pub(super) append_round_trip: Histogram,
    events: Mutex<BTreeMap<&'static str, u64>>,
}

impl Meters {
    pub(super) fn count(&self, event: &Event) {
        *lock(&self.events).entry(event.name()).or_default() += 1;
    }

    pub(super) fn read(&self) -> Metrics {
        Metrics {
            propose_to_commit: self.propose_to_commit.read(),
            commit_to_apply: self.commit_to_apply.read(),
            write: self.write.read(),
            append_round_trip: self.append_round_trip.read(),
            events: lock(&self.events).clone(),
        }
    }
}

/// How long something took, and how often.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Distribution {
    /// The upper bound of each bucket, ascending, and how often it took longer than the bound before and at most this; the last bound is
    /// [`Duration::MAX`].
    pub buckets: Vec<(Duration, u64)>,
    /// All of it together.
    pub sum: Duration,
}

impl Distribution {
    /// How often in all.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }
}

/// What a node has measured since it was started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metrics {
    /// From when a proposal was taken by this node, as the leader, until it was committed and durable here.
    pub propose_to_commit: Distribution,
    /// From then until its batch was applied; on followers too.
    pub commit_to_apply: Distribution,
    /// A write to the log store until it was durable.
    pub write: Distribution,
    /// From a heartbeat to its answer, on a leader.
    pub append_round_trip: Distribution,
    /// How often what happened in the engine, by [`Event::name`].
    pub events: BTreeMap<&'static str, u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duration_is_counted_in_the_first_bucket_that_holds_it() {
        let histogram = Histogram::default();
        for (micros, times) in
            [(0, 1), (25, 2), (26, 3), (50, 4), (6_553_600, 5), (6_553_601, 6), (u64::MAX, 7)]
        {
            histogram.observe(Duration::from_micros(micros), times);
        }
        let read = histogram.read();
        let filled: Vec<(Duration, u64)> =
            read.buckets.iter().copied().filter(|(_, count)| *count > 0).collect();
        let bound = Duration::from_micros;
        assert_eq!(filled, [(bound(25), 3), (bound(50), 7), (bound(6_553_600), 5), (Duration::MAX, 13)]);
        assert_eq!(read.count(), 28);
        assert_eq!(read.buckets.len(), BUCKETS);
    }
}
