//! Three real nodes: processes of this same program, each with its data folder, certificate, ports and log file.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use raft_core::types::{ClusterId, NodeId};
use raft_transport_quic::{CA_FILE, CERTIFICATE_FILE, CredentialsError, DevCa, KEY_FILE};

use crate::api::{Founder, InitBody, StatusBody};
use crate::cli::{DETACH, Failure, write_new};
use crate::client::Client;

/// How many nodes the demo runs.
pub(super) const NODES: usize = 3;

/// How long a node may take until it answers.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// How often other ports are tried when a node cannot start.
const START_TRIES: usize = 5;

/// Below the range that systems take ports from for outgoing connections: else a connection of the demo itself could
/// sit on the port of a node that is to be restarted.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// The nodes. Dropped, they are killed; so they are when this process dies in any other way, since each follows its stdin.
#[derive(Debug)]
pub(super) struct Cluster {
    folder: PathBuf,
    cluster: ClusterId,
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    id: u64,
    raft: SocketAddr,
    http: SocketAddr,
    child: Option<Child>,
}

impl Cluster {
    /// Makes certificates for the nodes in `folder` and chooses their ports.
    pub(super) fn prepare(folder: &Path) -> Result<Self, Failure> {
        let failed = |e: CredentialsError| Failure::refused(e.to_string());
        let ca = DevCa::new(ClusterId(fastrand::u128(1..))).map_err(failed)?;
        let mut cluster = Self { folder: folder.to_owned(), cluster: ca.cluster(), nodes: Vec::new() };
        for id in 1..=NODES as u64 {
            let (certificate, key) = ca.issue_pem(NodeId(id)).map_err(failed)?;
            let certs = cluster.certs(id);
            write_new(&certs.join(CA_FILE), ca.ca_pem().as_bytes(), false)?;
            write_new(&certs.join(CERTIFICATE_FILE), certificate.as_bytes(), false)?;
            write_new(&certs.join(KEY_FILE), key.as_bytes(), true)?;
            cluster.nodes.push(Node { id, raft: free_address()?, http: free_address()?, child: None });
        }
        Ok(cluster)
    }

    /// Starts the nodes and waits until each answers.
    pub(super) async fn start(&mut self) -> Result<(), Failure> {
        for place in 0..NODES {
            self.launch(place)?;
        }
        for place in 0..NODES {
            let mut tries = 1;
            // Another program may have taken a port since it was found free.
            while let Err(failure) = self.wait_ready(place).await {
                if tries == START_TRIES || self.is_running(place) {
                    return Err(failure);
                }
                tries += 1;
                (self.nodes[place].raft, self.nodes[place].http) = (free_address()?, free_address()?);
                self.launch(place)?;
            }
        }
        Ok(())
    }

