//! Majority lost and recovered; backup of a live cluster and its restore into a new one.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::fs;
use std::time::Duration;

use bytes::Bytes;
use raft_kv::client::Client;
use serde_json::{Value, json};
use support::{Cluster, eventually, exit_code, path, run, stderr, stdout};

fn json_of(output: &std::process::Output) -> Value {
    assert_eq!((exit_code(output), stderr(output)), (0, String::new()));
    serde_json::from_str(&stdout(output)).unwrap()
}

async fn fill(client: &Client, prefix: &str, count: usize) {
    for number in 0..count {
        client.put(&format!("{prefix}/{number}"), Bytes::from(format!("{prefix} {number}"))).await.unwrap();
    }
}

fn client(addresses: &[String]) -> Client {
    Client::new(addresses).unwrap().with_timeout(Duration::from_secs(30))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_majority_is_recovered_and_stays_out() {
    let mut cluster = Cluster::start(3).await;
    fill(&client(&cluster.addresses()), "kept", 20).await;
    let before = cluster.settled().await.remove(2);
    cluster.nodes[0].kill();
    cluster.nodes[1].kill();
    let data = cluster.nodes[2].data.clone();
    let recover = |node: &str, more: &[&str]| {
        run(&[&["recover", "--data", path(&data), "--node", node, "--json"][..], more].concat())
    };
    const YES: &str = "--yes-i-lose-what-others-have";

    let running = recover("3", &[YES]);
    assert_eq!(exit_code(&running), 1);
    assert!(stderr(&running).contains(r#""error":"busy""#), "{}", stderr(&running));
    cluster.nodes[2].kill();
    let other = recover("2", &[YES]);
    assert!(stderr(&other).contains("is of node 3, not of node 2"), "{}", stderr(&other));

    let asked = recover("3", &[]);
    assert_eq!(exit_code(&asked), 1);
    assert!(stderr(&asked).contains("not_confirmed"), "{}", stderr(&asked));
    let found: Value = serde_json::from_str(&stdout(&asked)).unwrap();
    assert_eq!(found["found"]["voters"], json!([1, 2, 3]));
    assert_eq!(found["found"]["lineage"], before.lineage);
    assert_eq!(found["done"], Value::Null);
    let done = json_of(&recover("3", &[YES]));
    assert_eq!(done["found"], found["found"]);
    assert_eq!((&done["done"]["voter"], &done["cluster"]), (&json!(3), &json!(before.cluster)));
    let again = recover("3", &[YES]);
    assert!(stderr(&again).contains("already is the only voter"), "{}", stderr(&again));

    cluster.nodes[2].start().await;
    let alone = client(&cluster.addresses()[2..]);
    fill(&alone, "new", 5).await;
    assert_eq!(alone.get("kept/19", false).await.unwrap().unwrap().value, "kept 19");
    let status = cluster.nodes[2].status().await.unwrap();
    assert_eq!((status.members.len(), &status.lineage), (1, &json_text(&done["done"]["lineage"])));
    assert_ne!(status.lineage, before.lineage);

    // The lost ones turn up and go on by themselves, with an address that is the recovered node's.
    cluster.nodes[0].start().await;
    cluster.nodes[1].start().await;
    let old = client(&cluster.addresses()[..2]);
    fill(&old, "old", 5).await;
    let log = |place: usize| {
        let log = cluster.nodes[place].data.with_extension("log");
        move || fs::read_to_string(&log).unwrap()
    };
    for place in [0, 1, 2] {
        let log = log(place);
        eventually("the refusal is logged on either side", async || {
            log().contains("belongs to lineage").then_some(())
        })
        .await;
    }
    // It need not be the leader of the two, and hears of the last write a little later.
    let old = eventually("the old lineage has what it confirmed, and nothing else", async || {
        cluster.nodes[0].status().await.filter(|status| status.keys == 25)
    })
    .await;
    let new = cluster.nodes[2].status().await.unwrap();
    assert_eq!((&old.lineage, &new.lineage), (&before.lineage, &status.lineage));
    assert_eq!((new.role.as_str(), new.term, new.keys), ("leader", status.term, 25));
    assert_eq!(alone.get("old/0", false).await.unwrap(), None);
}

fn json_text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_becomes_a_new_cluster() {
    let cluster = Cluster::start(3).await;
    fill(&client(&cluster.addresses()), "kept", 50).await;
    let file = cluster.folder.path().join("kept.backup");
    let backup =
        |more: &[&str]| cluster.run(&[&["backup", "--out", path(&file), "--json"][..], more].concat());
    let made = json_of(&backup(&[]));
    let status = cluster.nodes[0].status().await.unwrap();
    assert_eq!(made["cluster"], status.cluster);
    assert_eq!(made["size_bytes"], fs::metadata(&file).unwrap().len());
    let again = backup(&[]);
    assert_eq!(exit_code(&again), 2);
    assert!(stderr(&again).contains("is there already"), "{}", stderr(&again));
    fill(&client(&cluster.addresses()), "late", 5).await;

    let mut next = Cluster::prepare(3);
    let restore = |backup: &std::path::Path, certs: &std::path::Path| {
        let data = path(&next.nodes[0].data);
        run(&["restore", "--json", "--backup", path(backup), "--data", data, "--certs", path(certs)])
    };
    let same = restore(&file, &cluster.nodes[0].certs);
    assert!(stderr(&same).contains("of this very cluster"), "{}", stderr(&same));
    let damaged = cluster.folder.path().join("damaged.backup");
    let mut bytes = fs::read(&file).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(&damaged, &bytes).unwrap();
    let broken = restore(&damaged, &next.nodes[0].certs);
    assert!(stderr(&broken).contains("checksum"), "{}", stderr(&broken));
    let restored = json_of(&restore(&file, &next.nodes[0].certs));
    assert_eq!((&restored["node"], &restored["from_cluster"]), (&json!(1), &json!(status.cluster)));
    let twice = restore(&file, &next.nodes[0].certs);
    assert!(stderr(&twice).contains("is there already"), "{}", stderr(&twice));

    for node in &mut next.nodes {
        node.start().await;
    }
    let init = |next: &Cluster, place: usize| {
        let node = next.nodes[place].http.to_string();
        run(&[&next.init_args().iter().map(String::as_str).collect::<Vec<_>>()[..], &["--node", &node]]
            .concat())
    };
    let mistaken = init(&next, 1);
    assert_eq!(exit_code(&mistaken), 1);
    assert!(stderr(&mistaken).contains("found the cluster there"), "{}", stderr(&mistaken));
    let founded = init(&next, 0);
    assert_eq!(exit_code(&founded), 0, "{}", stderr(&founded));
    let all = client(&next.addresses());
    fill(&all, "after", 5).await;
    let settled = next.settled().await;
    assert!(settled.iter().all(|status| status.keys == 55), "{settled:?}");
    assert!(settled.iter().all(|status| status.lineage == settled[0].lineage));
    assert_eq!(all.get("kept/49", false).await.unwrap().unwrap().value, "kept 49");
    assert_eq!(all.get("late/0", false).await.unwrap(), None);
}
