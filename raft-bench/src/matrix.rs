//! The criterion matrix of replication: transport x log store x cluster size x payload x clients, each result beside the limit
//! that the machine sets.

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use tokio::runtime::Runtime;

use crate::backend::{Backends, Built, Failure};
use crate::cluster::{Cluster, ClusterOptions, Latency, percentile};
use crate::floor::{Case, Floor};
use crate::invocation::{self, Invocation, Preset};
use crate::numbers::{grouped, micros};
use crate::process::Usage;
use crate::tables::Table;

const CLIENTS: [usize; 5] = [1, 64, 256, 1024, 4096];
const NODES: [usize; 3] = [1, 3, 5];
const PAYLOADS: [(&str, usize); 3] = [("64B", 64), ("1KiB", 1 << 10), ("16KiB", 16 << 10)];

/// Fewer operations a client than this would measure how clients start.
const OPERATIONS_A_CLIENT: u64 = 8;

/// Of large commands fewer are enough.
const ENOUGH_BYTES: u64 = 64 << 20;

/// What each call of the measured function does at least.
fn least_operations(clients: usize, payload_bytes: usize) -> u64 {
    let clients = clients as u64;
    (OPERATIONS_A_CLIENT * clients).min(ENOUGH_BYTES / payload_bytes as u64).max(2 * clients)
}

