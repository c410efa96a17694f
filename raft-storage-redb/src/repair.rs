//! Damaged entries of one node's log replaced by those of another's.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use raft_core::log_store::{StorageError, StorageErrorKind};
use raft_core::types::{Entry, GroupId, Index, Payload};
use redb::{Database, Durability, WriteTransaction};

use crate::error::Name;
use crate::inspect::{Damage, GroupLog, Inspector};
use crate::layout::{
    GROUP_OUTLINE, GROUP_SNAPSHOT, GROUP_STATE, GROUPS, GroupState, Identity, LOG, STORE, STORE_IDENTITY,
};
use crate::open::{create_scratch, sync_folder_of};
use crate::writer::{insert_entries, seal_versioned};

const DOING: &str = "repair";
/// How many bytes of entries are in memory, and in one commit of the new file, at most; one entry may be more.
const BATCH_BYTES: usize = 4 << 20;

/// A repair under way: a new file beside the damaged one, into which everything sound was copied, and to which entries of
/// other nodes' logs are added for what was not. The damaged file stays as it is until [`finish`](Self::finish) puts
/// the new one into its place; until then dropping the repair undoes it.
///
/// # Why it is safe
/// * A term has one leader, and a leader gives an index to one entry. So two entries of one group with the same term and
///   index are the same entry, on whatever node, committed or not (paper, 5.3). The term that belongs at each index is known
///   from this node's outline, a row with a checksum of its own. An entry of any other term is refused.
/// * Everything that this node promised stays as it was: term, vote, the last index, and with it each acknowledged entry.
///   Where one of those rows is damaged, or an acknowledged entry is nowhere to be found, there is no repair: such a node must
///   join anew, under a new incarnation.
/// * Entries are replaced, never dropped: a log that is shorter than what was acknowledged could let another leader be elected
///   that lacks committed entries.
///
/// ```no_run
/// use raft_storage_redb::{Inspector, Repair};
///
/// let mut repair = Repair::open("node-1/log.redb")?;
/// repair.replace_from(&Inspector::open("copy-of-node-2/log.redb")?)?;
/// let repaired = repair.finish()?; // fails, and changes nothing, where entries are still missing
/// println!("{} entries replaced; the damaged file is {}", repaired.replaced, repaired.kept.display());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Repair {
    name: Name,
    inspector: Inspector,
    scratch: Scratch,
    missing: Vec<(GroupId, RangeInclusive<Index>)>,
    replaced: u64,
}

/// What [`Repair::finish`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Repaired {
    /// How many entries came from other logs.
    pub replaced: u64,
    /// The damaged file, under its new name.
    pub kept: PathBuf,
}

