//! The log beside a raw file in one run: what an append and an `fdatasync` cost, and what the log makes of it.
//!
//! `cargo bench -p raft-storage-redb --bench floor -- [--json] [--only NAME]... [--rounds N] [--seconds S] [--folder PATH]`

#![allow(clippy::unwrap_used, reason = "a benchmark stops where it fails")]

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_core::LogStore;
use raft_core::codec::entry;
use raft_core::log_store::Write;
use raft_core::types::{Entry, EntryId, GroupId, HardState, NodeId, Payload};
use raft_storage_redb::testing::{CountingBackend, Counts, Tally, open_wrapped};
use raft_storage_redb::{Options, RedbLogStore};
use redb::StorageBackend;
use redb::backends::FileBackend;
use tokio::sync::{Notify, oneshot};

const COMMAND_BYTES: usize = 64;
const PRODUCERS: u64 = 256;
/// As many entries as one commit takes of calls that wait: `Options::max_commit_bytes`.
const FULL_COMMIT: u64 = 32_768;

struct Settings {
    json: bool,
    /// Only these cases; all if there is none.
    only: Vec<String>,
    rounds: usize,
    seconds: f64,
    folder: PathBuf,
}

fn settings() -> Settings {
    let mut settings =
        Settings { json: false, only: Vec::new(), rounds: 5, seconds: 1.0, folder: std::env::temp_dir() };
    let mut args = std::env::args().skip(1);
    // Without `--bench` it is a test run: a glance at whether it works.
    let mut bench = false;
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_else(|| panic!("{arg} needs a value"));
        match arg.as_str() {
            "--json" => settings.json = true,
            "--only" => settings.only.push(value()),
            "--rounds" => settings.rounds = value().parse().unwrap(),
            "--seconds" => settings.seconds = value().parse().unwrap(),
            "--folder" => settings.folder = value().into(),
            "--bench" => bench = true,
            other => {
                panic!("{other}: the options are --json, --only NAME, --rounds N, --seconds S, --folder PATH")
            }
        }
    }
    if !bench {
        (settings.rounds, settings.seconds) = (1, 0.02);
    }
    settings
}

/// Something that makes entries durable.
trait Log: Send {
    fn append(&mut self, first: u64, count: u64);
    fn tally(&self) -> Option<Tally>;
}

fn batch(first: u64, count: u64) -> Vec<Entry> {
    let command = Bytes::from_static(&[7; COMMAND_BYTES]);
    (first..first + count)
        .map(|index| Entry { id: EntryId::new(1, index), payload: Payload::Command(command.clone()) })
        .collect()
}

/// The floor: the same bytes at the end of a file, and one `fdatasync`.
struct Raw {
    file: File,
    buffer: Vec<u8>,
}

impl Raw {
    fn open(folder: &Path) -> Self {
        Self { file: File::create(folder.join("raw.log")).unwrap(), buffer: Vec::new() }
    }
}

impl Log for Raw {
    fn append(&mut self, first: u64, count: u64) {
        self.buffer.clear();
        for entry in batch(first, count) {
            entry::encode(&entry, &mut self.buffer).unwrap();
        }
        self.file.write_all(&self.buffer).unwrap();
        self.file.sync_data().unwrap();
    }

    fn tally(&self) -> Option<Tally> {
        None
    }
}

struct Redb {
    store: RedbLogStore,
    counts: Counts,
    runtime: tokio::runtime::Runtime,
}

impl Redb {
    fn open(folder: &Path, options: &Options) -> Self {
        Self::open_on(folder, options, |counted| counted)
    }

    fn open_on<B: StorageBackend>(
        folder: &Path,
        options: &Options,
        wrap: impl FnOnce(CountingBackend<FileBackend>) -> B,
    ) -> Self {
        let counts = Counts::new();
        let store =
            open_wrapped(folder.join("log.redb"), options, |file| wrap(CountingBackend::new(file, &counts)));
        Self { store: store.unwrap(), counts, runtime: runtime() }
    }
}

/// A file whose holes are left: what the log would write into them ahead of need is not written. They read as the same zeros.
#[derive(Debug)]
struct Holes {
    inner: CountingBackend<FileBackend>,
    /// The end of what was written.
    end: AtomicU64,
}

