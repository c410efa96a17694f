//! A [`Transport`] over TCP with mutual TLS: `docs/writing-a-transport.md` goes through it step by step.

mod frames;

use std::collections::HashMap;
use std::io;
use std::net::{Shutdown, TcpListener as StdListener, TcpStream as StdStream};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::BufMut;
use raft_core::codec::wire;
use raft_core::message::{Envelope, Lane};
use raft_core::transport::{Inbox, LocalNode, SnapshotStream, Transport, TransportError};
use raft_core::types::{Incarnation, Lineage, NodeId, Peer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsStream;

use super::tls::Tls;
use frames::FrameStream;

/// Of the frames, and of the hello.
const VERSION: u16 = *wire::VERSIONS.end();
const MAGIC: u64 = u64::from_le_bytes(*b"raft-tcp");
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);
const MAX_HANDSHAKES: usize = 64;
/// To and from one peer: two lanes each way, and the streams of snapshots.
const MAX_LINKS: usize = 16;
const BACKOFF: Duration = Duration::from_millis(100);
/// What waits for one connection at most; and what goes into one frame, unless a single message is larger.
const QUEUE_BYTES: u32 = 8 << 20;
const PACK_BYTES: usize = 128 << 10;
/// A connection that is silent for so long is dead. One that has nothing to say says so four times as often.
const IDLE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long `stop` tries to send what is queued.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(250);

type Stream = TlsStream<TcpStream>;

/// A [`Transport`] over TCP with mutual TLS.
pub struct TcpTransport {
    listener: Mutex<Option<StdListener>>,
    address: String,
    tls: Tls,
    running: OnceLock<Arc<Running>>,
}

/// What the tasks of a running transport share. Locks are taken in the order of the fields.
struct Running {
    tls: Tls,
    local: LocalNode,
    inbox: Arc<dyn Inbox>,
    peers: Mutex<HashMap<NodeId, Wanted>>,
    /// `None` once stopped.
    tasks: Mutex<Option<JoinSet<()>>>,
}

/// Where a peer is to be found, the tasks that keep it connected, and the connections that there are.
#[derive(Default)]
struct Wanted {
    address: Option<String>,
    dialers: Vec<AbortHandle>,
    links: Vec<Arc<Link>>,
}

/// What a connection is for. It carries nothing else, so nothing waits behind anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Control = 1,
    Append = 2,
    Snapshot = 3,
}

/// A connection to a peer that was admitted.
struct Link {
    kind: Kind,
    dialed: bool,
    socket: StdStream,
    queue: mpsc::UnboundedSender<(Envelope, OwnedSemaphorePermit)>,
    /// A permit for each byte that may wait in the queue.
    room: Arc<Semaphore>,
}

impl Link {
    /// Queues a message, or drops it where there is no room.
    fn send(&self, message: Envelope) {
        let bytes = u32::try_from(message.bytes()).unwrap_or(u32::MAX).min(QUEUE_BYTES);
        if let Ok(room) = Arc::clone(&self.room).try_acquire_many_owned(bytes) {
            // Fails only where the connection has ended: the message is lost with it.
            let _ = self.queue.send((message, room));
        }
    }

