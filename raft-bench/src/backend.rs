//! What a cluster can be built on, by name: ours, and a user's own beside them.

use std::error::Error;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use raft_core::log_store::StorageError;
use raft_core::mem::{ChannelNetwork, MemLogStore};
use raft_core::message::{Envelope, Message};
use raft_core::state_machine::{Batch, MachineError, Note, SnapshotView};
use raft_core::transport::{Inbox, LocalNode, SnapshotStream, TransportError};
use raft_core::types::{Entry, Payload};
use raft_core::{ClusterId, LogStore, NodeId, StateMachine, Transport};
use raft_storage_redb::RedbLogStore;
use raft_transport_quic::{DevCa, QuicOptions, QuicTransport};

pub use crate::machines::{Echo, Sum};
use crate::transports::tcp::TcpTransport;
use crate::transports::tls::Tls;

/// Why something could not be measured.
pub type Failure = Box<dyn Error + Send + Sync>;

/// Makes the transport of each node of one cluster.
pub(crate) type Network = Box<dyn Fn(NodeId) -> Result<Box<dyn Transport>, Failure> + Send + Sync>;

/// Opens the log store of a node in its folder.
type Open = Arc<dyn Fn(&Path) -> Result<Arc<dyn LogStore>, Failure> + Send + Sync>;

/// What messages cross: it says which floor a transport is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// Nothing: they are handed over within the process.
    Process,
    /// Sockets.
    Socket,
}

/// What becomes of a log when the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It is on disk, an fsync a commit.
    Durable,
    /// It is gone. Results say `volatile`.
    Volatile,
}

/// A way to carry messages.
#[derive(Clone)]
pub struct TransportKind {
    pub(crate) name: String,
    pub(crate) wire: Wire,
    network: Arc<dyn Fn(ClusterId) -> Result<Network, Failure> + Send + Sync>,
}

impl TransportKind {
    pub(crate) fn network(&self, cluster: ClusterId) -> Result<Network, Failure> {
        (self.network)(cluster)
    }
}

/// A way to keep a log.
#[derive(Clone)]
pub struct StoreKind {
    pub(crate) name: String,
    pub(crate) kept: Kept,
    open: Open,
}

impl StoreKind {
    pub(crate) fn open(&self, folder: &Path) -> Result<Arc<dyn LogStore>, Failure> {
        (self.open)(folder)
    }

    /// The name with `(volatile)` where that is what it is.
    pub(crate) fn label(&self) -> String {
        match self.kept {
            Kept::Durable => self.name.clone(),
            Kept::Volatile => format!("{}(volatile)", self.name),
        }
    }
}

/// A state machine to run.
#[derive(Clone)]
pub struct MachineKind {
    pub(crate) name: String,
    make: Arc<dyn Fn() -> Box<dyn StateMachine> + Send + Sync>,
    command: Arc<dyn Fn(u64, usize) -> Bytes + Send + Sync>,
}

impl MachineKind {
    pub(crate) fn make(&self) -> AnyMachine {
        AnyMachine((self.make)())
    }

    /// Commands of about so many bytes each, made before they are needed: making them is no part of what is measured.
    pub(crate) fn commands(&self, bytes: usize) -> Commands {
        Commands((0..COMMANDS).map(|number| (self.command)(number, bytes)).collect())
    }
}

/// So many different commands are made, and repeated then.
const COMMANDS: u64 = 1024;

/// A machine's commands, in turn.
#[derive(Clone)]
pub(crate) struct Commands(Arc<[Bytes]>);

impl Commands {
    pub(crate) fn get(&self, number: u64) -> Bytes {
        self.0[(number % COMMANDS) as usize].clone()
    }
}

/// What is compared: transports, log stores and state machines by name. The first machine is the one that transports and stores
/// are measured with.
#[derive(Clone)]
pub struct Backends {
    pub(crate) transports: Vec<TransportKind>,
    pub(crate) stores: Vec<StoreKind>,
    pub(crate) machines: Vec<MachineKind>,
}

