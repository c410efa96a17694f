//! The criterion matrix of replication: transport x log store x cluster size x payload x clients, each result beside the limit
//! that the machine sets.

use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use tokio::runtime::Runtime;

use crate::backend::{Backends, Built, Failure};
use crate::cluster::{Cluster, ClusterOptions, Latency, percentile};
use crate::floor::{Case, Floor, micros};
use crate::process::Usage;

/// Set where the whole is to be measured; the flag `--whole` sets it.
const WHOLE: &str = "RAFT_BENCH_WHOLE";

const CLIENTS: [usize; 5] = [1, 64, 256, 1024, 4096];
const NODES: [usize; 3] = [1, 3, 5];
const PAYLOADS: [(&str, usize); 3] = [("64B", 64), ("1KiB", 1 << 10), ("16KiB", 16 << 10)];

/// Fewer operations a client than this would measure how clients start.
const LEAST_OPERATIONS_A_CLIENT: u64 = 8;

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// A part that says most, in less than five minutes with [`parts`](crate::parts).
    Quick,
    /// Everything, with `--whole`: about an hour.
    Whole,
}

/// What the arguments of a benchmark say; `--whole` is ours, all else is criterion's.
///
/// Criterion reads the arguments of the process itself and knows no flag of ours, so the process is run again without it.
pub(crate) fn preset() -> Result<Preset, ExitCode> {
    if std::env::var_os(WHOLE).is_some() {
        return Ok(Preset::Whole);
    }
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let others: Vec<_> = arguments.iter().filter(|argument| *argument != "--whole").collect();
    if others.len() == arguments.len() {
        return Ok(Preset::Quick);
    }
    let again = std::env::current_exe()
        .and_then(|program| std::process::Command::new(program).args(others).env(WHOLE, "1").status());
    match again {
        Ok(status) if status.success() => Err(ExitCode::SUCCESS),
        _ => Err(ExitCode::FAILURE),
    }
}

/// Whether only names are asked for.
pub(crate) fn lists() -> bool {
    std::env::args_os().any(|argument| argument == "--list")
}

/// Clusters that are measured with these numbers of clients.
struct Row {
    built: Built,
    nodes: usize,
    payload: (&'static str, usize),
    clients: Vec<usize>,
}

impl Row {
    fn name(&self) -> String {
        format!("replication/{}/nodes={}/{}", self.built.name(), self.nodes, self.payload.0)
    }
}

fn rows(backends: &Backends, preset: Preset) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut add = |built: &Built, nodes, payload, clients: &[usize]| {
        rows.push(Row { built: built.clone(), nodes, payload, clients: clients.to_vec() });
    };
    let all = backends.all();
    if preset == Preset::Whole {
        for built in &all {
            for nodes in NODES {
                for payload in PAYLOADS {
                    add(built, nodes, payload, &CLIENTS);
                }
            }
        }
        return rows;
    }
    let ours = Backends::ours();
    let is_ours = |built: &Built| {
        let known = |name: &str, all: Vec<&str>| all.contains(&name);
        known(&built.transport.name, ours.transports.iter().map(|kind| kind.name.as_str()).collect())
            && known(&built.store.name, ours.stores.iter().map(|kind| kind.name.as_str()).collect())
            && known(&built.machine.name, ours.machines.iter().map(|kind| kind.name.as_str()).collect())
    };
    for built in &all {
        match (built.transport.name.as_str(), built.store.name.as_str()) {
            // What a user brings is what he wants to see.
            _ if !is_ours(built) => add(built, 3, PAYLOADS[0], &[1, 64, 1024]),
            ("quic", "redb") => {
                add(built, 3, PAYLOADS[0], &CLIENTS);
                add(built, 1, PAYLOADS[0], &[1, 1024]);
                add(built, 5, PAYLOADS[0], &[1, 1024]);
                add(built, 3, PAYLOADS[1], &[64]);
                add(built, 3, PAYLOADS[2], &[64]);
            }
            ("channel", "memory") => add(built, 3, PAYLOADS[0], &CLIENTS),
            ("quic", "wal") | ("tcp", "redb") | ("quic" | "tcp", "memory") => {
                add(built, 3, PAYLOADS[0], &[1, 64, 1024]);
            }
            _ => {}
        }
    }
    rows
}

/// What criterion measured of one benchmark, call by call.
#[derive(Default)]
struct Calls {
    /// Operations a second of each call.
    rates: Vec<f64>,
    operations: u64,
    cpu: Duration,
    latency: Latency,
}

