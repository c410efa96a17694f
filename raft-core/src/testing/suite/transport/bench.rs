//! What a case plays on: nodes of a fresh network, messages that are known by their number, and waiting.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::recorder::Recorder;
use crate::message::{AppendRequest, Envelope, Message, VoteResponse};
use crate::testing::suite::Failure;
use crate::transport::{LocalNode, SnapshotStream, Transport, TransportError};
use crate::types::{ClusterId, Entry, EntryId, GroupId, Incarnation, Lineage, NodeId, Payload, Peer};

/// How long nothing may arrive where nothing is to arrive. All the while there are messages that could.
const QUIET: Duration = Duration::from_millis(300);

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(2);

/// How often a message that may be lost is sent again.
const AGAIN: Duration = Duration::from_millis(20);

/// The cluster of all nodes but those of the case that needs another.
pub(super) const CLUSTER: ClusterId = ClusterId(0x74_7261_6e73_706f_7274);

/// The group of the messages that a case counts.
pub(super) const GROUP: GroupId = GroupId(1);

/// The group of those that only try whether a link works.
pub(super) const PROBES: GroupId = GroupId(u64::MAX);

/// Makes the transport of a node of one network.
pub(super) type Network = Box<dyn Fn(NodeId) -> Arc<dyn Transport> + Send + Sync>;

/// Makes a network for a cluster.
pub(super) type Networks = Arc<dyn Fn(ClusterId) -> Network + Send + Sync>;

/// What a case comes to.
pub(super) type Check = Result<(), Failure>;

/// What the transports under test are to keep, and how long to wait for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) queue_bytes: usize,
    pub(super) largest_entry_bytes: usize,
    pub(super) patience: Duration,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The steps of a case, in order.
#[derive(Clone, Default)]
pub(super) struct Steps(Arc<Mutex<Vec<String>>>);

impl Steps {
    pub(super) fn add(&self, step: impl Into<String>) {
        lock(&self.0).push(step.into());
    }

    pub(super) fn failure(&self, expected: impl Into<String>, came: impl Into<String>) -> Failure {
        Failure::new(expected, came).after(lock(&self.0).clone())
    }
}

/// See above.
pub(super) struct Bench {
    networks: Networks,
    network: Network,
    pub(super) limits: Limits,
    steps: Steps,
    probes: AtomicU64,
    recorders: Mutex<Vec<Arc<Recorder>>>,
}

impl Bench {
    pub(super) fn new(networks: Networks, limits: Limits, steps: Steps) -> Self {
        let network = networks(CLUSTER);
        let recorders = Mutex::default();
        Self { networks, network, limits, steps, probes: AtomicU64::new(0), recorders }
    }

    /// The network of another cluster.
    pub(super) fn elsewhere(&self, cluster: ClusterId) -> Network {
        (self.networks)(cluster)
    }

    pub(super) fn failure(&self, expected: impl Into<String>, came: impl Into<String>) -> Failure {
        self.steps.failure(expected, came)
    }

    pub(super) fn step(&self, step: impl Into<String>) {
        self.steps.add(step);
    }

    /// A node in its first run.
    pub(super) async fn start(&self, node: u64) -> Result<Node, Failure> {
        self.start_run(node, 1000 + node, 1).await
    }

    /// Nodes 1 to `count` in their first runs.
    pub(super) async fn start_all(&self, count: u64) -> Result<Vec<Node>, Failure> {
        let mut nodes = Vec::new();
        for node in 1..=count {
            nodes.push(self.start(node).await?);
        }
        Ok(nodes)
    }

    /// Nodes 1 and 2, connected.
    pub(super) async fn pair(&self) -> Result<(Node, Node), Failure> {
        let (a, b) = (self.start(1).await?, self.start(2).await?);
        self.meet(&a, &b).await?;
        Ok((a, b))
    }

    /// A node on this data folder, started for the `boot`-th time.
    pub(super) async fn start_run(&self, node: u64, incarnation: u64, boot: u64) -> Result<Node, Failure> {
        self.step(format!("start node {node}, incarnation {incarnation}, boot {boot}"));
        let peer = Peer { node: NodeId(node), incarnation: Incarnation(incarnation) };
        let local = LocalNode { cluster: CLUSTER, peer, boot };
        self.start_with((self.network)(peer.node), local)
            .await?
            .map_err(|error| self.failure(format!("node {node} starts"), format!("start fails: {error}")))
    }

