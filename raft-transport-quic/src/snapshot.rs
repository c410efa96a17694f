//! Streams for snapshots: frames in both directions on a stream of their own, behind everything else. A window of our own bounds
//! what is on the way, far below what the path would take: what waits in front of the receiver delays messages too.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use quinn::{Connection, ReadError, RecvStream, SendStream, VarInt, WriteError};
use raft_core::transport::{MAX_SNAPSHOT_FRAME_BYTES, SnapshotStream, TransportError};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::fault::Fault;
use crate::inbound::{self, STALL_TIMEOUT};
use crate::stats::Counters;

const LEFT: &str = "the peer left it";

/// The first byte of such a stream.
const SNAPSHOT_TAG: u8 = 3;
/// Below both lanes.
const SNAPSHOT_PRIORITY: i32 = -1;
/// With which a stream is given up; the connection goes on.
const BROKEN: VarInt = VarInt::from_u32(5);

/// Before each frame: its length, or one of the following.
const HEADER_BYTES: usize = 4;
/// This direction ends in good order.
const END: u32 = 0;
/// A flag: the other bits count bytes of frames that were taken off the other direction.
const TAKEN: u32 = 1 << 31;

/// Bytes on the way from which the next frame waits: on loopback, about a millisecond of the receiver's work.
const MIN_WINDOW_BYTES: usize = 512 << 10;
/// The same on a long way, where that would be too slow.
const MAX_WINDOW_BYTES: usize = 2 << 20;
/// What a snapshot may be sent at over a long way: 500 Mbit/s.
const BYTES_PER_SECOND: f64 = 64e6;
/// How many bytes are taken before the other end is told.
const TELL_BYTES: usize = 64 << 10;
/// What may be on the way at most: a full window, and the frame that went beyond it.
pub(crate) const MAX_ON_THE_WAY_BYTES: usize = MAX_WINDOW_BYTES + MAX_SNAPSHOT_FRAME_BYTES;

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
    stream.incoming.begun = true;
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
    inbound::begin(&mut stream.receive, &mut tag).await?;
    if tag[0] != SNAPSHOT_TAG {
        return Err(Fault::Malformed(format!("a stream of unknown kind {}", tag[0])));
    }
    // Fails only where the stream is closed, which the first write finds out.
    let _ = stream.send.set_priority(SNAPSHOT_PRIORITY);
    Ok(stream)
}

/// One end.
pub(crate) struct QuicSnapshotStream {
    connection: Connection,
    send: SendStream,
    receive: RecvStream,
    counters: Arc<Counters>,
    outgoing: Outgoing,
    incoming: Incoming,
}

/// Our direction.
struct Outgoing {
    /// From so many bytes on the way on, the next frame waits.
    window: usize,
    /// Bytes sent that the peer has not taken.
    on_the_way: usize,
    /// Bytes that we took, and have not told.
    taken: usize,
    /// What tells it, as far as it is not written.
    telling: BytesMut,
    /// A frame was left half-sent: what follows could not be told from its rest.
    torn: bool,
    finished: bool,
}

/// The peer's direction.
struct Incoming {
    /// The frame that is arriving: its header, then its bytes.
    buffer: BytesMut,
    /// How many of its bytes count as taken already.
    counted: usize,
    /// Frames that came while we waited to send: what the peer took of ours is told behind them. They are bounded by the peer's
    /// window, because they are not taken yet; with how many of their bytes count so all the same.
    early: VecDeque<(Bytes, usize)>,
    early_bytes: usize,
    /// We opened the stream, or the peer has sent a frame: from then on it may take its time between two frames.
    begun: bool,
    ended: bool,
}

/// What the peer sent.
enum Arrival {
    /// A frame, and how many of its bytes count as taken.
    Frame(Bytes, usize),
    /// It took something.
    Taken,
    End,
}

impl Incoming {
    /// The next header, once it is there.
    fn header(&self) -> Option<u32> {
        self.buffer.first_chunk::<HEADER_BYTES>().map(|header| u32::from_le_bytes(*header))
    }

