//! One group's snapshots in their place: what they are called, which are there, which may go.

use std::io::{self, Write};

use super::super::trace;
use super::file::{self, Header, SnapshotFile};
use super::place::{File, SnapshotPlace};
use crate::membership::Membership;
use crate::session_table::SessionTable;
use crate::types::{ClusterId, EntryId, GroupId, Index, SnapshotMeta};

/// How many snapshots are kept: the newest, and one to fall back on should it be damaged.
const KEPT: usize = 2;

const WHOLE: &str = ".snap";
const PART: &str = ".part";
const NEW: &str = ".new";

/// A group's snapshots. A clone is the same folder.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    place: SnapshotPlace,
    pub(super) cluster: ClusterId,
    pub(super) group: GroupId,
    pub(super) max_bytes: u64,
}

impl Folder {
    pub(crate) const fn new(
        place: SnapshotPlace,
        cluster: ClusterId,
        group: GroupId,
        max_bytes: u64,
    ) -> Self {
        Self { place, cluster, group, max_bytes }
    }

    pub(crate) const fn is_none(&self) -> bool {
        self.place.is_none()
    }

    pub(crate) fn place_name(&self) -> String {
        self.place.name()
    }

    pub(crate) fn prepare(&self) -> io::Result<()> {
        self.place.prepare()
    }

    fn prefix(&self) -> String {
        format!("{:016x}-", self.group.0)
    }

    fn whole_name(&self, last: EntryId) -> String {
        format!("{}{:016x}-{:016x}{WHOLE}", self.prefix(), last.term, last.index)
    }

    fn part_name(&self, meta: &SnapshotMeta) -> String {
        let SnapshotMeta { last, size_bytes, checksum, .. } = meta;
        let prefix = self.prefix();
        format!("{prefix}{:016x}-{:016x}-{size_bytes:016x}-{checksum:08x}{PART}", last.term, last.index)
    }

    /// The last entry that a name speaks of.
    fn parse(&self, name: &str) -> Option<EntryId> {
        let rest = name.strip_prefix(&self.prefix())?;
        let number = |from: usize| u64::from_str_radix(rest.get(from..from + 16)?, 16).ok();
        Some(EntryId::new(number(0)?, number(17)?))
    }

    /// The whole snapshots that are there, the newest first.
    pub(crate) fn snapshots(&self) -> io::Result<Vec<EntryId>> {
        let names = self.place.list()?;
        let whole = names.iter().filter(|name| name.ends_with(WHOLE));
        let mut found: Vec<EntryId> = whole.filter_map(|name| self.parse(name)).collect();
        found.sort_unstable_by_key(|last| std::cmp::Reverse((last.index, last.term)));
        Ok(found)
    }

    /// Writes a snapshot, durably; nothing is left of one that fails.
    pub(super) fn write(
        &self,
        last: EntryId,
        membership: Membership,
        sessions: &SessionTable,
        state: impl FnOnce(&mut dyn Write) -> io::Result<()>,
        observe: &mut dyn FnMut(u64) -> io::Result<()>,
    ) -> io::Result<SnapshotMeta> {
        let name = format!("{}{NEW}", self.prefix());
        // However this ends, also by a panic of the machine's view, the unfinished file goes.
        let unfinished = Unfinished { place: &self.place, name: &name };
        let mut new = self.place.create(unfinished.name)?;
        let header = Header { cluster: self.cluster, group: self.group, last, membership };
        let max_bytes = self.max_bytes;
        let meta = file::write(&mut new, header, sessions, state, &mut |bytes| {
            if bytes > max_bytes {
                let text = format!("the snapshot is larger than max_snapshot_bytes, {max_bytes}");
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
            }
            observe(bytes)
        })?;
        self.place.rename(unfinished.name, &self.whole_name(last))?;
        std::mem::forget(unfinished);
        Ok(meta)
    }

    /// Opens the snapshot of `last` without checking it.
    pub(super) fn open(&self, last: EntryId) -> io::Result<File> {
        self.place.open(&self.whole_name(last))
    }

