//! This transport beside quinn itself, and beside TCP with TLS, in one interleaved run: what its lanes, frames and doors cost.
//!
//! `cargo bench -p raft-transport-quic --bench ratio [-- --quick] [--json] [--only WORD]`

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on fails")]

mod bare;
mod ours;
mod relay;
mod tcp;

use std::time::Duration;

use tokio::runtime::Runtime;

/// What is measured, how much of it.
struct Size {
    rounds: usize,
    pings: usize,
    messages: usize,
    bulk_bytes: usize,
    snapshot_bytes: usize,
    slow_snapshot_bytes: usize,
}

const FULL: Size = Size {
    rounds: 7,
    pings: 4000,
    messages: 2_000_000,
    bulk_bytes: 512 << 20,
    snapshot_bytes: 1 << 30,
    slow_snapshot_bytes: 1 << 30,
};
const QUICK: Size = Size {
    rounds: 3,
    pings: 1000,
    messages: 500_000,
    bulk_bytes: 64 << 20,
    snapshot_bytes: 128 << 20,
    slow_snapshot_bytes: 64 << 20,
};

/// The slow link: its speed, and half of it, which the snapshot beside heartbeats is limited to.
const LINK_BYTES_PER_SECOND: f64 = 400e6 / 8.0;
const LINK_QUEUE: Duration = Duration::from_millis(20);

/// What is between the two nodes.
#[derive(Clone, Copy)]
enum Link {
    Loopback,
    /// Loopback, with the datagrams that a network takes.
    Ethernet,
    /// A relay of so many bytes a second, with so long a queue.
    Slow(f64, Duration),
}

/// One figure: the median over all rounds, the best round, and what is asked of it.
struct Figure {
    name: String,
    unit: &'static str,
    median: f64,
    best: f64,
    goal: Option<(f64, Goal)>,
}

#[derive(Clone, Copy)]
enum Goal {
    AtMost,
    AtLeast,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let only = arguments.iter().skip_while(|argument| *argument != "--only").nth(1);
    let size = if has("--quick") { QUICK } else { FULL };
    let wanted = |name: &str| only.is_none_or(|only| name.contains(only.as_str()));
    let mut report = Report::default();
    if wanted("trip") {
        round_trips(&size, &mut report);
    }
    if wanted("packed") {
        packed(&size, &mut report);
    }
    if only.is_none_or(|only| only.starts_with("bulk")) {
        bulk(&size, only.map_or("bulk", String::as_str), &mut report);
    }
    if wanted("heartbeat") {
        heartbeats(&size, &mut report);
    }
    if wanted("slow") {
        slow_link(&size, &mut report);
    }
    if wanted("kill") {
        kills(&size, &mut report);
    }
    if has("--json") { report.print_json() } else { report.print() }
}

fn round_trips(size: &Size, report: &mut Report) {
    let (bare, tcp) = (bare::Pair::new(apart()), tcp::Pair::new(apart()));
    let ours = ours::Pair::new(apart(), Link::Loopback);
    let (mut bare_trips, mut tcp_trips, mut our_trips) = (Vec::new(), Vec::new(), Vec::new());
    bare.round_trips(size.pings / 4);
    tcp.round_trips(size.pings / 4);
    ours.round_trips(size.pings / 4);
    for _ in 0..size.rounds {
        bare_trips.push(Trips::of(bare.round_trips(size.pings)));
        tcp_trips.push(Trips::of(tcp.round_trips(size.pings)));
        our_trips.push(Trips::of(ours.round_trips(size.pings)));
    }
    let p50 = |trips: &[Trips]| trips.iter().map(|trips| trips.p50).collect::<Vec<_>>();
    let p99 = |trips: &[Trips]| trips.iter().map(|trips| trips.p99).collect::<Vec<_>>();
    report.add("round trip of 64 B, bare quinn, p50", "", "us", p50(&bare_trips), None);
    report.add("round trip of 64 B, bare quinn, p99", "", "us", p99(&bare_trips), None);
    report.add("round trip of 64 B, TCP with TLS, p50", "", "us", p50(&tcp_trips), None);
    report.add("round trip of 64 B, TCP with TLS, p99", "", "us", p99(&tcp_trips), None);
    report.add("round trip of 64 B, p50", "", "us", p50(&our_trips), None);
    report.add("round trip of 64 B, p99", "", "us", p99(&our_trips), None);
    let to =
        |others: &[Trips]| our_trips.iter().zip(others).map(|(ours, other)| ours.p50 / other.p50).collect();
    report.add("round trip, ours to bare, p50", "", "x", to(&bare_trips), Some((1.4, Goal::AtMost)));
    report.add("round trip, ours to TCP with TLS, p50", "", "x", to(&tcp_trips), None);
}

