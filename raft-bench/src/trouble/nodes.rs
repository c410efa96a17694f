//! Three raft-kv nodes as processes of their own, which can be killed: `raft-bench` under another name.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use raft_core::{ClusterId, NodeId};
use raft_kv::api::{Founder, InitBody, StatusBody};
use raft_kv::client::Client;
use raft_transport_quic::{CA_FILE, CERTIFICATE_FILE, DevCa, KEY_FILE};
use tempfile::TempDir;

use crate::backend::Failure;

/// Called by this name, the program is raft-kv.
pub const ARGV0: &str = "raft-kv";

const NODES: u64 = 3;
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(5);

/// Below the range that systems take ports from for outgoing connections.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// A cluster of three raft-kv nodes on this machine. Dropped, they are killed; so they are when this process dies, since each follows its
/// stdin.
pub struct Nodes {
    program: PathBuf,
    folder: TempDir,
    nodes: Vec<Node>,
}

struct Node {
    raft: SocketAddr,
    http: SocketAddr,
    child: Option<Child>,
}

impl Nodes {
    /// Starts them and founds their cluster. The program is `raft-bench`, or anything else that is raft-kv by the name of [`ARGV0`].
    ///
    /// # Errors
    /// Where they do not start, or the cluster is not founded.
    pub async fn start(program: PathBuf) -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let ca = DevCa::new(ClusterId(0xfa11))?;
        let mut nodes = Self { program, folder, nodes: Vec::new() };
        for id in 1..=NODES {
            let certs = nodes.folder.path().join(format!("certs-{id}"));
            fs::create_dir_all(&certs)?;
            let (certificate, key) = ca.issue_pem(NodeId(id))?;
            fs::write(certs.join(CA_FILE), ca.ca_pem())?;
            fs::write(certs.join(CERTIFICATE_FILE), certificate)?;
            fs::write(certs.join(KEY_FILE), key)?;
            nodes.nodes.push(Node { raft: free_address()?, http: free_address()?, child: None });
        }
        for id in 1..=NODES {
            nodes.launch(id)?;
        }
        for id in 1..=NODES {
            nodes.until(id, |_| true).await?;
        }
        let founders = (1..).zip(&nodes.nodes).map(|(id, node)| Founder {
            id,
            address: node.raft.to_string(),
            client_address: node.http.to_string(),
        });
        let body = InitBody { members: founders.collect() };
        nodes.client()?.with_timeout(PATIENCE).init(&body).await?;
        Ok(nodes)
    }

    /// The addresses of their HTTP interfaces.
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.http.to_string()).collect()
    }

    /// The processes that run.
    pub fn processes(&self) -> Vec<u32> {
        self.nodes.iter().filter_map(|node| Some(node.child.as_ref()?.id())).collect()
    }

    /// A client that knows all nodes.
    pub(super) fn client(&self) -> Result<Client, Failure> {
        Ok(Client::new(&self.addresses())?)
    }

    /// Who leads, once each node that runs says the same.
    ///
    /// # Errors
    /// Where they do not come to agree.
    pub async fn leader(&self) -> Result<u64, Failure> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut leaders = Vec::new();
            for id in (1..=NODES).filter(|id| self.node(*id).is_ok_and(|node| node.child.is_some())) {
                leaders.push(self.status(id).await.and_then(|status| status.leader));
            }
            if let Some(&Some(leader)) = leaders.first()
                && leaders.iter().all(|other| *other == Some(leader))
            {
                return Ok(leader);
            }
            if Instant::now() > deadline {
                return Err("nobody leads".into());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Sends SIGKILL.
    ///
    /// # Errors
    /// Where there is no such node.
    pub fn kill(&mut self, id: u64) -> Result<(), Failure> {
        if let Some(mut child) = self.node_mut(id)?.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Starts a node that was killed.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn launch(&mut self, id: u64) -> Result<(), Failure> {
        let path = |name: &str| -> PathBuf { self.folder.path().join(format!("{name}-{id}")) };
        let (data, certs, log) = (path("data"), path("certs"), path("log"));
        let log = fs::OpenOptions::new().create(true).append(true).open(log)?;
        let mut command = Command::new(&self.program);
        let node = self.node_mut(id)?;
        let child = command
            .arg0(ARGV0)
            .args(["serve", "--follow-stdin", "--data"])
            .arg(data)
            .arg("--certs")
            .arg(certs)
            .args(["--listen", &node.raft.to_string(), "--http", &node.http.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .spawn()?;
        node.child = Some(child);
        Ok(())
    }

    /// Waits until a node's status is as wanted.
    pub(super) async fn until(&self, id: u64, wanted: impl Fn(&StatusBody) -> bool) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        while !self.status(id).await.is_some_and(|status| wanted(&status)) {
            if Instant::now() > deadline {
                let log = fs::read_to_string(self.folder.path().join(format!("log-{id}")))?;
                return Err(format!("node {id} does not come to be as it should:\n{log}").into());
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    pub(super) async fn status(&self, id: u64) -> Option<StatusBody> {
        let address = self.node(id).ok()?.http.to_string();
        let client = Client::new(&[address]).ok()?.with_timeout(Duration::from_secs(1));
        client.status(0).await.ok().filter(|status| status.node == id)
    }

    fn node(&self, id: u64) -> Result<&Node, Failure> {
        let place = usize::try_from(id).unwrap_or_default().wrapping_sub(1);
        self.nodes.get(place).ok_or_else(|| format!("there is no node {id}").into())
    }

    fn node_mut(&mut self, id: u64) -> Result<&mut Node, Failure> {
        let place = usize::try_from(id).unwrap_or_default().wrapping_sub(1);
        self.nodes.get_mut(place).ok_or_else(|| format!("there is no node {id}").into())
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for child in self.nodes.iter_mut().filter_map(|node| node.child.as_mut()) {
            // It may have ended already.
            let _ended = child.kill();
            let _status = child.wait();
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
    Err("no free port on the loopback interface: close other programs".into())
}
