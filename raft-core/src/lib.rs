#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod codec;
pub mod config;
pub mod engine;
mod log;
pub mod log_store;
pub mod machine;
pub mod membership;
pub mod message;
mod progress;
mod random;
pub mod state_machine;
pub mod transport;
pub mod types;
mod write;

pub use config::Config;
pub use engine::Engine;
pub use log_store::LogStore;
pub use machine::Machine;
pub use membership::{Membership, NodeInfo};
pub use state_machine::StateMachine;
pub use transport::Transport;
pub use types::{ClusterId, EntryId, GroupId, Incarnation, Index, NodeId, Term};
