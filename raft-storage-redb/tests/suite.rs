//! The conformance suite of raft-core.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

use raft_core::testing::suite::log_store::Suite;
use raft_storage_redb::RedbLogStore;
use tempfile::TempDir;

/// A case or topic to run alone, as `RAFT_CASE=truncation/at_every_position`.
#[test]
fn the_store_conforms() {
    let suite = Suite::new(|| {
        let folder = TempDir::new().unwrap();
        move || RedbLogStore::open(folder.path().join("log.redb")).unwrap()
    });
    let report = suite.only(std::env::var("RAFT_CASE").unwrap_or_default()).run();
    println!("{report:#}");
    report.assert_passed();
}
