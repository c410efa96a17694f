//! Sending snapshots to peers that need what the log does not hold any more.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::io::{self, Read, Seek, SeekFrom};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use super::super::guard::guarded;
use super::super::mailbox::{Completion, Mailbox};
use super::super::trace;
use super::file::{CHUNK_BYTES, checksum_of};
use super::folder::Folder;
use super::place::File;
use super::progress::{Ongoing, Progress, TransferStatus, What};
use super::throttle::Throttle;
use super::{STALL_TIMEOUT, blocking};
use crate::codec::transfer::{self, Answer, CHUNK_HEADER_BYTES, Frame, Offer};
use crate::engine::{SendSnapshot, SnapshotOutcome};
use crate::transport::{SnapshotStream, Transport, TransportError};
use crate::types::{Peer, SnapshotMeta};

/// How long a receiver that broke the stream off may take to have said why.
const LAST_WORD: Duration = Duration::from_secs(1);

/// What all transfers of a node share.
struct Shared {
    folder: Folder,
    local: Peer,
    transport: Arc<dyn Transport>,
    throttle: Throttle,
    progress: Progress,
    mailbox: Arc<Mailbox>,
}

/// The transfers under way, at most one a peer.
pub(crate) struct Transfers {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
    aborts: BTreeMap<u64, AbortHandle>,
}

/// How a transfer went that did not reach its end.
enum Broken {
    /// The link, or the peer.
    Failed(String),
    Refused(String),
    /// The file on this node is not what it was.
    Damaged(String),
}

impl Transfers {
    pub(crate) fn new(
        folder: Folder,
        local: Peer,
        transport: Arc<dyn Transport>,
        bytes_per_second: Option<u64>,
        progress: Progress,
        mailbox: Arc<Mailbox>,
    ) -> Self {
        let throttle = Throttle::new(bytes_per_second);
        let shared = Shared { folder, local, transport, throttle, progress, mailbox };
        Self { shared: Arc::new(shared), tasks: JoinSet::new(), aborts: BTreeMap::new() }
    }

    /// Begins a transfer; the driver hears how it ended.
    pub(crate) fn begin(&mut self, send: SendSnapshot) {
        while self.tasks.try_join_next().is_some() {}
        self.aborts.retain(|_, abort| !abort.is_finished());
        let shared = Arc::clone(&self.shared);
        let transfer = send.transfer;
        let abort = self.tasks.spawn(async move {
            let (to, last) = (send.to.node, send.meta.last);
            let ended = guarded(shared.send(send)).await.unwrap_or_else(|panic| Err(Broken::Failed(panic)));
            let (outcome, reason) = match ended {
                Ok(()) => (SnapshotOutcome::Delivered, None),
                Err(Broken::Failed(reason)) => (SnapshotOutcome::Failed, Some(reason)),
                Err(Broken::Refused(reason)) => (SnapshotOutcome::Refused, Some(reason)),
                Err(Broken::Damaged(reason)) => (SnapshotOutcome::Damaged, Some(reason)),
            };
            if let Some(reason) = reason {
                trace::warn!(node = %shared.local.node, peer = %to, %last, ?outcome, %reason, "a snapshot was not sent");
                let reason = format!("sending the snapshot of {last} to node {to}: {reason}");
                shared.progress.note(|status| status.last_failure = Some(reason.into()));
            }
            shared.mailbox.complete(Completion::SnapshotSent { transfer, outcome });
        });
        self.aborts.insert(transfer, abort);
    }

    /// Ends a transfer that is of no use any more.
    pub(crate) fn abandon(&mut self, transfer: u64) {
        if let Some(abort) = self.aborts.remove(&transfer) {
            abort.abort();
        }
    }

    pub(crate) async fn shutdown(&mut self) {
        self.tasks.shutdown().await;
    }
}

impl Shared {
    async fn send(&self, send: SendSnapshot) -> Result<(), Broken> {
        let SendSnapshot { to, term, meta, .. } = send;
        let SnapshotMeta { last, size_bytes, checksum, .. } = meta;
        let folder = self.folder.clone();
        let source = blocking(move || Source::new(folder.open(last)?, size_bytes)).await.map_err(damaged)?;
        let mut stream = self.transport.open_snapshot(to.node).await.map_err(failed)?;
        let start = TransferStatus { last, bytes: 0, size_bytes };
        let mut ongoing = self.progress.begin(What::Sending(to.node), start);
        let Folder { cluster, group, .. } = self.folder;
        let offer = Offer { cluster, group, term, from: self.local, to, meta };
        in_time(stream.send(transfer::encode_offer(&offer).map_err(failed)?)).await?;
        let source = match answer(&mut *stream).await? {
            Answer::Done => return Ok(()),
            Answer::Refused { reason } => return Err(Broken::Refused(reason)),
            Answer::Resume { offset, .. } if offset > size_bytes => {
                return Err(Broken::Failed("the peer has more than there is".to_owned()));
            }
            Answer::Resume { offset, checksum } => {
                blocking(move || source.skip(offset, checksum)).await.map_err(damaged)?
            }
        };
        self.progress.note(|status| status.sends_begun += 1);
        if self.send_chunks(&mut *stream, source, &mut ongoing).await? != checksum {
            return Err(Broken::Damaged("its checksum does not match any more".to_owned()));
        }
        if let Err(broken) = in_time(stream.finish()).await {
            return Err(last_word(&mut *stream, broken).await);
        }
        match answer(&mut *stream).await? {
            Answer::Done => Ok(()),
            Answer::Refused { reason } => Err(Broken::Refused(reason)),
            Answer::Resume { .. } => Err(Broken::Failed("the peer asks to go on after the end".to_owned())),
        }
    }