    fn close(&self) {
        // Fails only where it is closed already.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

/// A connection that was taken in, for as long as this lives.
struct Connection {
    running: Arc<Running>,
    peer: Peer,
    link: Arc<Link>,
    queue: mpsc::UnboundedReceiver<(Envelope, OwnedSemaphorePermit)>,
    stream: Stream,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Running {
    /// Runs a task until it ends or the transport stops.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> Option<AbortHandle> {
        let mut tasks = lock(&self.tasks);
        let tasks = tasks.as_mut()?;
        while tasks.try_join_next().is_some() {}
        Some(tasks.spawn(task))
    }

    async fn say_hello(&self, stream: &mut Stream, kind: Kind, to: NodeId) -> io::Result<()> {
        let Peer { node, incarnation } = self.local.peer;
        let lineage = self.inbox.lineage();
        let mut hello = Vec::new();
        let boot = self.local.boot;
        for number in [MAGIC, VERSION.into(), kind as u64, node.0, incarnation.0, boot, lineage.0, to.0] {
            hello.put_u64_le(number);
        }
        stream.write_all(&hello).await?;
        stream.flush().await
    }

    /// Hears what a connection is for, and who speaks: it must be whom the certificate names, and mean us.
    async fn hear_hello(&self, stream: &mut Stream, named: NodeId) -> io::Result<(Kind, Peer, u64, Lineage)> {
        let mut hello = [0; 8];
        for number in &mut hello {
            *number = stream.read_u64_le().await?;
        }
        let [magic, version, kind, node, incarnation, boot, lineage, to] = hello;
        if (magic, version) != (MAGIC, VERSION.into()) || node != named.0 || to != self.local.peer.node.0 {
            return Err(io::Error::other(format!("node {named} says a hello that is not in order")));
        }
        let kinds = [Kind::Control, Kind::Append, Kind::Snapshot];
        let kind = kinds.into_iter().find(|known| *known as u64 == kind).ok_or(io::ErrorKind::InvalidData)?;
        Ok((kind, Peer { node: named, incarnation: Incarnation(incarnation) }, boot, Lineage(lineage)))
    }

    /// Makes a connection of a socket: of one that we `dialed`, or that was accepted.
    async fn greet(
        self: &Arc<Self>,
        socket: TcpStream,
        dialed: Option<(NodeId, Kind)>,
    ) -> io::Result<Connection> {
        socket.set_nodelay(true)?;
        let socket = socket.into_std()?;
        // A handle beside the stream, by which it can be closed while others wait on it.
        let handle = socket.try_clone()?;
        let socket = TcpStream::from_std(socket)?;
        let (mut stream, named) = match dialed {
            Some(_) => self.tls.connect(socket).await?,
            None => self.tls.accept(socket).await?,
        };
        if let Some((to, kind)) = dialed {
            if named != to {
                return Err(io::Error::other(format!("node {named} is at the address of node {to}")));
            }
            self.say_hello(&mut stream, kind, to).await?;
        }
        let (kind, peer, boot, lineage) = self.hear_hello(&mut stream, named).await?;
        let (sender, queue) = mpsc::unbounded_channel();
        let room = Arc::new(Semaphore::new(QUEUE_BYTES as usize));
        let link = Arc::new(Link { kind, dialed: dialed.is_some(), socket: handle, queue: sender, room });
        // First noted, then asked: a node that is removed just now is refused here or disconnected there.
        let links = {
            let mut peers = lock(&self.peers);
            let links = &mut peers.entry(named).or_default().links;
            links.push(Arc::clone(&link));
            links.len()
        };
        let mut connection = Connection { running: Arc::clone(self), peer, link, queue, stream };
        if links > MAX_LINKS || lock(&self.tasks).is_none() {
            return Err(io::Error::other("too many connections, or stopped"));
        }
        self.inbox.admit(peer, boot, lineage).map_err(io::Error::other)?;
        if dialed.is_none() {
            self.say_hello(&mut connection.stream, kind, named).await?;
        }
        Ok(connection)
    }

    async fn dial(self: &Arc<Self>, to: NodeId, address: &str, kind: Kind) -> io::Result<Connection> {
        let greeted = async { self.greet(TcpStream::connect(address).await?, Some((to, kind))).await };
        timeout(HANDSHAKE_TIMEOUT, greeted).await?
    }

    /// Keeps a connection of this kind to `peer`. Ends by being aborted.
    async fn keep_connected(self: Arc<Self>, peer: NodeId, address: String, kind: Kind) {
        loop {
            match self.dial(peer, &address, kind).await {
                Ok(connection) => connection.serve().await,
                Err(error) => tracing::debug!(%peer, address, %error, "not connected"),
            }
            sleep(BACKOFF).await;
        }
    }

    async fn accept_all(self: Arc<Self>, listener: TcpListener) {
        let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
        loop {
            let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await else { return };
            let Ok((socket, from)) = listener.accept().await else {
                sleep(BACKOFF).await;
                continue;
            };
            let running = Arc::clone(&self);
            self.spawn(async move {
                let greeted = timeout(HANDSHAKE_TIMEOUT, running.greet(socket, None)).await;
                drop(permit);
                match greeted.unwrap_or_else(|elapsed| Err(elapsed.into())) {
                    Ok(connection) if connection.link.kind == Kind::Snapshot => {
                        running.inbox.snapshot(connection.peer.node, Box::new(FrameStream::new(connection)));
                    }
                    Ok(connection) => connection.serve().await,
                    Err(error) => tracing::debug!(%from, %error, "not let in"),
                }
            });
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.link.close();
        if let Some(wanted) = lock(&self.running.peers).get_mut(&self.peer.node) {
            wanted.links.retain(|link| !Arc::ptr_eq(link, &self.link));
        }
    }
}

impl Connection {
    /// Sends and delivers until the connection ends.
    async fn serve(mut self) {
        let Self { running, peer, queue, stream, .. } = &mut self;
        let (read, write) = tokio::io::split(stream);
        let ended = tokio::select! {
            ended = write_lane(queue, write) => ended,
            ended = read_lane(running, *peer, read) => ended,
        };
        tracing::debug!(peer = %peer.node, ?ended, "connection ended");
    }
}

async fn write_lane(
    queue: &mut mpsc::UnboundedReceiver<(Envelope, OwnedSemaphorePermit)>,
    mut write: impl AsyncWrite + Unpin,
) -> io::Result<()> {
    let mut frame = Vec::new();
    loop {
        // A frame without messages says that we are there. The permits go back once all is written.
        let (mut pack, mut permits, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut next = timeout(IDLE_TIMEOUT / 4, queue.recv()).await.ok().flatten();
        while let Some((message, permit)) = next.take() {
            bytes += message.bytes();
            pack.push(message);
            permits.push(permit);
            if bytes < PACK_BYTES {
                next = queue.try_recv().ok();
            }
        }
        frame.clear();
        wire::encode_frame(VERSION, &pack, &mut frame).map_err(io::Error::other)?;
        let written = async {
            write.write_all(&frame).await?;
            write.flush().await
        };
        timeout(IDLE_TIMEOUT, written).await??;
    }
}

async fn read_lane(running: &Running, peer: Peer, mut read: impl AsyncRead + Unpin) -> io::Result<()> {
    loop {
        let mut header = [0; wire::FRAME_HEADER_BYTES];
        timeout(IDLE_TIMEOUT, read.read_exact(&mut header)).await??;
        let length = wire::body_bytes(header).map_err(io::Error::other)?;
        // Allocated as it comes, not as it was announced.
        let mut body = Vec::new();
        timeout(5 * IDLE_TIMEOUT, (&mut read).take(length as u64).read_to_end(&mut body)).await??;
        let batch = wire::decode_frame(VERSION, header, body.into()).map_err(io::Error::other)?;
        // A node speaks for itself only, and to us only.
        if batch.iter().any(|m| m.from != peer || m.to.node != running.local.peer.node) {
            return Err(io::Error::other("a message in another name, or to another node"));
        }
        if !batch.is_empty() {
            running.inbox.deliver(peer.node, batch);
        }
    }
}

impl TcpTransport {
    /// Takes the port at `listen`, such as `127.0.0.1:7000`; port 0 takes a free one.
    ///
    /// # Errors
    /// Where that cannot be had.
    pub fn bind(listen: &str, tls: Tls) -> Result<Self, TransportError> {
        let failed = |error| TransportError::new(format!("cannot listen on {listen}: {error}"));
        let listener = StdListener::bind(listen).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?.to_string();
        Ok(Self { listener: Mutex::new(Some(listener)), address, tls, running: OnceLock::new() })
    }
}

#[async_trait]
impl Transport for TcpTransport {
    async fn start(&self, local: LocalNode, inbox: Arc<dyn Inbox>) -> Result<(), TransportError> {
        if self.tls.identity() != (local.cluster, local.peer.node) {
            return Err(TransportError::new("the certificate is another node's: use the one issued for it"));
        }
        let listener = lock(&self.listener).take();
        let listener = listener.ok_or_else(|| TransportError::new("the transport was started already"))?;
        let listener = TcpListener::from_std(listener)
            .map_err(|error| TransportError::new(format!("cannot listen on {}: {error}", self.address)))?;
        let (peers, tasks) = (Mutex::default(), Mutex::new(Some(JoinSet::new())));
        let running = Arc::new(Running { tls: self.tls.clone(), local, inbox, peers, tasks });
        running.spawn(Arc::clone(&running).accept_all(listener));
        self.running.set(running).map_err(|_| TransportError::new("the transport was started already"))
    }

    fn address(&self) -> String {
        self.address.clone()
    }

    fn connect(&self, peer: NodeId, address: &str) {
        let Some(running) = self.running.get() else { return };
        let mut peers = lock(&running.peers);
        let wanted = peers.entry(peer).or_default();
        if peer == running.local.peer.node || wanted.address.as_deref() == Some(address) {
            return;
        }
        wanted.address = Some(address.to_owned());
        wanted.dialers.drain(..).for_each(|dialer| dialer.abort());
        for kind in [Kind::Control, Kind::Append] {
            let dialer = Arc::clone(running).keep_connected(peer, address.to_owned(), kind);
            wanted.dialers.extend(running.spawn(dialer));
        }
    }

    fn disconnect(&self, peer: NodeId) {
        let wanted = self.running.get().and_then(|running| lock(&running.peers).remove(&peer));
        let Some(wanted) = wanted else { return };
        wanted.dialers.iter().for_each(AbortHandle::abort);
        wanted.links.iter().for_each(|link| link.close());
    }

    fn send(&self, to: NodeId, batch: Vec<Envelope>) {
        let Some(running) = self.running.get() else { return };
        let peers = lock(&running.peers);
        let Some(wanted) = peers.get(&to) else { return };
        // Of two, always the one that we dialed: so the order is kept.
        let link = |kind| wanted.links.iter().filter(|l| l.kind == kind).max_by_key(|l| l.dialed);
        let (control, append) = (link(Kind::Control), link(Kind::Append));
        for message in batch {
            let link = if message.lane() == Lane::Control { control } else { append };
            if let Some(link) = link
                && message.from == running.local.peer
                && message.to.node == to
            {
                link.send(message);
            }
        }
    }

    async fn open_snapshot(&self, to: NodeId) -> Result<Box<dyn SnapshotStream>, TransportError> {
        let running = self.running.get().filter(|running| lock(&running.tasks).is_some());
        let running = running.ok_or_else(|| TransportError::new("the transport does not run"))?;
        let address = lock(&running.peers).get(&to).and_then(|wanted| wanted.address.clone());
        let address = address.ok_or_else(|| TransportError::new(format!("node {to} has no address")))?;
        let dialed = running.dial(to, &address, Kind::Snapshot).await;
        let dialed = dialed.map_err(|e| TransportError::new(format!("node {to} is not reached: {e}")))?;
        Ok(Box::new(FrameStream::new(dialed)))
    }

    async fn stop(&self) {
        let Some(running) = self.running.get() else { return };
        let Some(mut tasks) = lock(&running.tasks).take() else { return };
        let links: Vec<_> = lock(&running.peers).values().flat_map(|wanted| wanted.links.clone()).collect();
        let flushed = async {
            for link in &links {
                // All permits are back: all is written. Fails never: the semaphore is not closed.
                let _ = link.room.acquire_many(QUEUE_BYTES).await;
            }
        };
        // What is not through by then is lost, as it may be.
        let _ = timeout(FLUSH_TIMEOUT, flushed).await;
        tasks.shutdown().await;
        lock(&running.peers).values().flat_map(|wanted| &wanted.links).for_each(|link| link.close());
    }
}

impl Drop for TcpTransport {
    fn drop(&mut self) {
        if let Some(running) = self.running.get() {
            // The set aborts its tasks.
            lock(&running.tasks).take();
        }
    }
}
