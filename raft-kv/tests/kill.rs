//! kill -9 of any node at any moment, under load, restarts included: nothing that was confirmed is lost, nothing that was
//! refused appears, and no change happens twice.
//!
//! `RAFT_KV_KILL_ROUNDS` sets how many rounds, `RAFT_SEED` repeats the choice of victims and moments.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use raft_kv::client::{Client, ClientError};
use raft_kv::command::{Expected, Range};
use support::{Cluster, PATIENCE, eventually};

const WRITERS: usize = 12;

/// How a write ended, as its client was told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Confirmed,
    Unknown,
    Refused,
}

#[derive(Default)]
struct Told {
    confirmed: AtomicUsize,
    stop: AtomicBool,
    /// Each key is written once.
    writes: Mutex<BTreeMap<String, Outcome>>,
}

impl Told {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }
}

fn outcome<T>(result: &Result<T, ClientError>) -> Outcome {
    match result {
        Ok(_) => Outcome::Confirmed,
        Err(ClientError::Unknown(_)) => Outcome::Unknown,
        Err(_) => Outcome::Refused,
    }
}

async fn write_keys(told: Arc<Told>, client: Client, writer: usize) {
    for number in 0.. {
        if !told.goes_on() {
            return;
        }
        let key = format!("key/{writer}/{number}");
        let result = client.put(&key, Bytes::from(value_of(&key))).await;
        told.writes.lock().unwrap().insert(key, outcome(&result));
        if result.is_ok() {
            told.confirmed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn value_of(key: &str) -> String {
    format!("value of {key}")
}

/// Counts up by compare-and-swap; gives how many were confirmed and how many may have happened.
async fn count_up(told: Arc<Told>, client: Client, key: String) -> (u64, u64) {
    let (mut confirmed, mut perhaps) = (0, 0);
    while told.goes_on() {
        let Ok(pair) = client.get(&key, false).await else { continue };
        let (revision, count) =
            pair.map_or((0, 0), |pair| (pair.revisions.modify_revision, number(&pair.value)));
        assert!(
            (confirmed..=confirmed + perhaps).contains(&count),
            "{key}: read {count} after {confirmed} to {perhaps}"
        );
        let next = Bytes::from((count + 1).to_string());
        let result = client.compare_and_swap(&key, &Expected::Revision(revision), next).await;
        match outcome(&result) {
            Outcome::Confirmed => confirmed += 1,
            Outcome::Unknown => perhaps += 1,
            Outcome::Refused => {}
        }
    }
    (confirmed, perhaps)
}

fn number(value: &[u8]) -> u64 {
    std::str::from_utf8(value).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_confirmed_is_lost() {
    let number_from = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let rounds = number_from("RAFT_KV_KILL_ROUNDS").unwrap_or(10);
    let seed = number_from("RAFT_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("RAFT_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut cluster = Cluster::start(3).await;
    let addresses = cluster.addresses();
    let told = Arc::new(Told::default());
    let client = || Client::new(&addresses).unwrap().with_timeout(Duration::from_secs(3));
    let writers: Vec<_> =
        (0..WRITERS).map(|writer| tokio::spawn(write_keys(Arc::clone(&told), client(), writer))).collect();
    let counters: Vec<_> = (0..3)
        .map(|counter| {
            let key = format!("counter/{counter}");
            (key.clone(), tokio::spawn(count_up(Arc::clone(&told), client(), key)))
        })
        .collect();

    for round in 0..rounds {
        let before = told.confirmed.load(Ordering::Relaxed);
        eventually("writes are confirmed", async || {
            (told.confirmed.load(Ordering::Relaxed) > before + 20).then_some(())
        })
        .await;
        // Waits for nothing: these pauses are the random moments of the kills and restarts.
        tokio::time::sleep(Duration::from_millis(random.u64(..300))).await;
        // Mostly the leader or any one, sometimes two, now and then all.
        let leader = cluster.leader().await;
        let mut victims = vec![0, 1, 2];
        random.shuffle(&mut victims);
        match random.u8(..10) {
            0 => {}
            1..=2 => victims.truncate(2),
            3..=6 => victims = vec![leader],
            _ => victims.truncate(1),
        }
        println!("round {round}: kill {victims:?}, the leader is {leader}");
        for &victim in &victims {
            cluster.nodes[victim].kill();
            tokio::time::sleep(Duration::from_millis(random.u64(..50))).await;
        }
        tokio::time::sleep(Duration::from_millis(random.u64(..800))).await;
        for &victim in &victims {
            cluster.nodes[victim].start().await;
        }
    }
    told.stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }

    let check = client().with_timeout(PATIENCE);
    for (key, counter) in counters {
        let (confirmed, perhaps) = counter.await.unwrap();
        let count = check.get(&key, false).await.unwrap().map_or(0, |pair| number(&pair.value));
        assert!(
            (confirmed..=confirmed + perhaps).contains(&count),
            "{key} is {count}, not {confirmed} and up to {perhaps} more"
        );
    }
    let statuses = cluster.settled().await;
    let writes = std::mem::take(&mut *told.writes.lock().unwrap());
    let mut found = BTreeMap::new();
    let mut range = Range { prefix: "key/".into(), limit: 1000, ..Range::default() };
    loop {
        let page = check.scan(&range, false).await.unwrap();
        found.extend(page.pairs.into_iter().map(|pair| (pair.key, (pair.value, pair.revisions.version))));
        let Some(next) = page.next else { break };
        range.from = next;
    }
    let count = |wanted| writes.values().filter(|outcome| **outcome == wanted).count();
    println!(
        "{rounds} rounds: {} confirmed, {} unknown, {} refused; {} keys on each node",
        count(Outcome::Confirmed),
        count(Outcome::Unknown),
        count(Outcome::Refused),
        statuses[0].keys
    );
    for (key, outcome) in &writes {
        match (outcome, found.get(key)) {
            (Outcome::Confirmed, None) => panic!("{key} was confirmed and is lost"),
            (Outcome::Refused, Some(_)) => panic!("{key} was refused and is there"),
            (_, Some((value, version))) => {
                assert_eq!(value.as_deref(), Some(value_of(key).as_str()), "{key}");
                assert_eq!(*version, 1, "{key} was written once");
            }
            (_, None) => {}
        }
    }
    assert!(found.keys().all(|key| writes.contains_key(key)));
    assert!(count(Outcome::Confirmed) > 20 * rounds as usize);
}
