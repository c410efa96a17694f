//! Replication throughput: three nodes, closed-loop clients, 64-byte commands, each answered after it was applied.
//!
//! One iteration is one operation, so criterion's `thrpt` is operations a second.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use raft_bench::cluster::{Backend, Cluster};

const PAYLOAD_BYTES: usize = 64;

fn replication(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("a tokio runtime");
    for (backend, clients) in [
        (Backend::Memory, &[1, 64, 256, 1024, 4096][..]),
        (Backend::QuicMemory, &[1, 64, 1024]),
        (Backend::TcpMemory, &[1, 64, 1024]),
        (Backend::QuicRedb, &[1, 64, 1024]),
        (Backend::TcpRedb, &[1, 64, 1024]),
        #[cfg(feature = "wal")]
        (Backend::QuicWal, &[1, 64, 1024]),
    ] {
        let cluster = runtime.block_on(Cluster::start(backend)).expect("a cluster");
        let mut group = criterion.benchmark_group(format!("replication/{}/nodes=3/64B", backend.name()));
        group.sampling_mode(SamplingMode::Flat).sample_size(10).throughput(Throughput::Elements(1));
        group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(4));
        for &clients in clients {
            group.bench_with_input(BenchmarkId::new("clients", clients), &clients, |bencher, &clients| {
                bencher.iter_custom(|operations| {
                    // At least a few operations a client: fewer would measure how clients start.
                    let least = 8 * clients as u64;
                    let run = operations.max(least);
                    let taken = runtime.block_on(cluster.propose(clients, run, PAYLOAD_BYTES));
                    taken.expect("every proposal is answered").mul_f64(operations as f64 / run as f64)
                });
            });
        }
        group.finish();
        runtime.block_on(cluster.shutdown());
    }
}

criterion_group!(benches, replication);
criterion_main!(benches);
