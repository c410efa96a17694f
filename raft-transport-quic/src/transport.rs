//! The transport itself: from the socket to the trait.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, RwLock, Weak};
use std::time::Duration;

use async_trait::async_trait;
use quinn::{AsyncUdpSocket, Endpoint, EndpointConfig, Runtime, TokioRuntime};
use raft_core::message::Envelope;
use raft_core::transport::{Inbox, LocalNode, SnapshotStream, Transport, TransportError};
use raft_core::types::{Incarnation, NodeId};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use crate::accept::accept_all;
use crate::credentials::Credentials;
use crate::dial::Resolver;
use crate::options::QuicOptions;
use crate::peers::Peers;
use crate::shared::{Paths, Shared, server_config};
use crate::stats::{Counters, QuicStats};
use crate::sync::{read, write};
use crate::tls::{Reason, StableKeys};

/// How long the last packets may take when stopping; what they tell the peers is a courtesy.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);
/// What quinn takes in one datagram by itself; a larger `max_mtu` must be announced.
const USUAL_UDP_PAYLOAD_BYTES: u16 = 1472;

/// A [`Transport`] over QUIC with mutual TLS 1.3.
///
/// Bind it, hand it to the runtime, which calls [`start`](Transport::start), and peers talk. It needs a tokio runtime
/// with time and network enabled from `start` on, not before.
pub struct QuicTransport {
    address: String,
    credentials: Arc<RwLock<Credentials>>,
    options: QuicOptions,
    pub(crate) resolver: Resolver,
    counters: Arc<Counters>,
    stage: RwLock<Stage>,
}

enum Stage {
    Bound(UdpSocket),
    Running(Running),
    Stopped,
}

struct Running {
    shared: Arc<Shared>,
    /// Dropped to stop: then the receiver beside it ends with the last task.
    alive: mpsc::Sender<()>,
    ended: mpsc::Receiver<()>,
    socket: Weak<dyn AsyncUdpSocket>,
}

impl QuicTransport {
    /// Takes the socket at `listen`, an address and port such as `10.0.0.1:7000`; port 0 takes a free one, which
    /// [`address`](Transport::address) tells. Needs no tokio runtime yet.
    ///
    /// # Errors
    /// Where `listen` is not an address and port, the port is taken, or the options do not fit.
    pub fn bind(
        listen: &str,
        credentials: Credentials,
        options: QuicOptions,
    ) -> Result<Self, TransportError> {
        options.validate()?;
        let listen: SocketAddr = listen.parse().map_err(|_| {
            TransportError::new(format!(
                "{listen:?} is no address to listen on: give an IP address and a port, as 10.0.0.1:7000"
            ))
        })?;
        let socket = bind(listen, options.socket_buffer_bytes).map_err(|error| {
            let hint = match error.kind() {
                io::ErrorKind::AddrInUse => {
                    "the UDP port is in use: stop the other process or choose another port".to_owned()
                }
                io::ErrorKind::AddrNotAvailable => "the address is none of this machine's".to_owned(),
                _ => error.to_string(),
            };
            TransportError::new(format!("cannot listen on {listen}: {hint}"))
        })?;
        let local = socket
            .local_addr()
            .map_err(|error| TransportError::new(format!("cannot listen on {listen}: {error}")))?;
        let address = match &options.advertise {
            Some(advertise) => match advertise.strip_suffix(":0") {
                Some(host) => format!("{host}:{}", local.port()),
                None => advertise.clone(),
            },
            None if local.ip().is_unspecified() => {
                return Err(TransportError::new(format!(
                    "peers cannot reach {local}: set QuicOptions::advertise to the address that they shall use"
                )));
            }
            None => local.to_string(),
        };
        let stage = RwLock::new(Stage::Bound(socket));
        let credentials = Arc::new(RwLock::new(credentials));
        let resolver = Resolver::default();
        Ok(Self { address, credentials, options, resolver, counters: Arc::default(), stage })
    }

