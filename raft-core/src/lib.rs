#![cfg_attr(feature = "runtime", doc = include_str!("../README.md"))]
#![cfg_attr(not(feature = "runtime"), doc = "Raft consensus as a plain value, and the traits around it.")]
#![forbid(unsafe_code)]

#[cfg(feature = "runtime")]
pub mod client;
pub mod codec;
pub mod config;
pub mod engine;
mod log;
pub mod log_store;
pub mod machine;
pub mod mem;
pub mod membership;
pub mod message;
pub mod offline;
mod progress;
#[cfg(feature = "runtime")]
pub mod raft;
mod random;
#[cfg(feature = "runtime")]
pub mod runtime;
pub mod session;
pub mod session_table;
pub mod state_machine;
#[cfg(feature = "testing")]
pub mod testing;
pub mod transport;
pub mod types;
mod write;

#[cfg(feature = "runtime")]
pub use client::{Client, ClientError};
pub use config::Config;
pub use engine::Engine;
pub use log_store::LogStore;
pub use machine::Machine;
pub use membership::{Lease, Membership, NodeInfo, Target};
#[cfg(feature = "runtime")]
pub use raft::{Raft, RawRaft};
#[cfg(feature = "runtime")]
pub use runtime::{
    Consistency, Member, NodeOptions, RaftError, RaftStatus, Reading, SnapshotFile, SnapshotPlace, StartError,
};
pub use state_machine::StateMachine;
pub use transport::Transport;
pub use types::{ClusterId, EntryId, GroupId, Incarnation, Index, NodeId, Term};
