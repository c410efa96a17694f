//! A log that is never compacted: whether an operation comes to cost more as it grows.

use std::sync::Arc;
use std::time::Duration;

use super::{Findings, TroubleOptions};
use crate::backend::{Backends, Failure};
use crate::cluster::{Cluster, ClusterOptions, Latency};
use crate::process::Usage;

const SHORT: u64 = 10_000;
const LONG: u64 = 10_000_000;

/// Enough that hundredths of a second of processor time tell something.
const MEASURED: u64 = 1_000_000;

const CLIENTS: usize = 1024;

/// In memory, since it is the processor's time that is asked for.
pub(super) async fn run(
    backends: &Backends,
    _options: &TroubleOptions,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<Findings, Failure> {
    let built = backends.choose("channel", "memory", None)?;
    let title = format!("long log: {}, 3 nodes, {CLIENTS} clients, no snapshots", built.name());
    let mut findings = Findings::new(title);
    let mut options = ClusterOptions::new(built);
    (options.config.snapshot_entries, options.config.snapshot_bytes) = (u64::MAX, usize::MAX);
    let cluster = Arc::new(Cluster::start(&options).await?);
    let mut costs = Vec::new();
    let mut length = 0;
    for (name, wanted) in [("10 thousand entries", SHORT), ("10 million entries", LONG)] {
        progress(&format!("growing to {name}"));
        cluster.propose(CLIENTS, wanted - length, 64, &Latency::default()).await?;
        let before = Usage::own()?;
        let taken = cluster.propose(CLIENTS, MEASURED, 64, &Latency::default()).await?;
        let cpu = Usage::own()?.since(before).cpu;
        length = wanted + MEASURED;
        let per_operation = |time: Duration| time.as_secs_f64() * 1e6 / MEASURED as f64;
        findings.add(format!("after {name}: processor time"), per_operation(cpu), "us/operation");
        findings.add(format!("after {name}: carried out"), 1e6 / per_operation(taken), "operations/s");
        costs.push(per_operation(cpu));
    }
    if let [short, long] = costs.as_slice() {
        findings.add("more at the long log", (long / short - 1.0) * 100.0, "%");
    }
    cluster.shutdown().await;
    Ok(findings)
}
