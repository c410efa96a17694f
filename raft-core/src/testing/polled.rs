//! Futures without a runtime.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

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