    /// Founds the cluster: all nodes vote.
    pub(super) async fn found(&self) -> Result<(), Failure> {
        let members = self.nodes.iter().map(|node| Founder {
            id: node.id,
            address: node.raft.to_string(),
            client_address: node.http.to_string(),
        });
        let body = InitBody { members: members.collect() };
        let client = Client::new(&self.addresses())?.with_timeout(START_TIMEOUT);
        let deadline = Instant::now() + START_TIMEOUT;
        // Founding may be repeated.
        while let Err(error) = client.init(&body).await {
            if Instant::now() > deadline {
                return Err(Failure::refused(format!("the cluster was not founded: {error}")));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// The HTTP addresses of all nodes.
    pub(super) fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.http.to_string()).collect()
    }

    /// The processes of all nodes that run.
    pub(super) fn processes(&self) -> Vec<u32> {
        self.nodes.iter().filter_map(|node| node.child.as_ref().map(Child::id)).collect()
    }

    /// Asks each node how it is; `None` where it does not answer.
    pub(super) async fn statuses(&self) -> Vec<Option<StatusBody>> {
        let mut statuses = Vec::new();
        for node in &self.nodes {
            statuses.push(match &node.child {
                Some(_) => self.status(node).await,
                None => None,
            });
        }
        statuses
    }

    /// The node that leads in the highest term, as it says itself, and that term.
    pub(super) async fn leader(&self) -> Option<(u64, u64)> {
        let statuses = self.statuses().await.into_iter().flatten();
        statuses
            .filter(|s| s.role == "leader")
            .map(|s| (s.term, s.node))
            .max()
            .map(|(term, node)| (node, term))
    }

    /// Kills a node with SIGKILL and waits until it is gone.
    pub(super) fn kill(&mut self, id: u64) -> Result<(), Failure> {
        let Some(node) = self.nodes.iter_mut().find(|node| node.id == id) else { return Ok(()) };
        let Some(mut child) = node.child.take() else { return Ok(()) };
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Starts a killed node again and waits until it answers.
    pub(super) async fn restart(&mut self, id: u64) -> Result<(), Failure> {
        let Some(place) = self.nodes.iter().position(|node| node.id == id) else { return Ok(()) };
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            self.launch(place)?;
            match self.wait_ready(place).await {
                Err(_) if !self.is_running(place) && Instant::now() < deadline => {
                    // Its port may be taken for the moment.
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                result => return result,
            }
        }
    }

    /// Fails if a node ended that should run.
    pub(super) fn check_running(&mut self) -> Result<(), Failure> {
        for place in 0..self.nodes.len() {
            if self.nodes[place].child.is_some() && !self.is_running(place) {
                return Err(Failure::refused(format!("node {} ended by itself", self.nodes[place].id)));
            }
        }
        Ok(())
    }

    /// Lets the nodes live on without this process.
    pub(super) fn detach(mut self) -> Result<(), Failure> {
        for node in &mut self.nodes {
            if let Some(child) = &mut node.child
                && let Some(stdin) = &mut child.stdin
            {
                stdin.write_all(DETACH)?;
            }
        }
        for node in &mut self.nodes {
            node.child = None;
        }
        Ok(())
    }

    /// The last lines of each node's log.
    pub(super) fn log_tails(&self) -> String {
        let mut text = String::new();
        for node in &self.nodes {
            let path = self.log(node.id);
            text += &format!("last lines of {}:\n", path.display());
            for line in tail(&path, 5) {
                text += &format!("    {line}\n");
            }
        }
        text
    }

    fn launch(&mut self, place: usize) -> Result<(), Failure> {
        let node = &self.nodes[place];
        let log = OpenOptions::new().create(true).append(true).open(self.log(node.id))?;
        let child = Command::new(std::env::current_exe()?)
            .arg("serve")
            .arg("--follow-stdin")
            .arg("--data")
            .arg(self.folder.join(format!("node-{}", node.id)))
            .arg("--certs")
            .arg(self.certs(node.id))
            .arg("--listen")
            .arg(node.raft.to_string())
            .arg("--http")
            .arg(node.http.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            // Ctrl-C at the terminal is for the demo, which then ends its nodes.
            .process_group(0)
            .spawn()
            .map_err(|e| Failure::refused(format!("cannot start node {}: {e}", node.id)))?;
        self.nodes[place].child = Some(child);
        Ok(())
    }

    async fn wait_ready(&mut self, place: usize) -> Result<(), Failure> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let node = &self.nodes[place];
            if self.status(node).await.is_some() {
                return Ok(());
            }
            let id = node.id;
            if !self.is_running(place) {
                let last = tail(&self.log(id), 1).pop().unwrap_or_default();
                return Err(Failure::refused(format!("node {id} did not start: {last}")));
            }
            if Instant::now() > deadline {
                return Err(Failure::refused(format!("node {id} did not answer in {START_TIMEOUT:?}")));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The status of a node, if it is ours: another program may sit on its port.
    async fn status(&self, node: &Node) -> Option<StatusBody> {
        let client = Client::new(&[node.http.to_string()]).ok()?.with_timeout(Duration::from_secs(2));
        let status = client.status(0).await.ok()?;
        (status.node == node.id && status.cluster == self.cluster.to_string()).then_some(status)
    }

    fn is_running(&mut self, place: usize) -> bool {
        match &mut self.nodes[place].child {
            Some(child) => matches!(child.try_wait(), Ok(None)),
            None => false,
        }
    }

    fn certs(&self, id: u64) -> PathBuf {
        self.folder.join(format!("certs-{id}"))
    }

    fn log(&self, id: u64) -> PathBuf {
        self.folder.join(format!("node-{id}.log"))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.nodes.iter_mut().filter_map(|node| node.child.as_mut()) {
            // It may have ended already.
            let _ = child.kill();
        }
        for child in self.nodes.iter_mut().filter_map(|node| node.child.as_mut()) {
            let _ = child.wait();
        }
    }
}

/// A loopback address whose port is free for both UDP and TCP at the moment.
fn free_address() -> Result<SocketAddr, Failure> {
    for _ in 0..1000 {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, fastrand::u16(PORTS)));
        if UdpSocket::bind(address).is_ok() && TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    Err(Failure::refused("no free port on the loopback interface: close other programs"))
}

/// The last lines of a file, from its last 16 KiB.
fn tail(path: &Path, lines: usize) -> Vec<String> {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(16 << 10)))?;
        let mut end = Vec::new();
        file.read_to_end(&mut end)?;
        Ok(end)
    };
    let end = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&end);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].iter().map(|line| (*line).to_owned()).collect()
}