impl Repair {
    /// Begins to repair the log at `path`: copies what is sound of it. It takes as much room again as the file.
    ///
    /// # Errors
    /// As [`Inspector::open`]; [`Corrupt`](StorageErrorKind::Corrupt) where a row beside the entries is damaged, so that no
    /// repair is safe; and I/O. The file stays as it is.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StorageError> {
        let path = path.as_ref();
        let name = Name::new(path.display());
        let inspector = Inspector::open(path)?;
        if let Some(damage) = inspector.rows_damage().iter().find(|damage| damage.is_promise()) {
            let what =
                format_args!("{damage}: what this node promised is not known any more, no repair is safe");
            return Err(name.damaged(what));
        }
        let scratch = Scratch::create(path, &name)?;
        let mut repair = Self { name, inspector, scratch, missing: Vec::new(), replaced: 0 };
        repair.copy_sound()?;
        Ok(repair)
    }

    /// The entries that are not there yet, by group and in order.
    pub fn missing(&self) -> &[(GroupId, RangeInclusive<Index>)] {
        &self.missing
    }

    /// Takes those of `entries` that are missing, and returns how many that were. They must come from a log of the same
    /// cluster: from the file of another member, or from one that serves reads.
    ///
    /// # Errors
    /// [`Invalid`](StorageErrorKind::Invalid) where one that is missing is of another term than the one that this node
    /// acknowledged, or of a group that it does not hold; none of `entries` is taken then. And I/O.
    pub fn replace_entries(&mut self, group: GroupId, entries: &[Entry]) -> Result<u64, StorageError> {
        let is_missing = |entry: &&Entry| {
            self.missing.iter().any(|(of, range)| *of == group && range.contains(&entry.index()))
        };
        let mut taken: Vec<Entry> = entries.iter().filter(is_missing).cloned().collect();
        taken.sort_by_key(Entry::index);
        taken.dedup_by_key(|entry| entry.index());
        let Some(log) = self.inspector.group(group) else {
            return Err(self.invalid(format_args!("holds nothing of group {group}")));
        };
        if let Some(wrong) = taken.iter().find(|entry| !belongs(log, entry)) {
            let term = log.outline.term(wrong.index()).unwrap_or_default();
            return Err(self.invalid(format_args!(
                "group {group}: entry {} is not the one that this node acknowledged, which is of term {term}; \
                 take another node's log",
                wrong.id
            )));
        }
        if taken.is_empty() {
            return Ok(0);
        }
        self.scratch.append(group, &taken, &self.name)?;
        let count = taken.len() as u64;
        self.replaced += count;
        for entry in taken {
            self.found(group, entry.index());
        }
        Ok(count)
    }

    /// Takes all missing entries that the log `healthy` of another node holds, and returns how many those are.
    ///
    /// # Errors
    /// [`Foreign`](StorageErrorKind::Foreign) where it is a log of another cluster, else as
    /// [`replace_entries`](Self::replace_entries).
    pub fn replace_from(&mut self, healthy: &Inspector) -> Result<u64, StorageError> {
        let cluster = |log: &Inspector| log.owner().map(|owner| owner.cluster);
        if cluster(healthy) != cluster(&self.inspector) {
            let what = format_args!("{} is not of the same cluster", healthy.path().display());
            return Err(self.name.error(StorageErrorKind::Foreign, what));
        }
        let mut count = 0;
        for (group, range) in self.missing.clone() {
            let sound = healthy.entries(group, range).filter_map(Result::ok);
            for batch in batches(sound) {
                count += self.replace_entries(group, &batch)?;
            }
        }
        Ok(count)
    }

    /// Puts the new file into the place of the damaged one, which is kept under another name.
    ///
    /// # Errors
    /// [`Corrupt`](StorageErrorKind::Corrupt) while entries are [`missing`](Self::missing); and I/O. The damaged file is in
    /// its place then, as it was.
    pub fn finish(mut self) -> Result<Repaired, StorageError> {
        if let Some((group, range)) = self.missing.first() {
            let (first, last) = (*range.start(), *range.end());
            let damage = Damage::Entries { group: *group, first, last };
            let what = format_args!("{damage}, and no log that was given holds them; give another node's");
            return Err(self.name.error(StorageErrorKind::Corrupt, what));
        }
        self.scratch.finish(&self.inspector, &self.name)?;
        let new = Inspector::open(&self.scratch.path)?;
        if !new.verify().is_sound() || new.groups() != self.inspector.groups() {
            return Err(self.name.error(
                StorageErrorKind::Io,
                "the repaired copy is not what was written to it, it was given up; check the device",
            ));
        }
        drop(new);
        let io = |e: io::Error| self.name.io(DOING, &e);
        let path = self.inspector.path();
        let kept = keep(path).map_err(io)?;
        fs::rename(&self.scratch.path, path).map_err(io)?;
        sync_folder_of(path).map_err(io)?;
        Ok(Repaired { replaced: self.replaced, kept })
    }

    fn copy_sound(&mut self) -> Result<(), StorageError> {
        let Self { inspector, scratch, missing, name, .. } = self;
        for log in inspector.groups() {
            let group = log.group;
            let sound = inspector.entries(group, ..).filter_map(|entry| match entry {
                Ok(entry) if belongs(log, &entry) => Some(entry),
                Ok(entry) => {
                    missing.push((group, entry.index()..=entry.index()));
                    None
                }
                Err(Damage::Entries { first, last, .. }) => {
                    missing.push((group, first..=last));
                    None
                }
                Err(_) => None,
            });
            for batch in batches(sound) {
                scratch.append(group, &batch, name)?;
            }
        }
        Ok(())
    }

    fn found(&mut self, group: GroupId, index: Index) {
        let at = self.missing.iter().position(|(of, range)| *of == group && range.contains(&index));
        let Some(at) = at else { return };
        let (_, range) = self.missing.remove(at);
        let (first, last) = range.into_inner();
        if index < last {
            self.missing.insert(at, (group, index + 1..=last));
        }
        if first < index {
            self.missing.insert(at, (group, first..=index - 1));
        }
    }

    fn invalid(&self, what: impl fmt::Display) -> StorageError {
        self.name.error(StorageErrorKind::Invalid, what)
    }
}

impl fmt::Debug for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, missing, replaced, .. } = self;
        f.debug_struct("Repair")
            .field("name", name)
            .field("missing", missing)
            .field("replaced", replaced)
            .finish_non_exhaustive()
    }
}

/// Whether an entry is the one that a log of this outline has at its index. A log without an outline knows no terms.
fn belongs(log: &GroupLog, entry: &Entry) -> bool {
    let known = log.outline.memberships.get(&entry.index());
    let membership = match (&entry.payload, known) {
        (Payload::Membership(membership), Some(known)) => **membership == *known,
        (_, known) => known.is_none(),
    };
    log.outline.term(entry.index()) == Some(entry.term()) && membership
}

