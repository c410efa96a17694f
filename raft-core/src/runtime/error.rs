//! What a caller of the handle may be told.

use std::sync::Arc;

use crate::codec::CodecError;
use crate::engine::EngineError;
use crate::log_store::StorageError;
use crate::session::SessionError;
use crate::state_machine::MachineError;
use crate::transport::TransportError;
use crate::types::NodeId;

/// Why a call was not answered. What matters to a caller is whether a command may have been applied all the same:
/// after [`RaftError::Unknown`], [`RaftError::Decode`] and some of [`RaftError::Session`] it may, after every other error it was
/// not, and never will be; see [`RaftError::is_refused`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RaftError {
    /// Another node leads, or none does. Ask the leader; where none is known, ask again a little later.
    #[error("this node does not lead{}", leader_hint(.leader, .address))]
    NotLeader {
        /// The leader, where it is known.
        leader: Option<NodeId>,
        /// Where the leader's clients reach it; the address of its transport where it gave none for clients.
        address: Option<String>,
    },
    /// The node is handing its leadership over, and takes no commands until that is done. Repeat it, at the node named first.
    #[error("leadership is being handed to node {to}: repeat it there")]
    Transferring {
        /// The node that is to lead.
        to: NodeId,
    },
    /// More is waiting than the node may hold. Repeat it later, with a pause that grows.
    #[error("too much is waiting on this node: repeat it later")]
    Overloaded,
    /// The command is larger than `max_entry_bytes`. Split it.
    #[error("the command has {bytes} bytes, more than the {limit} allowed: split it")]
    TooLarge {
        /// The command's length.
        bytes: usize,
        /// The most allowed.
        limit: usize,
    },
    /// The outcome is not known: the command may have been applied, may yet be, or may be lost. Repeat it only if applying
    /// it twice does no harm. A read changes nothing and can always be repeated.
    #[error("the outcome is not known: it may have happened")]
    Unknown,
    /// A change of leader took the command's place in the log: it was not committed. Repeat it at the new leader.
    #[error("the command was not committed: repeat it at the new leader")]
    NotCommitted,
    /// The node was shut down before it took the call.
    #[error("the node is shut down")]
    Stopped,
    /// The node's group has stopped for good and takes no calls. Find the reason, mend it, start the node again.
    #[error("the group has stopped on this node: {reason}")]
    Fatal {
        /// What happened, and what to do.
        reason: Arc<str>,
    },
    /// The command or query could not be encoded.
    #[error("cannot encode the command or query: {0}")]
    Encode(CodecError),
    /// The reply or answer could not be decoded; the command was applied.
    #[error("cannot decode the reply or answer: {0}")]
    Decode(CodecError),
    /// The state machine could not answer the query.
    #[error("the query failed: {0}")]
    Query(String),
    /// The session did not let the command be applied, or its answer is gone.
    #[error(transparent)]
    Session(SessionError),
    /// Leadership was not handed over as asked.
    #[error("leadership was not handed over: {0}")]
    Transfer(String),
    /// No snapshot could be taken, or the newest cannot be read.
    #[error("no snapshot: {0}")]
    Snapshot(String),
    /// The members are not changed as asked.
    #[error("the members are not changed: {0}")]
    Membership(String),
    /// The configuration is another one than the call was based on: look at it again.
    #[error("the configuration changed meanwhile: look at it again")]
    Outdated,
    /// The cluster cannot be founded as asked.
    #[error("cannot found the cluster: {0}")]
    Bootstrap(String),
}

impl RaftError {
    /// Whether the command of the failed call has not been applied and never will be, so that repeating it is safe.
    pub const fn is_refused(&self) -> bool {
        match self {
            Self::Unknown | Self::Decode(_) => false,
            Self::Session(error) => error.is_refused(),
            _ => true,
        }
    }
}

fn leader_hint(leader: &Option<NodeId>, address: &Option<String>) -> String {
    match (leader, address) {
        (Some(leader), Some(address)) => format!(": node {leader} at {address} does"),
        (Some(leader), None) => format!(": node {leader} does"),
        (None, _) => ", and no leader is known".into(),
    }
}

/// Why a node did not start. Nothing of it runs then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The log store cannot be used.
    #[error("log store: {0}")]
    Storage(#[from] StorageError),
    /// The state machine cannot be used.
    #[error("state machine: {0}")]
    Machine(#[from] MachineError),
    /// The transport did not start.
    #[error("transport: {0}")]
    Transport(#[from] TransportError),
    /// The settings make no sense, or the log contradicts itself.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The snapshots cannot be used, or the one that is needed is damaged or missing.
    #[error("snapshots: {0}")]
    Snapshot(String),
    /// Log store and state machine, or the parts of the log store, contradict each other.
    #[error("{0}")]
    Inconsistent(String),
}
