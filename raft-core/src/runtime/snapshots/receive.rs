//! Taking over snapshots that leaders send: at most one at a time, and never in the place of what is there before it is whole
//! and checked.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::super::guard::guarded;
use super::super::mailbox::{Completion, Mailbox};
use super::super::outbox::Roster;
use super::super::trace;
use super::file::checksum_of;
use super::folder::Folder;
use super::place::File;
use super::progress::{Progress, TransferStatus, What};
use super::{STALL_TIMEOUT, blocking};
use crate::codec::transfer::{self, Answer, Frame, Offer};
use crate::membership::Membership;
use crate::transport::SnapshotStream;
use crate::types::{NodeId, Peer, SnapshotMeta, Term};

/// How many streams may wait with their offers; what comes beyond is dropped, and its sender tries again.
const MAX_OFFERS: usize = 8;

/// How long a stream may take to say what it is for, and to hear that it is refused.
const OFFER_TIMEOUT: Duration = Duration::from_secs(10);

/// How much is written before it is synced.
const SYNC_BYTES: u64 = 16 << 20;

type Stream = Box<dyn SnapshotStream>;

/// The transport's end: where streams come in.
#[derive(Clone)]
pub(crate) struct Door(mpsc::Sender<(NodeId, Stream)>);

impl Door {
    /// Takes a stream, or drops it.
    pub(crate) fn enter(&self, from: NodeId, stream: Stream) {
        let _full = self.0.try_send((from, stream));
    }
}

/// What a receiver is made of.
pub(crate) struct Receiving {
    pub(crate) folder: Folder,
    pub(crate) local: Peer,
    pub(crate) roster: Roster,
    pub(crate) progress: Progress,
    pub(crate) mailbox: Arc<Mailbox>,
}

/// The task that takes snapshots in. It ends when this is dropped, or with [`stop`](Self::stop).
pub(crate) struct Receiver {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Receiver {
    pub(crate) fn spawn(parts: Receiving) -> (Self, Door) {
        let (door, streams) = mpsc::channel(MAX_OFFERS);
        let (stop, stopped) = oneshot::channel();
        let desk = Desk { parts: Arc::new(parts), offers: JoinSet::new(), active: None };
        (Self { stop, task: tokio::spawn(desk.run(streams, stopped)) }, Door(door))
    }

    /// Ends what is under way, and returns when no file is being written any more.
    pub(crate) async fn stop(self) {
        drop(self.stop);
        let _ended = self.task.await;
    }
}

/// A transfer under way.
struct Active {
    term: Term,
    /// Dropped, it ends the task before its next chunk.
    cancel: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

struct Desk {
    parts: Arc<Receiving>,
    /// Streams that have not said what they are for, or are told that they are refused.
    offers: JoinSet<Option<(Offer, Stream)>>,
    active: Option<Active>,
}

impl Desk {
    async fn run(
        mut self,
        mut streams: mpsc::Receiver<(NodeId, Stream)>,
        mut stopped: oneshot::Receiver<()>,
    ) {
        loop {
            tokio::select! {
                _ = &mut stopped => break,
                Some((from, stream)) = streams.recv(), if self.offers.len() < MAX_OFFERS => {
                    self.offers.spawn(Arc::clone(&self.parts).hear(from, stream));
                }
                Some(heard) = self.offers.join_next() => {
                    if let Ok(Some((offer, stream))) = heard {
                        self.decide(offer, stream).await;
                    }
                }
            }
        }
        self.end_active().await;
    }

    async fn end_active(&mut self) {
        if let Some(Active { cancel, task, .. }) = self.active.take() {
            drop(cancel);
            let _ended = task.await;
        }
    }

