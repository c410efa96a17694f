//! Bad input: one clear line on stderr that says what to do, the right exit code, nothing overwritten, never a panic.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use support::{Cluster, exit_code, path, program, run, run_with_stdin, stderr, stdout, wait_until};

/// That this was refused with this exit code, in one line that says all of `words`.
fn assert_refused(output: &Output, code: i32, words: &[&str], what: &str) {
    let line = stderr(output);
    assert_eq!(exit_code(output), code, "{what}: {line}");
    assert_eq!(stdout(output), "", "{what}");
    assert_eq!(line.lines().count(), 1, "{what}: one line, not: {line}");
    assert!(line.starts_with("raft-kv: "), "{what}: {line}");
    assert!(!line.contains("panicked"), "{what}: {line}");
    for word in words {
        assert!(line.contains(word), "{what} must say `{word}`: {line}");
    }
}

/// Runs a node that must not start.
fn refused_node(command: &mut Command) -> Output {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("the node gives up", || child.try_wait().unwrap().is_some());
    child.wait_with_output().unwrap()
}

/// Every file below a folder with its content.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                all.insert(path.clone(), fs::read(path).unwrap());
            }
        }
    }
    all
}

#[test]
fn wrong_usage() {
    let long = "k".repeat(1025);
    let address = "127.0.0.1:1";
    let founder = "1=127.0.0.1:1,127.0.0.1:2";
    for (args, words) in [
        (&["--bogus"][..], &["--bogus", "--help"][..]),
        (&["bogus"], &["bogus", "--help"]),
        (&["--json=x"], &["--json"]),
        (&["serve"], &["--data", "--certs", "raft-kv serve --help"]),
        (&["serve", "--data", "d", "--certs", "c", "--listen", "nowhere"], &["nowhere"]),
        (&["serve", "--data", "d", "--certs", "c", "--http", "8001"], &["host:port"]),
        (&["serve", "--data", "d", "--certs", "c", "--listen", "0.0.0.0:7001"], &["--advertise"]),
        (&["serve", "--data", "d", "--certs", "c", "--log", "a=b=c"], &["--log"]),
        (&["certs", "--out", "d"], &["--nodes", "--node"]),
        (&["certs", "--out", "d", "--nodes", "0"], &["--nodes"]),
        (&["certs", "--out", "d", "--nodes", "100"], &["--nodes"]),
        (&["certs", "--out", "d", "--nodes", "3", "--node", "4"], &["cannot be used with"]),
        (&["init"], &["MEMBER"]),
        (&["init", "1"], &["id=raft-address,http-address"]),
        (&["init", "x=127.0.0.1:1,127.0.0.1:2"], &["id=raft-address,http-address"]),
        (&["init", "1=127.0.0.1:1"], &["id=raft-address,http-address"]),
        (&["init", "1=here,127.0.0.1:2"], &["host:port"]),
        (&["init", founder, founder], &["same id"]),
        (&["put", "k"], &["VALUE"]),
        (&["put", "k", "v", "w"], &["'w'"]),
        (&["put", "k", "--bogus"], &["--bogus"]),
        (&["put", "", "v", "--nodes", address], &["must not be empty"]),
        (&["put", "..", "v", "--nodes", address], &["cannot be used"]),
        (&["put", &long, "v", "--nodes", address], &["at most 1024"]),
        (&["get", "k", "--nodes", "http://127.0.0.1:1"], &["host:port"]),
        (&["get", "k", "--nodes", ""], &["host:port"]),
        (&["get", "k", "--timeout", "soon"], &["number of seconds"]),
        (&["get", "k", "--timeout", "61"], &["from 0.001 to 60"]),
        (&["get", "k", "--timeout", "NaN"], &["from 0.001 to 60"]),
        (&["cas", "k", "v"], &["--if-revision", "--if-value", "--if-absent"]),
        (&["cas", "k", "v", "--if-absent", "--if-revision", "1"], &["cannot be used with"]),
        (&["cas", "k", "v", "--if-revision", "new"], &["--if-revision"]),
        (&["scan", "--limit", "0"], &["--limit"]),
        (&["scan", "--limit", "10001"], &["--limit"]),
        (&["status", "extra"], &["extra"]),
        (&["member"], &["a command is missing", "raft-kv member --help"]),
        (&["member", "bogus"], &["bogus"]),
        (&["member", "add"], &["MEMBER", "raft-kv member add --help"]),
        (&["member", "add", "4"], &["id=raft-address,http-address"]),
        (&["member", "add", "4=127.0.0.1:1"], &["id=raft-address,http-address"]),
        (&["member", "add", "4=here,127.0.0.1:2"], &["`here` is no address", "host:port"]),
        (&["member", "remove"], &["ID"]),
        (&["member", "remove", "four"], &["'four'"]),
        (&["member", "promote"], &["ID"]),
        (&["member", "demote", "-1"], &["-1"]),
        (&["member", "replace", "1"], &["NEW"]),
        (&["member", "replace", "1", "4"], &["id=raft-address,http-address"]),
        (&["member", "readmit", "2", "--wait", "soon"], &["number of seconds"]),
        (&["member", "readmit", "2", "--wait", "0"], &["from 0.001 to 86400"]),
        (&["member", "remove", "2", "--no-wait", "--wait", "9"], &["cannot be used with"]),
        (&["member", "move", "2=127.0.0.1:1,there"], &["`there` is no address"]),
        (&["member", "cancel", "2"], &["'2'"]),
        (&["serve", "--data", "d", "--certs", "c", "--join", "8001"], &["host:port"]),
        (&["serve", "--data", "d", "--certs", "c", "--learner"], &["--join"]),
        (&["demo", "--writers", "0"], &["--writers"]),
        (&["log"], &["--data", "raft-kv log --help"]),
        (&["log", "--data"], &["--data"]),
        (&["log", "bogus"], &["bogus"]),
        (&["log", "verify"], &["--data", "raft-kv log verify --help"]),
        (&["log", "entries", "--data", "d", "--from", "first"], &["--from"]),
        (&["log", "entries", "--data", "d", "--from", "-1"], &["-1"]),
        (&["log", "entries", "--data", "d", "--from", "9", "--to", "8"], &["--from 9", "--to 8"]),
        (&["log", "entries", "--data", "d", "--group", "18446744073709551616"], &["--group"]),
        (&["log", "repair", "--data", "d"], &["--from-data", "--from-node"]),
        (&["log", "repair", "--data", "d", "--from-node", "8001"], &["host:port"]),
    ] {
        assert_refused(&run(args), 2, words, &format!("{args:?}"));
    }
    let too_large = vec![b'x'; raft_kv::command::MAX_VALUE_BYTES + 1];
    let output = run_with_stdin(&["put", "k", "-", "--nodes", address], &too_large);
    assert_refused(&output, 2, &["at most 512000"], "a value that is too large");
}

