//! A frame of envelopes, little-endian:
//!
//! | bytes | field |
//! | --- | --- |
//! | 4 | length of the body |
//! | 4 | CRC-32C of the body |
//! | length | body: envelopes one after another |
//!
//! An envelope:
//!
//! | bytes | field |
//! | --- | --- |
//! | 8 | group |
//! | 8, 8 | sender: node, incarnation |
//! | 8, 8 | receiver: node, incarnation |
//! | 8 | sender's lineage; from version 2 on |
//! | 1 | kind of message |
//! | | the message's fields in the order of its struct; a flag is one byte, 0 or 1 |
//!
//! Entries are a count of 4 bytes and then each as in [`entry`]. The version is agreed in the transport's hello:
//!
//! | version | carries |
//! | --- | --- |
//! | 1 | kinds 1 to 6; configurations of format 1 |
//! | 2 | the sender's lineage; configurations up to format 2 (see [`versioned`](super::versioned)); the last field of kind 6; kind 7; priorities |
//! | 3 | configurations up to format 3; kind 8; the level at the end of kind 4 (1 without it); entries of level 2 |
//! | 4 | configurations up to format 4; kinds 9 and 10 |

use std::ops::RangeInclusive;

use bytes::{Buf, BufMut, Bytes};

use super::versioned::Versioned as _;
use super::{CodecError, entry};
use crate::config::MAX_APPEND_BYTES_LIMIT;
use crate::message::{
    AppendOutcome, AppendRequest, AppendResponse, Dismissal, Envelope, Message, ReadRequest, ReadResponse,
    ReadTicket, TimeoutNow, VoteRequest, VoteResponse,
};
use crate::types::{Entry, EntryId, GroupId, Incarnation, Lineage, NodeId, Payload, Peer};

/// The versions that this one can speak: what [`encode_frame`] and [`decode_frame`] take.
pub const VERSIONS: RangeInclusive<u16> = 1..=4;

/// The first version with the sender's lineage.
const WITH_LINEAGE: u16 = 2;

/// The first version with transfers of leadership and priorities.
const WITH_TRANSFER: u16 = 2;

/// The first version with changes of the membership, with levels, and with payloads above the first level.
const WITH_CHANGES: u16 = 3;
const WITH_LEVEL: u16 = 3;

/// The first version with reads on followers.
const WITH_READS: u16 = 4;

/// The bytes before a frame's body.
pub const FRAME_HEADER_BYTES: usize = 8;

/// The largest body of a frame: the largest entry with room for what is around it.
pub const MAX_FRAME_BYTES: usize = 65 << 20;

/// The most messages in a frame: many times what a sender packs. A decoded one takes more memory than its bytes.
pub const MAX_FRAME_MESSAGES: usize = 1 << 16;

/// The most entries in a frame: those of the largest append ([`Config::max_append_bytes`](crate::Config::max_append_bytes))
/// and of what was packed before it.
pub const MAX_FRAME_ENTRIES: usize = (MAX_APPEND_BYTES_LIMIT + (1 << 20)) / Entry::OVERHEAD_BYTES;

const VOTE_REQUEST: u8 = 1;
const VOTE_RESPONSE: u8 = 2;
const APPEND_REQUEST: u8 = 3;
const APPEND_RESPONSE: u8 = 4;
const IDENTITY_REQUEST: u8 = 5;
const IDENTITY_RESPONSE: u8 = 6;
const TIMEOUT_NOW: u8 = 7;
const DISMISSED: u8 = 8;
const READ_REQUEST: u8 = 9;
const READ_RESPONSE: u8 = 10;

const REMOVED: u8 = 0;
const SUSPENDED: u8 = 1;

const ACCEPTED: u8 = 0;
const CONFLICT: u8 = 1;
const STALE: u8 = 2;