impl Backends {
    /// Those of this workspace: `quic`, `tcp` (both with mutual TLS over loopback) and `channel`; `redb`, `wal` (feature `wal`)
    /// and `memory`; the machines `sum`, which costs next to nothing, `echo`, which answers with its commands, and `kv` (feature `matrix` or `load`),
    /// which is raft-kv's.
    pub fn ours() -> Self {
        let none = Self { transports: Vec::new(), stores: Vec::new(), machines: Vec::new() };
        let backends = none
            .transport("quic", Wire::Socket, |cluster| {
                let ca = DevCa::new(cluster);
                move |node| {
                    let ca = ca.as_ref().map_err(|error| TransportError::new(error.to_string()))?;
                    let credentials =
                        ca.issue(node).map_err(|error| TransportError::new(error.to_string()))?;
                    QuicTransport::bind("127.0.0.1:0", credentials, QuicOptions::default())
                }
            })
            .transport("tcp", Wire::Socket, |cluster| {
                let ca = DevCa::new(cluster);
                move |node| {
                    let ca = ca.as_ref().map_err(|error| TransportError::new(error.to_string()))?;
                    TcpTransport::bind("127.0.0.1:0", Tls::issue(ca, node)?)
                }
            })
            .transport("channel", Wire::Process, |_| {
                let network = ChannelNetwork::new();
                move |node| Ok(network.transport(node))
            })
            .store("redb", Kept::Durable, |folder| RedbLogStore::open(folder.join("log.redb")));
        #[cfg(feature = "wal")]
        let backends = backends
            .store("wal", Kept::Durable, |folder| crate::stores::wal::WalLogStore::open(folder.join("wal")));
        let backends = backends
            .store("memory", Kept::Volatile, |_| Ok(MemLogStore::new()))
            .machine("sum", Sum::default)
            .machine("echo", Echo::default);
        #[cfg(any(feature = "matrix", feature = "load"))]
        let backends = backends.machine_fed("kv", crate::machines::kv, crate::machines::kv_put);
        backends
    }

    /// Adds a transport. `network` is called once a cluster and gives what makes the transport of each of its nodes.
    #[must_use]
    pub fn transport<T: Transport, N>(
        mut self,
        name: &str,
        wire: Wire,
        network: impl Fn(ClusterId) -> N + Send + Sync + 'static,
    ) -> Self
    where
        N: Fn(NodeId) -> Result<T, TransportError> + Send + Sync + 'static,
    {
        let network = move |cluster| -> Result<Network, Failure> {
            let make = network(cluster);
            Ok(Box::new(move |node| Ok(Box::new(make(node)?))))
        };
        self.transports.push(TransportKind { name: name.to_owned(), wire, network: Arc::new(network) });
        self
    }

    /// Adds a log store. `open` is given an empty folder of its own for each node.
    #[must_use]
    pub fn store<S: LogStore>(
        mut self,
        name: &str,
        kept: Kept,
        open: impl Fn(&Path) -> Result<S, StorageError> + Send + Sync + 'static,
    ) -> Self {
        let open = move |folder: &Path| -> Result<Arc<dyn LogStore>, Failure> { Ok(Arc::new(open(folder)?)) };
        self.stores.push(StoreKind { name: name.to_owned(), kept, open: Arc::new(open) });
        self
    }

    /// Adds a state machine. It gets commands of any bytes; one that wants its own is [`machine_fed`](Self::machine_fed) them.
    #[must_use]
    pub fn machine<M: StateMachine>(self, name: &str, make: impl Fn() -> M + Send + Sync + 'static) -> Self {
        self.machine_fed(name, make, |_, bytes| Bytes::from(vec![7; bytes]))
    }

    /// Adds a state machine, and what makes its commands: the number of one, and how many bytes it is to carry.
    #[must_use]
    pub fn machine_fed<M: StateMachine>(
        mut self,
        name: &str,
        make: impl Fn() -> M + Send + Sync + 'static,
        command: impl Fn(u64, usize) -> Bytes + Send + Sync + 'static,
    ) -> Self {
        let make = move || -> Box<dyn StateMachine> { Box::new(make()) };
        self.machines.push(MachineKind {
            name: name.to_owned(),
            make: Arc::new(make),
            command: Arc::new(command),
        });
        self
    }

