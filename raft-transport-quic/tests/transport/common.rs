//! Nodes to test with: a transport whose inbox remembers what it was given.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_core::message::{AppendRequest, Envelope, Message, VoteResponse};
use raft_core::transport::{Inbox, LocalNode, SnapshotStream, Transport};
use raft_core::types::{ClusterId, Entry, EntryId, GroupId, Incarnation, Lineage, NodeId, Payload, Peer};
use raft_transport_quic::{Credentials, DevCa, QuicOptions, QuicStats, QuicTransport};

pub(crate) const CLUSTER: ClusterId = ClusterId(0x5eed);
pub(crate) const LINEAGE: Lineage = Lineage(0x11ea6e);

/// Long enough for a busy machine; only a failing test waits this long.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Node {
    pub(crate) transport: QuicTransport,
    pub(crate) local: LocalNode,
    pub(crate) inbox: Arc<Recorder>,
}

#[derive(Default)]
pub(crate) struct Recorder {
    received: Mutex<Vec<(NodeId, Envelope)>>,
    refused: Mutex<HashSet<NodeId>>,
    refused_lineage: Mutex<Option<Lineage>>,
    lineages: Mutex<HashMap<NodeId, Lineage>>,
    snapshots: Mutex<VecDeque<(NodeId, Box<dyn SnapshotStream>)>>,
}

impl Inbox for Recorder {
    fn deliver(&self, from: NodeId, batch: Vec<Envelope>) {
        assert!(!batch.is_empty());
        self.received.lock().unwrap().extend(batch.into_iter().map(|envelope| (from, envelope)));
    }

    fn lineage(&self) -> Lineage {
        LINEAGE
    }

    fn snapshot(&self, from: NodeId, stream: Box<dyn SnapshotStream>) {
        self.snapshots.lock().unwrap().push_back((from, stream));
    }

    fn admit(&self, peer: Peer, _boot: u64, lineage: Lineage) -> Result<(), String> {
        if *self.refused_lineage.lock().unwrap() == Some(lineage) {
            return Err(format!("it is of lineage {lineage}"));
        }
        self.lineages.lock().unwrap().insert(peer.node, lineage);
        match self.refused.lock().unwrap().contains(&peer.node) {
            true => Err(format!("node {} was removed", peer.node)),
            false => Ok(()),
        }
    }
}

impl Recorder {
    pub(crate) fn refuse_lineage(&self, lineage: Lineage) {
        *self.refused_lineage.lock().unwrap() = Some(lineage);
    }

    /// The lineage that `node` said in its latest hello.
    pub(crate) fn lineage_of(&self, node: u64) -> Option<Lineage> {
        self.lineages.lock().unwrap().get(&NodeId(node)).copied()
    }

    /// The next stream for a snapshot.
    pub(crate) async fn next_snapshot(&self, from: u64) -> Box<dyn SnapshotStream> {
        let mut next = None;
        until("a snapshot's stream comes in", || {
            next = self.snapshots.lock().unwrap().pop_front();
            next.is_some()
        })
        .await;
        let (found, stream) = next.unwrap();
        assert_eq!(found, NodeId(from));
        stream
    }

    pub(crate) fn refuse(&self, node: u64) {
        self.refused.lock().unwrap().insert(NodeId(node));
    }

    /// What `node` sent, without the probes of [`Node::meet`].
    pub(crate) fn from(&self, node: u64) -> Vec<Envelope> {
        let received = self.received.lock().unwrap();
        let of_node = received.iter().filter(|(from, envelope)| *from == NodeId(node) && !is_probe(envelope));
        of_node.map(|(_, envelope)| envelope.clone()).collect()
    }

    pub(crate) fn probes(&self, node: u64) -> usize {
        let received = self.received.lock().unwrap();
        received.iter().filter(|(from, envelope)| *from == NodeId(node) && is_probe(envelope)).count()
    }
}