    /// A newer leader's transfer takes the place of an older one's; one that goes on after a break takes its own.
    async fn decide(&mut self, offer: Offer, stream: Stream) {
        if let Some(active) = self.active.as_ref().filter(|active| !active.task.is_finished())
            && active.term > offer.term
        {
            let reason = format!("the leader of term {} sends one already", active.term);
            let parts = Arc::clone(&self.parts);
            self.offers.spawn(async move {
                parts.refuse(stream, &offer, reason).await;
                None
            });
            return;
        }
        self.end_active().await;
        let (cancel, cancelled) = oneshot::channel();
        let term = offer.term;
        let parts = Arc::clone(&self.parts);
        let task = tokio::spawn(async move {
            let _panicked = guarded(parts.take_in(offer, stream, cancelled)).await;
        });
        self.active = Some(Active { term, cancel, task });
    }
}

/// Why a transfer ended early.
enum Broken {
    /// The link broke, or another transfer took its place: what is there stays for the next.
    Link(String),
    /// It is not taken; the sender is told.
    Refused(String),
}

impl Receiving {
    /// Hears what a stream is for; `None` where that is nothing to go on with.
    async fn hear(self: Arc<Self>, from: NodeId, mut stream: Stream) -> Option<(Offer, Stream)> {
        let frame = timeout(OFFER_TIMEOUT, stream.receive()).await.ok()?.ok()??;
        let offer = match transfer::decode(frame) {
            Ok(Frame::Offer(offer)) => *offer,
            other => {
                trace::warn!(node = %self.local.node, peer = %from, ?other, "a stream for a snapshot begins otherwise");
                return None;
            }
        };
        match self.check(from, &offer) {
            Ok(()) => Some((offer, stream)),
            Err(reason) => {
                self.refuse(stream, &offer, reason).await;
                None
            }
        }
    }

    fn check(&self, from: NodeId, offer: &Offer) -> Result<(), String> {
        let Offer { cluster, group, from: sender, to, meta, .. } = offer;
        if *cluster != self.folder.cluster {
            return Err(format!("it is of cluster {cluster}, and this node is of {}", self.folder.cluster));
        }
        if *group != self.folder.group {
            return Err(format!("there is no group {group} on this node"));
        }
        if *to != self.local {
            return Err("it is for another node or another data folder of this node".to_owned());
        }
        if sender.node != from {
            return Err(format!("node {from} speaks for node {}", sender.node));
        }
        self.roster.belongs(*sender, meta.membership.lineage)?;
        if self.folder.is_none() {
            return Err("this node has no place for snapshots: set NodeOptions::snapshots".to_owned());
        }
        if meta.size_bytes > self.folder.max_bytes {
            return Err(format!(
                "it has {} bytes, more than this node takes: raise max_snapshot_bytes, {}",
                meta.size_bytes, self.folder.max_bytes
            ));
        }
        if meta.last.index == 0 || meta.last.term == 0 || meta.last.term > offer.term {
            return Err("no snapshot can be of such an entry".to_owned());
        }
        // That of a restored cluster has no members yet; whether it fits here the engine knows.
        if meta.membership == Membership::default() {
            return Ok(());
        }
        meta.membership.validate().map_err(|error| error.to_string())
    }

    async fn refuse(&self, mut stream: Stream, offer: &Offer, reason: String) {
        let (node, peer, last) = (self.local.node, offer.from.node, offer.meta.last);
        trace::warn!(%node, %peer, %last, %reason, "a snapshot was refused");
        let answer = Answer::Refused { reason: reason.clone() };
        self.progress.note(|status| {
            status.refused += 1;
            status.last_failure =
                Some(format!("the snapshot of {last} from node {peer} was refused: {reason}").into());
        });
        let _gone = timeout(OFFER_TIMEOUT, say(&mut *stream, &answer, true)).await;
    }

    async fn take_in(&self, offer: Offer, mut stream: Stream, cancelled: oneshot::Receiver<()>) {
        match self.transfer(&offer, &mut *stream, cancelled).await {
            Ok(()) => {
                let _gone = timeout(OFFER_TIMEOUT, say(&mut *stream, &Answer::Done, true)).await;
            }
            Err(Broken::Refused(reason)) => self.refuse(stream, &offer, reason).await,
            Err(Broken::Link(reason)) => {
                let (node, peer, last) = (self.local.node, offer.from.node, offer.meta.last);
                trace::info!(%node, %peer, %last, %reason, "the transfer of a snapshot broke off");
            }
        }
    }