impl Holes {
    fn new(inner: CountingBackend<FileBackend>) -> Self {
        let end = AtomicU64::new(inner.len().unwrap());
        Self { inner, end }
    }
}

impl StorageBackend for Holes {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.end.fetch_min(len, Ordering::Relaxed);
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if offset >= self.end.load(Ordering::Relaxed) && data.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        self.end.fetch_max(offset + data.len() as u64, Ordering::Relaxed);
        self.inner.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }
}

impl Log for Redb {
    fn append(&mut self, first: u64, count: u64) {
        self.runtime.block_on(self.store.write(&[append(first, count)])).unwrap();
    }

    fn tally(&self) -> Option<Tally> {
        Some(self.counts.tally())
    }
}

fn append(first: u64, count: u64) -> Write {
    // The commit index rides along, as it does in a node.
    let hard_state = HardState { term: 1, vote: Some(NodeId(1)), commit: first - 1 };
    let entries = batch(first, count);
    Write { group: GroupId(1), entries, hard_state: Some(hard_state), ..Write::default() }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

/// One measurement.
#[derive(Clone, Copy, Default)]
struct Sample {
    /// Commits or entries a second.
    rate: f64,
    commits: u64,
    entries: u64,
    written_bytes: u64,
    syncs: u64,
}

impl Sample {
    fn new(commits: u64, entries: u64, per_second_of: u64, took: Duration, tally: Option<Tally>) -> Self {
        let tally = tally.unwrap_or_default();
        Self {
            rate: per_second_of as f64 / took.as_secs_f64(),
            commits,
            entries,
            written_bytes: tally.written_bytes,
            syncs: tally.syncs,
        }
    }
}

fn since(log: &dyn Log, before: Option<Tally>) -> Option<Tally> {
    Some(log.tally()? - before?)
}

/// Commits of `count` entries, one after another.
fn commits(log: &mut dyn Log, count: u64, seconds: f64) -> Sample {
    let mut next = 1;
    // What a file costs at its beginning is not the subject.
    for _ in 0..20 {
        log.append(next, count);
        next += count;
    }
    let (before, start, first) = (log.tally(), Instant::now(), next);
    while start.elapsed().as_secs_f64() < seconds {
        log.append(next, count);
        next += count;
    }
    let took = start.elapsed();
    let commits = (next - first) / count;
    Sample::new(commits, next - first, commits, took, since(log, before))
}

type Waiting = Arc<Mutex<Vec<oneshot::Sender<()>>>>;

/// Producers that each wait for their entry before they hand in the next; what waits together is one commit.
struct Producers {
    runtime: tokio::runtime::Runtime,
    waiting: Waiting,
    handed_in: Arc<Notify>,
}

impl Producers {
    fn start() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (waiting, handed_in) = (Waiting::default(), Arc::new(Notify::new()));
        for _ in 0..PRODUCERS {
            let (waiting, handed_in) = (Arc::clone(&waiting), Arc::clone(&handed_in));
            runtime.spawn(async move {
                loop {
                    let (reply, done) = oneshot::channel();
                    waiting.lock().unwrap().push(reply);
                    handed_in.notify_one();
                    if done.await.is_err() {
                        break;
                    }
                }
            });
        }
        Self { runtime, waiting, handed_in }
    }
}

/// What waits; never nothing.
async fn taken(waiting: &Waiting, handed_in: &Notify) -> Vec<oneshot::Sender<()>> {
    loop {
        let taken = std::mem::take(&mut *waiting.lock().unwrap());
        if !taken.is_empty() {
            return taken;
        }
        handed_in.notified().await;
    }
}

fn reply_to(replies: Vec<oneshot::Sender<()>>) {
    for reply in replies {
        let _ = reply.send(());
    }
}

