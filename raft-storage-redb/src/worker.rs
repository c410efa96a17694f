//! A thread with a state of its own that does one job after another, so that blocking work needs no runtime and stalls none.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Sender, channel};
use std::thread::{Builder, JoinHandle};

use tokio::sync::oneshot;

use crate::error::Panicked;

type Job<S> = Box<dyn FnOnce(&mut S) + Send>;

/// Dropping it waits for the jobs already given, and for the state to be dropped.
pub(crate) struct Worker<S> {
    /// `None` only while being dropped: closing the channel ends the thread.
    jobs: Option<Sender<Job<S>>>,
    thread: Option<JoinHandle<()>>,
}

impl<S: Send + 'static> Worker<S> {
    pub(crate) fn start(name: &str, mut state: S) -> io::Result<Self> {
        let (jobs, given) = channel::<Job<S>>();
        let thread = Builder::new().name(name.to_owned()).spawn(move || {
            while let Ok(job) = given.recv() {
                // A panic has ended the job; whoever waits for it finds out by its reply's end.
                let _ = catch_unwind(AssertUnwindSafe(|| job(&mut state)));
            }
        })?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Gives the thread something to do; `false` if it is gone. A panic in it is caught.
    pub(crate) fn give(&self, work: impl FnOnce(&mut S) + Send + 'static) -> bool {
        self.jobs.as_ref().is_some_and(|jobs| jobs.send(Box::new(work)).is_ok())
    }

    /// Does `work` on the thread, also if the future is dropped. A panic in it is caught.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut S) -> T + Send + 'static,
    ) -> Result<T, Panicked> {
        let (reply, done) = oneshot::channel();
        let given = self.give(move |state| {
            let outcome = catch_unwind(AssertUnwindSafe(|| work(state)));
            // Nobody waits any more where this fails.
            let _ = reply.send(outcome.map_err(|payload| Panicked::new(&*payload)));
        });
        if given { done.await.unwrap_or_else(|_| Err(Panicked::stopped())) } else { Err(Panicked::stopped()) }
    }
}

impl<S> Drop for Worker<S> {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // Jobs do not panic outside `catch_unwind`; if the state's drop did, it has been reported.
            let _ = thread.join();
        }
    }
}