    /// Returns once the snapshot is there and handed over, or of no use.
    async fn transfer(
        &self,
        offer: &Offer,
        stream: &mut dyn SnapshotStream,
        mut cancelled: oneshot::Receiver<()>,
    ) -> Result<(), Broken> {
        let meta = offer.meta.clone();
        let SnapshotMeta { last, size_bytes, .. } = meta;
        if self.mailbox.applied.load(Ordering::Acquire) >= last.index {
            return Ok(());
        }
        let (folder, wanted) = (self.folder.clone(), meta.clone());
        let opened = blocking(move || {
            if folder.size_of(last)?.is_some() { Ok(None) } else { Part::open(&folder, &wanted).map(Some) }
        });
        let Some(mut part) = opened.await.map_err(refused)? else { return Ok(()) };
        let answer = Answer::Resume { offset: part.bytes, checksum: part.checksum };
        let said = timeout(STALL_TIMEOUT, say(stream, &answer, false)).await;
        said.map_err(|_| Broken::Link("the sender hears nothing".to_owned()))??;
        let start = TransferStatus { last, bytes: part.bytes, size_bytes };
        let mut ongoing = self.progress.begin(What::Receiving, start);
        self.progress.note(|status| status.receives_begun += 1);
        let mut first = true;
        while part.bytes < size_bytes {
            let received = tokio::select! {
                received = timeout(STALL_TIMEOUT, stream.receive()) => received,
                _ = &mut cancelled => return Err(Broken::Link("another takes its place".to_owned())),
            };
            let frame = received.map_err(|_| Broken::Link("the sender sends nothing".to_owned()))?;
            let frame = frame.map_err(|error| Broken::Link(error.to_string()))?;
            let frame = frame.ok_or_else(|| Broken::Link("the sender ended it".to_owned()))?;
            let (offset, bytes) = match transfer::decode(frame) {
                Ok(Frame::Chunk { offset, bytes }) => (offset, bytes),
                Ok(_) => return Err(Broken::Refused("something else than a chunk came".to_owned())),
                Err(error) => return Err(Broken::Refused(format!("a chunk is damaged: {error}"))),
            };
            let begins_anew = first && offset == 0;
            let fits = offset.checked_add(bytes.len() as u64).is_some_and(|end| end <= size_bytes);
            if (offset != part.bytes && !begins_anew) || !fits {
                return Err(Broken::Refused("a chunk does not follow the one before".to_owned()));
            }
            first = false;
            let written = blocking(move || part.append(offset, &bytes)).await;
            part = match written {
                Ok(part) => part,
                Err(error) => {
                    // Room for the log matters more than what is there of a snapshot.
                    self.drop_part(&meta).await;
                    return Err(Broken::Refused(format!("it cannot be written: {error}")));
                }
            };
            ongoing.at(part.bytes);
        }
        let (folder, wanted) = (self.folder.clone(), meta.clone());
        let completed = blocking(move || {
            part.file.sync_all()?;
            folder.complete_part(&wanted)
        });
        if let Err(error) = completed.await {
            self.drop_part(&meta).await;
            return Err(Broken::Refused(format!("what came is not the snapshot: {error}")));
        }
        let (reply, heard) = oneshot::channel();
        self.mailbox.complete(Completion::SnapshotReceived { from: offer.from, meta, reply });
        let wanted = heard.await.map_err(|_| Broken::Link("the node is being stopped".to_owned()))?;
        if !wanted {
            let folder = self.folder.clone();
            blocking(move || folder.remove(last)).await.map_err(refused)?;
        }
        Ok(())
    }

    async fn drop_part(&self, meta: &SnapshotMeta) {
        let (folder, meta) = (self.folder.clone(), meta.clone());
        if let Err(error) = blocking(move || folder.remove_part(&meta)).await {
            trace::warn!(node = %self.local.node, %error, "a part of a snapshot could not be removed");
        }
    }
}

fn refused(error: io::Error) -> Broken {
    Broken::Refused(error.to_string())
}

async fn say(stream: &mut dyn SnapshotStream, answer: &Answer, last: bool) -> Result<(), Broken> {
    let frame = transfer::encode_answer(answer).map_err(|error| Broken::Link(error.to_string()))?;
    let link = |error: crate::transport::TransportError| Broken::Link(error.to_string());
    stream.send(frame).await.map_err(link)?;
    if last { stream.finish().await.map_err(link) } else { Ok(()) }
}

/// What is there of a snapshot.
struct Part {
    file: File,
    bytes: u64,
    /// Of what was there when it was opened.
    checksum: u32,
    synced: u64,
}

impl Part {
    fn open(folder: &Folder, meta: &SnapshotMeta) -> io::Result<Self> {
        let (mut file, bytes) = folder.part(meta)?;
        let checksum = checksum_of(&mut file, bytes)?;
        Ok(Self { file, bytes, checksum, synced: bytes })
    }

    fn append(mut self, offset: u64, bytes: &Bytes) -> io::Result<Self> {
        if offset != self.bytes {
            self.file.set_len(offset)?;
            checksum_of(&mut self.file, offset)?;
            (self.bytes, self.synced) = (offset, offset);
        }
        self.file.write_all(bytes)?;
        self.bytes += bytes.len() as u64;
        if self.bytes - self.synced >= SYNC_BYTES {
            self.file.sync_data()?;
            self.synced = self.bytes;
        }
        Ok(self)
    }
}
