//! Parts in memory: a [`LogStore`](crate::LogStore) and a [`Transport`](crate::Transport) between nodes of one process,
//! for tests, first steps and measurements. Nothing here survives the process.

mod channel;
mod log_store;

pub use channel::{ChannelNetwork, ChannelTransport};
pub use log_store::MemLogStore;
