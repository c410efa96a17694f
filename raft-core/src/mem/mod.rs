//! Parts in memory: a [`LogStore`](crate::LogStore) and a [`Transport`](crate::Transport) between nodes of one process,
//! for tests, first steps and measurements. Nothing here survives the process.

#[cfg(feature = "runtime")]
mod channel;
mod log_store;

#[cfg(feature = "runtime")]
pub use channel::{ChannelNetwork, ChannelTransport};
pub use log_store::MemLogStore;
