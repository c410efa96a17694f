//! Clusters to measure: real nodes in one process, over a choice of transport, log store and state machine.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_core::runtime::{NodeOptions, RaftError};
use raft_core::{ClusterId, Config, NodeId, RawRaft, SnapshotPlace};
use tempfile::TempDir;

use crate::backend::{AnyTransport, Built, Failure, Kept, Network, SentBytes};

/// Nothing that is waited for here takes so long, unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Who was refused waits so long before he asks again.
const PAUSE: Duration = Duration::from_millis(1);

/// How much memory the snapshots of a volatile node may take.
const MAX_SNAPSHOT_BYTES: u64 = 1 << 30;

/// What a cluster is made of.
#[derive(Clone)]
pub struct ClusterOptions {
    /// What it is built on.
    pub built: Built,
    /// How many nodes; all vote.
    pub nodes: usize,
    /// The settings of each node.
    pub config: Config,
    /// Whether to count what is sent.
    pub meter: bool,
}

impl ClusterOptions {
    /// Three nodes with the default settings.
    pub fn new(built: Built) -> Self {
        Self { built, nodes: 3, config: Config::default(), meter: false }
    }
}

/// Nodes of one cluster.
pub struct Cluster {
    options: ClusterOptions,
    network: Network,
    nodes: Vec<RawRaft>,
    /// The place of the node that led when that was last heard of.
    leader: AtomicUsize,
    sent: Option<Arc<SentBytes>>,
    folder: TempDir,
}

impl Cluster {
    pub(crate) const ID: ClusterId = ClusterId(0xbe9c);

