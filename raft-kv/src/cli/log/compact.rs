//! `raft-kv log compact`

use serde::Serialize;

use super::{DataArgs, Failure, Output, refused};

#[derive(Serialize)]
struct CompactBody {
    file: String,
    before_bytes: u64,
    after_bytes: u64,
}

pub(super) fn run(args: &DataArgs, output: Output) -> Result<(), Failure> {
    let file = args.file()?;
    let compacted = raft_storage_redb::compact(&file).map_err(|e| refused(&e))?;
    let body = CompactBody {
        file: file.display().to_string(),
        before_bytes: compacted.before_bytes,
        after_bytes: compacted.after_bytes,
    };
    output.result(&format!("OK {} bytes, {} before", body.after_bytes, body.before_bytes), &body)
}
