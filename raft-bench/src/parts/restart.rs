//! A node is started on a log that it has.

use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use raft_core::Config;
use tokio::runtime::Runtime;

use super::Failures;
use super::nodes::{Nodes, until};
use crate::backend::{Backends, Built, Failure, Kept, StoreKind};

/// How long the log is.
const ENTRIES: [u64; 2] = [10_000, 100_000];

/// One node with a log of this length on its disk, from its start until it leads and has applied all.
pub(super) fn measure(criterion: &mut Criterion, store: &StoreKind) -> Result<(), Failure> {
    if store.kept == Kept::Volatile {
        return Ok(());
    }
    let runtime = Runtime::new()?;
    let mut failures = Failures::default();
    let mut group = criterion.benchmark_group(format!("restart/{}", store.name));
    group.sampling_mode(SamplingMode::Flat);
    for entries in ENTRIES {
        let mut kept = None;
        group.throughput(Throughput::Elements(entries));
        group.bench_function(BenchmarkId::new("entries", entries), |bencher| {
            let started = kept.get_or_insert_with(|| runtime.block_on(grown(store, entries)));
            bencher.iter_custom(|times| {
                let taken = runtime.block_on(async {
                    let nodes = started.as_ref().map_err(ToString::to_string)?;
                    let mut taken = Duration::ZERO;
                    for _ in 0..times {
                        let start = Instant::now();
                        let node = nodes.start(1).await?;
                        until(&node, |status| status.applied > entries).await?;
                        taken += start.elapsed();
                        node.shutdown().await;
                    }
                    Ok(taken)
                });
                failures.take(taken, Duration::from_secs(1))
            });
        });
    }
    group.finish();
    failures.end()
}

/// A node's folder with a log of so many commands, none of them compacted; the node is stopped.
async fn grown(store: &StoreKind, entries: u64) -> Result<Nodes, Failure> {
    let ours = Backends::ours();
    let alone = ours.choose("channel", "memory", None)?;
    let built = Built { store: store.clone(), ..alone };
    let mut config = Config::default();
    config.snapshot_entries = u64::MAX;
    config.snapshot_bytes = usize::MAX;
    let nodes = Nodes::new(&built, config)?;
    let node = nodes.start(1).await?;
    node.bootstrap([(1, node.address().to_owned())]).await?;
    let mut open = tokio::task::JoinSet::new();
    for _ in 0..entries {
        if open.len() >= 4096 {
            open.join_next().await.ok_or("no task")???;
        }
        let node = node.clone();
        open.spawn(async move { node.propose(Bytes::from_static(&[7; 64])).await });
    }
    while let Some(answered) = open.join_next().await {
        answered??;
    }
    node.shutdown().await;
    Ok(nodes)
}
