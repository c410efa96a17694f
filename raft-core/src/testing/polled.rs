//! Futures without a runtime.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// How often a future is polled before it is taken to wait for a runtime.
const MAX_POLLS: usize = 1_000;

/// What a future that needs no runtime gives; `None` where it waits for something from outside.
pub(crate) fn poll<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..MAX_POLLS {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return Some(value);
        }
    }
    None
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// What a future gives that is woken from another thread, this one waiting for it; `None` where it is not done in time.
pub(crate) fn wait<T>(future: impl Future<Output = T>, patience: Duration) -> Option<T> {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let start = Instant::now();
    loop {
        // Looked at before the poll: what is done by then is taken, however late this thread comes.
        let left = patience.saturating_sub(start.elapsed());
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return Some(value);
        }
        if left.is_zero() {
            return None;
        }
        thread::park_timeout(left);
    }
}
