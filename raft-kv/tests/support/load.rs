//! Writes under way while something is done to the cluster.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_kv::client::{Client, ClientError};
use raft_kv::command::Range;
use tokio::task::JoinHandle;

use super::{PATIENCE, eventually};

const WRITERS: usize = 8;

/// Writers of keys of their own, each write after the one before, and what they were told.
pub struct Load {
    stop: Arc<AtomicBool>,
    confirmed: Arc<Mutex<Vec<(Instant, String)>>>,
    unknown: Arc<Mutex<Vec<String>>>,
    writers: Vec<JoinHandle<()>>,
}

impl Load {
    pub fn start(addresses: &[String]) -> Self {
        let mut load = Self {
            stop: Arc::default(),
            confirmed: Arc::default(),
            unknown: Arc::default(),
            writers: Vec::new(),
        };
        for writer in 0..WRITERS {
            let client = Client::new(addresses).unwrap().with_timeout(PATIENCE);
            let (stop, confirmed, unknown) =
                (Arc::clone(&load.stop), Arc::clone(&load.confirmed), Arc::clone(&load.unknown));
            load.writers.push(tokio::spawn(async move {
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let key = format!("key/{writer}/{number}");
                    match client.put(&key, Bytes::from(key.clone())).await {
                        Ok(_) => confirmed.lock().unwrap().push((Instant::now(), key)),
                        Err(ClientError::Unknown(_)) => unknown.lock().unwrap().push(key),
                        Err(error) => panic!("{key}: {error}"),
                    }
                }
            }));
        }
        load
    }

    pub async fn goes_on(&self, more: usize) {
        let wanted = self.confirmed.lock().unwrap().len() + more;
        eventually("writes are confirmed", async || {
            (self.confirmed.lock().unwrap().len() >= wanted).then_some(())
        })
        .await;
    }

    /// The longest time without a confirmed write among those that ended in it, since `began`.
    pub fn longest_gap(&self, began: Instant) -> Duration {
        let mut times: Vec<Instant> = self.confirmed.lock().unwrap().iter().map(|(at, _)| *at).collect();
        times.sort_unstable();
        times
            .windows(2)
            .filter(|pair| pair[1] > began)
            .map(|pair| pair[1] - pair[0])
            .max()
            .unwrap_or_default()
    }

    /// Stops the writers and compares what they were told with what the cluster holds. How many writes were confirmed, and how many are
    /// of unknown outcome; none was refused.
    pub async fn end(self, addresses: &[String]) -> (usize, usize) {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.writers {
            writer.await.unwrap();
        }
        let client = Client::new(addresses).unwrap().with_timeout(PATIENCE);
        let mut held = std::collections::BTreeMap::new();
        let mut range = Range { prefix: "key/".into(), limit: 1000, ..Range::default() };
        loop {
            let page = client.scan(&range, false).await.unwrap();
            held.extend(page.pairs.into_iter().map(|pair| (pair.key, pair.revisions.version)));
            let Some(next) = page.next else { break };
            range.from = next;
        }
        let (confirmed, unknown) =
            (std::mem::take(&mut *self.confirmed.lock().unwrap()), self.unknown.lock().unwrap().clone());
        for (_, key) in &confirmed {
            assert_eq!(held.remove(key), Some(1), "{key} was confirmed, and is there once");
        }
        assert!(held.keys().all(|key| unknown.contains(key)), "only what is unknown may be there besides");
        (confirmed.len(), unknown.len())
    }
}