/// A thread writes for the producers, and syncs.
fn producers_of_raw(folder: &Path, seconds: f64) -> Sample {
    let mut log = Raw::open(folder);
    let Producers { runtime, waiting, handed_in } = Producers::start();
    let (start, mut next, mut commits) = (Instant::now(), 1, 0);
    while start.elapsed().as_secs_f64() < seconds {
        let replies = runtime.block_on(taken(&waiting, &handed_in));
        let count = replies.len() as u64;
        log.append(next, count);
        (next, commits) = (next + count, commits + 1);
        reply_to(replies);
    }
    let took = start.elapsed();
    runtime.shutdown_background();
    Sample::new(commits, next - 1, next - 1, took, None)
}

/// A task writes for the producers, as a node's does: the store has a thread of its own.
fn producers_of_redb(folder: &Path, seconds: f64) -> Sample {
    let Redb { store, counts, .. } = Redb::open(folder, &Options::default());
    let Producers { runtime, waiting, handed_in } = Producers::start();
    let (before, start) = (counts.tally(), Instant::now());
    let writer = runtime.spawn(async move {
        let (mut next, mut commits) = (1, 0);
        while start.elapsed().as_secs_f64() < seconds {
            let replies = taken(&waiting, &handed_in).await;
            let count = replies.len() as u64;
            store.write(&[append(next, count)]).await.unwrap();
            (next, commits) = (next + count, commits + 1);
            reply_to(replies);
        }
        (store, next - 1, commits)
    });
    let (_store, entries, commits) = runtime.block_on(writer).unwrap();
    let took = start.elapsed();
    runtime.shutdown_background();
    Sample::new(commits, entries, entries, took, Some(counts.tally() - before))
}

/// As many groups as producers, each with a call of its own: the store's own group commit.
fn groups(mut log: Redb, seconds: f64) -> Sample {
    let store = Arc::new(log.store);
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let (before, start) = (log.counts.tally(), Instant::now());
    let entries = log.runtime.block_on(async {
        let tasks: Vec<_> = (1..=PRODUCERS)
            .map(|group| {
                let store = Arc::clone(&store);
                async move {
                    let mut next = 1;
                    while Instant::now() < end {
                        let write =
                            Write { group: GroupId(group), entries: batch(next, 1), ..Write::default() };
                        store.write(&[write]).await.unwrap();
                        next += 1;
                    }
                    next - 1
                }
            })
            .collect();
        let mut all = tokio::task::JoinSet::new();
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                for task in tasks {
                    all.spawn_local(task);
                }
                all.join_all().await.into_iter().sum::<u64>()
            })
            .await
    });
    let took = start.elapsed();
    let tally = log.counts.tally() - before;
    log.counts = Counts::new();
    Sample::new(tally.syncs, entries, entries, took, Some(tally))
}

/// One row of the table.
struct Case {
    name: String,
    unit: &'static str,
    /// The case that it is held against, and the least share of it that is wanted.
    floor: Option<(String, Option<f64>)>,
    run: Run,
}

