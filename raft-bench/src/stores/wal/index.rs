//! What is held, and where its bytes are.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::ops::RangeInclusive;
use std::sync::Arc;

use raft_core::log_store::{LogSpan, LogState, Write};
use raft_core::types::{ClusterId, GroupId, HardState, Incarnation, Index, NodeId, Outline, SnapshotMeta};
use serde::{Deserialize, Serialize};

/// Whose log it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Owner {
    pub(super) cluster: ClusterId,
    pub(super) node: NodeId,
    pub(super) incarnation: Incarnation,
    pub(super) boot: u64,
}

/// What a group has beside its entries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rows {
    hard_state: HardState,
    outline: Outline,
    snapshot: Option<SnapshotMeta>,
    compacted: Index,
    last: Index,
}

/// Everything but entries.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Checkpoint {
    pub(super) owner: Option<Owner>,
    pub(super) groups: BTreeMap<GroupId, Rows>,
}

/// Where an entry's bytes are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    segment: u64,
    pub(super) offset: u64,
    pub(super) length: u32,
    /// What the entry counts for in limits.
    cost: u32,
}

impl Place {
    pub(super) const fn end(&self) -> u64 {
        self.offset + self.length as u64
    }
}

#[derive(Debug, Default)]
struct Group {
    rows: Rows,
    /// Of the newest entries: of all that are held, but while a log is being opened.
    places: VecDeque<Place>,
}

#[derive(Debug)]
struct Segment {
    /// For reading; the writer has its own.
    file: Arc<File>,
    /// How many of its entries are held.
    held: usize,
}

/// Entries to read from one segment.
pub(super) struct Found {
    pub(super) segment: u64,
    pub(super) file: Arc<File>,
    pub(super) places: Vec<Place>,
}

/// The log as it is on disk.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) owner: Option<Owner>,
    groups: BTreeMap<GroupId, Group>,
    segments: BTreeMap<u64, Segment>,
}

impl Log {
    pub(super) fn state(&self, group: GroupId) -> LogState {
        let rows = self.groups.get(&group).map(|group| group.rows.clone()).unwrap_or_default();
        LogState {
            hard_state: rows.hard_state,
            outline: rows.outline,
            snapshot: rows.snapshot,
            last: rows.last,
        }
    }

    pub(super) fn span(&self, group: GroupId) -> LogSpan {
        let rows = self.groups.get(&group).map(|group| &group.rows);
        rows.map(|rows| LogSpan { compacted: rows.compacted, last: rows.last }).unwrap_or_default()
    }

    pub(super) fn checkpoint(&self) -> Checkpoint {
        let groups = self.groups.iter().map(|(&id, group)| (id, group.rows.clone())).collect();
        Checkpoint { owner: self.owner, groups }
    }

    /// The state before the oldest segment.
    pub(super) fn begin(&mut self, checkpoint: Checkpoint) {
        self.owner = checkpoint.owner;
        let groups = checkpoint.groups.into_iter();
        self.groups = groups.map(|(id, rows)| (id, Group { rows, places: VecDeque::new() })).collect();
    }

    pub(super) fn add_segment(&mut self, number: u64, file: File) {
        self.segments.insert(number, Segment { file: Arc::new(file), held: 0 });
    }

    /// Takes out the oldest segment, if it holds nothing any more and is not the newest.
    pub(super) fn drop_oldest(&mut self) -> Option<u64> {
        let (&oldest, segment) = self.segments.first_key_value()?;
        if segment.held > 0 || self.segments.len() == 1 {
            return None;
        }
        self.segments.remove(&oldest);
        Some(oldest)
    }

    /// A write that fits and is on disk in `segment`: each entry between two offsets.
    pub(super) fn apply(&mut self, write: &Write, segment: u64, lies: impl IntoIterator<Item = (u64, u64)>) {
        let Group { rows, places } = self.groups.entry(write.group).or_default();
        let mut gone = Vec::new();
        if let Some(snapshot) = &write.snapshot {
            rows.snapshot = Some(snapshot.clone());
        }
        if let Some(from) = write.truncate_from {
            let kept_last = rows.last.min(from.saturating_sub(1));
            let count = usize::try_from(rows.last - kept_last).unwrap_or(usize::MAX);
            gone.extend(places.drain(places.len().saturating_sub(count)..));
            rows.last = kept_last;
        }
        if let Some(segment) = self.segments.get_mut(&segment) {
            segment.held += write.entries.len();
        }
        for (entry, (offset, end)) in write.entries.iter().zip(lies) {
            // The largest entry is far below 4 GiB.
            let (length, cost) = ((end - offset) as u32, entry.bytes() as u32);
            places.push_back(Place { segment, offset, length, cost });
            rows.last = entry.index();
        }
        rows.hard_state = write.hard_state.unwrap_or(rows.hard_state);
        if let Some(outline) = &write.outline {
            rows.outline = outline.clone();
        }
        if let Some(mark) = write.compact_to.filter(|&mark| mark > rows.compacted) {
            let stay = usize::try_from(rows.last.saturating_sub(mark)).unwrap_or(usize::MAX);
            gone.extend(places.drain(..places.len().saturating_sub(stay)));
            rows.compacted = mark;
            rows.last = rows.last.max(mark);
        }
        for place in gone {
            if let Some(segment) = self.segments.get_mut(&place.segment) {
                segment.held -= 1;
            }
        }
    }

    /// A group and an entry of it that is in no segment.
    pub(super) fn missing(&self) -> Option<(GroupId, Index)> {
        self.groups.iter().find_map(|(&id, Group { rows, places })| {
            let held = rows.last.checked_sub(rows.compacted);
            (Some(places.len() as Index) != held).then_some((id, rows.compacted.saturating_add(1)))
        })
    }

    /// Where the entries of `range` are, as many as a read gives.
    pub(super) fn find(
        &self,
        id: GroupId,
        range: RangeInclusive<Index>,
        max_bytes: usize,
    ) -> Result<Vec<Found>, String> {
        let (first, last) = range.into_inner();
        let LogSpan { compacted, last: end } = self.span(id);
        let within = compacted < first && first <= last && last <= end;
        let group = self.groups.get(&id).filter(|_| within).ok_or_else(|| {
            format!("group {id}: entries {first} to {last} were asked for, but it holds those after {compacted} up to {end}")
        })?;
        let skip = (first - compacted - 1) as usize;
        let (mut found, mut bytes): (Vec<Found>, usize) = (Vec::new(), 0);
        for place in group.places.range(skip..=skip + (last - first) as usize) {
            bytes = bytes.saturating_add(place.cost as usize);
            if bytes > max_bytes && !found.is_empty() {
                break;
            }
            match found.last_mut().filter(|found| found.segment == place.segment) {
                Some(found) => found.places.push(*place),
                None => {
                    let segment = self.segments.get(&place.segment);
                    let file = Arc::clone(&segment.ok_or("its segment is gone; this is a bug")?.file);
                    found.push(Found { segment: place.segment, file, places: vec![*place] });
                }
            }
        }
        Ok(found)
    }
}
