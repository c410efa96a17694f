//! The way in: reads a lane's frames and hands their messages to the inbox.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use quinn::RecvStream;
use raft_core::codec::{CodecError, wire};
use raft_core::message::Envelope;
use raft_core::transport::{Inbox, LocalNode};
use raft_core::types::Peer;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::fault::Fault;
use crate::lane::{APPEND_TAG, CONTROL_TAG};
use crate::stats::Counters;

/// How much is read at once at most, unless a frame is larger.
const READ_BYTES: usize = 64 << 10;
/// The least room to read into. Below it a new buffer is begun; not sooner, because the entries that were received keep
/// the whole buffer that they lie in.
const MIN_READ_BYTES: usize = 4 << 10;
/// How far the buffer runs ahead of what has arrived of a large frame: its announced length alone allocates nothing.
const AHEAD_BYTES: usize = 1 << 20;
/// From which size on a buffer that has done its work is given back: a large frame would else stay for as long as its connection.
const MAX_KEPT_BYTES: usize = 4 * AHEAD_BYTES;
/// Control messages carry no entries, so no frame of them comes near this.
pub(crate) const MAX_CONTROL_FRAME_BYTES: usize = 1 << 20;
/// How long a begun frame may go on without a byte: beyond what any network that Raft works over does.
pub(crate) const STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads a lane until its end.
pub(crate) async fn read_lane(
    mut stream: RecvStream,
    peer: Peer,
    version: u16,
    local: LocalNode,
    inbox: &dyn Inbox,
    counters: &Counters,
) -> Result<(), Fault> {
    let mut tag = [0];
    begin(&mut stream, &mut tag).await?;
    let max_frame_bytes = match tag[0] {
        CONTROL_TAG => MAX_CONTROL_FRAME_BYTES,
        APPEND_TAG => wire::MAX_FRAME_BYTES,
        other => return Err(Fault::Malformed(format!("a stream of unknown kind {other}"))),
    };
    let mut frames = Frames { buffer: BytesMut::with_capacity(READ_BYTES), max_frame_bytes, version };
    loop {
        let count = frames.fill(&mut stream).await?;
        if count == 0 {
            return match frames.buffer.is_empty() {
                true => Ok(()),
                false => Err(Fault::Malformed("a stream ended within a frame".to_owned())),
            };
        }
        counters.received_bytes.add(count);
        let batch = frames.take()?;
        if batch.is_empty() {
            continue;
        }
        for envelope in &batch {
            check_names(envelope, peer, local)?;
        }
        counters.received.add(batch.len());
        inbox.deliver(peer.node, batch);
    }
}

/// Reads the first byte of a stream: what it is for.
pub(crate) async fn begin(stream: &mut RecvStream, tag: &mut [u8; 1]) -> Result<(), Fault> {
    timeout(STALL_TIMEOUT, stream.read_exact(tag))
        .await
        .map_err(|_| Fault::Malformed("a stream that does not begin".to_owned()))??;
    Ok(())
}

/// A node speaks for itself only, and to us only.
fn check_names(envelope: &Envelope, peer: Peer, local: LocalNode) -> Result<(), Fault> {
    if envelope.from != peer {
        return Err(Fault::Malformed(format!(
            "a message in the name of node {}, incarnation {}",
            envelope.from.node, envelope.from.incarnation
        )));
    }
    if envelope.to.node != local.peer.node {
        return Err(Fault::Malformed(format!("a message to node {}", envelope.to.node)));
    }
    Ok(())
}

struct Frames {
    buffer: BytesMut,
    max_frame_bytes: usize,
    version: u16,
}

impl Frames {
    /// Reads what is there; 0 at the stream's end.
    async fn fill(&mut self, stream: &mut RecvStream) -> Result<usize, Fault> {
        let missing = match self.body_bytes()? {
            Some(length) => (wire::FRAME_HEADER_BYTES + length).saturating_sub(self.buffer.len()),
            None => 0,
        };
        let whole = self.buffer.len() + missing;
        if whole < AHEAD_BYTES && self.buffer.capacity() > MAX_KEPT_BYTES {
            let mut smaller = BytesMut::with_capacity(READ_BYTES.max(whole));
            smaller.extend_from_slice(&self.buffer);
            self.buffer = smaller;
        }
        if self.buffer.capacity() - self.buffer.len() < missing.clamp(MIN_READ_BYTES, AHEAD_BYTES) {
            self.buffer.reserve(missing.clamp(READ_BYTES, AHEAD_BYTES));
        }
        let begun = !self.buffer.is_empty();
        let read = stream.read_buf(&mut self.buffer);
        let read = if begun {
            timeout(STALL_TIMEOUT, read)
                .await
                .map_err(|_| Fault::Malformed("a frame that does not go on".to_owned()))?
        } else {
            read.await
        };
        read.map_err(|error| Fault::Lost(error.to_string()))
    }

    /// The messages of all frames that are complete. Commands are slices of the buffer.
    fn take(&mut self) -> Result<Vec<Envelope>, Fault> {
        let mut batch = Vec::new();
        while let Some(length) = self.body_bytes()? {
            if self.buffer.len() - wire::FRAME_HEADER_BYTES < length {
                break;
            }
            let mut frame = self.buffer.split_to(wire::FRAME_HEADER_BYTES + length).freeze();
            let mut header = [0; wire::FRAME_HEADER_BYTES];
            frame.copy_to_slice(&mut header);
            let envelopes = wire::decode_frame(self.version, header, frame).map_err(malformed)?;
            if batch.is_empty() {
                batch = envelopes;
            } else {
                batch.extend(envelopes);
            }
        }
        Ok(batch)
    }

    /// The length of the first frame's body, once its header is there.
    fn body_bytes(&self) -> Result<Option<usize>, Fault> {
        let Some(header) = self.buffer.first_chunk::<{ wire::FRAME_HEADER_BYTES }>() else { return Ok(None) };
        let length = wire::body_bytes(*header).map_err(malformed)?;
        if length > self.max_frame_bytes { Err(malformed(CodecError::TooLarge)) } else { Ok(Some(length)) }
    }
}

fn malformed(error: CodecError) -> Fault {
    Fault::Malformed(error.to_string())
}
