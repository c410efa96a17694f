//! One connection to an authenticated peer, and the tasks that serve it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::{Connection, ConnectionError};
use raft_core::message::{Envelope, Lane};
use raft_core::types::{NodeId, Peer};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::fault::Fault;
use crate::hello::SNAPSHOT_VERSION;
use crate::inbound::read_lane;
use crate::lane::LaneQueue;
use crate::options::{self, QuicOptions};
use crate::shared::Shared;
use crate::snapshot;
use crate::stats::Counters;

/// How long a connection that ends in peace tries to send what waits, and to deliver what has arrived.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(250);

/// A connection to a peer that has said its hello and was admitted.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) connection: Connection,
    pub(crate) peer: Peer,
    pub(crate) boot: u64,
    /// What both speak.
    pub(crate) version: u16,
    /// Where we dialed; `None` where the peer dialed us.
    pub(crate) dialed: Option<String>,
    since: Instant,
    control: LaneQueue,
    append: LaneQueue,
}

impl Link {
    pub(crate) fn new(
        connection: Connection,
        peer: Peer,
        boot: u64,
        version: u16,
        dialed: Option<String>,
        options: &QuicOptions,
        counters: &Arc<Counters>,
    ) -> Self {
        let queue = |lane, limit_bytes| LaneQueue::new(lane, limit_bytes, version, Arc::clone(counters));
        Self {
            connection,
            peer,
            boot,
            version,
            dialed,
            since: Instant::now(),
            control: queue(Lane::Control, options.control_queue_bytes),
            append: queue(Lane::Append, options.append_queue_bytes),
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    /// How long it has been there.
    pub(crate) fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// Whether it is kept rather than `other`, an older connection of `local` to the same node.
    ///
    /// Both ends decide alike, so that one connection of a pair survives: of the peer's runs the latest; in one run the
    /// connection that the lower node id dialed; of several such the latest.
    pub(crate) fn supersedes(&self, other: &Self, local: NodeId) -> bool {
        if !other.is_open() || self.peer.incarnation != other.peer.incarnation {
            return true;
        }
        if self.boot != other.boot {
            return self.boot > other.boot;
        }
        let lower_dialed = |link: &Self| link.dialed.is_some() == (local < link.peer.node);
        lower_dialed(self) || !lower_dialed(other)
    }

    /// Queues messages; what is dropped for it is counted.
    pub(crate) fn send(&self, batch: Vec<Envelope>) {
        let (control, append): (Vec<_>, Vec<_>) =
            batch.into_iter().partition(|envelope| envelope.lane() == Lane::Control);
        if !control.is_empty() {
            self.control.push(control);
        }
        if !append.is_empty() {
            self.append.push(append);
        }
    }

    pub(crate) fn close(&self, why: &Fault) {
        self.connection.close(why.code(), &[]);
    }
}

/// Serves `link` until it ends.
pub(crate) async fn serve(shared: Arc<Shared>, link: Arc<Link>) {
    let node = link.peer.node;
    tracing::info!(peer = %node, address = %link.connection.remote_address(), "connected");
    let fault = serve_lanes(&shared, &link).await;
    link.close(&fault);
    shared.peers.unregister(&link);
    link.control.abandon();
    link.append.abandon();
    if let Fault::Malformed(_) = fault {
        shared.counters.malformed.add(1);
        tracing::warn!(peer = %node, reason = %fault, "connection closed");
    } else {
        tracing::info!(peer = %node, reason = %fault, "connection ended");
    }
}

async fn all(tasks: &mut JoinSet<Result<(), Fault>>) {
    while tasks.join_next().await.is_some() {}
}

async fn serve_lanes(shared: &Arc<Shared>, link: &Arc<Link>) -> Fault {
    options::widen(&link.connection);
    let mut writers = JoinSet::new();
    let mut readers = JoinSet::new();
    for lane in [Lane::Control, Lane::Append] {
        let link = Arc::clone(link);
        writers.spawn(async move {
            let stream = link.connection.open_uni().await?;
            let queue = match lane {
                Lane::Control => &link.control,
                Lane::Append => &link.append,
            };
            queue.write(stream).await
        });
    }
    let fault = loop {
        let ended = tokio::select! {
            stream = link.connection.accept_uni() => match stream {
                Ok(stream) => {
                    let (shared, peer, version) = (Arc::clone(shared), link.peer, link.version);
                    readers.spawn(async move {
                        read_lane(stream, peer, version, shared.local, &*shared.inbox, &shared.counters).await
                    });
                    continue;
                }
                Err(error) => {
                    if let ConnectionError::ApplicationClosed(_) = error {
                        // The peer's last words are here but not read yet; after them the readers find the end.
                        let _ = timeout(FLUSH_TIMEOUT, all(&mut readers)).await;
                    }
                    break error.into();
                }
            },
            stream = link.connection.accept_bi(), if link.version >= SNAPSHOT_VERSION => match stream {
                Ok((send, receive)) => {
                    let (shared, link) = (Arc::clone(shared), Arc::clone(link));
                    readers.spawn(async move {
                        let counters = Arc::clone(&shared.counters);
                        let stream = snapshot::accept(link.connection.clone(), send, receive, counters).await?;
                        shared.inbox.snapshot(link.peer.node, Box::new(stream));
                        Ok(())
                    });
                    continue;
                }
                // The other branch knows how connections end.
                Err(_) => continue,
            },
            Some(ended) = writers.join_next() => ended,
            Some(ended) = readers.join_next() => ended,
            () = shared.stopping() => {
                link.control.close();
                link.append.close();
                // What is not through by then is lost with the connection, as it may be.
                let _ = timeout(FLUSH_TIMEOUT, all(&mut writers)).await;
                break Fault::Goodbye;
            }
        };
        match ended {
            Ok(Ok(())) => {}
            // A lane that broke with its connection does not know why: the connection does.
            Ok(Err(Fault::Lost(reason))) => {
                break link.connection.close_reason().map_or(Fault::Lost(reason), Fault::from);
            }
            Ok(Err(fault)) => break fault,
            Err(error) => break Fault::Lost(format!("a task failed: {error}")),
        }
    };
    // Nothing is delivered once these are over.
    readers.shutdown().await;
    writers.shutdown().await;
    fault
}
