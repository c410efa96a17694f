//! `raft-kv log entries`

use std::io::{self, BufWriter, Write as _};

use clap::Args;
use raft_core::GroupId;
use raft_storage_redb::Inspector;

use super::body::EntryBody;
use super::{DataArgs, Failure, Output, refuse_damaged, refused};
use crate::cli::to_json;

#[derive(Debug, Args)]
pub(super) struct EntriesArgs {
    #[command(flatten)]
    data: DataArgs,
    /// From this index on, itself included; if not given, from the first that is held.
    #[arg(long, value_name = "INDEX", default_value_t = 0)]
    from: u64,
    /// Up to this index, itself included; if not given, up to the last.
    #[arg(long, value_name = "INDEX")]
    to: Option<u64>,
    /// The group whose log it is.
    #[arg(long, value_name = "ID", default_value_t = 0)]
    group: u64,
}

/// Prints entries as they are read, however many: with `--json` one JSON line each.
pub(super) fn run(args: &EntriesArgs, output: Output) -> Result<(), Failure> {
    let to = args.to.unwrap_or(u64::MAX);
    if args.from > to {
        return Err(Failure::Usage(format!("--from {} lies beyond --to {to}: no entries do", args.from)));
    }
    let log = Inspector::open(args.data.file()?).map_err(|e| refused(&e))?;
    let group = GroupId(args.group);
    let Some(held) = log.group(group) else {
        let known: Vec<String> = log.groups().iter().map(|log| log.group.to_string()).collect();
        return Err(Failure::refused(format!(
            "{} holds no group {group} that can be read, only these: {}; see what `raft-kv log verify` says",
            log.path().display(),
            if known.is_empty() { "none".to_owned() } else { known.join(", ") }
        )));
    };
    let mut stdout = BufWriter::new(io::stdout().lock());
    let mut damaged = Vec::new();
    for entry in log.entries(group, args.from..=to) {
        match entry {
            Ok(entry) => {
                let body = EntryBody::new(&entry, held.hard_state.commit);
                let line = if output.json { to_json(&body)? } else { body.text() };
                writeln!(stdout, "{line}")?;
            }
            Err(damage) => damaged.push(damage),
        }
    }
    stdout.flush()?;
    refuse_damaged(&log, &damaged)
}
