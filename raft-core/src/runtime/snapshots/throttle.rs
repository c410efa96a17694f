//! Limits how fast a node sends snapshots, all of them together.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use super::super::mailbox::lock;

/// How much of the time that went unused may be made up for.
const CREDIT: Duration = Duration::from_millis(100);

/// A token bucket, kept as the time at which it is full enough again.
#[derive(Debug)]
pub(super) struct Throttle {
    bytes_per_second: Option<u64>,
    free_at: Mutex<Instant>,
}

impl Throttle {
    pub(super) fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second, free_at: Mutex::new(Instant::now()) }
    }

    /// Waits until `bytes` may go.
    pub(super) async fn pass(&self, bytes: usize) {
        let Some(rate) = self.bytes_per_second else { return };
        let nanos = bytes as u128 * 1_000_000_000 / u128::from(rate.max(1));
        let takes = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let start = {
            let mut free_at = lock(&self.free_at);
            let now = Instant::now();
            let start = (*free_at).max(now.checked_sub(CREDIT).unwrap_or(now));
            *free_at = start.checked_add(takes).unwrap_or(start);
            start
        };
        tokio::time::sleep_until(start).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_pass_at_the_rate_however_many_take_part() {
        let throttle = Throttle::new(Some(1_000_000));
        let start = Instant::now();
        let work = async {
            for _ in 0..20 {
                throttle.pass(100_000).await;
            }
        };
        let other = async {
            for _ in 0..20 {
                throttle.pass(100_000).await;
            }
        };
        tokio::join!(work, other);
        let took = start.elapsed();
        // The last piece passes when those before it are through.
        assert!(took >= Duration::from_millis(3700) && took <= Duration::from_millis(4000), "{took:?}");
        tokio::time::sleep(Duration::from_secs(60)).await;
        let start = Instant::now();
        throttle.pass(1_000_000).await;
        throttle.pass(1).await;
        assert!(start.elapsed() >= Duration::from_millis(850), "idle time is not saved up");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nothing_waits() {
        let start = Instant::now();
        Throttle::new(None).pass(usize::MAX).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
