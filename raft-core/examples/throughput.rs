//! Measures three nodes in memory: how many proposals a second they take from a number of clients, each of which waits for
//! its reply before it proposes again.
//!
//!     cargo run --release -p raft-core --example throughput -- [CLIENTS] [SECONDS]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use raft_core::mem::{ChannelNetwork, MemLogStore};
use raft_core::state_machine::{Batch, MachineError, Note, SnapshotView};
use raft_core::{ClusterId, NodeOptions, RawRaft, StateMachine};

const COMMAND_BYTES: usize = 64;

/// Counts commands and bytes.
#[derive(Default)]
struct Count {
    commands: u64,
    bytes: u64,
}

#[async_trait]
impl StateMachine for Count {
    async fn bookkeeping(&mut self) -> Result<Option<Vec<Note>>, MachineError> {
        Ok(None)
    }

    async fn apply(&mut self, batch: Batch) -> Result<Vec<Bytes>, MachineError> {
        self.commands += batch.commands.len() as u64;
        self.bytes += batch.commands.iter().map(|command| command.bytes.len() as u64).sum::<u64>();
        Ok(vec![Bytes::from_static(b"done"); batch.commands.len()])
    }

    async fn query(&mut self, _: Bytes) -> Result<Bytes, MachineError> {
        Ok(Bytes::copy_from_slice(&self.commands.to_le_bytes()))
    }

    async fn snapshot(&mut self) -> Result<Box<dyn SnapshotView>, MachineError> {
        Err(MachineError::new("the counter takes no snapshots"))
    }

    async fn restore(&mut self, _: &mut (dyn std::io::Read + Send)) -> Result<(), MachineError> {
        Err(MachineError::new("the counter takes no snapshots"))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let clients: usize = arguments.next().as_deref().unwrap_or("1024").parse()?;
    let seconds: f64 = arguments.next().as_deref().unwrap_or("3").parse()?;

    let network = ChannelNetwork::new();
    let mut nodes = Vec::new();
    for id in 1..=3 {
        let options = NodeOptions::new(ClusterId(1), id);
        nodes.push(
            RawRaft::start(options, MemLogStore::new(), network.transport(id), Count::default()).await?,
        );
    }
    nodes[0].bootstrap((1..=3).map(|id| (id, format!("mem:{id}")))).await?;
    let leader = nodes[0].wait_for(|status| status.leader.is_some()).await?.leader;
    let leader = nodes.iter().find(|node| Some(node.local().peer.node) == leader).ok_or("no leader")?;

    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = (0..clients)
        .map(|_| {
            let (raft, stop, done) = (leader.clone(), Arc::clone(&stop), Arc::clone(&done));
            tokio::spawn(async move {
                let mut count = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    raft.propose(Bytes::from(vec![7; COMMAND_BYTES])).await?;
                    count += 1;
                    if count.is_multiple_of(16) {
                        done.fetch_add(16, Ordering::Relaxed);
                    }
                }
                Ok::<(), raft_core::RaftError>(())
            })
        })
        .collect();

    tokio::time::sleep(Duration::from_secs_f64(seconds / 5.0)).await;
    let (begin, before) = (Instant::now(), done.load(Ordering::Relaxed));
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    let (count, elapsed) = (done.load(Ordering::Relaxed) - before, begin.elapsed());
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await??;
    }
    println!("{clients} clients: {:.0} proposals/s", count as f64 / elapsed.as_secs_f64());
    for node in &nodes {
        node.shutdown().await;
    }
    Ok(())
}