fn packed(size: &Size, report: &mut Report) {
    let ours = ours::Pair::new(apart(), Link::Loopback);
    let mut messages = Vec::new();
    let mut commands = Vec::new();
    let (mut message_work, mut command_work) = (Vec::new(), Vec::new());
    let (count, per_second) =
        (size.messages as f64, |took: Duration| size.messages as f64 / took.as_secs_f64() / 1e6);
    for _ in 0..size.rounds {
        let (took, work) = working(|| ours.messages(size.messages));
        messages.push(per_second(took));
        message_work.push(work / count * 1e6);
        let (took, work) = working(|| ours.commands(size.messages));
        commands.push(per_second(took));
        command_work.push(work / count * 1e6);
    }
    report.add("packed messages of 64 B", "", "M/s", messages, Some((5.0, Goal::AtLeast)));
    report.add("packed messages of 64 B, processor time each", "", "us", message_work, None);
    report.add("commands of 64 B in packed appends", "", "M/s", commands, None);
    report.add("commands of 64 B in packed appends, processor time each", "", "us", command_work, None);
}

fn bulk(size: &Size, only: &str, report: &mut Report) {
    let (bare, tcp) = (bare::Pair::new(apart()), tcp::Pair::new(apart()));
    let (ethernet, ours) =
        (ours::Pair::new(apart(), Link::Ethernet), ours::Pair::new(apart(), Link::Loopback));
    let bytes = size.bulk_bytes;
    let all: [Run<'_>; 6] = [
        ("bulk, bare quinn", &|| bare.bulk(bytes), None),
        ("bulk, TCP with TLS", &|| tcp.bulk(bytes), None),
        ("bulk, a snapshot", &|| ours.snapshot(bytes), Some(Goal::AtLeast)),
        ("bulk, entries of 16 KiB", &|| ours.entries(bytes), Some(Goal::AtLeast)),
        ("bulk, a snapshot, in datagrams of Ethernet", &|| ethernet.snapshot(bytes), Some(Goal::AtLeast)),
        (
            "bulk, entries of 16 KiB, in datagrams of Ethernet",
            &|| ethernet.entries(bytes),
            Some(Goal::AtLeast),
        ),
    ];
    // Bare quinn always, which the others are compared with.
    let (first, others) = all.split_at(1);
    let runs: Vec<_> = first.iter().chain(others.iter().filter(|(name, ..)| name.contains(only))).collect();
    let mut rates = vec![Vec::new(); runs.len()];
    let mut work = vec![Vec::new(); runs.len()];
    let megabytes = bytes as f64 / 1e6;
    for _ in 0..size.rounds {
        for (kind, (_, run, _)) in runs.iter().enumerate() {
            let (took, processor) = working(run);
            rates[kind].push(megabytes / took.as_secs_f64());
            work[kind].push(processor * 1e3 / megabytes);
        }
    }
    for (kind, (name, _, goal)) in runs.iter().enumerate() {
        report.add(name, "", "MB/s", rates[kind].clone(), None);
        report.add(name, "processor time", "ms/MB", work[kind].clone(), None);
        if kind > 0 {
            let to_bare = rates[kind].iter().zip(&rates[0]).map(|(ours, bare)| ours / bare).collect();
            report.add(name, "to bare", "x", to_bare, goal.map(|goal| (0.9, goal)));
        }
    }
}

fn heartbeats(size: &Size, report: &mut Report) {
    let ours = ours::Pair::new(together(), Link::Loopback);
    let alone = Trips::of(ours.heartbeats(Duration::from_secs(1)));
    let beside = Trips::of(ours.heartbeats_beside(size.snapshot_bytes, None));
    report.add("heartbeat alone, p50", "", "ms", vec![alone.p50 / 1e3], None);
    report.add("heartbeat alone, p99", "", "ms", vec![alone.p99 / 1e3], None);
    report.add("heartbeat beside a snapshot, p50", "", "ms", vec![beside.p50 / 1e3], None);
    report.add(
        "heartbeat beside a snapshot, p99",
        "",
        "ms",
        vec![beside.p99 / 1e3],
        Some((4.0, Goal::AtMost)),
    );
}

fn slow_link(size: &Size, report: &mut Report) {
    let ours = ours::Pair::new(together(), Link::Slow(LINK_BYTES_PER_SECOND, LINK_QUEUE));
    let limit = LINK_BYTES_PER_SECOND / 2.0;
    let beside = Trips::of(ours.heartbeats_beside(size.slow_snapshot_bytes, Some(limit)));
    report.add(
        "heartbeat beside a limited snapshot on a slow link, p50",
        "",
        "ms",
        vec![beside.p50 / 1e3],
        None,
    );
    let p99 = vec![beside.p99 / 1e3];
    report.add(
        "heartbeat beside a limited snapshot on a slow link, p99",
        "",
        "ms",
        p99,
        Some((8.0, Goal::AtMost)),
    );
}