    /// What was counted so far.
    pub fn stats(&self) -> QuicStats {
        let connected = self.running().map_or(0, |shared| shared.peers.connected());
        self.counters.snapshot(connected)
    }

    /// Takes new credentials of the same node, a renewed certificate or other authorities: every connection from now on
    /// begins with them. Connections that are there go on. To move to a new authority, first give every node both.
    ///
    /// With a new private key, peers notice the node's next restart only by its silence: keep the key where you can.
    ///
    /// # Errors
    /// Where they are another node's; the old ones stay.
    pub fn reload(&self, credentials: Credentials) -> Result<(), TransportError> {
        let mut current = write(&self.credentials);
        if (credentials.cluster(), credentials.node()) != (current.cluster(), current.node()) {
            return Err(TransportError::new(format!(
                "{credentials:?} cannot take the place of {current:?}: use the certificate issued for this node"
            )));
        }
        *current = credentials;
        tracing::info!("credentials reloaded");
        Ok(())
    }

    fn running(&self) -> Option<Arc<Shared>> {
        match &*read(&self.stage) {
            Stage::Running(running) => Some(Arc::clone(&running.shared)),
            Stage::Bound(_) | Stage::Stopped => None,
        }
    }

    fn check(&self, local: &LocalNode) -> Result<(), TransportError> {
        let credentials = read(&self.credentials);
        let (cluster, node) = (credentials.cluster(), credentials.node());
        if local.cluster != cluster {
            return Err(TransportError::new(format!(
                "the certificate is of cluster {cluster} and the data of cluster {}: use the certificate issued for it",
                local.cluster
            )));
        }
        if local.peer.node != node {
            return Err(TransportError::new(format!(
                "the certificate is node {node}'s and the data node {}'s: use the certificate issued for it",
                local.peer.node
            )));
        }
        if local.peer.incarnation == Incarnation::UNKNOWN {
            return Err(TransportError::new("the node's incarnation is unknown: open its data first"));
        }
        Ok(())
    }

    fn run(
        &self,
        socket: &UdpSocket,
        local: LocalNode,
        inbox: Arc<dyn Inbox>,
    ) -> Result<Running, TransportError> {
        let runtime = Handle::try_current()
            .map_err(|_| TransportError::new("QuicTransport::start needs a tokio runtime"))?;
        let failed =
            |error: io::Error| TransportError::new(format!("cannot listen on {}: {error}", self.address));
        let paths = Paths {
            local: self.options.transport_config(true)?,
            other: self.options.transport_config(false)?,
        };
        let credentials = read(&self.credentials).clone();
        let keys = StableKeys::derive(&credentials)?;
        let server = server_config(&credentials, &self.options, &paths.other, &Reason::default())?;
        let mut endpoint = EndpointConfig::new(Arc::clone(&keys.reset) as _);
        endpoint.cid_generator(move || Box::new(keys.connection_ids()));
        endpoint
            .max_udp_payload_size(self.options.receives_mtu().max(USUAL_UDP_PAYLOAD_BYTES))
            .map_err(|error| TransportError::new(format!("QuicOptions: max_mtu: {error}")))?;
        let socket = TokioRuntime.wrap_udp_socket(socket.try_clone().map_err(failed)?).map_err(failed)?;
        let released = Arc::downgrade(&socket);
        let endpoint =
            Endpoint::new_with_abstract_socket(endpoint, Some(server), socket, Arc::new(TokioRuntime))
                .map_err(failed)?;
        let (alive, ended) = mpsc::channel(1);
        let shared = Arc::new(Shared {
            local,
            inbox,
            credentials: Arc::clone(&self.credentials),
            options: self.options.clone(),
            resolver: self.resolver.clone(),
            paths,
            counters: Arc::clone(&self.counters),
            endpoint,
            peers: Peers::default(),
            runtime,
            stop: watch::Sender::new(false),
            alive: alive.downgrade(),
            warned: Mutex::default(),
        });
        shared.spawn(accept_all(Arc::clone(&shared)));
        Ok(Running { shared, alive, ended, socket: released })
    }
}

