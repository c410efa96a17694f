//! What the demo found out.

use std::fmt::Write as _;

use serde::Serialize;

/// The result of a demo.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Report {
    /// Where the data are from.
    pub(super) input: String,
    /// Keys written, each confirmed.
    pub(super) keys: usize,
    /// Rows that a later row of the same key superseded.
    pub(super) duplicates: usize,
    /// Tasks that wrote at once.
    pub(super) writers: usize,
    /// How long writing took, failover included.
    pub(super) seconds: f64,
    /// Confirmed writes in each of these seconds, on average.
    pub(super) writes_per_second: f64,
    /// The leader that was killed.
    pub(super) killed: u64,
    /// The leader that took over.
    pub(super) new_leader: u64,
    /// The term that it leads in.
    pub(super) term: u64,
    /// From the kill to the first confirmed write after it.
    pub(super) failover_ms: f64,
    /// Keys read back through a majority.
    pub(super) keys_checked: usize,
    /// Keys that are lost or differ.
    pub(super) keys_wrong: usize,
    /// Whether all nodes, the killed one too, came to the same state.
    pub(super) hashes_equal: bool,
    /// Its hash.
    pub(super) state_hash: String,
    /// Where everything is, if it was kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) folder: Option<String>,
    /// The HTTP addresses of the nodes, if they were kept.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) nodes: Vec<String>,
    /// The processes of the nodes, if they were kept.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) processes: Vec<u32>,
}

impl Report {
    /// The report for people.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let duplicates = match self.duplicates {
            0 => String::new(),
            count => format!(" ({count} rows superseded by a later one of the same key)"),
        };
        let mut row = |name: &str, value: String| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{name:<16}{value}");
        };
        row("data", format!("{}{duplicates}", self.input));
        row("keys written", format!("{} in {:.2} s by {} writers", self.keys, self.seconds, self.writers));
        row(
            "writes/s",
            format!("{:.0}, each on two disks of three, failover included", self.writes_per_second),
        );
        row(
            "leader killed",
            format!("node {}; node {} leads since, in term {}", self.killed, self.new_leader, self.term),
        );
        row("failover time", format!("{:.0} ms from the kill to the next confirmed write", self.failover_ms));
        row("keys checked", format!("{}, {} lost or different", self.keys_checked, self.keys_wrong));
        let hashes = if self.hashes_equal { "equal on all three nodes" } else { "DIFFERENT" };
        row("state hashes", format!("{hashes} ({})", self.state_hash));
        text
    }
}
