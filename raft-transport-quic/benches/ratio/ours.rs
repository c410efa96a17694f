//! Two nodes of this transport.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_core::message::{AppendOutcome, AppendRequest, AppendResponse, Envelope, Message};
use raft_core::transport::{Inbox, LocalNode, SnapshotStream, Transport};
use raft_core::types::{ClusterId, Entry, EntryId, GroupId, Incarnation, Lineage, NodeId, Payload, Peer};
use raft_transport_quic::{DevCa, QuicOptions, QuicTransport};
use tokio::runtime::Runtime;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};

use crate::Link;
use crate::relay::Relay;

const CLUSTER: ClusterId = ClusterId(0x5eed);
const LINEAGE: Lineage = Lineage(1);
const HERE: Peer = Peer { node: NodeId(1), incarnation: Incarnation(1) };
const THERE: Peer = Peer { node: NodeId(2), incarnation: Incarnation(2) };

/// Messages that are handed over at once, as a driver that drained its inbox would.
const BATCH: usize = 512;
/// Messages on their way at most: what the queues hold without dropping one.
const MESSAGES_ON_THE_WAY: usize = 32_000;
const COMMANDS_PER_APPEND: usize = 64;
const ENTRY_BYTES: usize = 16 << 10;
const ENTRIES_PER_APPEND: usize = 16;
const APPENDS_ON_THE_WAY: usize = 64;
const SNAPSHOT_FRAME_BYTES: usize = 256 << 10;
const ETHERNET_MTU: u16 = 1452;
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(2);
/// The default of raft-core.
const USUAL_HEARTBEAT_INTERVAL: Duration = Duration::from_millis(50);

/// Two nodes with a connection, over a slow link if there is one.
pub(crate) struct Pair {
    here: Runtime,
    there: Runtime,
    sender: Arc<QuicTransport>,
    received: Arc<Ends>,
    echo: Arc<Ends>,
    _receiver: Arc<QuicTransport>,
    _relay: Option<Relay>,
}

/// Round trips, each begun by the answer to the one before.
struct Pings {
    begin: Instant,
    left: usize,
    trips: Vec<Duration>,
    command: Bytes,
    sender: Arc<QuicTransport>,
    done: oneshot::Sender<Vec<Duration>>,
}

impl Pings {
    fn send(&mut self) {
        self.begin = Instant::now();
        self.sender.send(THERE.node, vec![append(&self.command, 1, 1)]);
    }
}

/// What arrives at one node.
#[derive(Default)]
struct Ends {
    /// Where answers go: the node that echoes.
    answers: OnceLock<Arc<QuicTransport>>,
    count: AtomicUsize,
    more: Notify,
    /// The latest round that was answered.
    round: AtomicUsize,
    pings: Mutex<Option<Pings>>,
    snapshots: Mutex<Option<mpsc::UnboundedSender<Box<dyn SnapshotStream>>>>,
}

impl Ends {
    fn pong(&self) {
        let mut pings = self.pings.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = &mut *pings {
            running.trips.push(running.begin.elapsed());
            running.left -= 1;
            if running.left > 0 {
                running.send();
            } else if let Some(Pings { done, trips, .. }) = pings.take() {
                let _ = done.send(trips);
            }
        }
    }
}

impl Inbox for Ends {
    fn deliver(&self, _from: NodeId, batch: Vec<Envelope>) {
        let mut answers = Vec::new();
        for envelope in &batch {
            match &envelope.message {
                // Round 0 asks for no answer.
                Message::AppendRequest(append) if append.round > 0 => answers.push(answer(append.round)),
                Message::AppendResponse(response) => {
                    self.pong();
                    self.round.fetch_max(response.round as usize, Ordering::Relaxed);
                }
                _ => {}
            }
        }
        self.count.fetch_add(batch.len(), Ordering::Release);
        self.more.notify_one();
        if let (false, Some(transport)) = (answers.is_empty(), self.answers.get()) {
            transport.send(HERE.node, answers);
        }
    }

    fn lineage(&self) -> Lineage {
        LINEAGE
    }

    fn admit(&self, _peer: Peer, _boot: u64, _lineage: Lineage) -> Result<(), String> {
        Ok(())
    }

    fn snapshot(&self, _from: NodeId, stream: Box<dyn SnapshotStream>) {
        if let Some(streams) = &*self.snapshots.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = streams.send(stream);
        }
    }
}

fn answer(round: u64) -> Envelope {
    let outcome = AppendOutcome::Stale;
    envelope(
        THERE,
        HERE,
        Message::AppendResponse(AppendResponse { term: 1, round, priority: 0, outcome, level: 1 }),
    )
}

fn envelope(from: Peer, to: Peer, message: Message) -> Envelope {
    Envelope { group: GroupId(1), from, to, lineage: LINEAGE, message }
}

fn append(payload: &Bytes, count: usize, round: u64) -> Envelope {
    let entry =
        |at: usize| Entry { id: EntryId::new(1, at as u64 + 1), payload: Payload::Command(payload.clone()) };
    let entries = (0..count).map(entry).collect();
    let append = AppendRequest { term: 1, prev: EntryId::ZERO, entries, commit: 0, round };
    envelope(HERE, THERE, Message::AppendRequest(append))
}