type Run = Box<dyn Fn(&Path, f64) -> Sample>;

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name, unit, floor, run: Run| {
        cases.push(Case { name, unit, floor, run });
    };
    let options = Options::default;
    for (count, wanted) in [(1, Some(0.45)), (16, None), (256, Some(0.5)), (4096, None), (FULL_COMMIT, None)]
    {
        let redb_with = move |options: Options| -> Run {
            Box::new(move |folder, seconds| commits(&mut Redb::open(folder, &options), count, seconds))
        };
        let named = |kind: &str, setting: &str| format!("{kind}, {count}{setting}");
        let (raw, redb) = (named("raw file", ""), named("redb", ""));
        add(raw.clone(), "commits/s", None, Box::new(move |f, s| commits(&mut Raw::open(f), count, s)));
        add(redb.clone(), "commits/s", Some((raw, wanted)), redb_with(options()));
        for (setting, options) in [
            (", two-phase", options().two_phase_commit(true)),
            (", quick repair", options().quick_repair(true)),
        ] {
            add(named("redb", setting), "commits/s", Some((redb.clone(), None)), redb_with(options));
        }
        let holes = move |folder: &Path, seconds| {
            commits(&mut Redb::open_on(folder, &Options::default(), Holes::new), count, seconds)
        };
        add(named("redb", ", holes left"), "commits/s", Some((redb, None)), Box::new(holes));
    }
    let raw = format!("raw file, {PRODUCERS} producers");
    add(raw.clone(), "entries/s", None, Box::new(producers_of_raw));
    add(
        format!("redb, {PRODUCERS} producers"),
        "entries/s",
        Some((raw.clone(), Some(0.75))),
        Box::new(producers_of_redb),
    );
    add(
        format!("redb, {PRODUCERS} groups"),
        "entries/s",
        Some((raw, None)),
        Box::new(|f, s| groups(Redb::open(f, &Options::default()), s)),
    );
    cases
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let settings = settings();
    let mut cases = cases();
    cases.retain(|case| settings.only.is_empty() || settings.only.contains(&case.name));
    let mut samples = vec![Vec::new(); cases.len()];
    for _ in 0..settings.rounds {
        // Interleaved: what disturbs the machine for a while disturbs all cases.
        for (case, samples) in cases.iter().zip(&mut samples) {
            let folder = tempfile::TempDir::new_in(&settings.folder).unwrap();
            samples.push((case.run)(folder.path(), settings.seconds));
        }
    }
    let rate = |name: &str| {
        let at = cases.iter().position(|case| case.name == name)?;
        Some(median(samples[at].iter().map(|sample| sample.rate).collect()))
    };
    if !settings.json {
        println!(
            "{} rounds of {} s, medians; a command has {COMMAND_BYTES} bytes",
            settings.rounds, settings.seconds
        );
        println!(
            "{:<28} {:>10} {:>9} {:>14} {:>8} {:>7} {:>12} {:>12} {:>12}",
            "",
            "median",
            "",
            "lowest-highest",
            "share",
            "wanted",
            "syncs/commit",
            "bytes/commit",
            "x payload"
        );
    }
    let mut lines = Vec::new();
    for (case, samples) in cases.iter().zip(&samples) {
        let rates: Vec<f64> = samples.iter().map(|sample| sample.rate).collect();
        let lowest = rates.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = rates.iter().copied().fold(0.0, f64::max);
        let middle = median(rates);
        let share = case.floor.as_ref().and_then(|(floor, _)| Some(middle / rate(floor)?));
        let wanted = case.floor.as_ref().and_then(|(_, wanted)| *wanted);
        let sum = |of: fn(&Sample) -> u64| samples.iter().map(of).sum::<u64>() as f64;
        let all_commits = sum(|s| s.commits).max(1.0);
        let (syncs, bytes) = (sum(|s| s.syncs) / all_commits, sum(|s| s.written_bytes) / all_commits);
        let amplification = sum(|s| s.written_bytes) / (sum(|s| s.entries).max(1.0) * COMMAND_BYTES as f64);
        let entries = sum(|s| s.entries) / all_commits;
        if settings.json {
            let number = |value: Option<f64>| value.map_or("null".to_owned(), |value| format!("{value:.3}"));
            let measured = (bytes > 0.0).then_some(());
            lines.push(format!(
                "{{\"case\":\"{}\",\"unit\":\"{}\",\"median\":{middle:.0},\"lowest\":{lowest:.0},\"highest\":{highest:.0},\
                 \"share\":{},\"wanted\":{},\"entries_per_commit\":{entries:.1},\"syncs_per_commit\":{},\
                 \"bytes_per_commit\":{},\"bytes_per_payload_byte\":{}}}",
                case.name,
                case.unit,
                number(share),
                number(wanted),
                number(measured.map(|()| syncs)),
                number(measured.map(|()| bytes)),
                number(measured.map(|()| amplification)),
            ));
            continue;
        }
        let percent =
            |share: Option<f64>| share.map_or(String::new(), |share| format!("{:.0} %", share * 100.0));
        let counted = |value: f64, digits: usize| {
            if bytes > 0.0 { format!("{value:.digits$}") } else { String::new() }
        };
        println!(
            "{:<28} {middle:>10.0} {:>9} {:>14} {:>8} {:>7} {:>12} {:>12} {:>12}",
            case.name,
            case.unit,
            format!("{lowest:.0}-{highest:.0}"),
            percent(share),
            percent(wanted),
            counted(syncs, 2),
            counted(bytes, 0),
            counted(amplification, 2),
        );
    }
    if settings.json {
        println!("[{}]", lines.join(",\n"));
    }
}
