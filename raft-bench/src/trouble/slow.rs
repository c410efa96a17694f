//! One follower whose disk is slow.

use std::path::Path;
use std::time::Duration;

use raft_core::NodeId;
use raft_core::log_store::{StorageError, StorageErrorKind};
use raft_core::testing::{FaultStore, StoreFaults};

use super::{Findings, TroubleOptions, settings};
use crate::backend::{Backends, Failure};
use crate::cluster::ClusterOptions;
use crate::load::{self, Pace, Target};

/// What each write of the slow node takes longer.
const DELAY: Duration = Duration::from_millis(50);

/// The node that is slow.
const SLOW: NodeId = NodeId(3);

pub(super) async fn run(
    backends: &Backends,
    options: &TroubleOptions,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<Findings, Failure> {
    let ours = backends.choose(&options.transport, &options.store, None)?;
    let faults = StoreFaults::new();
    let (store, of_slow) = (ours.store.clone(), faults.clone());
    let open = move |folder: &Path| {
        let opened = store.open(folder);
        let inner = opened.map_err(|error| StorageError::new(StorageErrorKind::Io, error.to_string()))?;
        let is_slow = folder.ends_with(format!("node-{SLOW}"));
        Ok(FaultStore::new(inner, if is_slow { of_slow.clone() } else { StoreFaults::new() }))
    };
    let kept = ours.kept();
    let built = backends.clone().store("slow", kept, open).choose(&options.transport, "slow", None)?;
    let target = Target::start(&ClusterOptions::new(built)).await?;
    let Target::Cluster(cluster) = &*target else { return Err("a cluster was asked for".into()) };
    if cluster.leader().local().peer.node == SLOW {
        cluster.leader().transfer_leadership(Some(NodeId(1))).await?;
        cluster.follow_leader().await?;
    }
    let mut findings = Findings::new(format!(
        "slow follower: {}, 3 nodes, {} clients; each write of one follower takes {} ms longer",
        ours.name(),
        options.clients,
        DELAY.as_millis()
    ));
    let settings = settings(options, Pace::Closed { clients: options.clients });
    for name in ["all quick", "one slow", "all quick again"] {
        progress(name);
        if name == "one slow" {
            faults.slow(|| tokio::time::sleep(DELAY));
        } else {
            faults.heal();
        }
        findings.add_run(name, &load::run(&target, &settings, |_, _| ()).await?);
    }
    target.end().await;
    Ok(findings)
}