#[test]
fn errors_are_json_where_json_is_asked_for() {
    for (args, code, error) in [
        (&["--json", "--bogus"][..], 2, "usage"),
        (&["get", "k", "--json", "--nodes", "127.0.0.1:1", "--timeout", "0.2"], 1, "unavailable"),
        (&["demo", "--json", "--input", "/nonexistent"], 1, "failed"),
    ] {
        let output = run(args);
        assert_eq!(exit_code(&output), code, "{args:?}");
        let body: serde_json::Value = serde_json::from_str(&stderr(&output)).unwrap();
        assert_eq!(body["error"], error, "{args:?}");
        assert!(body["message"].as_str().is_some_and(|message| !message.is_empty()));
    }
}

#[test]
fn nobody_there() {
    for args in [
        &["put", "k", "v"][..],
        &["get", "k"],
        &["del", "k"],
        &["cas", "k", "v", "--if-absent"],
        &["scan"],
        &["status"],
        &["member", "list"],
        &["member", "remove", "1"],
        &["member", "cancel"],
    ] {
        let output = run(&[args, &["--nodes", "127.0.0.1:1,127.0.0.1:2", "--timeout", "0.3"]].concat());
        assert_refused(&output, 1, &["cannot reach"], &format!("{args:?}: nothing was sent"));
    }
    let output = run(&["init", "1=127.0.0.1:1,127.0.0.1:2", "--timeout", "0.3"]);
    assert_refused(&output, 1, &["cannot reach"], "init");
}

#[test]
fn certificates_in_the_way() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("certs");
    assert_eq!(exit_code(&run(&["certs", "--out", path(&out), "--nodes", "2"])), 0);
    let before = contents(&out);
    let again = run(&["certs", "--out", path(&out), "--nodes", "3"]);
    assert_refused(&again, 1, &["node-1", "--force"], "certificates that are there");
    assert_eq!(contents(&out), before, "nothing was written, not even for the third node");

    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    assert_refused(
        &run(&["certs", "--out", path(&file), "--nodes", "1"]),
        1,
        &["file"],
        "a file for a folder",
    );
    assert_eq!(fs::read(&file).unwrap(), b"x");

    fs::remove_file(out.join("ca.key")).unwrap();
    let before = contents(&out);
    let half = run(&["certs", "--out", path(&out), "--node", "9"]);
    assert_refused(&half, 1, &["ca.key", "another folder"], "half an authority");
    fs::write(out.join("ca.key"), "no key").unwrap();
    assert_refused(&run(&["certs", "--out", path(&out), "--node", "9"]), 1, &[], "a spoilt authority");
    fs::remove_file(out.join("ca.key")).unwrap();
    assert_eq!(contents(&out), before);
}

