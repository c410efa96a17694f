//! A log looked at from outside, while no node runs on it: what it holds, and what of it is damaged.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::ops::{Bound, RangeBounds, RangeInclusive};
use std::path::{Path, PathBuf};

use bytes::{Buf, Bytes};
use raft_core::codec::{CodecError, versioned};
use raft_core::log_store::{Claim, StorageError, StorageErrorKind};
use raft_core::types::{ClusterId, Entry, GroupId, HardState, Index, NodeId, Outline, SnapshotMeta};
use redb::TableHandle;

use crate::error::Name;
use crate::layout::{
    FORMAT, GROUP_OUTLINE, GROUP_SNAPSHOT, GROUP_STATE, GROUPS, GroupState, Identity, LOG, STORE,
    STORE_FORMAT, STORE_IDENTITY, decode_format, group_key, take_entry, unseal,
};
use crate::pages::{BadPage, Pages, Rows, Shutdown, Tree};
use crate::{Options, open};

/// How much of what is damaged goes into one message.
const TOLD_DAMAGE: usize = 3;

/// Whose log a file is: the identity row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Owner {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// The mark of the file, and how often a node started on it.
    pub claim: Claim,
}

/// What a file holds of one group, without the entries.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupLog {
    /// The group.
    pub group: GroupId,
    /// The last hard state written.
    pub hard_state: HardState,
    /// The compaction mark: all entries at it and below are compacted.
    pub base: Index,
    /// The last entry; the mark, if no entry is held.
    pub last: Index,
    /// The last outline written: the terms of all entries.
    pub outline: Outline,
    /// The last snapshot written.
    pub snapshot: Option<SnapshotMeta>,
}

impl GroupLog {
    /// The entries that the log promises to hold; empty if none.
    pub fn entries(&self) -> RangeInclusive<Index> {
        self.base + 1..=self.last
    }
}

/// Something of a log that is not what was written, or is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Damage {
    /// Entries. [`Repair`](crate::Repair) can put those of another node's log in their place.
    Entries {
        /// The group.
        group: GroupId,
        /// The first of them.
        first: Index,
        /// The last of them.
        last: Index,
    },
    /// A row beside the entries: what was promised in it is lost, so no repair is safe.
    Row {
        /// The group; `None` for a row of the store as a whole.
        group: Option<GroupId>,
        /// Which one: `"state"`, `"outline"`, `"snapshot"`, `"identity"` or `"format"`.
        row: &'static str,
        /// What is wrong.
        why: String,
    },
    /// A page of the file, with what it holds.
    Page {
        /// The table; empty for the list of tables. Tables that do not begin with `raft_` are redb's own.
        table: String,
        /// Where the page begins in the file.
        offset: u64,
        /// Its size.
        bytes: u64,
        /// What is wrong.
        why: String,
    },
}

impl Damage {
    /// Whether something is lost that only this node knew: what it voted and acknowledged.
    pub(crate) fn is_promise(&self) -> bool {
        match self {
            Self::Entries { .. } => false,
            Self::Row { .. } => true,
            Self::Page { table, .. } => table.is_empty() || table == STORE.name() || table == GROUPS.name(),
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entries { group, first, last } if first == last => {
                write!(f, "group {group}: entry {first} is damaged or missing")
            }
            Self::Entries { group, first, last } => {
                write!(f, "group {group}: entries {first} to {last} are damaged or missing")
            }
            Self::Row { group: Some(group), row, why } => {
                write!(f, "group {group}: the {row} row is damaged ({why})")
            }
            Self::Row { group: None, row, why } => write!(f, "the {row} row is damaged ({why})"),
            Self::Page { table, offset, bytes, why } => {
                let table = if table.is_empty() { "the list of tables" } else { table };
                write!(f, "{table}: the page of {bytes} bytes at {offset} is damaged ({why})")
            }
        }
    }
}

/// How much a log holds of one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupSize {
    /// The group.
    pub group: GroupId,
    /// Sound entries.
    pub entries: u64,
    /// The bytes of their payloads.
    pub payload_bytes: u64,
}

/// What [`Inspector::verify`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// What the groups hold, in their order.
    pub groups: Vec<GroupSize>,
    /// What is damaged, entries last.
    pub damage: Vec<Damage>,
}

impl Report {
    /// Whether nothing is damaged.
    pub fn is_sound(&self) -> bool {
        self.damage.is_empty()
    }
}

