//! Real nodes as processes of the real program.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use raft_kv::api::StatusBody;
use raft_kv::client::Client;
use tempfile::TempDir;

/// How long anything may take before a test counts as failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The program, with none of the environment that it listens to.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_raft-kv"));
    command.env_remove("RAFT_KV_NODES").env_remove("RUST_LOG");
    command
}

/// Runs the program to its end.
pub fn run(args: &[&str]) -> Output {
    program().args(args).stdin(Stdio::null()).output().unwrap()
}

/// Runs the program with this on its stdin.
pub fn run_with_stdin(args: &[&str], stdin: &[u8]) -> Output {
    let mut child = program()
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin).unwrap();
    child.wait_with_output().unwrap()
}

/// What the program printed, its last line's end taken off.
pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap().trim_end().to_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap().trim_end().to_owned()
}

pub fn exit_code(output: &Output) -> i32 {
    output.status.code().expect("the program was not killed")
}

/// Sends a signal by name, such as `TERM`.
pub fn signal(pid: u32, name: &str) {
    let sent = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status().unwrap();
    assert!(sent.success(), "kill -{name} {pid}");
}

/// Whether a process of this id runs.
pub fn is_alive(pid: u32) -> bool {
    let probe = Command::new("sh").args(["-c", &format!("kill -0 {pid} 2>&-")]).status().unwrap();
    probe.success()
}

/// Waits until this holds.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until this gives something.
pub async fn eventually<T>(what: &str, get: impl AsyncFnMut() -> Option<T>) -> T {
    eventually_within(PATIENCE, what, get).await
}

/// Waits until this holds, for something whose time is known.
pub async fn eventually_within<T>(
    patience: Duration,
    what: &str,
    mut get: impl AsyncFnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(value) = get().await {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A loopback address whose port is free for UDP and TCP; below the range that outgoing connections use.
pub fn free_address() -> SocketAddr {
    loop {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, fastrand::u16(11_000..20_000)));
        if UdpSocket::bind(address).is_ok() && TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// A node's process and what it was started with.
pub struct Node {
    pub id: u64,
    pub raft: SocketAddr,
    pub http: SocketAddr,
    pub data: PathBuf,
    pub certs: PathBuf,
    pub priority: u8,
    /// More for its command line.
    pub more: Vec<String>,
    pub child: Option<Child>,
}

impl Node {
    /// The command line that serves it.
    pub fn serve(&self) -> Command {
        let mut command = program();
        command.arg("serve").arg("--data").arg(&self.data).arg("--certs").arg(&self.certs);
        command.arg("--listen").arg(self.raft.to_string()).arg("--http").arg(self.http.to_string());
        command.arg("--priority").arg(self.priority.to_string());
        command.args(&self.more);
        command
    }

    /// Starts it, and waits until it answers.
    pub async fn start(&mut self) {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.data.with_extension("log"))
            .unwrap();
        let mut command = self.serve();
        // It dies with the test, however that ends.
        command.arg("--follow-stdin").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().unwrap());
        eventually("the node answers", async || {
            if let Ok(Some(status)) = self.child.as_mut().unwrap().try_wait() {
                let log = std::fs::read_to_string(self.data.with_extension("log")).unwrap();
                panic!("node {} ended with {status}: {log}", self.id);
            }
            self.status().await
        })
        .await;
    }

    pub async fn status(&self) -> Option<StatusBody> {
        let client = Client::new(&[self.http.to_string()]).unwrap().with_timeout(Duration::from_secs(2));
        client.status(0).await.ok()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Nodes of one cluster in one folder.
pub struct Cluster {
    pub nodes: Vec<Node>,
    pub folder: TempDir,
}

impl Cluster {
    /// Nodes with certificates and ports, not started.
    pub fn prepare(count: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let certs = folder.path().join("certs");
        let made = run(&["certs", "--out", path(&certs), "--nodes", &count.to_string()]);
        assert_eq!(exit_code(&made), 0, "{}", stderr(&made));
        let node = |id| Node {
            id,
            raft: free_address(),
            http: free_address(),
            data: folder.path().join(format!("data-{id}")),
            certs: certs.join(format!("node-{id}")),
            priority: 0,
            more: Vec::new(),
            child: None,
        };
        Self { nodes: (1..=count).map(node).collect(), folder }
    }

    /// Nodes that run and have founded a cluster.
    pub async fn start(count: u64) -> Self {
        let mut cluster = Self::prepare(count);
        cluster.found().await;
        cluster
    }

    /// Starts the nodes and founds the cluster.
    pub async fn found(&mut self) {
        for node in &mut self.nodes {
            node.start().await;
        }
        let founded = run(&self.init_args().iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(exit_code(&founded), 0, "{}", stderr(&founded));
    }

    pub fn init_args(&self) -> Vec<String> {
        let members = self.nodes.iter().map(|node| format!("{}={},{}", node.id, node.raft, node.http));
        std::iter::once("init".to_owned()).chain(members).collect()
    }

    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.http.to_string()).collect()
    }

    /// Runs a client command against all nodes.
    pub fn run(&self, args: &[&str]) -> Output {
        let nodes = self.addresses().join(",");
        run(&[args, &["--nodes", &nodes]].concat())
    }

    /// Waits until all nodes have the same state; gives their status.
    pub async fn settled(&self) -> Vec<StatusBody> {
        eventually("all nodes have the same state", async || {
            let mut all: Vec<StatusBody> = Vec::new();
            for node in &self.nodes {
                all.push(node.status().await?);
            }
            all.iter()
                .all(|s| s.state_hash == all[0].state_hash && s.revision == all[0].revision)
                .then_some(all)
        })
        .await
    }

    /// Waits until a node leads; gives its place.
    pub async fn leader(&self) -> usize {
        eventually("a node leads", async || {
            for (place, node) in self.nodes.iter().enumerate() {
                if node.child.is_some() && node.status().await.is_some_and(|status| status.role == "leader") {
                    return Some(place);
                }
            }
            None
        })
        .await
    }
}

pub fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}
