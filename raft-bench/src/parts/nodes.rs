//! Nodes in folders of their own that outlive them, so that they can be started again.

use raft_core::{Config, NodeId, RawRaft};

use crate::backend::{Backends, Built, Failure, Network};
use crate::cluster::{Cluster, ClusterOptions, PATIENCE, start_node};
use crate::machines::Ballast;

/// How large the state of their machine is.
pub(super) const STATE_BYTES: usize = 16 << 20;

/// Nodes that are started and stopped one by one.
pub(super) struct Nodes {
    options: ClusterOptions,
    network: Network,
    folder: tempfile::TempDir,
}

impl Nodes {
    /// Nodes over this transport and store, with a machine whose state has some size.
    pub(super) fn new(built: &Built, config: Config) -> Result<Self, Failure> {
        let ballast = Backends::ours().machine("ballast", || Ballast::of(STATE_BYTES));
        let machine = ballast.choose("channel", "memory", Some("ballast"))?.machine;
        let built = Built { machine, ..built.clone() };
        let network = built.transport.network(Cluster::ID)?;
        let options = ClusterOptions { config, ..ClusterOptions::new(built) };
        Ok(Self { options, network, folder: tempfile::tempdir()? })
    }

    /// Starts a node on what it left in its folder, if it was there before.
    pub(super) async fn start(&self, id: u64) -> Result<RawRaft, Failure> {
        start_node(&self.options, NodeId(id), &self.network, None, self.folder.path()).await
    }
}

/// Until the status is as wanted, or far too long.
pub(super) async fn until(
    node: &RawRaft,
    wanted: impl FnMut(&raft_core::engine::Status) -> bool,
) -> Result<(), Failure> {
    tokio::time::timeout(PATIENCE, node.wait_for(wanted)).await??;
    Ok(())
}