#[test]
fn certificates_missing_spoilt_or_foreign() {
    let cluster = Cluster::prepare(2);
    let other = Cluster::prepare(1);
    let certs = &cluster.nodes[0].certs;
    let put = |name: &str, from: &Path| fs::copy(from.join(name), certs.join(name)).unwrap();
    let refused = |words: &[&str], what: &str| {
        assert_refused(&refused_node(&mut cluster.nodes[0].serve()), 1, words, what);
        assert!(!cluster.nodes[0].data.exists(), "{what}: no data folder is made");
    };
    let original = tempfile::tempdir().unwrap();
    for name in ["ca.pem", "node.pem", "node.key"] {
        fs::copy(certs.join(name), original.path().join(name)).unwrap();
        fs::remove_file(certs.join(name)).unwrap();
        refused(&[name, "raft-kv certs --help"], "a missing file");
        fs::write(certs.join(name), "garbage").unwrap();
        refused(&[name], "a spoilt file");
        put(name, original.path());
    }
    put("ca.pem", &other.nodes[0].certs);
    refused(&["node.pem", "ca.pem"], "a certificate of another cluster's authority");
    put("ca.pem", original.path());
    put("node.key", &cluster.nodes[1].certs);
    refused(&["node.key", "node.pem"], "another node's key");
    fs::remove_dir_all(certs).unwrap();
    refused(&["raft-kv certs --help"], "no certificates");
}

#[test]
fn ports_in_use() {
    let cluster = Cluster::prepare(1);
    let node = &cluster.nodes[0];
    let http = TcpListener::bind(node.http).unwrap();
    let address = node.http.to_string();
    let output = refused_node(&mut node.serve());
    assert_refused(&output, 1, &[&address, "in use", "--http"], "the port for clients");
    drop(http);
    let _raft = UdpSocket::bind(node.raft).unwrap();
    let address = node.raft.to_string();
    let output = refused_node(&mut node.serve());
    assert_refused(&output, 1, &[&address, "in use", "--listen"], "the port for nodes");
    assert!(!node.data.exists(), "no data folder is made");
}

