//! What the tests of snapshots share: a machine whose snapshots can be held up and made to fail, and a cluster of it.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeMap;
use std::future::Future;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use raft_core::codec::cold;
use raft_core::codec::transfer::{self, Frame};
use raft_core::engine::RoleName;
use raft_core::mem::{ChannelNetwork, MemLogStore};
use raft_core::message::Envelope;
use raft_core::state_machine::{Batch, MachineError, Note, SnapshotView};
use raft_core::transport::{Inbox, LocalNode, SnapshotStream, TransportError};
use raft_core::{
    ClusterId, EntryId, NodeId, NodeOptions, RaftError, RaftStatus, RawRaft, SnapshotPlace, StateMachine,
    Transport,
};

pub(crate) const CLUSTER: ClusterId = ClusterId(0xc0ffee);

/// How a machine's next snapshots go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mood {
    #[default]
    Fine,
    NoView,
    ViewPanics,
    ViewFails,
}

/// Held by the test while the machine is the node's.
#[derive(Default)]
pub(crate) struct Controls {
    pub(crate) mood: Mutex<Mood>,
    /// Shut, views and restores wait in the middle.
    gate: (Mutex<bool>, Condvar),
    pub(crate) at_gate: AtomicUsize,
    pub(crate) restores: AtomicUsize,
    pub(crate) applied: AtomicUsize,
}

impl Controls {
    /// Shuts the gate until what is returned is dropped, which a test that fails does too: else it would not end.
    pub(crate) fn shut(self: &Arc<Self>) -> Gate {
        *self.gate.0.lock().unwrap() = true;
        Gate(Arc::clone(self))
    }

