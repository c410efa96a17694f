//! The parts alone: engine, codec, log stores, transports, state machines, snapshots, restart, elections.

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

use crate::backend::{Backends, Built, Failure, Kept, Wire};
use crate::floor::Floor;
use crate::invocation::{self, Invocation};
use crate::tables::write_parts;

use self::nodes::STATE_BYTES;

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
        (Some(folder), Some(floor)) => write_parts(folder, floor, |name| limit(backends, floor, name)),
        _ => Ok(()),
    }
}

/// The least that the machine itself takes for a part, where that is known: a disk, a message there and back, or so many bytes.
fn limit(backends: &Backends, floor: &Floor, name: &str) -> Option<Duration> {
    let bytes = |count: usize, per_second: f64| Duration::from_secs_f64(count as f64 / per_second);
    let mut words = name.split('/');
    match (words.next()?, words.next()?, words.next()?) {
        ("store", store, "append") => {
            let store = backends.stores.iter().find(|known| known.label() == store)?;
            (store.kept == Kept::Durable)
                .then(|| floor.sync_of(if name.ends_with("3-at-once") { 3 } else { 1 }))
        }
        ("transport", transport, "round-trip") => {
            let transport = backends.transports.iter().find(|known| known.name == transport)?;
            Some(if transport.wire == Wire::Socket { floor.round_trip } else { floor.hop })
        }
        ("snapshot", "write", _) => Some(bytes(STATE_BYTES, floor.disk_bytes_per_second)),
        // It is written where it arrives.
        ("snapshot", _, _) => {
            Some(bytes(STATE_BYTES, floor.disk_bytes_per_second.min(floor.wire_bytes_per_second)))
        }
        _ => None,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_with_a_physical_limit_is_held_against_it() {
        let us = Duration::from_micros;
        let floor = Floor {
            hop: us(1),
            round_trip: us(60),
            sync: [(1, us(100)), (3, us(300)), (5, us(500))],
            disk_bytes_per_second: STATE_BYTES as f64 * 100.0,
            wire_bytes_per_second: STATE_BYTES as f64 * 50.0,
            processors: 2,
        };
        let backends = Backends::ours();
        for (name, limited) in [
            ("store/redb/append/1x64B", Some(us(100))),
            ("store/redb/append/1x64B/3-at-once", Some(us(300))),
            ("store/memory(volatile)/append/1x64B", None),
            ("store/redb/read/256x64B", None),
            ("transport/quic/round-trip", Some(us(60))),
            ("transport/channel/round-trip", Some(us(1))),
            ("snapshot/write/16MiB", Some(us(10_000))),
            ("snapshot/send-and-restore/16MiB/quic", Some(us(20_000))),
            ("codec/encode/answer", None),
        ] {
            assert_eq!(limit(&backends, &floor, name), limited, "{name}");
        }
    }
}
