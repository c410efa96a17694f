//! Who is connected and who should be.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, RwLock};

use raft_core::types::NodeId;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::fault::Fault;
use crate::link::Link;
use crate::sync::{lock, read, write};

/// The peers of a node. Locks are taken in the order of the fields.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    wanted: Mutex<Wanted>,
    /// At most one open connection to each node. On its own lock, which sending takes only for reading.
    links: RwLock<HashMap<NodeId, Arc<Link>>>,
}

#[derive(Debug, Default)]
struct Wanted {
    dialers: HashMap<NodeId, Dialer>,
    /// Whom there was a connection to before.
    met: HashSet<NodeId>,
    /// How often somebody was disconnected: whoever was admitted before must be asked about again.
    epoch: u64,
    closed: bool,
}

/// The task that keeps a wanted peer connected, and where it looks for the address.
#[derive(Debug)]
struct Dialer {
    address: watch::Sender<String>,
    task: AbortHandle,
}

/// How a connection was taken in.
pub(crate) enum Registered {
    /// It is the peer's connection now; whether there was one in the past.
    Kept { again: bool },
    /// Somebody was disconnected since it was admitted: ask again.
    Outdated,
}

impl Peers {
    /// The connection to a node. It may have ended just now: asking that would wait for its lock.
    pub(crate) fn sender(&self, node: NodeId) -> Option<Arc<Link>> {
        read(&self.links).get(&node).cloned()
    }

    /// The open connection to a node.
    pub(crate) fn link(&self, node: NodeId) -> Option<Arc<Link>> {
        read(&self.links).get(&node).filter(|link| link.is_open()).cloned()
    }

    pub(crate) fn connected(&self) -> usize {
        read(&self.links).values().filter(|link| link.is_open()).count()
    }

    pub(crate) fn epoch(&self) -> u64 {
        lock(&self.wanted).epoch
    }

    /// Takes in a connection that was admitted in `epoch`, unless the peer's other one is to be kept.
    pub(crate) fn register(&self, link: &Arc<Link>, epoch: u64, local: NodeId) -> Result<Registered, Fault> {
        let node = link.peer.node;
        let mut wanted = lock(&self.wanted);
        if wanted.closed || (link.dialed.is_some() && !wanted.dialers.contains_key(&node)) {
            return Err(Fault::Goodbye);
        }
        if wanted.epoch != epoch {
            return Ok(Registered::Outdated);
        }
        let mut links = write(&self.links);
        if let Some(other) = links.get(&node) {
            if !link.supersedes(other, local) {
                return Err(Fault::Superseded);
            }
            other.close(&Fault::Superseded);
        }
        links.insert(node, Arc::clone(link));
        Ok(Registered::Kept { again: !wanted.met.insert(node) })
    }

    /// Forgets a connection that has ended.
    pub(crate) fn unregister(&self, link: &Arc<Link>) {
        let mut links = write(&self.links);
        if links.get(&link.peer.node).is_some_and(|current| Arc::ptr_eq(current, link)) {
            links.remove(&link.peer.node);
        }
    }

    /// Wants `node` at `address`; `dial` starts the task that looks after it.
    pub(crate) fn want(
        &self,
        node: NodeId,
        address: &str,
        dial: impl FnOnce(watch::Receiver<String>) -> AbortHandle,
    ) {
        let mut wanted = lock(&self.wanted);
        if wanted.closed {
            return;
        }
        if let Some(dialer) = wanted.dialers.get(&node) {
            dialer.address.send_if_modified(|current| {
                let moved = current != address;
                if moved {
                    address.clone_into(current);
                }
                moved
            });
            return;
        }
        let (sender, receiver) = watch::channel(address.to_owned());
        wanted.dialers.insert(node, Dialer { address: sender, task: dial(receiver) });
    }

    /// Wants `node` no more, and closes its connection.
    pub(crate) fn forget(&self, node: NodeId) {
        let mut wanted = lock(&self.wanted);
        wanted.epoch += 1;
        wanted.met.remove(&node);
        if let Some(dialer) = wanted.dialers.remove(&node) {
            dialer.task.abort();
        }
        if let Some(link) = write(&self.links).remove(&node) {
            link.close(&Fault::Goodbye);
        }
    }

    /// Wants nobody any more and takes nobody in. Connections that are there end by themselves.
    pub(crate) fn close(&self) {
        let mut wanted = lock(&self.wanted);
        wanted.closed = true;
        for (_, dialer) in wanted.dialers.drain() {
            dialer.task.abort();
        }
    }
}