pub(crate) fn peer(node: u64) -> Peer {
    Peer { node: NodeId(node), incarnation: Incarnation(1000 + node) }
}

pub(crate) fn local(node: u64, boot: u64) -> LocalNode {
    LocalNode { cluster: CLUSTER, peer: peer(node), boot }
}

/// Options with which tests are quick, and a machine that is busy with other things breaks no connection.
pub(crate) fn options() -> QuicOptions {
    let mut options = QuicOptions::default();
    options.max_backoff = Duration::from_millis(200);
    options.idle_timeout = Duration::from_secs(10);
    options
}

impl Node {
    pub(crate) async fn start(ca: &DevCa, node: u64) -> Self {
        Self::start_with(ca.issue(NodeId(node)).unwrap(), local(node, 1), "127.0.0.1:0", options()).await
    }

    pub(crate) async fn start_with(
        credentials: Credentials,
        local: LocalNode,
        listen: &str,
        options: QuicOptions,
    ) -> Self {
        let transport = QuicTransport::bind(listen, credentials, options).unwrap();
        let inbox = Arc::new(Recorder::default());
        transport.start(local, Arc::clone(&inbox) as _).await.unwrap();
        Self { transport, local, inbox }
    }

    pub(crate) fn id(&self) -> u64 {
        self.local.peer.node.0
    }

    pub(crate) fn stats(&self) -> QuicStats {
        self.transport.stats()
    }

    pub(crate) fn connect(&self, to: &Node) {
        self.transport.connect(to.local.peer.node, &to.transport.address());
    }

    /// Connects and waits until the other one hears us.
    pub(crate) async fn meet(&self, other: &Node) {
        self.connect(other);
        self.reach(other).await;
    }

    /// Waits until a message gets through.
    pub(crate) async fn reach(&self, other: &Node) {
        let before = other.inbox.probes(self.id());
        until("a message gets through", || {
            self.send(other.id(), vec![vote(self.id(), other.id(), PROBE)]);
            other.inbox.probes(self.id()) > before
        })
        .await;
    }

    pub(crate) fn send(&self, to: u64, batch: Vec<Envelope>) {
        self.transport.send(NodeId(to), batch);
    }
}

/// Waits until `done`, which is asked again and again.
pub(crate) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < PATIENCE, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The number of a message that only tries whether the link works.
const PROBE: u64 = 0;

fn is_probe(envelope: &Envelope) -> bool {
    matches!(&envelope.message, Message::VoteResponse(vote) if vote.term == PROBE)
}

/// A control message; `number` tells it from others.
pub(crate) fn vote(from: u64, to: u64, number: u64) -> Envelope {
    let message = Message::VoteResponse(VoteResponse { term: number, granted: false, pre_vote: false });
    Envelope { group: GroupId(1), from: peer(from), to: peer(to), lineage: LINEAGE, message }
}

/// A message with one entry at `index`.
pub(crate) fn append(from: u64, to: u64, index: u64, size: usize) -> Envelope {
    let payload = Payload::Command(Bytes::from(vec![index as u8; size]));
    let message = Message::AppendRequest(AppendRequest {
        term: 1,
        prev: EntryId::new(1, index - 1),
        entries: vec![Entry { id: EntryId::new(1, index), payload }],
        commit: 0,
        round: 0,
    });
    Envelope { group: GroupId(1), from: peer(from), to: peer(to), lineage: LINEAGE, message }
}

/// The numbers of control messages and of entries, each in the order of arrival.
pub(crate) fn lanes(received: &[Envelope]) -> (Vec<u64>, Vec<u64>) {
    let (mut votes, mut indexes) = (Vec::new(), Vec::new());
    for envelope in received {
        match &envelope.message {
            Message::VoteResponse(vote) => votes.push(vote.term),
            Message::AppendRequest(append) => indexes.push(append.entries[0].index()),
            other => panic!("nobody sent {other:?}"),
        }
    }
    (votes, indexes)
}
