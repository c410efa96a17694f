//! Transports that work but for one fault.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use raft_core::mem::{ChannelNetwork, ChannelTransport};
use raft_core::message::{Envelope, Message};
use raft_core::transport::{
    Inbox, LocalNode, MAX_SNAPSHOT_FRAME_BYTES, SnapshotStream, Transport, TransportError,
};
use raft_core::types::{ClusterId, Lineage, NodeId, Payload, Peer};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    AltersCommands,
    /// Answers only those that it dialed itself.
    OneWay,
    LosesTheLastOfABatch,
    DeliversEmptyBatches,
    LosesLargeEntries,
    MixesPeersUp,
    LosesSome,
    Reorders,
    /// One slow and boundless queue for both lanes, forgotten at the stop.
    OneQueue,
    KeepsForStrangers,
    BlocksForStrangers,
    /// Loses what it sends over connections that it dialed to a higher id.
    BothOrNone,
    /// A node that starts again is ignored.
    NoSecondLife,
    NeverMoves,
    /// Loses what is sent after a needless `connect`.
    ConnectsAnew,
    NeverDisconnects,
    NeverConnectsAgain,
    AdmitsAll,
    /// The first answer about a node holds for ever.
    AsksOnce,
    NoLineage,
    AnyName,
    /// Sends to whoever is at the address.
    GoesByAddress,
    AnyCluster,
    TrustsTheContent,
    MergesFrames,
    FinishesLate,
    TakesAnyFrame,
    LosesCancelledFrames,
    BuffersFrames,
    HoldsMessagesUp,
    OneStream,
    OpensToNobody,
    EndsInsteadOfBreaking,
    LeaksStreams,
    /// Sending never gives an error.
    NeverFails,
    StopsLater,
    StopsOnce,
    HangsWithNobody,
    LeavesATask,
    KeepsTheInbox,
}

/// All networks of a kind of fault that knows no clusters.
static ANY_CLUSTER: Mutex<Option<ChannelNetwork>> = Mutex::new(None);

#[derive(Clone)]
pub(crate) struct FaultyNetwork {
    fault: Fault,
    network: ChannelNetwork,
    starts: Arc<Mutex<BTreeMap<NodeId, u64>>>,
    addresses: Arc<AtomicU64>,
}

impl FaultyNetwork {
    pub(crate) fn new(fault: Fault) -> Self {
        let network = match fault {
            Fault::AnyCluster => ANY_CLUSTER.lock().unwrap().get_or_insert_default().clone(),
            _ => ChannelNetwork::new(),
        };
        Self { fault, network, starts: Arc::default(), addresses: Arc::default() }
    }

    pub(crate) fn transport(&self, node: NodeId) -> Faulty {
        let first = {
            let mut starts = self.starts.lock().unwrap();
            let starts = starts.entry(node).or_insert(0);
            *starts += 1;
            *starts == 1
        };
        Faulty {
            fault: self.fault,
            inner: Arc::new(self.network.transport(node)),
            node,
            number: self.addresses.fetch_add(1, Ordering::Relaxed),
            first,
            queue: Mutex::default(),
            state: Mutex::default(),
            sent: AtomicUsize::new(0),
            streams: Arc::default(),
        }
    }
}

#[derive(Default)]
struct State {
    connected: BTreeMap<NodeId, String>,
    moved: BTreeSet<NodeId>,
    disconnected: BTreeSet<NodeId>,
    kept: Vec<Envelope>,
    lose: usize,
    stopped: bool,
}

/// A boundless queue and the task that empties it.
type Queue = (mpsc::UnboundedSender<(NodeId, Envelope)>, AbortHandle);

pub(crate) struct Faulty {
    fault: Fault,
    inner: Arc<ChannelTransport>,
    node: NodeId,
    number: u64,
    first: bool,
    queue: Mutex<Option<Queue>>,
    state: Mutex<State>,
    sent: AtomicUsize,
    /// How many are open.
    streams: Arc<AtomicUsize>,
}

impl Drop for Faulty {
    fn drop(&mut self) {
        if let Some((_, task)) = self.queue.lock().unwrap().take() {
            task.abort();
        }
    }
}

#[async_trait]
impl Transport for Faulty {
    async fn start(&self, mut local: LocalNode, inbox: Arc<dyn Inbox>) -> Result<(), TransportError> {
        match self.fault {
            Fault::AnyName => local.peer.node = self.node,
            Fault::AnyCluster => local.cluster = ClusterId(1),
            Fault::LeavesATask => drop(tokio::spawn(std::future::pending::<()>())),
            Fault::KeepsTheInbox => std::mem::forget(Arc::clone(&inbox)),
            Fault::OneQueue => {
                let (sender, mut receiver) = mpsc::unbounded_channel::<(NodeId, Envelope)>();
                let inner = Arc::clone(&self.inner);
                let task = tokio::spawn(async move {
                    while let Some((to, envelope)) = receiver.recv().await {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                        inner.send(to, vec![envelope]);
                    }
                });
                *self.queue.lock().unwrap() = Some((sender, task.abort_handle()));
            }
            _ => {}
        }
        let (fault, answers) = (self.fault, Mutex::default());
        self.inner.start(local, Arc::new(FaultyInbox { fault, inbox, answers })).await
    }

