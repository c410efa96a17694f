//! The `raft-kv` command.
#![forbid(unsafe_code)]
fn main() {}