/// Runs of entries without gaps, each of [`BATCH_BYTES`] at most if it is more than one.
fn batches(entries: impl Iterator<Item = Entry>) -> impl Iterator<Item = Vec<Entry>> {
    let mut entries = entries.peekable();
    std::iter::from_fn(move || {
        let mut batch = vec![entries.next()?];
        let mut bytes = batch[0].bytes();
        while let Some(next) = entries.next_if(|next| {
            bytes = bytes.saturating_add(next.bytes());
            bytes <= BATCH_BYTES && batch.last().is_some_and(|last| last.index() + 1 == next.index())
        }) {
            batch.push(next);
        }
        Some(batch)
    })
}

/// The damaged file under a second name.
fn keep(path: &Path) -> io::Result<PathBuf> {
    for number in 1_u32.. {
        let mut kept = OsString::from(path);
        kept.push(format!(".damaged-{number}"));
        let kept = PathBuf::from(kept);
        match fs::hard_link(path, &kept) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Ok(()) => return Ok(kept),
            // A file system without links.
            Err(_) => {
                fs::copy(path, &kept)?;
                fs::File::open(&kept)?.sync_all()?;
                return Ok(kept);
            }
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// The new file while it has another name. Dropping it removes it, if it still has that name.
struct Scratch {
    path: PathBuf,
    /// `None` once it is closed.
    database: Option<Database>,
    buffer: Vec<u8>,
}

impl Scratch {
    fn create(path: &Path, name: &Name) -> Result<Self, StorageError> {
        let mut scratch = OsString::from(path);
        scratch.push(format!(".repair-{}", std::process::id()));
        let path = PathBuf::from(scratch);
        let database = create_scratch(&path, name)?;
        Ok(Self { path, database: Some(database), buffer: Vec::new() })
    }

    /// Adds entries in runs without gaps.
    fn append(&mut self, group: GroupId, entries: &[Entry], name: &Name) -> Result<(), StorageError> {
        let txn = self.begin(name)?;
        {
            let mut log = txn.open_table(LOG).map_err(|e| name.redb(DOING, e))?;
            for run in entries.chunk_by(|a, b| a.index() + 1 == b.index()) {
                insert_entries(name, group, run, &mut self.buffer, &mut log)?;
            }
        }
        txn.commit().map_err(|e| name.redb(DOING, e))
    }

    /// Adds all that is not entries, and closes the file.
    fn finish(&mut self, from: &Inspector, name: &Name) -> Result<(), StorageError> {
        let txn = self.begin(name)?;
        let redb = |e: redb::StorageError| name.redb(DOING, e);
        {
            let mut groups = txn.open_table(GROUPS).map_err(|e| name.redb(DOING, e))?;
            for log in from.groups() {
                let GroupLog { group, hard_state, base, last, ref outline, ref snapshot } = *log;
                let state = GroupState { hard_state, base, last }.encode(group);
                groups.insert((group.0, GROUP_STATE), state.as_slice()).map_err(redb)?;
                let outline = seal_versioned(name, group, GROUP_OUTLINE, outline)?;
                groups.insert((group.0, GROUP_OUTLINE), outline.as_slice()).map_err(redb)?;
                if let Some(snapshot) = snapshot {
                    let snapshot = seal_versioned(name, group, GROUP_SNAPSHOT, snapshot)?;
                    groups.insert((group.0, GROUP_SNAPSHOT), snapshot.as_slice()).map_err(redb)?;
                }
            }
            if let Some(owner) = from.owner() {
                let identity =
                    Identity { cluster: owner.cluster, node: owner.node, claim: owner.claim }.encode();
                let mut store = txn.open_table(STORE).map_err(|e| name.redb(DOING, e))?;
                store.insert(STORE_IDENTITY, identity.as_slice()).map_err(redb)?;
            }
        }
        txn.commit().map_err(|e| name.redb(DOING, e))?;
        self.database.take().map_or(Ok(()), |database| database.close().map_err(|e| name.redb(DOING, e)))
    }

    fn begin(&self, name: &Name) -> Result<WriteTransaction, StorageError> {
        let closed = || name.redb(DOING, redb::Error::DatabaseClosed);
        let mut txn =
            self.database.as_ref().ok_or_else(closed)?.begin_write().map_err(|e| name.redb(DOING, e))?;
        txn.set_durability(Durability::Immediate).map_err(|e| name.redb(DOING, redb::Error::from(e)))?;
        Ok(txn)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.database = None;
        // It has its own name once the repair is finished; else it is of no use.
        let _ = fs::remove_file(&self.path);
    }
}
