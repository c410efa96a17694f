//! Tables, keys and rows; `docs/storage.md` shows them as byte tables. A row outside the log begins with a CRC-32C that
//! binds its key; the log's rows are entries one after another, each with its own.

use std::ops::Range;

use bytes::{Buf, BufMut, Bytes};
use raft_core::codec::{CodecError, entry};
use raft_core::log_store::{Claim, Write};
use raft_core::types::{ClusterId, GroupId, HardState, Incarnation, Index, NodeId};
use redb::TableDefinition;

/// The format written, and the only one there has been.
pub(crate) const FORMAT: u32 = 1;

/// What belongs to the store as a whole, by name.
pub(crate) const STORE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("raft_store");
/// What belongs to a group beside its entries, by group and kind.
pub(crate) const GROUPS: TableDefinition<'_, (u64, u8), &[u8]> = TableDefinition::new("raft_groups");
/// Chunks of entries, by group and the chunk's first index.
pub(crate) const LOG: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("raft_log");

/// [`STORE`]: the format's version.
pub(crate) const STORE_FORMAT: &str = "format";
/// [`STORE`]: whose log this is.
pub(crate) const STORE_IDENTITY: &str = "identity";

/// [`GROUPS`]: hard state, compaction mark and last index.
pub(crate) const GROUP_STATE: u8 = 0;
/// [`GROUPS`]: the outline.
pub(crate) const GROUP_OUTLINE: u8 = 1;
/// [`GROUPS`]: the snapshot's meta data.
pub(crate) const GROUP_SNAPSHOT: u8 = 2;

const PAGE_BYTES: usize = 4096;
/// What redb puts beside the value into a leaf page that holds one row of [`LOG`]: header, value's end, key.
const ROW_OVERHEAD_BYTES: usize = 4 + 4 + 16;
/// The largest page that is filled with more than one entry.
const MAX_ROW_PAGE_BYTES: usize = 16 * PAGE_BYTES;

const CHECKSUM_BYTES: usize = 4;

/// Puts a checksum before `body` that binds it to its row's key.
pub(crate) fn seal(key: &[u8], body: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(CHECKSUM_BYTES + body.len());
    row.put_u32_le(checksum(key, body));
    row.put_slice(body);
    row
}

/// The body of a row that [`seal`] made for `key`.
pub(crate) fn unseal<'a>(key: &[u8], mut row: &'a [u8]) -> Result<&'a [u8], CodecError> {
    let expected = row.try_get_u32_le().map_err(|_| CodecError::Truncated)?;
    if checksum(key, row) == expected { Ok(row) } else { Err(CodecError::Checksum) }
}

fn checksum(key: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), body)
}

/// A key of [`GROUPS`] as its checksum takes it.
pub(crate) fn group_key(group: GroupId, kind: u8) -> [u8; 9] {
    let mut key = [kind; 9];
    key[..8].copy_from_slice(&group.0.to_le_bytes());
    key
}

/// What is known of a group without its entries: the [`GROUP_STATE`] row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct GroupState {
    pub(crate) hard_state: HardState,
    /// Everything at this index and below is compacted.
    pub(crate) base: Index,
    /// The last entry's index; `base` if none is held.
    pub(crate) last: Index,
}

impl GroupState {
    /// The state after `write`, or why the write does not fit.
    pub(crate) fn after(&self, write: &Write) -> Result<Self, String> {
        let mut next = *self;
        if let Some(from) = write.truncate_from {
            if from <= next.base {
                return Err(format!("truncates from {from}, but entries up to {} are compacted", next.base));
            }
            next.last = next.last.min(from - 1);
        }
        if let Some(first) = write.entries.first().map(|e| e.index()) {
            let empty = next.last == next.base;
            let follows_mark = write.compact_to.is_some_and(|mark| mark >= next.base && follows(mark, first));
            if !(follows(next.last, first) || empty && follows_mark) {
                return Err(format!("appends from {first}, but the log ends at {}", next.last));
            }
            for pair in write.entries.windows(2) {
                if !follows(pair[0].index(), pair[1].index()) {
                    return Err(format!("entry {} comes after entry {}", pair[1].index(), pair[0].index()));
                }
            }
            next.last = first + (write.entries.len() as u64 - 1);
        }
        if let Some(hard_state) = write.hard_state {
            next.hard_state = hard_state;
        }
        if let Some(mark) = write.compact_to {
            next.base = next.base.max(mark);
            next.last = next.last.max(next.base);
        }
        Ok(next)
    }

