//! State machines to measure with.

use std::io::Read;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use raft_core::StateMachine;
use raft_core::state_machine::{Batch, Command, MachineError, Note, SnapshotView};

/// A machine that costs next to nothing: it adds up the bytes it saw and replies with the sum.
#[derive(Default)]
pub struct Sum(u64);

#[async_trait]
impl StateMachine for Sum {
    async fn bookkeeping(&mut self) -> Result<Option<Vec<Note>>, MachineError> {
        Ok(None)
    }

    async fn apply(&mut self, batch: Batch) -> Result<Vec<Bytes>, MachineError> {
        let add = |command: &Command| {
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

/// A machine that keeps nothing and answers each command with its bytes.
#[derive(Default)]
pub struct Echo;

#[async_trait]
impl StateMachine for Echo {
    async fn bookkeeping(&mut self) -> Result<Option<Vec<Note>>, MachineError> {
        Ok(None)
    }

    async fn apply(&mut self, batch: Batch) -> Result<Vec<Bytes>, MachineError> {
        Ok(batch.commands.into_iter().map(|command| command.bytes).collect())
    }

    async fn query(&mut self, query: Bytes) -> Result<Bytes, MachineError> {
        Ok(query)
    }

    async fn snapshot(&mut self) -> Result<Box<dyn SnapshotView>, MachineError> {
        Ok(Box::new(Written(Arc::default())))
    }

    async fn restore(&mut self, _: &mut (dyn Read + Send)) -> Result<(), MachineError> {
        Ok(())
    }
}

/// A view of bytes that are there already.
struct Written(Arc<Vec<u8>>);

impl SnapshotView for Written {
    fn write_to(self: Box<Self>, sink: &mut dyn std::io::Write) -> std::io::Result<()> {
        sink.write_all(&self.0)
    }
}

/// A machine with a state of some size that commands never change, and whose view costs nothing.
pub(crate) struct Ballast(Arc<Vec<u8>>);

impl Ballast {
    pub(crate) fn of(bytes: usize) -> Self {
        // Not all the same: a disk may be cleverer than the one that counts.
        let mut state = vec![0; bytes];
        let mut number = 1_u64;
        for chunk in state.chunks_exact_mut(8) {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            chunk.copy_from_slice(&number.to_le_bytes());
        }
        Self(Arc::new(state))
    }
}

#[async_trait]
impl StateMachine for Ballast {
    async fn bookkeeping(&mut self) -> Result<Option<Vec<Note>>, MachineError> {
        Ok(None)
    }

    async fn apply(&mut self, batch: Batch) -> Result<Vec<Bytes>, MachineError> {
        Ok(vec![Bytes::new(); batch.commands.len()])
    }

    async fn query(&mut self, _: Bytes) -> Result<Bytes, MachineError> {
        Ok(Bytes::new())
    }

    async fn snapshot(&mut self) -> Result<Box<dyn SnapshotView>, MachineError> {
        Ok(Box::new(Written(Arc::clone(&self.0))))
    }

    async fn restore(&mut self, source: &mut (dyn Read + Send)) -> Result<(), MachineError> {
        let mut state = Vec::new();
        source.read_to_end(&mut state).map_err(|e| MachineError::new(format!("cannot restore: {e}")))?;
        self.0 = Arc::new(state);
        Ok(())
    }
}

/// The machine of raft-kv.
#[cfg(any(feature = "matrix", feature = "load"))]
pub(crate) fn kv() -> impl StateMachine {
    raft_core::machine::Typed(raft_kv::store::Store::default())
}

/// A put to one of as many keys as there are commands.
#[cfg(any(feature = "matrix", feature = "load"))]
pub(crate) fn kv_put(number: u64, bytes: usize) -> Bytes {
    let value = Bytes::from(vec![7; bytes]);
    let command = raft_kv::command::Command::Put { key: format!("key-{number}"), value };
    // A command of these sizes does encode; the machine would refuse an empty one.
    raft_core::codec::cold::encode(&command).map(Bytes::from).unwrap_or_default()
}