/// Appends a frame of `envelopes` in a `version` to `out`.
///
/// # Errors
/// [`CodecError::TooLarge`] beyond [`MAX_FRAME_BYTES`], [`MAX_FRAME_MESSAGES`] or [`MAX_FRAME_ENTRIES`];
/// [`CodecError::Unsupported`] where the version cannot carry one of them: it is to be dropped, as if lost. `out` is as before
/// then.
pub fn encode_frame<'a>(
    version: u16,
    envelopes: impl IntoIterator<Item = &'a Envelope>,
    out: &mut Vec<u8>,
) -> Result<(), CodecError> {
    if !VERSIONS.contains(&version) {
        return Err(CodecError::Unsupported);
    }
    let start = out.len();
    out.put_u64_le(0);
    let mut room = Room::WHOLE;
    for envelope in envelopes {
        let mut encoded = room.take(envelope).and_then(|()| encode_envelope(version, envelope, out));
        if out.len() - start - FRAME_HEADER_BYTES > MAX_FRAME_BYTES {
            encoded = Err(CodecError::TooLarge);
        }
        if let Err(error) = encoded {
            out.truncate(start);
            return Err(error);
        }
    }
    let body = start + FRAME_HEADER_BYTES;
    let length = u32::try_from(out.len() - body).map_err(|_| CodecError::TooLarge)?;
    let checksum = crc32c::crc32c(&out[body..]);
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 4..body].copy_from_slice(&checksum.to_le_bytes());
    Ok(())
}

/// Reads the length of a frame's body from its header, before anything is allocated for it.
///
/// # Errors
/// [`CodecError::TooLarge`] beyond [`MAX_FRAME_BYTES`].
pub fn body_bytes(header: [u8; FRAME_HEADER_BYTES]) -> Result<usize, CodecError> {
    let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
    if length > MAX_FRAME_BYTES { Err(CodecError::TooLarge) } else { Ok(length) }
}

/// Decodes a frame of a `version`: its `header`, and its `body` of [`body_bytes`] bytes. Commands are slices of `body`, not copies.
///
/// # Errors
/// Where the bytes are no frame of this version.
pub fn decode_frame(
    version: u16,
    header: [u8; FRAME_HEADER_BYTES],
    body: Bytes,
) -> Result<Vec<Envelope>, CodecError> {
    if !VERSIONS.contains(&version) {
        return Err(CodecError::Unsupported);
    }
    if body_bytes(header)? != body.len() {
        return Err(CodecError::Truncated);
    }
    if crc32c::crc32c(&body) != u32::from_le_bytes([header[4], header[5], header[6], header[7]]) {
        return Err(CodecError::Checksum);
    }
    let mut body = body;
    let mut envelopes = Vec::new();
    let mut room = Room::WHOLE;
    while !body.is_empty() {
        room.take_message()?;
        envelopes.push(decode_envelope(version, &mut body, &mut room)?);
    }
    Ok(envelopes)
}

/// What more a frame may hold.
struct Room {
    messages: usize,
    entries: usize,
}

impl Room {
    const WHOLE: Self = Self { messages: MAX_FRAME_MESSAGES, entries: MAX_FRAME_ENTRIES };

    fn take_message(&mut self) -> Result<(), CodecError> {
        self.messages = self.messages.checked_sub(1).ok_or(CodecError::TooLarge)?;
        Ok(())
    }

    fn take_entries(&mut self, count: usize) -> Result<(), CodecError> {
        self.entries = self.entries.checked_sub(count).ok_or(CodecError::TooLarge)?;
        Ok(())
    }

    fn take(&mut self, envelope: &Envelope) -> Result<(), CodecError> {
        self.take_message()?;
        match &envelope.message {
            Message::AppendRequest(append) => self.take_entries(append.entries.len()),
            _ => Ok(()),
        }
    }
}