fn kills(size: &Size, report: &mut Report) {
    let run =
        |restarted| (0..size.rounds).map(|_| ours::after_a_kill(restarted).as_secs_f64() * 1e3).collect();
    report.add("peer killed and restarted, until it hears again", "", "ms", run(true), None);
    report.add("peer killed, until it is given up", "", "ms", run(false), None);
}

/// What it took, and the processor's time of all our threads in seconds, where the system tells: a figure that other work on
/// the machine changes less.
fn working(run: impl FnOnce() -> Duration) -> (Duration, f64) {
    let before = processor_seconds();
    let took = run();
    (took, processor_seconds() - before)
}

fn processor_seconds() -> f64 {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else { return f64::NAN };
    let used = |thread: std::io::Result<std::fs::DirEntry>| -> Option<f64> {
        let line = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        line.split(' ').next()?.parse().ok()
    };
    threads.filter_map(used).sum::<f64>() / 1e9
}

/// A name, what to time, and whether something is asked of it.
type Run<'a> = (&'static str, &'a dyn Fn() -> Duration, Option<Goal>);

/// The middle and the slow end of many round trips, in microseconds.
struct Trips {
    p50: f64,
    p99: f64,
}

impl Trips {
    fn of(mut trips: Vec<Duration>) -> Self {
        trips.sort_unstable();
        let at = |share: f64| {
            let rank = (trips.len() as f64 * share) as usize;
            trips[rank.min(trips.len() - 1)].as_secs_f64() * 1e6
        };
        Self { p50: at(0.5), p99: at(0.99) }
    }
}

#[derive(Default)]
struct Report(Vec<Figure>);

impl Report {
    fn add(
        &mut self,
        name: &str,
        detail: &str,
        unit: &'static str,
        mut rounds: Vec<f64>,
        goal: Option<(f64, Goal)>,
    ) {
        let name = if detail.is_empty() { name.to_owned() } else { format!("{name}, {detail}") };
        rounds.sort_unstable_by(f64::total_cmp);
        let median = rounds[rounds.len() / 2];
        let less_is_better = matches!(unit, "us" | "ms" | "ms/MB") || matches!(goal, Some((_, Goal::AtMost)));
        let best = if less_is_better { rounds[0] } else { rounds[rounds.len() - 1] };
        self.0.push(Figure { name, unit, median, best, goal });
    }

    fn print(&self) {
        println!("{:58} {:>10} {:>10}  {:5} goal", "", "median", "best", "unit");
        for Figure { name, unit, median, best, goal } in &self.0 {
            let goal = match goal {
                Some((goal, Goal::AtMost)) => format!("at most {goal}"),
                Some((goal, Goal::AtLeast)) => format!("at least {goal}"),
                None => String::new(),
            };
            println!("{name:58} {median:10.2} {best:10.2}  {unit:5} {goal}");
        }
    }

    fn print_json(&self) {
        let figures: Vec<String> = self.0.iter().map(Figure::json).collect();
        println!("[{}]", figures.join(","));
    }
}

impl Figure {
    fn json(&self) -> String {
        let Self { name, unit, median, best, goal } = self;
        let goal = match goal {
            Some((goal, Goal::AtMost)) => format!(",\"at_most\":{goal}"),
            Some((goal, Goal::AtLeast)) => format!(",\"at_least\":{goal}"),
            None => String::new(),
        };
        format!("{{\"name\":\"{name}\",\"unit\":\"{unit}\",\"median\":{median},\"best\":{best}{goal}}}")
    }
}

/// A runtime for one end of a pair, with as many threads as tokio takes by default: as two processes would.
fn runtime() -> Runtime {
    builder().build().unwrap()
}

/// One for each end, wherever the system puts them.
fn together() -> [Runtime; 2] {
    [runtime(), runtime()]
}

/// One for each end, on a processor of its own where there are two: as two machines would. Otherwise the system puts both on one
/// processor at times, where a round trip takes a fifth, and a comparison would be of luck.
fn apart() -> [Runtime; 2] {
    [0, 1].map(|processor| builder().on_thread_start(move || stay_on(processor)).build().unwrap())
}

fn builder() -> tokio::runtime::Builder {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = std::env::var("TOKIO_WORKER_THREADS").ok().and_then(|threads| threads.parse().ok())
    {
        builder.worker_threads(threads);
    }
    builder.enable_all();
    builder
}

#[cfg(target_os = "linux")]
fn stay_on(processor: usize) {
    let mut processors = rustix::thread::CpuSet::new();
    processors.set(processor);
    // Fails where there is no such processor: then the system chooses.
    let _ = rustix::thread::sched_setaffinity(None, &processors);
}

#[cfg(not(target_os = "linux"))]
fn stay_on(_processor: usize) {}