/// A log's file, opened to be looked at. It reads only, also where the last process died or the file is damaged, and while
/// it is open a node cannot start on the file.
///
/// ```
/// use raft_storage_redb::{Inspector, RedbLogStore};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("log.redb");
/// drop(RedbLogStore::open(&path)?);
///
/// let inspector = Inspector::open(&path)?;
/// assert!(inspector.groups().is_empty());
/// assert!(inspector.verify().is_sound());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Inspector {
    path: PathBuf,
    pages: Pages,
    owner: Option<Owner>,
    groups: BTreeMap<GroupId, GroupLog>,
    log: Option<Tree>,
    others: Vec<Tree>,
    /// What is damaged beside the entries and redb's own tables.
    damage: Vec<Damage>,
}

impl Inspector {
    /// Opens the log at `path`. After a crash the whole file is read, to tell what a start would go on from.
    ///
    /// # Errors
    /// [`Busy`](StorageErrorKind::Busy) while a node runs on it, [`Format`](StorageErrorKind::Format) where it is no
    /// log or one of a later version, [`Corrupt`](StorageErrorKind::Corrupt) where not even its header is sound, and I/O.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StorageError> {
        let path = path.as_ref();
        let name = Name::new(path.display());
        let pages = Pages::open(path, &name)?;
        let (trees, bad) = pages.trees();
        let mut inspector = Self {
            path: path.to_owned(),
            pages,
            owner: None,
            groups: BTreeMap::new(),
            log: None,
            others: Vec::new(),
            damage: bad.into_iter().map(|page| page_damage("", page)).collect(),
        };
        let mut found = None;
        for tree in trees {
            match tree.name.as_str() {
                table if table == STORE.name() => found = Some(inspector.read_store(&tree, &name)?),
                table if table == GROUPS.name() => inspector.read_groups(&tree, &name)?,
                table if table == LOG.name() => inspector.log = Some(tree),
                _ => inspector.others.push(tree),
            }
        }
        if found.is_none() && inspector.damage.is_empty() {
            let what = "not a Raft log (a redb file of something else); choose another path";
            return Err(name.error(StorageErrorKind::Format, what));
        }
        Ok(inspector)
    }

    /// The file's path, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The size of the file.
    pub fn file_bytes(&self) -> u64 {
        self.pages.file_bytes
    }

    /// The version of the file's format.
    pub fn format(&self) -> u32 {
        FORMAT
    }

    /// How the last process left the file.
    pub fn shutdown(&self) -> Shutdown {
        self.pages.shutdown
    }

    /// Whose log it is; `None` before the first start of a node on it, and where the row is damaged.
    pub fn owner(&self) -> Option<Owner> {
        self.owner
    }

    /// The groups in order, without those of which a row is damaged.
    pub fn groups(&self) -> Vec<&GroupLog> {
        self.groups.values().collect()
    }

    /// One group; `None` where nothing was ever written for it, or a row of it is damaged.
    pub fn group(&self, group: GroupId) -> Option<&GroupLog> {
        self.groups.get(&group)
    }

    /// The entries of a group within `range`, in order; a run of entries that are damaged or missing is one `Err`. Nothing for
    /// a group that [`group`](Self::group) does not know.
    pub fn entries(&self, group: GroupId, range: impl RangeBounds<Index>) -> Entries<'_> {
        let (base, last) = self.group(group).map_or((0, 0), |log| (log.base, log.last));
        let start = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index.saturating_sub(1),
            Bound::Unbounded => Index::MAX,
        };
        let next = start.max(base.saturating_add(1));
        let from = (group.0, next);
        let is_before = move |key: &[u8]| log_key(key).is_some_and(|key| key <= from);
        let rows = self.log.as_ref().map(|log| self.pages.rows_from(log, is_before));
        Entries { group, next, end: end.min(last), rows, chunk: (0, Bytes::new()), later: None }
    }

    /// Reads the whole file and checks every page and every entry.
    pub fn verify(&self) -> Report {
        let mut report = Report { damage: self.damage.clone(), ..Report::default() };
        for tree in self.others.iter().chain(&self.log) {
            let bad = self.pages.rows(tree).filter_map(Result::err);
            report.damage.extend(bad.map(|page| page_damage(&tree.name, page)));
        }
        for &group in self.groups.keys() {
            let mut size = GroupSize { group, entries: 0, payload_bytes: 0 };
            for entry in self.entries(group, ..) {
                match entry {
                    Ok(entry) => {
                        size.entries += 1;
                        size.payload_bytes += (entry.bytes() - Entry::OVERHEAD_BYTES) as u64;
                    }
                    Err(damage) => report.damage.push(damage),
                }
            }
            report.groups.push(size);
        }
        report
    }

    /// What is damaged beside the entries, which is read when the file is opened. [`verify`](Self::verify) names it too.
    pub fn rows_damage(&self) -> &[Damage] {
        &self.damage
    }

    fn read_store(&mut self, tree: &Tree, name: &Name) -> Result<(), StorageError> {
        let mut format = Err(CodecError::Truncated);
        let mut damaged = Vec::new();
        for row in self.pages.rows(tree) {
            match row {
                Ok((key, row)) if *key == *STORE_FORMAT.as_bytes() => format = decode_format(&row),
                Ok((key, row)) if *key == *STORE_IDENTITY.as_bytes() => match Identity::decode(&row) {
                    Ok(Identity { cluster, node, claim }) => {
                        self.owner = Some(Owner { cluster, node, claim })
                    }
                    Err(error) => damaged.push(row_damage(None, "identity", error)),
                },
                Ok(_) => {}
                Err(page) => damaged.push(page_damage(&tree.name, page)),
            }
        }
        match format {
            Ok(FORMAT) => {}
            Ok(other) => return Err(open::unknown_format(name, other)),
            Err(_) if !damaged.is_empty() => {}
            Err(error) => damaged.push(row_damage(None, "format", error)),
        }
        self.damage.append(&mut damaged);
        Ok(())
    }

    fn read_groups(&mut self, tree: &Tree, name: &Name) -> Result<(), StorageError> {
        let mut found: BTreeMap<GroupId, GroupRows> = BTreeMap::new();
        let mut damaged = Vec::new();
        for row in self.pages.rows(tree) {
            let (mut key, row) = match row {
                Ok((key, row)) if key.len() == 9 => (key, row),
                Ok(_) => continue,
                Err(page) => {
                    damaged.push(page_damage(&tree.name, page));
                    continue;
                }
            };
            let group = GroupId(key.get_u64_le());
            if let Err((row, error)) = found.entry(group).or_default().take(group, key.get_u8(), &row) {
                if let Some(later) = name.later(format_args!("group {group}: the {row} row"), error) {
                    return Err(later);
                }
                damaged.push(row_damage(Some(group), row, error));
            }
        }
        for (group, rows) in found {
            // A snapshot or an outline is written together with the state, or after it.
            let Some(state) = rows.state else {
                if damaged.is_empty() {
                    damaged.push(row_damage(Some(group), "state", CodecError::Truncated));
                }
                continue;
            };
            if damaged.iter().any(|d| matches!(d, Damage::Row { group: Some(other), .. } if *other == group))
            {
                continue;
            }
            let GroupState { hard_state, base, last } = state;
            let (outline, snapshot) = (rows.outline, rows.snapshot);
            self.groups.insert(group, GroupLog { group, hard_state, base, last, outline, snapshot });
        }
        self.damage.append(&mut damaged);
        Ok(())
    }
}