    /// Starts a transport in somebody's name.
    pub(super) async fn start_with(
        &self,
        transport: Arc<dyn Transport>,
        local: LocalNode,
    ) -> Result<Result<Node, TransportError>, Failure> {
        let inbox = Arc::new(Recorder::new(local));
        let started = self.ends("start", transport.start(local, Arc::clone(&inbox) as _)).await?;
        lock(&self.recorders).push(Arc::clone(&inbox));
        Ok(started.map(|()| Node { transport, inbox, local }))
    }

    /// The transport of a node, not started.
    pub(super) fn transport(&self, node: u64) -> Arc<dyn Transport> {
        (self.network)(NodeId(node))
    }

    /// An address that was a node's and that nobody listens on any more.
    pub(super) async fn dead_address(&self, node: u64) -> Result<String, Failure> {
        let gone = self.start(node).await?;
        let address = gone.transport.address();
        self.stop(&gone).await?;
        Ok(address)
    }

    pub(super) async fn stop(&self, node: &Node) -> Check {
        self.step(format!("stop node {}", node.id()));
        self.ends("stop", node.transport.stop()).await
    }

    /// Tells `a` where `b` is.
    pub(super) fn connect(&self, a: &Node, b: &Node) {
        let address = b.transport.address();
        self.step(format!("node {} connects to node {} at {address}", a.id(), b.id()));
        a.transport.connect(b.peer().node, &address);
    }

    /// Tells both of each other, and waits until they hear each other. One after the other: where both dial at once, one
    /// connection may take the other's place a little later, and what is on the other is lost with it.
    pub(super) async fn meet(&self, a: &Node, b: &Node) -> Check {
        self.connect(a, b);
        self.reach(a, b).await?;
        self.reach(b, a).await?;
        self.connect(b, a);
        self.reach(b, a).await
    }

    /// Waits until a message gets through from `a` to `b`.
    pub(super) async fn reach(&self, a: &Node, b: &Node) -> Check {
        let probe = self.probe();
        let envelope = a.envelope(b, PROBES, Message::VoteResponse(vote(probe)));
        self.until_sent(
            &format!("a message of node {} reaches node {}", a.id(), b.id()),
            || a.transport.send(b.peer().node, vec![envelope.clone()]),
            || b.inbox.has_probe(a.peer().node, probe),
        )
        .await
    }

    /// Sends messages from `a` to `b` for a while, as many ways as there are; none may arrive.
    pub(super) async fn unheard(&self, a: &Node, b: &Node, why: &str) -> Check {
        let probe = self.probe();
        let begin = Instant::now();
        while begin.elapsed() < QUIET {
            a.transport.send(b.peer().node, vec![a.envelope(b, PROBES, Message::VoteResponse(vote(probe)))]);
            // The pause between two sends: that nothing comes has no condition to wait for.
            sleep(AGAIN).await;
        }
        if b.inbox.has_any_probe(probe) {
            let expected = format!("nothing of node {} reaches node {} {why}", a.id(), b.id());
            return Err(self.failure(expected, "a message arrives"));
        }
        Ok(())
    }

