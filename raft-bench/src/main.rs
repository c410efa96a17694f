//! The `raft-bench` command: load, compare, trouble. The criterion benchmarks are `cargo bench -p raft-bench`.
#![forbid(unsafe_code)]

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use raft_bench::backend::{Backends, Built, Failure};
use raft_bench::cluster::ClusterOptions;
use raft_bench::compare::compare;
use raft_bench::floor::{Case, Floor};
use raft_bench::load::{self, FloorReport, Pace, Report, Reports, Settings, Target};
use raft_bench::trouble::{self, Trouble, TroubleOptions};

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
    /// Tell what changed between two files of `load --json`. Exit code 1 where something is worse than noise and limit allow.
    Compare(CompareArgs),
    /// See what a cluster does under trouble.
    Trouble(TroubleArgs),
    /// Measure what the machine itself costs.
    Floor,
}

#[derive(Debug, Args)]
struct LoadArgs {
    /// The transports of clusters in this process, each over each store: quic, tcp, channel.
    #[arg(long, default_value = "quic", value_delimiter = ',')]
    transport: Vec<String>,
    /// The log stores: redb, wal (with the feature), memory (volatile).
    #[arg(long, default_value = "redb", value_delimiter = ',')]
    store: Vec<String>,
    /// How many nodes.
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// Load a running raft-kv instead, at these HTTP addresses: host:port,..
    #[arg(long, value_delimiter = ',')]
    kv: Vec<String>,
    /// With --kv: processes of the nodes on this machine, whose processor time, memory and writes are to be counted.
    #[arg(long, value_delimiter = ',', requires = "kv")]
    pids: Vec<u32>,
    /// With --kv: how many keys are written, in turn.
    #[arg(long, default_value_t = 10_000)]
    keys: u64,
    /// Open loop: so many operations a second, each due at its time whatever became of those before it.
    #[arg(long, conflicts_with = "clients")]
    rate: Option<f64>,
    /// Closed loop: so many clients, each waiting for its answer. 64 if neither this nor --rate is given.
    #[arg(long)]
    clients: Option<usize>,
    /// Bytes of a command, or of a value.
    #[arg(long, default_value_t = 64)]
    payload: usize,
    /// Seconds before it counts.
    #[arg(long, default_value_t = 2.0)]
    warm_up: f64,
    /// Seconds that count, a run.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// How often; several subjects take turns.
    #[arg(long, default_value_t = 1)]
    repeats: usize,
    /// In the open loop, the most operations under way.
    #[arg(long, default_value_t = 1 << 17)]
    max_open: usize,
    /// The subject's name in the results, where there is only one: such as a version.
    #[arg(long)]
    label: Option<String>,
    /// Write the results as JSON, for `compare`.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Add the runs to those that the JSON file has of the same subjects.
    #[arg(long, requires = "json")]
    append: bool,
    /// Write one line a run.
    #[arg(long)]
    csv: Option<PathBuf>,
    /// Write one line a second of each run.
    #[arg(long)]
    series: Option<PathBuf>,
    /// Write a page with plots, in one file.
    #[arg(long)]
    html: Option<PathBuf>,
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
        Command::Load(arguments) => runtime.block_on(load(*arguments)),
        Command::Compare(arguments) => compare_files(&arguments),
        Command::Trouble(arguments) => runtime.block_on(make_trouble(arguments)),
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

/// What is loaded, and what is known of it.
struct Subject {
    target: std::sync::Arc<Target>,
    report: Report,
}

async fn load(arguments: LoadArgs) -> Result<ExitCode, Failure> {
    let pace = match (arguments.rate, arguments.clients) {
        (Some(rate), _) if rate > 0.0 => Pace::Open { rate },
        (Some(_), _) => return Err("--rate must be above 0".into()),
        (None, Some(0)) => return Err("--clients must be at least 1".into()),
        (None, clients) => Pace::Closed { clients: clients.unwrap_or(64) },
    };
    let seconds = |value: f64, name: &str| -> Result<Duration, Failure> {
        Duration::try_from_secs_f64(value).map_err(|error| format!("{name}: {error}").into())
    };
    let settings = Settings {
        pace,
        payload_bytes: arguments.payload,
        warm_up: seconds(arguments.warm_up, "--warm-up")?,
        measure: seconds(arguments.seconds, "--seconds")?,
        max_open: arguments.max_open,
    };
    if settings.measure.is_zero() {
        return Err("--seconds must be above 0".into());
    }
    let all = built(&arguments)?;
    let floor = tokio::task::spawn_blocking(|| Floor::measure(&std::env::temp_dir())).await??;
    eprintln!("{floor}");
    let mut subjects = subjects(&arguments, all, &settings, &floor).await?;
    if let ([subject], Some(label)) = (subjects.as_mut_slice(), &arguments.label) {
        subject.report.subject.clone_from(label);
    }
    for round in 1..=arguments.repeats {
        // In turn, so that what disturbs the machine for a while disturbs all.
        for subject in &mut subjects {
            let run = watched(subject, &settings, round, arguments.repeats).await?;
            subject.report.runs.push(run);
        }
    }
    let mut reports = Reports::default();
    for Subject { target, mut report } in subjects {
        target.end().await;
        if let Some(limit) = report.limit.as_mut() {
            processor_limit(limit, &report.runs, &floor);
        }
        reports.reports.push(report);
    }
    println!("{}", load::table(&reports));
    let write = |path: &Option<PathBuf>, text: Result<String, Failure>| match path {
        Some(path) => {
            std::fs::write(path, text?).map_err(|e| format!("{}: {e}", path.display())).map_err(Failure::from)
        }
        None => Ok(()),
    };
    if let Some(path) = &arguments.json {
        reports.write(path, arguments.append)?;
    }
    write(&arguments.csv, load::csv_of_runs(&reports))?;
    write(&arguments.series, load::csv_of_series(&reports))?;
    write(&arguments.html, load::html(&reports))?;
    Ok(ExitCode::SUCCESS)
}

/// What clusters in this process are built on.
fn built(arguments: &LoadArgs) -> Result<Vec<Built>, Failure> {
    let backends = Backends::ours();
    let mut all = Vec::new();
    if arguments.kv.is_empty() {
        for transport in &arguments.transport {
            for store in &arguments.store {
                all.push(backends.choose(transport, store, None)?);
            }
        }
    }
    Ok(all)
}

async fn subjects(
    arguments: &LoadArgs,
    all: Vec<Built>,
    settings: &Settings,
    floor: &Floor,
) -> Result<Vec<Subject>, Failure> {
    let report = |subject: String, nodes| Report {
        subject,
        nodes,
        pace: settings.pace.name(),
        payload_bytes: settings.payload_bytes,
        warm_up_seconds: settings.warm_up.as_secs_f64(),
        seconds: settings.measure.as_secs_f64(),
        floor: Some(FloorReport::from(floor)),
        limit: None,
        runs: Vec::new(),
    };
    if !arguments.kv.is_empty() {
        let target = Target::kv(&arguments.kv, arguments.pids.clone(), arguments.keys)?;
        return Ok(vec![Subject { target, report: report("raft-kv".to_owned(), arguments.kv.len()) }]);
    }
    let mut subjects = Vec::new();
    for built in all {
        let mut report = report(built.name(), arguments.nodes);
        if let Pace::Closed { clients } = settings.pace {
            let (nodes, payload_bytes) = (arguments.nodes, settings.payload_bytes);
            let case = Case { built: &built, nodes, clients, payload_bytes, cpu_per_operation: None };
            let limit = floor.limit(&case);
            report.limit = Some((limit.rate, limit.by.to_string()));
        }
        let options = ClusterOptions { nodes: arguments.nodes, ..ClusterOptions::new(built) };
        subjects.push(Subject { target: Target::start(&options).await?, report });
    }
    Ok(subjects)
}

/// The processors bound it too, once it is known what an operation takes of them.
fn processor_limit(limit: &mut (f64, String), runs: &[load::Run], floor: &Floor) {
    let least = runs.iter().map(|run| run.cpu_us_per_operation).fold(f64::INFINITY, f64::min);
    let rate = floor.processors as f64 * 1e6 / least;
    if rate < limit.0 {
        *limit = (rate, raft_bench::floor::Bound::Processor.to_string());
    }
}

/// One run, with a bar that shows how it goes.
async fn watched(
    subject: &Subject,
    settings: &Settings,
    round: usize,
    rounds: usize,
) -> Result<load::Run, Failure> {
    let bar = if std::io::stderr().is_terminal() { ProgressBar::new(100) } else { ProgressBar::hidden() };
    bar.set_style(ProgressStyle::with_template("{prefix} [{bar:30}] {msg}")?);
    bar.set_prefix(format!("{} {round}/{rounds}", subject.report.title()));
    bar.set_message("warm-up");
    let run = load::run(&subject.target, settings, |second, done| {
        bar.set_position((done * 100.0) as u64);
        bar.set_message(format!("{:.0} ops/s, p99 {:.0} us", second.operations_per_second, second.p99_us));
    })
    .await;
    bar.finish_and_clear();
    run
}

fn compare_files(arguments: &CompareArgs) -> Result<ExitCode, Failure> {
    let (first, second) = (Reports::read(&arguments.first)?, Reports::read(&arguments.second)?);
    let comparison = compare(&first, &second, arguments.limit)?;
    println!("{}", comparison.table());
    Ok(if comparison.is_too_bad() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn make_trouble(arguments: TroubleArgs) -> Result<ExitCode, Failure> {
    let options = TroubleOptions {
        repeats: arguments.repeats.max(1),
        transport: arguments.transport,
        store: arguments.store,
        clients: arguments.clients.max(1),
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
