//! Real nodes on bad networks: a relay stands between them that cuts, loses, delays, repeats and throttles. Where the machine allows
//! it, also with an interface each, which the system takes down.
//!
//! `RAFT_KV_NETWORK=full` runs at full length, as the table in `docs/transport.md` was made; `RAFT_KV_ONLY=flapping` runs the
//! conditions whose name contains that; `RAFT_SEED` repeats which datagrams are lost.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/namespaces.rs"]
mod namespaces;
#[path = "support/relay.rs"]
mod relay;
mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use namespaces::Namespaces;
use raft_kv::client::Client;
use relay::{Link, Relay};
use support::{Cluster, PATIENCE, eventually, exit_code, run, stderr};

/// The default of raft-core, which `raft-kv serve` runs with.
const ELECTION_TIMEOUT: Duration = Duration::from_millis(500);

const WRITERS: usize = 16;

/// Beyond this, a test process that was not run for a while says nothing about the nodes, which had no processor either.
const MAX_STALL: Duration = Duration::from_millis(200);

/// How often a condition is tried anew where the machine stalled.
const TRIES: usize = 5;

/// How long the conditions last.
struct Lengths {
    /// For those that are only measured.
    usual: Duration,
    /// For a cut link.
    cut: Duration,
    /// For a node that is away.
    away: Duration,
}

impl Lengths {
    fn chosen() -> Self {
        match std::env::var("RAFT_KV_NETWORK").as_deref() {
            Ok("full") => Self {
                usual: Duration::from_secs(20),
                cut: 100 * ELECTION_TIMEOUT,
                away: Duration::from_secs(60),
            },
            _ => Self {
                usual: Duration::from_millis(1500),
                cut: 6 * ELECTION_TIMEOUT,
                away: 6 * ELECTION_TIMEOUT,
            },
        }
    }
}

/// A cluster behind a relay, a load on it, and what is seen of it.
struct Stage {
    cluster: Cluster,
    relay: Relay,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    stop: AtomicBool,
    /// When writes were acknowledged.
    acknowledged: Mutex<Vec<Instant>>,
    /// Who led in each term, and when that was first seen.
    leaders: Mutex<BTreeMap<u64, (u64, Instant)>>,
    /// How long this process was not run, and when that was over.
    stalls: Mutex<Vec<(Instant, Duration)>>,
}

/// What a condition came to.
struct Outcome {
    condition: &'static str,
    length: Duration,
    leader_changes: usize,
    longest_gap: Duration,
    writes_per_second: f64,
    stalled: Duration,
}

impl Stage {
    /// Nodes that reach each other by a relay.
    async fn start(count: u64, seed: u64) -> Self {
        let cluster = Cluster::prepare(count);
        let nodes = cluster.nodes.iter().map(|node| (node.id, node.raft)).collect();
        let relay = Relay::start(nodes, seed).await;
        let addresses = cluster.nodes.iter().map(|node| relay.address(node.id)).collect();
        Self::found(cluster, addresses, relay).await
    }

    /// Nodes that reach each other by an interface each.
    async fn start_in(namespaces: &Namespaces, count: u64) -> Self {
        let mut cluster = Cluster::prepare(count);
        for node in &mut cluster.nodes {
            (node.raft, node.http) = (namespaces.address(node.id, 7000), namespaces.address(node.id, 8000));
            node.network = Some(namespaces::name(node.id));
        }
        let addresses = cluster.nodes.iter().map(|node| node.raft).collect();
        Self::found(cluster, addresses, Relay::start(Vec::new(), 0).await).await
    }

    /// Starts the nodes, which reach each other at `addresses`, and founds their cluster.
    async fn found(mut cluster: Cluster, addresses: Vec<SocketAddr>, relay: Relay) -> Self {
        for node in &mut cluster.nodes {
            node.start().await;
        }
        let members = cluster.nodes.iter().zip(addresses);
        let members = members.map(|(node, address)| format!("{}={address},{}", node.id, node.http));
        let init: Vec<String> = std::iter::once("init".to_owned()).chain(members).collect();
        let founded =
            tokio::task::spawn_blocking(move || run(&init.iter().map(String::as_str).collect::<Vec<_>>()));
        let founded = founded.await.unwrap();
        assert_eq!(exit_code(&founded), 0, "{}", stderr(&founded));
        let seen = Arc::new(Seen::default());
        let stage = Self { cluster, relay, seen };
        stage.load();
        stage.watch();
        stage.watch_ourselves();
        stage
    }

