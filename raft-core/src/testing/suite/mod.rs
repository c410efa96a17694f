//! Conformance suites: what a part of one's own must pass before a cluster relies on it.

mod failure;
pub mod log_store;
mod report;
#[cfg(feature = "runtime")]
pub mod transport;

pub use failure::Failure;
pub use report::Report;
