//! The load generator: an open loop at a set rate, or a closed loop of waiting clients, against a cluster in this process or a
//! running raft-kv.
//!
//! In the open loop an operation is due at its time whatever became of the ones before it, and its latency counts from then: so a
//! cluster that hangs is seen to hang by everybody who would have come meanwhile ("coordinated omission" leaves them out).

mod columns;
mod lines;
mod page;
mod plot;
mod recorder;
mod report;
mod table;
mod target;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::task::JoinSet;

pub use self::lines::{csv_of_runs, csv_of_series};
pub use self::page::html;
pub use self::recorder::{Outcome, Percentiles};
pub use self::report::{FloorReport, Report, Reports, Run, Second};
pub use self::table::table;
pub use self::target::Target;

use self::recorder::Recorder;
use crate::backend::Failure;

/// How operations come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// So many a second, whatever becomes of them.
    Open {
        /// Operations a second.
        rate: f64,
    },
    /// So many clients, each of which waits for its answer before it sends again.
    Closed {
        /// The clients.
        clients: usize,
    },
}

/// Operations a second of an open loop; others are a slip of the finger, and no clock could tell when they are due.
const RATES: std::ops::RangeInclusive<f64> = 1e-3..=1e9;

impl Pace {
    /// Whether it can be kept.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::Open { rate } if !RATES.contains(rate) => {
                let (least, most) = (RATES.start(), RATES.end());
                Err(format!("a rate must be {least} to {most} operations a second, not {rate:?}"))
            }
            Self::Closed { clients: 0 } => Err("a closed loop has at least one client".to_owned()),
            _ => Ok(()),
        }
    }

    /// In a few words.
    pub fn name(&self) -> String {
        match self {
            Self::Open { rate } => format!("open, {rate}/s"),
            Self::Closed { clients: 1 } => "closed, 1 client".to_owned(),
            Self::Closed { clients } => format!("closed, {clients} clients"),
        }
    }
}

/// What is done to a target.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How operations come.
    pub pace: Pace,
    /// The size of a command, or of a value.
    pub payload_bytes: usize,
    /// What is done before it counts.
    pub warm_up: Duration,
    /// What counts.
    pub measure: Duration,
    /// In the open loop: the most operations under way; those that are due beyond it are not sent, and are counted.
    pub max_open: usize,
}

impl Settings {
    /// A closed loop of one client with small commands, for a second.
    #[cfg(test)]
    pub(crate) const SMALL: Self = Self {
        pace: Pace::Closed { clients: 1 },
        payload_bytes: 64,
        warm_up: Duration::ZERO,
        measure: Duration::from_secs(1),
        max_open: 1,
    };
}

/// The distance of two points of the time series.
const INTERVAL: Duration = Duration::from_secs(1);

/// So many are begun at once where many are due; the clock is looked at in between.
const MOST_AT_ONCE: usize = 1024;

/// What was due shortly before the end is still sent this long after it.
const GRACE: Duration = Duration::from_millis(100);

/// A client that was refused waits so long before it asks again.
const PAUSE: Duration = Duration::from_millis(1);

/// What the tasks of one run share.
struct Shared {
    target: Arc<Target>,
    recorder: Recorder,
    payload: Bytes,
    start: Instant,
    /// The end of the warm-up.
    begin: Instant,
    end: Instant,
    stop: AtomicBool,
    open: AtomicUsize,
    not_sent: AtomicU64,
    broken: std::sync::Mutex<Option<String>>,
}

impl Shared {
    /// Whether what is due at this time counts.
    fn counts(&self, due: Instant) -> bool {
        due >= self.begin && due < self.end
    }

    /// One operation, from when it was due to its answer; what became of it.
    async fn operate(&self, number: u64, due: Instant) -> Outcome {
        match self.target.write(number, self.payload.clone()).await {
            Ok(outcome) => {
                if self.counts(due) {
                    self.recorder.note(number, due.elapsed(), outcome);
                }
                outcome
            }
            Err(error) => {
                let mut broken = self.broken.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                broken.get_or_insert(error.to_string());
                self.stop.store(true, Ordering::Relaxed);
                Outcome::Refused
            }
        }
    }
}