    pub(crate) fn encode(&self, group: GroupId) -> Vec<u8> {
        let mut body = Vec::with_capacity(41);
        body.put_u64_le(self.hard_state.term);
        body.put_u8(u8::from(self.hard_state.vote.is_some()));
        body.put_u64_le(self.hard_state.vote.map_or(0, |node| node.0));
        body.put_u64_le(self.hard_state.commit);
        body.put_u64_le(self.base);
        body.put_u64_le(self.last);
        seal(&group_key(group, GROUP_STATE), &body)
    }

    pub(crate) fn decode(group: GroupId, row: &[u8]) -> Result<Self, CodecError> {
        let mut body = unseal(&group_key(group, GROUP_STATE), row)?;
        if body.len() != 41 {
            return Err(CodecError::Malformed);
        }
        let term = body.get_u64_le();
        let voted = body.get_u8();
        let node = NodeId(body.get_u64_le());
        let vote = match voted {
            0 if node.0 == 0 => None,
            0 => return Err(CodecError::Malformed),
            1 => Some(node),
            other => return Err(CodecError::UnknownKind(other)),
        };
        let hard_state = HardState { term, vote, commit: body.get_u64_le() };
        Ok(Self { hard_state, base: body.get_u64_le(), last: body.get_u64_le() })
    }
}

fn follows(before: Index, after: Index) -> bool {
    before.checked_add(1) == Some(after)
}

/// Whose log a store is: the [`STORE_IDENTITY`] row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
    pub(crate) claim: Claim,
}

impl Identity {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(40);
        body.put_u128_le(self.cluster.0);
        body.put_u64_le(self.node.0);
        body.put_u64_le(self.claim.incarnation.0);
        body.put_u64_le(self.claim.boot);
        seal(STORE_IDENTITY.as_bytes(), &body)
    }

    pub(crate) fn decode(row: &[u8]) -> Result<Self, CodecError> {
        let mut body = unseal(STORE_IDENTITY.as_bytes(), row)?;
        if body.len() != 40 {
            return Err(CodecError::Malformed);
        }
        Ok(Self {
            cluster: ClusterId(body.get_u128_le()),
            node: NodeId(body.get_u64_le()),
            claim: Claim { incarnation: Incarnation(body.get_u64_le()), boot: body.get_u64_le() },
        })
    }
}

pub(crate) fn encode_format() -> Vec<u8> {
    seal(STORE_FORMAT.as_bytes(), &FORMAT.to_le_bytes())
}

/// The format's version. Later formats may add to the row, never change its first eight bytes' meaning.
pub(crate) fn decode_format(row: &[u8]) -> Result<u32, CodecError> {
    unseal(STORE_FORMAT.as_bytes(), row)?.try_get_u32_le().map_err(|_| CodecError::Truncated)
}

/// Cuts encoded entries into rows. `starts` are the entries' offsets, `end` is where the last one ends; what comes back are
/// ranges of positions in `starts`.
///
/// redb gives a row of more than half a page a page of its own, its size a power of two times [`PAGE_BYTES`]. So rows are cut
/// to fill such pages, up to [`MAX_ROW_PAGE_BYTES`]; what would fill less than three quarters of the next larger page is cut to
/// fill the smaller one, and the rest becomes another row.
pub(crate) fn cut_rows(starts: &[usize], end: usize) -> Vec<Range<usize>> {
    let mut rows = Vec::new();
    let mut from = 0;
    while from < starts.len() {
        let limit = row_limit(end - starts[from]);
        let mut to = from + 1;
        while to < starts.len() && starts.get(to + 1).copied().unwrap_or(end) - starts[from] <= limit {
            to += 1;
        }
        rows.push(from..to);
        from = to;
    }
    rows
}

/// How many of `waiting` bytes the next row should take at most.
fn row_limit(waiting: usize) -> usize {
    let needed = waiting.saturating_add(ROW_OVERHEAD_BYTES);
    if needed >= MAX_ROW_PAGE_BYTES {
        return MAX_ROW_PAGE_BYTES - ROW_OVERHEAD_BYTES;
    }
    let page = needed.next_power_of_two().max(PAGE_BYTES);
    if page == PAGE_BYTES || needed > page / 4 * 3 { waiting } else { page / 2 - ROW_OVERHEAD_BYTES }
}

/// The bytes of a chunk that starts at `first` which hold the entries below `end`.
pub(crate) fn prefix_bytes(chunk: &[u8], first: Index, end: Index) -> Result<usize, (Index, CodecError)> {
    let mut rest = Bytes::copy_from_slice(chunk);
    let mut index = first;
    while index < end && !rest.is_empty() {
        take_entry(&mut rest, index).map_err(|error| (index, error))?;
        index += 1;
    }
    Ok(chunk.len() - rest.len())
}