impl Pair {
    pub(crate) fn new([here, there]: [Runtime; 2], link: Link) -> Self {
        let ca = DevCa::new(CLUSTER).unwrap();
        let bind = |peer: Peer| {
            let credentials = ca.issue(peer.node).unwrap();
            let mut options = QuicOptions::default();
            if !matches!(link, Link::Loopback) {
                options.max_mtu = Some(ETHERNET_MTU);
            }
            Arc::new(QuicTransport::bind("127.0.0.1:0", credentials, options).unwrap())
        };
        let (sender, receiver) = (bind(HERE), bind(THERE));
        let (received, echo) = (Arc::new(Ends::default()), Arc::new(Ends::default()));
        let local = |peer| LocalNode { cluster: CLUSTER, peer, boot: 1 };
        here.block_on(sender.start(local(HERE), Arc::clone(&received) as _)).unwrap();
        there.block_on(receiver.start(local(THERE), Arc::clone(&echo) as _)).unwrap();
        let _ = echo.answers.set(Arc::clone(&receiver));
        let relay = match link {
            Link::Slow(rate, queue) => Some(Relay::new(&receiver.address(), rate, queue)),
            Link::Loopback | Link::Ethernet => None,
        };
        let address = relay.as_ref().map_or_else(|| receiver.address(), Relay::address);
        sender.connect(THERE.node, &address);
        while sender.stats().connected == 0 || receiver.stats().connected == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        Self { here, there, sender, received, echo, _receiver: receiver, _relay: relay }
    }

    /// An append with a command of 64 bytes there, and its answer back, again and again.
    pub(crate) fn round_trips(&self, count: usize) -> Vec<Duration> {
        let (done, trips) = oneshot::channel();
        let (sender, received) = (Arc::clone(&self.sender), Arc::clone(&self.received));
        let command = Bytes::from(vec![7; 64]);
        let mut pings = Pings {
            begin: Instant::now(),
            left: count,
            trips: Vec::with_capacity(count),
            command,
            sender,
            done,
        };
        let first = self.here.spawn(async move {
            let mut place = received.pings.lock().unwrap();
            pings.send();
            *place = Some(pings);
        });
        self.here.block_on(async { first.await.and(Ok(trips.await)) }).unwrap().unwrap()
    }

    /// Messages of about 64 bytes each, handed over in batches; the time until all have been delivered.
    pub(crate) fn messages(&self, count: usize) -> Duration {
        self.flood(count / BATCH, BATCH, MESSAGES_ON_THE_WAY, || vec![back(answer(0)); BATCH])
    }

    /// The same with commands of 64 bytes in appends.
    pub(crate) fn commands(&self, count: usize) -> Duration {
        let command = Bytes::from(vec![7; 64]);
        let per_batch = BATCH / COMMANDS_PER_APPEND;
        self.flood(count / BATCH, per_batch, 8 * APPENDS_ON_THE_WAY, move || {
            (0..per_batch).map(|_| append(&command, COMMANDS_PER_APPEND, 0)).collect()
        })
    }

    /// Entries of some size, in appends as full as they usually are.
    pub(crate) fn entries(&self, bytes: usize) -> Duration {
        let payload = Bytes::from(vec![7; ENTRY_BYTES]);
        self.flood(bytes / ENTRY_BYTES / ENTRIES_PER_APPEND, 1, APPENDS_ON_THE_WAY, move || {
            vec![append(&payload, ENTRIES_PER_APPEND, 0)]
        })
    }

    /// Sends `batches`, each of `per_batch` messages; the time until all have been delivered. No more than `most` messages are
    /// on their way at once.
    fn flood(
        &self,
        batches: usize,
        per_batch: usize,
        most: usize,
        batch: impl Fn() -> Vec<Envelope> + Send + 'static,
    ) -> Duration {
        let (sender, echo) = (Arc::clone(&self.sender), Arc::clone(&self.echo));
        let before = echo.count.load(Ordering::Acquire);
        let dropped = sender.stats().dropped;
        let begin = Instant::now();
        let sending = self.here.spawn({
            let (sender, echo) = (Arc::clone(&sender), Arc::clone(&echo));
            async move {
                for sent in (0..batches).map(|number| number * per_batch) {
                    while sent + per_batch > echo.count.load(Ordering::Acquire) - before + most {
                        echo.more.notified().await;
                    }
                    sender.send(THERE.node, batch());
                    tokio::task::yield_now().await;
                }
                while echo.count.load(Ordering::Acquire) - before < batches * per_batch {
                    echo.more.notified().await;
                }
            }
        });
        self.here.block_on(sending).unwrap();
        let took = begin.elapsed();
        assert_eq!(sender.stats().dropped, dropped, "nothing was dropped");
        took
    }

    /// A snapshot of `bytes`, as fast as it goes.
    pub(crate) fn snapshot(&self, bytes: usize) -> Duration {
        let begin = Instant::now();
        self.here.block_on(self.transfer(bytes, None)).unwrap();
        begin.elapsed()
    }

