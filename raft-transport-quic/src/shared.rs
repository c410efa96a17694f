//! What all tasks of a running transport share, and how a connection comes to be one of its links.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use quinn::{Connection, Endpoint, ServerConfig, TransportConfig};
use raft_core::message::Envelope;
use raft_core::transport::{Inbox, LocalNode, TransportError};
use raft_core::types::NodeId;
use rustls_pki_types::CertificateDer;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use crate::credentials::Credentials;
use crate::dial;
use crate::fault::Fault;
use crate::hello::{Hello, SNAPSHOT_VERSION};
use crate::identity::Identity;
use crate::link::{self, Link};
use crate::options::QuicOptions;
use crate::peers::{Peers, Registered};
use crate::snapshot::{self, QuicSnapshotStream};
use crate::stats::Counters;
use crate::sync::{lock, read};
use crate::tls::{self, Reason};

/// At most one warning about strangers in this time: whoever can reach the port could fill the log otherwise.
const WARNING_INTERVAL: Duration = Duration::from_secs(1);

/// What is kept of a connection that is not begun yet: its first packets.
const INCOMING_BYTES: u64 = 16 << 10;

/// What connections are taken in with.
pub(crate) fn server_config(
    credentials: &Credentials,
    options: &QuicOptions,
    quic: &Arc<TransportConfig>,
    reason: &Reason,
) -> Result<ServerConfig, TransportError> {
    let mut config = ServerConfig::with_crypto(Arc::new(tls::server_config(credentials, reason)?));
    config.transport_config(Arc::clone(quic));
    config.max_incoming(options.max_handshakes);
    // Each is taken or turned away at once, so little comes together here.
    config
        .incoming_buffer_size(INCOMING_BYTES)
        .incoming_buffer_size_total(INCOMING_BYTES * options.max_handshakes as u64);
    Ok(config)
}

/// How connections behave.
pub(crate) struct Paths {
    /// To peers on this machine.
    pub(crate) local: Arc<TransportConfig>,
    pub(crate) other: Arc<TransportConfig>,
}

impl Paths {
    pub(crate) fn to(&self, address: SocketAddr) -> &Arc<TransportConfig> {
        if address.ip().to_canonical().is_loopback() { &self.local } else { &self.other }
    }
}

/// A running transport.
pub(crate) struct Shared {
    pub(crate) local: LocalNode,
    pub(crate) inbox: Arc<dyn Inbox>,
    /// Those of the next connection.
    pub(crate) credentials: Arc<RwLock<Credentials>>,
    pub(crate) options: QuicOptions,
    pub(crate) paths: Paths,
    pub(crate) counters: Arc<Counters>,
    pub(crate) endpoint: Endpoint,
    pub(crate) peers: Peers,
    pub(crate) runtime: Handle,
    pub(crate) stop: watch::Sender<bool>,
    /// Each task holds a clone: when the receiver ends, all tasks have.
    pub(crate) alive: mpsc::WeakSender<()>,
    pub(crate) warned: Mutex<Option<Instant>>,
}

