//! The settings of a node, each with its unit and the reason for its default.

use std::time::Duration;

use crate::membership::Lease;
use crate::types::Entry;

/// Settings of the engine. Build one with [`Config::default`] and change fields; [`Config::validate`] tells what is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// The shortest time without a leader after which a follower campaigns; each wait is drawn from one to two times
    /// this (paper, 5.2). Must be several round trips and fsyncs. Default: 500 ms.
    pub election_timeout: Duration,
    /// How often a leader that has nothing to send shows that it lives. Default: 50 ms, so that nine in a row can be lost.
    pub heartbeat_interval: Duration,
    /// Ask whether an election could be won before disturbing anyone with a higher term (thesis, 9.6). Default: true.
    pub pre_vote: bool,
    /// A leader that hears of no majority for an election timeout steps down, and a follower that hears from its leader
    /// grants no vote against it (thesis, 6.2 and 4.2.3). Default: true.
    pub check_quorum: bool,
    /// Lease reads for a cluster that this node founds: how much faster or slower than true the clock of any node may run, in parts of
    /// a million. With `election_timeout` it becomes part of the configuration, which all nodes then keep to whatever
    /// their own settings say: see [`Lease`]. Default: `None`, the cluster has no lease reads. Quartz is within 100; 1,000 is
    /// generous, and costs a lease a five-hundredth of its time.
    pub lease_clock_drift_ppm: Option<u32>,
    /// How much this node is wanted as leader, next to the others: a leader hands over to a voter with a higher priority that
    /// has been up to date for a while, and a node with a higher priority campaigns a little earlier. Default: 0; where
    /// all have the same, none is preferred.
    pub priority: u8,
    /// The largest command. Default: 1 MiB; a larger one holds everything behind it up for too long.
    pub max_entry_bytes: usize,
    /// The most bytes of entries in one append; a single larger entry still goes, alone. Default: 256 KiB: far beyond
    /// where a message's fixed cost matters, and a few milliseconds of a 1 Gbit/s link.
    pub max_append_bytes: usize,
    /// The most unanswered appends per follower. Default: 128.
    pub max_inflight_messages: usize,
    /// The most unanswered bytes of entries per follower. Default: 8 MiB: the bandwidth-delay product of 1 Gbit/s
    /// at 60 ms.
    pub max_inflight_bytes: usize,
    /// The most bytes of entries that a leader holds uncommitted, or committed and not yet applied; beyond, a proposal gets
    /// `Overloaded`. Default: 64 MiB.
    pub max_uncommitted_bytes: usize,
    /// The most bytes of entries kept in memory for followers that lag, after they were written and applied; older ones
    /// are read back from the log store. Default: 32 MiB.
    pub max_tail_bytes: usize,
    /// The most bytes of entries handed to the state machine and not yet applied. Default: 8 MiB.
    pub max_apply_bytes: usize,
    /// The most bytes of entries in one write to the log store, so that a commit's latency stays bounded. Default: 4 MiB.
    pub max_write_bytes: usize,
    /// Take a snapshot when so many entries were applied since the last one. Default: 100,000.
    pub snapshot_entries: u64,
    /// Take a snapshot when entries of so many bytes were applied since the last one, so that a log and a restart stay short
    /// whatever the entries' size. Default: 64 MiB.
    pub snapshot_bytes: usize,
    /// The most entries kept behind a snapshot for followers that are a little behind: they cost less than a transfer of the
    /// state. Default: 10,000.
    pub keep_entries: u64,
    /// The most bytes of entries kept behind a snapshot. Default: 32 MiB.
    pub keep_bytes: usize,
    /// The most bytes of entries that a leader keeps behind a snapshot while a follower that answers still needs them; beyond,
    /// the follower gets the snapshot. Entries from before a restart are not kept for it. Default: 512 MiB.
    pub keep_live_bytes: usize,
    /// The most reads that wait for their round; beyond, a read gets `Overloaded`. Default: 65,536.
    pub max_pending_reads: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            election_timeout: Duration::from_millis(500),
            heartbeat_interval: Duration::from_millis(50),
            pre_vote: true,
            check_quorum: true,
            lease_clock_drift_ppm: None,
            priority: 0,
            max_entry_bytes: 1 << 20,
            max_append_bytes: 256 << 10,
            max_inflight_messages: 128,
            max_inflight_bytes: 8 << 20,
            max_uncommitted_bytes: 64 << 20,
            max_tail_bytes: 32 << 20,
            max_apply_bytes: 8 << 20,
            max_write_bytes: 4 << 20,
            snapshot_entries: 100_000,
            snapshot_bytes: 64 << 20,
            keep_entries: 10_000,
            keep_bytes: 32 << 20,
            keep_live_bytes: 512 << 20,
            max_pending_reads: 65_536,
        }
    }
}

