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
use raft_core::state_machine::{Batch, MachineError, Note, SnapshotView, StateMachine};
use raft_core::transport::{Transport, TransportError};
use raft_core::{ClusterId, LogStore, NodeId};
use raft_storage_redb::RedbLogStore;
use raft_transport_quic::{DevCa, QuicOptions, QuicTransport};
use tempfile::TempDir;

use crate::transports::tcp::TcpTransport;
use crate::transports::tls::Tls;

/// What a cluster is built on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Channels within the process and logs in memory: nothing is durable, nothing is encrypted.
    Memory,
    /// QUIC with mutual TLS over loopback, and logs in memory.
    QuicMemory,
    /// TCP with mutual TLS over loopback, [`transports::tcp`](crate::transports::tcp), and logs in memory.
    TcpMemory,
    /// QUIC with mutual TLS over loopback, and redb with an fsync a commit.
    QuicRedb,
    /// TCP with mutual TLS over loopback, and redb with an fsync a commit.
    TcpRedb,
    /// QUIC and a plain write-ahead log, [`stores::wal`](crate::stores::wal), with an fsync a commit.
    #[cfg(feature = "wal")]
    QuicWal,
}

impl Backend {
    /// The backend's name in the results; volatile parts say so.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "channel+memory(volatile)",
            Self::QuicMemory => "quic+memory(volatile)",
            Self::TcpMemory => "tcp+memory(volatile)",
            Self::QuicRedb => "quic+redb",
            Self::TcpRedb => "tcp+redb",
            #[cfg(feature = "wal")]
            Self::QuicWal => "quic+wal",
        }
    }
}

/// Three nodes, one of which leads.
pub struct Cluster {
    leader: RawRaft,
    nodes: Vec<RawRaft>,
    _folder: TempDir,
}

impl Cluster {
    /// Starts three nodes and founds their cluster.
    ///
    /// # Errors
    /// Where a node cannot be started.
    pub async fn start(backend: Backend) -> Result<Self, Box<dyn Error>> {
        let id = ClusterId(0xbe9c);
        let folder = tempfile::tempdir()?;
        let network = ChannelNetwork::new();
        let ca = DevCa::new(id)?;
        let channel = |node| Ok(network.transport(node));
        let quic = |node| {
            let credentials = ca.issue(node).map_err(|error| TransportError::new(error.to_string()))?;
            QuicTransport::bind("127.0.0.1:0", credentials, QuicOptions::default())
        };
        let tcp = |node| TcpTransport::bind("127.0.0.1:0", Tls::issue(&ca, node)?);
        let memory = |_| Ok(MemLogStore::new());
        let redb = |node| RedbLogStore::open(folder.path().join(format!("node-{node}/log.redb")));
        #[cfg(feature = "wal")]
        let wal = |node| crate::stores::wal::WalLogStore::open(folder.path().join(format!("node-{node}")));
        let nodes = match backend {
            Backend::Memory => three(id, channel, memory).await?,
            Backend::QuicMemory => three(id, quic, memory).await?,
            Backend::TcpMemory => three(id, tcp, memory).await?,
            Backend::QuicRedb => three(id, quic, redb).await?,
            Backend::TcpRedb => three(id, tcp, redb).await?,
            #[cfg(feature = "wal")]
            Backend::QuicWal => three(id, quic, wal).await?,
        };
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

/// Three nodes over a transport and a log store, not yet a cluster.
async fn three<T: Transport, S: LogStore>(
    id: ClusterId,
    transport: impl Fn(NodeId) -> Result<T, TransportError>,
    store: impl Fn(NodeId) -> Result<S, StorageError>,
) -> Result<Vec<RawRaft>, Box<dyn Error>> {
    let mut nodes = Vec::new();
    for node in (1..=3).map(NodeId) {
        let options = NodeOptions::new(id, node);
        nodes.push(RawRaft::start(options, store(node)?, transport(node)?, Sum::default()).await?);
    }
    Ok(nodes)
}

/// A machine that costs next to nothing: it adds up the bytes it saw and replies with the sum.
#[derive(Default)]
struct Sum(u64);

#[async_trait]
impl StateMachine for Sum {
    async fn bookkeeping(&mut self) -> Result<Option<Vec<Note>>, MachineError> {
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