/// Clusters that are measured with these numbers of clients.
struct Row {
    built: Built,
    nodes: usize,
    payload: (&'static str, usize),
    clients: Vec<usize>,
}

impl Row {
    /// What a case is, as cells of a table.
    fn cells(&self, clients: usize) -> [String; 4] {
        let thousands = grouped(clients as f64);
        [self.built.name(), self.nodes.to_string(), self.payload.0.to_owned(), thousands]
    }

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
    let first_machine = backends.machines.first().map(|machine| machine.name.as_str());
    if preset == Preset::Whole {
        for built in &all {
            if Some(built.machine.name.as_str()) != first_machine {
                // A machine costs the same over any transport and log.
                add(built, 3, PAYLOADS[0], &CLIENTS);
                continue;
            }
            for nodes in NODES {
                for payload in PAYLOADS {
                    add(built, nodes, payload, &CLIENTS);
                }
            }
        }
        return rows;
    }
    let ours: Vec<String> = Backends::ours().all().iter().map(Built::name).collect();
    for built in &all {
        let name = built.name();
        match name.as_str() {
            // What a user brings is what he wants to see.
            _ if !ours.contains(&name) => add(built, 3, PAYLOADS[0], &[1, 64, 1024]),
            "quic+redb" => {
                add(built, 3, PAYLOADS[0], &CLIENTS);
                add(built, 1, PAYLOADS[0], &[1, 1024]);
                add(built, 5, PAYLOADS[0], &[1, 1024]);
                add(built, 3, PAYLOADS[1], &[64]);
                add(built, 3, PAYLOADS[2], &[64]);
            }
            "channel+memory(volatile)" => add(built, 3, PAYLOADS[0], &CLIENTS),
            "quic+wal" | "tcp+redb" | "quic+memory(volatile)" | "tcp+memory(volatile)" => {
                add(built, 3, PAYLOADS[0], &[1, 64, 1024]);
            }
            "quic+redb+kv" => add(built, 3, PAYLOADS[0], &[1024]),
            _ => {}
        }
    }
    rows
}

/// What criterion measured of one benchmark, call by call.
#[derive(Default)]
struct Calls {
    /// How many each call was to do, by criterion.
    iterations: u64,
    /// Operations a second of each call.
    rates: Vec<f64>,
    operations: u64,
    taken: Duration,
    cpu: Duration,
    latency: Latency,
}

impl Calls {
    /// Criterion's samples have all as many iterations, and its warm-up before them calls with more and more: what came before is
    /// forgotten. Where the last call of the warm-up happens to have as many as the samples, it stays.
    fn begin(&mut self, iterations: u64) {
        if self.iterations != iterations {
            *self = Self { iterations, ..Self::default() };
        }
    }
}

/// Measures replication over these backends as criterion's arguments say, prints the floor before and the table after, and gives the
/// program's exit code. A whole `main` of a benchmark.
pub fn run(backends: &Backends) -> ExitCode {
    invocation::main(|invocation| {
        let times =
            |warm_up, measurement| (Duration::from_millis(warm_up), Duration::from_millis(measurement));
        let criterion = invocation.criterion(times(500, 2_000), times(500, 3_500));
        measure(backends, invocation, criterion).map(drop)
    })
}

/// Measures with settings of one's own, and gives the table, a line a case.
///
/// # Errors
/// Where a case cannot be measured; the others are measured before.
pub fn measure(
    backends: &Backends,
    invocation: &Invocation,
    mut criterion: Criterion,
) -> Result<Vec<String>, Failure> {
    let mut matrix = Matrix {
        floor: None,
        table: None,
        begun: Instant::now(),
        cases: 0,
        done: 0,
        lines: Vec::new(),
        failures: Vec::new(),
    };
    if !invocation.lists {
        let floor = Floor::measure(&std::env::temp_dir())?;
        println!("{floor}\n");
        if let Some(folder) = &invocation.results {
            matrix.table = Some(Table::open(folder, "replication.md", &floor, &COLUMNS)?);
        }
        matrix.floor = Some(floor);
    }
    let rows = rows(backends, invocation.preset);
    matrix.cases = rows.iter().map(|row| row.clients.len()).sum();
    for row in &rows {
        matrix.measure_row(&mut criterion, row)?;
    }
    if !matrix.lines.is_empty() {
        println!(
            "\nEach result beside what bounds it on this machine; `times` says how far away that is, `busy` how much of the processors it took."
        );
        println!("{HEAD}");
        matrix.lines.iter().for_each(|line| println!("{line}"));
    }
    criterion.final_summary();
    if matrix.failures.is_empty() {
        return Ok(matrix.lines);
    }
    Err(format!("{} cases failed:\n{}", matrix.failures.len(), matrix.failures.join("\n")).into())
}

const HEAD: &str = "benchmark                                                  operations/s     p50 us     p99 us  \
                    cpu us/op busy %        limit  by          times";

const COLUMNS: [&str; 12] = [
    "transport + store",
    "nodes",
    "command",
    "clients",
    "operations/s",
    "p50 us",
    "p99 us",
    "cpu us an operation",
    "processors busy, %",
    "limit",
    "by",
    "times",
];

/// A run through the rows.
struct Matrix {
    floor: Option<Floor>,
    table: Option<Table>,
    begun: Instant,
    /// Of so many cases in all, those that are behind.
    cases: usize,
    done: usize,
    lines: Vec<String>,
    failures: Vec<String>,
}

impl Matrix {
    /// All benchmarks of one cluster: it is started for the first that is asked for, and anew after one that failed.
    fn measure_row(&mut self, criterion: &mut Criterion, row: &Row) -> Result<(), Failure> {
        let runtime = Runtime::new()?;
        let mut cluster: Option<Arc<Cluster>> = None;
        let mut group = criterion.benchmark_group(row.name());
        group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(1));
        for &clients in &row.clients {
            self.done += 1;
            let cells = row.cells(clients);
            if self.table.as_ref().is_some_and(|table| table.has(&cells.each_ref().map(String::as_str))) {
                continue;
            }
            let calls = Mutex::new(Calls::default());
            let mut failed: Option<Failure> = None;
            let (cases, done, begun) = (self.cases, self.done, self.begun);
            let least = least_operations(clients, row.payload.1);
            group.bench_function(BenchmarkId::new("clients", clients), |bencher| {
                if cluster.is_none() && failed.is_none() {
                    let options =
                        ClusterOptions { nodes: row.nodes, ..ClusterOptions::new(row.built.clone()) };
                    match runtime.block_on(Cluster::start(&options)) {
                        Ok(started) => cluster = Some(Arc::new(started)),
                        Err(error) => failed = Some(error),
                    }
                }
                let (cluster, failed) = (&cluster, &mut failed);
                bencher.iter_custom(|operations| {
                    let run = operations.max(least);
                    let Some(cluster) = cluster.as_ref().filter(|_| failed.is_none()) else {
                        // Criterion goes on until it has its samples.
                        return Duration::from_secs(1);
                    };
                    let mut calls = calls.lock().unwrap_or_else(PoisonError::into_inner);
                    if calls.iterations == 0 {
                        eprintln!("case {done} of {cases}, {} s since the start", begun.elapsed().as_secs());
                    }
                    calls.begin(operations);
                    let before = Usage::own().unwrap_or_default();
                    match runtime.block_on(cluster.propose(clients, run, row.payload.1, &calls.latency)) {
                        Ok(taken) => {
                            let used = Usage::own().unwrap_or_default().since(before);
                            calls.rates.push(run as f64 / taken.as_secs_f64());
                            calls.operations += run;
                            calls.taken += taken;
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
            let name = format!("{}/clients/{clients}", row.name());
            if let Some(failure) = failed {
                eprintln!("{name}: {failure}");
                self.failures.push(format!("{name}: {failure}"));
                if let Some(cluster) = cluster.take() {
                    runtime.block_on(cluster.shutdown());
                }
                continue;
            }
            let calls = calls.into_inner().unwrap_or_else(PoisonError::into_inner);
            if !calls.rates.is_empty() {
                self.note(row, clients, &name, calls)?;
            }
        }
        group.finish();
        if let Some(cluster) = cluster {
            runtime.block_on(cluster.shutdown());
        }
        Ok(())
    }

    fn note(&mut self, row: &Row, clients: usize, name: &str, mut calls: Calls) -> Result<(), Failure> {
        let Some(floor) = &self.floor else { return Ok(()) };
        calls.rates.sort_by(f64::total_cmp);
        let rate = calls.rates[calls.rates.len() / 2];
        let latency = calls.latency.take();
        let cpu = calls.cpu.div_f64(calls.operations as f64);
        let (built, nodes, payload_bytes) = (&row.built, row.nodes, row.payload.1);
        let limit = floor.limit(&Case { built, nodes, clients, payload_bytes });
        let busy = floor.busy(calls.cpu, calls.taken) * 100.0;
        let at = |share| percentile(&latency, share).map_or(0.0, micros);
        let (p50, p99, cpu, times) = (at(0.5), at(0.99), micros(cpu), limit.rate / rate);
        self.lines.push(format!(
            "{name:<58} {rate:>12.0} {p50:>10.0} {p99:>10.0} {cpu:>10.2} {busy:>6.0} {:>12.0}  {:<9} {times:>7.2}",
            limit.rate, limit.by,
        ));
        if let Some(table) = &mut self.table {
            let results = [
                grouped(rate),
                grouped(p50),
                grouped(p99),
                format!("{cpu:.2}"),
                format!("{busy:.0}"),
                grouped(limit.rate),
                limit.by.to_string(),
                format!("{times:.2}"),
            ];
            let cells: Vec<_> = row.cells(clients).into_iter().chain(results).collect();
            table.add(&cells.iter().map(String::as_str).collect::<Vec<_>>())?;
        }
        Ok(())
    }
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
        let further_machines = ours.machines.len() - 1;
        assert_eq!(whole.len(), 3 * ours.stores.len() * 3 * 3 * 5 + further_machines * 5);
        assert!(quick.iter().all(|name| whole.contains(name)), "{quick:?}");
        // At three seconds each, and as much again for the parts.
        assert!(quick.len() >= 20 && quick.len() <= 40, "{}", quick.len());
        assert!(quick.contains(&"replication/channel+memory(volatile)/nodes=3/64B/clients/4096".to_owned()));
        let distinct: std::collections::BTreeSet<_> = whole.iter().collect();
        assert_eq!(distinct.len(), whole.len());
    }

    #[test]
    fn what_criterion_calls_to_warm_up_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let times = Duration::from_millis(40);
        let mut criterion = Criterion::default()
            .sample_size(10)
            .warm_up_time(times)
            .measurement_time(times)
            .nresamples(10)
            .without_plots()
            .output_directory(folder.path());
        let (mut all, mut calls) = (0, Calls::default());
        let mut group = criterion.benchmark_group("calls");
        group.sampling_mode(SamplingMode::Flat).bench_function("all", |bencher| {
            bencher.iter_custom(|iterations| {
                all += 1;
                calls.begin(iterations);
                calls.rates.push(iterations as f64);
                // Work that takes some time, so that warm-up and measurement end.
                std::thread::sleep(Duration::from_millis(4));
                Duration::from_millis(4)
            });
        });
        group.finish();
        assert!(all >= 12, "{all}");
        assert!((10..=11).contains(&calls.rates.len()), "{} of {all}", calls.rates.len());
        assert!(calls.rates.iter().all(|iterations| *iterations == calls.iterations as f64));
    }

    #[test]
    fn every_client_has_several_operations_and_none_has_too_much_to_write() {
        assert_eq!(least_operations(1, 64), 8);
        assert_eq!(least_operations(4096, 64), 32_768);
        assert_eq!(least_operations(4096, 16 << 10), 8_192);
        assert_eq!(least_operations(1024, 16 << 10), 4_096);
    }

    #[test]
    fn what_a_user_brings_is_measured_at_once() {
        let mine = Backends::ours().store("mine", Kept::Volatile, |_| Ok(raft_core::mem::MemLogStore::new()));
        let rows = rows(&mine, Preset::Quick);
        assert_eq!(rows.iter().filter(|row| row.built.name().ends_with("+mine(volatile)")).count(), 3);
    }
}
