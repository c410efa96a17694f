//! What a node does with snapshots that are offered to it, stream by stream: the test is the leader.
#![cfg(feature = "runtime")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod stock;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use raft_core::codec::transfer::{self, Answer, CHUNK_HEADER_BYTES, Frame, Offer};
use raft_core::mem::MemLogStore;
use raft_core::message::Envelope;
use raft_core::transport::{Inbox, LocalNode, SnapshotStream, TransportError};
use raft_core::types::{Peer, SnapshotMeta};
use raft_core::{
    ClusterId, EntryId, GroupId, Incarnation, Membership, NodeId, NodeInfo, NodeOptions, RawRaft,
    SnapshotPlace, Transport,
};
use stock::{CLUSTER, Controls, Stock, files, holds, keys, options, pause, see, within};
use tokio::sync::mpsc;

/// Small, so that the files here have many.
const CHUNK: usize = 4 << 10;

const LEADER: Peer = Peer { node: NodeId(1), incarnation: Incarnation(11) };

/// A transport that goes nowhere and gives the test the way in.
#[derive(Clone, Default)]
struct Held(Arc<Mutex<Option<Arc<dyn Inbox>>>>);

#[async_trait]
impl Transport for Held {
    async fn start(&self, _local: LocalNode, inbox: Arc<dyn Inbox>) -> Result<(), TransportError> {
        *self.0.lock().unwrap() = Some(inbox);
        Ok(())
    }

    fn address(&self) -> String {
        "held".to_owned()
    }

    fn connect(&self, _peer: NodeId, _address: &str) {}

    fn disconnect(&self, _peer: NodeId) {}

    fn send(&self, _to: NodeId, _batch: Vec<Envelope>) {}

    async fn open_snapshot(&self, to: NodeId) -> Result<Box<dyn SnapshotStream>, TransportError> {
        Err(TransportError::new(format!("node {to} is not connected")))
    }

    async fn stop(&self) {
        *self.0.lock().unwrap() = None;
    }
}

/// One end of a stream; a frame of nothing is its end in good order.
struct End {
    sender: Option<mpsc::Sender<Bytes>>,
    receiver: mpsc::Receiver<Bytes>,
}

#[async_trait]
impl SnapshotStream for End {
    async fn send(&mut self, frame: Bytes) -> Result<(), TransportError> {
        let sender = self.sender.as_ref().ok_or_else(|| TransportError::new("finished"))?;
        sender.send(frame).await.map_err(|_| TransportError::new("broken"))
    }

    async fn receive(&mut self) -> Result<Option<Bytes>, TransportError> {
        let frame = self.receiver.recv().await.ok_or_else(|| TransportError::new("broken"))?;
        Ok((!frame.is_empty()).then_some(frame))
    }

    async fn finish(&mut self) -> Result<(), TransportError> {
        self.send(Bytes::new()).await?;
        self.sender = None;
        Ok(())
    }
}

