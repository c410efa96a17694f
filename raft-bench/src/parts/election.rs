//! Elections: without the wait for a timeout, which is a setting; `raft-bench trouble failover` is with it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, SamplingMode};
use raft_core::runtime::RaftError;
use raft_core::{NodeId, RawRaft};
use tokio::runtime::Runtime;

use super::Failures;
use crate::backend::{Built, Failure};
use crate::cluster::{Cluster, ClusterOptions, PATIENCE, leading};
use crate::trio::Trio;

/// When leadership was asked to go to another node, and which one leads now. Right after a hand-over nobody may have caught up
/// yet; then it is asked again.
async fn handed_over(old: &RawRaft) -> Result<(Instant, NodeId), Failure> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let start = Instant::now();
        match old.transfer_leadership(None).await {
            Ok(next) => return Ok((start, next)),
            Err(RaftError::Transfer(_)) if start < deadline => {
                tokio::time::sleep(Duration::from_millis(1)).await
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Engines alone elect another leader when theirs has fallen silent: pre-vote, vote, and the entry that the new term begins with, from when the
/// first timeout fires.
pub(super) fn campaign(criterion: &mut Criterion) -> Result<(), Failure> {
    let mut failures = Failures::default();
    let mut trio = Trio::found(3)?;
    let mut group = criterion.benchmark_group("election");
    group.bench_function("campaign/nodes=3", |bencher| {
        bencher.iter_custom(|times| {
            let elected = (0..times).try_fold(Duration::ZERO, |sum, _| Ok(sum + trio.elect()?));
            failures.take(elected, Duration::from_secs(1))
        });
    });
    group.finish();
    failures.end()
}

/// Leadership goes from one node to another and a proposal is taken there: with nothing else to do.
pub(super) fn hand_over(criterion: &mut Criterion, built: &Built) -> Result<(), Failure> {
    let runtime = Runtime::new()?;
    let mut failures = Failures::default();
    let mut cluster = None;
    let mut group = criterion.benchmark_group("election");
    group.sampling_mode(SamplingMode::Flat);
    group.bench_function(format!("hand-over/{}/nodes=3", built.name()), |bencher| {
        let started = cluster
            .get_or_insert_with(|| runtime.block_on(Cluster::start(&ClusterOptions::new(built.clone()))));
        bencher.iter_custom(|times| {
            let taken = runtime.block_on(async {
                let cluster = started.as_ref().map_err(ToString::to_string)?;
                let mut taken = Duration::ZERO;
                for _ in 0..times {
                    let old = leading(cluster.nodes()).await?.1;
                    let (start, next) = handed_over(&old).await?;
                    let new = cluster.nodes().iter().find(|node| node.local().peer.node == next);
                    let new = new.ok_or("the new leader is not of this cluster")?;
                    new.propose(Bytes::from_static(&[7; 64])).await?;
                    taken += start.elapsed();
                }
                Ok(taken)
            });
            failures.take(taken, Duration::from_secs(1))
        });
    });
    group.finish();
    if let Some(Ok(cluster)) = cluster {
        runtime.block_on(cluster.shutdown());
    }
    failures.end()
}
