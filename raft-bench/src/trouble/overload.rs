//! More than a cluster can carry.

use std::sync::Arc;

use raft_core::types::Entry;
use tokio::runtime::{Builder, Runtime};

use super::{Findings, TroubleOptions, settings};
use crate::backend::{Backends, Built, Failure};
use crate::cluster::ClusterOptions;
use crate::load::{self, Pace, Settings, Target};

/// Enough to find out what can be carried.
const CLIENTS: usize = 1024;

/// What a leader may hold uncommitted. The default, 64 MiB, is seconds of work: with this, twice the load is refused soon on slow
/// machines too, and by the library, since the generator has more than that under way.
const BUDGET_BYTES: usize = 2 << 20;

/// So many commands fill the budget.
fn budget(settings: &Settings) -> usize {
    BUDGET_BYTES / (settings.payload_bytes + Entry::OVERHEAD_BYTES)
}

fn bounded(built: Built) -> ClusterOptions {
    let mut options = ClusterOptions::new(built);
    options.config.max_uncommitted_bytes = BUDGET_BYTES;
    options
}

/// The nodes get threads of their own, as they have where clients come over a network: among a million refused calls a second, each
/// turn of a node would wait for all of them.
struct Apart(Option<Runtime>);

impl Apart {
    async fn start(options: ClusterOptions) -> Result<(Self, Arc<Target>), Failure> {
        let nodes = Builder::new_multi_thread().enable_all().build()?;
        let started = nodes.spawn(async move { Target::start(&options).await });
        let nodes = Self(Some(nodes));
        Ok((nodes, started.await??))
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        if let Some(nodes) = self.0.take() {
            nodes.shutdown_background();
        }
    }
}

pub(super) async fn run(
    backends: &Backends,
    options: &TroubleOptions,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<Findings, Failure> {
    let built = backends.choose(&options.transport, &options.store, None)?;
    let closed = settings(options, Pace::Closed { clients: CLIENTS });
    let budget = budget(&closed);
    let mut findings = Findings::new(format!(
        "overload: {}, 3 nodes, a leader that takes {budget} commands at once (max_uncommitted_bytes of {} MiB)",
        built.name(),
        BUDGET_BYTES >> 20
    ));
    let (_nodes, target) = Apart::start(bounded(built)).await?;
    progress("what it can carry");
    let closed = load::run(&target, &closed, |_, _| ()).await?;
    findings.add_run("closed loop of 1024 clients", &closed);
    for (name, times) in [("half of it offered", 0.5), ("twice it offered", 2.0), ("half of it again", 0.5)] {
        progress(name);
        let pace = Pace::Open { rate: (closed.operations_per_second * times).max(1.0) };
        let run = load::run(&target, &settings(options, pace), |_, _| ()).await?;
        findings.add_run(name, &run);
        if run.operations_per_second > 0.0 {
            let full = budget as f64 / run.operations_per_second;
            findings.add(format!("{name}: a full budget at this rate"), full * 1e3, "ms");
        }
        findings.add(format!("{name}: refused at once"), run.refused as f64, "operations");
        findings.add(format!("{name}: of unknown outcome"), run.unknown as f64, "operations");
        findings.add(format!("{name}: not sent, for too many under way"), run.not_sent as f64, "operations");
    }
    target.end().await;
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use raft_core::mem::MemLogStore;
    use raft_core::testing::{FaultStore, StoreFaults};

    use super::*;
    use crate::backend::Kept;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn it_is_the_library_that_refuses_and_not_the_generator_that_holds_back() {
        let faults = StoreFaults::new();
        let of_store = faults.clone();
        let backends = Backends::ours().store("stalling", Kept::Volatile, move |_| {
            Ok(FaultStore::new(MemLogStore::new(), of_store.clone()))
        });
        let built = backends.choose("channel", "stalling", None).unwrap();
        let target = Target::start(&ClusterOptions { nodes: 1, ..bounded(built) }).await.unwrap();
        let options =
            TroubleOptions { repeats: 1, transport: String::new(), store: String::new(), clients: 1 };
        let settings = settings(&options, Pace::Open { rate: 40_000.0 });
        let settings = Settings { warm_up: Duration::ZERO, ..settings };
        let budget = budget(&settings);
        assert!(budget < settings.max_open);
        // Nothing is committed until all have come.
        faults.stall();
        let run = load::run(&target, &settings, |_, _| faults.heal()).await.unwrap();
        assert!(run.refused > 0, "{run:?}");
        assert!(run.operations >= budget as u64 / 2, "{run:?}");
        target.end().await;
    }
}
