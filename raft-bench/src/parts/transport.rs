//! Transports alone: a message there and back, and many entries one way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, Throughput};
use raft_core::message::{Envelope, Message};
use raft_core::transport::{Inbox, LocalNode, SnapshotStream, Transport};
use raft_core::types::{Incarnation, Lineage, Peer};
use raft_core::{ClusterId, NodeId};
use tokio::runtime::Runtime;
use tokio::sync::{Notify, mpsc};

use super::Failures;
use crate::backend::{Failure, TransportKind};
use crate::cluster::PATIENCE;
use crate::messages::{answer, append};

/// Sends back what comes in, or counts it.
struct Station {
    lineage: Lineage,
    echo: Option<mpsc::UnboundedSender<Vec<Envelope>>>,
    entries: AtomicU64,
    came: Notify,
}

impl Inbox for Station {
    fn deliver(&self, _from: NodeId, batch: Vec<Envelope>) {
        let count = |envelope: &Envelope| match &envelope.message {
            Message::AppendRequest(append) => append.entries.len() as u64,
            _ => 1,
        };
        self.entries.fetch_add(batch.iter().map(count).sum(), Ordering::Relaxed);
        self.came.notify_one();
        if let Some(echo) = &self.echo {
            let _ended = echo.send(batch);
        }
    }

    fn admit(&self, _peer: Peer, _boot: u64, _lineage: Lineage) -> Result<(), String> {
        Ok(())
    }

    fn lineage(&self) -> Lineage {
        self.lineage
    }

    fn snapshot(&self, _from: NodeId, _stream: Box<dyn SnapshotStream>) {}
}

/// Two transports that know each other; what the first sends in control messages comes back.
struct Pair {
    near: Arc<dyn Transport>,
    far: Arc<dyn Transport>,
    near_inbox: Arc<Station>,
    far_inbox: Arc<Station>,
}

impl Pair {
    async fn connect(kind: &TransportKind, echo: bool) -> Result<Self, Failure> {
        let cluster = ClusterId(0x9a12);
        let network = kind.network(cluster)?;
        let (near, far): (Arc<dyn Transport>, Arc<dyn Transport>) =
            (network(NodeId(1))?.into(), network(NodeId(2))?.into());
        let (sender, mut receiver) = mpsc::unbounded_channel::<Vec<Envelope>>();
        let station = |echo| {
            let (entries, came) = (AtomicU64::new(0), Notify::new());
            Arc::new(Station { lineage: Lineage(9), echo, entries, came })
        };
        let (near_inbox, far_inbox) = (station(None), station(echo.then_some(sender)));
        for (node, transport, inbox) in [(1, &near, &near_inbox), (2, &far, &far_inbox)] {
            let peer = Peer { node: NodeId(node), incarnation: Incarnation(100 + node) };
            let inbox: Arc<dyn Inbox> = Arc::clone(inbox) as _;
            transport.start(LocalNode { cluster, peer, boot: 1 }, inbox).await?;
        }
        near.connect(NodeId(2), &far.address());
        let answering = Arc::clone(&far);
        tokio::spawn(async move {
            while let Some(batch) = receiver.recv().await {
                let back = |mut envelope: Envelope| {
                    std::mem::swap(&mut envelope.from, &mut envelope.to);
                    envelope
                };
                answering.send(NodeId(1), batch.into_iter().map(back).collect());
            }
        });
        let pair = Self { near, far, near_inbox, far_inbox };
        let heard = async {
            while pair.far_inbox.entries.load(Ordering::Relaxed) == 0 {
                pair.near.send(NodeId(2), vec![answer(1)]);
                let _again =
                    tokio::time::timeout(Duration::from_millis(20), pair.far_inbox.came.notified()).await;
            }
        };
        tokio::time::timeout(PATIENCE, heard).await?;
        Ok(pair)
    }

    async fn round_trip(&self) -> Result<(), Failure> {
        let before = self.near_inbox.entries.load(Ordering::Relaxed);
        self.near.send(NodeId(2), vec![answer(1)]);
        let there = self.arrived(&self.near_inbox, before + 1);
        tokio::time::timeout(PATIENCE, there).await.map_err(|_| "a message was lost".into())
    }

    async fn arrived(&self, inbox: &Station, wanted: u64) {
        while inbox.entries.load(Ordering::Relaxed) < wanted {
            inbox.came.notified().await;
        }
    }

    async fn stop(&self) {
        self.near.stop().await;
        self.far.stop().await;
    }
}

pub(super) fn measure(criterion: &mut Criterion, kind: &TransportKind) -> Result<(), Failure> {
    /// Entries that may be under way: well within the queue of every transport.
    const WINDOW: u64 = 16 * 256;
    let runtime = Runtime::new()?;
    let mut failures = Failures::default();
    let mut group = criterion.benchmark_group(format!("transport/{}", kind.name));
    group.sampling_mode(SamplingMode::Flat);
    let mut pair = None;
    group.bench_function("round-trip", |bencher| {
        let pair = pair.get_or_insert_with(|| runtime.block_on(Pair::connect(kind, true)));
        bencher.iter_custom(|rounds| {
            let taken = runtime.block_on(async {
                let pair = pair.as_ref().map_err(ToString::to_string)?;
                let start = Instant::now();
                for _ in 0..rounds {
                    pair.round_trip().await?;
                }
                Ok(start.elapsed())
            });
            failures.take(taken, Duration::from_secs(1))
        });
    });
    if let Some(Ok(pair)) = pair.take() {
        runtime.block_on(pair.stop());
    }
    group.throughput(Throughput::Elements(256));
    group.bench_function("append/256x64B", |bencher| {
        let pair = pair.get_or_insert_with(|| runtime.block_on(Pair::connect(kind, false)));
        bencher.iter_custom(|rounds| {
            let taken = runtime.block_on(async {
                let pair = pair.as_ref().map_err(ToString::to_string)?;
                let (start, before) = (Instant::now(), pair.far_inbox.entries.load(Ordering::Relaxed));
                for round in 0..rounds {
                    pair.near.send(NodeId(2), vec![append(1 + round * 256, 256, 64)]);
                    let behind = (round + 1) * 256;
                    let there = pair.arrived(&pair.far_inbox, before + behind.saturating_sub(WINDOW));
                    tokio::time::timeout(PATIENCE, there).await.map_err(|_| "a message was lost")?;
                }
                let there = pair.arrived(&pair.far_inbox, before + rounds * 256);
                tokio::time::timeout(PATIENCE, there).await.map_err(|_| "a message was lost")?;
                Ok(start.elapsed())
            });
            failures.take(taken, Duration::from_secs(1))
        });
    });
    if let Some(Ok(pair)) = pair {
        runtime.block_on(pair.stop());
    }
    group.finish();
    failures.end()
}