    /// The parts of these names; `machine` is the first one where none is named.
    ///
    /// # Errors
    /// Names what there is, where one is not there.
    pub fn choose(&self, transport: &str, store: &str, machine: Option<&str>) -> Result<Built, Failure> {
        let unknown = |what: &str, name: &str, names: Vec<&str>| -> Failure {
            format!("there is no {what} {name:?}; there are: {}", names.join(", ")).into()
        };
        let transports = || self.transports.iter().map(|kind| kind.name.as_str()).collect();
        let stores = || self.stores.iter().map(|kind| kind.name.as_str()).collect();
        let machines = || self.machines.iter().map(|kind| kind.name.as_str()).collect();
        let found = self.transports.iter().find(|kind| kind.name == transport);
        let transport = found.ok_or_else(|| unknown("transport", transport, transports()))?.clone();
        let found = self.stores.iter().find(|kind| kind.name == store);
        let store = found.ok_or_else(|| unknown("store", store, stores()))?.clone();
        let found = self.machines.iter().find(|kind| machine.is_none_or(|name| kind.name == name));
        let missing = || unknown("machine", machine.unwrap_or_default(), machines());
        let machine = found.ok_or_else(missing)?.clone();
        Ok(Built { transport, store, machine })
    }

    /// Every transport over every store, with the first machine; then each further machine, over the first transport and store.
    pub fn all(&self) -> Vec<Built> {
        let first = self.machines.first().into_iter();
        let pairs = first.flat_map(|machine| {
            self.transports.iter().flat_map(move |transport| {
                let built = move |store: &StoreKind| (transport.clone(), store.clone(), machine.clone());
                self.stores.iter().map(built)
            })
        });
        let ends = self.transports.first().zip(self.stores.first());
        let others = ends.into_iter().flat_map(|(transport, store)| {
            let built = move |machine: &MachineKind| (transport.clone(), store.clone(), machine.clone());
            self.machines.iter().skip(1).map(built)
        });
        pairs.chain(others).map(|(transport, store, machine)| Built { transport, store, machine }).collect()
    }
}

/// What one cluster is built on.
#[derive(Clone)]
pub struct Built {
    pub(crate) transport: TransportKind,
    pub(crate) store: StoreKind,
    pub(crate) machine: MachineKind,
}

impl Built {
    /// `<transport>+<store>`, with the machine behind it where it is not `sum`; what keeps nothing over a crash says so.
    pub fn name(&self) -> String {
        let name = format!("{}+{}", self.transport.name, self.store.label());
        if self.machine.name == "sum" { name } else { format!("{name}+{}", self.machine.name) }
    }

    /// Whether the log outlives the process.
    pub fn kept(&self) -> Kept {
        self.store.kept
    }
}

/// Counts what a transport is given to send, as the wire format has it: without what the transport itself adds.
#[derive(Default)]
pub(crate) struct SentBytes(AtomicU64);

impl SentBytes {
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The length of an envelope in a frame.
fn wire_bytes(envelope: &Envelope) -> u64 {
    const ENVELOPE_BYTES: u64 = 8 + 4 * 8 + 8 + 1;
    let entry = |entry: &Entry| {
        let payload = match &entry.payload {
            Payload::Command(command) => command.len() as u64,
            // A few a run.
            _ => 0,
        };
        raft_core::codec::entry::HEADER_BYTES as u64 + payload
    };
    ENVELOPE_BYTES
        + match &envelope.message {
            Message::AppendRequest(append) => 5 * 8 + 4 + append.entries.iter().map(entry).sum::<u64>(),
            Message::AppendResponse(_) => 8 + 8 + 1 + 16 + 1 + 1,
            _ => 24,
        }
}

/// A transport of any kind, whose traffic is counted where somebody wants to know.
pub(crate) struct AnyTransport {
    inner: Box<dyn Transport>,
    sent: Option<Arc<SentBytes>>,
}

impl AnyTransport {
    pub(crate) fn new(inner: Box<dyn Transport>, sent: Option<Arc<SentBytes>>) -> Self {
        Self { inner, sent }
    }
}

#[async_trait]
impl Transport for AnyTransport {
    async fn start(&self, local: LocalNode, inbox: Arc<dyn Inbox>) -> Result<(), TransportError> {
        self.inner.start(local, inbox).await
    }