    fn pass(&self) {
        let mut shut = self.gate.0.lock().unwrap();
        self.at_gate.fetch_add(1, Ordering::SeqCst);
        while *shut {
            shut = self.gate.1.wait(shut).unwrap();
        }
        self.at_gate.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A gate that is shut.
pub(crate) struct Gate(Arc<Controls>);

impl Drop for Gate {
    fn drop(&mut self) {
        *self.0.gate.0.lock().unwrap() = false;
        self.0.gate.1.notify_all();
    }
}

/// Keys and values; a command is `(key, value)`, with no value to delete. The reply is the number of keys.
pub(crate) struct Stock {
    keys: Arc<BTreeMap<String, Bytes>>,
    controls: Arc<Controls>,
    /// Where a machine that is durable by itself keeps its state.
    disk: Option<Arc<Mutex<Disk>>>,
}

/// The disk of a durable machine: its state and the library's notes.
#[derive(Clone, Default)]
pub(crate) struct Disk {
    keys: Arc<BTreeMap<String, Bytes>>,
    pub(crate) notes: BTreeMap<Bytes, Bytes>,
}

impl Stock {
    pub(crate) fn new(controls: &Arc<Controls>) -> Self {
        Self { keys: Arc::default(), controls: Arc::clone(controls), disk: None }
    }

    pub(crate) fn durable(controls: &Arc<Controls>, disk: &Arc<Mutex<Disk>>) -> Self {
        let keys = Arc::clone(&disk.lock().unwrap().keys);
        Self { keys, controls: Arc::clone(controls), disk: Some(Arc::clone(disk)) }
    }
}

pub(crate) fn put(key: &str, value: impl Into<Vec<u8>>) -> Bytes {
    cold::encode(&(key, Some(Bytes::from(value.into())))).unwrap().into()
}

pub(crate) fn delete(key: &str) -> Bytes {
    cold::encode(&(key, None::<Bytes>)).unwrap().into()
}

struct View {
    keys: Arc<BTreeMap<String, Bytes>>,
    controls: Arc<Controls>,
    mood: Mood,
}

impl SnapshotView for View {
    fn write_to(self: Box<Self>, sink: &mut dyn Write) -> io::Result<()> {
        for (key, value) in &*self.keys {
            sink.write_all(&(key.len() as u32).to_le_bytes())?;
            sink.write_all(&(value.len() as u32).to_le_bytes())?;
            sink.write_all(key.as_bytes())?;
            sink.write_all(value)?;
        }
        self.controls.pass();
        match self.mood {
            Mood::ViewPanics => panic!("the view was asked to panic"),
            Mood::ViewFails => Err(io::Error::new(io::ErrorKind::StorageFull, "no room, as asked")),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl StateMachine for Stock {
    async fn bookkeeping(&mut self) -> Result<Option<Vec<Note>>, MachineError> {
        let notes = self.disk.as_ref().map(|disk| disk.lock().unwrap().notes.clone());
        let note = |(key, value)| Note { key, value: Some(value) };
        Ok(notes.map(|notes| notes.into_iter().map(note).collect()))
    }

    async fn apply(&mut self, batch: Batch) -> Result<Vec<Bytes>, MachineError> {
        let keys = Arc::make_mut(&mut self.keys);
        let mut replies = Vec::new();
        for command in batch.commands {
            let (key, value): (String, Option<Bytes>) = cold::decode(&command.bytes).unwrap();
            match value {
                Some(value) => drop(keys.insert(key, value)),
                None => drop(keys.remove(&key)),
            }
            self.controls.applied.fetch_add(1, Ordering::SeqCst);
            replies.push(Bytes::copy_from_slice(&(keys.len() as u64).to_le_bytes()));
        }
        if let Some(disk) = &self.disk {
            let mut disk = disk.lock().unwrap();
            disk.keys = Arc::clone(&self.keys);
            for Note { key, value } in batch.bookkeeping.notes(&replies) {
                match value {
                    Some(value) => drop(disk.notes.insert(key, value)),
                    None => drop(disk.notes.remove(&key)),
                }
            }
        }
        Ok(replies)
    }

    /// All keys, or one key's value.
    async fn query(&mut self, query: Bytes) -> Result<Bytes, MachineError> {
        if query.is_empty() {
            let keys: Vec<&String> = self.keys.keys().collect();
            return Ok(cold::encode(&keys).unwrap().into());
        }
        let key = String::from_utf8(query.to_vec()).unwrap();
        Ok(self.keys.get(&key).cloned().unwrap_or_default())
    }

    async fn snapshot(&mut self) -> Result<Box<dyn SnapshotView>, MachineError> {
        let mood = self.controls.mood.lock().unwrap().clone();
        if mood == Mood::NoView {
            return Err(MachineError::new("no view, as asked"));
        }
        Ok(Box::new(View { keys: Arc::clone(&self.keys), controls: Arc::clone(&self.controls), mood }))
    }

    async fn restore(&mut self, source: &mut (dyn Read + Send)) -> Result<(), MachineError> {
        self.controls.restores.fetch_add(1, Ordering::SeqCst);
        let mut bytes = Vec::new();
        source.read_to_end(&mut bytes).unwrap();
        self.controls.pass();
        let mut rest = &bytes[..];
        let mut keys = BTreeMap::new();
        while let Some((lengths, after)) = rest.split_at_checked(8) {
            let key = u32::from_le_bytes(lengths[..4].try_into().unwrap()) as usize;
            let value = u32::from_le_bytes(lengths[4..].try_into().unwrap()) as usize;
            let name = String::from_utf8(after[..key].to_vec()).unwrap();
            keys.insert(name, Bytes::copy_from_slice(&after[key..key + value]));
            rest = &after[key + value..];
        }
        self.keys = Arc::new(keys);
        if let Some(disk) = &self.disk {
            let keys = Arc::clone(&self.keys);
            *disk.lock().unwrap() = Disk { keys, notes: BTreeMap::new() };
        }
        Ok(())
    }
}

pub(crate) fn options(node: u64, snapshots: SnapshotPlace) -> NodeOptions {
    let mut options = NodeOptions::new(CLUSTER, node);
    options.config.election_timeout = Duration::from_millis(200);
    options.config.heartbeat_interval = Duration::from_millis(25);
    // On demand only, and nothing kept behind them, unless a test says otherwise.
    options.config.snapshot_entries = u64::MAX;
    options.config.snapshot_bytes = usize::MAX;
    options.config.keep_entries = 0;
    options.config.keep_live_bytes = 0;
    options.snapshots = snapshots;
    options
}

/// A [`ChannelNetwork`] that breaks streams of snapshots when told to.
#[derive(Clone, Default)]
pub(crate) struct Streams(Arc<Mutex<StreamRules>>);

#[derive(Default)]
pub(crate) struct StreamRules {
    /// Streams break after so many chunks.
    pub(crate) break_after: Option<usize>,
    /// Changes chunks on their way.
    pub(crate) alter: Option<fn(Bytes) -> Bytes>,
    pub(crate) opened: usize,
    pub(crate) chunks: usize,
}

impl Streams {
    pub(crate) fn rules(&self) -> std::sync::MutexGuard<'_, StreamRules> {
        self.0.lock().unwrap()
    }
}

pub(crate) struct Wrapped<T> {
    inner: T,
    streams: Streams,
}

#[async_trait]
impl<T: Transport> Transport for Wrapped<T> {
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
        self.inner.send(to, batch);
    }

    async fn open_snapshot(&self, to: NodeId) -> Result<Box<dyn SnapshotStream>, TransportError> {
        let inner = self.inner.open_snapshot(to).await?;
        self.streams.rules().opened += 1;
        Ok(Box::new(Tapped { inner: Some(inner), streams: self.streams.clone(), chunks: 0 }))
    }

    async fn stop(&self) {
        self.inner.stop().await;
    }
}

struct Tapped {
    /// Until it breaks.
    inner: Option<Box<dyn SnapshotStream>>,
    streams: Streams,
    chunks: usize,
}

#[async_trait]
impl SnapshotStream for Tapped {
    async fn send(&mut self, mut frame: Bytes) -> Result<(), TransportError> {
        if matches!(transfer::decode(frame.clone()), Ok(Frame::Chunk { .. })) {
            let mut rules = self.streams.rules();
            if rules.break_after.is_some_and(|after| self.chunks >= after) {
                self.inner = None;
            }
            if let Some(alter) = rules.alter {
                frame = alter(frame);
            }
            self.chunks += 1;
            rules.chunks += 1;
        }
        self.inner()?.send(frame).await
    }

    async fn receive(&mut self) -> Result<Option<Bytes>, TransportError> {
        self.inner()?.receive().await
    }

    async fn finish(&mut self) -> Result<(), TransportError> {
        self.inner()?.finish().await
    }
}

impl Tapped {
    fn inner(&mut self) -> Result<&mut Box<dyn SnapshotStream>, TransportError> {
        self.inner.as_mut().ok_or_else(|| TransportError::new("broken, as asked"))
    }
}

/// Three nodes with stores that outlive them, and folders for their snapshots.
pub(crate) struct Cluster {
    pub(crate) network: ChannelNetwork,
    pub(crate) streams: Streams,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) stores: BTreeMap<u64, MemLogStore>,
    pub(crate) controls: BTreeMap<u64, Arc<Controls>>,
    pub(crate) nodes: BTreeMap<u64, RawRaft>,
    pub(crate) tune: fn(&mut NodeOptions),
}

impl Cluster {
    pub(crate) async fn founded(tune: fn(&mut NodeOptions)) -> Self {
        let mut cluster = Self {
            network: ChannelNetwork::new(),
            streams: Streams::default(),
            folder: tempfile::tempdir().unwrap(),
            stores: (1..=3).map(|id| (id, MemLogStore::new())).collect(),
            controls: (1..=3).map(|id| (id, Arc::default())).collect(),
            nodes: BTreeMap::new(),
            tune,
        };
        for id in 1..=3 {
            cluster.start(id).await;
        }
        within(cluster.nodes[&1].bootstrap((1..=3).map(|id| (id, format!("mem:{id}"))))).await.unwrap();
        cluster
    }

    pub(crate) fn place(&self, id: u64) -> PathBuf {
        self.folder.path().join(id.to_string())
    }

    pub(crate) async fn start(&mut self, id: u64) {
        let mut options = options(id, SnapshotPlace::folder(self.place(id)));
        (self.tune)(&mut options);
        let transport = Wrapped { inner: self.network.transport(id), streams: self.streams.clone() };
        let machine = Stock::new(&self.controls[&id]);
        let node = RawRaft::start(options, self.stores[&id].clone(), transport, machine).await.unwrap();
        self.nodes.insert(id, node);
    }

    pub(crate) async fn stop(&mut self, id: u64) {
        if let Some(node) = self.nodes.remove(&id) {
            within(node.shutdown()).await;
        }
    }

    pub(crate) fn status(&self, id: u64) -> RaftStatus {
        self.nodes[&id].status().borrow().clone()
    }

    pub(crate) async fn leader(&self) -> u64 {
        within(async {
            loop {
                let leader = self.nodes.keys().copied().find(|&id| {
                    let status = self.status(id);
                    status.role == RoleName::Leader && status.commit == status.last.index
                });
                if let Some(id) = leader {
                    return id;
                }
                pause().await;
            }
        })
        .await
    }

    /// Proposes to whoever leads until it is done.
    pub(crate) async fn propose(&self, command: Bytes) {
        within(async {
            loop {
                for node in self.nodes.values() {
                    // To set or to delete a key twice does no harm.
                    if node.propose(command.clone()).await.is_ok() {
                        return;
                    }
                }
                pause().await;
            }
        })
        .await;
    }

    /// Some node that does not lead.
    pub(crate) async fn follower(&self) -> u64 {
        let leader = self.leader().await;
        self.nodes.keys().copied().find(|&id| id != leader).unwrap()
    }

    /// Waits until a node's own state has these keys.
    pub(crate) async fn holds(&self, id: u64, keys: &[&str]) {
        holds(&self.nodes[&id], keys).await;
    }
}

pub(crate) async fn keys(node: &RawRaft) -> Vec<String> {
    within(async {
        loop {
            match node.query_local(Bytes::new()).await {
                Ok(keys) => return cold::decode(&keys).unwrap(),
                Err(error) => assert_eq!(error, RaftError::Unknown),
            }
        }
    })
    .await
}

pub(crate) async fn holds(node: &RawRaft, wanted: &[&str]) {
    within(async {
        while keys(node).await != wanted {
            pause().await;
        }
    })
    .await;
}

/// Waits until the status is as wanted.
pub(crate) async fn see(node: &RawRaft, wanted: impl FnMut(&RaftStatus) -> bool) -> RaftStatus {
    let mut status = node.status();
    within(status.wait_for(wanted)).await.unwrap().clone()
}

pub(crate) async fn pause() {
    tokio::time::sleep(Duration::from_millis(2)).await;
}

/// Far beyond what anything here takes, however slow the machine.
pub(crate) async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), work).await.expect("it takes too long")
}

/// The files in a folder, by name.
pub(crate) fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .map(|entries| entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect())
        .unwrap_or_default();
    names.sort();
    names
}

pub(crate) fn snapshot_file(folder: &Path, last: EntryId) -> PathBuf {
    folder.join(format!("{:016x}-{:016x}-{:016x}.snap", 0, last.term, last.index))
}

/// Changes one byte of a file.
pub(crate) fn damage(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

pub(crate) fn no_snapshot(result: Result<impl std::fmt::Debug, RaftError>) -> String {
    match result {
        Err(RaftError::Snapshot(reason)) => reason,
        other => panic!("{other:?}"),
    }
}