/// Nothing more is begun once this is gone, such as when a run is given up.
struct StopOnDrop(Arc<Shared>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

/// Loads the target once. `progress` hears of each second, the warm-up included, and of how far it is.
///
/// # Errors
/// Where the pace cannot be kept, or the target cannot be loaded at all. Refused and lost operations are no errors: they are counted.
pub async fn run(
    target: &Arc<Target>,
    settings: &Settings,
    mut progress: impl FnMut(&Second, f64),
) -> Result<Run, Failure> {
    settings.pace.check()?;
    let start = Instant::now();
    let begin = start + settings.warm_up;
    let end = begin + settings.measure;
    let shared = Arc::new(Shared {
        target: Arc::clone(target),
        recorder: Recorder::new(),
        payload: Bytes::from(vec![7; settings.payload_bytes]),
        start,
        begin,
        end,
        stop: AtomicBool::new(false),
        open: AtomicUsize::new(0),
        not_sent: AtomicU64::new(0),
        broken: std::sync::Mutex::default(),
    });
    let _stop = StopOnDrop(Arc::clone(&shared));
    let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut clients = JoinSet::new();
    let pacer = match settings.pace {
        Pace::Closed { clients: count } => {
            for client in 0..count as u64 {
                clients.spawn(stay(Arc::clone(&shared), client, count as u64));
            }
            None
        }
        Pace::Open { rate } => {
            let (shared, runtime) = (Arc::clone(&shared), tokio::runtime::Handle::current());
            let max_open = settings.max_open;
            Some(thread::spawn(move || pace(&shared, &runtime, rate, max_open)))
        }
    };
    tokio::time::sleep_until(begin.into()).await;
    let (before, sent_before) = (target.taken()?, target.sent_bytes().await);
    let mut series: Vec<Second> = Vec::new();
    let mut peak_resident_bytes = before.usage.map(|usage| usage.resident_bytes);
    let mut all = recorder::Shard::new();
    let (mut at, mut cut) = (begin, begin);
    while at < end && !shared.stop.load(Ordering::Relaxed) {
        at = (at + INTERVAL).min(end);
        tokio::time::sleep_until(at.into()).await;
        let shard = shared.recorder.drain();
        let (taken, resident_bytes) = (at - cut, target.taken()?.usage.map(|usage| usage.resident_bytes));
        cut = at;
        peak_resident_bytes = peak_resident_bytes.max(resident_bytes);
        let second = Second::new((at - begin).as_secs_f64(), taken, &shard, resident_bytes);
        let done = (at - begin).as_secs_f64() / settings.measure.as_secs_f64();
        progress(&second, done);
        series.push(second);
        all.add(&shard);
    }
    let (used, sent) = (target.taken()?, target.sent_bytes().await);
    let in_time = all.done();
    if let Some(pacer) = pacer {
        let joined = tokio::task::spawn_blocking(move || pacer.join()).await;
        joined?.map_err(|_| "the pacer panicked")?;
    }
    shared.stop.store(true, Ordering::Relaxed);
    while clients.join_next().await.is_some() {}
    // What is still under way ends by its own time-out, and counts.
    while shared.open.load(Ordering::Acquire) > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    all.add(&shared.recorder.drain());
    if let Some(broken) = shared.broken.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() {
        return Err(broken.into());
    }
    let of = |count: u64| count as f64 / in_time.max(1) as f64;
    let usage = used.usage.zip(before.usage).map(|(now, before)| now.since(before));
    Ok(Run {
        began_unix_ms: u64::try_from(began.as_millis()).unwrap_or(u64::MAX),
        operations: all.done(),
        operations_per_second: in_time as f64 / settings.measure.as_secs_f64(),
        refused: all.refused,
        unknown: all.unknown,
        not_sent: shared.not_sent.load(Ordering::Relaxed),
        latency_us: all.percentiles(),
        curve: all.curve(),
        cpu_us_per_operation: usage.map(|usage| usage.cpu.as_secs_f64() * 1e6 / in_time.max(1) as f64),
        peak_resident_bytes,
        written_bytes_per_operation: usage.map(|usage| of(usage.written_bytes)),
        sent_bytes_per_operation: sent
            .zip(sent_before)
            .and_then(|(now, before)| now.checked_sub(before))
            .map(of),
        processes_ended: used.ended,
        series,
    })
}

/// A client of the closed loop.
async fn stay(shared: Arc<Shared>, client: u64, clients: u64) {
    let mut number = client;
    while !shared.stop.load(Ordering::Relaxed) {
        let outcome = shared.operate(number, Instant::now()).await;
        number += clients;
        if outcome == Outcome::Refused {
            tokio::time::sleep(PAUSE).await;
        }
        // A target that answers at once must not keep others from running.
        tokio::task::coop::consume_budget().await;
    }
}

/// Lets operations begin when they are due. A thread of its own, so that a busy runtime cannot hold it up.
fn pace(shared: &Arc<Shared>, runtime: &tokio::runtime::Handle, rate: f64, max_open: usize) {
    let start = shared.start;
    let due = |number: u64| start + Duration::from_secs_f64(number as f64 / rate);
    let mut next = 0_u64;
    while due(next) < shared.end {
        if shared.stop.load(Ordering::Relaxed) || Instant::now() > shared.end + GRACE {
            break;
        }
        if let Some(wait) = due(next).checked_duration_since(Instant::now()) {
            thread::sleep(wait);
        }
        let now = Instant::now();
        let mut batch = Vec::new();
        let mut looked_at = 0;
        while looked_at < MOST_AT_ONCE && due(next) <= now && due(next) < shared.end {
            let at = due(next);
            if shared.open.fetch_add(1, Ordering::AcqRel) < max_open {
                batch.push((next, at));
            } else {
                shared.open.fetch_sub(1, Ordering::AcqRel);
                if shared.counts(at) {
                    shared.not_sent.fetch_add(1, Ordering::Relaxed);
                }
            }
            (next, looked_at) = (next + 1, looked_at + 1);
        }
        let shared = Arc::clone(shared);
        runtime.spawn(async move {
            for (number, due) in batch {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    shared.operate(number, due).await;
                    shared.open.fetch_sub(1, Ordering::AcqRel);
                });
            }
        });
    }
    if due(next) < shared.end {
        // This thread itself cannot keep up with the rate.
        let until = |time: Instant| (time.duration_since(start).as_secs_f64() * rate).ceil() as u64;
        let left = until(shared.end).saturating_sub(next.max(until(shared.begin)));
        shared.not_sent.fetch_add(left, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_one_that_can_be_kept_and_told_from_others() {
        for rate in [0.0, -1.0, 1e-300, 1e300, f64::INFINITY, f64::NAN] {
            let told = Pace::Open { rate }.check().unwrap_err();
            assert!(told.contains("0.001 to 1000000000"), "{told}");
        }
        for rate in [0.001, 0.5, 20_000.0, 1e9] {
            assert_eq!(Pace::Open { rate }.check(), Ok(()));
        }
        assert!(Pace::Closed { clients: 0 }.check().is_err());
        assert_eq!(Pace::Open { rate: 0.25 }.name(), "open, 0.25/s");
        assert_eq!(Pace::Open { rate: 20_000.0 }.name(), "open, 20000/s");
    }
}