/// How many entries a chunk holds, by their lengths alone.
pub(crate) fn count_entries(chunk: &[u8]) -> Result<u64, CodecError> {
    let (mut rest, mut count) = (chunk, 0);
    while !rest.is_empty() {
        let header = rest.get(..entry::HEADER_BYTES).ok_or(CodecError::Truncated)?;
        let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
        rest = rest.get(entry::HEADER_BYTES + length..).ok_or(CodecError::Truncated)?;
        count += 1;
    }
    Ok(count)
}

/// Takes the entry at `index` off the front of a chunk.
pub(crate) fn take_entry(chunk: &mut Bytes, index: Index) -> Result<raft_core::types::Entry, CodecError> {
    let entry = entry::decode(chunk)?;
    // A whole and sound entry, but another one's: the row is not the one that was written here.
    if entry.index() == index { Ok(entry) } else { Err(CodecError::Malformed) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use raft_core::codec::versioned;
    use raft_core::types::{Entry, EntryId, Outline, Payload, SnapshotMeta};

    fn entry(index: Index) -> Entry {
        Entry { id: EntryId::new(1, index), payload: Payload::Noop }
    }

    fn append(first: Index, count: u64) -> Write {
        Write { entries: (first..first + count).map(entry).collect(), ..Write::default() }
    }

    fn state(base: Index, last: Index) -> GroupState {
        GroupState { base, last, ..GroupState::default() }
    }

    #[test]
    fn writes_that_fit() {
        assert_eq!(state(0, 0).after(&append(1, 3)), Ok(state(0, 3)));
        assert_eq!(state(4, 4).after(&append(5, 1)), Ok(state(4, 5)));
        let replaced = Write { truncate_from: Some(3), ..append(3, 1) };
        assert_eq!(state(1, 9).after(&replaced), Ok(state(1, 3)));
        let beyond = Write { truncate_from: Some(12), ..Write::default() };
        assert_eq!(state(1, 9).after(&beyond), Ok(state(1, 9)));
        let snapshot = Write { truncate_from: Some(2), compact_to: Some(20), ..append(21, 2) };
        assert_eq!(state(1, 9).after(&snapshot), Ok(state(20, 22)));
        let compacted = Write { compact_to: Some(5), ..Write::default() };
        assert_eq!(state(1, 9).after(&compacted), Ok(state(5, 9)));
        assert_eq!(state(7, 9).after(&compacted), Ok(state(7, 9)));
        let past = Write { compact_to: Some(50), ..Write::default() };
        assert_eq!(state(1, 9).after(&past), Ok(state(50, 50)));
    }

    #[test]
    fn writes_that_do_not_fit() {
        for (before, write) in [
            (state(0, 0), append(2, 1)),
            (state(0, 3), append(5, 1)),
            (state(0, 3), append(3, 1)),
            (state(5, 9), Write { truncate_from: Some(5), ..Write::default() }),
            (state(0, 3), Write { truncate_from: Some(0), ..Write::default() }),
            (state(1, 9), Write { compact_to: Some(20), ..append(21, 2) }),
            (state(9, 9), Write { compact_to: Some(4), ..append(5, 1) }),
            (state(0, 0), Write { entries: vec![entry(1), entry(3)], ..Write::default() }),
            (state(0, 0), append(0, 1)),
            (state(u64::MAX, u64::MAX), append(0, 1)),
        ] {
            assert!(before.after(&write).is_err(), "{before:?} {write:?}");
        }
    }

    #[test]
    fn rows_bind_their_key() {
        let row = state(3, 8).encode(GroupId(7));
        assert_eq!(GroupState::decode(GroupId(7), &row), Ok(state(3, 8)));
        assert_eq!(GroupState::decode(GroupId(8), &row), Err(CodecError::Checksum));
        for at in 0..row.len() {
            let mut flipped = row.clone();
            flipped[at] ^= 0x10;
            assert!(GroupState::decode(GroupId(7), &flipped).is_err());
            assert!(GroupState::decode(GroupId(7), &row[..at]).is_err());
        }
    }

    /// A row that is damaged, and a damaged body behind a right checksum, are refused or give the same bytes again.
    fn check_rows(group: GroupId, row: &[u8]) {
        if let Ok(state) = GroupState::decode(group, row) {
            assert_eq!(state.encode(group), row);
            let later = state.last.saturating_sub(1);
            for write in [
                append(state.last.wrapping_add(1), 2),
                Write { truncate_from: Some(later), ..append(later, 1) },
            ] {
                let _fits_or_not = state.after(&write);
            }
        }
        if let Ok(identity) = Identity::decode(row) {
            assert_eq!(identity.encode(), row);
        }
        if decode_format(row) == Ok(FORMAT) {
            assert_eq!(unseal(STORE_FORMAT.as_bytes(), row).expect("is whole")[..4], FORMAT.to_le_bytes());
        }
        for kind in [GROUP_OUTLINE, GROUP_SNAPSHOT] {
            let key = group_key(group, kind);
            let Ok(body) = unseal(&key, row) else { continue };
            assert_eq!(seal(&key, body), row);
            let _refused_or_not =
                (versioned::decode::<Outline>(body), versioned::decode::<SnapshotMeta>(body));
        }
    }

    fn check_all_rows(group: GroupId, body: &[u8]) {
        check_rows(group, body);
        for kind in [GROUP_STATE, GROUP_OUTLINE, GROUP_SNAPSHOT] {
            check_rows(group, &seal(&group_key(group, kind), body));
        }
        for name in [STORE_FORMAT, STORE_IDENTITY] {
            check_rows(group, &seal(name.as_bytes(), body));
        }
    }

    fn chunk(first: Index, payloads: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (index, payload) in (first..).zip(payloads) {
            let payload = Payload::Command(Bytes::copy_from_slice(payload));
            entry::encode(&Entry { id: EntryId::new(1, index), payload }, &mut bytes).expect("is small");
        }
        bytes
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_row_or_none(group: u64, body in prop::collection::vec(any::<u8>(), 0..120)) {
            check_all_rows(GroupId(group), &body);
        }

        #[test]
        fn a_body_of_the_right_length_is_a_row_or_none(group: u64, voted in 0_u8..3, body in prop::collection::vec(any::<u8>(), 41)) {
            let mut body = body;
            body[8] = voted;
            check_all_rows(GroupId(group), &body);
            check_all_rows(GroupId(group), &body[..40]);
            if voted == 0 {
                body[9..17].fill(0);
                check_all_rows(GroupId(group), &body);
            }
        }

        #[test]
        fn a_changed_chunk_gives_whole_entries_or_none(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 1..6),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
            length in any::<prop::sample::Index>(),
            first in prop::sample::select(vec![1, 7, u64::MAX - 9]),
            end in 0_u64..9,
        ) {
            let whole = chunk(first, &payloads);
            let mut bytes = whole.clone();
            changes.into_iter().for_each(|(at, value)| bytes[at.index(whole.len())] = value);
            bytes.truncate(length.index(whole.len() + 1));
            if let Ok(prefix) = prefix_bytes(&bytes, first, first + end) {
                prop_assert!(prefix <= bytes.len() && bytes[..prefix] == whole[..prefix]);
                let kept = payloads.len().min(usize::try_from(end).expect("is small"));
                prop_assert!(prefix == bytes.len() || prefix == chunk(first, &payloads[..kept]).len());
            }
            let counted = count_entries(&bytes);
            prop_assert!(bytes != whole || counted == Ok(payloads.len() as u64));
            let mut rest = Bytes::from(bytes);
            for (index, payload) in (first..).zip(&payloads) {
                let Ok(entry) = take_entry(&mut rest, index) else { break };
                prop_assert_eq!(entry.payload, Payload::Command(Bytes::copy_from_slice(payload)));
            }
        }
    }

    /// The pages that redb allocates for `rows` of entries of these sizes.
    fn page_bytes(rows: &[Range<usize>], sizes: &[usize]) -> usize {
        rows.iter()
            .map(|row| sizes[row.clone()].iter().sum::<usize>() + ROW_OVERHEAD_BYTES)
            .map(|row| row.next_power_of_two().max(PAGE_BYTES))
            .sum()
    }

    #[test]
    fn rows_fill_their_pages() {
        for (count, size) in
            [(1, 89), (1, 5_000_000), (45, 89), (100, 89), (4096, 89), (64, 1049), (3, 20_000)]
        {
            let sizes = vec![size; count];
            let starts: Vec<usize> = (0..count).map(|i| i * size).collect();
            let rows = cut_rows(&starts, count * size);
            let covered: Vec<usize> = rows.iter().cloned().flatten().collect();
            assert_eq!(covered, (0..count).collect::<Vec<_>>());
            for row in &rows {
                assert!(row.len() == 1 || row.len() * size + ROW_OVERHEAD_BYTES <= MAX_ROW_PAGE_BYTES);
            }
            if size < 2000 {
                let waste = page_bytes(&rows, &sizes) - count * size;
                assert!(waste <= (count * size / 3).max(PAGE_BYTES), "{count} x {size}: {waste} in {rows:?}");
            }
        }
        assert_eq!(cut_rows(&[], 0), []);
    }
}
