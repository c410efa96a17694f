//! The contract of a state machine: bytes in, bytes out, a batch at a time. Most users implement
//! [`Machine`](crate::machine::Machine) over their own types instead.

use std::fmt;
use std::io::{Read, Write};

use async_trait::async_trait;
use bytes::Bytes;

pub use crate::session_table::Note;
use crate::types::EntryId;

/// A committed command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Its entry.
    pub id: EntryId,
    /// The command as it was proposed.
    pub bytes: Bytes,
}

/// Committed commands, to be applied in order, and what the library wants kept with their effects.
#[derive(Debug, Default)]
pub struct Batch {
    /// The commands, ascending by index. Indexes may be missing: not every entry holds a command. May be empty.
    pub commands: Vec<Command>,
    /// For a machine that is durable by itself; a volatile machine ignores it.
    pub bookkeeping: Bookkeeping,
}

/// What the library wants kept by a machine that is durable by itself: where the machine is, and the clients' sessions. The machine
/// keeps the notes like a small table, by key, in the same transaction as the effects of the batch, and gives all of them back at
/// start, from [`StateMachine::bookkeeping`].
#[derive(Default)]
pub struct Bookkeeping(Option<MakeNotes>);

/// Makes a batch's notes of its replies.
type MakeNotes = Box<dyn FnOnce(&[Bytes]) -> Vec<Note> + Send>;

impl Bookkeeping {
    /// Notes that depend on the replies.
    #[cfg(feature = "runtime")]
    pub(crate) fn new(notes: impl FnOnce(&[Bytes]) -> Vec<Note> + Send + 'static) -> Self {
        Self(Some(Box::new(notes)))
    }

    /// What is to be put or removed, once the replies to the batch's commands are known, which `replies` are: answers to clients are
    /// kept among the notes. A machine that is durable by itself must ask once a batch, also where the batch is empty.
    #[must_use]
    pub fn notes(self, replies: &[Bytes]) -> Vec<Note> {
        self.0.map_or_else(Vec::new, |notes| notes(replies))
    }
}

impl fmt::Debug for Bookkeeping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bookkeeping").finish_non_exhaustive()
    }
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
    /// Asked once, at start. `None` for a volatile machine: it is rebuilt from snapshot and log, and gets no notes. A machine that is
    /// durable by itself gives all the notes that it keeps ([`Batch::bookkeeping`]), in any order; none where it is new.
    ///
    /// # Errors
    /// Where the machine cannot be used.
    async fn bookkeeping(&mut self) -> Result<Option<Vec<Note>>, MachineError>;

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

    /// Replaces the state by one that [`SnapshotView::write_to`] wrote, and forgets all notes; called on a thread where blocking is
    /// allowed. An empty batch follows, whose notes are those of the restored state.
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