fn encode_envelope(version: u16, envelope: &Envelope, out: &mut Vec<u8>) -> Result<(), CodecError> {
    out.put_u64_le(envelope.group.0);
    for peer in [envelope.from, envelope.to] {
        out.put_u64_le(peer.node.0);
        out.put_u64_le(peer.incarnation.0);
    }
    if version >= WITH_LINEAGE {
        out.put_u64_le(envelope.lineage.0);
    }
    match &envelope.message {
        Message::VoteRequest(m) => {
            out.put_u8(VOTE_REQUEST);
            out.put_u64_le(m.term);
            put_id(m.last, out);
            out.put_u8(u8::from(m.pre_vote));
            out.put_u8(u8::from(m.transfer));
        }
        Message::VoteResponse(m) => {
            out.put_u8(VOTE_RESPONSE);
            out.put_u64_le(m.term);
            out.put_u8(u8::from(m.granted));
            out.put_u8(u8::from(m.pre_vote));
        }
        Message::AppendRequest(m) => {
            out.put_u8(APPEND_REQUEST);
            out.put_u64_le(m.term);
            put_id(m.prev, out);
            out.put_u64_le(m.commit);
            out.put_u64_le(m.round);
            out.put_u32_le(u32::try_from(m.entries.len()).map_err(|_| CodecError::TooLarge)?);
            for e in &m.entries {
                if is_later(version, &e.payload) {
                    return Err(CodecError::Unsupported);
                }
                entry::encode(e, out)?;
            }
        }
        Message::AppendResponse(m) => {
            out.put_u8(APPEND_RESPONSE);
            out.put_u64_le(m.term);
            out.put_u64_le(m.round);
            match m.outcome {
                AppendOutcome::Accepted { matched, received } => {
                    out.put_u8(ACCEPTED);
                    out.put_u64_le(matched);
                    out.put_u64_le(received);
                }
                AppendOutcome::Conflict { prev, hint, last } => {
                    out.put_u8(CONFLICT);
                    out.put_u64_le(prev);
                    put_id(hint, out);
                    out.put_u64_le(last);
                }
                AppendOutcome::Stale => out.put_u8(STALE),
            }
            if version >= WITH_TRANSFER {
                out.put_u8(m.priority);
            }
            if version >= WITH_LEVEL {
                out.put_u8(m.level);
            }
        }
        Message::IdentityRequest => out.put_u8(IDENTITY_REQUEST),
        Message::IdentityResponse { founded, last } => {
            out.put_u8(IDENTITY_RESPONSE);
            out.put_u8(u8::from(*founded));
            if version >= WITH_LINEAGE {
                put_id(*last, out);
            } else if !founded && *last != EntryId::ZERO {
                // Told without it, the other node would found a cluster that drops a restored state.
                return Err(CodecError::Unsupported);
            }
        }
        Message::TimeoutNow(m) => {
            if version < WITH_TRANSFER {
                return Err(CodecError::Unsupported);
            }
            out.put_u8(TIMEOUT_NOW);
            out.put_u64_le(m.term);
            out.put_u64_le(m.round);
        }
        Message::Dismissed { membership, dismissal } => {
            if version < WITH_CHANGES {
                return Err(CodecError::Unsupported);
            }
            out.put_u8(DISMISSED);
            out.put_u64_le(*membership);
            out.put_u8(match dismissal {
                Dismissal::Removed => REMOVED,
                Dismissal::Suspended => SUSPENDED,
            });
        }
        Message::ReadRequest(_) | Message::ReadResponse(_) if version < WITH_READS => {
            return Err(CodecError::Unsupported);
        }
        Message::ReadRequest(m) => {
            out.put_u8(READ_REQUEST);
            out.put_u64_le(m.term);
            out.put_u64_le(m.ticket.boot);
            out.put_u64_le(m.ticket.number);
            out.put_u8(u8::from(m.lease));
        }
        Message::ReadResponse(m) => {
            out.put_u8(READ_RESPONSE);
            out.put_u64_le(m.term);
            out.put_u64_le(m.ticket.boot);
            out.put_u64_le(m.ticket.number);
            out.put_u64_le(m.index);
        }
    }
    Ok(())
}

/// Whether the version refuses the payload: its configurations are those of formats up to its own number.
fn is_later(version: u16, payload: &Payload) -> bool {
    match payload {
        Payload::Membership(membership) => membership.format() > version,
        _ => payload.level() > 1 && version < WITH_LEVEL,
    }
}

