//! Snapshots of a large state while clients write.

use std::sync::Arc;
use std::time::Duration;

use super::{Findings, TroubleOptions, settings};
use crate::backend::{Backends, Failure};
use crate::cluster::ClusterOptions;
use crate::load::{self, Pace, Target};
use crate::machines::Ballast;

const STATE_BYTES: usize = 64 << 20;

pub(super) async fn run(
    backends: &Backends,
    options: &TroubleOptions,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<Findings, Failure> {
    let backends = backends.clone().machine("large", || Ballast::of(STATE_BYTES));
    let built = backends.choose(&options.transport, &options.store, Some("large"))?;
    let mut findings = Findings::new(format!(
        "snapshot under load: {}, 3 nodes, {} clients, a state of {} MiB",
        built.name(),
        options.clients,
        STATE_BYTES >> 20
    ));
    let mut cluster = ClusterOptions::new(built);
    // Only those that are asked for.
    (cluster.config.snapshot_entries, cluster.config.snapshot_bytes) = (u64::MAX, usize::MAX);
    let target = Target::start(&cluster).await?;
    let settings = settings(options, Pace::Closed { clients: options.clients });
    progress("without snapshots");
    findings.add_run("without", &load::run(&target, &settings, |_, _| ()).await?);
    progress("one snapshot after another, on each node");
    let taking = Arc::clone(&target);
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let taker = tokio::spawn(async move {
        let Target::Cluster(cluster) = &*taking else { return Err("a cluster was asked for".into()) };
        let mut taken = Vec::new();
        while !*stopped.borrow_and_update() {
            for node in cluster.nodes() {
                let begun = std::time::Instant::now();
                node.snapshot().await?;
                taken.push(begun.elapsed());
            }
        }
        Ok::<Vec<Duration>, Failure>(taken)
    });
    let run = load::run(&target, &settings, |_, _| ()).await?;
    stop.send_replace(true);
    let mut taken = taker.await??;
    taken.sort_unstable();
    findings.add_run("with", &run);
    findings.add("snapshots taken", taken.len() as f64, "");
    let median = crate::cluster::percentile(&taken, 0.5).unwrap_or_default();
    findings.add("time of a snapshot, median", median.as_secs_f64() * 1e3, "ms");
    target.end().await;
    Ok(findings)
}
