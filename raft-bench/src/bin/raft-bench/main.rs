//! The `raft-bench` command: load, compare, trouble. The criterion benchmarks are `cargo bench -p raft-bench`.
#![forbid(unsafe_code)]

mod load;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use raft_bench::backend::{Backends, Failure};
use raft_bench::compare::compare;
use raft_bench::floor::Floor;
use raft_bench::load::Reports;
use raft_bench::trouble::{self, Trouble, TroubleOptions};

use self::load::LoadArgs;

/// The exit code after Ctrl-C, by a shell's custom.
const INTERRUPTED: u8 = 130;

/// Loads Raft clusters, compares results, and makes trouble.
#[derive(Debug, Parser)]
#[command(name = "raft-bench", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Load a cluster in this process, or a running raft-kv, and tell how it bore it.
    Load(Box<LoadArgs>),
    /// Tell what changed between two files of `load --json`. Exit code 1 where something is worse than noise and limit allow, 2 where it
    /// cannot be told.
    Compare(CompareArgs),
    /// See what a cluster does under trouble.
    Trouble(TroubleArgs),
    /// Measure what the machine itself costs.
    Floor,
}

#[derive(Debug, Args)]
struct CompareArgs {
    /// The results before.
    first: PathBuf,
    /// The results after.
    second: PathBuf,
    /// So much worse is still right, in percent.
    #[arg(long, default_value_t = 5.0)]
    limit: f64,
}

#[derive(Debug, Args)]
struct TroubleArgs {
    /// Which trouble; all of them if none is named.
    #[arg(value_enum)]
    trouble: Vec<Trouble>,
    /// How often the leader is killed, and how many seconds each of the others is measured for.
    #[arg(long, default_value_t = 10)]
    repeats: usize,
    /// The transport, where the trouble does not need processes.
    #[arg(long, default_value = "quic")]
    transport: String,
    /// The log store, likewise.
    #[arg(long, default_value = "redb")]
    store: String,
    /// Clients in the closed loop.
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// Print the findings as JSON.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    // The nodes that are killed are processes of this program under another name.
    if std::env::args().next().is_some_and(|name| name == trouble::ARGV0) {
        return raft_kv::cli::main();
    }
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    let done = match cli.command {
        Command::Load(arguments) => runtime.block_on(load::run(*arguments)),
        Command::Compare(arguments) => compare_files(&arguments),
        Command::Trouble(arguments) => runtime.block_on(interruptible(make_trouble(arguments))),
        Command::Floor => Floor::measure(&std::env::temp_dir()).map(|floor| {
            println!("{floor}");
            ExitCode::SUCCESS
        }),
    };
    done.unwrap_or_else(|error| failed(&error))
}

fn failed(error: &Failure) -> ExitCode {
    eprintln!("raft-bench: {error}");
    ExitCode::from(2)
}

/// Gives up at Ctrl-C; what was begun is cleared away by being dropped.
async fn interruptible(work: impl Future<Output = Result<ExitCode, Failure>>) -> Result<ExitCode, Failure> {
    tokio::select! {
        done = work => done,
        _ = tokio::signal::ctrl_c() => {
            eprintln!("raft-bench: interrupted");
            Ok(ExitCode::from(INTERRUPTED))
        }
    }
}

fn compare_files(arguments: &CompareArgs) -> Result<ExitCode, Failure> {
    if arguments.limit.is_nan() || arguments.limit < 0.0 {
        return Err("--limit must be at least 0".into());
    }
    let (first, second) = (Reports::read(&arguments.first)?, Reports::read(&arguments.second)?);
    let comparison = compare(&first, &second, arguments.limit)?;
    println!("{}", comparison.table());
    Ok(if comparison.is_too_bad() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn make_trouble(arguments: TroubleArgs) -> Result<ExitCode, Failure> {
    if arguments.repeats == 0 || arguments.clients == 0 {
        return Err("--repeats and --clients must be at least 1".into());
    }
    let options = TroubleOptions {
        repeats: arguments.repeats,
        transport: arguments.transport,
        store: arguments.store,
        clients: arguments.clients,
    };
    let all = if arguments.trouble.is_empty() { Trouble::ALL.to_vec() } else { arguments.trouble };
    let mut findings = Vec::new();
    for kind in all {
        let found = trouble::make(kind, &Backends::ours(), &options, &|doing| eprintln!("  {doing}")).await?;
        if !arguments.json {
            println!("{found}\n");
        }
        findings.push(found);
    }
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    }
    Ok(ExitCode::SUCCESS)
}
