//! Snapshots: one is written; one is sent to a follower that was away, and restored there.

use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, SamplingMode, Throughput};
use raft_core::{Config, NodeId, RawRaft};
use tokio::runtime::Runtime;

use super::Failures;
use super::nodes::{Nodes, STATE_BYTES, until};
use crate::backend::{Built, Failure};
use crate::cluster::leading;

pub(super) fn write(criterion: &mut Criterion, built: &Built) -> Result<(), Failure> {
    let runtime = Runtime::new()?;
    let mut failures = Failures::default();
    let mut alone = None;
    let mut group = criterion.benchmark_group("snapshot");
    group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Bytes(STATE_BYTES as u64));
    group.bench_function("write/16MiB", |bencher| {
        let started = alone.get_or_insert_with(|| {
            runtime.block_on(async {
                let nodes = Nodes::new(built, Config::default())?;
                let node = nodes.start(1).await?;
                node.bootstrap([(1, node.address().to_owned())]).await?;
                Ok::<_, Failure>((nodes, node))
            })
        });
        bencher.iter_custom(|times| {
            let taken = runtime.block_on(async {
                let (_, node) = started.as_ref().map_err(ToString::to_string)?;
                let mut taken = Duration::ZERO;
                for _ in 0..times {
                    // Something new, or the snapshot that is there would do.
                    node.propose(Bytes::from_static(&[7; 64])).await?;
                    let start = Instant::now();
                    node.snapshot().await?;
                    taken += start.elapsed();
                }
                Ok(taken)
            });
            failures.take(taken, Duration::from_secs(1))
        });
    });
    group.finish();
    if let Some(Ok((_nodes, node))) = alone {
        runtime.block_on(node.shutdown());
    }
    failures.end()
}

/// A follower comes back to a log that was compacted behind a snapshot: from its start until it has applied everything.
pub(super) fn send(criterion: &mut Criterion, built: &Built) -> Result<(), Failure> {
    let runtime = Runtime::new()?;
    let mut failures = Failures::default();
    let mut cluster = None;
    let mut group = criterion.benchmark_group("snapshot");
    group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Bytes(STATE_BYTES as u64));
    group.bench_function(format!("send-and-restore/16MiB/{}", built.transport.name), |bencher| {
        let started = cluster.get_or_insert_with(|| {
            runtime.block_on(async {
                let mut config = Config::default();
                (config.keep_entries, config.keep_live_bytes) = (0, 0);
                // Two of three go on while the third is away.
                let nodes = Nodes::new(built, config)?;
                let mut all = Vec::new();
                for id in 1..=3 {
                    all.push(nodes.start(id).await?);
                }
                let members: Vec<_> = (1..).zip(all.iter().map(|node| node.address().to_owned())).collect();
                all.first().ok_or("no node")?.bootstrap(members).await?;
                // The third must not lead: it is the one that goes away.
                let third = all.get(2).ok_or("no node")?;
                until(third, |status| status.leader.is_some()).await?;
                if third.status().borrow().leader == Some(NodeId(3)) {
                    third.transfer_leadership(Some(NodeId(1))).await?;
                }
                Ok::<_, Failure>((nodes, all))
            })
        });
        bencher.iter_custom(|times| {
            let taken = runtime.block_on(async {
                let (nodes, all) = started.as_mut().map_err(|error| error.to_string())?;
                let mut taken = Duration::ZERO;
                for _ in 0..times {
                    taken += away_and_back(nodes, all).await?;
                }
                Ok(taken)
            });
            failures.take(taken, Duration::from_secs(1))
        });
    });
    group.finish();
    if let Some(Ok((_nodes, all))) = cluster {
        for node in &all {
            runtime.block_on(node.shutdown());
        }
    }
    failures.end()
}

async fn away_and_back(nodes: &Nodes, all: &mut Vec<RawRaft>) -> Result<Duration, Failure> {
    let third = all.pop().ok_or("no node")?;
    third.shutdown().await;
    drop(third);
    let leader = leading(all).await?.1;
    for _ in 0..4 {
        leader.propose(Bytes::from_static(&[7; 64])).await?;
    }
    let covered = leader.snapshot().await?.last.index;
    until(&leader, |status| status.base.index >= covered).await?;
    // The volatile store forgets: it comes back empty, and needs the snapshot all the more.
    let start = Instant::now();
    let back = nodes.start(3).await?;
    until(&back, |status| status.applied >= covered).await?;
    let taken = start.elapsed();
    all.push(back);
    Ok(taken)
}
