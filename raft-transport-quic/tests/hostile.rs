//! A member with a valid certificate sends what it should not: it costs another node little memory, and nobody else anything.
//!
//! By itself in this process, since what is measured is the memory of all of it, the sender's included.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[allow(dead_code, reason = "the other tests use more of it")]
#[path = "transport/common.rs"]
mod common;
#[allow(dead_code, reason = "the other tests use more of it")]
#[path = "transport/stranger.rs"]
mod stranger;

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::SendStream;
use raft_core::codec::wire;
use raft_core::message::{AppendRequest, Envelope, Message};
use raft_core::transport::{Inbox, SnapshotStream, Transport};
use raft_core::types::{Entry, EntryId, GroupId, Lineage, NodeId, Payload, Peer};
use raft_transport_quic::{DevCa, QuicStats, QuicTransport};

use common::{CLUSTER, LINEAGE, Node, local, options, peer, until, vote};
use stranger::{RawHello, Stranger, good_papers};

const MALFORMED: u64 = 4;
const MAX_GROWTH_BYTES: u64 = 100_000_000;
/// The fields of a message before the count of its entries, and those of an entry before its command.
const COUNT_AT: usize = 89;
const ENTRY_HEADER: usize = 25;

/// Counts what arrives and keeps nothing of it, but for the streams of snapshots, which it does not read.
#[derive(Default)]
struct Deaf {
    heard: AtomicU64,
    of_the_member: AtomicU64,
    streams: Mutex<Vec<Box<dyn SnapshotStream>>>,
}

impl Inbox for Deaf {
    fn deliver(&self, from: NodeId, batch: Vec<Envelope>) {
        let count = if from == NodeId(2) { &self.heard } else { &self.of_the_member };
        count.fetch_add(batch.len() as u64, Ordering::Relaxed);
    }

    fn lineage(&self) -> Lineage {
        LINEAGE
    }

    fn admit(&self, _: Peer, _: u64, _: Lineage) -> Result<(), String> {
        Ok(())
    }

    fn snapshot(&self, _: NodeId, stream: Box<dyn SnapshotStream>) {
        self.streams.lock().unwrap().push(stream);
    }
}

/// Bytes as pieces that are repeated, so that the sender needs no memory for them.
#[derive(Default)]
struct Pieces(Vec<(Bytes, usize)>);

impl Pieces {
    fn add(&mut self, piece: impl Into<Bytes>, times: usize) {
        self.0.push((piece.into(), times));
    }

    fn len(&self) -> usize {
        self.0.iter().map(|(piece, times)| piece.len() * times).sum()
    }

    fn checksum(&self) -> u32 {
        let each = self.0.iter().flat_map(|(piece, times)| std::iter::repeat_n(piece, *times));
        each.fold(0, |checksum, piece| crc32c::crc32c_append(checksum, piece))
    }

    /// As the body of a frame.
    fn framed(mut self) -> Self {
        let mut header = u32::try_from(self.len()).unwrap().to_le_bytes().to_vec();
        header.extend(self.checksum().to_le_bytes());
        self.0.insert(0, (header.into(), 1));
        self
    }

