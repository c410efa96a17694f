//! A redb file read page by page, each checked: what redb itself cannot do once a page is damaged. Only reads. The format
//! (version 3) is in redb's `docs/design.md`; integers are little-endian.

use std::fs::File;
use std::io;
use std::ops::{Bound, Range};
use std::path::Path;

use bytes::Bytes;
use raft_core::log_store::{StorageError, StorageErrorKind};
use redb::StorageBackend;
use redb::backends::FileBackend;
use twox_hash::XxHash3_128;

use crate::error::Name;

/// What every redb file begins with.
pub(crate) const MAGIC: [u8; 9] = *b"redb\x1A\x0A\xA9\x0D\x0A";
const HEADER_BYTES: usize = 320;
const SLOTS_AT: usize = 64;
const SLOT_BYTES: usize = 128;
/// The version of redb's format that is read here.
const REDB_FORMAT: u8 = 3;
const PAGE_BYTES: u64 = 4096;

const PRIMARY: u8 = 1;
const RECOVERY_REQUIRED: u8 = 2;
const TWO_PHASE: u8 = 4;

const LEAF: u8 = 1;
const BRANCH: u8 = 2;
const NUMBER_BYTES: usize = 8;
const CHECKSUM_BYTES: usize = 16;

/// How the last process left the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Shutdown {
    /// It closed the file.
    Orderly,
    /// It died, or the machine did; the file holds its last commit whole.
    Crash,
    /// It died during a commit, of which the file holds a part. The next start undoes it; nobody was told that it is durable.
    CrashInCommit,
}

/// The root of a tree, or of a part of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node {
    number: u64,
    checksum: u128,
}

/// The sizes of a tree's keys and values where they are fixed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    key: Option<usize>,
    value: Option<usize>,
}

const TABLES: Shape = Shape { key: None, value: None };

#[derive(Clone, Copy, Debug)]
struct Slot {
    transaction: u64,
    user: Option<Node>,
    system: Option<Node>,
}

/// One table of the file.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    pub(crate) name: String,
    root: Option<Node>,
    shape: Shape,
}

/// A page that is not what was written.
#[derive(Clone, Debug)]
pub(crate) struct BadPage {
    /// Where it lies in the file.
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
    pub(crate) why: String,
}

/// The file, and the trees of the commit that the next start goes on from.
#[derive(Debug)]
pub(crate) struct Pages {
    backend: FileBackend,
    pub(crate) file_bytes: u64,
    region_bytes: u64,
    region_header_bytes: u64,
    pub(crate) shutdown: Shutdown,
    slot: Slot,
}

impl Pages {
    /// Opens the file at `path` and holds it against whoever would write to it, until dropped.
    pub(crate) fn open(path: &Path, name: &Name) -> Result<Self, StorageError> {
        let io = |e: io::Error| name.io("inspect", &e);
        let file = File::open(path).map_err(io)?;
        let backend = FileBackend::new(file).map_err(|e| name.redb("inspect", e))?;
        match backend.try_lock_shared_range(Bound::Unbounded, Bound::Unbounded) {
            Ok(true) => {}
            Ok(false) => return Err(name.redb("inspect", redb::Error::DatabaseAlreadyOpen)),
            // Where the system knows no locks there is none to respect.
            Err(redb::BackendError::Unsupported) => {}
            Err(error) => {
                return Err(name.error(StorageErrorKind::Io, format_args!("cannot lock: {error}")));
            }
        }
        let file_bytes = backend.len().map_err(io)?;
        let mut header = [0; HEADER_BYTES];
        let held = usize::try_from(file_bytes).unwrap_or(usize::MAX).min(HEADER_BYTES);
        backend.read(0, &mut header[..held]).map_err(io)?;
        Self::of(backend, file_bytes, &header, name)
    }

    fn of(
        backend: FileBackend,
        file_bytes: u64,
        header: &[u8; HEADER_BYTES],
        name: &Name,
    ) -> Result<Self, StorageError> {
        if header[..MAGIC.len()] != MAGIC {
            let what = "not a Raft log (not a redb file); choose another path";
            return Err(name.error(StorageErrorKind::Format, what));
        }
        let flags = header[9];
        let page_bytes = u64::from(u32_at(header, 12));
        let header_pages = u64::from(u32_at(header, 16));
        let data_pages = u64::from(u32_at(header, 20));
        if page_bytes != PAGE_BYTES || data_pages == 0 || data_pages > 1 << 20 || header_pages > 1 << 20 {
            return Err(name.damaged("the header of the file is damaged"));
        }
        let slots = [slot_at(header, 0, name)?, slot_at(header, 1, name)?];
        let primary = slots[usize::from(flags & PRIMARY)];
        let secondary = slots[usize::from(flags & PRIMARY == 0)];
        let candidates = match (primary, secondary) {
            (primary, _) if flags & TWO_PHASE != 0 => [primary, None],
            (Some(primary), Some(secondary)) if secondary.transaction > primary.transaction => {
                [Some(secondary), Some(primary)]
            }
            (None, secondary) => [secondary, None],
            both => [both.0, both.1],
        };
        let Some(newest) = candidates[0] else {
            return Err(name.damaged("the header of the file is damaged: it names no commit"));
        };
        let mut pages = Self {
            backend,
            file_bytes,
            region_bytes: (header_pages + data_pages) * PAGE_BYTES,
            region_header_bytes: header_pages * PAGE_BYTES,
            shutdown: Shutdown::Orderly,
            slot: newest,
        };
        if flags & RECOVERY_REQUIRED != 0 {
            pages.shutdown = if primary.is_some() { Shutdown::Crash } else { Shutdown::CrashInCommit };
            // As redb does: a newest commit that is not whole was cut short if the one before it is whole.
            if let Some(before) = candidates[1].filter(|_| !pages.is_whole()) {
                pages.slot = before;
                if pages.is_whole() {
                    pages.shutdown = Shutdown::CrashInCommit;
                } else {
                    pages.slot = newest;
                }
            }
        }
        Ok(pages)
    }

