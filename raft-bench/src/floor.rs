//! What the machine itself costs: measured first, so that each result can be held against it.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::backend::{Built, Failure, Kept, Wire};
use crate::cluster::percentile;
use crate::numbers::micros;

const MESSAGE_BYTES: usize = 64;

/// Measured for this time each, in each round; a tenth more is thrown away at the beginning.
const PROBE_TIME: Duration = Duration::from_millis(100);

/// What disturbs the machine for a while does not disturb all rounds: the best of their medians counts.
const ROUNDS: usize = 3;

/// What is written, or sent, to see how fast disk and loopback take many bytes.
const BULK_BYTES: usize = 64 << 20;

/// The machine's own costs: the best of the medians of several rounds.
#[derive(Clone, Debug)]
pub struct Floor {
    /// There and back between two tasks of one runtime.
    pub hop: Duration,
    /// There and back of 64 bytes over a TCP connection on loopback.
    pub round_trip: Duration,
    /// 64 bytes appended to a file and an `fdatasync`, with one, three and five files at once.
    pub sync: [(usize, Duration); 3],
    /// Bytes a second of a large write with one `fdatasync` at its end.
    pub disk_bytes_per_second: f64,
    /// Bytes a second over one TCP connection on loopback.
    pub wire_bytes_per_second: f64,
    /// Processors that may be used.
    pub processors: usize,
}

impl Floor {
    /// Measures, in about two seconds; files are made in a folder of their own within `folder`. It blocks its thread, which must not
    /// be one of a runtime's workers.
    ///
    /// # Errors
    /// Where there are no sockets or files to be had.
    pub fn measure(folder: &Path) -> Result<Self, Failure> {
        let mut best = Self {
            hop: Duration::MAX,
            round_trip: Duration::MAX,
            sync: [1, 3, 5].map(|writers| (writers, Duration::MAX)),
            disk_bytes_per_second: 0.0,
            wire_bytes_per_second: 0.0,
            processors: thread::available_parallelism().map_or(1, usize::from),
        };
        for _ in 0..ROUNDS {
            let folder = tempfile::TempDir::new_in(folder)?;
            for (writers, taken) in &mut best.sync {
                *taken = sync_time(folder.path(), *writers)?.min(*taken);
            }
            best.hop = hop()?.min(best.hop);
            best.round_trip = round_trip()?.min(best.round_trip);
            best.disk_bytes_per_second = bulk(folder.path())?.max(best.disk_bytes_per_second);
            best.wire_bytes_per_second = bulk_sent()?.max(best.wire_bytes_per_second);
        }
        // One file alone cannot need longer than with others beside it: where it was seen to, something else was in its way.
        for fewer in (0..best.sync.len() - 1).rev() {
            best.sync[fewer].1 = best.sync[fewer].1.min(best.sync[fewer + 1].1);
        }
        Ok(best)
    }

    /// What was measured, and its median, one after the other.
    fn facts(&self) -> Vec<(String, String)> {
        let us = |time| format!("{:.1} us", micros(time));
        let mut facts = vec![
            ("there and back between two tasks".to_owned(), us(self.hop)),
            (format!("there and back over TCP, {MESSAGE_BYTES} B"), us(self.round_trip)),
        ];
        for (writers, taken) in self.sync {
            let files = if writers == 1 { "1 file".to_owned() } else { format!("{writers} files at once") };
            facts.push((format!("{MESSAGE_BYTES} B and fdatasync, {files}"), us(taken)));
        }
        let rate = |bytes: f64| format!("{:.0} MB/s", bytes / 1e6);
        facts.push(("a large write and fdatasync".to_owned(), rate(self.disk_bytes_per_second)));
        facts.push(("many bytes over TCP".to_owned(), rate(self.wire_bytes_per_second)));
        facts
    }

    /// A table.
    pub fn markdown(&self) -> String {
        let line = |(what, value): (String, String)| format!("| {what} | {value} |\n");
        let head = format!("| the floor ({} processors) | median |\n| --- | --- |\n", self.processors);
        head + &self.facts().into_iter().map(line).collect::<String>()
    }

    /// An `fdatasync` while as many files are written as there are nodes.
    pub fn sync_of(&self, nodes: usize) -> Duration {
        let enough = self.sync.iter().find(|(writers, _)| *writers >= nodes);
        enough.or(self.sync.last()).map_or(Duration::ZERO, |&(_, taken)| taken)
    }

    /// The share of the processors that so much of their time in so long is.
    pub fn busy(&self, used: Duration, within: Duration) -> f64 {
        used.as_secs_f64() / (within.as_secs_f64() * self.processors as f64)
    }

