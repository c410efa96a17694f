//! Streams for snapshots: frames in both directions on a stream of their own, behind everything else.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use quinn::{Connection, RecvStream, SendStream, VarInt};
use raft_core::transport::{MAX_SNAPSHOT_FRAME_BYTES, SnapshotStream, TransportError};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::fault::Fault;
use crate::inbound::STALL_TIMEOUT;
use crate::stats::Counters;

/// The first byte of such a stream.
const SNAPSHOT_TAG: u8 = 3;
/// Below both lanes.
const SNAPSHOT_PRIORITY: i32 = -1;
/// With which a stream is given up; the connection goes on.
const BROKEN: VarInt = VarInt::from_u32(5);
const HEADER_BYTES: usize = 4;

/// Opens a stream for a snapshot; waits at most `limit` for the peer to have room for one more.
pub(crate) async fn open(
    connection: &Connection,
    counters: Arc<Counters>,
    limit: Duration,
) -> Result<QuicSnapshotStream, Fault> {
    let opened = timeout(limit, connection.open_bi()).await;
    let (send, receive) = opened.map_err(|_| {
        Fault::Lost("the peer takes no more snapshots now; try again when another is through".to_owned())
    })??;
    let mut stream = QuicSnapshotStream::new(connection.clone(), send, receive, counters);
    // Fails only where the stream is closed, which the write finds out.
    let _ = stream.send.set_priority(SNAPSHOT_PRIORITY);
    stream.send.write_chunk(Bytes::from_static(&[SNAPSHOT_TAG])).await?;
    stream.begun = true;
    Ok(stream)
}

/// Takes in a stream that the peer opened, once it has said what it is for.
pub(crate) async fn accept(
    connection: Connection,
    send: SendStream,
    receive: RecvStream,
    counters: Arc<Counters>,
) -> Result<QuicSnapshotStream, Fault> {
    let mut stream = QuicSnapshotStream::new(connection, send, receive, counters);
    let mut tag = [0];
    timeout(STALL_TIMEOUT, stream.receive.read_exact(&mut tag))
        .await
        .map_err(|_| Fault::Malformed("a stream that does not begin".to_owned()))??;
    if tag[0] != SNAPSHOT_TAG {
        return Err(Fault::Malformed(format!("a stream of unknown kind {}", tag[0])));
    }
    // Fails only where the stream is closed, which the first write finds out.
    let _ = stream.send.set_priority(SNAPSHOT_PRIORITY);
    Ok(stream)
}

/// One end. What is in flight is bounded by the stream's window, what has arrived by that and one frame.
pub(crate) struct QuicSnapshotStream {
    connection: Connection,
    send: SendStream,
    receive: RecvStream,
    counters: Arc<Counters>,
    /// The frame that is arriving: its header, then its bytes.
    buffer: BytesMut,
    /// We opened it, or the peer has sent a frame: from then on it may take its time between two frames.
    begun: bool,
    /// A frame was left half-sent: what follows could not be told from its rest.
    torn: bool,
    finished: bool,
    /// The peer has finished.
    ended: bool,
}

impl QuicSnapshotStream {
    fn new(connection: Connection, send: SendStream, receive: RecvStream, counters: Arc<Counters>) -> Self {
        let buffer = BytesMut::new();
        let (begun, torn, finished, ended) = (false, false, false, false);
        Self { connection, send, receive, counters, buffer, begun, torn, finished, ended }
    }

    /// How many bytes of the frame that is arriving are missing; of its header, where that is not there yet.
    fn missing(&self) -> Result<usize, Fault> {
        let Some(header) = self.buffer.first_chunk::<HEADER_BYTES>() else {
            return Ok(HEADER_BYTES - self.buffer.len());
        };
        let length = u32::from_le_bytes(*header) as usize;
        if (1..=MAX_SNAPSHOT_FRAME_BYTES).contains(&length) {
            Ok(HEADER_BYTES + length - self.buffer.len())
        } else {
            Err(Fault::Malformed(format!("a snapshot's frame of {length} bytes")))
        }
    }

    /// The next frame. Whatever was read stays in the buffer, so it may be dropped at any time.
    async fn frame(&mut self) -> Result<Option<Bytes>, Fault> {
        loop {
            let missing = self.missing()?;
            if missing == 0 {
                let mut frame = self.buffer.split();
                frame.advance(HEADER_BYTES);
                self.begun = true;
                self.counters.snapshot_received_bytes.add(frame.len());
                return Ok(Some(frame.freeze()));
            }
            self.buffer.reserve(missing);
            let idle = self.begun && self.buffer.is_empty();
            let mut room = (&mut self.buffer).limit(missing);
            let read = self.receive.read_buf(&mut room);
            let read = if idle {
                read.await
            } else {
                timeout(STALL_TIMEOUT, read)
                    .await
                    .map_err(|_| Fault::Malformed("a snapshot's frame that does not go on".to_owned()))?
            };
            let count = read.map_err(|error| Fault::Lost(error.to_string()))?;
            if count == 0 {
                return match self.buffer.is_empty() {
                    true => Ok(None),
                    false => Err(Fault::Malformed("a snapshot's stream ended within a frame".to_owned())),
                };
            }
        }
    }

    fn broken(&self, why: impl std::fmt::Display) -> TransportError {
        let peer = self.connection.remote_address();
        TransportError::new(format!("the snapshot's stream with {peer} is broken: {why}; open another"))
    }
}

#[async_trait]
impl SnapshotStream for QuicSnapshotStream {
    async fn send(&mut self, frame: Bytes) -> Result<(), TransportError> {
        let length = frame.len();
        if !(1..=MAX_SNAPSHOT_FRAME_BYTES).contains(&length) {
            return Err(TransportError::new(format!(
                "a frame of {length} bytes cannot be sent: 1 to {MAX_SNAPSHOT_FRAME_BYTES} are possible"
            )));
        }
        if self.torn || self.finished {
            return Err(self.broken("it was finished, or a frame was left half-sent"));
        }
        self.torn = true;
        let header = Bytes::copy_from_slice(&(length as u32).to_le_bytes());
        let sent = self.send.write_all_chunks(&mut [header, frame]).await;
        sent.map_err(|error| self.broken(error))?;
        self.torn = false;
        self.counters.snapshot_sent_bytes.add(length);
        Ok(())
    }

    async fn receive(&mut self) -> Result<Option<Bytes>, TransportError> {
        if self.ended {
            return Ok(None);
        }
        match self.frame().await {
            Ok(frame) => {
                self.ended = frame.is_none();
                Ok(frame)
            }
            Err(fault) => {
                if let Fault::Malformed(_) = fault {
                    self.counters.malformed.add(1);
                    tracing::warn!(from = %self.connection.remote_address(), reason = %fault, "connection closed");
                    self.connection.close(fault.code(), &[]);
                }
                Err(self.broken(fault))
            }
        }
    }

    async fn finish(&mut self) -> Result<(), TransportError> {
        if self.torn {
            return Err(self.broken("a frame was left half-sent"));
        }
        self.send.finish().map_err(|error| self.broken(error))?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for QuicSnapshotStream {
    fn drop(&mut self) {
        // By itself quinn would end both directions as if in good order. They fail only where they have ended.
        if !self.finished {
            let _ = self.send.reset(BROKEN);
        }
        let _ = self.receive.stop(BROKEN);
    }
}