    fn address(&self) -> String {
        self.inner.address()
    }

    fn connect(&self, peer: NodeId, address: &str) {
        self.inner.connect(peer, address);
    }

    fn disconnect(&self, peer: NodeId) {
        self.inner.disconnect(peer);
    }

    fn send(&self, to: NodeId, batch: Vec<Envelope>) {
        if let Some(sent) = &self.sent {
            sent.0.fetch_add(batch.iter().map(wire_bytes).sum(), Ordering::Relaxed);
        }
        self.inner.send(to, batch);
    }

    async fn open_snapshot(&self, to: NodeId) -> Result<Box<dyn SnapshotStream>, TransportError> {
        self.inner.open_snapshot(to).await
    }

    async fn stop(&self) {
        self.inner.stop().await;
    }
}

/// A state machine of any kind.
pub(crate) struct AnyMachine(Box<dyn StateMachine>);

#[async_trait]
impl StateMachine for AnyMachine {
    async fn bookkeeping(&mut self) -> Result<Option<Vec<Note>>, MachineError> {
        self.0.bookkeeping().await
    }

    async fn apply(&mut self, batch: Batch) -> Result<Vec<Bytes>, MachineError> {
        self.0.apply(batch).await
    }

    async fn query(&mut self, query: Bytes) -> Result<Bytes, MachineError> {
        self.0.query(query).await
    }

    async fn snapshot(&mut self) -> Result<Box<dyn SnapshotView>, MachineError> {
        self.0.snapshot().await
    }

    async fn restore(&mut self, source: &mut (dyn Read + Send)) -> Result<(), MachineError> {
        self.0.restore(source).await
    }
}

#[cfg(test)]
mod tests {
    use raft_core::codec::wire;
    use raft_core::message::{AppendOutcome, AppendRequest, AppendResponse};
    use raft_core::types::{EntryId, GroupId, Incarnation, Lineage, Peer};

    use super::*;

    #[test]
    fn what_is_counted_is_what_is_sent() {
        let peer = |node| Peer { node: NodeId(node), incarnation: Incarnation(9) };
        let entry = |index, payload| Entry { id: EntryId::new(3, index), payload };
        let append = |entries| {
            Message::AppendRequest(AppendRequest {
                term: 3,
                prev: EntryId::new(3, 6),
                entries,
                commit: 5,
                round: 2,
            })
        };
        let outcome = AppendOutcome::Accepted { matched: 4, received: 7 };
        let answer =
            Message::AppendResponse(AppendResponse { term: 3, round: 2, outcome, priority: 0, level: 2 });
        let entries = vec![
            entry(7, Payload::Noop),
            entry(8, Payload::Command(Bytes::from_static(&[1; 64]))),
            entry(9, Payload::Command(Bytes::new())),
        ];
        for message in [append(entries), append(Vec::new()), answer] {
            let (group, lineage) = (GroupId(1), Lineage(7));
            let envelope = Envelope { group, from: peer(1), to: peer(2), lineage, message };
            let mut frame = Vec::new();
            wire::encode_frame(*wire::VERSIONS.end(), [&envelope], &mut frame).unwrap();
            assert_eq!(wire_bytes(&envelope), (frame.len() - wire::FRAME_HEADER_BYTES) as u64);
        }
    }

    #[test]
    fn names_are_stable() {
        let ours = Backends::ours();
        let name = |transport, store| ours.choose(transport, store, None).unwrap().name();
        assert_eq!(name("quic", "redb"), "quic+redb");
        assert_eq!(name("channel", "memory"), "channel+memory(volatile)");
        let mine = ours.clone().machine("mine", Sum::default);
        assert_eq!(mine.choose("tcp", "redb", Some("mine")).unwrap().name(), "tcp+redb+mine");
        let stores = ours.stores.len();
        assert_eq!(mine.all().len(), 3 * stores + ours.machines.len());
        let error = ours.choose("quic", "paper", None).err().unwrap().to_string();
        assert!(error.contains("\"paper\"") && error.contains("redb"), "{error}");
    }
}
