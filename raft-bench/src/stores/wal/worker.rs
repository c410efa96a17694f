//! A thread that does one job after another on a state of its own, so that a slow disk stalls no executor.

use std::io;
use std::sync::mpsc::{Sender, channel};
use std::thread::{Builder, JoinHandle};

use tokio::sync::oneshot;

type Job<S> = Box<dyn FnOnce(&mut S) + Send>;

/// Dropping it waits for the jobs already given.
pub(super) struct Worker<S> {
    /// `None` only while being dropped: closing the channel ends the thread.
    jobs: Option<Sender<Job<S>>>,
    thread: Option<JoinHandle<()>>,
}

impl<S: Send + 'static> Worker<S> {
    pub(super) fn start(name: &str, mut state: S) -> io::Result<Self> {
        let (jobs, given) = channel::<Job<S>>();
        let run = move || given.iter().for_each(|job| job(&mut state));
        let thread = Builder::new().name(name.to_owned()).spawn(run)?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Does `work` on the thread, also if the future is dropped; `None` where the thread has stopped.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut S) -> T + Send + 'static,
    ) -> Option<T> {
        let (reply, done) = oneshot::channel();
        let job: Job<S> = Box::new(move |state| {
            // Nobody waits any more where this fails.
            let _ = reply.send(work(state));
        });
        self.jobs.as_ref()?.send(job).ok()?;
        done.await.ok()
    }
}

impl<S> Drop for Worker<S> {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic in it was reported when it happened, and every call since has failed.
            let _ = thread.join();
        }
    }
}