    fn address(&self) -> String {
        format!("faulty:{}:{}", self.node, self.number)
    }

    fn connect(&self, peer: NodeId, address: &str) {
        let mut state = self.state.lock().unwrap();
        if self.fault == Fault::NeverConnectsAgain && state.disconnected.contains(&peer) {
            return;
        }
        match state.connected.insert(peer, address.to_owned()) {
            Some(known) if known != address => drop(state.moved.insert(peer)),
            Some(_) => state.lose = 1,
            None => {}
        }
        drop(state);
        let to = match self.fault {
            Fault::GoesByAddress => at(address),
            _ => peer,
        };
        self.inner.connect(to, address);
    }

    fn disconnect(&self, peer: NodeId) {
        self.state.lock().unwrap().disconnected.insert(peer);
        if self.fault != Fault::NeverDisconnects {
            self.inner.disconnect(peer);
        }
    }

    fn send(&self, mut to: NodeId, mut batch: Vec<Envelope>) {
        let mut state = self.state.lock().unwrap();
        let known = state.connected.contains_key(&to);
        match self.fault {
            Fault::OneWay if !known => return,
            Fault::BothOrNone if known && to > self.node => return,
            Fault::NeverMoves if state.moved.contains(&to) => return,
            Fault::NoSecondLife if !self.first => return,
            Fault::ConnectsAnew if std::mem::take(&mut state.lose) > 0 => return,
            Fault::HoldsMessagesUp if self.streams.load(Ordering::Relaxed) > 0 => return,
            Fault::BlocksForStrangers if !known => std::thread::sleep(Duration::from_secs(2)),
            Fault::KeepsForStrangers if to.0 == 77 || self.number == 1 => {
                state.kept.append(&mut batch);
                return;
            }
            Fault::LosesTheLastOfABatch if batch.len() > 1 => drop(batch.pop()),
            Fault::LosesSome => {
                batch.retain(|_| self.sent.fetch_add(1, Ordering::Relaxed) % 20 != 10);
            }
            Fault::LosesLargeEntries => batch.retain(|envelope| envelope.bytes() < 1 << 20),
            Fault::Reorders => batch.reverse(),
            Fault::AltersCommands => batch.iter_mut().for_each(alter),
            Fault::MixesPeersUp if to.0 == 3 => to = NodeId(4),
            Fault::GoesByAddress => {
                if let Some(address) = state.connected.get(&to) {
                    to = at(address);
                }
            }
            _ => {}
        }
        drop(state);
        match &*self.queue.lock().unwrap() {
            Some((queue, _)) => {
                for envelope in batch {
                    let _ = queue.send((to, envelope));
                }
            }
            None => self.inner.send(to, batch),
        }
    }

    async fn open_snapshot(&self, to: NodeId) -> Result<Box<dyn SnapshotStream>, TransportError> {
        if self.fault == Fault::OneStream && self.streams.load(Ordering::Relaxed) > 0 {
            return Err(TransportError::new("one stream only"));
        }
        match self.inner.open_snapshot(to).await {
            Ok(stream) => {
                self.streams.fetch_add(1, Ordering::Relaxed);
                Ok(Box::new(FaultyStream::new(self.fault, stream, Arc::clone(&self.streams))))
            }
            Err(_) if self.fault == Fault::OpensToNobody => Ok(Box::new(ToNobody)),
            Err(error) => Err(error),
        }
    }

    async fn stop(&self) {
        let again = std::mem::replace(&mut self.state.lock().unwrap().stopped, true);
        match self.fault {
            Fault::StopsOnce if again => std::future::pending::<()>().await,
            Fault::HangsWithNobody if self.state.lock().unwrap().connected.is_empty() => {
                std::future::pending::<()>().await;
            }
            Fault::StopsLater => {
                let inner = Arc::clone(&self.inner);
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    inner.stop().await;
                });
                return;
            }
            _ => {}
        }
        if let Some((_, task)) = self.queue.lock().unwrap().take() {
            task.abort();
        }
        self.inner.stop().await;
    }
}

/// The node whose address this is.
fn at(address: &str) -> NodeId {
    NodeId(address.split(':').nth(1).unwrap().parse().unwrap())
}

