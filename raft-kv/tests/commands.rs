//! Every command end to end, with real nodes: output, JSON and exit codes.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::time::Duration;

use raft_kv::client::Client;
use serde_json::Value;
use support::{
    Cluster, PATIENCE, eventually, exit_code, path, run, run_with_stdin, signal, stderr, stdout, wait_until,
};

fn json(output: &std::process::Output) -> Value {
    assert_eq!(exit_code(output), 0, "{}", stderr(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_put_read_changed_listed_and_deleted() {
    let cluster = Cluster::start(3).await;
    let ok = |args: &[&str]| {
        let output = cluster.run(args);
        assert_eq!((exit_code(&output), stderr(&output)), (0, String::new()), "{args:?}");
        stdout(&output)
    };
    let refused = |args: &[&str]| {
        let output = cluster.run(args);
        assert_eq!((exit_code(&output), stdout(&output)), (1, String::new()), "{args:?}");
        stderr(&output)
    };
    assert_eq!(ok(&["put", "fruit/apple", "red"]), "OK revision 1");
    assert_eq!(ok(&["get", "fruit/apple"]), "red");
    assert_eq!(ok(&["put", "fruit/apple", "green"]), "OK revision 2");
    assert_eq!(ok(&["cas", "fruit/apple", "blue", "--if-revision", "2"]), "OK revision 3");
    assert!(refused(&["cas", "fruit/apple", "x", "--if-revision", "2"]).contains("not as expected"));
    assert!(refused(&["cas", "fruit/apple", "x", "--if-absent"]).contains("not as expected"));
    assert_eq!(ok(&["cas", "fruit/apple", "gold & ripe", "--if-value", "blue"]), "OK revision 4");
    assert_eq!(ok(&["cas", "fruit/übel", "rot", "--if-absent"]), "OK revision 5");
    assert_eq!(ok(&["put", "a b/c?d#e%2F", "-1"]), "OK revision 6");
    assert_eq!(ok(&["get", "a b/c?d#e%2F"]), "-1");
    assert_eq!(ok(&["scan"]), "a b/c?d#e%2F\t-1\nfruit/apple\tgold & ripe\nfruit/übel\trot");
    assert_eq!(ok(&["scan", "fruit/", "--limit", "5"]), "fruit/apple\tgold & ripe\nfruit/übel\trot");
    assert_eq!(ok(&["scan", "--from", "b", "--to", "fruit/b"]), "fruit/apple\tgold & ripe");
    let part = cluster.run(&["scan", "--limit", "1"]);
    assert_eq!((exit_code(&part), stdout(&part).as_str()), (0, "a b/c?d#e%2F\t-1"));
    assert!(stderr(&part).contains("--from 'fruit/apple'"), "{}", stderr(&part));

    let pair = json(&cluster.run(&["get", "fruit/apple", "--json"]));
    assert_eq!(pair["value"], "gold & ripe");
    assert_eq!((&pair["create_revision"], &pair["modify_revision"]), (&Value::from(1), &Value::from(4)));
    assert_eq!(pair["version"], 4);
    let page = json(&cluster.run(&["--json", "scan", "--limit", "2"]));
    assert_eq!((page["pairs"].as_array().unwrap().len(), &page["next"]), (2, &Value::from("fruit/übel")));
    assert_eq!(json(&cluster.run(&["put", "n", "1", "--json"]))["modify_revision"], 7);

    assert!(refused(&["del", "n", "--if-revision", "6"]).contains("not as expected"));
    assert_eq!(ok(&["del", "n", "--if-revision", "7"]), "OK revision 8");
    assert!(refused(&["del", "n"]).contains("no such key"));
    assert!(refused(&["get", "n"]).contains("there is no key `n`"));
    let missing: Value = serde_json::from_str(&refused(&["get", "n", "--json"])).unwrap();
    assert_eq!(missing["error"], "not_found");

    // Any bytes, from stdin.
    let nodes = cluster.addresses().join(",");
    let raw = [0, 159, 146, 150, 10];
    let put = run_with_stdin(&["put", "raw", "-", "--nodes", &nodes], &raw);
    assert_eq!(exit_code(&put), 0, "{}", stderr(&put));
    assert_eq!(cluster.run(&["get", "raw"]).stdout, [&raw[..], b"\n"].concat());
    assert_eq!(json(&cluster.run(&["get", "raw", "--json"]))["value_base64"], "AJ+Slgo=");

    // The largest value, and one byte more.
    let large = vec![b'x'; raft_kv::command::MAX_VALUE_BYTES];
    assert_eq!(exit_code(&run_with_stdin(&["put", "large", "-", "--nodes", &nodes], &large)), 0);
    assert_eq!(cluster.run(&["get", "large"]).stdout.len(), large.len() + 1);
    let too_large = [&large[..], b"x"].concat();
    let put = run_with_stdin(&["put", "large", "-", "--nodes", &nodes], &too_large);
    assert_eq!((exit_code(&put), stderr(&put).contains("at most 512000")), (2, true), "{}", stderr(&put));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_takes_every_request_and_stale_reads_are_its_own() {
    let cluster = Cluster::start(3).await;
    for (place, node) in cluster.addresses().iter().enumerate() {
        let (key, value) = (format!("k{place}"), format!("v{place}"));
        assert_eq!(exit_code(&run(&["put", &key, &value, "--nodes", node])), 0);
        for reader in cluster.addresses() {
            assert_eq!(stdout(&run(&["get", &key, "--nodes", &reader])), value, "linearizable on any node");
            // A node's own state comes after.
            wait_until("the node has the key", || {
                stdout(&run(&["get", &key, "--stale", "--nodes", &reader])) == value
            });
        }
    }
    let statuses = cluster.settled().await;
    assert_eq!(statuses.iter().map(|s| s.node).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(statuses.iter().filter(|s| s.role == "leader").count(), 1);
    for status in &statuses {
        assert_eq!((status.keys, status.revision, status.members.len()), (3, 3, 3));
        assert_eq!(status.leader, statuses[0].leader);
        assert!(status.applied <= status.commit && status.commit <= status.last.index);
        assert!(status.durable <= status.last.index && status.fatal.is_none());
    }
    // One address is enough to see all nodes.
    let shown = run(&["status", "--nodes", &cluster.addresses()[0]]);
    assert_eq!((exit_code(&shown), stdout(&shown).lines().count()), (0, 4), "{}", stdout(&shown));
    let shown = json(&run(&["status", "--json", "--nodes", &cluster.addresses()[2]]));
    assert_eq!(shown["nodes"].as_array().unwrap().len(), 3);
    assert_eq!(shown["nodes"][0]["status"]["state_hash"], Value::from(statuses[0].state_hash.clone()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_founded_once() {
    let mut cluster = Cluster::prepare(3);
    for node in &mut cluster.nodes {
        node.start().await;
    }
    // Before it is founded, a node refuses at once and says what to do.
    let early = cluster.run(&["put", "k", "v"]);
    assert_eq!(exit_code(&early), 1);
    assert!(stderr(&early).contains("raft-kv init"), "{}", stderr(&early));
    let shown = cluster.run(&["status"]);
    assert_eq!(exit_code(&shown), 0);
    assert!(stdout(&shown).contains("belongs to no cluster yet"), "{}", stdout(&shown));

    let args = cluster.init_args();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let stranger = run(&["init", "--node", &cluster.addresses()[0], "2=127.0.0.1:1,127.0.0.1:2"]);
    assert_eq!(exit_code(&stranger), 1, "a node that is no member does not found: {}", stderr(&stranger));
    assert_eq!(json(&run(&[&args[..], &["--json"]].concat()))["members"].as_array().unwrap().len(), 3);
    assert_eq!(exit_code(&run(&args)), 0, "safe to repeat");
    let other = run(&args[..3]);
    assert_eq!(exit_code(&other), 1, "with other members: {}", stderr(&other));
    assert_eq!(exit_code(&cluster.run(&["put", "k", "v"])), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_writes_are_not_confirmed_and_afterwards_they_are() {
    let mut cluster = Cluster::start(3).await;
    assert_eq!(exit_code(&cluster.run(&["put", "k", "before"])), 0);
    let leader = cluster.leader().await;
    for place in (0..3).filter(|place| *place != leader) {
        cluster.nodes[place].kill();
    }
    let lone = cluster.nodes[leader].http.to_string();
    let write = run(&["put", "k", "alone", "--nodes", &lone, "--timeout", "1"]);
    assert!([1, 3].contains(&exit_code(&write)), "{}", stderr(&write));
    let read = run(&["get", "k", "--nodes", &lone, "--timeout", "1"]);
    assert_eq!(exit_code(&read), 1, "a read is never unknown: {}", stderr(&read));
    assert_eq!(stdout(&run(&["get", "k", "--stale", "--nodes", &lone])), "before");
    let place = (leader + 1) % 3;
    cluster.nodes[place].start().await;
    let write = cluster.run(&["put", "k", "after", "--timeout", "30"]);
    assert_eq!(exit_code(&write), 0, "{}", stderr(&write));
    assert_eq!(stdout(&cluster.run(&["get", "k"])), "after");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_stops_when_told_and_comes_back() {
    let mut cluster = Cluster::start(1).await;
    assert_eq!(exit_code(&cluster.run(&["put", "k", "v"])), 0);
    let node = &mut cluster.nodes[0];
    for name in ["TERM", "INT"] {
        let child = node.child.as_mut().unwrap();
        signal(child.id(), name);
        // Not `wait`, which closes the node's stdin: that would end it at once.
        wait_until("it stops", || child.try_wait().unwrap().is_some());
        let status = child.try_wait().unwrap().unwrap();
        assert_eq!(status.code(), Some(0), "SIG{name} is a wish to stop in good order");
        node.child = None;
        node.start().await;
    }
    assert_eq!(stdout(&cluster.run(&["get", "k", "--timeout", "30"])), "v");
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_tells_when_it_is_ready_and_where() {
    let cluster = Cluster::prepare(1);
    let node = &cluster.nodes[0];
    let mut child = node
        .serve()
        .args(["--json", "--follow-stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let ready: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(ready["node"], 1);
    assert_eq!(ready["address"], node.raft.to_string());
    assert_eq!(ready["http"], node.http.to_string());
    let status = eventually("it answers", async || node.status().await).await;
    assert_eq!(status.cluster, ready["cluster"].as_str().unwrap());
    // Its parent goes, and it goes too.
    drop(child.stdin.take());
    wait_until("it ends with its parent", || child.try_wait().unwrap().is_some());
}

/// A session that an impostor opens.
const SESSION: &[u8] =
    b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 32\r\n\r\n{\"session\":\"7-00000000000000ab\"}";

/// A server that opens sessions, takes any other request, and then does as told.
fn impostor(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream: TcpStream = stream.unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let opens = request.starts_with(b"POST /sessions");
            let _ = stream.write_all(if opens { SESSION } else { answer });
        }
    });
    address
}

#[test]
fn a_lost_answer_makes_a_write_unknown_and_a_read_refused() {
    let strange = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
    let proxy = b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n";
    let unknown = b"HTTP/1.1 504 Gateway Timeout\r\ncontent-length: 33\r\n\r\n{\"error\":\"unknown\",\"message\":\"?\"}";
    for answer in [&b""[..], b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{", strange, proxy, unknown] {
        let node = impostor(answer);
        for write in [&["put", "k", "v"][..], &["del", "k"], &["cas", "k", "v", "--if-absent"]] {
            let output = run(&[write, &["--nodes", &node, "--timeout", "1"]].concat());
            assert_eq!(exit_code(&output), 3, "{write:?} {answer:?} {}", stderr(&output));
            assert!(stderr(&output).contains("may have happened"), "{}", stderr(&output));
            assert_eq!(stderr(&output).lines().count(), 1);
        }
        let read = run(&["get", "k", "--nodes", &node, "--timeout", "0.5"]);
        assert_eq!(exit_code(&read), 1, "{answer:?} {}", stderr(&read));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http_says_what_is_wrong() {
    let cluster = Cluster::start(1).await;
    let base = format!("http://{}", cluster.nodes[0].http);
    let http = reqwest::Client::new();
    let long = "k".repeat(1025);
    for (method, target, status, code) in [
        ("GET", "/nothing".to_owned(), 404, "not_found"),
        ("GET", "/kv/".to_owned(), 404, "not_found"),
        ("POST", "/kv/a".to_owned(), 405, "invalid"),
        ("GET", "/kv/absent".to_owned(), 404, "not_found"),
        ("DELETE", "/kv/absent".to_owned(), 404, "not_found"),
        ("GET", format!("/kv/{long}"), 400, "invalid"),
        ("GET", "/kv/%FF".to_owned(), 400, "invalid"),
        ("GET", "/kv/a?if_revision=1".to_owned(), 400, "invalid"),
        ("GET", "/kv/a?nonsense=1".to_owned(), 400, "invalid"),
        ("PUT", "/kv/a?if_revision=x".to_owned(), 400, "invalid"),
        ("PUT", "/kv/a?if_revision=1&if_value=x".to_owned(), 400, "invalid"),
        ("PUT", "/kv/a?stale=true".to_owned(), 400, "invalid"),
        ("PUT", "/kv/a?if_revision=9".to_owned(), 412, "mismatch"),
        ("GET", "/kv?limit=0".to_owned(), 400, "invalid"),
        ("GET", "/kv?limit=10001".to_owned(), 400, "invalid"),
        ("POST", "/init".to_owned(), 400, "invalid"),
        ("GET", "/log/entries".to_owned(), 400, "invalid"),
        ("GET", "/log/entries?from=0&to=1".to_owned(), 400, "invalid"),
        ("GET", "/log/entries?from=2&to=1".to_owned(), 400, "invalid"),
        ("GET", "/log/entries?from=1&to=x".to_owned(), 400, "invalid"),
        ("GET", "/log/entries?from=1000000&to=1000001".to_owned(), 404, "not_found"),
        ("POST", "/log/entries?from=1&to=1".to_owned(), 405, "invalid"),
    ] {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let response = http.request(method.clone(), format!("{base}{target}")).send().await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{method} {target}");
        let body: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
        assert_eq!(body["error"], code, "{method} {target}: {body}");
        assert!(!body["message"].as_str().unwrap().is_empty());
    }
    let huge = vec![0; raft_kv::command::MAX_VALUE_BYTES + 1];
    let response = http.put(format!("{base}/kv/a")).body(huge).send().await.unwrap();
    assert_eq!(response.status().as_u16(), 413);
    let response =
        http.get(format!("{base}/kv/a")).header("raft-kv-timeout-ms", "never").send().await.unwrap();
    assert_eq!(response.status().as_u16(), 400);
    let response = http.put(format!("{base}/kv/a")).body("v").send().await.unwrap();
    let leader = response.headers()["raft-kv-leader"].to_str().unwrap().to_owned();
    assert_eq!((response.status().as_u16(), leader), (200, cluster.nodes[0].http.to_string()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_who_has_seen_enough_is_no_failure() {
    let cluster = Cluster::start(1).await;
    let client = Client::new(&cluster.addresses()).unwrap().with_timeout(PATIENCE);
    for number in 0..20 {
        client.put(&format!("k{number:02}"), vec![b'x'; 20_000].into()).await.unwrap();
    }
    let mut child = support::program()
        .args(["scan", "--nodes", &cluster.addresses()[0]])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // 400 kB do not fit into a pipe.
    drop(child.stdout.take());
    let output = tokio::task::spawn_blocking(|| child.wait_with_output().unwrap());
    let output = tokio::time::timeout(Duration::from_secs(30), output).await.unwrap().unwrap();
    assert_eq!((exit_code(&output), stderr(&output)), (0, String::new()));
}

#[test]
fn help_is_short_and_everywhere() {
    let bare = run(&[]);
    assert_eq!(exit_code(&bare), 0);
    assert!(stdout(&bare).starts_with("try: raft-kv demo"), "{}", stdout(&bare));
    for command in ["demo", "serve", "certs", "init", "put", "get", "del", "cas", "scan", "status"] {
        let help = run(&[command, "--help"]);
        assert_eq!(exit_code(&help), 0, "{command}");
        assert!(stdout(&help).contains("--json"), "{command}: {}", stdout(&help));
        assert!(stdout(&bare).contains(command));
    }
}

#[test]
fn certificates_are_added_to_an_authority_that_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("certs");
    let made = json(&run(&["certs", "--out", path(&out), "--nodes", "2", "--json"]));
    let ca = std::fs::read(out.join("ca.pem")).unwrap();
    let added = json(&run(&["certs", "--out", path(&out), "--node", "7", "--json"]));
    assert_eq!(made["cluster"], added["cluster"]);
    assert_eq!(std::fs::read(out.join("node-7/ca.pem")).unwrap(), ca);
    let before = std::fs::read(out.join("node-2/node.pem")).unwrap();
    assert_eq!(exit_code(&run(&["certs", "--out", path(&out), "--node", "2", "--force"])), 0);
    assert_ne!(std::fs::read(out.join("node-2/node.pem")).unwrap(), before);
    assert_eq!(std::fs::read(out.join("ca.pem")).unwrap(), ca, "an authority is never replaced");
}
