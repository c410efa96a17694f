//! The group's clock. It counts on while the machine is suspended, where the system tells: a lease must be over then.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::types::Time;

/// Time since the node was started. Never goes back.
pub(crate) struct Clock {
    origin: Instant,
    /// How long the machine had been suspended when the node was started.
    suspended_before: Duration,
    /// How long it has been since then, in microseconds.
    suspended: AtomicU64,
}

/// Two clocks cannot be read at once: a smaller difference between them is none.
const RESOLUTION: Duration = Duration::from_millis(1);

impl Clock {
    pub(crate) fn new() -> Self {
        let suspended_before = suspended().unwrap_or_default();
        Self { origin: Instant::now(), suspended_before, suspended: AtomicU64::new(0) }
    }

    pub(crate) fn now(&self) -> Time {
        self.origin.elapsed() + self.suspended_since()
    }

    /// When the timers of the runtime, which may stand still during a suspension, are to fire for `time`.
    pub(crate) fn instant(&self, time: Time) -> Instant {
        self.origin + time.saturating_sub(Duration::from_micros(self.suspended.load(Ordering::Relaxed)))
    }

    fn suspended_since(&self) -> Duration {
        let known = Duration::from_micros(self.suspended.load(Ordering::Relaxed));
        let Some(measured) = suspended() else { return known };
        self.count(measured.saturating_sub(self.suspended_before), known)
    }

    fn count(&self, measured: Duration, known: Duration) -> Duration {
        if measured <= known + RESOLUTION {
            return known;
        }
        let micros = u64::try_from(measured.as_micros()).unwrap_or(u64::MAX);
        let before = self.suspended.fetch_max(micros, Ordering::Relaxed);
        Duration::from_micros(before.max(micros))
    }
}

/// How long the machine has been suspended since it was booted; `None` where the process stood still between two looks, so that it
/// cannot be told, or the system does not tell.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn suspended() -> Option<Duration> {
    use rustix::time::{ClockId, Timespec, clock_gettime};

    let time = |Timespec { tv_sec, tv_nsec }: Timespec| {
        Duration::new(u64::try_from(tv_sec).unwrap_or_default(), u32::try_from(tv_nsec).unwrap_or_default())
    };
    const LOOKS: usize = 8;
    (0..LOOKS).find_map(|_| {
        let before = time(clock_gettime(ClockId::Monotonic));
        let all = time(clock_gettime(ClockId::Boottime));
        let after = time(clock_gettime(ClockId::Monotonic));
        (after.saturating_sub(before) < RESOLUTION).then(|| all.saturating_sub(before))
    })
}

/// Elsewhere the clock that tells of a suspension is not at hand.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn suspended() -> Option<Duration> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suspension_counts_once_it_is_longer_than_two_looks_differ() {
        let clock = Clock::new();
        assert_eq!(clock.suspended_since(), Duration::ZERO);
        let count = |millis| clock.count(Duration::from_millis(millis), clock.suspended_since()).as_millis();
        assert_eq!(
            [0, 1, 2, 60_000, 59_000, 60_001, 60_002].map(count),
            [0, 0, 2, 60_000, 60_000, 60_000, 60_002]
        );
        assert!(clock.now() >= Duration::from_millis(60_002));
    }

    #[tokio::test(start_paused = true)]
    async fn timers_fire_when_the_clock_shows_their_time() {
        let clock = Clock::new();
        clock.suspended.store(60_000_000, Ordering::Relaxed);
        let due = clock.now() + Duration::from_secs(5);
        tokio::time::sleep_until(clock.instant(due)).await;
        assert!(clock.now() >= due);
        assert!(clock.now() < due + Duration::from_secs(1));
    }
}
