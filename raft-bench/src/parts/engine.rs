//! Engines alone: a proposal's way through all three, in batches of some sizes, and a heartbeat.

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};

use super::Failures;
use crate::backend::Failure;
use crate::trio::Trio;

pub(super) fn measure(criterion: &mut Criterion) -> Result<(), Failure> {
    let mut failures = Failures::default();
    let mut group = criterion.benchmark_group("engine/propose/nodes=3/64B");
    for window in [1, 64, 4096] {
        group.throughput(Throughput::Elements(window));
        let mut trio = Trio::found(3)?;
        group.bench_function(BenchmarkId::new("window", window), |bencher| {
            bencher.iter_batched(
                || vec![Bytes::from_static(&[7; 64]); usize::try_from(window).unwrap_or_default()],
                |commands| {
                    let proposed = trio.propose(commands);
                    failures.take(proposed, ());
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("engine");
    let mut trio = Trio::found(3)?;
    // A heartbeat to each of two followers, and their answers.
    group.throughput(Throughput::Elements(4));
    group.bench_function("heartbeat/nodes=3", |bencher| bencher.iter(|| trio.heartbeat()));
    group.finish();
    failures.end()
}