impl Shared {
    /// Runs a task that [`QuicTransport::stop`](crate::QuicTransport) waits for.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let alive = self.alive.upgrade();
        self.runtime
            .spawn(async move {
                // None only when stopped: then there is nothing to do any more.
                if alive.is_some() {
                    task.await;
                }
                drop(alive);
            })
            .abort_handle()
    }

    /// Waits until the transport is to stop.
    pub(crate) async fn stopping(&self) {
        // Fails only where the sender is gone, and it lives as long as we do.
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }

    /// Lets everything end.
    pub(crate) fn halt(&self) {
        self.peers.close();
        self.stop.send_replace(true);
    }

    pub(crate) fn send(&self, to: NodeId, mut batch: Vec<Envelope>) {
        let before = batch.len();
        // The peer would close the connection over a message that is not from us or not to it.
        batch.retain(|envelope| envelope.from == self.local.peer && envelope.to.node == to);
        let misdirected = before - batch.len();
        self.counters.dropped.add(misdirected);
        match self.peers.sender(to) {
            Some(link) => link.send(batch),
            None => self.counters.dropped.add(batch.len()),
        }
    }

    /// Opens a stream for a snapshot to `to`.
    pub(crate) async fn open_snapshot(&self, to: NodeId) -> Result<QuicSnapshotStream, TransportError> {
        let refuse = |why: &dyn std::fmt::Display| {
            TransportError::new(format!("no snapshot can be sent to node {to}: {why}"))
        };
        let link = self.peers.link(to).ok_or_else(|| refuse(&"it is not connected"))?;
        if link.version < SNAPSHOT_VERSION {
            return Err(refuse(&"its version takes none; upgrade it"));
        }
        let counters = Arc::clone(&self.counters);
        let opened = snapshot::open(&link.connection, counters, self.options.connect_timeout).await;
        opened.map_err(|fault| refuse(&fault))
    }

    pub(crate) fn connect(self: &Arc<Self>, peer: NodeId, address: &str) {
        if peer == self.local.peer.node {
            tracing::warn!(%peer, "a node does not connect to itself");
            return;
        }
        self.peers
            .want(peer, address, |address| self.spawn(dial::keep_connected(Arc::clone(self), peer, address)));
    }

    pub(crate) fn credentials(&self) -> Credentials {
        read(&self.credentials).clone()
    }

    /// What one connection is taken in with.
    pub(crate) fn server_config(
        &self,
        from: SocketAddr,
        reason: &Reason,
    ) -> Result<ServerConfig, TransportError> {
        server_config(&self.credentials(), &self.options, self.paths.to(from), reason)
    }

    /// Whom the peer's certificate names. The handshake has verified it.
    pub(crate) fn authenticated(&self, connection: &Connection) -> Result<Identity, Fault> {
        let chain = connection
            .peer_identity()
            .and_then(|chain| chain.downcast::<Vec<CertificateDer<'static>>>().ok())
            .unwrap_or_default();
        let certificate =
            chain.first().ok_or_else(|| Fault::Refused("it has shown no certificate".to_owned()))?;
        let identity = Identity::of(certificate)
            .map_err(|error| Fault::Refused(format!("its certificate names no node: {error}")))?;
        if identity.cluster != self.local.cluster {
            return Err(Fault::Refused(format!("its certificate is of cluster {}", identity.cluster)));
        }
        Ok(identity)
    }

    /// Makes `connection` the link to the peer that said `hello` on it, in the agreed `version`, and begins to send and receive, if the inbox
    /// admits the peer and the pair has no better connection.
    pub(crate) fn admit(
        self: &Arc<Self>,
        connection: &Connection,
        hello: &Hello,
        version: u16,
        dialed: Option<String>,
    ) -> Result<(), Fault> {
        let link = Link::new(
            connection.clone(),
            hello.from,
            hello.boot,
            version,
            dialed,
            &self.options,
            &self.counters,
        );
        let link = Arc::new(link);
        loop {
            let epoch = self.peers.epoch();
            self.inbox.admit(hello.from, hello.boot, hello.lineage).map_err(Fault::NotAdmitted)?;
            match self.peers.register(&link, epoch, self.local.peer.node)? {
                Registered::Kept { again } => {
                    self.counters.reconnects.add(usize::from(again));
                    self.spawn(link::serve(Arc::clone(self), link));
                    return Ok(());
                }
                Registered::Outdated => {}
            }
        }
    }

    /// Counts why a connection did not come to be.
    pub(crate) fn count(&self, fault: &Fault) {
        match fault {
            Fault::Refused(_) | Fault::NotAdmitted(_) | Fault::Version(_) => self.counters.refused.add(1),
            Fault::Malformed(_) => self.counters.malformed.add(1),
            Fault::Goodbye | Fault::Superseded | Fault::Lost(_) => {}
        }
    }

    /// Whether a warning about a stranger is due.
    pub(crate) fn may_warn(&self) -> bool {
        let mut warned = lock(&self.warned);
        let due = warned.is_none_or(|last| last.elapsed() >= WARNING_INTERVAL);
        if due {
            *warned = Some(Instant::now());
        }
        due
    }
}
