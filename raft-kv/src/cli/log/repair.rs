//! `raft-kv log repair`

use std::path::PathBuf;

use clap::Args;
use raft_storage_redb::{Inspector, Repair};
use serde::Serialize;

use super::{DataArgs, Failure, Output, log_file, refused};

#[derive(Debug, Args)]
pub(super) struct RepairArgs {
    #[command(flatten)]
    data: DataArgs,
    /// The data folder of another member that does not run, or a copy of one; may be repeated.
    #[arg(long, value_name = "DIR", required = true)]
    from_data: Vec<PathBuf>,
}

#[derive(Serialize)]
struct RepairBody {
    file: String,
    /// How many entries came from other logs.
    replaced: u64,
    /// The damaged file under its new name; missing if nothing was damaged.
    #[serde(skip_serializing_if = "Option::is_none")]
    kept: Option<String>,
}

/// Replaces what is damaged, all of it or nothing. What a node has promised is never changed, and an entry only taken where term and
/// index are those that the node itself noted: see [`Repair`].
pub(super) fn run(args: &RepairArgs, output: Output) -> Result<(), Failure> {
    let file = args.data.file()?;
    let shown = file.display().to_string();
    let sources: Vec<PathBuf> = args.from_data.iter().map(|data| log_file(data)).collect::<Result<_, _>>()?;
    for source in &sources {
        if source.canonicalize()? == file.canonicalize()? {
            let message =
                format!("{} is the log to be repaired: name another member's folder", source.display());
            return Err(Failure::Usage(message));
        }
    }
    if Inspector::open(&file).map_err(|e| refused(&e))?.verify().is_sound() {
        let body = RepairBody { file: shown, replaced: 0, kept: None };
        return output.result("OK nothing is damaged, nothing was changed", &body);
    }
    let mut repair = Repair::open(&file).map_err(|e| refused(&e))?;
    for source in &sources {
        if repair.missing().is_empty() {
            break;
        }
        let healthy = Inspector::open(source).map_err(|e| refused(&e))?;
        repair.replace_from(&healthy).map_err(|e| refused(&e))?;
    }
    let repaired = repair.finish().map_err(|e| refused(&e))?;
    let kept = repaired.kept.display().to_string();
    let text = format!("OK {} entries replaced; the damaged file is kept as {kept}", repaired.replaced);
    output.result(&text, &RepairBody { file: shown, replaced: repaired.replaced, kept: Some(kept) })
}
