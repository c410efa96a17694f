//! Exactly once, with processes: a change that is repeated happens once, wherever and however often it is sent.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use raft_kv::api::{ErrorCode, NUMBER_HEADER, SESSION_HEADER, SessionBody};
use raft_kv::client::{Client, ClientError};
use raft_kv::command::Revisions;
use support::{Cluster, Node, eventually};

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
async fn send(node: &Node, session: &str, number: u64, key: &str, value: &str) -> Revisions {
    eventually("the change is confirmed", async || {
        let url = format!("http://{}/kv/{key}", node.http);
        let asked = reqwest::Client::new()
            .put(url)
            .header(SESSION_HEADER, session)
            .header(NUMBER_HEADER, number)
            .body(value.to_owned())
            .send();
        asked.await.ok()?.json::<Revisions>().await.ok()
    })
    .await
}

/// Sends a change to all nodes at once; all must have the same answer.
async fn send_to_all(cluster: &Cluster, session: &str, number: u64, key: &str, value: &str) -> Revisions {
    let running: Vec<&Node> = cluster.nodes.iter().filter(|node| node.child.is_some()).collect();
    let mut answers = Vec::new();
    for node in running {
        answers.push(send(node, session, number, key, value).await);
    }
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

async fn kill_the_leader_under(
    client: impl Fn(&[String]) -> Client,
) -> (BTreeMap<usize, Result<Revisions, ClientError>>, Cluster) {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let client = Arc::new(client(&cluster.addresses()));
    // So that the leader is known, and a session is open.
    client.put("first", "x".into()).await.unwrap();
    let calls: Vec<_> = (0..IN_FLIGHT)
        .map(|n| {
            let client = Arc::clone(&client);
            tokio::spawn(async move { client.put(&format!("key-{n}"), n.to_string().into()).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(5)).await;
    cluster.nodes[leader].kill();
    let mut outcomes = BTreeMap::new();
    for (n, call) in calls.into_iter().enumerate() {
        outcomes.insert(n, call.await.unwrap());
    }
    cluster.nodes[leader].start().await;
    cluster.settled().await;
    (outcomes, cluster)
}

#[tokio::test(flavor = "multi_thread")]
async fn none_of_500_that_was_refused_as_the_leader_died_appears_later() {
    let plain = |nodes: &[String]| Client::new(nodes).unwrap().with_timeout(Duration::from_secs(20));
    let (outcomes, cluster) = kill_the_leader_under(plain).await;
    assert_eq!(outcomes.len(), IN_FLIGHT, "all end");
    let reader = Client::new(&cluster.addresses()).unwrap();
    for (n, outcome) in outcomes {
        let found = reader.get(&format!("key-{n}"), false).await.unwrap();
        match outcome {
            Ok(revisions) => assert_eq!(found.unwrap().revisions, revisions, "key-{n}"),
            Err(ClientError::Refused(body)) => assert!(found.is_none(), "key-{n} was refused: {body:?}"),
            Err(ClientError::Unknown(_)) => {}
            Err(error) => panic!("key-{n}: {error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_session_each_of_500_is_confirmed_and_happens_once() {
    let with_session =
        |nodes: &[String]| Client::new(nodes).unwrap().with_timeout(Duration::from_secs(50)).with_session();
    let (outcomes, cluster) = kill_the_leader_under(with_session).await;
    for (n, outcome) in outcomes {
        let revisions = outcome.unwrap_or_else(|error| panic!("key-{n}: {error}"));
        assert_eq!(revisions.version, 1, "key-{n}");
    }
    let all = cluster.settled().await;
    assert_eq!((all[0].revision, all[0].keys), (IN_FLIGHT as u64 + 1, IN_FLIGHT as u64 + 1));
}