    /// Starts the nodes and founds their cluster.
    ///
    /// # Errors
    /// Where a node cannot be started.
    pub async fn start(options: &ClusterOptions) -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let network = options.built.transport.network(Self::ID)?;
        let sent = options.meter.then(|| Arc::new(SentBytes::default()));
        let mut nodes = Vec::new();
        for node in (1..).take(options.nodes).map(NodeId) {
            nodes.push(start_node(options, node, &network, sent.as_ref(), folder.path()).await?);
        }
        let members: Vec<(u64, String)> =
            (1..).zip(nodes.iter().map(|node| node.address().to_owned())).collect();
        nodes.first().ok_or("a cluster has at least one node")?.bootstrap(members).await?;
        let cluster =
            Self { options: options.clone(), network, nodes, leader: AtomicUsize::new(0), sent, folder };
        cluster.follow_leader().await?;
        Ok(cluster)
    }

    /// Starts one more node, which is no member yet.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub async fn start_another(&mut self) -> Result<RawRaft, Failure> {
        let node = NodeId(self.nodes.len() as u64 + 1);
        let sent = self.sent.as_ref();
        let started = start_node(&self.options, node, &self.network, sent, self.folder.path()).await?;
        self.nodes.push(started.clone());
        Ok(started)
    }

    /// The node that clients talk to: the one that led when that was last heard of.
    pub fn leader(&self) -> &RawRaft {
        &self.nodes[self.leader.load(Ordering::Relaxed)]
    }

    /// Makes whoever leads now, once somebody does, the node that clients talk to.
    ///
    /// # Errors
    /// Where a node has ended, or none comes to lead.
    pub async fn follow_leader(&self) -> Result<(), Failure> {
        self.leader.store(leading(&self.nodes).await?.0, Ordering::Relaxed);
        Ok(())
    }

    /// Has clients talk to the node that leads by what another said.
    pub fn learn_leader(&self, error: &RaftError) {
        let (RaftError::NotLeader { leader: Some(leader), .. } | RaftError::Transferring { to: leader }) =
            error
        else {
            return;
        };
        if let Some(place) = self.nodes.iter().position(|node| node.local().peer.node == *leader) {
            self.leader.store(place, Ordering::Relaxed);
        }
    }

    /// All nodes, in the order of their ids.
    pub fn nodes(&self) -> &[RawRaft] {
        &self.nodes
    }

    /// The bytes handed to the transports to be sent, where they are counted.
    pub fn sent_bytes(&self) -> Option<u64> {
        self.sent.as_ref().map(|sent| sent.get())
    }

    /// Has `clients` propose `operations` commands of `payload_bytes` in all, each client waiting for its answer before
    /// its next; how long that takes. Some of the answers' latencies go to `latency`. What is refused, such as for want of room, is proposed
    /// again a little later.
    ///
    /// # Errors
    /// Where a proposal's outcome is unknown, or it can never be taken.
    pub async fn propose(
        self: &Arc<Self>,
        clients: usize,
        operations: u64,
        payload_bytes: usize,
        latency: &Latency,
    ) -> Result<Duration, RaftError> {
        let left = Arc::new(AtomicU64::new(operations));
        let commands = self.options.built.machine.commands(payload_bytes);
        // Each client once in a while: a look at the clock costs a twentieth of an operation in memory.
        let every = if clients < 64 { 1 } else { 16 };
        let start = Instant::now();
        let tasks: Vec<_> = (0..clients)
            .map(|client| {
                let (left, commands, cluster) = (Arc::clone(&left), commands.clone(), Arc::clone(self));
                tokio::spawn(async move {
                    let (mut seen, mut turn) = (Vec::new(), client);
                    let take = |n: u64| n.checked_sub(1);
                    while let Ok(number) = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
                        turn += 1;
                        let begun = turn.is_multiple_of(every).then(Instant::now);
                        cluster.propose_one(commands.get(number)).await?;
                        seen.extend(begun.map(|begun| begun.elapsed()));
                    }
                    Ok::<_, RaftError>(seen)
                })
            })
            .collect();
        let mut all = Vec::new();
        for task in tasks {
            all.push(task.await.map_err(|_| RaftError::Stopped)??);
        }
        let taken = start.elapsed();
        latency.add(all.into_iter().flatten());
        Ok(taken)
    }

    async fn propose_one(&self, command: Bytes) -> Result<(), RaftError> {
        loop {
            match self.leader().propose(command.clone()).await {
                Ok(_) => return Ok(()),
                Err(
                    error @ (RaftError::Overloaded
                    | RaftError::NotLeader { .. }
                    | RaftError::Transferring { .. }),
                ) => {
                    self.learn_leader(&error);
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Stops all nodes.
    pub async fn shutdown(&self) {
        for node in &self.nodes {
            node.shutdown().await;
        }
    }
}

/// The place of the node that leads, and the node, once one does.
pub(crate) async fn leading(nodes: &[RawRaft]) -> Result<(usize, RawRaft), Failure> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        // Another may not know yet who leads, or that it is another.
        let leads = |node: &RawRaft| node.status().borrow().leader == Some(node.local().peer.node);
        if let Some(place) = nodes.iter().position(leads) {
            return Ok((place, nodes[place].clone()));
        }
        if Instant::now() > deadline {
            return Err("nobody leads".into());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Starts a node in a folder of its own.
pub(crate) async fn start_node(
    options: &ClusterOptions,
    node: NodeId,
    network: &Network,
    sent: Option<&Arc<SentBytes>>,
    folder: &Path,
) -> Result<RawRaft, Failure> {
    let own = folder.join(format!("node-{node}"));
    std::fs::create_dir_all(&own)?;
    let mut node_options = NodeOptions::new(Cluster::ID, node);
    node_options.config = options.config.clone();
    node_options.snapshots = match options.built.kept() {
        Kept::Durable => SnapshotPlace::folder(own.join("snapshots")),
        Kept::Volatile => SnapshotPlace::memory(MAX_SNAPSHOT_BYTES),
    };
    let store = options.built.store.open(&own)?;
    let transport = AnyTransport::new(network(node)?, sent.cloned());
    Ok(RawRaft::start(node_options, store, transport, options.built.machine.make()).await?)
}

/// Latencies of answers, for percentiles.
#[derive(Default)]
pub struct Latency(std::sync::Mutex<Vec<Duration>>);

impl Latency {
    fn add(&self, seen: impl Iterator<Item = Duration>) {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend(seen);
    }

    /// Takes out what was seen, in ascending order.
    pub fn take(&self) -> Vec<Duration> {
        let mut seen = std::mem::take(&mut *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        seen.sort_unstable();
        seen
    }
}

/// The value below which `share` of the ascending `values` lie.
pub(crate) fn percentile(values: &[Duration], share: f64) -> Option<Duration> {
    let at = (values.len() as f64 * share).ceil() as usize;
    values.get(at.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Backends;

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let values: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        for (share, expected) in [(0.0, 1), (0.5, 50), (0.99, 99), (1.0, 100)] {
            assert_eq!(percentile(&values, share), Some(Duration::from_millis(expected)), "{share}");
        }
        assert_eq!(percentile(&[], 0.5), None);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_backend_of_ours_takes_proposals() {
        let try_out = |built: Built, nodes| async move {
            let options = ClusterOptions { nodes, meter: true, ..ClusterOptions::new(built.clone()) };
            let cluster = Arc::new(Cluster::start(&options).await.unwrap());
            let latency = Latency::default();
            cluster.propose(4, 40, 100, &latency).await.unwrap();
            assert_eq!(latency.take().len(), 40, "{}", built.name());
            // Each of 40 commands goes to both followers, and no command goes anywhere from a node that is alone.
            let sent = cluster.sent_bytes().unwrap();
            assert_eq!(sent >= 2 * 40 * 100, nodes == 3, "{}: {sent} bytes sent", built.name());
            cluster.shutdown().await;
        };
        let all = Backends::ours().all();
        let mut tried = tokio::task::JoinSet::new();
        tried.spawn(try_out(all[0].clone(), 1));
        for built in all {
            tried.spawn(try_out(built, 3));
        }
        while let Some(done) = tried.join_next().await {
            done.unwrap();
        }
    }
}
