//! Conformance suites: what a part of one's own must pass before a cluster relies on it.

pub mod log_store;
#[cfg(feature = "runtime")]
pub mod transport;
