//! `raft-kv log` on the folders of real nodes: what it shows, what it finds damaged, what it mends.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};
use support::{Cluster, eventually, exit_code, path, run, run_with_stdin, stderr, stdout};

/// Runs `raft-kv log` with these words and `--data`.
fn log(words: &[&str], data: &Path) -> Output {
    run(&[&["log"][..], words, &["--data", path(data)]].concat())
}

fn ok(output: &Output) -> String {
    assert_eq!((exit_code(output), stderr(output)), (0, String::new()));
    stdout(output)
}

fn json_of(output: &Output) -> Value {
    serde_json::from_str(&ok(output)).unwrap()
}

/// The entries as JSON, one a line.
fn entries(words: &[&str], data: &Path) -> Vec<Value> {
    let lines = ok(&log(&[&["entries", "--json"][..], words].concat(), data));
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Changes one byte of the file where these bytes stand, wherever they do.
fn damage(file: &Path, bytes: &[u8]) {
    let mut content = fs::read(file).unwrap();
    let places: Vec<usize> =
        content.windows(bytes.len()).enumerate().filter(|(_, w)| *w == bytes).map(|(at, _)| at).collect();
    assert!(!places.is_empty(), "the file holds what is to be damaged");
    for at in places {
        content[at] ^= 0x10;
    }
    fs::write(file, content).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_shown_as_the_commands_it_holds() {
    let mut cluster = Cluster::start(1).await;
    for args in [
        &["put", "fruit", "red \"apple\"\n"][..],
        &["cas", "fruit", "pear", "--if-value", "red \"apple\"\n"],
        &["cas", "root", "beet", "--if-absent"],
        &["cas", "root", "leek", "--if-revision", "3"],
        &["del", "fruit"],
        &["del", "root", "--if-revision", "4"],
    ] {
        assert_eq!(exit_code(&cluster.run(args)), 0, "{args:?}");
    }
    let nodes = cluster.addresses().join(",");
    assert_eq!(exit_code(&run_with_stdin(&["put", "raw", "-", "--nodes", &nodes], &[0, 255])), 0);
    assert_eq!(exit_code(&run(&["put", "long", &"x".repeat(1000), "--nodes", &nodes])), 0);
    // The configuration, a no-op, and each of the eight commands with the opening and the end of its session: the last end may come after
    // the command has answered.
    let status = eventually("all entries show in the status", async || {
        cluster.nodes[0].status().await.filter(|status| status.last.index == 2 + 3 * 8)
    })
    .await;
    let data = cluster.nodes[0].data.clone();
    let repair = &["repair", "--from-node", "127.0.0.1:1"][..];
    for words in [&[][..], &["entries"], &["verify"], &["compact"], repair] {
        let busy = log(words, &data);
        assert_eq!((exit_code(&busy), stdout(&busy)), (1, String::new()), "{words:?}");
        let told = stderr(&busy);
        assert!(told.contains("already open") && told.contains("stop that process"), "{words:?}: {told}");
        assert_eq!(told.lines().count(), 1, "{words:?}: {told}");
        let busy = log(&[words, &["--json"]].concat(), &data);
        assert_eq!((exit_code(&busy), stdout(&busy)), (1, String::new()), "{words:?}");
        assert!(stderr(&busy).contains(r#""error":"busy""#), "{words:?}: {}", stderr(&busy));
    }
    assert_eq!(cluster.nodes[0].status().await.unwrap().fatal, None, "the node was not disturbed");
    cluster.nodes[0].kill();

    let shown = json_of(&log(&["--json"], &data));
    assert_eq!(
        (&shown["node"], &shown["boots"], &shown["shutdown"]),
        (&json!(1), &json!(1), &json!("crash"))
    );
    assert_eq!(shown["cluster"], status.cluster);
    assert_eq!(shown["size_bytes"], fs::metadata(data.join("log.redb")).unwrap().len());
    let group = &shown["groups"][0];
    assert_eq!((&group["term"], &group["vote"]), (&json!(status.term), &json!(1)));
    assert_eq!((&group["first"], &group["last"]), (&json!(1), &json!(status.last)));
    assert_eq!((&group["entries"], &group["base"]["index"]), (&json!(status.last.index), &json!(0)));
    assert_eq!(group["configurations"][0]["members"][0]["address"], cluster.nodes[0].raft.to_string());
    assert!(group["snapshot"].is_null());
    let text = ok(&log(&[], &data));
    for words in ["incarnation", "vote for node 1", "term", "its process died", "voter 1 at"] {
        assert!(text.contains(words), "{words}: {text}");
    }

    let all = entries(&[], &data);
    let kinds: Vec<&str> = all.iter().map(|entry| entry["kind"].as_str().unwrap()).collect();
    let commands = kinds.iter().position(|kind| *kind == "put").unwrap();
    assert!(kinds[..commands].contains(&"membership"), "{kinds:?}");
    let bare = |entry: &Value| {
        let mut entry = entry.clone();
        for name in ["index", "term", "committed", "payload_bytes", "kind"] {
            entry.as_object_mut().unwrap().remove(name).unwrap();
        }
        entry
    };
    let all_of_them = kinds[commands..].iter().copied().zip(all[commands..].iter().map(bare));
    // Each change came in a session of its own.
    let found: Vec<(&str, Value)> = all_of_them.filter(|(kind, _)| !kind.starts_with("session_")).collect();
    let sessions = |kind: &str| kinds.iter().filter(|found| **found == kind).count();
    assert_eq!((sessions("session_open"), sessions("session_close")), (8, 8), "{kinds:?}");
    assert_eq!(
        found,
        [
            ("put", json!({"key": "fruit", "value": "red \"apple\"\n"})),
            ("compare_and_swap", json!({"key": "fruit", "value": "pear", "if_value": "red \"apple\"\n"})),
            ("compare_and_swap", json!({"key": "root", "value": "beet", "if_revision": 0})),
            ("compare_and_swap", json!({"key": "root", "value": "leek", "if_revision": 3})),
            ("delete", json!({"key": "fruit"})),
            ("delete", json!({"key": "root", "if_revision": 4})),
            ("put", json!({"key": "raw", "value_base64": "AP8="})),
            ("put", json!({"key": "long", "value": "x".repeat(1000)})),
        ]
    );
    let indexes: Vec<u64> = all.iter().map(|entry| entry["index"].as_u64().unwrap()).collect();
    assert_eq!(indexes, (1..=status.last.index).collect::<Vec<_>>());
    let part = entries(&["--from", "2", "--to", "3"], &data);
    assert_eq!(part, all[1..3]);
    assert!(entries(&["--from", "1000"], &data).is_empty());
    let lines = ok(&log(&["entries"], &data));
    assert_eq!(lines.lines().count(), all.len(), "a line each, whatever they hold");
    for words in [
        r#"put "fruit" "red \"apple\"\n""#,
        r#"compare-and-swap "root" "beet" if absent"#,
        r#"delete "root" if revision 4"#,
        "(1000 characters)",
    ] {
        assert!(lines.contains(words), "{words}: {lines}");
    }

    let sound = json_of(&log(&["verify", "--json"], &data));
    assert_eq!((&sound["sound"], &sound["groups"][0]["entries"]), (&json!(true), &json!(all.len())));
    assert!(sound["groups"][0]["payload_bytes"].as_u64() > Some(1000), "{sound}");
    let told = ok(&log(&["verify"], &data));
    assert!(told.starts_with("OK") && told.contains(&format!("group 0: {} entries", all.len())), "{told}");
    // All of it was looked at as the kill left it. Only compacting opens the file to write.
    assert_eq!(json_of(&log(&["--json"], &data))["shutdown"], "crash");
    let compacted = json_of(&log(&["compact", "--json"], &data));
    assert!(compacted["after_bytes"].as_u64() <= compacted["before_bytes"].as_u64(), "{compacted}");
    assert_eq!(compacted["after_bytes"], fs::metadata(data.join("log.redb")).unwrap().len());
    assert_eq!(entries(&[], &data), all);
    cluster.nodes[0].start().await;
    assert_eq!(stdout(&cluster.run(&["get", "long", "--timeout", "30"])), "x".repeat(1000));
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_named_and_mended_from_another_node() {
    let mut cluster = Cluster::start(3).await;
    let value = |number: usize| format!("{number:03}{}", "v".repeat(2000));
    for number in 0..30 {
        assert_eq!(exit_code(&cluster.run(&["put", &format!("k{number}"), &value(number)])), 0);
    }
    cluster.settled().await;
    for node in &mut cluster.nodes {
        node.kill();
    }
    let (broken, healthy) = (cluster.nodes[0].data.clone(), cluster.nodes[1].data.clone());
    let file = broken.join("log.redb");
    let before = entries(&[], &broken);
    let wanted = before.iter().find(|entry| entry["key"] == "k17").unwrap();
    damage(&file, value(17).as_bytes());

    let found = log(&["verify", "--json"], &broken);
    assert_eq!(exit_code(&found), 1);
    assert!(stderr(&found).contains(r#""error":"damaged""#), "{}", stderr(&found));
    let report: Value = serde_json::from_str(&stdout(&found)).unwrap();
    assert_eq!(report["sound"], false);
    let named =
        report["damage"].as_array().unwrap().iter().find(|damage| damage["kind"] == "entries").unwrap();
    let range = named["first"].as_u64().unwrap()..=named["last"].as_u64().unwrap();
    assert!(range.contains(&wanted["index"].as_u64().unwrap()), "{report}");
    let partly = log(&["entries"], &broken);
    assert_eq!((exit_code(&partly), stderr(&partly).contains("damaged")), (1, true), "{}", stderr(&partly));
    assert!(stdout(&partly).lines().count() < before.len());

    let served = cluster.nodes[0].serve().output().unwrap();
    assert_eq!(exit_code(&served), 1, "a damaged log is not served");
    assert!(stderr(&served).contains("raft-kv log repair"), "{}", stderr(&served));

    // Nothing is given up, and nothing is changed while something is missing.
    let damaged = fs::read(&file).unwrap();
    let there = || fs::read_dir(&broken).unwrap().count();
    let files = there();
    let mut elsewhere = Cluster::start(1).await;
    elsewhere.nodes[0].kill();
    let foreign = log(&["repair", "--from-data", path(&elsewhere.nodes[0].data)], &broken);
    assert_eq!(exit_code(&foreign), 1);
    assert!(stderr(&foreign).contains("cluster"), "{}", stderr(&foreign));
    assert_eq!(fs::read(&file).unwrap(), damaged);
    assert_eq!(there(), files, "nothing is left lying about");

    let mended = json_of(&log(&["repair", "--json", "--from-data", path(&healthy)], &broken));
    assert!(mended["replaced"].as_u64() >= Some(1), "{mended}");
    assert_eq!(fs::read(mended["kept"].as_str().unwrap()).unwrap(), damaged);
    assert_eq!(entries(&[], &broken), before);
    assert!(ok(&log(&["verify"], &broken)).starts_with("OK"));
    let again = ok(&log(&["repair", "--from-data", path(&healthy)], &broken));
    assert!(again.contains("nothing is damaged"), "{again}");

    for node in &mut cluster.nodes {
        node.start().await;
    }
    assert_eq!(stdout(&cluster.run(&["get", "k17", "--timeout", "30"])), value(17));
    let statuses = cluster.settled().await;
    assert_eq!(statuses[0].keys, 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_mended_from_a_node_that_runs() {
    let mut cluster = Cluster::start(3).await;
    // Several answers' worth.
    let value = |number: usize| format!("{number:03}{}", "v".repeat(400_000));
    let nodes = cluster.addresses().join(",");
    for number in 0..15 {
        let put = ["put", &format!("k{number}"), "-", "--nodes", &nodes];
        assert_eq!(exit_code(&run_with_stdin(&put, value(number).as_bytes())), 0);
    }
    cluster.settled().await;
    cluster.nodes[0].kill();
    let broken = cluster.nodes[0].data.clone();
    let before = entries(&[], &broken);
    let file = broken.join("log.redb");
    let mut content = fs::read(&file).unwrap();
    // In each value, at least once.
    for at in (0..content.len() - 8)
        .step_by(100_000)
        .filter(|at| content[*at..*at + 8] == [b'v'; 8])
        .collect::<Vec<_>>()
    {
        content[at] ^= 0x10;
    }
    fs::write(&file, content).unwrap();
    assert_eq!(exit_code(&log(&["verify"], &broken)), 1);

    let elsewhere = Cluster::start(1).await;
    let foreign = log(&["repair", "--from-node", &elsewhere.addresses()[0]], &broken);
    assert_eq!((exit_code(&foreign), stderr(&foreign).contains("another cluster")), (1, true));
    let nobody = log(&["repair", "--from-node", "127.0.0.1:1"], &broken);
    assert_eq!((exit_code(&nobody), stderr(&nobody).contains("cannot reach")), (1, true));
    let runs = log(&["repair", "--from-data", path(&cluster.nodes[1].data)], &broken);
    assert_eq!((exit_code(&runs), stderr(&runs).contains("already open")), (1, true), "{}", stderr(&runs));

    let mended = json_of(&log(&["repair", "--json", "--from-node", &cluster.addresses()[1]], &broken));
    assert!(mended["replaced"].as_u64() >= Some(15), "{mended}");
    assert_eq!(entries(&[], &broken), before);
    cluster.nodes[0].start().await;
    let statuses = cluster.settled().await;
    assert_eq!((statuses.len(), statuses[0].keys), (3, 15));
}