    /// Opens the snapshot of `last` and checks all of it.
    pub(crate) fn checked(&self, last: EntryId) -> io::Result<SnapshotFile> {
        let found = SnapshotFile::check(self.open(last)?)?;
        let Header { cluster, group, last: covers, .. } = found.header();
        if (*cluster, *group, *covers) != (self.cluster, self.group, last) {
            let text =
                format!("it is of cluster {cluster}, group {group}, entry {covers}: it does not belong here");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(found)
    }

    /// Opens the snapshot of `meta` and checks that it is that one.
    pub(crate) fn checked_as(&self, meta: &SnapshotMeta) -> io::Result<SnapshotFile> {
        let found = self.checked(meta.last)?;
        if found.meta() != *meta {
            let text = "it is not the one that the log was compacted behind";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(found)
    }

    /// The length of the snapshot of `last`, if it is there.
    pub(crate) fn size_of(&self, last: EntryId) -> io::Result<Option<u64>> {
        match self.open(last) {
            Ok(file) => file.len().map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The beginning of a snapshot that is coming in, and how much of it is there. What is there of others goes: at most one
    /// comes in at a time.
    pub(super) fn part(&self, meta: &SnapshotMeta) -> io::Result<(File, u64)> {
        let name = self.part_name(meta);
        let mut there = false;
        for other in self.place.list()?.iter().filter(|other| other.ends_with(PART)) {
            if *other == name {
                there = true;
            } else if self.parse(other).is_some() {
                self.place.remove(other)?;
            }
        }
        if !there {
            return Ok((self.place.create(&name)?, 0));
        }
        let file = self.place.resume(&name)?;
        let bytes = file.len()?;
        if bytes > meta.size_bytes {
            return Ok((self.place.create(&name)?, 0));
        }
        Ok((file, bytes))
    }

    pub(super) fn remove_part(&self, meta: &SnapshotMeta) -> io::Result<()> {
        self.place.remove(&self.part_name(meta))
    }

    /// Checks a part that has all its bytes, which are synced, and makes it a snapshot, durably.
    pub(super) fn complete_part(&self, meta: &SnapshotMeta) -> io::Result<()> {
        let name = self.part_name(meta);
        let found = SnapshotFile::check(self.place.open(&name)?)?;
        let Header { cluster, group, .. } = found.header();
        if (*cluster, *group) != (self.cluster, self.group) || found.meta() != *meta {
            let text = "it is another than was offered";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        self.place.rename(&name, &self.whole_name(meta.last))
    }

    pub(crate) fn remove(&self, last: EntryId) -> io::Result<()> {
        self.place.remove(&self.whole_name(last))
    }

    /// Removes what `newest`, which the log store names, has made needless: all but two snapshots, and parts of older ones.
    pub(crate) fn prune(&self, newest: Index) -> io::Result<()> {
        let old = self.snapshots()?.into_iter().filter(|last| last.index <= newest);
        for last in old.skip(KEPT) {
            self.remove(last)?;
        }
        for name in self.place.list()?.iter().filter(|name| name.ends_with(PART)) {
            if self.parse(name).is_some_and(|last| last.index <= newest) {
                self.place.remove(name)?;
            }
        }
        Ok(())
    }

    /// At start: removes what a crash left unfinished, and snapshots that the log store does not know of; the newest that it
    /// knows of is `newest`.
    pub(crate) fn clean(&self, newest: Index) -> io::Result<()> {
        self.place.remove(&format!("{}{NEW}", self.prefix()))?;
        for last in self.snapshots()?.into_iter().filter(|last| last.index > newest) {
            self.remove(last)?;
        }
        self.prune(newest)
    }
}

/// A file that is removed unless it is forgotten.
struct Unfinished<'a> {
    place: &'a SnapshotPlace,
    name: &'a str,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.place.remove(self.name) {
            trace::warn!(%error, "an unfinished snapshot could not be removed");
        }
    }
}
