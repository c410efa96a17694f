//! Log stores to compare with, each behind a feature of its own.

#[cfg(feature = "wal")]
pub mod wal;
