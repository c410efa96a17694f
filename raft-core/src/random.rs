//! Random numbers that a seed replays.

use std::time::Duration;

use crate::types::Lineage;

/// SplitMix64 (Steele, Lea and Flood, 2014): small, and good enough to spread timeouts.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A lineage of a new history.
    pub(crate) fn lineage(&mut self) -> Lineage {
        Lineage::drawn(self.next())
    }

    /// What tells one run of a process from all others.
    pub(crate) fn boot(&mut self) -> u64 {
        self.next()
    }

    /// A duration from `shortest` up to, not including, twice that.
    pub(crate) fn one_to_two_times(&mut self, shortest: Duration) -> Duration {
        let nanos = u64::try_from(shortest.as_nanos()).unwrap_or(u64::MAX).max(1);
        shortest.saturating_add(Duration::from_nanos(self.next() % nanos))
    }
}