/// The rows of a group as they are found.
#[derive(Default)]
struct GroupRows {
    state: Option<GroupState>,
    outline: Outline,
    snapshot: Option<SnapshotMeta>,
}

impl GroupRows {
    fn take(&mut self, group: GroupId, kind: u8, row: &[u8]) -> Result<(), (&'static str, CodecError)> {
        let body = || unseal(&group_key(group, kind), row);
        match kind {
            GROUP_STATE => self.state = Some(GroupState::decode(group, row).map_err(|e| ("state", e))?),
            GROUP_OUTLINE => self.outline = body().and_then(versioned::decode).map_err(|e| ("outline", e))?,
            GROUP_SNAPSHOT => {
                self.snapshot = Some(body().and_then(versioned::decode).map_err(|e| ("snapshot", e))?)
            }
            _ => {}
        }
        Ok(())
    }
}

/// The entries of [`Inspector::entries`].
pub struct Entries<'a> {
    group: GroupId,
    /// The next one to be given, or told to be damaged.
    next: Index,
    /// The last one; 0 when all is said.
    end: Index,
    rows: Option<Rows<'a>>,
    /// What is left of a chunk, and the index of its first entry.
    chunk: (Index, Bytes),
    /// A sound entry that follows a damaged one.
    later: Option<Entry>,
}

