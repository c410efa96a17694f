//! A member is replaced by another while clients write.

use std::sync::Arc;
use std::time::{Duration, Instant};

use raft_core::NodeInfo;
use raft_core::types::Incarnation;

use super::{Findings, TroubleOptions, settings};
use crate::backend::{Backends, Failure};
use crate::cluster::{Cluster, ClusterOptions};
use crate::load::{self, Pace, Target};

const PATIENCE: Duration = Duration::from_secs(60);

pub(super) async fn run(
    backends: &Backends,
    options: &TroubleOptions,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<Findings, Failure> {
    let built = backends.choose(&options.transport, &options.store, None)?;
    let mut findings = Findings::new(format!(
        "change of members under load: {}, 3 nodes, {} clients; a fourth takes a follower's place",
        built.name(),
        options.clients
    ));
    let mut cluster = Cluster::start(&ClusterOptions::new(built)).await?;
    let (fourth, leader) = (cluster.start_another().await?, cluster.leader().clone());
    let members = cluster.nodes().iter().map(|node| node.local().peer.node);
    let leaving = members.take(3).find(|node| *node != leader.local().peer.node).ok_or("no follower")?;
    let joining = fourth.local().peer.node;
    let target = Arc::new(Target::Cluster(Box::new(cluster)));
    let settings = settings(options, Pace::Closed { clients: options.clients });
    progress("without a change");
    findings.add_run("without", &load::run(&target, &settings, |_, _| ()).await?);
    progress(&format!("node {joining} takes the place of node {leaving}"));
    let info = NodeInfo {
        address: fourth.address().to_owned(),
        client_address: String::new(),
        incarnation: Incarnation::UNKNOWN,
    };
    let change = tokio::spawn(async move {
        // Amid the load, not before it.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let begun = Instant::now();
        leader.change_members(|target| target.remove(leaving).voter(joining, info.clone())).await?;
        let done = leader.wait_for(|status| {
            status.membership.target.is_none()
                && status.membership.voters.contains(&joining)
                && !status.membership.voters.contains(&leaving)
        });
        tokio::time::timeout(PATIENCE, done).await??;
        Ok::<Duration, Failure>(begun.elapsed())
    });
    findings.add_run("with", &load::run(&target, &settings, |_, _| ()).await?);
    let taken = change.await??;
    findings.add("from the call until the new configuration alone counts", taken.as_secs_f64() * 1e3, "ms");
    target.end().await;
    Ok(findings)
}
