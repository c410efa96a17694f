//! Segments and frames as bytes, little-endian; `docs/storage.md` shows them.

use bytes::{Buf, BufMut, Bytes};
use raft_core::codec::{CodecError, cold, entry};
use raft_core::log_store::Write;
use raft_core::types::{GroupId, HardState, Index, Outline, SnapshotMeta};
use serde::{Deserialize, Serialize};

const MAGIC: &[u8; 8] = b"RAFTWAL1";
/// Magic, the segment's number, its salt, a checksum.
pub(super) const SEGMENT_HEADER_BYTES: usize = 8 + 8 + 8 + 4;
/// Checksum of the rest of the header, checksum of the body, the body's length, the frame's number, its kind.
pub(super) const FRAME_HEADER_BYTES: usize = 4 + 4 + 4 + 8 + 1;

/// What a frame holds: everything but entries, so that older segments may go; or writes.
pub(super) const CHECKPOINT: u8 = 0;
pub(super) const WRITES: u8 = 1;

pub(super) fn segment_name(number: u64) -> String {
    format!("{number:020}.wal")
}

/// The number in a segment's name.
pub(super) fn segment_number(name: &str) -> Option<u64> {
    name.strip_suffix(".wal").filter(|digits| digits.len() == 20)?.parse().ok()
}

/// A segment's checksums start from its salt, which no client knows: no command can hold what looks like a frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Salt(pub(super) u64);

impl Salt {
    fn checksum(self, bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&self.0.to_le_bytes()), bytes)
    }
}

pub(super) fn segment_header(number: u64, salt: Salt) -> Vec<u8> {
    let mut header = Vec::with_capacity(SEGMENT_HEADER_BYTES);
    header.put_slice(MAGIC);
    header.put_u64_le(number);
    header.put_u64_le(salt.0);
    header.put_u32_le(crc32c::crc32c(&header));
    header
}

/// The salt of the segment that `bytes` are.
pub(super) fn read_segment_header(bytes: &[u8], number: u64) -> Result<Salt, CodecError> {
    let header = bytes.get(..SEGMENT_HEADER_BYTES).ok_or(CodecError::Truncated)?;
    if !header.starts_with(MAGIC) {
        return Err(CodecError::UnknownKind(header[7]));
    }
    let salt = Salt((&header[16..]).get_u64_le());
    if header == segment_header(number, salt) { Ok(salt) } else { Err(CodecError::Checksum) }
}

/// Begins a frame in `frame`: the body follows, then [`finish_frame`].
pub(super) fn begin_frame(frame: &mut Vec<u8>) {
    frame.clear();
    frame.resize(FRAME_HEADER_BYTES, 0);
}

pub(super) fn finish_frame(frame: &mut [u8], salt: Salt, number: u64, kind: u8) -> Result<(), CodecError> {
    let (mut header, body) = frame.split_at_mut(FRAME_HEADER_BYTES);
    let length = u32::try_from(body.len()).map_err(|_| CodecError::TooLarge)?;
    let mut rest = &mut header[4..];
    rest.put_u32_le(salt.checksum(body));
    rest.put_u32_le(length);
    rest.put_u64_le(number);
    rest.put_u8(kind);
    let checksum = salt.checksum(&header[4..]);
    header.put_u32_le(checksum);
    Ok(())
}

/// A frame that is whole and sound.
pub(super) struct Frame {
    pub(super) number: u64,
    pub(super) kind: u8,
    pub(super) body: Bytes,
}

/// The frame at the start of `bytes`, if it is whole and sound and has the number expected.
pub(super) fn frame(mut bytes: Bytes, salt: Salt, expected: Option<u64>) -> Option<Frame> {
    if !begins_frame(&bytes, salt) {
        return None;
    }
    bytes.advance(4);
    let (checksum, length) = (bytes.get_u32_le(), bytes.get_u32_le() as usize);
    let (number, kind) = (bytes.get_u64_le(), bytes.get_u8());
    if expected.is_some_and(|expected| expected != number) || bytes.len() < length {
        return None;
    }
    let body = bytes.split_to(length);
    (salt.checksum(&body) == checksum).then_some(Frame { number, kind, body })
}

fn begins_frame(bytes: &[u8], salt: Salt) -> bool {
    bytes.get(4..FRAME_HEADER_BYTES).is_some_and(|rest| (&bytes[..4]).get_u32_le() == salt.checksum(rest))
}

/// Whether a frame later than `number` begins anywhere in `bytes`: it was begun when all before it were durable.
pub(super) fn later_frame(bytes: &[u8], salt: Salt, number: u64) -> bool {
    // Frames are at least as long as their headers, so there are no more of them than this. The checksum is looked at last:
    // it costs the most.
    let most = number.saturating_add((bytes.len() / FRAME_HEADER_BYTES) as u64 + 1);
    let later = |window: &&[u8]| (number + 1..=most).contains(&(&window[12..]).get_u64_le());
    bytes.windows(FRAME_HEADER_BYTES).filter(later).any(|window| begins_frame(window, salt))
}

/// A [`Write`] without its entries.
#[derive(Serialize, Deserialize)]
struct Head {
    group: GroupId,
    snapshot: Option<SnapshotMeta>,
    truncate_from: Option<Index>,
    hard_state: Option<HardState>,
    outline: Option<Outline>,
    compact_to: Option<Index>,
    entries: u64,
}

/// Appends a write: the length of its head, the head, its entries. What comes back is where each entry begins and ends in `out`.
pub(super) fn encode_write(write: &Write, out: &mut Vec<u8>) -> Result<Vec<(usize, usize)>, CodecError> {
    let head = cold::encode(&Head {
        group: write.group,
        snapshot: write.snapshot.clone(),
        truncate_from: write.truncate_from,
        hard_state: write.hard_state,
        outline: write.outline.clone(),
        compact_to: write.compact_to,
        entries: write.entries.len() as u64,
    })?;
    out.put_u32_le(u32::try_from(head.len()).map_err(|_| CodecError::TooLarge)?);
    out.put_slice(&head);
    let lies = write.entries.iter().map(|entry| {
        let start = out.len();
        entry::encode(entry, out).map(|()| (start, out.len()))
    });
    lies.collect()
}

/// Takes a write off the front of `body`; where each entry begins and ends is counted from there.
pub(super) fn decode_write(body: &mut Bytes) -> Result<(Write, Vec<(usize, usize)>), CodecError> {
    let whole = body.len();
    let length = body.try_get_u32_le().map_err(|_| CodecError::Truncated)? as usize;
    if body.len() < length {
        return Err(CodecError::Truncated);
    }
    let Head { group, snapshot, truncate_from, hard_state, outline, compact_to, entries: count } =
        cold::decode(&body.split_to(length))?;
    let (mut entries, mut lies) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let start = whole - body.len();
        entries.push(entry::decode(body)?);
        lies.push((start, whole - body.len()));
    }
    let number = 0;
    Ok((Write { group, number, snapshot, truncate_from, entries, hard_state, outline, compact_to }, lies))
}
