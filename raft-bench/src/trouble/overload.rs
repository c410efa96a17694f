//! More than a cluster can carry.

use super::{Findings, TroubleOptions, settings};
use crate::backend::{Backends, Failure};
use crate::cluster::ClusterOptions;
use crate::load::{self, Pace, Target};

/// Enough to find out what can be carried.
const CLIENTS: usize = 1024;

pub(super) async fn run(
    backends: &Backends,
    options: &TroubleOptions,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<Findings, Failure> {
    let built = backends.choose(&options.transport, &options.store, None)?;
    let mut findings = Findings::new(format!("overload: {}, 3 nodes", built.name()));
    let target = Target::start(&ClusterOptions::new(built)).await?;
    progress("what it can carry");
    let closed = load::run(&target, &settings(options, Pace::Closed { clients: CLIENTS }), |_, _| ()).await?;
    findings.add_run("closed loop of 1024 clients", &closed);
    for (name, times) in [("half of it offered", 0.5), ("twice it offered", 2.0), ("half of it again", 0.5)] {
        progress(name);
        let pace = Pace::Open { rate: (closed.operations_per_second * times).max(1.0) };
        let run = load::run(&target, &settings(options, pace), |_, _| ()).await?;
        findings.add_run(name, &run);
        findings.add(format!("{name}: refused at once"), run.refused as f64, "operations");
        findings.add(format!("{name}: of unknown outcome"), run.unknown as f64, "operations");
        findings.add(format!("{name}: not sent, for too many under way"), run.not_sent as f64, "operations");
    }
    target.end().await;
    Ok(findings)
}
