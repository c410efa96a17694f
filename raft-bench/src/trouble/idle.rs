//! Nothing to do at all.

use std::time::Duration;

use super::{Findings, TroubleOptions};
use crate::backend::{Backends, Failure};
use crate::cluster::{Cluster, ClusterOptions};
use crate::process::Usage;

pub(super) async fn run(
    backends: &Backends,
    options: &TroubleOptions,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<Findings, Failure> {
    let built = backends.choose(&options.transport, &options.store, None)?;
    let mut findings = Findings::new(format!("idle: {}, 3 nodes in one process, no client", built.name()));
    let cluster = Cluster::start(&ClusterOptions::new(built)).await?;
    // What founding left to do is done by then.
    tokio::time::sleep(Duration::from_secs(1)).await;
    progress("waiting");
    let (before, while_idle) = (Usage::own()?, Duration::from_secs(options.repeats.max(1) as u64));
    tokio::time::sleep(while_idle).await;
    let used = Usage::own()?.since(before);
    let share = used.cpu.as_secs_f64() / while_idle.as_secs_f64();
    findings.add("processor time of all three", share * 100.0, "% of one core");
    findings.add("written", used.written_bytes as f64 / while_idle.as_secs_f64(), "B/s");
    cluster.shutdown().await;
    Ok(findings)
}