    fn is_whole(&self) -> bool {
        let (trees, bad) = self.trees();
        bad.is_empty() && trees.iter().all(|tree| self.rows(tree).all(|row| row.is_ok()))
    }

    /// The tables, redb's own among them, and what is damaged in the list of them.
    pub(crate) fn trees(&self) -> (Vec<Tree>, Vec<BadPage>) {
        let (mut trees, mut bad) = (Vec::new(), Vec::new());
        for root in [self.slot.user, self.slot.system] {
            for row in self.rows(&Tree { name: String::new(), root, shape: TABLES }) {
                match row {
                    Ok((key, value)) => match tree_of(&key, &value) {
                        Some(tree) => trees.push(tree),
                        None => {
                            bad.push(BadPage { offset: 0, bytes: 0, why: "a table is unreadable".into() })
                        }
                    },
                    Err(page) => bad.push(page),
                }
            }
        }
        (trees, bad)
    }

    /// All rows of a tree in order, and what is damaged in between.
    pub(crate) fn rows<'a>(&'a self, tree: &Tree) -> Rows<'a> {
        self.rows_from(tree, |_| false)
    }

    /// As [`rows`](Self::rows), without most of those before a place: what lies before a key that `is_before` accepts is left
    /// out, but for the last rows.
    pub(crate) fn rows_from<'a>(&'a self, tree: &Tree, is_before: impl Fn(&[u8]) -> bool + 'a) -> Rows<'a> {
        Rows {
            pages: self,
            shape: tree.shape,
            waiting: tree.root.into_iter().collect(),
            leaf: None,
            is_before: Box::new(is_before),
        }
    }

    /// The page at `node`, of which the checksum is right, without what is unused at its end.
    fn page(&self, node: Node, shape: Shape) -> Result<Bytes, BadPage> {
        let order = node.number >> 59;
        let region = (node.number >> 20) & 0xF_FFFF;
        let bytes = PAGE_BYTES << order.min(20);
        let index = node.number & (0xF_FFFF >> order.min(20));
        let offset = PAGE_BYTES + region * self.region_bytes + self.region_header_bytes + index * bytes;
        let bad = |why: String| BadPage { offset, bytes, why };
        if order > 20 || offset.checked_add(bytes).is_none_or(|end| end > self.file_bytes) {
            return Err(bad("it lies beyond the end of the file".into()));
        }
        let size = usize::try_from(bytes).map_err(|_| bad("it is larger than memory".into()))?;
        let mut page = vec![0; size];
        self.backend.read(offset, &mut page).map_err(|error| bad(format!("it cannot be read: {error}")))?;
        let end = used_bytes(&page, shape).ok_or_else(|| bad("it is no page of a tree".into()))?;
        if XxHash3_128::oneshot(&page[..end]) != node.checksum {
            return Err(bad("its checksum is wrong".into()));
        }
        page.truncate(end);
        Ok(page.into())
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // The lock goes with the file in any case.
        let _ = self.backend.close();
    }
}

type IsBefore<'a> = Box<dyn Fn(&[u8]) -> bool + 'a>;

/// See [`Pages::rows`].
pub(crate) struct Rows<'a> {
    pages: &'a Pages,
    shape: Shape,
    /// Parts of the tree still to be visited, the next one last.
    waiting: Vec<Node>,
    leaf: Option<(Bytes, usize)>,
    is_before: IsBefore<'a>,
}

impl Iterator for Rows<'_> {
    type Item = Result<(Bytes, Bytes), BadPage>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((page, at)) = &mut self.leaf {
                if let Some((key, value)) = leaf_row(page, self.shape, *at) {
                    *at += 1;
                    return Some(Ok((page.slice(key), page.slice(value))));
                }
                self.leaf = None;
            }
            let page = match self.pages.page(self.waiting.pop()?, self.shape) {
                Ok(page) => page,
                Err(bad) => return Some(Err(bad)),
            };
            if page[0] == LEAF {
                self.leaf = Some((page, 0));
            } else {
                self.visit(&page);
            }
        }
    }
}

