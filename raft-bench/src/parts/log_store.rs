//! Log stores alone: appends of some sizes, by one writer and by three at once, and reads.

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, Throughput};
use raft_core::log_store::Write;
use raft_core::types::{GroupId, HardState};
use raft_core::{LogStore, NodeId};
use tokio::runtime::Runtime;

use super::Failures;
use crate::backend::{Failure, StoreKind};
use crate::messages::entries;

/// The log of one writer: each append follows the last.
struct Appender {
    store: Arc<dyn LogStore>,
    next: u64,
    number: u64,
}

impl Appender {
    async fn append(&mut self, count: u64) -> Result<(), Failure> {
        self.number += 1;
        // What a node keeps: the log is compacted behind snapshots.
        let compact_to = self.next.checked_sub(200_000).filter(|_| self.number.is_multiple_of(16));
        let hard_state = HardState { term: 1, vote: Some(NodeId(1)), commit: self.next - 1 };
        let write = Write {
            group: GroupId(0),
            number: self.number,
            entries: entries(self.next, count, 64),
            hard_state: Some(hard_state),
            compact_to,
            ..Write::default()
        };
        self.next += count;
        Ok(self.store.write(&[write]).await?)
    }
}

pub(super) fn measure(criterion: &mut Criterion, kind: &StoreKind) -> Result<(), Failure> {
    let runtime = Runtime::new()?;
    let folder = tempfile::tempdir()?;
    let mut failures = Failures::default();
    let mut group = criterion.benchmark_group(format!("store/{}", kind.label()));
    group.sampling_mode(SamplingMode::Flat);
    for count in [1_u64, 64, 1024] {
        let own = folder.path().join(format!("append-{count}"));
        std::fs::create_dir_all(&own)?;
        let mut appender = Appender { store: kind.open(&own)?, next: 1, number: 0 };
        group.throughput(Throughput::Elements(count));
        group.bench_function(format!("append/{count}x64B"), |bencher| {
            bencher.iter(|| failures.take(runtime.block_on(appender.append(count)), ()));
        });
    }
    // As three nodes on one disk do: the time of one commit while two others write.
    group.throughput(Throughput::Elements(1));
    let mut writers = Vec::new();
    for writer in 0..3 {
        let own = folder.path().join(format!("beside-{writer}"));
        std::fs::create_dir_all(&own)?;
        writers.push(Appender { store: kind.open(&own)?, next: 1, number: 0 });
    }
    let writers = Arc::new(tokio::sync::Mutex::new(writers));
    group.bench_function("append/1x64B/3-at-once", |bencher| {
        bencher.iter_custom(|commits| {
            let writers = Arc::clone(&writers);
            let taken = runtime.block_on(async move {
                let mut writers = writers.lock().await;
                let mut tasks = Vec::new();
                for mut writer in writers.drain(..) {
                    tasks.push(tokio::spawn(async move {
                        let start = Instant::now();
                        for _ in 0..commits {
                            writer.append(1).await?;
                        }
                        Ok::<_, Failure>((start.elapsed(), writer))
                    }));
                }
                let mut sum = Duration::ZERO;
                for task in tasks {
                    let (taken, writer) = task.await??;
                    sum += taken;
                    writers.push(writer);
                }
                Ok(sum / 3)
            });
            failures.take(taken, Duration::from_secs(1))
        });
    });
    let own = folder.path().join("read");
    std::fs::create_dir_all(&own)?;
    let mut appender = Appender { store: kind.open(&own)?, next: 1, number: 0 };
    for _ in 0..40 {
        runtime.block_on(appender.append(256))?;
    }
    let mut at = 0;
    group.throughput(Throughput::Elements(256));
    group.bench_function("read/256x64B", |bencher| {
        bencher.iter(|| {
            at = (at + 4099) % (40 * 256 - 256);
            let read = appender.store.read(GroupId(0), at + 1..=at + 256, usize::MAX);
            failures.take(runtime.block_on(read).map_err(Into::into), Vec::new())
        });
    });
    group.finish();
    failures.end()
}