    /// What bounds a result from above, whatever the program is like. How much of the processors it takes is no such bound: a program
    /// that wastes them would come out nearer to its limit.
    pub fn limit(&self, case: &Case<'_>) -> Limit {
        let Case { built, nodes, clients, payload_bytes } = *case;
        // The leader's own write runs beside the round trip and the follower's, so one of each is the least.
        let there_and_back = match built.transport.wire {
            _ if nodes == 1 => self.hop,
            Wire::Process => self.hop,
            Wire::Socket => self.round_trip,
        };
        let write = match built.kept() {
            Kept::Durable => self.sync_of(nodes),
            Kept::Volatile => Duration::ZERO,
        };
        let latency = there_and_back + write;
        let mut limit = Limit { rate: clients as f64 / latency.as_secs_f64(), by: Bound::Latency };
        let mut lower = |rate: f64, by| {
            if rate < limit.rate {
                limit = Limit { rate, by };
            }
        };
        if built.kept() == Kept::Durable {
            lower(self.disk_bytes_per_second / (nodes * payload_bytes) as f64, Bound::Disk);
        }
        if built.transport.wire == Wire::Socket && nodes > 1 {
            lower(self.wire_bytes_per_second / ((nodes - 1) * payload_bytes) as f64, Bound::Network);
        }
        limit
    }
}

impl fmt::Display for Floor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the floor, medians on this machine ({} processors):", self.processors)?;
        for (what, value) in self.facts() {
            write!(f, "\n  {what:<34} {value:>12}")?;
        }
        Ok(())
    }
}

/// A result to be held against the floor.
#[derive(Clone, Copy)]
pub struct Case<'a> {
    /// What it ran on.
    pub built: &'a Built,
    /// How many nodes.
    pub nodes: usize,
    /// How many clients, each waiting for its answer.
    pub clients: usize,
    /// The size of a command.
    pub payload_bytes: usize,
}

/// No result of the kind can be above it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    /// Operations a second.
    pub rate: f64,
    /// What sets it.
    pub by: Bound,
}

/// What sets a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Each client waits for a message there and back, and for a disk.
    Latency,
    /// The bytes that all nodes write to the one disk.
    Disk,
    /// The bytes that the leader sends to the others over one interface.
    Network,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Latency => "latency",
            Self::Disk => "disk",
            Self::Network => "network",
        })
    }
}

/// Repeats for a while and gives the median.
fn median(mut once: impl FnMut() -> io::Result<()>) -> io::Result<Duration> {
    let (start, mut seen) = (Instant::now(), Vec::new());
    while start.elapsed() < PROBE_TIME.mul_f64(1.1) || seen.is_empty() {
        let begun = Instant::now();
        once()?;
        if start.elapsed() > PROBE_TIME / 10 {
            seen.push(begun.elapsed());
        }
    }
    seen.sort_unstable();
    Ok(percentile(&seen, 0.5).unwrap_or_default())
}

fn sync_time(folder: &Path, writers: usize) -> io::Result<Duration> {
    let together = Barrier::new(writers);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..writers)
            .map(|writer| {
                let (path, together) = (folder.join(format!("sync-{writers}-{writer}")), &together);
                scope.spawn(move || {
                    let opened = OpenOptions::new().create(true).append(true).open(path);
                    together.wait();
                    let mut file = opened?;
                    median(|| {
                        file.write_all(&[7; MESSAGE_BYTES])?;
                        file.sync_data()
                    })
                })
            })
            .collect();
        let mut medians = Vec::new();
        for thread in threads {
            medians.push(thread.join().map_err(|_| io::Error::other("a probe panicked"))??);
        }
        medians.sort_unstable();
        Ok(percentile(&medians, 0.5).unwrap_or_default())
    })
}

fn bulk(folder: &Path) -> io::Result<f64> {
    let mut file = File::create(folder.join("bulk"))?;
    let piece = vec![7; 1 << 20];
    let start = Instant::now();
    for _ in 0..BULK_BYTES / piece.len() {
        file.write_all(&piece)?;
    }
    file.sync_data()?;
    Ok(BULK_BYTES as f64 / start.elapsed().as_secs_f64())
}

fn bulk_sent() -> io::Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::scope(|scope| {
        let taker = scope.spawn(move || io::copy(&mut listener.accept()?.0, &mut io::sink()));
        let mut stream = TcpStream::connect(address)?;
        let piece = vec![7; 1 << 20];
        let start = Instant::now();
        for _ in 0..BULK_BYTES / piece.len() {
            stream.write_all(&piece)?;
        }
        drop(stream);
        let taken = taker.join().map_err(|_| io::Error::other("a probe panicked"))??;
        Ok(taken as f64 / start.elapsed().as_secs_f64())
    })
}

