//! `raft-kv log`: a stopped node's log, looked at and mended without the node.

mod body;
mod compact;
mod entries;
mod repair;
mod show;
mod verify;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use raft_core::log_store::{StorageError, StorageErrorKind};
use raft_storage_redb::{Damage, Inspector};

use super::serve::LOG_FILE;
use super::{Failure, Output, on_one_core};

/// Without a subcommand, what the log holds as a whole.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct LogArgs {
    #[command(subcommand)]
    command: Option<LogCommand>,
    #[command(flatten)]
    show: Option<DataArgs>,
}

#[derive(Debug, Subcommand)]
enum LogCommand {
    /// Print entries, one a line.
    Entries(entries::EntriesArgs),
    /// Check every checksum of the file, and name what is damaged.
    Verify(DataArgs),
    /// Give room that is not used back to the file system.
    Compact(DataArgs),
    /// Put sound copies of damaged committed entries in their place, from another node's log.
    Repair(repair::RepairArgs),
}

/// Whose log.
#[derive(Debug, Args)]
pub(super) struct DataArgs {
    /// The data folder of a node that does not run.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
}

pub(super) fn run(args: LogArgs, output: Output) -> Result<(), Failure> {
    match (args.command, args.show) {
        (Some(LogCommand::Entries(args)), _) => entries::run(&args, output),
        (Some(LogCommand::Verify(args)), _) => verify::run(&args, output),
        (Some(LogCommand::Compact(args)), _) => compact::run(&args, output),
        (Some(LogCommand::Repair(args)), _) => on_one_core(repair::run(args, output)),
        (None, Some(args)) => show::run(&args, output),
        (None, None) => {
            Err(Failure::Usage("say whose log with --data DIR; see `raft-kv log --help`".to_owned()))
        }
    }
}

impl DataArgs {
    fn file(&self) -> Result<PathBuf, Failure> {
        log_file(&self.data)
    }
}

/// The log within a data folder.
pub(super) fn log_file(data: &Path) -> Result<PathBuf, Failure> {
    let file = data.join(LOG_FILE);
    match file.try_exists() {
        Ok(true) => Ok(file),
        Ok(false) => Err(Failure::refused(format!(
            "{} does not exist: name the folder that `raft-kv serve --data` was given",
            file.display()
        ))),
        Err(error) => Err(Failure::refused(format!("cannot look at {}: {error}", file.display()))),
    }
}

pub(super) fn refused(error: &StorageError) -> Failure {
    let code = match error.kind() {
        StorageErrorKind::Busy => "busy",
        StorageErrorKind::Corrupt => "damaged",
        StorageErrorKind::Invalid => "invalid",
        _ => "failed",
    };
    Failure::Refused { code, message: error.to_string() }
}

/// Where something is damaged: the first of it, how much more there is, and what to do.
pub(super) fn refuse_damaged(log: &Inspector, damage: &[Damage]) -> Result<(), Failure> {
    let Some(first) = damage.first() else { return Ok(()) };
    let more = match damage.len() {
        1 => String::new(),
        count => format!(" (and {} more)", count - 1),
    };
    let message = format!(
        "log {}: {first}{more}; `raft-kv log repair` takes entries from another member, and refuses where more is lost",
        log.path().display()
    );
    Err(Failure::Refused { code: "damaged", message })
}
