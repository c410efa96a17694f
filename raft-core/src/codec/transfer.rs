//! The frames of a snapshot's transfer, little-endian. The sender offers a snapshot; the receiver answers how much of it is
//! there; the sender goes on from there in chunks and finishes the stream; the receiver answers that it is done. The receiver
//! may refuse at any time.
//!
//! | bytes | field |
//! | --- | --- |
//! | 1 | kind: 1 offer, 2 answer, 3 chunk |
//!
//! An offer and an answer:
//!
//! | bytes | field |
//! | --- | --- |
//! | 2 | version, 1 |
//! | rest | [`Offer`] or [`Answer`] as in [`cold`], the meta data in it as in [`versioned`](super::versioned) |
//!
//! A chunk:
//!
//! | bytes | field |
//! | --- | --- |
//! | 8 | where in the file its bytes begin |
//! | 4 | CRC-32C of its bytes |
//! | rest | its bytes, one at least |

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{CodecError, cold};
use crate::types::{ClusterId, GroupId, Peer, SnapshotMeta, Term};

const VERSION: u16 = 1;

const OFFER: u8 = 1;
const ANSWER: u8 = 2;
const CHUNK: u8 = 3;

/// The bytes of a chunk's frame before its own.
pub const CHUNK_HEADER_BYTES: usize = 13;

/// The longest reason of a refusal, in bytes; what goes beyond is cut off.
const MAX_REASON_BYTES: usize = 1024;

/// What a sender has to give.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The cluster of the sender.
    pub cluster: ClusterId,
    /// The group.
    pub group: GroupId,
    /// The term that the sender leads.
    pub term: Term,
    /// The sender.
    pub from: Peer,
    /// The receiver.
    pub to: Peer,
    /// The snapshot.
    pub meta: SnapshotMeta,
}

/// What a receiver says to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Go on from here.
    Resume {
        /// So many bytes of the file are there.
        offset: u64,
        /// Their CRC-32C. Where the sender's are others, it begins anew at 0.
        checksum: u32,
    },
    /// The whole snapshot is there, durable, and handed over.
    Done,
    /// It is not taken.
    Refused {
        /// Why, for the sender's log.
        reason: String,
    },
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The sender's first.
    Offer(Box<Offer>),
    /// The receiver's.
    Answer(Answer),
    /// A piece of the file.
    Chunk {
        /// Where its bytes begin.
        offset: u64,
        /// Its bytes.
        bytes: Bytes,
    },
}

/// Encodes an offer.
///
/// # Errors
/// See [`cold::encode`].
pub fn encode_offer(offer: &Offer) -> Result<Bytes, CodecError> {
    encode(OFFER, offer)
}

/// Encodes an answer.
///
/// # Errors
/// See [`cold::encode`].
pub fn encode_answer(answer: &Answer) -> Result<Bytes, CodecError> {
    match answer {
        Answer::Refused { reason } if reason.len() > MAX_REASON_BYTES => {
            let reason = reason[..reason.floor_char_boundary(MAX_REASON_BYTES)].to_owned();
            encode(ANSWER, &Answer::Refused { reason })
        }
        _ => encode(ANSWER, answer),
    }
}

fn encode(kind: u8, value: &impl Serialize) -> Result<Bytes, CodecError> {
    let mut frame = vec![kind];
    frame.put_u16_le(VERSION);
    frame.extend(cold::encode(value)?);
    Ok(frame.into())
}

/// Completes a chunk's frame: `frame` holds [`CHUNK_HEADER_BYTES`] of anything and then the chunk's bytes.
pub fn seal_chunk(mut frame: BytesMut, offset: u64) -> Bytes {
    if let Some((mut header, bytes)) = frame.split_at_mut_checked(CHUNK_HEADER_BYTES) {
        let checksum = crc32c::crc32c(bytes);
        header.put_u8(CHUNK);
        header.put_u64_le(offset);
        header.put_u32_le(checksum);
    }
    frame.freeze()
}

/// Decodes a frame. A chunk's bytes are not copied.
///
/// # Errors
/// Where it is none, is of a version that is not known, or its checksum is another.
pub fn decode(mut frame: Bytes) -> Result<Frame, CodecError> {
    if frame.is_empty() {
        return Err(CodecError::Truncated);
    }
    match frame.get_u8() {
        OFFER => decode_cold(&frame).map(|offer| Frame::Offer(Box::new(offer))),
        ANSWER => decode_cold(&frame).map(Frame::Answer),
        CHUNK => {
            // The rest of the header, and a byte.
            if frame.len() < CHUNK_HEADER_BYTES {
                return Err(CodecError::Truncated);
            }
            let (offset, checksum) = (frame.get_u64_le(), frame.get_u32_le());
            if crc32c::crc32c(&frame) != checksum {
                return Err(CodecError::Checksum);
            }
            Ok(Frame::Chunk { offset, bytes: frame })
        }
        kind => Err(CodecError::UnknownKind(kind)),
    }
}

fn decode_cold<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let (version, rest) = bytes.split_first_chunk().ok_or(CodecError::Truncated)?;
    match u16::from_le_bytes(*version) {
        VERSION => cold::decode(rest),
        other => Err(CodecError::UnknownKind(u8::try_from(other).unwrap_or(u8::MAX))),
    }
}
