//! Conformance suites: what a part of one's own must pass before a cluster relies on it.

#[cfg(feature = "runtime")]
pub mod transport;