#[tokio::test(flavor = "multi_thread")]
async fn data_folders_of_others() {
    let mut cluster = Cluster::start(1).await;
    let other = Cluster::prepare(2);
    assert_eq!(exit_code(&cluster.run(&["put", "k", "v"])), 0);
    let data = cluster.nodes[0].data.clone();

    let serve_with = |certs: &Path| {
        let mut command = program();
        command.arg("serve").arg("--data").arg(&data).arg("--certs").arg(certs);
        command.args(["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
        refused_node(&mut command)
    };
    let second = serve_with(&cluster.nodes[0].certs);
    assert_refused(&second, 1, &[path(&data), "another process"], "a folder that is being served");
    cluster.nodes[0].kill();

    let before = contents(&data);
    assert_refused(
        &serve_with(&other.nodes[0].certs),
        1,
        &[path(&data), "cluster"],
        "another cluster's folder",
    );
    let certs = cluster.folder.path().join("certs");
    assert_eq!(exit_code(&run(&["certs", "--out", path(&certs), "--node", "2"])), 0);
    assert_refused(&serve_with(&certs.join("node-2")), 1, &[path(&data), "node 1"], "another node's folder");
    assert_eq!(contents(&data).keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());

    cluster.nodes[0].start().await;
    assert_eq!(stdout(&cluster.run(&["get", "k", "--timeout", "30"])), "v", "the folder is as it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn data_folders_that_are_damaged() {
    let mut cluster = Cluster::start(1).await;
    assert_eq!(exit_code(&cluster.run(&["put", "k", "v"])), 0);
    cluster.nodes[0].kill();
    let node = &cluster.nodes[0];
    let log = node.data.join("log.redb");
    let sound = fs::read(&log).unwrap();
    let refused = |what: &str| {
        let before = fs::read(&log).unwrap();
        assert_refused(&refused_node(&mut node.serve()), 1, &[path(&node.data)], what);
        before
    };
    for (what, damaged) in [
        ("not a database", b"this is no database".repeat(1000)),
        ("a file of zeros", vec![0; sound.len()]),
        ("a database cut in half", sound[..sound.len() / 2].to_vec()),
        ("nothing but the beginning", sound[..200].to_vec()),
    ] {
        fs::write(&log, damaged).unwrap();
        let before = refused(what);
        assert_eq!(fs::read(&log).unwrap().len(), before.len(), "{what}: the file is left as it is");
    }
    fs::remove_dir_all(&node.data).unwrap();
    fs::write(&node.data, "a file").unwrap();
    assert_refused(&refused_node(&mut node.serve()), 1, &[path(&node.data)], "a file for a data folder");
    assert_eq!(fs::read(&node.data).unwrap(), b"a file");
}

/// Every way to look at a log, for a folder.
fn looks(data: &Path) -> Vec<(Vec<String>, Output)> {
    let other = data.with_extension("other");
    [
        &["log"][..],
        &["log", "entries"],
        &["log", "verify"],
        &["log", "compact"],
        &["log", "repair", "--from-data", path(&other)],
    ]
    .into_iter()
    .map(|words| {
        let args = [words, &["--data", path(data)]].concat();
        (args.iter().map(|&arg| arg.to_owned()).collect(), run(&args))
    })
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_that_cannot_be_looked_at() {
    let mut cluster = Cluster::start(1).await;
    assert_eq!(exit_code(&cluster.run(&["put", "k", "v"])), 0);
    let data = cluster.nodes[0].data.clone();
    let log = data.join("log.redb");
    fs::create_dir_all(data.with_extension("other")).unwrap();
    let refused = |words: &[&str], what: &str| {
        for (args, output) in looks(&data) {
            assert_refused(&output, 1, words, &format!("{what}: {args:?}"));
        }
    };
    let other = data.with_extension("other").join("log.redb");
    // Any file will do for the other log: the first one is looked at first.
    fs::write(&other, "x").unwrap();
    refused(&[path(&log), "already open", "stop that process"], "a node that runs");
    assert_eq!(stdout(&cluster.run(&["get", "k"])), "v", "it does not mind");
    cluster.nodes[0].kill();

    let sound = fs::read(&log).unwrap();
    for (what, bytes) in [
        ("not a database", b"this is no database".repeat(1000)),
        ("a file of zeros", vec![0; sound.len()]),
        ("an empty file", Vec::new()),
    ] {
        fs::write(&log, &bytes).unwrap();
        refused(&[path(&log)], what);
        assert!(fs::read(&log).unwrap() == bytes, "{what}: the file is left as it is");
    }
    // Of the rest of a file it is told what it holds, and what is missing.
    for bytes in [&sound[..200], &sound[..sound.len() / 2]] {
        fs::write(&log, bytes).unwrap();
        for (args, output) in looks(&data) {
            let line = stderr(&output);
            assert_eq!(exit_code(&output), 1, "{args:?} {}: {line}", bytes.len());
            assert_eq!(line.lines().count(), 1, "{args:?}: {line}");
            assert!(line.contains(path(&log)) && !line.contains("panicked"), "{args:?}: {line}");
        }
        assert!(fs::read(&log).unwrap() == bytes, "{} bytes are left as they are", bytes.len());
    }
    fs::write(&log, &sound).unwrap();

    let from = |other: &Path| run(&["log", "repair", "--data", path(&data), "--from-data", path(other)]);
    assert_refused(&from(&data), 2, &["another member"], "repair from itself");
    assert_refused(&from(&data.join("nothing")), 1, &["does not exist"], "repair from nothing");
    let entries = run(&["log", "entries", "--data", path(&data), "--group", "7"]);
    assert_refused(&entries, 1, &["group 7", "only these: 0"], "a group that is not there");
    let shown = run(&["log", "--data", path(&data), "--json"]);
    assert_eq!(exit_code(&shown), 0, "{}", stderr(&shown));

    fs::remove_file(&log).unwrap();
    refused(&[path(&log), "does not exist", "--data"], "a folder without a log");
    assert!(!log.exists(), "none is made");
    fs::create_dir(&log).unwrap();
    refused(&[path(&log)], "a folder for a log");
}

#[test]
fn tables_that_are_malformed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("table.csv");
    for (text, words) in [
        (&b""[..], &["no rows"][..]),
        (b"id,a\n", &["no rows"]),
        (b"id,a\n1,x\n2\n", &["line 3", "1 fields"]),
        (b"id,a\n1,x\n2,y,z\n", &["line 3", "3 fields"]),
        (b"id\ta\n1\tx\n\ty\n", &["line 3", "must not be empty"]),
        (b"id,a\n1,\xff\n", &["line 2", "UTF-8"]),
        (b"id,a\n1,\"x\n2,y\n3,z\n", &["line 2", "quotes"]),
    ] {
        fs::write(&file, text).unwrap();
        let output = run(&["demo", "--input", path(&file)]);
        let what = String::from_utf8_lossy(text).into_owned();
        assert_refused(&output, 1, &[words, &[path(&file)]].concat(), &what);
    }
    let output = run(&["demo", "--input", path(&folder.path().join("nothing"))]);
    assert_refused(&output, 1, &["nothing", "No such file"], "a table that is not there");
    assert_refused(&run(&["demo", "--input", path(folder.path())]), 1, &[path(folder.path())], "a folder");
}
