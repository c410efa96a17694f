//! `raft-kv demo`: three real nodes, real data, and the leader killed in the middle.

mod cluster;
mod input;
mod load;
mod progress;
mod report;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use crate::api::StatusBody;
use crate::cli::{Failure, Output};
use cluster::{Cluster, NODES};
use input::Input;
use load::{Check, Load};
use progress::Progress;
use report::Report;

/// How long an election, or catching up, may take before the demo counts as failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often the demo looks how far it is.
const LOOK: Duration = Duration::from_millis(10);

/// Starts three nodes on loopback, loads data, kills the leader on the way, restarts it, and checks that nothing is lost.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Load this file: comma- or tab-separated, with a header line; the first column is the key, the rest of the row the
    /// value. If not given, 28,298 airports are loaded.
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Leave the nodes running, and print how to talk to them and how to stop them.
    #[arg(long)]
    keep: bool,
    /// How many tasks write at once.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=1024))]
    writers: u64,
}

/// Runs the demo.
pub(crate) async fn run(args: DemoArgs, output: Output) -> Result<(), Failure> {
    let input = input::load(args.input.as_deref())?;
    let folder = tempfile::Builder::new()
        .prefix("raft-kv-demo-")
        .tempdir()
        .map_err(|e| Failure::refused(format!("cannot make a temporary folder: {e}; set TMPDIR to one")))?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut progress = Progress::new();
    tokio::select! {
        result = perform(&args, input, folder, &mut progress, output) => result,
        _ = interrupt.recv() => Err(Failure::refused("interrupted: the nodes are stopped, nothing is left")),
        _ = terminate.recv() => Err(Failure::refused("told to stop: the nodes are stopped, nothing is left")),
    }
}

async fn perform(
    args: &DemoArgs,
    input: Input,
    folder: TempDir,
    progress: &mut Progress,
    output: Output,
) -> Result<(), Failure> {
    progress.say(&format!("starting {NODES} nodes in {}", folder.path().display()));
    let mut cluster = Cluster::prepare(folder.path())?;
    let report = match demonstrate(args, input, &mut cluster, progress).await {
        Ok(report) => report,
        Err(failure) => {
            progress.end();
            let tails = cluster.log_tails();
            drop(cluster);
            write_aside(&tails);
            let kept = folder.keep();
            return Err(Failure::refused(format!(
                "{}; all files are kept in {}",
                failure.line(),
                kept.display()
            )));
        }
    };
    progress.end();
    if args.keep {
        keep(report, cluster, folder, output)
    } else {
        output.result(report.text().trim_end(), &report)
    }
}

async fn demonstrate(
    args: &DemoArgs,
    input: Input,
    cluster: &mut Cluster,
    progress: &mut Progress,
) -> Result<Report, Failure> {
    cluster.start().await?;
    cluster.found().await?;
    let (leader, term) = await_leader(cluster, 0).await?;
    progress.say(&format!("the cluster is founded: node {leader} leads in term {term}"));

    let writers = args.writers as usize;
    let rows = Arc::new(input.rows);
    let mut report = Report {
        input: input.name,
        keys: rows.len(),
        duplicates: input.duplicates,
        writers,
        ..Report::default()
    };
    let load = Arc::new(Load::new(Arc::clone(&rows), &cluster.addresses())?);
    let began = Instant::now();
    let mut writing = Task(tokio::spawn(Arc::clone(&load).write_all(writers)));
    progress.begin("writing", rows.len());

    follow(cluster, &mut writing, progress, || load.done(), rows.len() * 2 / 5).await?;
    // The one that leads now: it may have changed since.
    let (killed, old_term) = await_leader(cluster, term).await?;
    let kill = Instant::now();
    cluster.kill(killed)?;
    load.leader_died();
    progress.say(&format!("killed node {killed}, the leader, with SIGKILL after {} keys", load.done()));
    report.killed = killed;
    (report.new_leader, report.term) = await_leader(cluster, old_term + 1).await?;
    progress.say(&format!(
        "node {} was elected in term {}, {:.0} ms after the kill",
        report.new_leader,
        report.term,
        kill.elapsed().as_secs_f64() * 1000.0
    ));

    follow(cluster, &mut writing, progress, || load.done(), rows.len() * 7 / 10).await?;
    let resumed = await_resumed(cluster, &mut writing, &load).await?;
    report.failover_ms = resumed.duration_since(kill).as_secs_f64() * 1000.0;
    cluster.restart(killed).await?;
    progress.say(&format!("started node {killed} again after {} keys", load.done()));

    follow(cluster, &mut writing, progress, || load.done(), rows.len()).await?;
    writing.join().await?;
    report.seconds = began.elapsed().as_secs_f64();
    report.writes_per_second = rows.len() as f64 / report.seconds;
    progress.end();
    progress.say(&format!("{} keys are written", rows.len()));

    let check = Arc::new(Check::new(Arc::clone(&rows), &cluster.addresses())?);
    let mut checking = Task(tokio::spawn(Arc::clone(&check).read_all(writers)));
    progress.begin("checking", rows.len());
    follow(cluster, &mut checking, progress, || check.done(), rows.len()).await?;
    let wrong = checking.join().await?;
    progress.end();
    report.keys_checked = rows.len();
    report.keys_wrong = wrong.len();
    if let Some(first) = wrong.first() {
        return Err(Failure::refused(format!("{} of {} keys are wrong: {first}", wrong.len(), rows.len())));
    }
    progress.say(&format!("{} keys are read back and right", rows.len()));

    report.state_hash = await_equal(cluster, rows.len() as u64).await?;
    report.hashes_equal = true;
    cluster.check_running()?;
    progress.say("all nodes have the same state");
    Ok(report)
}

