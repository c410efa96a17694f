//! The parts alone: engine, codec, log stores, transports, state machines, snapshots, restart, hand-over of leadership.

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, SamplingMode, Throughput};
use raft_core::codec::wire;
use raft_core::log_store::Write;
use raft_core::message::{AppendOutcome, AppendRequest, AppendResponse, Envelope, Message};
use raft_core::runtime::{NodeOptions, RaftError};
use raft_core::state_machine::{Batch, Command, StateMachine as _};
use raft_core::transport::{Inbox, LocalNode, SnapshotStream, Transport};
use raft_core::types::{Entry, EntryId, GroupId, HardState, Incarnation, Lineage, Payload, Peer};
use raft_core::{ClusterId, Config, LogStore, NodeId, RawRaft, SnapshotPlace};
use tokio::runtime::Runtime;
use tokio::sync::{Notify, mpsc};

use crate::backend::{
    AnyTransport, Backends, Built, Failure, Kept, MachineKind, Network, StoreKind, TransportKind,
};
use crate::cluster::{Cluster, ClusterOptions, PATIENCE};
use crate::floor::Floor;
use crate::invocation::{self, Invocation};
use crate::machines::Ballast;
use crate::tables::write_parts;
use crate::trio::Trio;

/// How large the state of the snapshot benchmarks is.
const STATE_BYTES: usize = 16 << 20;

/// How long the log of the restart benchmark is.
const RESTART_ENTRIES: [u64; 2] = [10_000, 100_000];

/// Measures the parts as criterion's arguments say, and gives the program's exit code. A whole `main` of a benchmark.
pub fn run(backends: &Backends) -> ExitCode {
    invocation::main(|invocation| measure(backends, invocation))
}

fn measure(backends: &Backends, invocation: &Invocation) -> Result<(), Failure> {
    let floor = if invocation.lists { None } else { Some(Floor::measure(&std::env::temp_dir())?) };
    if let Some(floor) = &floor {
        println!("{floor}\n");
    }
    let times = |warm_up, measurement| (Duration::from_millis(warm_up), Duration::from_millis(measurement));
    let mut criterion = invocation.criterion(times(300, 1_000), times(1_000, 4_000));
    engine(&mut criterion)?;
    codec(&mut criterion)?;
    for store in &backends.stores {
        log_store(&mut criterion, store)?;
    }
    for transport in &backends.transports {
        transport_alone(&mut criterion, transport)?;
    }
    for machine in &backends.machines {
        machine_alone(&mut criterion, machine)?;
    }
    let ends = backends.transports.first().zip(backends.stores.first()).zip(backends.machines.first());
    if let Some(((transport, store), machine)) = ends {
        let built = Built { transport: transport.clone(), store: store.clone(), machine: machine.clone() };
        snapshot_write(&mut criterion, &built)?;
        snapshot_send(&mut criterion, &built)?;
        hand_over(&mut criterion, &built)?;
    }
    for store in &backends.stores {
        restart(&mut criterion, store)?;
    }
    criterion.final_summary();
    match (&invocation.results, &floor) {
        (Some(folder), Some(floor)) => write_parts(folder, floor),
        _ => Ok(()),
    }
}

/// Stops a benchmark at the first failure: criterion's closures cannot give one back.
#[derive(Default)]
struct Failures(Option<Failure>);

impl Failures {
    /// The value, or something in its place once anything has failed.
    fn take<T>(&mut self, result: Result<T, Failure>, instead: T) -> T {
        match result {
            Ok(value) if self.0.is_none() => value,
            Ok(_) => instead,
            Err(failure) => {
                self.0.get_or_insert(failure);
                instead
            }
        }
    }

    fn end(self) -> Result<(), Failure> {
        self.0.map_or(Ok(()), Err)
    }
}

fn command() -> Bytes {
    Bytes::from_static(&[7; 64])
}

