//! `raft-bench load`.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use raft_bench::backend::{Backends, Built, Failure};
use raft_bench::cluster::ClusterOptions;
use raft_bench::floor::{Case, Floor};
use raft_bench::load::{self, FloorReport, Pace, Report, Reports, Run, Settings, Target};

use super::INTERRUPTED;

/// More clients than this are a slip of the finger, and would take all memory.
const MAX_CLIENTS: usize = 1 << 20;

/// Longer runs are a slip of the finger.
const MAX_SECONDS: f64 = 86_400.0;

#[derive(Debug, Args)]
pub(super) struct LoadArgs {
    /// The transports of clusters in this process, each over each store: quic, tcp, channel.
    #[arg(long, default_value = "quic", value_delimiter = ',', conflicts_with = "kv")]
    transport: Vec<String>,
    /// The log stores: redb, wal (with the feature), memory (volatile).
    #[arg(long, default_value = "redb", value_delimiter = ',', conflicts_with = "kv")]
    store: Vec<String>,
    /// How many nodes.
    #[arg(long, default_value_t = 3, conflicts_with = "kv")]
    nodes: usize,
    /// Load a running raft-kv instead, by the HTTP addresses of some or all of its nodes: host:port,..
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
    /// How often; several subjects take turns, each with a cluster that is founded anew.
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

impl LoadArgs {
    fn settings(&self) -> Result<Settings, Failure> {
        let pace = match (self.rate, self.clients) {
            (Some(rate), _) => Pace::Open { rate },
            (None, clients) => Pace::Closed { clients: clients.unwrap_or(64) },
        };
        match pace {
            Pace::Closed { clients: 0 } => return Err("--clients must be at least 1".into()),
            Pace::Closed { clients } if clients > MAX_CLIENTS => {
                return Err(format!("--clients must be at most {MAX_CLIENTS}").into());
            }
            _ => pace.check()?,
        }
        let counts = [("--repeats", self.repeats), ("--max-open", self.max_open), ("--nodes", self.nodes)];
        if let Some((name, _)) = counts.iter().find(|(_, count)| *count == 0) {
            return Err(format!("{name} must be at least 1").into());
        }
        let seconds = |name: &str, value: f64| {
            let valid = (0.0..=MAX_SECONDS).contains(&value);
            valid.then(|| Duration::from_secs_f64(value)).ok_or(format!("{name} must be 0 to {MAX_SECONDS}"))
        };
        let settings = Settings {
            pace,
            payload_bytes: self.payload,
            warm_up: seconds("--warm-up", self.warm_up)?,
            measure: seconds("--seconds", self.seconds)?,
            max_open: self.max_open,
        };
        if settings.measure.is_zero() {
            return Err("--seconds must be above 0".into());
        }
        Ok(settings)
    }

    /// Finds out before a long run whether its results can be kept.
    fn check_files(&self) -> Result<(), Failure> {
        for path in [&self.json, &self.csv, &self.series, &self.html].into_iter().flatten() {
            let folder = match path.parent() {
                Some(folder) if !folder.as_os_str().is_empty() => folder,
                _ => Path::new("."),
            };
            if path.is_dir() {
                return Err(format!("{} is a folder, not a file", path.display()).into());
            }
            if !folder.is_dir() {
                return Err(format!("{}: there is no folder {}", path.display(), folder.display()).into());
            }
        }
        match &self.json {
            Some(path) if self.append && path.exists() => Reports::read(path).map(|_| ()),
            _ => Ok(()),
        }
    }