fn alter(envelope: &mut Envelope) {
    if let Message::AppendRequest(append) = &mut envelope.message {
        for entry in &mut append.entries {
            if let Payload::Command(command) = &mut entry.payload
                && !command.is_empty()
            {
                let mut bytes = command.to_vec();
                bytes[0] ^= 1;
                *command = bytes.into();
            }
        }
    }
}

struct FaultyInbox {
    fault: Fault,
    inbox: Arc<dyn Inbox>,
    answers: Mutex<BTreeMap<NodeId, Result<(), String>>>,
}

impl Inbox for FaultyInbox {
    fn deliver(&self, from: NodeId, batch: Vec<Envelope>) {
        match self.fault {
            Fault::DeliversEmptyBatches => {
                self.inbox.deliver(from, batch);
                self.inbox.deliver(from, Vec::new());
            }
            Fault::TrustsTheContent => {
                for envelope in batch {
                    self.inbox.deliver(envelope.from.node, vec![envelope]);
                }
            }
            _ => self.inbox.deliver(from, batch),
        }
    }

    fn admit(&self, peer: Peer, boot: u64, lineage: Lineage) -> Result<(), String> {
        match self.fault {
            Fault::AdmitsAll => {
                let _ = self.inbox.admit(peer, boot, lineage);
                Ok(())
            }
            Fault::AsksOnce => {
                let mut answers = self.answers.lock().unwrap();
                answers.entry(peer.node).or_insert_with(|| self.inbox.admit(peer, boot, lineage)).clone()
            }
            Fault::NoLineage => self.inbox.admit(peer, boot, Lineage::UNKNOWN),
            _ => self.inbox.admit(peer, boot, lineage),
        }
    }

    fn lineage(&self) -> Lineage {
        self.inbox.lineage()
    }

    fn snapshot(&self, from: NodeId, stream: Box<dyn SnapshotStream>) {
        self.inbox.snapshot(from, Box::new(FaultyStream::new(self.fault, stream, Arc::default())));
    }
}

struct FaultyStream {
    fault: Fault,
    inner: ManuallyDrop<Box<dyn SnapshotStream>>,
    open: Arc<AtomicUsize>,
    waiting: Option<Bytes>,
    buffered: Vec<Bytes>,
    unfinished: bool,
}

impl FaultyStream {
    fn new(fault: Fault, inner: Box<dyn SnapshotStream>, open: Arc<AtomicUsize>) -> Self {
        let inner = ManuallyDrop::new(inner);
        Self { fault, inner, open, waiting: None, buffered: Vec::new(), unfinished: false }
    }
}

impl Drop for FaultyStream {
    fn drop(&mut self) {
        let _ = self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| open.checked_sub(1));
        if self.fault != Fault::LeaksStreams {
            drop(std::mem::replace(&mut *self.inner, Box::new(ToNobody)));
        }
    }
}

#[async_trait]
impl SnapshotStream for FaultyStream {
    async fn send(&mut self, frame: Bytes) -> Result<(), TransportError> {
        match self.fault {
            Fault::TakesAnyFrame if !(1..=MAX_SNAPSHOT_FRAME_BYTES).contains(&frame.len()) => Ok(()),
            Fault::NeverFails => {
                let _ = self.inner.send(frame).await;
                Ok(())
            }
            Fault::BuffersFrames => {
                self.buffered.push(frame);
                Ok(())
            }
            Fault::MergesFrames => {
                let Some(waiting) = self.waiting.take() else {
                    self.waiting = Some(frame);
                    return Ok(());
                };
                self.inner.send([waiting, frame].concat().into()).await
            }
            _ => self.inner.send(frame).await,
        }
    }

    async fn receive(&mut self) -> Result<Option<Bytes>, TransportError> {
        if std::mem::take(&mut self.unfinished) {
            self.inner.finish().await?;
        }
        let received = self.inner.receive().await;
        match self.fault {
            Fault::LosesCancelledFrames => {
                tokio::task::yield_now().await;
                received
            }
            Fault::EndsInsteadOfBreaking => Ok(received.unwrap_or_default()),
            _ => received,
        }
    }

    async fn finish(&mut self) -> Result<(), TransportError> {
        if self.fault == Fault::FinishesLate {
            self.unfinished = true;
            return Ok(());
        }
        self.inner.finish().await
    }
}

/// A stream that leads nowhere.
struct ToNobody;

#[async_trait]
impl SnapshotStream for ToNobody {
    async fn send(&mut self, _: Bytes) -> Result<(), TransportError> {
        Ok(())
    }

    async fn receive(&mut self) -> Result<Option<Bytes>, TransportError> {
        std::future::pending().await
    }

    async fn finish(&mut self) -> Result<(), TransportError> {
        Ok(())
    }
}