/// Waits until a node leads in `term` or a later one.
async fn await_leader(cluster: &mut Cluster, term: u64) -> Result<(u64, u64), Failure> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        cluster.check_running()?;
        if let Some((leader, leads_in)) = cluster.leader().await
            && leads_in >= term
        {
            return Ok((leader, leads_in));
        }
        if Instant::now() > deadline {
            return Err(Failure::refused(format!("no leader was elected within {PATIENCE:?}")));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until a task has come to `goal` or ended.
async fn follow<T>(
    cluster: &mut Cluster,
    task: &mut Task<T>,
    progress: &mut Progress,
    done: impl Fn() -> usize,
    goal: usize,
) -> Result<(), Failure> {
    while done() < goal && !task.0.is_finished() {
        cluster.check_running()?;
        progress.at(done());
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Waits until a write that began after the leader's death is confirmed.
async fn await_resumed(
    cluster: &mut Cluster,
    writing: &mut Task<()>,
    load: &Load,
) -> Result<Instant, Failure> {
    loop {
        cluster.check_running()?;
        if let Some(resumed) = load.resumed_at() {
            return Ok(resumed);
        }
        if writing.0.is_finished() {
            writing.join().await?;
            return Err(Failure::refused("no write was confirmed after the leader's death"));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until all nodes have the same state of `keys` keys; gives its hash.
async fn await_equal(cluster: &mut Cluster, keys: u64) -> Result<String, Failure> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        cluster.check_running()?;
        let statuses: Vec<StatusBody> = cluster.statuses().await.into_iter().flatten().collect();
        if let Some(first) = statuses.first()
            && statuses.len() == NODES
            && statuses.iter().all(|s| s.state_hash == first.state_hash && s.keys == keys)
        {
            return Ok(first.state_hash.clone());
        }
        if Instant::now() > deadline {
            let states: Vec<String> = statuses
                .iter()
                .map(|s| {
                    format!("node {}: {} keys, hash {}, applied {}", s.node, s.keys, s.state_hash, s.applied)
                })
                .collect();
            return Err(Failure::refused(format!("the nodes' states differ: {}", states.join("; "))));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Lets the nodes live on and tells how to use and how to stop them.
fn keep(mut report: Report, cluster: Cluster, folder: TempDir, output: Output) -> Result<(), Failure> {
    let (nodes, processes) = (cluster.addresses(), cluster.processes());
    cluster.detach()?;
    let folder = folder.keep().display().to_string();
    let program = std::env::args().next().unwrap_or_else(|| "raft-kv".to_owned());
    let list = nodes.join(",");
    let kill: Vec<String> = processes.iter().map(u32::to_string).collect();
    let text = format!(
        "{}\nthe nodes keep running, with all files in {folder}\n\
         \x20   talk to them:  export RAFT_KV_NODES={list}\n\
         \x20                  {program} status\n\
         \x20                  {program} scan --limit 5\n\
         \x20                  {program} put hello world\n\
         \x20                  {program} get hello\n\
         \x20                  curl http://{}/status\n\
         \x20   stop them:     kill {}\n\
         \x20   remove all:    rm -r {folder}",
        report.text(),
        nodes.first().map_or("", String::as_str),
        kill.join(" "),
    );
    (report.folder, report.nodes, report.processes) = (Some(folder), nodes, processes);
    output.result(&text, &report)
}

fn write_aside(text: &str) {
    use std::io::Write as _;
    // If nobody can read it, the failure still shows in the exit code.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// A task that ends with its owner.
struct Task<T>(JoinHandle<Result<T, Failure>>);

impl<T> Task<T> {
    async fn join(&mut self) -> Result<T, Failure> {
        match (&mut self.0).await {
            Ok(result) => result,
            Err(e) => Err(Failure::refused(format!("a task of the demo failed: {e}"))),
        }
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
