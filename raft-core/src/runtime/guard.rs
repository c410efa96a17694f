//! Keeps a panic of foreign code within the call that it came from.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::{Context, Poll};

/// Polls `future`; a panic becomes an error that says what was panicked with. The future must not be polled again then.
pub(super) fn poll_guarded<F: Future + Unpin>(
    future: &mut F,
    cx: &mut Context<'_>,
) -> Poll<Result<F::Output, String>> {
    // What the future leaves behind broken is never used again: the group stops.
    match catch_unwind(AssertUnwindSafe(|| std::pin::Pin::new(future).poll(cx))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
        Err(panic) => Poll::Ready(Err(describe(&*panic))),
    }
}

/// Calls `work`; a panic becomes an error. What `work` leaves behind broken must not be used again then.
pub(super) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| describe(&*panic))
}

fn describe(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "of an unknown kind".to_owned());
    format!("panic: {text}")
}

/// [`poll_guarded`] to the end.
pub(super) async fn guarded<F: Future>(future: F) -> Result<F::Output, String> {
    let mut future = pin!(future);
    poll_fn(|cx| poll_guarded(&mut future, cx)).await
}