fn round_trip() -> io::Result<Duration> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::scope(|scope| {
        let echo = scope.spawn(move || {
            let (mut stream, _) = listener.accept()?;
            stream.set_nodelay(true)?;
            let mut message = [0; MESSAGE_BYTES];
            // The other end closes when it has seen enough.
            while stream.read_exact(&mut message).is_ok() {
                stream.write_all(&message)?;
            }
            Ok::<_, io::Error>(())
        });
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let mut message = [7; MESSAGE_BYTES];
        let taken = median(|| {
            stream.write_all(&message)?;
            stream.read_exact(&mut message)
        });
        drop(stream);
        echo.join().map_err(|_| io::Error::other("a probe panicked"))??;
        taken
    })
}

fn hop() -> io::Result<Duration> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build()?;
    let (there, mut here) = mpsc::channel::<()>(1);
    let (back, mut answers) = mpsc::channel(1);
    runtime.block_on(async move {
        let echo =
            tokio::spawn(async move { while here.recv().await.is_some() && back.send(()).await.is_ok() {} });
        let asking = tokio::spawn(async move {
            let (start, mut seen) = (Instant::now(), Vec::new());
            while start.elapsed() < PROBE_TIME {
                let begun = Instant::now();
                let answered = there.send(()).await.is_ok() && answers.recv().await.is_some();
                if !answered {
                    break;
                }
                seen.push(begun.elapsed());
            }
            seen.sort_unstable();
            percentile(&seen, 0.5).unwrap_or_default()
        });
        let taken = asking.await.map_err(io::Error::other);
        echo.await.map_err(io::Error::other)?;
        taken
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Backends;

    fn floor() -> Floor {
        Floor {
            hop: Duration::from_micros(10),
            round_trip: Duration::from_micros(60),
            sync: [1, 3, 5].map(|writers| (writers, Duration::from_micros(100 * writers as u64))),
            disk_bytes_per_second: 600e6,
            wire_bytes_per_second: 1e9,
            processors: 2,
        }
    }

    #[test]
    fn the_lowest_bound_is_the_limit() {
        let backends = Backends::ours();
        let durable = backends.choose("quic", "redb", None).unwrap();
        let volatile = backends.choose("channel", "memory", None).unwrap();
        let case = Case { built: &durable, nodes: 3, clients: 1, payload_bytes: 64 };
        let limit = floor().limit(&case);
        assert_eq!(limit.by, Bound::Latency);
        assert!((limit.rate - 1e6 / 360.0).abs() < 1.0, "{limit:?}");
        let many = floor().limit(&Case { clients: 4096, payload_bytes: 20_000, ..case });
        assert_eq!(many, Limit { rate: 10_000.0, by: Bound::Disk });
        // No disk: the leader sends each command twice.
        let sockets = backends.choose("quic", "memory", None).unwrap();
        let sent = floor().limit(&Case { built: &sockets, clients: 4096, payload_bytes: 20_000, ..case });
        assert_eq!(sent, Limit { rate: 25_000.0, by: Bound::Network });
        let alone = floor().limit(&Case { built: &sockets, nodes: 1, ..case });
        assert_eq!(alone.by, Bound::Latency);
        let memory = floor().limit(&Case { built: &volatile, ..case });
        assert!((memory.rate - 100_000.0).abs() < 1.0, "{memory:?}");
        assert_eq!(floor().sync_of(2), Duration::from_micros(300));
        assert_eq!(floor().sync_of(7), Duration::from_micros(500));
    }

    #[test]
    fn waste_brings_nobody_nearer_to_his_limit() {
        let ms = Duration::from_millis;
        // Two processors for a second.
        assert!((floor().busy(ms(500), ms(1000)) - 0.25).abs() < 1e-9);
        assert!((floor().busy(ms(2000), ms(1000)) - 1.0).abs() < 1e-9);
        let backends = Backends::ours();
        for built in backends.all() {
            for clients in [1, 4096] {
                let limit = floor().limit(&Case { built: &built, nodes: 3, clients, payload_bytes: 64 });
                assert!(matches!(limit.by, Bound::Latency | Bound::Disk | Bound::Network), "{limit:?}");
            }
        }
    }

    #[test]
    fn a_machine_can_be_measured() {
        let floor = Floor::measure(&std::env::temp_dir()).unwrap();
        let all = floor.sync.iter().map(|&(_, taken)| taken).chain([floor.hop, floor.round_trip]);
        for taken in all {
            assert!(taken > Duration::ZERO && taken < Duration::from_secs(10), "{floor}");
        }
        assert!(floor.disk_bytes_per_second > 1e3 && floor.wire_bytes_per_second > 1e3);
        assert_eq!(floor.to_string().lines().count(), 8);
    }
}