    /// Clients that write all the time, each waiting for its answer.
    fn load(&self) {
        for writer in 0..WRITERS {
            let client = Client::new(&self.cluster.addresses()).unwrap().with_timeout(2 * ELECTION_TIMEOUT);
            let seen = Arc::clone(&self.seen);
            tokio::spawn(async move {
                let key = format!("writer/{writer}");
                while !seen.stop.load(Ordering::Relaxed) {
                    if client.put(&key, Bytes::from_static(&[7; 100])).await.is_ok() {
                        seen.acknowledged.lock().unwrap().push(Instant::now());
                    }
                }
            });
        }
    }

    /// Asks every node all the time whether it leads.
    fn watch(&self) {
        for place in 0..self.cluster.nodes.len() {
            let client = Client::new(&self.cluster.addresses()).unwrap().with_timeout(ELECTION_TIMEOUT);
            let seen = Arc::clone(&self.seen);
            tokio::spawn(async move {
                while !seen.stop.load(Ordering::Relaxed) {
                    if let Ok(status) = client.status(place).await
                        && status.role == "leader"
                    {
                        let now = Instant::now();
                        seen.leaders.lock().unwrap().entry(status.term).or_insert((status.node, now));
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            });
        }
    }

    /// Notes when the machine did not let us run: then the nodes did not run either.
    fn watch_ourselves(&self) {
        const STEP: Duration = Duration::from_millis(5);
        let seen = Arc::clone(&self.seen);
        std::thread::spawn(move || {
            while !seen.stop.load(Ordering::Relaxed) {
                let before = Instant::now();
                std::thread::sleep(STEP);
                let stalled = before.elapsed().saturating_sub(STEP);
                if stalled > STEP {
                    seen.stalls.lock().unwrap().push((Instant::now(), stalled));
                }
            }
        });
    }

    fn ids(&self) -> Vec<u64> {
        self.cluster.nodes.iter().map(|node| node.id).collect()
    }

    /// Heals everything, and waits until one leads and all follow it. Gives the leader's id.
    async fn healthy(&self) -> u64 {
        self.relay.set_all(Link::default());
        let leader = eventually("all nodes follow one leader", async || {
            let mut leaders = Vec::new();
            for node in &self.cluster.nodes {
                leaders.push(node.status().await?.leader?);
            }
            leaders.iter().all(|leader| *leader == leaders[0]).then_some(leaders[0])
        })
        .await;
        // And that it can be written to.
        let before = self.seen.acknowledged.lock().unwrap().len();
        eventually("writes are acknowledged", async || {
            (self.seen.acknowledged.lock().unwrap().len() > before + WRITERS).then_some(())
        })
        .await;
        leader
    }

    /// Two nodes that do not lead.
    fn followers(&self, leader: u64) -> (u64, u64) {
        let mut followers = self.ids().into_iter().filter(|id| *id != leader);
        (followers.next().unwrap(), followers.next().unwrap())
    }

    /// Watches for `length`; what `during` does in it belongs to it.
    async fn measure(
        &self,
        condition: &'static str,
        length: Duration,
        during: impl AsyncFnOnce(&Relay),
    ) -> Outcome {
        let begin = Instant::now();
        let led = self.seen.leaders.lock().unwrap().last_key_value().map_or(0, |(term, _)| *term);
        during(&self.relay).await;
        tokio::time::sleep_until((begin + length).into()).await;
        let end = Instant::now();
        let acknowledged = self.seen.acknowledged.lock().unwrap();
        let times = || acknowledged.iter().copied().filter(|at| (begin..end).contains(at));
        let mut longest_gap = Duration::ZERO;
        let mut last = begin;
        for at in times().chain([end]) {
            longest_gap = longest_gap.max(at.saturating_duration_since(last));
            last = last.max(at);
        }
        let leader_changes = self.seen.leaders.lock().unwrap().range(led + 1..).count();
        let stalls = self.seen.stalls.lock().unwrap();
        let stalled = stalls.iter().filter(|(at, _)| *at >= begin).map(|(_, long)| *long).max();
        let outcome = Outcome {
            condition,
            length: end - begin,
            leader_changes,
            longest_gap,
            writes_per_second: times().count() as f64 / (end - begin).as_secs_f64(),
            stalled: stalled.unwrap_or_default(),
        };
        println!("{outcome}");
        outcome
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.seen.stop.store(true, Ordering::Relaxed);
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "| {:<44} | {:>5.1} s | {:>2} | {:>6} ms | {:>8.0} | {:>4} ms |",
            self.condition,
            self.length.as_secs_f64(),
            self.leader_changes,
            self.longest_gap.as_millis(),
            self.writes_per_second,
            self.stalled.as_millis()
        )
    }
}

const HEADER: &str = "| condition | length | leader changes | longest time without a write | writes/s | the test itself stalled |\n\
                      | --- | --- | --- | --- | --- | --- |";

/// Runs a condition until the machine let it run, and says whether more than `limit` leader changes came of it.
async fn check(stage: &Stage, limit: usize, mut run: impl AsyncFnMut(&Stage, u64) -> Outcome) {
    for _ in 0..TRIES {
        let leader = stage.healthy().await;
        let outcome = run(stage, leader).await;
        if outcome.leader_changes <= limit {
            return;
        }
        assert!(
            outcome.stalled > MAX_STALL,
            "{}: {} leader changes, at most {limit} were expected",
            outcome.condition,
            outcome.leader_changes
        );
    }
    panic!("the machine stalled in each of {TRIES} tries: give it less to do");
}

fn seed() -> u64 {
    let seed = std::env::var("RAFT_SEED").ok().map(|text| text.parse().unwrap());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("RAFT_SEED={seed}");
    seed
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes() {
    let lengths = Lengths::chosen();
    let only = std::env::var("RAFT_KV_ONLY").unwrap_or_default();
    let stage = Stage::start(3, seed()).await;
    println!("{HEADER}");
    let wanted = |name: &str| name.contains(&only);

    if wanted("no fault") {
        check(&stage, 0, async |stage, _| stage.measure("no fault", lengths.usual, async |_| {}).await).await;
    }
    if wanted("link cut") {
        check(&stage, 2, async |stage, leader| {
            let (follower, _) = stage.followers(leader);
            let cut = async |relay: &Relay| relay.set(leader, follower, Link::CUT);
            stage.measure("link cut, leader and follower", lengths.cut, cut).await
        })
        .await;
        check(&stage, 2, async |stage, leader| {
            let (a, b) = stage.followers(leader);
            let cut = async |relay: &Relay| relay.set(a, b, Link::CUT);
            stage.measure("link cut, two followers", lengths.usual, cut).await
        })
        .await;
    }
    if wanted("one way") {
        check(&stage, 2, async |stage, leader| {
            let (follower, _) = stage.followers(leader);
            let cut = async |relay: &Relay| relay.set_one_way(leader, follower, Link::CUT);
            stage.measure("one way cut, leader to follower", lengths.usual, cut).await
        })
        .await;
        check(&stage, 2, async |stage, leader| {
            let (follower, _) = stage.followers(leader);
            let cut = async |relay: &Relay| relay.set_one_way(follower, leader, Link::CUT);
            stage.measure("one way cut, follower to leader", lengths.usual, cut).await
        })
        .await;
    }
    if wanted("away") {
        check(&stage, 0, async |stage, leader| {
            let (follower, _) = stage.followers(leader);
            let length = lengths.away + 4 * ELECTION_TIMEOUT;
            let away = async |relay: &Relay| {
                relay.set_around(follower, Link::CUT);
                tokio::time::sleep(lengths.away).await;
                relay.set_around(follower, Link::default());
            };
            stage.measure("follower away, and back", length, away).await
        })
        .await;
        check(&stage, 1, async |stage, leader| {
            let length = lengths.usual + 4 * ELECTION_TIMEOUT;
            let away = async |relay: &Relay| {
                relay.set_around(leader, Link::CUT);
                tokio::time::sleep(lengths.usual).await;
                relay.set_around(leader, Link::default());
            };
            stage.measure("leader away, and back", length, away).await
        })
        .await;
    }
    if wanted("flapping") {
        check(&stage, 2, async |stage, leader| {
            let (follower, _) = stage.followers(leader);
            let flap = async |relay: &Relay| {
                let end = Instant::now() + lengths.usual;
                while Instant::now() < end {
                    relay.set(leader, follower, Link::CUT);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    relay.set(leader, follower, Link::default());
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            };
            stage.measure("flapping link, 100 ms cut, 100 ms whole", lengths.usual, flap).await
        })
        .await;
    }
    for (name, link) in [
        ("30 % loss", Link { loss: 0.3, ..Link::default() }),
        ("200 ms round trips", Link { delay: Duration::from_millis(100), ..Link::default() }),
        (
            "20 % repeated, 20 ms of reordering",
            Link { repeat: 0.2, jitter: Duration::from_millis(20), ..Link::default() },
        ),
        ("throttled to 2 Mbit/s, every link", Link { bytes_per_second: Some(250_000), ..Link::default() }),
    ] {
        if wanted(name) {
            check(&stage, 2, async |stage, _| {
                stage.measure(name, lengths.usual, async |relay| relay.set_all(link)).await
            })
            .await;
        }
    }
    if wanted("throttled") {
        check(&stage, 0, async |stage, leader| {
            let (follower, _) = stage.followers(leader);
            let link = Link { bytes_per_second: Some(25_000), ..Link::default() };
            let throttle = async |relay: &Relay| relay.set(leader, follower, link);
            stage.measure("throttled to 200 kbit/s, one follower", lengths.usual, throttle).await
        })
        .await;
    }
    // After all of it, the nodes hold the same.
    stage.healthy().await;
    stage.seen.stop.store(true, Ordering::Relaxed);
    stage.cluster.settled().await;
}

/// Five nodes that only reach each other through one of them, which does not lead at first.
#[tokio::test(flavor = "multi_thread")]
async fn a_hub() {
    let only = std::env::var("RAFT_KV_ONLY").unwrap_or_default();
    if !"hub".contains(&only) {
        return;
    }
    let lengths = Lengths::chosen();
    let stage = Stage::start(5, seed()).await;
    check(&stage, 2, async |stage, leader| {
        let (hub, _) = stage.followers(leader);
        let cut = async |relay: &Relay| {
            relay.set_all(Link::CUT);
            relay.set_around(hub, Link::default());
        };
        let length = lengths.usual + 4 * ELECTION_TIMEOUT;
        let outcome = stage.measure("hub of five, the leader is a spoke", length, cut).await;
        let acknowledged = outcome.longest_gap < length.min(PATIENCE);
        assert!(acknowledged, "the hub could lead, and nobody does");
        outcome
    })
    .await;
    stage.healthy().await;
    stage.seen.stop.store(true, Ordering::Relaxed);
    stage.cluster.settled().await;
}

/// The same with the system's own errors: nothing goes out and nothing comes in, and whoever sends is told so.
#[test]
fn interfaces() {
    let only = std::env::var("RAFT_KV_ONLY").unwrap_or_default();
    if !"interfaces".contains(&only) || !namespaces::enter("interfaces") {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let lengths = Lengths::chosen();
        let namespaces = Namespaces::create(3);
        let stage = Stage::start_in(&namespaces, 3).await;
        let length = lengths.usual + 4 * ELECTION_TIMEOUT;
        check(&stage, 2, async |stage, leader| {
            let (follower, _) = stage.followers(leader);
            let without = async |_: &Relay| {
                namespaces.set_way(leader, follower, false);
                tokio::time::sleep(lengths.usual).await;
                namespaces.set_way(leader, follower, true);
            };
            stage.measure("no way between leader and follower, and back", length, without).await
        })
        .await;
        for (name, limit, leads) in [
            ("interface of a follower down, and up again", 0, false),
            ("interface of the leader down, and up again", 1, true),
        ] {
            check(&stage, limit, async |stage, leader| {
                let (follower, _) = stage.followers(leader);
                let node = if leads { leader } else { follower };
                let down = async |_: &Relay| {
                    namespaces.set_interface(node, false);
                    tokio::time::sleep(lengths.usual).await;
                    namespaces.set_interface(node, true);
                };
                stage.measure(name, length, down).await
            })
            .await;
        }
        stage.healthy().await;
        stage.seen.stop.store(true, Ordering::Relaxed);
        stage.cluster.settled().await;
    });
}
