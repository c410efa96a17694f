//! A stream for a snapshot: each frame after its length; a length of 0 is the end.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Buf, Bytes, BytesMut};
use raft_core::transport::{MAX_SNAPSHOT_FRAME_BYTES, SnapshotStream, TransportError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Connection;

/// One end of such a stream, on a connection of its own.
pub(super) struct FrameStream {
    /// `None` once dropped.
    connection: Option<Connection>,
    buffer: BytesMut,
    /// A frame was left half-sent.
    torn: bool,
    finished: bool,
    ended: bool,
}

impl FrameStream {
    pub(super) fn new(connection: Connection) -> Self {
        let buffer = BytesMut::new();
        Self { connection: Some(connection), buffer, torn: false, finished: false, ended: false }
    }

    async fn write(&mut self, frame: &[u8]) -> io::Result<()> {
        if self.finished || std::mem::replace(&mut self.torn, true) {
            return Err(io::Error::other("it was finished, or a frame was left half-sent"));
        }
        let connection = self.connection.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        connection.stream.write_u32_le(frame.len() as u32).await?;
        connection.stream.write_all(frame).await?;
        connection.stream.flush().await?;
        self.torn = false;
        Ok(())
    }

    /// Whatever was read stays in the buffer, so it may be dropped at any time.
    async fn read(&mut self) -> io::Result<Option<Bytes>> {
        let connection = self.connection.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        loop {
            if let Some(header) = self.buffer.first_chunk() {
                let length = u32::from_le_bytes(*header) as usize;
                if length > MAX_SNAPSHOT_FRAME_BYTES {
                    return Err(io::Error::other("a frame above its limit"));
                }
                if self.buffer.len() >= 4 + length {
                    self.buffer.advance(4);
                    let frame = self.buffer.split_to(length).freeze();
                    return Ok(Some(frame).filter(|frame| !frame.is_empty()));
                }
            }
            if connection.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

fn broken(error: io::Error) -> TransportError {
    TransportError::new(format!("the snapshot's stream is broken: {error}; open another"))
}

#[async_trait]
impl SnapshotStream for FrameStream {
    async fn send(&mut self, frame: Bytes) -> Result<(), TransportError> {
        if frame.is_empty() || frame.len() > MAX_SNAPSHOT_FRAME_BYTES {
            return Err(TransportError::new(format!("a frame of {} bytes cannot be sent", frame.len())));
        }
        self.write(&frame).await.map_err(broken)
    }

    async fn receive(&mut self) -> Result<Option<Bytes>, TransportError> {
        if self.ended {
            return Ok(None);
        }
        let frame = self.read().await.map_err(broken)?;
        self.ended = frame.is_none();
        Ok(frame)
    }

    async fn finish(&mut self) -> Result<(), TransportError> {
        self.write(&[]).await.map_err(broken)?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for FrameStream {
    fn drop(&mut self) {
        // TCP throws away what it has sent if it is closed before it has read: so read on to the peer's end.
        if let Some(mut connection) = self.connection.take()
            && self.finished
            && !self.ended
        {
            let running = Arc::clone(&connection.running);
            running.spawn(async move {
                let _ = tokio::io::copy(&mut connection.stream, &mut tokio::io::sink()).await;
            });
        }
    }
}