#[async_trait]
impl Transport for QuicTransport {
    async fn start(&self, local: LocalNode, inbox: Arc<dyn Inbox>) -> Result<(), TransportError> {
        self.check(&local)?;
        let mut stage = write(&self.stage);
        let running = match &*stage {
            Stage::Bound(socket) => self.run(socket, local, inbox)?,
            Stage::Running(_) => return Err(TransportError::new("the transport is started already")),
            Stage::Stopped => return Err(TransportError::new("the transport is stopped: bind a new one")),
        };
        *stage = Stage::Running(running);
        Ok(())
    }

    fn address(&self) -> String {
        self.address.clone()
    }

    fn connect(&self, peer: NodeId, address: &str) {
        if let Some(shared) = self.running() {
            shared.connect(peer, address);
        }
    }

    fn disconnect(&self, peer: NodeId) {
        if let Some(shared) = self.running() {
            shared.peers.forget(peer);
        }
    }

    fn send(&self, to: NodeId, batch: Vec<Envelope>) {
        match &*read(&self.stage) {
            Stage::Running(running) => running.shared.send(to, batch),
            Stage::Bound(_) | Stage::Stopped => self.counters.dropped.add(batch.len()),
        }
    }

    async fn open_snapshot(&self, to: NodeId) -> Result<Box<dyn SnapshotStream>, TransportError> {
        let shared = self.running().ok_or_else(|| TransportError::new("the transport is not running"))?;
        Ok(Box::new(shared.open_snapshot(to).await?))
    }

    async fn stop(&self) {
        let stage = std::mem::replace(&mut *write(&self.stage), Stage::Stopped);
        let Stage::Running(Running { shared, alive, mut ended, socket }) = stage else { return };
        drop(alive);
        shared.halt();
        // Each task ends by itself within its own limits; the last one closes the channel.
        if timeout(STOP_TIMEOUT, ended.recv()).await.is_err() {
            tracing::warn!("a task of the transport did not end in time");
        }
        shared.endpoint.close(quinn::VarInt::from_u32(0), &[]);
        let _ = timeout(STOP_TIMEOUT, shared.endpoint.wait_idle()).await;
        drop(shared);
        // The socket goes with the endpoint's own task, which nothing else tells the end of.
        let _ = timeout(STOP_TIMEOUT, async {
            while socket.strong_count() > 0 {
                sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }
}

impl Drop for QuicTransport {
    fn drop(&mut self) {
        if let Stage::Running(running) = &*read(&self.stage) {
            running.shared.halt();
            running.shared.endpoint.close(quinn::VarInt::from_u32(0), &[]);
        }
    }
}

impl std::fmt::Debug for QuicTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QuicTransport")
            .field("address", &self.address)
            .field("credentials", &*read(&self.credentials))
            .finish_non_exhaustive()
    }
}

fn bind(listen: SocketAddr, buffer_bytes: usize) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(listen), Type::DGRAM, Some(Protocol::UDP))?;
    if listen.is_ipv6() {
        // Not every system can; then IPv6 addresses are what can be reached.
        let _ = socket.set_only_v6(false);
    }
    socket.set_nonblocking(true)?;
    socket.bind(&listen.into())?;
    // A system that gives less still works, only slower at bursts.
    let _ = socket.set_recv_buffer_size(buffer_bytes);
    let _ = socket.set_send_buffer_size(buffer_bytes);
    // Linux says twice what it gives: the other half is for its own bookkeeping (socket(7)).
    let said = if cfg!(target_os = "linux") { 2 } else { 1 };
    let (receive, send) = (socket.recv_buffer_size()? / said, socket.send_buffer_size()? / said);
    if receive.min(send) < buffer_bytes {
        tracing::warn!(
            asked = buffer_bytes,
            receive,
            send,
            "the system gives smaller socket buffers and will lose packets at bursts; raise its limits (on Linux the \
             sysctls net.core.rmem_max and net.core.wmem_max)"
        );
    }
    Ok(socket.into())
}