fn engine(criterion: &mut Criterion) -> Result<(), Failure> {
    let mut failures = Failures::default();
    let mut group = criterion.benchmark_group("engine/propose/nodes=3/64B");
    for window in [1, 64, 4096] {
        group.throughput(Throughput::Elements(window));
        let mut trio = Trio::found(3)?;
        group.bench_function(BenchmarkId::new("window", window), |bencher| {
            bencher.iter_batched(
                || vec![command(); usize::try_from(window).unwrap_or_default()],
                |commands| {
                    let proposed = trio.propose(commands);
                    failures.take(proposed, ());
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("engine");
    let mut trio = Trio::found(3)?;
    // A heartbeat to each of two followers, and their answers.
    group.throughput(Throughput::Elements(4));
    group.bench_function("heartbeat/nodes=3", |bencher| bencher.iter(|| trio.heartbeat()));
    group.finish();
    failures.end()
}

fn envelope(message: Message) -> Envelope {
    let peer = |node| Peer { node: NodeId(node), incarnation: Incarnation(100 + node) };
    Envelope { group: GroupId(0), from: peer(1), to: peer(2), lineage: Lineage(9), message }
}

fn entries(first: u64, count: u64, payload_bytes: usize) -> Vec<Entry> {
    let command = Bytes::from(vec![7; payload_bytes]);
    (first..first + count)
        .map(|index| Entry { id: EntryId::new(1, index), payload: Payload::Command(command.clone()) })
        .collect()
}

fn append(first: u64, count: u64, payload_bytes: usize) -> Envelope {
    let prev = EntryId::new(u64::from(first > 1), first - 1);
    let entries = entries(first, count, payload_bytes);
    envelope(Message::AppendRequest(AppendRequest { term: 1, prev, entries, commit: first - 1, round: 1 }))
}

fn answer(round: u64) -> Envelope {
    let outcome = AppendOutcome::Accepted { matched: round, received: round };
    envelope(Message::AppendResponse(AppendResponse { term: 1, round, outcome, priority: 0, level: 2 }))
}

fn codec(criterion: &mut Criterion) -> Result<(), Failure> {
    let version = *wire::VERSIONS.end();
    let mut failures = Failures::default();
    let frames = [
        ("append/64x64B", append(1, 64, 64)),
        ("append/64x1KiB", append(1, 64, 1 << 10)),
        ("append/1x16KiB", append(1, 1, 16 << 10)),
        ("answer", answer(7)),
    ];
    for (name, envelope) in frames {
        let mut frame = Vec::new();
        wire::encode_frame(version, [&envelope], &mut frame)?;
        let (header, body) = frame.split_first_chunk().ok_or("a frame has a header")?;
        let (header, body) = (*header, Bytes::copy_from_slice(body));
        let mut group = criterion.benchmark_group("codec");
        group.throughput(Throughput::Bytes(frame.len() as u64));
        group.bench_function(format!("encode/{name}"), |bencher| {
            let mut out = Vec::with_capacity(frame.len());
            bencher.iter(|| {
                out.clear();
                let encoded = wire::encode_frame(version, [black_box(&envelope)], &mut out);
                failures.take(encoded.map_err(Into::into), ());
            });
        });
        group.bench_function(format!("decode/{name}"), |bencher| {
            bencher.iter(|| {
                let decoded = wire::decode_frame(version, header, black_box(body.clone()));
                failures.take(decoded.map_err(Into::into), Vec::new())
            });
        });
        group.finish();
    }
    failures.end()
}

/// The log of one writer: each append follows the last.
struct Appender {
    store: Arc<dyn LogStore>,
    next: u64,
    number: u64,
}

impl Appender {
    async fn append(&mut self, count: u64) -> Result<(), Failure> {
        self.number += 1;
        // What a node keeps: the log is compacted behind snapshots.
        let compact_to = self.next.checked_sub(200_000).filter(|_| self.number.is_multiple_of(16));
        let hard_state = HardState { term: 1, vote: Some(NodeId(1)), commit: self.next - 1 };
        let write = Write {
            group: GroupId(0),
            number: self.number,
            entries: entries(self.next, count, 64),
            hard_state: Some(hard_state),
            compact_to,
            ..Write::default()
        };
        self.next += count;
        Ok(self.store.write(&[write]).await?)
    }
}

fn log_store(criterion: &mut Criterion, kind: &StoreKind) -> Result<(), Failure> {
    let runtime = Runtime::new()?;
    let folder = tempfile::tempdir()?;
    let mut failures = Failures::default();
    let mut group = criterion.benchmark_group(format!("store/{}", kind.label()));
    group.sampling_mode(SamplingMode::Flat);
    for count in [1_u64, 64, 1024] {
        let own = folder.path().join(format!("append-{count}"));
        std::fs::create_dir_all(&own)?;
        let mut appender = Appender { store: kind.open(&own)?, next: 1, number: 0 };
        group.throughput(Throughput::Elements(count));
        group.bench_function(format!("append/{count}x64B"), |bencher| {
            bencher.iter(|| failures.take(runtime.block_on(appender.append(count)), ()));
        });
    }
    // As three nodes on one disk do: the time of one commit while two others write.
    group.throughput(Throughput::Elements(1));
    let mut writers = Vec::new();
    for writer in 0..3 {
        let own = folder.path().join(format!("beside-{writer}"));
        std::fs::create_dir_all(&own)?;
        writers.push(Appender { store: kind.open(&own)?, next: 1, number: 0 });
    }
    let writers = Arc::new(tokio::sync::Mutex::new(writers));
    group.bench_function("append/1x64B/3-at-once", |bencher| {
        bencher.iter_custom(|commits| {
            let writers = Arc::clone(&writers);
            let taken = runtime.block_on(async move {
                let mut writers = writers.lock().await;
                let mut tasks = Vec::new();
                for mut writer in writers.drain(..) {
                    tasks.push(tokio::spawn(async move {
                        let start = Instant::now();
                        for _ in 0..commits {
                            writer.append(1).await?;
                        }
                        Ok::<_, Failure>((start.elapsed(), writer))
                    }));
                }
                let mut sum = Duration::ZERO;
                for task in tasks {
                    let (taken, writer) = task.await??;
                    sum += taken;
                    writers.push(writer);
                }
                Ok(sum / 3)
            });
            failures.take(taken, Duration::from_secs(1))
        });
    });
    let own = folder.path().join("read");
    std::fs::create_dir_all(&own)?;
    let mut appender = Appender { store: kind.open(&own)?, next: 1, number: 0 };
    for _ in 0..40 {
        runtime.block_on(appender.append(256))?;
    }
    let mut at = 0;
    group.throughput(Throughput::Elements(256));
    group.bench_function("read/256x64B", |bencher| {
        bencher.iter(|| {
            at = (at + 4099) % (40 * 256 - 256);
            let read = appender.store.read(GroupId(0), at + 1..=at + 256, usize::MAX);
            failures.take(runtime.block_on(read).map_err(Into::into), Vec::new())
        });
    });
    group.finish();
    failures.end()
}

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

fn transport_alone(criterion: &mut Criterion, kind: &TransportKind) -> Result<(), Failure> {
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

fn machine_alone(criterion: &mut Criterion, kind: &MachineKind) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let mut failures = Failures::default();
    let own = kind.commands(64);
    let mut group = criterion.benchmark_group(format!("machine/{}", kind.name));
    for count in [1_u64, 1024] {
        let mut machine = kind.make();
        let mut index = 0;
        group.throughput(Throughput::Elements(count));
        group.bench_function(format!("apply/{count}x64B"), |bencher| {
            bencher.iter_batched(
                || {
                    let commands = (0..count).map(|_| {
                        index += 1;
                        Command { id: EntryId::new(1, index), bytes: own.get(index) }
                    });
                    Batch { commands: commands.collect(), ..Batch::default() }
                },
                |batch| {
                    let applied = runtime.block_on(machine.apply(batch));
                    failures.take(applied.map_err(Into::into), Vec::new())
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
    failures.end()
}

/// Nodes over a store that outlives them, each in a folder of its own, so that they can be started again.
struct Nodes {
    built: Built,
    network: Network,
    folder: tempfile::TempDir,
    config: Config,
}

impl Nodes {
    const CLUSTER: ClusterId = ClusterId(0x9a13);

    fn new(built: &Built, config: Config) -> Result<Self, Failure> {
        let network = built.transport.network(Self::CLUSTER)?;
        Ok(Self { built: built.clone(), network, folder: tempfile::tempdir()?, config })
    }

    async fn start(&self, id: u64, store: Arc<dyn LogStore>) -> Result<RawRaft, Failure> {
        let own = self.own(id)?;
        let mut options = NodeOptions::new(Self::CLUSTER, id);
        options.config = self.config.clone();
        options.snapshots = match self.built.kept() {
            Kept::Durable => SnapshotPlace::folder(own.join("snapshots")),
            Kept::Volatile => SnapshotPlace::memory(16 * STATE_BYTES as u64),
        };
        let transport = AnyTransport::new((self.network)(NodeId(id))?, None);
        Ok(RawRaft::start(options, store, transport, Ballast::of(STATE_BYTES)).await?)
    }

    fn own(&self, id: u64) -> Result<std::path::PathBuf, Failure> {
        let own = self.folder.path().join(format!("node-{id}"));
        std::fs::create_dir_all(&own)?;
        Ok(own)
    }

    fn store(&self, id: u64) -> Result<Arc<dyn LogStore>, Failure> {
        self.built.store.open(&self.own(id)?)
    }
}

/// Until the status is as wanted, or far too long.
async fn until(
    node: &RawRaft,
    wanted: impl FnMut(&raft_core::engine::Status) -> bool,
) -> Result<(), Failure> {
    tokio::time::timeout(PATIENCE, node.wait_for(wanted)).await??;
    Ok(())
}

fn snapshot_write(criterion: &mut Criterion, built: &Built) -> Result<(), Failure> {
    let runtime = Runtime::new()?;
    let mut failures = Failures::default();
    let mut alone = None;
    let mut group = criterion.benchmark_group("snapshot");
    group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Bytes(STATE_BYTES as u64));
    group.bench_function("write/16MiB", |bencher| {
        let started = alone.get_or_insert_with(|| {
            runtime.block_on(async {
                let nodes = Nodes::new(built, Config::default())?;
                let node = nodes.start(1, nodes.store(1)?).await?;
                node.bootstrap([(1, node.address().to_owned())]).await?;
                Ok::<_, Failure>((nodes, node))
            })
        });
        bencher.iter_custom(|times| {
            let taken = runtime.block_on(async {
                let (_, node) = started.as_ref().map_err(ToString::to_string)?;
                let mut taken = Duration::ZERO;
                for _ in 0..times {
                    // Something new, or the snapshot that is there would do.
                    node.propose(command()).await?;
                    let start = Instant::now();
                    node.snapshot().await?;
                    taken += start.elapsed();
                }
                Ok(taken)
            });
            failures.take(taken, Duration::from_secs(1))
        });
    });
    group.finish();
    if let Some(Ok((_nodes, node))) = alone {
        runtime.block_on(node.shutdown());
    }
    failures.end()
}

/// A follower comes back to a log that was compacted behind a snapshot: from its start until it has applied everything.
fn snapshot_send(criterion: &mut Criterion, built: &Built) -> Result<(), Failure> {
    let runtime = Runtime::new()?;
    let mut failures = Failures::default();
    let mut cluster = None;
    let mut group = criterion.benchmark_group("snapshot");
    group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Bytes(STATE_BYTES as u64));
    group.bench_function(format!("send-and-restore/16MiB/{}", built.transport.name), |bencher| {
        let started = cluster.get_or_insert_with(|| {
            runtime.block_on(async {
                let mut config = Config::default();
                (config.keep_entries, config.keep_live_bytes) = (0, 0);
                // Two of three go on while the third is away.
                let nodes = Nodes::new(built, config)?;
                let mut all = Vec::new();
                for id in 1..=3 {
                    all.push(nodes.start(id, nodes.store(id)?).await?);
                }
                let members: Vec<_> = (1..).zip(all.iter().map(|node| node.address().to_owned())).collect();
                all.first().ok_or("no node")?.bootstrap(members).await?;
                // The third must not lead: it is the one that goes away.
                let third = all.get(2).ok_or("no node")?;
                until(third, |status| status.leader.is_some()).await?;
                if third.status().borrow().leader == Some(NodeId(3)) {
                    third.transfer_leadership(Some(NodeId(1))).await?;
                }
                Ok::<_, Failure>((nodes, all))
            })
        });
        bencher.iter_custom(|times| {
            let taken = runtime.block_on(async {
                let (nodes, all) = started.as_mut().map_err(|error| error.to_string())?;
                let mut taken = Duration::ZERO;
                for _ in 0..times {
                    taken += away_and_back(nodes, all).await?;
                }
                Ok(taken)
            });
            failures.take(taken, Duration::from_secs(1))
        });
    });
    group.finish();
    if let Some(Ok((_nodes, all))) = cluster {
        for node in &all {
            runtime.block_on(node.shutdown());
        }
    }
    failures.end()
}

async fn away_and_back(nodes: &Nodes, all: &mut Vec<RawRaft>) -> Result<Duration, Failure> {
    let third = all.pop().ok_or("no node")?;
    third.shutdown().await;
    drop(third);
    let leader = leader(all).await?;
    for _ in 0..4 {
        leader.propose(command()).await?;
    }
    let covered = leader.snapshot().await?.last.index;
    until(&leader, |status| status.base.index >= covered).await?;
    // The volatile store forgets: it comes back empty, and needs the snapshot all the more.
    let store = nodes.store(3)?;
    let start = Instant::now();
    let back = nodes.start(3, store).await?;
    until(&back, |status| status.applied >= covered).await?;
    let taken = start.elapsed();
    all.push(back);
    Ok(taken)
}

async fn leader(all: &[RawRaft]) -> Result<RawRaft, Failure> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let leads = |node: &&RawRaft| node.status().borrow().leader == Some(node.local().peer.node);
        if let Some(node) = all.iter().find(leads) {
            return Ok(node.clone());
        }
        if Instant::now() > deadline {
            return Err("nobody leads".into());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// One node with a log of this length on its disk, from its start until it leads and has applied all.
fn restart(criterion: &mut Criterion, store: &StoreKind) -> Result<(), Failure> {
    if store.kept == Kept::Volatile {
        return Ok(());
    }
    let runtime = Runtime::new()?;
    let mut failures = Failures::default();
    let mut group = criterion.benchmark_group(format!("restart/{}", store.name));
    group.sampling_mode(SamplingMode::Flat);
    for entries in RESTART_ENTRIES {
        let mut kept = None;
        group.throughput(Throughput::Elements(entries));
        group.bench_function(BenchmarkId::new("entries", entries), |bencher| {
            let started = kept.get_or_insert_with(|| runtime.block_on(grown(store, entries)));
            bencher.iter_custom(|times| {
                let taken = runtime.block_on(async {
                    let nodes = started.as_ref().map_err(ToString::to_string)?;
                    let mut taken = Duration::ZERO;
                    for _ in 0..times {
                        let start = Instant::now();
                        let node = nodes.start(1, nodes.store(1)?).await?;
                        until(&node, |status| status.applied > entries).await?;
                        taken += start.elapsed();
                        node.shutdown().await;
                    }
                    Ok(taken)
                });
                failures.take(taken, Duration::from_secs(1))
            });
        });
    }
    group.finish();
    failures.end()
}

/// A node's folder with a log of so many commands, none of them compacted; the node is stopped.
async fn grown(store: &StoreKind, entries: u64) -> Result<Nodes, Failure> {
    let ours = Backends::ours();
    let alone = ours.choose("channel", "memory", None)?;
    let built = Built { store: store.clone(), ..alone };
    let mut config = Config::default();
    config.snapshot_entries = u64::MAX;
    config.snapshot_bytes = usize::MAX;
    let nodes = Nodes::new(&built, config)?;
    let node = nodes.start(1, nodes.store(1)?).await?;
    node.bootstrap([(1, node.address().to_owned())]).await?;
    let mut open = tokio::task::JoinSet::new();
    for _ in 0..entries {
        if open.len() >= 4096 {
            open.join_next().await.ok_or("no task")???;
        }
        let node = node.clone();
        open.spawn(async move { node.propose(command()).await });
    }
    while let Some(answered) = open.join_next().await {
        answered??;
    }
    node.shutdown().await;
    Ok(nodes)
}

/// When leadership was asked to go to another node, and which one leads now. Right after a hand-over nobody may have caught up
/// yet; then it is asked again.
async fn handed_over(old: &RawRaft) -> Result<(Instant, NodeId), Failure> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let start = Instant::now();
        match old.transfer_leadership(None).await {
            Ok(next) => return Ok((start, next)),
            Err(RaftError::Transfer(_)) if start < deadline => {
                tokio::time::sleep(Duration::from_millis(1)).await
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Leadership goes from one node to another and a proposal is taken there: with nothing else to do.
fn hand_over(criterion: &mut Criterion, built: &Built) -> Result<(), Failure> {
    let runtime = Runtime::new()?;
    let mut failures = Failures::default();
    let mut cluster = None;
    let mut group = criterion.benchmark_group("election");
    group.sampling_mode(SamplingMode::Flat);
    group.bench_function(format!("hand-over/{}/nodes=3", built.name()), |bencher| {
        let started = cluster
            .get_or_insert_with(|| runtime.block_on(Cluster::start(&ClusterOptions::new(built.clone()))));
        bencher.iter_custom(|times| {
            let taken = runtime.block_on(async {
                let cluster = started.as_ref().map_err(ToString::to_string)?;
                let mut taken = Duration::ZERO;
                for _ in 0..times {
                    let old = leader(cluster.nodes()).await?;
                    let (start, next) = handed_over(&old).await?;
                    let new = cluster.nodes().iter().find(|node| node.local().peer.node == next);
                    let new = new.ok_or("the new leader is not of this cluster")?;
                    new.propose(command()).await?;
                    taken += start.elapsed();
                }
                Ok(taken)
            });
            failures.take(taken, Duration::from_secs(1))
        });
    });
    group.finish();
    if let Some(Ok(cluster)) = cluster {
        runtime.block_on(cluster.shutdown());
    }
    failures.end()
}
