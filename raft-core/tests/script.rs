//! The scripts under `tests/scripts`: each drives a small cluster step by step and holds what must come out.

#![cfg(feature = "testing")]

use std::path::Path;

use raft_core::testing::script;

#[test]
fn scripts() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    match script::run_directory(&directory) {
        Ok(count) => assert!(count >= 40, "only {count} scripts were found"),
        Err(differences) => panic!("{differences}"),
    }
}
