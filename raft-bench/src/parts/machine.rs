//! State machines alone: commands applied, in batches of some sizes.

use criterion::{BatchSize, Criterion, Throughput};
use raft_core::StateMachine as _;
use raft_core::state_machine::{Batch, Command};
use raft_core::types::EntryId;

use super::Failures;
use crate::backend::{Failure, MachineKind};

pub(super) fn measure(criterion: &mut Criterion, kind: &MachineKind) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let mut failures = Failures::default();
    let own = kind.commands(64);
    let mut group = criterion.benchmark_group(format!("machine/{}", kind.name));
    for count in [1_u64, 1024] {
        let mut machine = kind.make();
        let mut index = 0;
        group.throughput(Throughput::Elements(count));
        group.bench_function(format!("apply/{count}x64B"), |bencher| {
            bencher.iter_batched(
                || {
                    let commands = (0..count).map(|_| {
                        index += 1;
                        Command { id: EntryId::new(1, index), bytes: own.get(index) }
                    });
                    Batch { commands: commands.collect(), ..Batch::default() }
                },
                |batch| {
                    let applied = runtime.block_on(machine.apply(batch));
                    failures.take(applied.map_err(Into::into), Vec::new())
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
    failures.end()
}
