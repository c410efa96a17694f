//! kill -9 of any node at any moment, under load, restarts included: nothing that was confirmed is lost, nothing that was
//! refused appears, and no change happens twice. What a killed node's disk promises is read before it is started again:
//! its term never goes back, its vote in a term stays, and what it knew as committed stays as it was.
//!
//! `RAFT_KV_KILL_ROUNDS` sets how many rounds, `RAFT_SEED` repeats the choice of victims and moments.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use raft_kv::client::{Client, ClientError};
use raft_kv::command::{Expected, Range};
use serde_json::Value;
use support::{Cluster, Node, PATIENCE, eventually, exit_code, path, run, stderr};

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

/// What a node's disk binds it to, as `raft-kv log` reads it.
#[derive(Clone, Debug, Default)]
struct Promises {
    term: u64,
    vote: Option<u64>,
    commit: u64,
    boots: u64,
    /// The last index that is compacted, and the first entry of each term after it.
    base: u64,
    terms: Vec<(u64, u64)>,
}

impl Promises {
    fn read(data: &Path) -> Self {
        let shown = run(&["log", "--data", path(data), "--json"]);
        assert_eq!(exit_code(&shown), 0, "{}", stderr(&shown));
        let log: Value = serde_json::from_slice(&shown.stdout).unwrap();
        let group = &log["groups"][0];
        let id = |id: &Value| (id["index"].as_u64().unwrap(), id["term"].as_u64().unwrap());
        let promises = Self {
            term: group["term"].as_u64().unwrap(),
            vote: group["vote"].as_u64(),
            commit: group["commit"].as_u64().unwrap(),
            boots: log["boots"].as_u64().unwrap(),
            base: id(&group["base"]).0,
            terms: group["terms"].as_array().unwrap().iter().map(id).collect(),
        };
        let last = id(&group["last"]);
        assert!(
            promises.base <= promises.commit && promises.commit <= last.0,
            "commit within the log: {log}"
        );
        assert!(last.1 <= promises.term, "no entry of a term to come: {log}");
        promises
    }

    /// That a later look at the same disk takes nothing of it back.
    fn assert_kept(&self, later: &Self, node: u64) {
        assert!(later.term >= self.term, "node {node}: the term went back: {self:?}, then {later:?}");
        if later.term == self.term && self.vote.is_some() {
            assert_eq!(later.vote, self.vote, "node {node}: another vote in term {}", self.term);
        }
        assert!(later.commit >= self.commit, "node {node}: the commit went back: {self:?}, then {later:?}");
        assert!(later.boots > self.boots, "node {node}: a start was not counted: {self:?}, then {later:?}");
        for first in self.terms.iter().filter(|first| first.0 <= self.commit && first.0 > later.base) {
            assert!(
                later.terms.contains(first),
                "node {node}: committed entries changed: {self:?}, {later:?}"
            );
        }
    }
}

#[test]
fn what_is_taken_back_is_noticed() {
    let before =
        Promises { term: 7, vote: Some(2), commit: 40, boots: 3, base: 10, terms: vec![(11, 5), (38, 7)] };
    let kept = |later: &Promises| {
        let later = Promises { boots: later.boots + 1, ..later.clone() };
        std::panic::catch_unwind(|| before.assert_kept(&later, 1)).is_ok()
    };
    assert!(kept(&before));
    assert!(kept(&Promises {
        term: 8,
        vote: None,
        commit: 50,
        base: 20,
        terms: vec![(38, 7)],
        ..before.clone()
    }));
    for taken_back in [
        Promises { term: 6, ..before.clone() },
        Promises { vote: Some(1), ..before.clone() },
        Promises { vote: None, ..before.clone() },
        Promises { commit: 39, ..before.clone() },
        Promises { boots: 2, ..before.clone() },
        Promises { terms: vec![(11, 5), (38, 6)], ..before.clone() },
        Promises { terms: vec![(38, 7)], ..before.clone() },
    ] {
        assert!(!kept(&taken_back), "{taken_back:?}");
    }
}

/// Reads a killed node's disk: as it is, or from a copy, so that the node itself finds the file as the kill left it.
fn promises_of(node: &Node, copied: bool) -> Promises {
    if !copied {
        return Promises::read(&node.data);
    }
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(node.data.join("log.redb"), copy.path().join("log.redb")).unwrap();
    Promises::read(copy.path())
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

    let mut promises = vec![Promises::default(); cluster.nodes.len()];
    let (mut looks, mut last_term) = (0, 0);
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
        let led = cluster.nodes[leader].status().await.filter(|status| status.role == "leader");
        for &victim in &victims {
            cluster.nodes[victim].kill();
            tokio::time::sleep(Duration::from_millis(random.u64(..50))).await;
        }
        tokio::time::sleep(Duration::from_millis(random.u64(..800))).await;
        for &victim in &victims {
            let id = cluster.nodes[victim].id;
            let found = promises_of(&cluster.nodes[victim], round % 2 == 0);
            promises[victim].assert_kept(&found, id);
            if let Some(led) = led.as_ref().filter(|led| led.node == id) {
                // Nobody leads before its vote for itself is durable.
                assert!(found.term >= led.term, "node {id} led in term {} and has forgotten it", led.term);
                assert!(found.term > led.term || found.vote == Some(id), "node {id}: {found:?}, {led:?}");
            }
            last_term = last_term.max(found.term);
            looks += 1;
            promises[victim] = found;
        }
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
        "{rounds} rounds: {} confirmed, {} unknown, {} refused; {} keys on each node; {looks} looks at the disks of killed \
         nodes, terms up to {last_term}",
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