/// Measures replication over these backends as criterion's arguments say, prints the floor before and the table after, and gives the
/// program's exit code. A whole `main` of a benchmark.
pub fn run(backends: &Backends) -> ExitCode {
    let preset = match preset() {
        Ok(preset) => preset,
        Err(done) => return done,
    };
    match measure(backends, preset) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cannot measure: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(backends: &Backends, preset: Preset) -> Result<(), Failure> {
    let floor = if lists() { None } else { Some(Floor::measure(&std::env::temp_dir())?) };
    if let Some(floor) = &floor {
        println!("{floor}\n");
    }
    let (warm_up, measurement) = match preset {
        Preset::Quick => (Duration::from_millis(500), Duration::from_secs(2)),
        Preset::Whole => (Duration::from_secs(1), Duration::from_secs(4)),
    };
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(warm_up)
        .measurement_time(measurement)
        .without_plots()
        .configure_from_args();
    let mut lines = Vec::new();
    for row in rows(backends, preset) {
        lines.extend(measure_row(&mut criterion, &row, floor.as_ref())?);
    }
    if !lines.is_empty() {
        println!("\nEach result beside what bounds it; `times` says how far away it is.");
        println!("{HEAD}");
        lines.iter().for_each(|line| println!("{line}"));
    }
    criterion.final_summary();
    Ok(())
}

const HEAD: &str = "benchmark                                                  operations/s     p50 us     p99 us  \
                    cpu us/op        limit  by        times";

/// All benchmarks of one cluster: it is started for the first that is asked for.
fn measure_row(criterion: &mut Criterion, row: &Row, floor: Option<&Floor>) -> Result<Vec<String>, Failure> {
    let runtime = Runtime::new()?;
    let mut cluster: Option<Cluster> = None;
    let mut lines = Vec::new();
    let mut failed: Option<Failure> = None;
    let mut group = criterion.benchmark_group(row.name());
    group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(1));
    for &clients in &row.clients {
        let calls = Mutex::new(Calls::default());
        group.bench_function(BenchmarkId::new("clients", clients), |bencher| {
            if cluster.is_none() && failed.is_none() {
                let options = ClusterOptions { nodes: row.nodes, ..ClusterOptions::new(row.built.clone()) };
                match runtime.block_on(Cluster::start(&options)) {
                    Ok(started) => cluster = Some(started),
                    Err(error) => failed = Some(error),
                }
            }
            let (cluster, failed) = (&cluster, &mut failed);
            bencher.iter_custom(|operations| {
                let run = operations.max(LEAST_OPERATIONS_A_CLIENT * clients as u64);
                let Some(cluster) = cluster.as_ref().filter(|_| failed.is_none()) else {
                    // Criterion goes on until it has its samples.
                    return Duration::from_secs(1);
                };
                let mut calls = calls.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                let before = Usage::own().unwrap_or_default();
                match runtime.block_on(cluster.propose(clients, run, row.payload.1, &calls.latency)) {
                    Ok(taken) => {
                        let used = Usage::own().unwrap_or_default().since(before);
                        calls.rates.push(run as f64 / taken.as_secs_f64());
                        calls.operations += run;
                        calls.cpu += used.cpu;
                        taken.mul_f64(operations as f64 / run as f64)
                    }
                    Err(error) => {
                        *failed = Some(format!("a proposal failed: {error}").into());
                        Duration::from_secs(1)
                    }
                }
            });
        });
        if failed.is_some() {
            break;
        }
        let calls = calls.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let (Some(floor), false) = (floor, calls.rates.is_empty()) {
            lines.push(line(row, clients, calls, floor));
        }
    }
    group.finish();
    if let Some(cluster) = cluster {
        runtime.block_on(cluster.shutdown());
    }
    failed.map_or(Ok(lines), Err)
}

fn line(row: &Row, clients: usize, mut calls: Calls, floor: &Floor) -> String {
    calls.rates.sort_by(f64::total_cmp);
    let rate = calls.rates[calls.rates.len() / 2];
    let latency = calls.latency.take();
    let cpu = calls.cpu.div_f64(calls.operations as f64);
    let (built, nodes, payload_bytes) = (&row.built, row.nodes, row.payload.1);
    let limit = floor.limit(&Case { built, nodes, clients, payload_bytes, cpu_per_operation: Some(cpu) });
    let at = |share| percentile(&latency, share).map_or(0.0, micros);
    format!(
        "{:<58} {rate:>12.0} {:>10.0} {:>10.0} {:>10.2} {:>12.0}  {:<9} {:>5.2}",
        format!("{}/clients/{clients}", row.name()),
        at(0.5),
        at(0.99),
        micros(cpu),
        limit.rate,
        limit.by,
        limit.rate / rate,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Kept;

    #[test]
    fn the_quick_preset_is_a_part_of_the_whole() {
        let ours = Backends::ours();
        let names = |preset| -> Vec<String> {
            let rows = rows(&ours, preset);
            let name = |row: &Row, clients: &usize| format!("{}/clients/{clients}", row.name());
            rows.iter().flat_map(|row| row.clients.iter().map(|clients| name(row, clients))).collect()
        };
        let (quick, whole) = (names(Preset::Quick), names(Preset::Whole));
        assert_eq!(whole.len(), 3 * ours.stores.len() * 3 * 3 * 5);
        assert!(quick.iter().all(|name| whole.contains(name)), "{quick:?}");
        // At three seconds each, and as much again for the parts.
        assert!(quick.len() >= 20 && quick.len() <= 40, "{}", quick.len());
        assert!(quick.contains(&"replication/channel+memory(volatile)/nodes=3/64B/clients/4096".to_owned()));
        let distinct: std::collections::BTreeSet<_> = whole.iter().collect();
        assert_eq!(distinct.len(), whole.len());
    }

    #[test]
    fn what_a_user_brings_is_measured_at_once() {
        let mine = Backends::ours().store("mine", Kept::Volatile, |_| Ok(raft_core::mem::MemLogStore::new()));
        let rows = rows(&mine, Preset::Quick);
        assert_eq!(rows.iter().filter(|row| row.built.name().ends_with("+mine(volatile)")).count(), 3);
    }
}