impl Entries<'_> {
    /// The next sound entry. What follows a damaged one in its chunk cannot be found.
    fn sound(&mut self) -> Option<Entry> {
        loop {
            let (index, chunk) = &mut self.chunk;
            if chunk.is_empty() {
                let (key, value) = match self.rows.as_mut()?.next()? {
                    Ok(row) => row,
                    Err(_) => continue,
                };
                match log_key(&key)? {
                    (group, first) if group == self.group.0 => self.chunk = (first, value),
                    (group, _) if group > self.group.0 => return None,
                    _ => {}
                }
                continue;
            }
            match take_entry(chunk, *index) {
                Ok(entry) => {
                    *index = index.saturating_add(1);
                    if entry.index() >= self.next {
                        return (entry.index() <= self.end).then_some(entry);
                    }
                }
                Err(_) => chunk.clear(),
            }
        }
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<Entry, Damage>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next > self.end {
            return None;
        }
        let entry = self.later.take().or_else(|| self.sound());
        let (group, first) = (self.group, self.next);
        match entry {
            Some(entry) if entry.index() == first => {
                if first == self.end {
                    self.end = 0;
                } else {
                    self.next += 1;
                }
                Some(Ok(entry))
            }
            Some(entry) => {
                self.next = entry.index();
                self.later = Some(entry);
                Some(Err(Damage::Entries { group, first, last: self.next - 1 }))
            }
            None => {
                let last = std::mem::take(&mut self.end);
                Some(Err(Damage::Entries { group, first, last }))
            }
        }
    }
}

impl fmt::Debug for Entries<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { group, next, end, .. } = self;
        f.debug_struct("Entries")
            .field("group", group)
            .field("next", next)
            .field("end", end)
            .finish_non_exhaustive()
    }
}

/// What [`compact`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compacted {
    /// The file's size before.
    pub before_bytes: u64,
    /// Its size now.
    pub after_bytes: u64,
}

/// `error` of opening the log at `path`, and what in the file is damaged.
pub(crate) fn explain(path: &Path, name: &Name, error: StorageError) -> StorageError {
    let Ok(damage) = Inspector::open(path).map(|inspector| inspector.verify().damage) else { return error };
    // Where entries are lost with a page, the entries say it better.
    let mut by_weight: Vec<_> = damage.iter().collect();
    by_weight.sort_by_key(|damage| (!damage.is_promise(), !matches!(damage, Damage::Entries { .. })));
    let told: Vec<_> = by_weight.into_iter().take(TOLD_DAMAGE).map(Damage::to_string).collect();
    let what = format!("the file is damaged: {}", told.join("; "));
    match damage.iter().any(Damage::is_promise) {
        _ if told.is_empty() => error,
        true => name.damaged(what),
        false => name.repairable(what),
    }
}

/// Makes the file at `path` as small as its content allows, after checking all of it. A log that is written to uses freed
/// space again, so this is for one that was once much longer than it will be.
///
/// # Errors
/// As [`RedbLogStore::open`](crate::RedbLogStore::open), but nothing is created; the file is whole after an error too.
pub fn compact(path: impl AsRef<Path>) -> Result<Compacted, StorageError> {
    let path = path.as_ref();
    let name = Name::new(path.display());
    let size = || fs::metadata(path).map(|file| file.len()).map_err(|e| name.io("compact", &e));
    let before_bytes = size()?;
    open::compact_file(path, &name, &Options::default().verify_on_open(true))?;
    Ok(Compacted { before_bytes, after_bytes: size()? })
}

fn log_key(key: &[u8]) -> Option<(u64, Index)> {
    let mut key = key;
    (key.len() == 16).then(|| (key.get_u64_le(), key.get_u64_le()))
}

fn page_damage(table: &str, page: BadPage) -> Damage {
    let BadPage { offset, bytes, why } = page;
    Damage::Page { table: table.to_owned(), offset, bytes, why }
}

fn row_damage(group: Option<GroupId>, row: &'static str, error: CodecError) -> Damage {
    Damage::Row { group, row, why: error.to_string() }
}