    /// Heartbeats for a while.
    pub(crate) fn heartbeats(&self, time: Duration) -> Vec<Duration> {
        let count = (time.as_secs_f64() / HEARTBEAT_INTERVAL.as_secs_f64()) as usize;
        let done =
            self.here.spawn(async move { tokio::time::sleep(HEARTBEAT_INTERVAL * count as u32).await });
        self.beat(done)
    }

    /// Heartbeats for as long as a snapshot of `bytes`, of at most so many bytes a second, is on its way.
    pub(crate) fn heartbeats_beside(&self, bytes: usize, limit: Option<f64>) -> Vec<Duration> {
        self.beat(self.transfer(bytes, limit))
    }

    fn beat(&self, until: tokio::task::JoinHandle<()>) -> Vec<Duration> {
        let (sender, received) = (Arc::clone(&self.sender), Arc::clone(&self.received));
        let beating = self.here.spawn(async move {
            let mut ticks = interval(HEARTBEAT_INTERVAL);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut trips = Vec::new();
            let none = Bytes::new();
            while !until.is_finished() {
                ticks.tick().await;
                let round = received.round.load(Ordering::Relaxed) + 1;
                let begin = Instant::now();
                sender.send(THERE.node, vec![append(&none, 0, round as u64)]);
                while received.round.load(Ordering::Relaxed) < round {
                    received.more.notified().await;
                }
                trips.push(begin.elapsed());
            }
            until.await.unwrap();
            trips
        });
        self.here.block_on(beating).unwrap()
    }

    /// Sends a snapshot; over when the receiver has said that it has it.
    fn transfer(&self, bytes: usize, limit: Option<f64>) -> tokio::task::JoinHandle<()> {
        let (streams, mut opened) = mpsc::unbounded_channel();
        *self.echo.snapshots.lock().unwrap() = Some(streams);
        self.there.spawn(async move {
            let mut stream: Box<dyn SnapshotStream> = opened.recv().await.unwrap();
            while stream.receive().await.unwrap().is_some() {}
            stream.send(Bytes::from_static(b"done")).await.unwrap();
            stream.finish().await.unwrap();
            let _ = opened.recv().await;
        });
        let sender = Arc::clone(&self.sender);
        self.here.spawn(async move {
            let mut stream = sender.open_snapshot(THERE.node).await.unwrap();
            let frame = Bytes::from(vec![7; SNAPSHOT_FRAME_BYTES]);
            let begin = Instant::now();
            for sent in (0..bytes).step_by(frame.len()) {
                if let Some(limit) = limit {
                    let due = begin + Duration::from_secs_f64(sent as f64 / limit);
                    tokio::time::sleep_until(due.into()).await;
                }
                stream.send(frame.clone()).await.unwrap();
            }
            stream.finish().await.unwrap();
            assert_eq!(stream.receive().await.unwrap().as_deref(), Some(&b"done"[..]));
        })
    }
}

/// The same message the other way.
fn back(envelope: Envelope) -> Envelope {
    Envelope { from: envelope.to, to: envelope.from, ..envelope }
}

/// Heartbeats to a peer that is killed, in the usual interval: how long until it is given up, or, where it is `restarted` at its
/// old address, until it is heard again.
pub(crate) fn after_a_kill(restarted: bool) -> Duration {
    let ca = DevCa::new(CLUSTER).unwrap();
    let credentials = ca.issue(THERE.node).unwrap();
    let start = |listen: &str, credentials, peer, boot| {
        let (runtime, ends) = (super::runtime(), Arc::new(Ends::default()));
        let transport = QuicTransport::bind(listen, credentials, QuicOptions::default()).unwrap();
        let local = LocalNode { cluster: CLUSTER, peer, boot };
        runtime.block_on(transport.start(local, Arc::clone(&ends) as _)).unwrap();
        (runtime, transport, ends)
    };
    let (_here, sender, _) = start("127.0.0.1:0", ca.issue(HERE.node).unwrap(), HERE, 1);
    let (there, receiver, heard) = start("127.0.0.1:0", credentials.clone(), THERE, 1);
    let address = receiver.address();
    sender.connect(THERE.node, &address);
    let beat = |over: &dyn Fn() -> bool| {
        let (begin, mut beats) = (Instant::now(), 0);
        while !over() {
            if begin.elapsed() >= beats * USUAL_HEARTBEAT_INTERVAL {
                sender.send(THERE.node, vec![append(&Bytes::new(), 0, 0)]);
                beats += 1;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        begin.elapsed()
    };
    beat(&|| heard.count.load(Ordering::Acquire) > 0);
    // Without its runtime it cannot say a last word.
    there.shutdown_timeout(Duration::from_secs(5));
    drop(receiver);
    if !restarted {
        return beat(&|| sender.stats().connected == 0);
    }
    let (_there, _again, heard) = start(&address, credentials, THERE, 2);
    beat(&|| heard.count.load(Ordering::Acquire) > 0)
}
