//! The parts alone: engine, codec, log stores, transports, state machines, snapshots, restart, hand-over of leadership.

mod codec;
mod election;
mod engine;
mod log_store;
mod machine;
mod nodes;
mod restart;
mod snapshot;
mod transport;

use std::process::ExitCode;
use std::time::Duration;

use crate::backend::{Backends, Built, Failure};
use crate::floor::Floor;
use crate::invocation::{self, Invocation};
use crate::tables::write_parts;

/// Measures the parts as criterion's arguments say, and gives the program's exit code. A whole `main` of a benchmark.
pub fn run(backends: &Backends) -> ExitCode {
    invocation::main(|invocation| measure(backends, invocation))
}

fn measure(backends: &Backends, invocation: &Invocation) -> Result<(), Failure> {
    let floor = if invocation.lists { None } else { Some(Floor::measure(&std::env::temp_dir())?) };
    if let Some(floor) = &floor {
        println!("{floor}\n");
    }
    let times = |warm_up, measurement| (Duration::from_millis(warm_up), Duration::from_millis(measurement));
    let mut criterion = invocation.criterion(times(300, 1_000), times(1_000, 4_000));
    engine::measure(&mut criterion)?;
    election::campaign(&mut criterion)?;
    codec::measure(&mut criterion)?;
    for store in &backends.stores {
        log_store::measure(&mut criterion, store)?;
    }
    for transport in &backends.transports {
        transport::measure(&mut criterion, transport)?;
    }
    for machine in &backends.machines {
        machine::measure(&mut criterion, machine)?;
    }
    let ends = backends.transports.first().zip(backends.stores.first()).zip(backends.machines.first());
    if let Some(((transport, store), machine)) = ends {
        let built = Built { transport: transport.clone(), store: store.clone(), machine: machine.clone() };
        snapshot::write(&mut criterion, &built)?;
        snapshot::send(&mut criterion, &built)?;
        election::hand_over(&mut criterion, &built)?;
    }
    for store in &backends.stores {
        restart::measure(&mut criterion, store)?;
    }
    criterion.final_summary();
    match (&invocation.results, &floor) {
        (Some(folder), Some(floor)) => write_parts(folder, floor),
        _ => Ok(()),
    }
}

/// Stops a benchmark at the first failure: criterion's closures cannot give one back.
#[derive(Default)]
struct Failures(Option<Failure>);

impl Failures {
    /// The value, or something in its place once anything has failed.
    fn take<T>(&mut self, result: Result<T, Failure>, instead: T) -> T {
        match result {
            Ok(value) if self.0.is_none() => value,
            Ok(_) => instead,
            Err(failure) => {
                self.0.get_or_insert(failure);
                instead
            }
        }
    }

    fn end(self) -> Result<(), Failure> {
        self.0.map_or(Ok(()), Err)
    }
}