    /// How many bytes are missing to the end of the frame, or of its header where that is not there yet.
    fn missing(&self) -> Result<usize, Fault> {
        match self.header() {
            None => Ok(HEADER_BYTES - self.buffer.len()),
            Some(header) if header & TAKEN != 0 => Ok(0),
            Some(_) if self.ended => Err(malformed("a snapshot's frame after the end")),
            Some(END) => Ok(0),
            Some(length) if length as usize > MAX_SNAPSHOT_FRAME_BYTES => {
                Err(malformed(format!("a snapshot's frame of {length} bytes")))
            }
            Some(length) if length as usize + self.early_bytes > MAX_ON_THE_WAY_BYTES => {
                Err(malformed("more of a snapshot than its window holds"))
            }
            Some(length) => Ok(HEADER_BYTES + length as usize - self.buffer.len()),
        }
    }
}

impl QuicSnapshotStream {
    fn new(connection: Connection, send: SendStream, receive: RecvStream, counters: Arc<Counters>) -> Self {
        let needed = (connection.rtt().as_secs_f64() * BYTES_PER_SECOND) as usize;
        let window = needed.clamp(MIN_WINDOW_BYTES, MAX_WINDOW_BYTES);
        let outgoing = Outgoing {
            window,
            on_the_way: 0,
            taken: 0,
            telling: BytesMut::new(),
            torn: false,
            finished: false,
        };
        let incoming = Incoming {
            buffer: BytesMut::new(),
            counted: 0,
            early: VecDeque::new(),
            early_bytes: 0,
            begun: false,
            ended: false,
        };
        Self { connection, send, receive, counters, outgoing, incoming }
    }

    /// What the peer sends next; what is read of a frame counts as taken at once where it is `wanted` now. Whatever was read
    /// stays with us, so the future may be dropped at any time.
    async fn arrival(&mut self, wanted: bool) -> Result<Arrival, Fault> {
        loop {
            let missing = self.incoming.missing()?;
            if missing == 0 {
                return self.take_arrival();
            }
            self.incoming.buffer.reserve(missing);
            let idle = self.incoming.begun && self.incoming.buffer.is_empty();
            let read = poll_fn(|cx| self.poll_read(cx, missing));
            let read = if idle {
                read.await
            } else {
                timeout(STALL_TIMEOUT, read)
                    .await
                    .map_err(|_| malformed("a snapshot's frame that does not go on"))?
            };
            match read? {
                0 if self.incoming.buffer.is_empty() => {
                    return Err(Fault::Lost(LEFT.to_owned()));
                }
                0 => return Err(malformed("a snapshot's stream ended within a frame")),
                _ if wanted => {
                    let arrived = self.incoming.buffer.len().saturating_sub(HEADER_BYTES);
                    let new = arrived - self.incoming.counted;
                    self.incoming.counted = arrived;
                    self.take(new);
                }
                _ => {}
            }
        }
    }

    fn take_arrival(&mut self) -> Result<Arrival, Fault> {
        let Self { incoming, outgoing, counters, .. } = self;
        let header = incoming.header().unwrap_or(END);
        if header & TAKEN != 0 {
            let bytes = (header & !TAKEN) as usize;
            incoming.buffer.clear();
            if bytes == 0 || bytes > outgoing.on_the_way {
                return Err(malformed("more of a snapshot was taken than sent"));
            }
            outgoing.on_the_way -= bytes;
            return Ok(Arrival::Taken);
        }
        let mut frame = incoming.buffer.split();
        frame.advance(HEADER_BYTES);
        incoming.begun = true;
        if header == END {
            incoming.ended = true;
            return Ok(Arrival::End);
        }
        counters.snapshot_received_bytes.add(frame.len());
        Ok(Arrival::Frame(frame.freeze(), std::mem::take(&mut incoming.counted)))
    }

    /// Reads at most `missing` bytes; 0 at the stream's end. Sends on the way what tells the peer what was taken.
    fn poll_read(&mut self, cx: &mut Context<'_>, missing: usize) -> Poll<Result<usize, Fault>> {
        self.poll_tell(cx);
        let mut room = (&mut self.incoming.buffer).limit(missing);
        pin!(self.receive.read_buf(&mut room)).poll(cx).map_err(|error| match error.downcast::<ReadError>() {
            Ok(error) => error.into(),
            Err(error) => Fault::Lost(error.to_string()),
        })
    }

