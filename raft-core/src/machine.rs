//! The typed rim: a state machine over the user's own types, with serde at the border.

use std::io::{Read, Write};

use async_trait::async_trait;
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::cold;
use crate::state_machine::{Batch, MachineError, Note, SnapshotView, StateMachine};

/// A volatile state machine over one's own types: two methods, and snapshots by serde. It is held in memory and rebuilt
/// from snapshot and log at start. The contract of [`StateMachine`] holds: deterministic above all.
///
/// ```
/// use raft_core::Machine;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Default, Serialize, Deserialize)]
/// struct Counter(u64);
///
/// impl Machine for Counter {
///     type Command = u64;
///     type Reply = u64;
///     type Query = ();
///     type Answer = u64;
///
///     fn apply(&mut self, add: u64) -> u64 {
///         self.0 += add;
///         self.0
///     }
///
///     fn query(&self, _: ()) -> u64 {
///         self.0
///     }
/// }
/// ```
pub trait Machine: Snapshot + Send + 'static {
    /// What is proposed.
    type Command: Serialize + DeserializeOwned + Send + 'static;
    /// What applying a command gives.
    type Reply: Serialize + DeserializeOwned + Send + 'static;
    /// What is asked.
    type Query: Serialize + DeserializeOwned + Send + 'static;
    /// What asking gives.
    type Answer: Serialize + DeserializeOwned + Send + 'static;

    /// Applies a committed command.
    fn apply(&mut self, command: Self::Command) -> Self::Reply;

    /// Answers from the state as it is.
    fn query(&self, query: Self::Query) -> Self::Answer;
}

/// How a state is written out and read back. Every type with serde's `Serialize` and `DeserializeOwned` has it: its
/// bytes are made at once and held until written, which suits small states. For a large one, leave serde away and
/// implement this with a cheap view.
pub trait Snapshot: Sized {
    /// A view of the state as it is now.
    ///
    /// # Errors
    /// Where the state cannot be encoded.
    fn snapshot(&self) -> Result<Box<dyn SnapshotView>, MachineError>;

    /// Reads a state that was written out.
    ///
    /// # Errors
    /// Where the bytes are not those of a state.
    fn restore(source: &mut dyn Read) -> Result<Self, MachineError>;
}

struct EncodedSnapshot(Vec<u8>);

impl SnapshotView for EncodedSnapshot {
    fn write_to(self: Box<Self>, sink: &mut dyn Write) -> std::io::Result<()> {
        sink.write_all(&self.0)
    }
}

impl<T: Serialize + DeserializeOwned> Snapshot for T {
    fn snapshot(&self) -> Result<Box<dyn SnapshotView>, MachineError> {
        let bytes =
            cold::encode(self).map_err(|e| MachineError::new(format!("cannot encode the state: {e}")))?;
        Ok(Box::new(EncodedSnapshot(bytes)))
    }

    fn restore(source: &mut dyn Read) -> Result<Self, MachineError> {
        let mut bytes = Vec::new();
        source
            .read_to_end(&mut bytes)
            .map_err(|e| MachineError::new(format!("cannot read the snapshot: {e}")))?;
        cold::decode(&bytes).map_err(|e| MachineError::new(format!("the snapshot does not decode: {e}")))
    }
}

/// Makes a [`StateMachine`] of a [`Machine`].
pub struct Typed<M>(pub M);

#[async_trait]
impl<M: Machine> StateMachine for Typed<M> {
    async fn bookkeeping(&mut self) -> Result<Option<Vec<Note>>, MachineError> {
        Ok(None)
    }

    async fn apply(&mut self, batch: Batch) -> Result<Vec<Bytes>, MachineError> {
        let mut replies = Vec::with_capacity(batch.commands.len());
        for command in batch.commands {
            let decoded = cold::decode(&command.bytes).map_err(|e| {
                MachineError::new(format!("the command at {} does not decode: {e}", command.id))
            })?;
            let reply = self.0.apply(decoded);
            let encoded = cold::encode(&reply).map_err(|e| {
                MachineError::new(format!("the reply to {} does not encode: {e}", command.id))
            })?;
            replies.push(Bytes::from(encoded));
        }
        Ok(replies)
    }

    async fn query(&mut self, query: Bytes) -> Result<Bytes, MachineError> {
        let query =
            cold::decode(&query).map_err(|e| MachineError::new(format!("the query does not decode: {e}")))?;
        let answer = cold::encode(&self.0.query(query));
        answer.map(Bytes::from).map_err(|e| MachineError::new(format!("the answer does not encode: {e}")))
    }

    async fn snapshot(&mut self) -> Result<Box<dyn SnapshotView>, MachineError> {
        self.0.snapshot()
    }

    async fn restore(&mut self, source: &mut (dyn Read + Send)) -> Result<(), MachineError> {
        self.0 = M::restore(source)?;
        Ok(())
    }
}