impl Rows<'_> {
    fn visit(&mut self, branch: &[u8]) {
        let keys = usize::from(u16_at(branch, 2));
        let mut first = 0;
        // A child is needed if what it holds, or the beginning of the child after it, is not before the place.
        while first + 1 < keys
            && branch_key(branch, self.shape, first + 1).is_some_and(|key| (self.is_before)(&branch[key]))
        {
            first += 1;
        }
        for child in (first..=keys).rev() {
            let checksum = 8 + child * CHECKSUM_BYTES;
            let number = 8 + (keys + 1) * CHECKSUM_BYTES + child * NUMBER_BYTES;
            self.waiting.push(Node { number: u64_at(branch, number), checksum: u128_at(branch, checksum) });
        }
    }
}

fn slot_at(header: &[u8], number: usize, name: &Name) -> Result<Option<Slot>, StorageError> {
    let slot = &header[SLOTS_AT + number * SLOT_BYTES..][..SLOT_BYTES];
    if XxHash3_128::oneshot(&slot[..SLOT_BYTES - CHECKSUM_BYTES])
        != u128_at(slot, SLOT_BYTES - CHECKSUM_BYTES)
    {
        return Ok(None);
    }
    if slot[0] != REDB_FORMAT {
        let what = format_args!("a redb file of version {}; open it with the version that wrote it", slot[0]);
        return Err(name.error(StorageErrorKind::Format, what));
    }
    let root = |flag: usize, at: usize| (slot[flag] != 0).then(|| node_at(slot, at));
    Ok(Some(Slot { transaction: u64_at(slot, 104), user: root(1, 8), system: root(2, 40) }))
}

fn node_at(bytes: &[u8], at: usize) -> Node {
    Node { number: u64_at(bytes, at), checksum: u128_at(bytes, at + NUMBER_BYTES) }
}

/// A row of the list of tables: kind, rows, root, sizes.
fn tree_of(key: &[u8], value: &[u8]) -> Option<Tree> {
    if value.len() < 60 {
        return None;
    }
    let fixed = |at: usize| (value[at] != 0).then(|| u32_at(value, at + 1) as usize);
    Some(Tree {
        name: String::from_utf8(key.to_vec()).ok()?,
        root: (value[9] != 0).then(|| node_at(value, 10)),
        shape: Shape { key: fixed(42), value: fixed(47) },
    })
}

/// How much of a page its checksum covers; `None` where it is no page.
fn used_bytes(page: &[u8], shape: Shape) -> Option<usize> {
    let count = usize::from(u16_at(page, 2));
    let last = count.checked_sub(1)?;
    let (least, end) = match page[0] {
        LEAF => (leaf_row(page, shape, 0)?.1.start, leaf_row(page, shape, last)?.1.end),
        BRANCH => (branch_key(page, shape, 0)?.start, branch_key(page, shape, last)?.end),
        _ => return None,
    };
    (least <= end).then_some(end)
}

/// Where key and value of a row lie; `None` beyond the last, or where the page makes no sense.
fn leaf_row(page: &[u8], shape: Shape, at: usize) -> Option<(Range<usize>, Range<usize>)> {
    let count = usize::from(u16_at(page, 2));
    if at >= count {
        return None;
    }
    let key_ends = 4;
    let value_ends = key_ends + if shape.key.is_none() { 4 * count } else { 0 };
    let keys = value_ends + if shape.value.is_none() { 4 * count } else { 0 };
    let key_end = |n: usize| match shape.key {
        Some(size) => Some(keys + size * (n + 1)),
        None => u32_in(page, key_ends + 4 * n),
    };
    let values = key_end(count - 1)?;
    let value_end = |n: usize| match shape.value {
        Some(size) => Some(values + size * (n + 1)),
        None => u32_in(page, value_ends + 4 * n),
    };
    let key = if at == 0 { keys } else { key_end(at - 1)? }..key_end(at)?;
    let value = if at == 0 { values } else { value_end(at - 1)? }..value_end(at)?;
    let sound = key.start <= key.end && value.start <= value.end && key.end.max(value.end) <= page.len();
    sound.then_some((key, value))
}

/// Where a branch's key lies.
fn branch_key(page: &[u8], shape: Shape, at: usize) -> Option<Range<usize>> {
    let count = usize::from(u16_at(page, 2));
    if at >= count {
        return None;
    }
    let key_ends = 8 + (count + 1) * (CHECKSUM_BYTES + NUMBER_BYTES);
    let keys = key_ends + if shape.key.is_none() { 4 * count } else { 0 };
    let end = |n: usize| match shape.key {
        Some(size) => Some(keys + size * (n + 1)),
        None => u32_in(page, key_ends + 4 * n),
    };
    let key = if at == 0 { keys } else { end(at - 1)? }..end(at)?;
    (key.start <= key.end && key.end <= page.len()).then_some(key)
}

fn u32_in(bytes: &[u8], at: usize) -> Option<usize> {
    bytes.get(at..at + 4).map(|_| u32_at(bytes, at) as usize)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

fn u128_at(bytes: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(array(bytes, at))
}
