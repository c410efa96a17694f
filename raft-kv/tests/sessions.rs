//! Exactly once, with processes: a change that is repeated happens once, wherever and however often it is sent.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use raft_kv::api::{ErrorCode, NUMBER_HEADER, SESSION_HEADER, SessionBody};
use raft_kv::client::{Client, ClientError};
use raft_kv::command::{Range, Revisions};
use support::{Cluster, PATIENCE, eventually};
use tokio::task::JoinSet;

/// Opens a session through any node.
async fn open(cluster: &Cluster) -> String {
    eventually("a session is opened", async || {
        for node in cluster.nodes.iter().filter(|node| node.child.is_some()) {
            let asked = reqwest::Client::new().post(format!("http://{}/sessions", node.http)).send().await;
            if let Ok(answer) = asked
                && let Ok(body) = answer.json::<SessionBody>().await
            {
                return Some(body.session);
            }
        }
        None
    })
    .await
}

/// Sends a change of a session to one node, until it answers with what it came to.
async fn send(node: SocketAddr, session: String, number: u64, key: String, value: String) -> Revisions {
    let url = format!("http://{node}/kv/{key}");
    let confirmed = async {
        loop {
            let request = reqwest::Client::new().put(&url).header(SESSION_HEADER, &session);
            let answer = request.header(NUMBER_HEADER, number).body(value.clone()).send().await;
            if let Ok(answer) = answer
                && let Ok(revisions) = answer.json().await
            {
                return revisions;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, confirmed).await.expect("the change is confirmed")
}

/// Sends a change to all nodes at once; all must have the same answer.
async fn send_to_all(cluster: &Cluster, session: &str, number: u64, key: &str, value: &str) -> Revisions {
    let running = cluster.nodes.iter().filter(|node| node.child.is_some());
    let sent: JoinSet<Revisions> = running
        .map(|node| send(node.http, session.to_owned(), number, key.to_owned(), value.to_owned()))
        .collect();
    let answers = sent.join_all().await;
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{answers:?}");
    answers[0]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_change_happens_once_over_failover_snapshot_and_restart() {
    let mut cluster = Cluster::prepare(3);
    for node in &mut cluster.nodes {
        node.more = ["--snapshot-entries", "5"].map(str::to_owned).to_vec();
    }
    cluster.found().await;
    let session = open(&cluster).await;
    let first = send_to_all(&cluster, &session, 0, "k", "once").await;
    assert_eq!((first.modify_revision, first.version), (1, 1));

    let leader = cluster.leader().await;
    cluster.nodes[leader].kill();
    assert_eq!(send_to_all(&cluster, &session, 0, "k", "once").await, first, "after failover");
    cluster.nodes[leader].start().await;

    // Enough changes that each node takes a snapshot, which then stands for all that came before.
    let client = Client::new(&cluster.addresses()).unwrap().with_session();
    for n in 0..20 {
        client.put(&format!("other-{n}"), n.to_string().into()).await.unwrap();
    }
    eventually("each node has a snapshot of the session", async || {
        for node in &cluster.nodes {
            let status = node.status().await?;
            (status.snapshots.index > 5).then_some(())?;
        }
        Some(())
    })
    .await;
    for node in &mut cluster.nodes {
        node.kill();
    }
    for node in &mut cluster.nodes {
        node.start().await;
    }
    assert_eq!(send_to_all(&cluster, &session, 0, "k", "once").await, first, "after snapshot and restart");
    let all = cluster.settled().await;
    assert_eq!((all[0].revision, all[0].keys), (21, 21), "each change counts once");

    // A session that nobody knows is told so, by every node, and nothing changes.
    let unknown = "7-00000000000000ab";
    for node in &cluster.nodes {
        let url = format!("http://{}/kv/k", node.http);
        let asked = reqwest::Client::new().put(url).header(SESSION_HEADER, unknown).header(NUMBER_HEADER, 0);
        let answer = asked.body("never").send().await.unwrap();
        assert_eq!(answer.status().as_u16(), ErrorCode::SessionExpired.status());
    }
    assert_eq!(cluster.settled().await[0].revision, 21);
}

/// How many changes are under way when the leader dies.
const IN_FLIGHT: usize = 500;

/// What became of each key's put.
type Outcomes = BTreeMap<String, Result<Revisions, ClientError>>;

/// Callers that each put one key after the other, until they are told to stop.
#[derive(Default)]
struct Callers {
    stop: AtomicBool,
    open: AtomicUsize,
    confirmed: AtomicUsize,
    outcomes: Mutex<Outcomes>,
}

impl Callers {
    async fn call(self: Arc<Self>, client: Arc<Client>, caller: usize) {
        for turn in 0.. {
            let key = format!("key/{caller}/{turn}");
            self.open.fetch_add(1, Ordering::SeqCst);
            let outcome = client.put(&key, "x".into()).await;
            self.open.fetch_sub(1, Ordering::SeqCst);
            self.confirmed.fetch_add(usize::from(outcome.is_ok()), Ordering::SeqCst);
            self.outcomes.lock().unwrap().insert(key, outcome);
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
        }
    }
}

/// Kills the leader with calls under way of which some are confirmed, and waits until all have ended.
async fn kill_the_leader_under(client: impl Fn(&[String]) -> Client) -> (Outcomes, Cluster) {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let client = Arc::new(client(&cluster.addresses()));
    let callers = Arc::new(Callers::default());
    let calls: JoinSet<()> =
        (0..IN_FLIGHT).map(|caller| Arc::clone(&callers).call(Arc::clone(&client), caller)).collect();
    eventually("some are confirmed and all others open", async || {
        let confirmed = callers.confirmed.load(Ordering::SeqCst) > 0;
        (confirmed && callers.open.load(Ordering::SeqCst) >= IN_FLIGHT * 9 / 10).then_some(())
    })
    .await;
    cluster.nodes[leader].kill();
    let open = callers.open.load(Ordering::SeqCst);
    callers.stop.store(true, Ordering::SeqCst);
    assert!(open >= IN_FLIGHT / 2, "only {open} were open as the leader died");
    tokio::time::timeout(PATIENCE, calls.join_all()).await.expect("all end");
    cluster.nodes[leader].start().await;
    cluster.settled().await;
    let outcomes = std::mem::take(&mut *callers.outcomes.lock().unwrap());
    assert!(outcomes.len() >= IN_FLIGHT);
    (outcomes, cluster)
}

/// The keys that were put, with their revisions.
async fn held(cluster: &Cluster) -> BTreeMap<String, Revisions> {
    let reader = Client::new(&cluster.addresses()).unwrap();
    let mut range = Range { prefix: "key/".into(), limit: 10_000, ..Range::default() };
    let mut held = BTreeMap::new();
    loop {
        let page = reader.scan(&range, false).await.unwrap();
        held.extend(page.pairs.into_iter().map(|pair| (pair.key, pair.revisions)));
        match page.next {
            Some(next) => range.from = next,
            None => return held,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn none_of_500_that_was_refused_as_the_leader_died_appears_later() {
    let plain = |nodes: &[String]| Client::new(nodes).unwrap().with_timeout(Duration::from_secs(20));
    let (outcomes, cluster) = kill_the_leader_under(plain).await;
    let held = held(&cluster).await;
    let mut failed = 0;
    for (key, outcome) in outcomes {
        let found = held.get(&key);
        failed += usize::from(outcome.is_err());
        match outcome {
            Ok(revisions) => assert_eq!(found, Some(&revisions), "{key}"),
            Err(ClientError::Refused(body)) => assert!(found.is_none(), "{key} was refused: {body:?}"),
            Err(ClientError::Unknown(_)) => {}
            Err(error) => panic!("{key}: {error}"),
        }
    }
    assert!(failed > 0, "no call was lost with the leader");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_session_each_of_500_is_confirmed_and_happens_once() {
    let with_session =
        |nodes: &[String]| Client::new(nodes).unwrap().with_timeout(Duration::from_secs(50)).with_session();
    let (outcomes, cluster) = kill_the_leader_under(with_session).await;
    let held = held(&cluster).await;
    assert_eq!(held.len(), outcomes.len());
    for (key, outcome) in &outcomes {
        let revisions = outcome.as_ref().unwrap_or_else(|error| panic!("{key}: {error}"));
        assert_eq!((revisions.version, held.get(key)), (1, Some(revisions)), "{key}");
    }
    let all = cluster.settled().await;
    let changes = outcomes.len() as u64;
    assert_eq!((all[0].revision, all[0].keys), (changes, changes), "each change counts once");
}
