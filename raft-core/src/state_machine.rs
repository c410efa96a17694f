//! The contract of a state machine: bytes in, bytes out, a batch at a time. Most users implement
//! [`Machine`](crate::machine::Machine) over their own types instead.

use std::io::{Read, Write};

use async_trait::async_trait;
use bytes::Bytes;

use crate::types::EntryId;

/// A committed command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Its entry.
    pub id: EntryId,
    /// The command as it was proposed.
    pub bytes: Bytes,
}

/// Committed commands, to be applied in order, and the library's note of where they end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The commands, ascending by index. Indexes may be missing: not every entry holds a command. May be empty.
    pub commands: Vec<Command>,
    /// Opaque. A machine that is durable by itself keeps it in the same transaction as the commands' effects and gives it
    /// back from [`StateMachine::bookkeeping`]; a volatile machine ignores it.
    pub bookkeeping: Bytes,
}

/// The replicated state machine: it sees every committed command once, in order, the same on every node.
///
/// # Contract
/// * **Deterministic**: the same commands from the same state give the same state and replies, on every node and every
///   version that runs beside another. No clock, no randomness, no order of a hash map may get into it.
/// * **Exclusive**: the library calls one method at a time.
/// * **An error or a panic is final** for the group on this node: it stops with `Fatal`, nothing later is applied, and
///   the process goes on.
#[async_trait]
pub trait StateMachine: Send + 'static {
    /// Asked once, at start: the [`Batch::bookkeeping`] of the last batch that is durable in this machine; `None` for a
    /// volatile or a new machine, which is then rebuilt from snapshot and log.
    ///
    /// # Errors
    /// Where the machine cannot be used.
    async fn bookkeeping(&mut self) -> Result<Option<Bytes>, MachineError>;

    /// Applies a batch; one reply a command, in order.
    ///
    /// # Errors
    /// Final, see the contract. A command that a user got wrong is no error: say so in its reply.
    async fn apply(&mut self, batch: Batch) -> Result<Vec<Bytes>, MachineError>;

    /// Answers from the state as it is; changes nothing.
    ///
    /// # Errors
    /// Goes to the asker; not final.
    async fn query(&mut self, query: Bytes) -> Result<Bytes, MachineError>;

    /// A view of the state as it is now, to be written out while later batches are applied: make it cheap.
    ///
    /// # Errors
    /// The snapshot is not taken, and the group goes on; so it does after a panic. The state must be as it was.
    async fn snapshot(&mut self) -> Result<Box<dyn SnapshotView>, MachineError>;

    /// Replaces the state by one that [`SnapshotView::write_to`] wrote; called on a thread where blocking is allowed. An empty batch
    /// follows, whose [`Batch::bookkeeping`] says where the restored state ends.
    ///
    /// # Errors
    /// Final, see the contract: the log before the snapshot is gone. The state as it was must still be there.
    async fn restore(&mut self, source: &mut (dyn Read + Send)) -> Result<(), MachineError>;
}

/// A state at one moment, waiting to be written out.
pub trait SnapshotView: Send {
    /// Writes the state; called on a thread where blocking is allowed.
    ///
    /// # Errors
    /// Where `sink` refuses or the state cannot be encoded.
    fn write_to(self: Box<Self>, sink: &mut dyn Write) -> std::io::Result<()>;
}

/// An error of a state machine. The message says what happened and what to do.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct MachineError {
    message: String,
}

impl MachineError {
    /// `message` says what happened and what to do.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into() }
    }
}
