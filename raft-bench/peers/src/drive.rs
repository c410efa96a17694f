//! Clients in a closed loop, the same for all.

use std::error::Error;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;

pub(crate) type Failure = Box<dyn Error + Send + Sync>;

pub(crate) const NODES: u64 = 3;
const COMMAND_BYTES: usize = 64;

#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) clients: usize,
    pub(crate) warm_up: Duration,
    pub(crate) measure: Duration,
    /// The counter that all clients share is touched once in so many operations: each time where they take long, seldom where a
    /// shared counter would be felt.
    pub(crate) counted: u64,
}

#[derive(Clone, Copy)]
pub(crate) struct Measured {
    /// Operations a second.
    pub(crate) rate: f64,
    /// Processor time an operation, of the whole process.
    pub(crate) cpu_us: f64,
}

/// A command as a client makes it: memory of its own, each time.
pub(crate) fn command() -> Bytes {
    Bytes::from(vec![7; COMMAND_BYTES])
}

/// Has the clients call again and again, each waiting for its answer.
pub(crate) async fn drive<F, A>(load: Load, call: F) -> Result<Measured, Failure>
where
    F: Fn() -> A + Clone + Send + 'static,
    A: Future<Output = Result<(), Failure>> + Send,
{
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let tasks: Vec<_> = (0..load.clients)
        .map(|_| {
            let (call, stop, done) = (call.clone(), Arc::clone(&stop), Arc::clone(&done));
            tokio::spawn(async move {
                let mut count = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    call().await?;
                    count += 1;
                    if count.is_multiple_of(load.counted) {
                        done.fetch_add(load.counted, Ordering::Relaxed);
                    }
                }
                Ok::<(), Failure>(())
            })
        })
        .collect();
    tokio::time::sleep(load.warm_up).await;
    let (begin, before, cpu) = (Instant::now(), done.load(Ordering::Relaxed), cpu_time()?);
    tokio::time::sleep(load.measure).await;
    let (count, taken, cpu) = (done.load(Ordering::Relaxed) - before, begin.elapsed(), cpu_time()? - cpu);
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await??;
    }
    let rate = count as f64 / taken.as_secs_f64();
    Ok(Measured { rate, cpu_us: cpu.as_secs_f64() * 1e6 / count as f64 })
}

/// Of this process, user and system: fields 14 and 15 of `/proc/self/stat`, in hundredths of a second.
fn cpu_time() -> Result<Duration, Failure> {
    let text = std::fs::read_to_string("/proc/self/stat")?;
    let fields = text.rsplit_once(')').ok_or("/proc/self/stat is strange")?.1;
    let ticks: Result<Vec<u64>, _> = fields.split_whitespace().skip(11).take(2).map(str::parse).collect();
    Ok(Duration::from_millis(10 * ticks?.iter().sum::<u64>()))
}