impl End {
    async fn answer(&mut self) -> Answer {
        match transfer::decode(within(self.receive()).await.unwrap().unwrap()).unwrap() {
            Frame::Answer(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    /// Why it was refused.
    async fn refusal(&mut self) -> String {
        match self.answer().await {
            Answer::Refused { reason } => reason,
            other => panic!("{other:?}"),
        }
    }

    async fn resume(&mut self) -> u64 {
        match self.answer().await {
            Answer::Resume { offset, .. } => offset,
            other => panic!("{other:?}"),
        }
    }

    /// Sends a piece of the file; false where the stream is broken.
    async fn chunk(&mut self, file: &[u8], offset: usize) -> bool {
        let end = file.len().min(offset + CHUNK);
        let mut frame = BytesMut::zeroed(CHUNK_HEADER_BYTES);
        frame.extend_from_slice(&file[offset..end]);
        self.send(transfer::seal_chunk(frame, offset as u64)).await.is_ok()
    }

    /// Sends what is missing from `offset` on and finishes.
    async fn rest(&mut self, file: &[u8], mut offset: usize) {
        while offset < file.len() && self.chunk(file, offset).await {
            offset += CHUNK;
        }
        let _refused_meanwhile = self.finish().await;
    }
}

/// The node that the snapshots are offered to.
struct Fixture {
    folder: tempfile::TempDir,
    place: SnapshotPlace,
    store: MemLogStore,
    held: Held,
    controls: Arc<Controls>,
    node: RawRaft,
}

impl Fixture {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = SnapshotPlace::folder(folder.path());
        Self::with(folder, place).await
    }

    async fn with(folder: tempfile::TempDir, place: SnapshotPlace) -> Self {
        let (store, held) = (MemLogStore::new(), Held::default());
        let controls = Arc::default();
        let node = start(&place, &store, &held, &controls).await;
        Self { folder, place, store, held, controls, node }
    }

    async fn restart(&mut self) {
        within(self.node.shutdown()).await;
        self.node = start(&self.place, &self.store, &self.held, &self.controls).await;
    }

    fn open(&self, from: u64) -> End {
        let (there, from_here) = mpsc::channel(4);
        let (back, from_there) = mpsc::channel(4);
        let inbox = self.held.0.lock().unwrap().clone().unwrap();
        inbox.snapshot(NodeId(from), Box::new(End { sender: Some(back), receiver: from_here }));
        End { sender: Some(there), receiver: from_there }
    }

    async fn offer(&self, offer: &Offer) -> End {
        let mut end = self.open(1);
        end.send(transfer::encode_offer(offer).unwrap()).await.unwrap();
        end
    }

    fn offer_of(&self, meta: &SnapshotMeta) -> Offer {
        Offer {
            cluster: CLUSTER,
            group: GroupId(0),
            term: 5,
            from: LEADER,
            to: self.node.local().peer,
            meta: meta.clone(),
        }
    }

    /// The whole transfer.
    async fn take(&self, meta: &SnapshotMeta, file: &[u8]) -> Answer {
        let mut end = self.offer(&self.offer_of(meta)).await;
        match end.answer().await {
            Answer::Resume { offset, .. } => end.rest(file, offset as usize).await,
            other => return other,
        }
        end.answer().await
    }

    fn parts(&self) -> usize {
        files(self.folder.path()).iter().filter(|name| name.ends_with(".part")).count()
    }
}

async fn start(place: &SnapshotPlace, store: &MemLogStore, held: &Held, controls: &Arc<Controls>) -> RawRaft {
    let mut options: NodeOptions = options(3, place.clone());
    options.max_snapshot_bytes = 1 << 20;
    RawRaft::start(options, store.clone(), held.clone(), Stock::new(controls)).await.unwrap()
}

fn membership(nodes: &[u64]) -> Membership {
    let info = |&id: &u64| {
        let incarnation = if id == 1 { LEADER.incarnation } else { Incarnation::UNKNOWN };
        let info = NodeInfo { address: format!("held:{id}"), incarnation, ..NodeInfo::default() };
        (NodeId(id), info)
    };
    Membership::of_voters(nodes.iter().map(info).collect::<BTreeMap<_, _>>())
}

/// A snapshot of `cluster` with these keys, each of `bytes` bytes, and its file.
fn snapshot(cluster: ClusterId, last: EntryId, keys: &[&str], bytes: usize) -> (SnapshotMeta, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let mut state = Vec::new();
    for key in keys {
        state.extend_from_slice(&(key.len() as u32).to_le_bytes());
        state.extend_from_slice(&(bytes as u32).to_le_bytes());
        state.extend_from_slice(key.as_bytes());
        state.extend((0..bytes).map(|number| number as u8));
    }
    let place = SnapshotPlace::folder(folder.path());
    let meta = place.write(cluster, GroupId(0), last, &membership(&[1, 2, 3]), &mut &state[..]).unwrap();
    let file = std::fs::read(stock::snapshot_file(folder.path(), last)).unwrap();
    assert_eq!(file.len() as u64, meta.size_bytes);
    (meta, file)
}

#[tokio::test]
async fn a_whole_snapshot_brings_state_and_membership() {
    let mut fixture = Fixture::new().await;
    let (meta, file) = snapshot(CLUSTER, EntryId::new(4, 70), &["a", "b"], 10_000);
    assert_eq!(fixture.take(&meta, &file).await, Answer::Done);
    holds(&fixture.node, &["a", "b"]).await;
    let status = see(&fixture.node, |status| status.applied == 70).await;
    assert_eq!(status.membership, meta.membership);
    assert_eq!((status.base, status.commit, status.snapshot), (meta.last, 70, meta.last));
    assert_eq!(fixture.parts(), 0);
    let latest = within(fixture.node.latest_snapshot()).await.unwrap().unwrap();
    assert_eq!(latest.meta(), meta);
    // Once more, and an older one: there is no need of them.
    assert_eq!(fixture.take(&meta, &file).await, Answer::Done);
    let (old, old_file) = snapshot(CLUSTER, EntryId::new(3, 60), &["old"], 10);
    assert_eq!(fixture.take(&old, &old_file).await, Answer::Done);
    assert_eq!(fixture.node.status().borrow().snapshots.receives_begun, 1);
    fixture.restart().await;
    holds(&fixture.node, &["a", "b"]).await;
    assert_eq!(fixture.node.status().borrow().membership, meta.membership);
}

#[tokio::test]
async fn what_does_not_belong_here_is_refused() {
    let fixture = Fixture::new().await;
    let (meta, file) = snapshot(CLUSTER, EntryId::new(4, 70), &["a"], 10);
    let good = fixture.offer_of(&meta);
    let homeless = Membership { voters: [NodeId(1)].into(), ..Membership::default() };
    let large = SnapshotMeta { size_bytes: (1 << 20) + 1, ..meta.clone() };
    for (offer, words) in [
        (Offer { cluster: ClusterId(9), ..good.clone() }, "of cluster"),
        (Offer { group: GroupId(9), ..good.clone() }, "no group 9"),
        (Offer { to: Peer { node: NodeId(2), ..good.to }, ..good.clone() }, "another node"),
        (
            Offer { to: Peer { incarnation: Incarnation(1), ..good.to }, ..good.clone() },
            "another data folder",
        ),
        (Offer { from: Peer { node: NodeId(2), ..LEADER }, ..good.clone() }, "node 1 speaks for node 2"),
        (Offer { meta: large, ..good.clone() }, "max_snapshot_bytes"),
        (Offer { meta: SnapshotMeta { membership: homeless, ..meta.clone() }, ..good.clone() }, "address"),
        (
            Offer { meta: SnapshotMeta { last: EntryId::ZERO, ..meta.clone() }, ..good.clone() },
            "such an entry",
        ),
        (Offer { term: 3, ..good.clone() }, "such an entry"),
    ] {
        let reason = fixture.offer(&offer).await.refusal().await;
        assert!(reason.contains(words), "{reason}");
    }
    // Frames that are no offer, and a version that is not known: the stream is dropped.
    let offer = transfer::encode_offer(&good).unwrap();
    let mut newer = offer.to_vec();
    newer[1] = 2;
    for frame in [
        Bytes::from_static(b"\xff"),
        offer.slice(..20),
        newer.into(),
        transfer::seal_chunk(BytesMut::zeroed(20), 0),
    ] {
        let mut end = fixture.open(1);
        end.send(frame).await.unwrap();
        assert!(within(end.receive()).await.is_err());
    }
    let status = see(&fixture.node, |status| status.snapshots.refused == 9).await;
    assert_eq!((status.snapshots.receives_begun, status.applied), (0, 0));
    assert_eq!(fixture.parts(), 0);

    // Of another cluster inside, whatever the offer says.
    let (foreign, foreign_file) = snapshot(ClusterId(9), EntryId::new(4, 70), &["x"], 10);
    let Answer::Refused { reason } = fixture.take(&foreign, &foreign_file).await else { panic!("taken") };
    assert!(reason.contains("another than was offered"), "{reason}");
    assert_eq!(fixture.take(&meta, &file).await, Answer::Done);
    holds(&fixture.node, &["a"]).await;
    // Now the configuration binds the leader to its data folder.
    let (newer, _) = snapshot(CLUSTER, EntryId::new(4, 80), &["b"], 10);
    let stranger = Peer { incarnation: Incarnation(12), ..LEADER };
    let reason = fixture.offer(&Offer { from: stranger, ..fixture.offer_of(&newer) }).await.refusal().await;
    assert!(reason.contains("bound to the data folder"), "{reason}");
}

#[tokio::test]
async fn damage_of_any_kind_leaves_the_old_state() {
    let fixture = Fixture::new().await;
    let (first, first_file) = snapshot(CLUSTER, EntryId::new(4, 70), &["old"], 10);
    assert_eq!(fixture.take(&first, &first_file).await, Answer::Done);
    holds(&fixture.node, &["old"]).await;
    let (meta, file) = snapshot(CLUSTER, EntryId::new(4, 80), &["new"], 20_000);

    // Bytes that are others than were offered, at the beginning, in the middle, at the end.
    for at in [0, 9, 20, file.len() / 2, file.len() - 12, file.len() - 1] {
        let mut other = file.clone();
        other[at] ^= 1;
        let Answer::Refused { reason } = fixture.take(&meta, &other).await else { panic!("taken: {at}") };
        assert!(reason.contains("not the snapshot"), "{reason}");
        assert_eq!(fixture.parts(), 0, "it is of no use to go on with");
    }
    // A file that is sound and another.
    let (_, twin) = snapshot(CLUSTER, EntryId::new(4, 80), &["win"], 20_000);
    assert_eq!(twin.len(), file.len());
    let Answer::Refused { reason } = fixture.take(&meta, &twin).await else { panic!("taken") };
    assert!(reason.contains("another than was offered"), "{reason}");

    // A chunk that was damaged on the way, that leaves a gap, that goes beyond the end.
    let begin = async |offset: usize| {
        let mut end = fixture.offer(&fixture.offer_of(&meta)).await;
        assert_eq!(end.resume().await, offset as u64);
        end
    };
    let mut end = begin(0).await;
    end.chunk(&file, 0).await;
    let mut frame = BytesMut::zeroed(CHUNK_HEADER_BYTES);
    frame.extend_from_slice(&file[CHUNK..2 * CHUNK]);
    let mut sealed = transfer::seal_chunk(frame, CHUNK as u64).to_vec();
    sealed[100] ^= 1;
    end.send(sealed.into()).await.unwrap();
    assert!(end.refusal().await.contains("checksum"));
    for (offset, bytes) in [(2 * CHUNK, &file[2 * CHUNK..3 * CHUNK]), (CHUNK, &vec![0; file.len()][..])] {
        let mut end = begin(CHUNK).await;
        let mut frame = BytesMut::zeroed(CHUNK_HEADER_BYTES);
        frame.extend_from_slice(bytes);
        end.send(transfer::seal_chunk(frame, offset as u64)).await.unwrap();
        let reason = end.refusal().await;
        assert!(reason.contains("does not follow"), "{reason}");
    }
    // Cut short, in good order and not.
    let mut end = begin(CHUNK).await;
    end.chunk(&file, CHUNK).await;
    end.finish().await.unwrap();
    assert!(within(end.receive()).await.is_err());
    drop(begin(2 * CHUNK).await);
    assert_eq!(keys(&fixture.node).await, ["old"]);
    assert_eq!(fixture.node.status().borrow().applied, 70);

    // What was good of it still counts.
    let mut end = begin(2 * CHUNK).await;
    end.rest(&file, 2 * CHUNK).await;
    assert_eq!(end.answer().await, Answer::Done);
    holds(&fixture.node, &["new"]).await;
}

#[tokio::test]
async fn a_receiver_that_runs_out_of_room_refuses_in_the_middle() {
    let room = SnapshotPlace::memory(4 * CHUNK as u64);
    let mut fixture = Fixture::with(tempfile::tempdir().unwrap(), room).await;
    let (first, first_file) = snapshot(CLUSTER, EntryId::new(4, 70), &["old"], 10);
    assert_eq!(fixture.take(&first, &first_file).await, Answer::Done);
    holds(&fixture.node, &["old"]).await;
    let (large, large_file) = snapshot(CLUSTER, EntryId::new(4, 80), &["large"], 8 * CHUNK);
    for _ in 0..2 {
        // From the beginning each time: what was there of it has made room.
        let mut end = fixture.offer(&fixture.offer_of(&large)).await;
        assert_eq!(end.resume().await, 0);
        end.rest(&large_file, 0).await;
        assert!(end.refusal().await.contains("cannot be written"));
        assert_eq!(keys(&fixture.node).await, ["old"], "the old state is kept");
    }
    fixture.restart().await;
    holds(&fixture.node, &["old"]).await;
    let (small, small_file) = snapshot(CLUSTER, EntryId::new(4, 90), &["new"], 2 * CHUNK);
    assert_eq!(fixture.take(&small, &small_file).await, Answer::Done);
    holds(&fixture.node, &["new"]).await;
}

#[tokio::test]
async fn a_transfer_may_break_at_every_chunk_and_either_end_restart() {
    let mut fixture = Fixture::new().await;
    let (meta, file) = snapshot(CLUSTER, EntryId::new(4, 70), &["a", "b"], 20_000);
    let mut sent = 0;
    for (term, offset) in (5..).zip((0..file.len()).step_by(CHUNK)) {
        // Every time a sender in its next life, and now and then a receiver.
        if term % 3 == 0 {
            fixture.restart().await;
        }
        let mut end = fixture.offer(&Offer { term, ..fixture.offer_of(&meta) }).await;
        let Answer::Resume { offset: there, checksum } = end.answer().await else { panic!("no answer") };
        assert_eq!((there, checksum), (offset as u64, crc32c(&file[..offset])));
        assert_eq!(keys(&fixture.node).await, Vec::<String>::new());
        assert!(end.chunk(&file, offset).await);
        sent += CHUNK.min(file.len() - offset);
        if sent < file.len() {
            let end_of_chunk = (offset + CHUNK) as u64;
            let arrived = |part: raft_core::runtime::TransferStatus| part.bytes == end_of_chunk;
            see(&fixture.node, |status| status.snapshots.receiving.is_some_and(arrived)).await;
        } else {
            end.finish().await.unwrap();
            assert_eq!(end.answer().await, Answer::Done);
        }
    }
    assert_eq!(sent, file.len(), "not a byte twice");
    holds(&fixture.node, &["a", "b"]).await;
}

fn crc32c(bytes: &[u8]) -> u32 {
    // The plain definition, a bit at a time.
    !bytes.iter().fold(!0, |crc: u32, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    })
}

#[tokio::test]
async fn a_part_that_is_another_is_begun_anew() {
    let fixture = Fixture::new().await;
    let (meta, file) = snapshot(CLUSTER, EntryId::new(4, 70), &["a"], 20_000);
    let mut end = fixture.offer(&fixture.offer_of(&meta)).await;
    assert_eq!(end.resume().await, 0);
    end.chunk(&file, 0).await;
    see(&fixture.node, |status| status.snapshots.receiving.is_some_and(|part| part.bytes > 0)).await;
    drop(end);
    see(&fixture.node, |status| status.snapshots.receiving.is_none()).await;
    // A crash has eaten what was never synced.
    let name = files(fixture.folder.path()).into_iter().find(|name| name.ends_with(".part")).unwrap();
    std::fs::write(fixture.folder.path().join(name), vec![0; CHUNK]).unwrap();
    let mut end = fixture.offer(&fixture.offer_of(&meta)).await;
    let Answer::Resume { offset, checksum } = end.answer().await else { panic!("no answer") };
    assert_eq!(offset, CHUNK as u64);
    assert_ne!(checksum, crc32c(&file[..CHUNK]), "so the sender begins anew");
    end.rest(&file, 0).await;
    assert_eq!(end.answer().await, Answer::Done);
    holds(&fixture.node, &["a"]).await;
}

#[tokio::test]
async fn one_transfer_at_a_time_the_newest_leaders() {
    let fixture = Fixture::new().await;
    let (meta, file) = snapshot(CLUSTER, EntryId::new(4, 70), &["a"], 20_000);
    let (other, other_file) = snapshot(CLUSTER, EntryId::new(4, 80), &["b"], 20_000);
    let mut first = fixture.offer(&fixture.offer_of(&meta)).await;
    assert_eq!(first.resume().await, 0);
    first.chunk(&file, 0).await;
    see(&fixture.node, |status| status.snapshots.receiving.is_some()).await;
    let reason = fixture.offer(&Offer { term: 4, ..fixture.offer_of(&other) }).await.refusal().await;
    assert!(reason.contains("term 5"), "{reason}");
    // A newer leader's takes its place, and the part of the older one goes.
    let mut second = fixture.offer(&Offer { term: 6, ..fixture.offer_of(&other) }).await;
    assert_eq!(second.resume().await, 0);
    assert_eq!(fixture.parts(), 1);
    assert!(within(first.receive()).await.is_err());
    second.rest(&other_file, 0).await;
    assert_eq!(second.answer().await, Answer::Done);
    holds(&fixture.node, &["b"]).await;
}

#[tokio::test(start_paused = true)]
async fn streams_that_say_nothing_do_not_keep_others_out_for_long() {
    let fixture = Fixture::new().await;
    // As many as may wait, all silent; what comes beyond is dropped until they are.
    let silent: Vec<End> = (0..8).map(|_| fixture.open(1)).collect();
    let (meta, file) = snapshot(CLUSTER, EntryId::new(4, 70), &["a"], 10);
    within(async {
        loop {
            let mut end = fixture.open(1);
            let offer = transfer::encode_offer(&fixture.offer_of(&meta)).unwrap();
            if end.send(offer).await.is_ok()
                && let Ok(Some(frame)) = end.receive().await
            {
                assert!(matches!(transfer::decode(frame), Ok(Frame::Answer(Answer::Resume { .. }))));
                end.rest(&file, 0).await;
                return assert_eq!(end.answer().await, Answer::Done);
            }
            pause().await;
        }
    })
    .await;
    drop(silent);
    holds(&fixture.node, &["a"]).await;
}

#[tokio::test]
async fn a_node_stops_in_the_middle_of_a_transfer() {
    let fixture = Fixture::new().await;
    let (meta, file) = snapshot(CLUSTER, EntryId::new(4, 70), &["a"], 20_000);
    let mut end = fixture.offer(&fixture.offer_of(&meta)).await;
    assert_eq!(end.resume().await, 0);
    end.chunk(&file, 0).await;
    within(fixture.node.shutdown()).await;
    assert!(within(end.receive()).await.is_err());
}
