//! raft-core: the channel transport, and the log in memory or in redb.

use std::path::Path;

use async_trait::async_trait;
use bytes::Bytes;
use raft_core::mem::{ChannelNetwork, MemLogStore};
use raft_core::state_machine::{Batch, MachineError, Note, SnapshotView};
use raft_core::{ClusterId, NodeOptions, RawRaft, SnapshotPlace, StateMachine};
use raft_storage_redb::RedbLogStore;

use crate::drive::{Failure, Load, Measured, NODES, command, drive};

/// Counts commands, and answers each.
#[derive(Default)]
struct Count(u64);

struct View(u64);

impl SnapshotView for View {
    fn write_to(self: Box<Self>, sink: &mut dyn std::io::Write) -> std::io::Result<()> {
        sink.write_all(&self.0.to_le_bytes())
    }
}

#[async_trait]
impl StateMachine for Count {
    async fn bookkeeping(&mut self) -> Result<Option<Vec<Note>>, MachineError> {
        Ok(None)
    }

    async fn apply(&mut self, batch: Batch) -> Result<Vec<Bytes>, MachineError> {
        self.0 += batch.commands.len() as u64;
        Ok(vec![Bytes::new(); batch.commands.len()])
    }

    async fn query(&mut self, _: Bytes) -> Result<Bytes, MachineError> {
        Ok(Bytes::new())
    }

    async fn snapshot(&mut self) -> Result<Box<dyn SnapshotView>, MachineError> {
        Ok(Box::new(View(self.0)))
    }

    async fn restore(&mut self, source: &mut (dyn std::io::Read + Send)) -> Result<(), MachineError> {
        let mut bytes = [0; 8];
        source.read_exact(&mut bytes).map_err(|error| MachineError::new(error.to_string()))?;
        self.0 = u64::from_le_bytes(bytes);
        Ok(())
    }
}

pub(crate) async fn run(load: Load, folder: Option<&Path>) -> Result<Measured, Failure> {
    let network = ChannelNetwork::new();
    let mut nodes = Vec::new();
    for id in 1..=NODES {
        let mut options = NodeOptions::new(ClusterId(1), id);
        let transport = network.transport(id);
        nodes.push(match folder {
            None => {
                options.snapshots = SnapshotPlace::memory(1 << 30);
                RawRaft::start(options, MemLogStore::new(), transport, Count::default()).await?
            }
            Some(folder) => {
                let own = folder.join(format!("node-{id}"));
                options.snapshots = SnapshotPlace::folder(own.join("snapshots"));
                let log = RedbLogStore::open(own.join("log.redb"))?;
                RawRaft::start(options, log, transport, Count::default()).await?
            }
        });
    }
    let first = nodes.first().ok_or("no node")?;
    first.bootstrap((1..=NODES).map(|id| (id, format!("mem:{id}")))).await?;
    let leader = first.wait_for(|status| status.leader.is_some()).await?.leader;
    let leader = nodes.iter().find(|node| Some(node.local().peer.node) == leader).ok_or("no leader")?.clone();
    let call = move || {
        let leader = leader.clone();
        async move {
            leader.propose(command()).await?;
            Ok(())
        }
    };
    let measured = drive(load, call).await?;
    for node in &nodes {
        node.shutdown().await;
    }
    Ok(measured)
}