    fn poll_tell(&mut self, cx: &mut Context<'_>) {
        while !self.outgoing.telling.is_empty() {
            match Pin::new(&mut self.send).poll_write(cx, &self.outgoing.telling) {
                Poll::Ready(Ok(count)) => self.outgoing.telling.advance(count),
                // The peer does not want to know any more; whether the stream lives, reading finds out.
                Poll::Ready(Err(_)) => self.outgoing.telling.clear(),
                Poll::Pending => break,
            }
        }
    }

    /// Counts what our user took, and tells the peer when it is worth it; not in the middle of a frame of ours.
    fn take(&mut self, bytes: usize) {
        let Outgoing { taken, telling, torn, .. } = &mut self.outgoing;
        *taken += bytes;
        if *taken >= TELL_BYTES && !*torn {
            telling.put_u32_le(TAKEN | *taken as u32);
            *taken = 0;
            // What does not fit at once goes before the next read or frame.
            self.poll_tell(&mut Context::from_waker(Waker::noop()));
        }
    }

    /// Waits for something that changes what may be sent.
    async fn wait(&mut self) -> Result<(), Fault> {
        match self.arrival(false).await? {
            Arrival::Frame(frame, counted) => {
                self.incoming.early_bytes += frame.len();
                self.incoming.early.push_back((frame, counted));
            }
            Arrival::Taken | Arrival::End => {}
        }
        Ok(())
    }

    /// Sends a header, behind what is to be told, and the frame that it is of.
    async fn write(&mut self, header: u32, frame: Option<Bytes>) -> Result<(), WriteError> {
        let length = frame.as_ref().map_or(0, Bytes::len);
        self.outgoing.torn = true;
        self.outgoing.telling.put_u32_le(header);
        self.send.write_chunk(self.outgoing.telling.split().freeze()).await?;
        if let Some(frame) = frame {
            self.send.write_chunk(frame).await?;
        }
        self.outgoing.torn = false;
        self.outgoing.on_the_way += length;
        self.counters.snapshot_sent_bytes.add(length);
        Ok(())
    }

    /// Closes the connection over what is not in order.
    fn broken(&self, fault: &Fault) -> TransportError {
        let peer = self.connection.remote_address();
        if let Fault::Malformed(_) = fault {
            self.counters.malformed.add(1);
            tracing::warn!(from = %peer, reason = %fault, "connection closed");
            self.connection.close(fault.code(), &[]);
        }
        TransportError::new(format!("the snapshot's stream with {peer} is broken: {fault}; open another"))
    }

    fn check_open(&self) -> Result<(), TransportError> {
        if self.outgoing.torn || self.outgoing.finished {
            let why = "it was finished, or a frame was left half-sent".to_owned();
            return Err(self.broken(&Fault::Lost(why)));
        }
        Ok(())
    }
}

fn malformed(what: impl Into<String>) -> Fault {
    Fault::Malformed(what.into())
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
        self.check_open()?;
        while self.outgoing.on_the_way >= self.outgoing.window {
            self.wait().await.map_err(|fault| self.broken(&fault))?;
        }
        self.write(length as u32, Some(frame)).await.map_err(|error| self.broken(&error.into()))
    }

    async fn receive(&mut self) -> Result<Option<Bytes>, TransportError> {
        if let Some((frame, counted)) = self.incoming.early.pop_front() {
            self.incoming.early_bytes -= frame.len();
            self.take(frame.len() - counted);
            return Ok(Some(frame));
        }
        while !self.incoming.ended {
            match self.arrival(true).await {
                Ok(Arrival::Frame(frame, counted)) => {
                    self.take(frame.len() - counted);
                    return Ok(Some(frame));
                }
                Ok(Arrival::Taken) => {}
                Ok(Arrival::End) => break,
                Err(fault) => return Err(self.broken(&fault)),
            }
        }
        Ok(None)
    }

    async fn finish(&mut self) -> Result<(), TransportError> {
        self.check_open()?;
        let written = self.write(END, None).await;
        self.outgoing.finished = true;
        match written {
            // Who has left has all that it wanted.
            Ok(()) | Err(WriteError::Stopped(_)) => Ok(()),
            Err(error) => Err(self.broken(&error.into())),
        }
    }
}

impl Drop for QuicSnapshotStream {
    fn drop(&mut self) {
        // By itself quinn would end our direction as if in good order. They fail only where the stream has ended.
        if !self.outgoing.finished {
            let _ = self.send.reset(BROKEN);
        }
        let _ = self.receive.stop(BROKEN);
    }
}