    fn probe(&self) -> u64 {
        self.probes.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Waits until this holds.
    pub(super) async fn until(&self, what: &str, mut holds: impl FnMut() -> bool) -> Check {
        let begin = Instant::now();
        while !holds() {
            if begin.elapsed() > self.limits.patience {
                return Err(self.failure(what, format!("not within {:?}", self.limits.patience)));
            }
            // The pause between two looks at the condition.
            sleep(LOOK).await;
        }
        Ok(())
    }

    /// Waits until this holds, and sends again now and then: a message may be lost.
    pub(super) async fn until_sent(
        &self,
        what: &str,
        mut send: impl FnMut(),
        mut holds: impl FnMut() -> bool,
    ) -> Check {
        let mut sent: Option<Instant> = None;
        self.until(what, || {
            if sent.is_none_or(|sent| sent.elapsed() > AGAIN) {
                send();
                sent = Some(Instant::now());
            }
            holds()
        })
        .await
    }

    /// Waits until a number has not changed for a while; gives it.
    pub(super) async fn settled(&self, mut number: impl FnMut() -> usize) -> usize {
        let (mut last, mut since, begin) = (number(), Instant::now(), Instant::now());
        while since.elapsed() < QUIET && begin.elapsed() < self.limits.patience {
            sleep(LOOK).await;
            let now = number();
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
        last
    }

    /// Waits for a call of the transport.
    pub(super) async fn ends<T>(&self, call: &str, future: impl Future<Output = T>) -> Result<T, Failure> {
        timeout(self.limits.patience, future).await.map_err(|_| {
            self.failure(format!("{call} ends"), format!("not within {:?}", self.limits.patience))
        })
    }

    /// Has a thread of its own make calls that must not block; gives how long the longest took.
    pub(super) async fn timed(
        &self,
        what: &str,
        calls: impl Iterator<Item = Box<dyn FnOnce() + Send>> + Send + 'static,
    ) -> Result<Duration, Failure> {
        let (done, longest) = oneshot::channel();
        let runtime = Handle::current();
        std::thread::spawn(move || {
            let _entered = runtime.enter();
            let mut longest = Duration::ZERO;
            for call in calls {
                let begin = Instant::now();
                call();
                longest = longest.max(begin.elapsed());
            }
            // Nobody waits any more where the case was given up.
            let _ = done.send(longest);
        });
        self.ends(what, longest).await?.map_err(|_| self.failure(format!("{what} ends"), "a panic"))
    }

    /// Opens a stream for a snapshot from `a` to `b`, and takes the other end.
    pub(super) async fn stream(&self, a: &Node, b: &Node) -> Result<(Stream, Stream), Failure> {
        self.step(format!("node {} opens a stream to node {}", a.id(), b.id()));
        let opened = self.ends("open_snapshot", a.transport.open_snapshot(b.peer().node)).await?;
        let mut sender = match opened {
            Ok(stream) => Stream::new(stream, format!("node {}'s end", a.id())),
            Err(error) => return Err(self.failure("a stream opens", format!("open_snapshot fails: {error}"))),
        };
        // Some transports tell the other end of a stream only with its first frame.
        let greeting = pattern(0, 3);
        sender.send(self, greeting.clone()).await?;
        let mut taken = None;
        self.until(&format!("node {} gets the stream", b.id()), || {
            taken = b.inbox.take_stream();
            taken.is_some()
        })
        .await?;
        let (from, stream) = taken.ok_or_else(|| self.failure("a stream", "none"))?;
        if from != a.peer().node {
            return Err(self.failure(
                format!("the stream is from node {}", a.id()),
                format!("it is said to be from node {from}"),
            ));
        }
        let mut receiver = Stream::new(stream, format!("node {}'s end", b.id()));
        receiver.expect(self, &greeting).await?;
        Ok((sender, receiver))
    }

    /// Lets go of all inboxes.
    pub(super) fn forget_inboxes(&self) {
        lock(&self.recorders).clear();
    }

    /// What holds in every case: checked when it is over.
    pub(super) fn check(&self) -> Check {
        let recorders = lock(&self.recorders);
        match recorders.iter().find_map(|recorder| recorder.fault()) {
            Some((expected, came)) => Err(self.failure(expected, came)),
            None => Ok(()),
        }
    }
}

/// A node: its transport, and what that delivered.
pub(super) struct Node {
    pub(super) transport: Arc<dyn Transport>,
    pub(super) inbox: Arc<Recorder>,
    pub(super) local: LocalNode,
}

impl Node {
    pub(super) const fn id(&self) -> u64 {
        self.local.peer.node.0
    }

    pub(super) const fn peer(&self) -> Peer {
        self.local.peer
    }

    /// A message from this node.
    pub(super) const fn envelope(&self, to: &Self, group: GroupId, message: Message) -> Envelope {
        Envelope {
            group,
            lineage: lineage_of(self.local.peer.node),
            from: self.local.peer,
            to: to.local.peer,
            message,
        }
    }

    /// The control message with this number.
    pub(super) const fn control(&self, to: &Self, number: u64) -> Envelope {
        self.envelope(to, GROUP, Message::VoteResponse(vote(number)))
    }

    /// The message with one entry that has this number.
    pub(super) fn append(&self, to: &Self, number: u64, command: Bytes) -> Envelope {
        self.envelope(to, GROUP, append(number, command))
    }

    pub(super) fn send(&self, to: &Self, batch: Vec<Envelope>) {
        self.transport.send(to.peer().node, batch);
    }
}

pub(super) const fn vote(number: u64) -> VoteResponse {
    VoteResponse { term: number, granted: false, pre_vote: false }
}

/// A message with one entry at the index `number`.
pub(super) fn append(number: u64, command: Bytes) -> Message {
    let entry = Entry { id: EntryId::new(1, number), payload: Payload::Command(command) };
    let prev = EntryId::new(1, number.saturating_sub(1));
    Message::AppendRequest(AppendRequest { term: 1, prev, entries: vec![entry], commit: 0, round: 0 })
}

/// Bytes that are like no others: of this length, and by this number. Each page of them tells its place.
pub(super) fn pattern(number: u64, length: usize) -> Bytes {
    const PAGE_BYTES: usize = 4 << 10;
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut page = Vec::with_capacity(PAGE_BYTES);
    while page.len() < PAGE_BYTES.min(length) {
        // Marsaglia's xorshift.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        page.extend_from_slice(&state.to_le_bytes());
    }
    let mut bytes = Vec::with_capacity(length + page.len());
    while bytes.len() < length {
        if let Some(place) = page.first_chunk_mut() {
            *place = (bytes.len() as u64 ^ state).to_le_bytes();
        }
        bytes.extend_from_slice(&page);
    }
    bytes.truncate(length);
    bytes.into()
}

/// The lineage that a node says it belongs to.
pub(super) const fn lineage_of(node: NodeId) -> Lineage {
    Lineage(0x1000 + node.0)
}

/// One end of a stream for a snapshot.
pub(super) struct Stream {
    pub(super) stream: Box<dyn SnapshotStream>,
    name: String,
}

impl Stream {
    pub(super) fn new(stream: Box<dyn SnapshotStream>, name: impl Into<String>) -> Self {
        Self { stream, name: name.into() }
    }

    pub(super) async fn send(&mut self, bench: &Bench, frame: Bytes) -> Check {
        let length = frame.len();
        let sent = bench.ends(&format!("sending a frame on {}", self.name), self.stream.send(frame)).await?;
        sent.map_err(|error| {
            bench.failure(
                format!("{} sends a frame of {length} bytes", self.name),
                format!("an error: {error}"),
            )
        })
    }

    /// The next frame, or the end.
    pub(super) async fn receive(&mut self, bench: &Bench) -> Result<Option<Bytes>, Failure> {
        let received = bench.ends(&format!("receiving on {}", self.name), self.stream.receive()).await?;
        received.map_err(|error| {
            bench.failure(format!("{} receives a frame or the end", self.name), format!("an error: {error}"))
        })
    }

    pub(super) async fn expect(&mut self, bench: &Bench, frame: &Bytes) -> Check {
        let came = match self.receive(bench).await? {
            Some(came) if came == *frame => return Ok(()),
            Some(came) if came.len() == frame.len() => "a frame of that length with other bytes".to_owned(),
            Some(came) => format!("a frame of {} bytes", came.len()),
            None => "the end".to_owned(),
        };
        Err(bench.failure(format!("{} receives the frame of {} bytes", self.name, frame.len()), came))
    }

    pub(super) async fn finish(&mut self, bench: &Bench) -> Check {
        let finished = bench.ends(&format!("finishing {}", self.name), self.stream.finish()).await?;
        finished
            .map_err(|error| bench.failure(format!("{} finishes", self.name), format!("an error: {error}")))
    }

    pub(super) async fn expect_end(&mut self, bench: &Bench) -> Check {
        match self.receive(bench).await? {
            None => Ok(()),
            Some(frame) => Err(bench.failure(
                format!("{} receives the end", self.name),
                format!("a frame of {} bytes", frame.len()),
            )),
        }
    }

    /// Receives until the error that must come; frames may come before it.
    pub(super) async fn expect_broken(&mut self, bench: &Bench) -> Check {
        let what = format!("{} sees that the stream is broken", self.name);
        let until_broken = async {
            loop {
                match self.stream.receive().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return Err(bench.failure(what.clone(), "the end in good order")),
                    Err(_) => return Ok(()),
                }
            }
        };
        let broken = timeout(bench.limits.patience, until_broken).await;
        broken.unwrap_or_else(|_| {
            Err(bench.failure(what.clone(), format!("nothing within {:?}", bench.limits.patience)))
        })
    }

    /// Sends until the error that must come.
    pub(super) async fn expect_send_broken(&mut self, bench: &Bench) -> Check {
        let frame = pattern(9, 1000);
        let until_broken = async {
            while self.stream.send(frame.clone()).await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        timeout(bench.limits.patience, until_broken).await.map_err(|_| {
            let what = format!("{} can send no more: the stream is broken", self.name);
            bench.failure(what, format!("no error within {:?}", bench.limits.patience))
        })
    }
}