/// The largest command that any setting may allow: what the formats on wire and disk are made for.
pub const MAX_ENTRY_BYTES_LIMIT: usize = 64 << 20;

/// The most that [`Config::max_append_bytes`] may be: with it, what a receiver must hold of small entries is bounded.
pub const MAX_APPEND_BYTES_LIMIT: usize = 4 << 20;

impl Config {
    /// What lease reads of a cluster that is founded with these settings rest on.
    pub fn lease(&self) -> Option<Lease> {
        self.lease_clock_drift_ppm.map(|clock_drift_ppm| Lease {
            election_timeout_micros: u64::try_from(self.election_timeout.as_micros()).unwrap_or(u64::MAX),
            clock_drift_ppm,
        })
    }

    /// Checks that the settings make sense together.
    ///
    /// # Errors
    /// Names the first setting that does not, and what it must be.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let wrong = |setting, rule| Err(ConfigError { setting, rule });
        if self.heartbeat_interval < Duration::from_millis(1) {
            return wrong("heartbeat_interval", "must be at least 1 ms");
        }
        if self.election_timeout < 2 * self.heartbeat_interval {
            return wrong("election_timeout", "must be at least twice heartbeat_interval");
        }
        if self.election_timeout > Duration::from_secs(3600) {
            return wrong("election_timeout", "must be at most an hour");
        }
        if self.lease_clock_drift_ppm.is_some_and(|drift| drift > Lease::MAX_CLOCK_DRIFT_PPM) {
            return wrong("lease_clock_drift_ppm", "must be at most 500,000");
        }
        if self.lease().is_some_and(|lease| lease.duration() < 2 * self.heartbeat_interval) {
            return wrong("lease_clock_drift_ppm", "must leave a lease of two heartbeat intervals");
        }
        if self.max_entry_bytes == 0 || self.max_entry_bytes > MAX_ENTRY_BYTES_LIMIT {
            return wrong("max_entry_bytes", "must be between 1 byte and 64 MiB");
        }
        if self.max_uncommitted_bytes < self.max_entry_bytes + Entry::OVERHEAD_BYTES {
            return wrong("max_uncommitted_bytes", "must hold an entry of max_entry_bytes and its overhead");
        }
        if self.max_append_bytes > MAX_APPEND_BYTES_LIMIT {
            return wrong("max_append_bytes", "must be at most 4 MiB");
        }
        if self.max_inflight_messages == 0 {
            return wrong("max_inflight_messages", "must be at least 1");
        }
        if self.snapshot_entries == 0 {
            return wrong("snapshot_entries", "must be at least 1");
        }
        for (setting, value) in [
            ("snapshot_bytes", self.snapshot_bytes),
            ("max_append_bytes", self.max_append_bytes),
            ("max_inflight_bytes", self.max_inflight_bytes),
            ("max_apply_bytes", self.max_apply_bytes),
            ("max_write_bytes", self.max_write_bytes),
            ("max_pending_reads", self.max_pending_reads),
        ] {
            if value == 0 {
                return wrong(setting, "must be at least 1");
            }
        }
        Ok(())
    }
}

/// A setting that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("setting {setting} {rule}")]
pub struct ConfigError {
    /// The setting's name.
    pub setting: &'static str,
    /// What it must be.
    pub rule: &'static str,
}
