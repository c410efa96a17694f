//! `raft-kv log compact`

use raft_storage_redb::Inspector;
use serde::Serialize;

use super::{DataArgs, Failure, Output, refuse_damaged, refused};

#[derive(Serialize)]
struct CompactBody {
    file: String,
    before_bytes: u64,
    after_bytes: u64,
}

/// Checks the file first, then makes it smaller.
pub(super) fn run(args: &DataArgs, output: Output) -> Result<(), Failure> {
    let file = args.file()?;
    {
        // redb writes to a file that it opens, also to a damaged one, which may yet be repaired.
        let log = Inspector::open(&file).map_err(|e| refused(&e))?;
        refuse_damaged(&log, &log.verify().damage)?;
    }
    let compacted = raft_storage_redb::compact(&file).map_err(|e| refused(&e))?;
    let body = CompactBody {
        file: file.display().to_string(),
        before_bytes: compacted.before_bytes,
        after_bytes: compacted.after_bytes,
    };
    output.result(&format!("OK {} bytes, {} before", body.after_bytes, body.before_bytes), &body)
}
