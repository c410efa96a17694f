//! Snapshots of a large state while clients write.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use raft_core::state_machine::{Batch, MachineError, Note, SnapshotView, StateMachine};

use super::{Findings, TroubleOptions, settings};
use crate::backend::{Backends, Failure};
use crate::cluster::ClusterOptions;
use crate::load::{self, Pace, Target};

const STATE_BYTES: usize = 64 << 20;

/// A state that never changes, and whose view costs nothing.
struct Large(Arc<Vec<u8>>);

struct View(Arc<Vec<u8>>);

impl SnapshotView for View {
    fn write_to(self: Box<Self>, sink: &mut dyn std::io::Write) -> std::io::Result<()> {
        sink.write_all(&self.0)
    }
}

#[async_trait]
impl StateMachine for Large {
    async fn bookkeeping(&mut self) -> Result<Option<Vec<Note>>, MachineError> {
        Ok(None)
    }

    async fn apply(&mut self, batch: Batch) -> Result<Vec<Bytes>, MachineError> {
        Ok(vec![Bytes::new(); batch.commands.len()])
    }

    async fn query(&mut self, _: Bytes) -> Result<Bytes, MachineError> {
        Ok(Bytes::new())
    }

    async fn snapshot(&mut self) -> Result<Box<dyn SnapshotView>, MachineError> {
        Ok(Box::new(View(Arc::clone(&self.0))))
    }

    async fn restore(&mut self, source: &mut (dyn Read + Send)) -> Result<(), MachineError> {
        let mut state = Vec::new();
        source.read_to_end(&mut state).map_err(|e| MachineError::new(format!("cannot restore: {e}")))?;
        self.0 = Arc::new(state);
        Ok(())
    }
}

pub(super) async fn run(
    backends: &Backends,
    options: &TroubleOptions,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<Findings, Failure> {
    let state = Arc::new(vec![7; STATE_BYTES]);
    let backends = backends.clone().machine("large", move || Large(Arc::clone(&state)));
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
