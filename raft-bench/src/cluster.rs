//! Clusters to measure: three real nodes in one process, over a choice of transport and log store.

use std::error::Error;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use raft_core::log_store::StorageError;
use raft_core::mem::{ChannelNetwork, MemLogStore};
use raft_core::raft::RawRaft;
use raft_core::runtime::{NodeOptions, RaftError};
use raft_core::state_machine::{Batch, MachineError, SnapshotView, StateMachine};
use raft_core::{ClusterId, LogStore, NodeId};
use raft_storage_redb::RedbLogStore;
use raft_transport_quic::{DevCa, QuicOptions, QuicTransport};
use tempfile::TempDir;

/// What a cluster is built on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Channels within the process and logs in memory: nothing is durable, nothing is encrypted.
    Memory,
    /// QUIC with mutual TLS over loopback, and redb with an fsync a commit.
    QuicRedb,
    /// The same with a plain write-ahead log, [`stores::wal`](crate::stores::wal), with an fsync a commit.
    #[cfg(feature = "wal")]
    QuicWal,
}

impl Backend {
    /// The backend's name in the results; volatile parts say so.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "channel+memory(volatile)",
            Self::QuicRedb => "quic+redb",
            #[cfg(feature = "wal")]
            Self::QuicWal => "quic+wal",
        }
    }
}

/// Three nodes, one of which leads.
pub struct Cluster {
    leader: RawRaft,
    nodes: Vec<RawRaft>,
    _folder: Option<TempDir>,
}

impl Cluster {
    /// Starts three nodes and founds their cluster.
    ///
    /// # Errors
    /// Where a node cannot be started.
    pub async fn start(backend: Backend) -> Result<Self, Box<dyn Error>> {
        let id = ClusterId(0xbe9c);
        let mut nodes = Vec::new();
        let mut folder = None;
        match backend {
            Backend::Memory => {
                let network = ChannelNetwork::new();
                for node in 1..=3_u64 {
                    let options = NodeOptions::new(id, node);
                    let transport = network.transport(node);
                    nodes.push(RawRaft::start(options, MemLogStore::new(), transport, Sum::default()).await?);
                }
            }
            Backend::QuicRedb => {
                let here = folder.insert(tempfile::tempdir()?).path();
                nodes = over_quic(id, |node| RedbLogStore::open(here.join(format!("node-{node}/log.redb"))))
                    .await?;
            }
            #[cfg(feature = "wal")]
            Backend::QuicWal => {
                let here = folder.insert(tempfile::tempdir()?).path();
                let open = |node| crate::stores::wal::WalLogStore::open(here.join(format!("node-{node}")));
                nodes = over_quic(id, open).await?;
            }
        }
        let members: Vec<(u64, String)> =
            (1..).zip(nodes.iter().map(|node| node.address().to_owned())).collect();
        let first = nodes.first().ok_or("no node")?;
        first.bootstrap(members).await?;
        let leader = first.wait_for(|status| status.leader.is_some()).await?.leader;
        let leader =
            nodes.iter().find(|node| Some(node.local().peer.node) == leader).ok_or("no leader")?.clone();
        Ok(Self { leader, nodes, _folder: folder })
    }

    /// Has `clients` propose `operations` commands of `payload_bytes` in all, each client waiting for its answer before
    /// its next; how long that takes.
    ///
    /// # Errors
    /// Where a proposal is not answered with its reply.
    pub async fn propose(
        &self,
        clients: usize,
        operations: u64,
        payload_bytes: usize,
    ) -> Result<Duration, RaftError> {
        let left = Arc::new(AtomicU64::new(operations));
        let command = Bytes::from(vec![7; payload_bytes]);
        let start = Instant::now();
        let tasks: Vec<_> = (0..clients)
            .map(|_| {
                let (left, command, leader) = (Arc::clone(&left), command.clone(), self.leader.clone());
                tokio::spawn(async move {
                    while left
                        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
                        .is_ok()
                    {
                        let reply = leader.propose(command.clone()).await?;
                        if reply.len() != size_of::<u64>() {
                            return Err(RaftError::Query("the reply is not the machine's".to_owned()));
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        for task in tasks {
            task.await.map_err(|_| RaftError::Stopped)??;
        }
        Ok(start.elapsed())
    }

    /// Stops all nodes.
    pub async fn shutdown(self) {
        for node in &self.nodes {
            node.shutdown().await;
        }
    }
}

/// Three nodes over QUIC, each with a store of its own.
async fn over_quic<S: LogStore>(
    id: ClusterId,
    open: impl Fn(u64) -> Result<S, StorageError>,
) -> Result<Vec<RawRaft>, Box<dyn Error>> {
    let ca = DevCa::new(id)?;
    let mut nodes = Vec::new();
    for node in 1..=3_u64 {
        let credentials = ca.issue(NodeId(node))?;
        let transport = QuicTransport::bind("127.0.0.1:0", credentials, QuicOptions::default())?;
        nodes.push(RawRaft::start(NodeOptions::new(id, node), open(node)?, transport, Sum::default()).await?);
    }
    Ok(nodes)
}

/// A machine that costs next to nothing: it adds up the bytes it saw and replies with the sum.
#[derive(Default)]
struct Sum(u64);

#[async_trait]
impl StateMachine for Sum {
    async fn bookkeeping(&mut self) -> Result<Option<Bytes>, MachineError> {
        Ok(None)
    }

    async fn apply(&mut self, batch: Batch) -> Result<Vec<Bytes>, MachineError> {
        let add = |command: &raft_core::state_machine::Command| {
            self.0 += command.bytes.len() as u64;
            Bytes::copy_from_slice(&self.0.to_le_bytes())
        };
        Ok(batch.commands.iter().map(add).collect())
    }

    async fn query(&mut self, _: Bytes) -> Result<Bytes, MachineError> {
        Ok(Bytes::copy_from_slice(&self.0.to_le_bytes()))
    }

    async fn snapshot(&mut self) -> Result<Box<dyn SnapshotView>, MachineError> {
        struct View([u8; 8]);
        impl SnapshotView for View {
            fn write_to(self: Box<Self>, sink: &mut dyn std::io::Write) -> std::io::Result<()> {
                sink.write_all(&self.0)
            }
        }
        Ok(Box::new(View(self.0.to_le_bytes())))
    }

    async fn restore(&mut self, source: &mut (dyn Read + Send)) -> Result<(), MachineError> {
        let mut sum = [0; 8];
        source
            .read_exact(&mut sum)
            .map_err(|e| MachineError::new(format!("cannot read the snapshot: {e}")))?;
        self.0 = u64::from_le_bytes(sum);
        Ok(())
    }
}