    /// Sends them as far as the other end takes them.
    async fn send(&self, stream: &mut SendStream) {
        for (piece, times) in &self.0 {
            for _ in 0..*times {
                if stream.write_chunk(piece.clone()).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn envelope(message: Message) -> Envelope {
    Envelope { group: GroupId(1), from: peer(3), to: peer(1), lineage: LINEAGE, message }
}

fn body(envelope: &Envelope) -> Vec<u8> {
    let mut frame = Vec::new();
    wire::encode_frame(2, [envelope], &mut frame).unwrap();
    frame.split_off(wire::FRAME_HEADER_BYTES)
}

/// A frame as large as they may be, of the smallest messages that there are.
fn of_small_messages() -> Pieces {
    let message = body(&envelope(Message::IdentityRequest));
    let mut pieces = Pieces::default();
    pieces.add(message.repeat(1000), wire::MAX_FRAME_BYTES / message.len() / 1000);
    pieces.framed()
}

/// An append of `count` entries without a command, and one that fills the frame.
fn of_small_entries(count: usize) -> Pieces {
    let noop = Entry { id: EntryId::new(1, 2), payload: Payload::Noop };
    let append =
        AppendRequest { term: 1, prev: EntryId::new(1, 1), entries: vec![noop], commit: 0, round: 0 };
    let mut head = body(&envelope(Message::AppendRequest(append)));
    let noop = head.split_off(COUNT_AT + 4);
    assert_eq!(noop.len(), ENTRY_HEADER);
    head[COUNT_AT..].copy_from_slice(&u32::try_from(count + 1).unwrap().to_le_bytes());
    let rest = wire::MAX_FRAME_BYTES - head.len() - (count + 1) * ENTRY_HEADER;
    let command = rest.min(64 << 20) / 1024 * 1024;
    let mut filler = Pieces::default();
    filler.add([u32::try_from(command).unwrap().to_le_bytes().as_slice(), &[0; 16], &[1]].concat(), 1);
    filler.add(vec![0; 1024], command / 1024);
    let checksum = filler.checksum().to_le_bytes();
    let mut pieces = Pieces::default();
    pieces.add(head, 1);
    pieces.add(noop, count);
    pieces.add(checksum.to_vec(), 1);
    pieces.0.extend(filler.0);
    pieces.framed()
}

/// The process's memory now, and the most that it ever was.
fn memory_bytes() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let of = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    };
    (of("VmRSS:"), of("VmHWM:"))
}

struct Victim {
    transport: QuicTransport,
    inbox: Arc<Deaf>,
    ca: DevCa,
    good: Node,
    before: u64,
}

impl Victim {
    async fn start() -> Self {
        let ca = DevCa::new(CLUSTER).unwrap();
        let good = Node::start(&ca, 2).await;
        let transport = QuicTransport::bind("127.0.0.1:0", ca.issue(NodeId(1)).unwrap(), options()).unwrap();
        let inbox = Arc::new(Deaf::default());
        transport.start(local(1, 1), Arc::clone(&inbox) as _).await.unwrap();
        good.transport.connect(NodeId(1), &transport.address());
        let (before, _) = memory_bytes();
        let victim = Self { transport, inbox, ca, good, before };
        victim.check("nothing").await;
        victim
    }

    fn stats(&self) -> QuicStats {
        self.transport.stats()
    }

    /// A connection of the member, let in.
    async fn member(&self) -> Stranger {
        let stranger = Stranger::dial(good_papers(&self.ca, 3), &self.transport.address()).await.unwrap();
        let hello = RawHello { versions: (1, 2), local: local(3, 1), to: 1, lineage: Some(LINEAGE) };
        assert!(stranger.hello(&hello.bytes()).await.is_some());
        stranger
    }

    /// After `what`: the good peer is heard as ever, and the memory's peak is bounded.
    async fn check(&self, what: &str) {
        let heard = self.inbox.heard.load(Ordering::Relaxed);
        until("the good peer is heard", || {
            self.good.send(1, vec![vote(2, 1, 1)]);
            self.inbox.heard.load(Ordering::Relaxed) > heard
        })
        .await;
        assert_eq!(self.good.stats().reconnects, 0, "{what}: the good peer's connection lives");
        let (now, peak) = memory_bytes();
        let grown = peak.saturating_sub(self.before);
        println!(
            "after {what}: +{} MB, at most +{} MB",
            now.saturating_sub(self.before) / 1_000_000,
            grown / 1_000_000
        );
        assert!(grown < MAX_GROWTH_BYTES, "{what}: the memory grew by {grown} bytes");
    }

    async fn refuses(&self, what: &str, pieces: Pieces) {
        let malformed = self.stats().malformed;
        let member = self.member().await;
        let mut lane = member.lane(&[2]).await;
        pieces.send(&mut lane).await;
        assert_eq!(member.close_code().await, MALFORMED, "{what}");
        until("it is counted", || self.stats().malformed == malformed + 1).await;
        self.check(what).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_sends_garbage_takes_little_memory_and_holds_nobody_up() {
    let victim = Victim::start().await;

    // As much as there may be of everything at once, and nothing of it whole.
    let begin = Instant::now();
    let member = victim.member().await;
    let mut pieces = Pieces::default();
    pieces.add(vec![0; wire::FRAME_HEADER_BYTES], 1);
    let mut lanes = Vec::new();
    for (tag, length) in [(2, wire::MAX_FRAME_BYTES), (1, 1 << 20)] {
        let mut lane = member.lane(&[tag]).await;
        let mut held = Pieces::default();
        held.add([u32::try_from(length).unwrap().to_le_bytes(), [0; 4]].concat(), 1);
        held.add(vec![7; 1024], length / 1024 - 1);
        held.send(&mut lane).await;
        lanes.push(lane);
    }
    let mut snapshots = Vec::new();
    let piece = Bytes::from(vec![7; 64 << 10]);
    for _ in 0..4 {
        let (mut send, receive) = member.connection.open_bi().await.unwrap();
        snapshots.push(receive);
        let mut frames = Pieces::default();
        frames.add(vec![3], 1);
        for _ in 0..64 {
            frames.add((1_u32 << 20).to_le_bytes().to_vec(), 1);
            frames.add(piece.clone(), 16);
        }
        tokio::spawn(async move { frames.send(&mut send).await });
    }
    assert_eq!(member.close_code().await, MALFORMED);
    assert!(begin.elapsed() > Duration::from_secs(9), "only because nothing came any more");
    // Where the first ones took all of the connection's window, there is none left for the last one's beginning.
    assert!(victim.inbox.streams.lock().unwrap().len() >= 3);
    victim.inbox.streams.lock().unwrap().clear();
    drop((lanes, snapshots, member));
    victim.check("much of everything and nothing whole").await;

    victim.refuses("a frame of small messages", of_small_messages()).await;
    let too_many = wire::MAX_FRAME_ENTRIES;
    victim.refuses("a frame of small entries", of_small_entries(too_many)).await;
    assert_eq!(victim.inbox.of_the_member.load(Ordering::Relaxed), 0);

    // The most that is taken, twice: it does not stay.
    let member = victim.member().await;
    let mut lane = member.lane(&[2]).await;
    for number in 1..=2 {
        of_small_entries(wire::MAX_FRAME_ENTRIES - 1).send(&mut lane).await;
        until("it is taken", || victim.inbox.of_the_member.load(Ordering::Relaxed) == number).await;
    }
    victim.check("the largest frames that are taken").await;
    drop((lane, member));

    // Again and again.
    for number in 0..30 {
        let member = victim.member().await;
        let mut garbage = vec![if number % 2 == 0 { 1 } else { 2 }];
        garbage.extend((0..100_000).map(|_| fastrand::u8(..)));
        // Fails where the first bytes were enough for it.
        let mut lane = member.connection.open_uni().await.unwrap();
        let _ = lane.write_all(&garbage).await;
        assert_eq!(member.close_code().await, MALFORMED);
    }
    victim.check("many connections of garbage").await;

    // Streams that are opened and left, on one connection.
    let member = victim.member().await;
    for _ in 0..500 {
        let mut lane = member.connection.open_uni().await.unwrap();
        lane.write_all(&[1]).await.unwrap();
        lane.finish().unwrap();
    }
    victim.check("hundreds of lanes").await;
    assert_eq!(member.connection.close_reason(), None, "which are in order");
}