    /// Returns the checksum of what the whole file turned out to be.
    async fn send_chunks(
        &self,
        stream: &mut dyn SnapshotStream,
        mut source: Source,
        ongoing: &mut Ongoing,
    ) -> Result<u32, Broken> {
        ongoing.at(source.position);
        while source.position < source.size_bytes {
            let frame;
            (source, frame) = blocking(move || source.chunk()).await.map_err(damaged)?;
            let bytes = frame.len() - CHUNK_HEADER_BYTES;
            self.throttle.pass(bytes).await;
            // The receiver may say at any time that it does not go on.
            if let Poll::Ready(said) = poll_once(answer(stream)).await {
                return Err(refusal(said));
            }
            if let Err(broken) = in_time(stream.send(frame)).await {
                return Err(last_word(stream, broken).await);
            }
            ongoing.sent(bytes);
            ongoing.at(source.position);
        }
        Ok(source.checksum)
    }
}

fn failed(error: impl ToString) -> Broken {
    Broken::Failed(error.to_string())
}

fn damaged(error: io::Error) -> Broken {
    Broken::Damaged(error.to_string())
}

async fn in_time<T>(work: impl Future<Output = Result<T, TransportError>>) -> Result<T, Broken> {
    match timeout(STALL_TIMEOUT, work).await {
        Ok(result) => result.map_err(failed),
        Err(_) => Err(Broken::Failed("nothing has moved for minutes".to_owned())),
    }
}

/// What an answer in the middle means.
fn refusal(said: Result<Answer, Broken>) -> Broken {
    match said {
        Ok(Answer::Refused { reason }) => Broken::Refused(reason),
        Ok(_) => Broken::Failed("the peer answered in the middle".to_owned()),
        Err(broken) => broken,
    }
}

/// A receiver that refuses ends the stream: what it said before matters more than that the stream is broken.
async fn last_word(stream: &mut dyn SnapshotStream, broken: Broken) -> Broken {
    timeout(LAST_WORD, answer(stream)).await.map_or(broken, refusal)
}

async fn answer(stream: &mut dyn SnapshotStream) -> Result<Answer, Broken> {
    let Some(frame) = in_time(stream.receive()).await? else {
        return Err(Broken::Failed("the peer ended the stream".to_owned()));
    };
    match transfer::decode(frame).map_err(failed)? {
        Frame::Answer(answer) => Ok(answer),
        Frame::Offer(_) | Frame::Chunk { .. } => {
            Err(Broken::Failed("the peer answered with something else".to_owned()))
        }
    }
}

/// Polls once, for futures that may be dropped at any time.
async fn poll_once<F: Future>(future: F) -> Poll<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

/// A snapshot's file, read from front to back and summed up again: it may have suffered since it was written.
struct Source {
    file: File,
    size_bytes: u64,
    position: u64,
    /// Of what was read, but for the file's last four bytes, which hold it.
    checksum: u32,
}

impl Source {
    fn new(file: File, size_bytes: u64) -> io::Result<Self> {
        if file.len()? != size_bytes {
            let text = format!("its file is no longer the {size_bytes} bytes long that it was");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(Self { file, size_bytes, position: 0, checksum: 0 })
    }

    /// Goes on behind what the receiver has, if it has the same.
    fn skip(mut self, offset: u64, checksum: u32) -> io::Result<Self> {
        let summed = offset.min(self.size_bytes.saturating_sub(4));
        self.checksum = checksum_of(&mut self.file, summed)?;
        let mut rest = vec![0; usize::try_from(offset - summed).unwrap_or(0)];
        self.file.read_exact(&mut rest)?;
        self.position = offset;
        if crc32c::crc32c_append(self.checksum, &rest) != checksum {
            self.file.seek(SeekFrom::Start(0))?;
            (self.position, self.checksum) = (0, 0);
        }
        Ok(self)
    }

    /// The next chunk's frame.
    fn chunk(mut self) -> io::Result<(Self, Bytes)> {
        let left = self.size_bytes - self.position;
        let length = usize::try_from(left).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
        let mut frame = BytesMut::zeroed(CHUNK_HEADER_BYTES + length);
        let bytes = &mut frame[CHUNK_HEADER_BYTES..];
        self.file.read_exact(bytes)?;
        let summed = usize::try_from(left.saturating_sub(4)).unwrap_or(usize::MAX).min(length);
        self.checksum = crc32c::crc32c_append(self.checksum, &bytes[..summed]);
        let offset = self.position;
        self.position += length as u64;
        Ok((self, transfer::seal_chunk(frame, offset)))
    }
}
