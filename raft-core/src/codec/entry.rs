//! An entry's bytes, the same on wire and disk, little-endian:
//!
//! | bytes | field |
//! | --- | --- |
//! | 4 | CRC-32C of everything after it |
//! | 4 | length of the payload |
//! | 8 | term |
//! | 8 | index |
//! | 1 | kind: 0 no-op, 1 command, 2 membership in format 1, 3 membership in a later format, 4 session |
//! | length | payload: nothing, the command, the membership as [`versioned`] encodes it, or as in [`session`] |
//!
//! The checksum binds term and index, so an entry's bytes are never taken for another entry's.

use bytes::{Buf, BufMut, Bytes};

use super::versioned::{self, Versioned as _};
use super::{CodecError, session};
use crate::config::MAX_ENTRY_BYTES_LIMIT;
use crate::membership::Membership;
use crate::session::SessionEntry;
use crate::types::{Entry, EntryId, Payload};

/// The bytes before an entry's payload.
pub const HEADER_BYTES: usize = 25;

const NOOP: u8 = 0;
const COMMAND: u8 = 1;
const MEMBERSHIP: u8 = 2;
const LATER_MEMBERSHIP: u8 = 3;
const SESSION: u8 = 4;

/// Appends an entry's bytes to `out`.
///
/// # Errors
/// [`CodecError::TooLarge`] for a payload beyond the format's limit.
pub fn encode(entry: &Entry, out: &mut Vec<u8>) -> Result<(), CodecError> {
    let (membership, head);
    // The payload in two parts, so that a session's command is not copied to be put behind its head.
    let (kind, [head, payload]): (u8, [&[u8]; 2]) = match &entry.payload {
        Payload::Noop => (NOOP, [&[], &[]]),
        Payload::Command(command) => (COMMAND, [&[], command]),
        Payload::Membership(value) => {
            membership = versioned::encode(&**value)?;
            (kind_of(value), [&[], &membership])
        }
        Payload::Session(value) => {
            head = session::encode_head(value);
            (SESSION, [&head, session::command(value)])
        }
    };
    if payload.len() > MAX_ENTRY_BYTES_LIMIT {
        return Err(CodecError::TooLarge);
    }
    let length = u32::try_from(head.len() + payload.len()).map_err(|_| CodecError::TooLarge)?;
    let start = out.len();
    out.put_u32_le(0);
    out.put_u32_le(length);
    out.put_u64_le(entry.id.term);
    out.put_u64_le(entry.id.index);
    out.put_u8(kind);
    out.put_slice(head);
    out.put_slice(payload);
    let checksum = crc32c::crc32c(&out[start + 4..]);
    out[start..start + 4].copy_from_slice(&checksum.to_le_bytes());
    Ok(())
}

/// The versions before know only the first format, and refuse the other kind by its number.
fn kind_of(membership: &Membership) -> u8 {
    if membership.format() == 1 { MEMBERSHIP } else { LATER_MEMBERSHIP }
}

/// Takes one entry off the front of `bytes`; a command's bytes are a slice of them, not a copy.
///
/// # Errors
/// Where the bytes are no entry; `bytes` may have been advanced then.
pub fn decode(bytes: &mut Bytes) -> Result<Entry, CodecError> {
    if bytes.len() < HEADER_BYTES {
        return Err(CodecError::Truncated);
    }
    let length = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]) as usize;
    if length > MAX_ENTRY_BYTES_LIMIT + SessionEntry::OVERHEAD_BYTES {
        return Err(CodecError::TooLarge);
    }
    if bytes.len() - HEADER_BYTES < length {
        return Err(CodecError::Truncated);
    }
    let mut entry = bytes.split_to(HEADER_BYTES + length);
    let checksum = entry.get_u32_le();
    if crc32c::crc32c(&entry) != checksum {
        return Err(CodecError::Checksum);
    }
    let _length = entry.get_u32_le();
    let term = entry.get_u64_le();
    let index = entry.get_u64_le();
    let kind = entry.get_u8();
    let payload = match kind {
        NOOP if entry.is_empty() => Payload::Noop,
        NOOP => return Err(CodecError::Trailing),
        // What lies above the limit is room for a session's head only.
        COMMAND if length > MAX_ENTRY_BYTES_LIMIT => return Err(CodecError::TooLarge),
        COMMAND => Payload::Command(entry),
        SESSION => Payload::Session(Box::new(session::decode(entry)?)),
        MEMBERSHIP | LATER_MEMBERSHIP => {
            let membership: Membership = versioned::decode(&entry)?;
            if kind != kind_of(&membership) {
                return Err(CodecError::Malformed);
            }
            Payload::Membership(Box::new(membership))
        }
        other => return Err(CodecError::UnknownKind(other)),
    };
    Ok(Entry { id: EntryId::new(term, index), payload })
}