    /// What clusters in this process are built on.
    fn built(&self) -> Result<Vec<Built>, Failure> {
        let backends = Backends::ours();
        let mut all = Vec::new();
        if self.kv.is_empty() {
            for transport in &self.transport {
                for store in &self.store {
                    all.push(backends.choose(transport, store, None)?);
                }
            }
        }
        if self.label.is_some() && all.len() > 1 {
            return Err("--label names one subject; here there are several".into());
        }
        Ok(all)
    }
}

/// What is loaded, and what is known of it.
struct Subject {
    source: Source,
    report: Report,
}

/// Where the target of each run comes from.
enum Source {
    /// A cluster of this process, founded for the run.
    Cluster(Box<ClusterOptions>),
    /// One that runs elsewhere.
    Running(Arc<Target>),
}

pub(super) async fn run(arguments: LoadArgs) -> Result<ExitCode, Failure> {
    let settings = arguments.settings()?;
    arguments.check_files()?;
    let all = arguments.built()?;
    let mut interrupted = pin!(tokio::signal::ctrl_c());
    let mut subjects = tokio::select! {
        subjects = subjects(&arguments, all, &settings) => subjects?,
        _ = &mut interrupted => return Ok(ExitCode::from(INTERRUPTED)),
    };
    let floor = tokio::select! {
        floor = tokio::task::spawn_blocking(|| Floor::measure(&std::env::temp_dir())) => floor??,
        _ = &mut interrupted => return Ok(ExitCode::from(INTERRUPTED)),
    };
    eprintln!("{floor}");
    let mut was_interrupted = false;
    'rounds: for round in 1..=arguments.repeats {
        // In turn, so that what disturbs the machine for a while disturbs all.
        for subject in &mut subjects {
            match once(subject, &settings, round, arguments.repeats, interrupted.as_mut()).await? {
                Some(run) => subject.report.runs.push(run),
                None => {
                    was_interrupted = true;
                    break 'rounds;
                }
            }
        }
    }
    let mut reports = Reports::default();
    for Subject { source, mut report } in subjects {
        report.floor = Some(FloorReport::from(&floor));
        if let (Source::Cluster(options), Pace::Closed { clients }) = (source, settings.pace) {
            report.limit = Some(limit(&options, clients, &report, &floor));
        }
        if !report.runs.is_empty() {
            reports.reports.push(report);
        }
    }
    if !reports.reports.is_empty() {
        println!("{}", load::table(&reports));
        keep(&arguments, &reports)?;
    }
    if was_interrupted {
        eprintln!("raft-bench: interrupted; the run that was under way is not in the results");
        return Ok(ExitCode::from(INTERRUPTED));
    }
    let nothing = |report: &&Report| report.runs.iter().any(|run| run.operations == 0);
    if let Some(report) = reports.reports.iter().find(nothing) {
        return Err(format!("{}: a run in which no operation was carried out", report.title()).into());
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes the results into the files that were asked for.
fn keep(arguments: &LoadArgs, reports: &Reports) -> Result<(), Failure> {
    let write = |path: &Option<PathBuf>, text: Result<String, Failure>| match path {
        Some(path) => {
            std::fs::write(path, text?).map_err(|e| format!("{}: {e}", path.display())).map_err(Failure::from)
        }
        None => Ok(()),
    };
    if let Some(path) = &arguments.json {
        reports.write(path, arguments.append)?;
    }
    write(&arguments.csv, load::csv_of_runs(reports))?;
    write(&arguments.series, load::csv_of_series(reports))?;
    write(&arguments.html, load::html(reports))
}

async fn subjects(
    arguments: &LoadArgs,
    all: Vec<Built>,
    settings: &Settings,
) -> Result<Vec<Subject>, Failure> {
    let report = |subject, nodes| Report::new(arguments.label.clone().unwrap_or(subject), nodes, settings);
    if !arguments.kv.is_empty() {
        let (target, nodes) = Target::kv(&arguments.kv, &arguments.pids, arguments.keys).await?;
        let report = report("raft-kv".to_owned(), nodes);
        return Ok(vec![Subject { source: Source::Running(target), report }]);
    }
    let subject = |built: Built| {
        let report = report(built.name(), arguments.nodes);
        let options = ClusterOptions { nodes: arguments.nodes, ..ClusterOptions::new(built) };
        Subject { source: Source::Cluster(Box::new(options)), report }
    };
    Ok(all.into_iter().map(subject).collect())
}

/// What bounds a closed loop.
fn limit(options: &ClusterOptions, clients: usize, report: &Report, floor: &Floor) -> (f64, String) {
    let (built, nodes, payload_bytes) = (&options.built, options.nodes, report.payload_bytes);
    let limit = floor.limit(&Case { built, nodes, clients, payload_bytes });
    (limit.rate, limit.by.to_string())
}

/// One run of a subject, unless it is interrupted.
async fn once(
    subject: &Subject,
    settings: &Settings,
    round: usize,
    rounds: usize,
    interrupted: Pin<&mut impl Future>,
) -> Result<Option<Run>, Failure> {
    let title = format!("{} {round}/{rounds}", subject.report.title());
    let target = match &subject.source {
        Source::Running(target) => Arc::clone(target),
        Source::Cluster(options) => Target::start(options).await?,
    };
    let run = tokio::select! {
        run = watched(&target, settings, &title) => run.map(Some),
        _ = interrupted => Ok(None),
    };
    target.end().await;
    run
}

/// A run with a bar that shows how it goes, or a line where nobody watches.
async fn watched(target: &Arc<Target>, settings: &Settings, title: &str) -> Result<Run, Failure> {
    let bar = if std::io::stderr().is_terminal() {
        ProgressBar::new(100)
    } else {
        eprintln!("{title}");
        ProgressBar::hidden()
    };
    bar.set_style(ProgressStyle::with_template("{prefix} [{bar:30}] {msg}")?);
    bar.set_prefix(title.to_owned());
    bar.set_message("warm-up");
    let run = load::run(target, settings, |second, done| {
        bar.set_position((done * 100.0) as u64);
        let failed = match second.refused + second.unknown {
            0 => String::new(),
            count => format!(", {count} failed"),
        };
        bar.set_message(format!(
            "{:.0} ops/s, p99 {:.0} us{failed}",
            second.operations_per_second, second.p99_us
        ));
    })
    .await;
    bar.finish_and_clear();
    run
}
