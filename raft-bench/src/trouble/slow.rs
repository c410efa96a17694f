//! One follower whose disk is slow.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use raft_core::log_store::{Claim, LogState, StorageError, Write};
use raft_core::types::{Entry, GroupId, Incarnation, Index};
use raft_core::{ClusterId, LogStore, NodeId};

use super::{Findings, TroubleOptions, settings};
use crate::backend::{Backends, Failure};
use crate::cluster::ClusterOptions;
use crate::load::{self, Pace, Target};

/// What each write of the slow node takes longer.
const DELAY: Duration = Duration::from_millis(50);

/// The node that is slow.
const SLOW: NodeId = NodeId(3);

/// A store whose writes take longer, as long as that is wanted.
struct Slow {
    inner: Arc<dyn LogStore>,
    delay_ms: Arc<AtomicU64>,
}

#[async_trait]
impl LogStore for Slow {
    async fn claim(
        &self,
        cluster: ClusterId,
        node: NodeId,
        fresh: Incarnation,
    ) -> Result<Claim, StorageError> {
        self.inner.claim(cluster, node, fresh).await
    }

    async fn load(&self, group: GroupId) -> Result<LogState, StorageError> {
        self.inner.load(group).await
    }

    async fn write(&self, writes: &[Write]) -> Result<(), StorageError> {
        let delay = self.delay_ms.load(Ordering::Relaxed);
        if delay > 0 {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
        self.inner.write(writes).await
    }

    async fn read(
        &self,
        group: GroupId,
        range: RangeInclusive<Index>,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        self.inner.read(group, range, max_bytes).await
    }
}

pub(super) async fn run(
    backends: &Backends,
    options: &TroubleOptions,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<Findings, Failure> {
    let ours = backends.choose(&options.transport, &options.store, None)?;
    let delay_ms = Arc::new(AtomicU64::new(0));
    let (store, delay) = (ours.store.clone(), Arc::clone(&delay_ms));
    let open = move |folder: &Path| {
        let inner = store.open(folder).map_err(|error| {
            StorageError::new(raft_core::log_store::StorageErrorKind::Io, error.to_string())
        })?;
        let is_slow = folder.ends_with(format!("node-{SLOW}"));
        let delay_ms = if is_slow { Arc::clone(&delay) } else { Arc::default() };
        Ok(Slow { inner, delay_ms })
    };
    let kept = ours.kept();
    let built = backends.clone().store("slow", kept, open).choose(&options.transport, "slow", None)?;
    let target = Target::start(&ClusterOptions::new(built)).await?;
    let Target::Cluster(cluster) = &*target else { return Err("a cluster was asked for".into()) };
    if cluster.leader().local().peer.node == SLOW {
        cluster.leader().transfer_leadership(Some(NodeId(1))).await?;
    }
    let target = led_by_another(target).await?;
    let mut findings = Findings::new(format!(
        "slow follower: {}, 3 nodes, {} clients; each write of one follower takes {} ms longer",
        ours.name(),
        options.clients,
        DELAY.as_millis()
    ));
    let settings = settings(options, Pace::Closed { clients: options.clients });
    for (name, delay) in [("all quick", 0), ("one slow", DELAY.as_millis() as u64), ("all quick again", 0)] {
        progress(name);
        delay_ms.store(delay, Ordering::Relaxed);
        findings.add_run(name, &load::run(&target, &settings, |_, _| ()).await?);
    }
    target.end().await;
    Ok(findings)
}

/// The clients must talk to whoever leads now.
async fn led_by_another(target: Arc<Target>) -> Result<Arc<Target>, Failure> {
    let Some(Target::Cluster(mut cluster)) = Arc::into_inner(target) else {
        return Err("a cluster was asked for".into());
    };
    cluster.follow_leader().await?;
    Ok(Arc::new(Target::Cluster(cluster)))
}