fn decode_envelope(version: u16, bytes: &mut Bytes, room: &mut Room) -> Result<Envelope, CodecError> {
    let group = GroupId(take_u64(bytes)?);
    let from = take_peer(bytes)?;
    let to = take_peer(bytes)?;
    let lineage = if version >= WITH_LINEAGE { Lineage(take_u64(bytes)?) } else { Lineage::UNKNOWN };
    let message = match take_u8(bytes)? {
        VOTE_REQUEST => Message::VoteRequest(VoteRequest {
            term: take_u64(bytes)?,
            last: take_id(bytes)?,
            pre_vote: take_flag(bytes)?,
            transfer: take_flag(bytes)?,
        }),
        VOTE_RESPONSE => Message::VoteResponse(VoteResponse {
            term: take_u64(bytes)?,
            granted: take_flag(bytes)?,
            pre_vote: take_flag(bytes)?,
        }),
        APPEND_REQUEST => {
            let term = take_u64(bytes)?;
            let prev = take_id(bytes)?;
            let commit = take_u64(bytes)?;
            let round = take_u64(bytes)?;
            let count = bytes.try_get_u32_le().map_err(|_| CodecError::Truncated)? as usize;
            // Each entry takes at least its header, so the count allocates no more than what was received asks for.
            if count > bytes.len() / entry::HEADER_BYTES {
                return Err(CodecError::Truncated);
            }
            room.take_entries(count)?;
            let mut entries = Vec::with_capacity(count);
            for _ in 0..count {
                let entry = entry::decode(bytes)?;
                if is_later(version, &entry.payload) {
                    return Err(CodecError::Unsupported);
                }
                entries.push(entry);
            }
            Message::AppendRequest(AppendRequest { term, prev, entries, commit, round })
        }
        APPEND_RESPONSE => {
            let term = take_u64(bytes)?;
            let round = take_u64(bytes)?;
            let outcome = match take_u8(bytes)? {
                ACCEPTED => AppendOutcome::Accepted { matched: take_u64(bytes)?, received: take_u64(bytes)? },
                CONFLICT => AppendOutcome::Conflict {
                    prev: take_u64(bytes)?,
                    hint: take_id(bytes)?,
                    last: take_u64(bytes)?,
                },
                STALE => AppendOutcome::Stale,
                other => return Err(CodecError::UnknownKind(other)),
            };
            let priority = if version >= WITH_TRANSFER { take_u8(bytes)? } else { 0 };
            let level = if version >= WITH_LEVEL { take_u8(bytes)? } else { 1 };
            Message::AppendResponse(AppendResponse { term, round, outcome, priority, level })
        }
        IDENTITY_REQUEST => Message::IdentityRequest,
        IDENTITY_RESPONSE => Message::IdentityResponse {
            founded: take_flag(bytes)?,
            last: if version >= WITH_LINEAGE { take_id(bytes)? } else { EntryId::ZERO },
        },
        TIMEOUT_NOW if version >= WITH_TRANSFER => {
            Message::TimeoutNow(TimeoutNow { term: take_u64(bytes)?, round: take_u64(bytes)? })
        }
        DISMISSED if version >= WITH_CHANGES => Message::Dismissed {
            membership: take_u64(bytes)?,
            dismissal: match take_u8(bytes)? {
                REMOVED => Dismissal::Removed,
                SUSPENDED => Dismissal::Suspended,
                other => return Err(CodecError::UnknownKind(other)),
            },
        },
        READ_REQUEST if version >= WITH_READS => Message::ReadRequest(ReadRequest {
            term: take_u64(bytes)?,
            ticket: take_ticket(bytes)?,
            lease: take_flag(bytes)?,
        }),
        READ_RESPONSE if version >= WITH_READS => Message::ReadResponse(ReadResponse {
            term: take_u64(bytes)?,
            ticket: take_ticket(bytes)?,
            index: take_u64(bytes)?,
        }),
        other => return Err(CodecError::UnknownKind(other)),
    };
    Ok(Envelope { group, from, to, lineage, message })
}

fn put_id(id: EntryId, out: &mut Vec<u8>) {
    out.put_u64_le(id.term);
    out.put_u64_le(id.index);
}

fn take_u8(bytes: &mut Bytes) -> Result<u8, CodecError> {
    bytes.try_get_u8().map_err(|_| CodecError::Truncated)
}

fn take_u64(bytes: &mut Bytes) -> Result<u64, CodecError> {
    bytes.try_get_u64_le().map_err(|_| CodecError::Truncated)
}

fn take_flag(bytes: &mut Bytes) -> Result<bool, CodecError> {
    match take_u8(bytes)? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(CodecError::UnknownKind(other)),
    }
}

fn take_id(bytes: &mut Bytes) -> Result<EntryId, CodecError> {
    Ok(EntryId::new(take_u64(bytes)?, take_u64(bytes)?))
}

fn take_ticket(bytes: &mut Bytes) -> Result<ReadTicket, CodecError> {
    Ok(ReadTicket { boot: take_u64(bytes)?, number: take_u64(bytes)? })
}

fn take_peer(bytes: &mut Bytes) -> Result<Peer, CodecError> {
    Ok(Peer { node: NodeId(take_u64(bytes)?), incarnation: Incarnation(take_u64(bytes)?) })
}
