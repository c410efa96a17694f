//! Disks in trouble below real processes: the leader's stalls, the leader's and a follower's are full. Nothing confirmed is lost,
//! the others go on, and the node says what is wrong and is itself again afterwards.
//!
//! `RAFT_KV_STALL_SECONDS` sets how long a disk stalls.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic, and tells what it measured")]

mod support;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_kv::api::ErrorCode;
use raft_kv::client::{Client, ClientError};
use raft_kv::command::Range;
use support::{Cluster, PATIENCE, eventually};
use tokio::task::{JoinHandle, JoinSet};

/// A cluster whose disks each have a file that says what is wrong with them.
async fn start() -> Cluster {
    let mut cluster = Cluster::prepare(3);
    for node in &mut cluster.nodes {
        node.may_have_trouble();
    }
    cluster.found().await;
    cluster
}

/// A new write every so often, whatever became of those before: a client who waits for a stalled node keeps nobody from
/// asking another.
const WRITE_EVERY: Duration = Duration::from_millis(10);

/// Writes of keys of their own, until they are stopped.
struct Load {
    stop: Arc<AtomicBool>,
    confirmed: Arc<Mutex<Vec<(Instant, String)>>>,
    writer: JoinHandle<()>,
}

impl Load {
    fn start(addresses: &[String]) -> Self {
        let (stop, confirmed) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<_>>>::default());
        let client = Arc::new(Client::new(addresses).unwrap().with_timeout(PATIENCE));
        let (stopped, told) = (Arc::clone(&stop), Arc::clone(&confirmed));
        let writer = tokio::spawn(async move {
            let mut writes = JoinSet::new();
            for number in 0.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let (client, told) = (Arc::clone(&client), Arc::clone(&told));
                writes.spawn(async move {
                    let key = format!("key/{number}");
                    match client.put(&key, Bytes::from(vec![b'v'; 1000])).await {
                        Ok(_) => told.lock().unwrap().push((Instant::now(), key)),
                        // It may be there or not: it is not asked for.
                        Err(ClientError::Unknown(_)) => {}
                        Err(error) => panic!("{key}: {error}"),
                    }
                });
                tokio::time::sleep(WRITE_EVERY).await;
            }
            while let Some(ended) = writes.join_next().await {
                ended.unwrap();
            }
        });
        Self { stop, confirmed, writer }
    }

    fn count(&self) -> usize {
        self.confirmed.lock().unwrap().len()
    }

    async fn goes_on(&self, more: usize) {
        let wanted = self.count() + more;
        eventually("writes are confirmed", async || (self.count() >= wanted).then_some(())).await;
    }

    /// All that was confirmed is there, on each node; the longest time without a confirmed write.
    async fn end(self, cluster: &Cluster) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        self.writer.await.unwrap();
        let statuses = cluster.settled().await;
        let mut confirmed = std::mem::take(&mut *self.confirmed.lock().unwrap());
        // All nodes have the same state: what one has, each has.
        let client = Client::new(&cluster.addresses()).unwrap().with_timeout(PATIENCE);
        let mut range = Range { prefix: "key/".into(), limit: 1000, ..Range::default() };
        let mut held = BTreeSet::new();
        loop {
            let page = client.scan(&range, false).await.unwrap();
            held.extend(page.pairs.into_iter().map(|pair| pair.key));
            let Some(next) = page.next else { break };
            range.from = next;
        }
        assert_eq!(statuses.len(), cluster.nodes.len());
        for (_, key) in &confirmed {
            assert!(held.contains(key), "{key} is lost");
        }
        confirmed.sort_unstable();
        confirmed.windows(2).map(|pair| pair[1].0 - pair[0].0).max().unwrap_or_default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_disk_stalls_is_followed_by_another() {
    let seconds = std::env::var("RAFT_KV_STALL_SECONDS").map_or(4, |text| text.parse().unwrap());
    let cluster = start().await;
    let load = Load::start(&cluster.addresses());
    load.goes_on(20).await;
    let led = cluster.leader().await;
    let began = Instant::now();
    cluster.nodes[led].trouble("stall");
    let next = eventually("another node leads", async || {
        for (place, node) in cluster.nodes.iter().enumerate() {
            if place != led && node.status().await.is_some_and(|status| status.role == "leader") {
                return Some(place);
            }
        }
        None
    })
    .await;
    let took = began.elapsed();
    load.goes_on(20).await;
    let resumed = began.elapsed();
    // The stall is as long as it is to be, whatever the others do meanwhile.
    tokio::time::sleep(Duration::from_secs(seconds).saturating_sub(began.elapsed())).await;
    let stalled = cluster.nodes[led].status().await.unwrap();
    assert_ne!(stalled.role, "leader");
    assert_eq!(stalled.fatal, None, "it waits for its disk");
    cluster.nodes[led].trouble("");
    load.goes_on(20).await;
    let longest = load.end(&cluster).await;
    println!(
        "stall of {seconds} s on node {}: node {} leads after {took:.0?}, writes go on after {resumed:.0?}, longest gap {longest:.0?}",
        cluster.nodes[led].id, cluster.nodes[next].id
    );
}

/// Fills a node's disk, waits until it says so, makes room, and starts it again.
async fn fill_and_mend(cluster: &mut Cluster, place: usize, load: &Load) {
    cluster.nodes[place].trouble("full");
    let status = eventually("the node says that its disk is full", async || {
        cluster.nodes[place].status().await.filter(|status| status.fatal.is_some())
    })
    .await;
    let reason = status.fatal.unwrap();
    assert!(reason.contains("full") || reason.contains("room") || reason.contains("space"), "{reason}");
    assert_ne!(status.role, "leader");
    // The others go on; the node itself refuses, and passes nothing on.
    load.goes_on(20).await;
    let own =
        Client::new(&[cluster.nodes[place].http.to_string()]).unwrap().with_timeout(Duration::from_secs(2));
    let refused = own.get("key/0", false).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::Failed), "{refused}");
    println!("node {}: {reason}", status.node);
    cluster.nodes[place].trouble("");
    cluster.nodes[place].kill();
    cluster.nodes[place].start().await;
    load.goes_on(20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_its_node_alone() {
    let mut cluster = start().await;
    let load = Load::start(&cluster.addresses());
    load.goes_on(20).await;
    let leader = cluster.leader().await;
    fill_and_mend(&mut cluster, leader, &load).await;
    let follower = (cluster.leader().await + 1) % 3;
    fill_and_mend(&mut cluster, follower, &load).await;
    let longest = load.end(&cluster).await;
    println!("full disks on the leader, then on a follower: longest gap {longest:.0?}");
}
