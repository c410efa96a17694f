//! Many tasks that write, and read back, all rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cli::Failure;
use crate::client::{Client, ClientError};

/// How long one row may take, elections included, before the demo counts as failed.
const ROW_TIMEOUT: Duration = Duration::from_secs(60);

/// A table that is being loaded.
#[derive(Debug)]
pub(super) struct Load {
    rows: Arc<Vec<(String, Bytes)>>,
    client: Client,
    next: AtomicUsize,
    done: AtomicUsize,
    /// No row at or beyond this place is written before [`Self::leader_died`]: so that the leader dies in the middle of
    /// even the smallest table.
    gate: usize,
    death: watch::Sender<Option<Instant>>,
    /// When the first write that began after the leader's death was confirmed.
    resumed: watch::Sender<Option<Instant>>,
}

impl Load {
    /// Prepares to write `rows` to the cluster at `nodes`.
    pub(super) fn new(rows: Arc<Vec<(String, Bytes)>>, nodes: &[String]) -> Result<Self, Failure> {
        // Each key has one writer and one value, so a write of unknown outcome may be repeated until it is confirmed.
        let client = Client::new(nodes)?.with_timeout(ROW_TIMEOUT).repeating();
        let gate = rows.len() * 3 / 5;
        Ok(Self {
            rows,
            client,
            next: AtomicUsize::new(0),
            done: AtomicUsize::new(0),
            gate,
            death: watch::Sender::new(None),
            resumed: watch::Sender::new(None),
        })
    }

    /// How many rows are confirmed.
    pub(super) fn done(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }

    /// Marks the moment from which on no confirmation can be the old leader's.
    pub(super) fn leader_died(&self) {
        self.death.send_replace(Some(Instant::now()));
    }

    /// Whether writes are confirmed again.
    pub(super) fn resumed_at(&self) -> Option<Instant> {
        *self.resumed.borrow()
    }

    /// Writes all rows with `writers` tasks. Ends when each is confirmed, or with the first that is not.
    pub(super) async fn write_all(self: Arc<Self>, writers: usize) -> Result<(), Failure> {
        let mut tasks = JoinSet::new();
        for _ in 0..writers {
            tasks.spawn(Arc::clone(&self).write_some());
        }
        join_all(tasks).await.map(|_| ())
    }

    async fn write_some(self: Arc<Self>) -> Result<Vec<String>, Failure> {
        let mut death = self.death.subscribe();
        loop {
            let place = self.next.fetch_add(1, Ordering::Relaxed);
            let Some((key, value)) = self.rows.get(place) else { return Ok(Vec::new()) };
            if place >= self.gate {
                // The sender lives as long as `self`.
                let _ = death.wait_for(Option::is_some).await;
            }
            let after_death = self.death.borrow().is_some();
            self.client.put(key, value.clone()).await.map_err(|e| not_done("written", key, &e))?;
            if after_death {
                self.resumed.send_if_modified(|resumed| {
                    let first = resumed.is_none();
                    if first {
                        *resumed = Some(Instant::now());
                    }
                    first
                });
            }
            self.done.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Rows that are being read back.
#[derive(Debug)]
pub(super) struct Check {
    rows: Arc<Vec<(String, Bytes)>>,
    client: Client,
    next: AtomicUsize,
}

impl Check {
    /// Prepares to read `rows` from the cluster at `nodes`.
    pub(super) fn new(rows: Arc<Vec<(String, Bytes)>>, nodes: &[String]) -> Result<Self, Failure> {
        let client = Client::new(nodes)?.with_timeout(ROW_TIMEOUT);
        Ok(Self { rows, client, next: AtomicUsize::new(0) })
    }

    /// How many rows were begun, about.
    pub(super) fn done(&self) -> usize {
        self.next.load(Ordering::Relaxed).min(self.rows.len())
    }

    /// Reads every key linearizably with `readers` tasks; gives those that are lost or differ.
    pub(super) async fn read_all(self: Arc<Self>, readers: usize) -> Result<Vec<String>, Failure> {
        let mut tasks = JoinSet::new();
        for _ in 0..readers {
            tasks.spawn(Arc::clone(&self).read_some());
        }
        join_all(tasks).await
    }

    async fn read_some(self: Arc<Self>) -> Result<Vec<String>, Failure> {
        let mut wrong = Vec::new();
        loop {
            let place = self.next.fetch_add(1, Ordering::Relaxed);
            let Some((key, value)) = self.rows.get(place) else { return Ok(wrong) };
            match self.client.get(key, false).await.map_err(|e| not_done("read", key, &e))? {
                Some(pair) if pair.value == *value => {}
                Some(_) => wrong.push(format!("{key} differs")),
                None => wrong.push(format!("{key} is lost")),
            }
        }
    }
}

fn not_done(what: &str, key: &str, error: &ClientError) -> Failure {
    Failure::refused(format!("key {key} could not be {what}: {error}"))
}

/// What all tasks found; ends the rest with the first failure.
async fn join_all(mut tasks: JoinSet<Result<Vec<String>, Failure>>) -> Result<Vec<String>, Failure> {
    let mut all = Vec::new();
    while let Some(joined) = tasks.join_next().await {
        all.extend(joined.map_err(|e| Failure::refused(format!("a task of the demo failed: {e}")))??);
    }
    Ok(all)
}
