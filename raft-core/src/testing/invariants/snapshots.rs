//! Snapshots: each covers exactly what its node has applied, with the configuration in force there, and nothing is compacted
//! that is not in a durable one (paper, 7). The order is snapshot, applied, commit, last.

use std::collections::BTreeMap;

use super::commits::Commits;
use super::{Broken, View};
use crate::engine::Ready;
use crate::membership::Membership;
use crate::testing::node::{Applied, Node};
use crate::testing::shelf::Shelf;
use crate::types::{Entry, EntryId, Index, Payload, SnapshotMeta};

#[derive(Default)]
pub(super) struct Snapshots {
    /// The state at each index, by the first node that was there.
    states: BTreeMap<Index, Applied>,
    /// Every configuration that was ever in a log.
    memberships: BTreeMap<EntryId, Membership>,
}

impl Snapshots {
    /// A configuration that was there before the test began.
    pub(super) fn learn(&mut self, id: EntryId, membership: &Membership) {
        self.memberships.insert(id, membership.clone());
    }

    /// History is rewritten, as a script does that puts logs on disks: what was seen before is no measure.
    pub(super) fn forget_states(&mut self) {
        self.states.clear();
    }

    /// A node has applied so much, or was restored to it.
    pub(super) fn reached(&mut self, node: &Node) -> Result<(), Broken> {
        let applied = node.applied;
        let first = *self.states.entry(applied.last.index).or_insert(applied);
        if first == applied {
            return Ok(());
        }
        Err(Broken::new(
            "all states at one index are the same",
            format!("{} is at {applied:?}, another was at {first:?}", node.id()),
        ))
    }

    pub(super) fn check(
        &mut self,
        view: &View<'_>,
        ready: &Ready,
        shelf: &Shelf,
        handed_to_apply: Index,
        commits: &Commits,
    ) -> Result<(), Broken> {
        let written = ready.write.iter().flat_map(|write| &write.entries);
        for Entry { id, payload } in written {
            if let Payload::Membership(membership) = payload {
                self.learn(*id, membership);
            }
        }
        if let Some(request) = &ready.snapshot {
            if request.last.index != handed_to_apply {
                return Err(Broken::new(
                    "a snapshot is taken of what was handed out to be applied",
                    format!("{} takes {}, handed out {handed_to_apply}", view.node, request.last),
                ));
            }
            self.covers(view, request.last, &request.membership, commits)?;
        }
        for meta in ready.send_snapshots.iter().map(|send| &send.meta).chain(&ready.restore) {
            self.is_whole(view, meta, shelf, commits)?;
        }
        if let Some(meta) = &ready.restore
            && view.image.state().snapshot.as_ref() != Some(meta)
        {
            return Err(Broken::new(
                "a snapshot is restored when the log store names it",
                format!("{} restores {}", view.node, meta.last),
            ));
        }
        let Some(write) = &ready.write else { return Ok(()) };
        if let Some(meta) = &write.snapshot {
            self.is_whole(view, meta, shelf, commits)?;
            // Installed, its configuration is the one in force, until a later entry has another.
            let outline = write.outline.as_ref().filter(|outline| outline.base == meta.last);
            if let Some(outline) = outline
                && outline.memberships.range(..=meta.last.index).next_back().map(|(_, membership)| membership)
                    != (!meta.membership.is_empty()).then_some(&meta.membership)
            {
                return Err(Broken::new(
                    "a log that begins after a snapshot begins with its configuration",
                    format!("{} after {}", view.node, meta.last),
                ));
            }
        }
        let ahead = view.ahead.state().snapshot;
        let covered = write.snapshot.as_ref().or(ahead.as_ref()).map_or(0, |meta| meta.last.index);
        if let Some(to) = write.compact_to
            && to > covered
        {
            return Err(Broken::new(
                "nothing is compacted that no durable snapshot covers",
                format!("{} compacts to {to}, its snapshot covers {covered}", view.node),
            ));
        }
        Ok(())
    }

    fn is_whole(
        &self,
        view: &View<'_>,
        meta: &SnapshotMeta,
        shelf: &Shelf,
        commits: &Commits,
    ) -> Result<(), Broken> {
        if shelf.get(meta.last).is_none_or(|file| file.meta != *meta) {
            return Err(Broken::new(
                "a snapshot is used when its file is durable",
                format!("{} uses {}", view.node, meta.last),
            ));
        }
        self.covers(view, meta.last, &meta.membership, commits)
    }

    fn covers(
        &self,
        view: &View<'_>,
        last: EntryId,
        membership: &Membership,
        commits: &Commits,
    ) -> Result<(), Broken> {
        if commits.at(last.index) != Some(last) {
            return Err(Broken::new(
                "a snapshot covers only what is committed",
                format!("{}: {last}; committed is {:?}", view.node, commits.at(last.index)),
            ));
        }
        let in_force =
            self.memberships.iter().rev().find(|&(id, _)| {
                id.index <= last.index && (id.index == 0 || commits.at(id.index) == Some(*id))
            });
        if in_force.map(|(_, membership)| membership) == Some(membership) {
            return Ok(());
        }
        Err(Broken::new(
            "a snapshot holds the configuration in force where it ends",
            format!("{}: {last} has {membership}, in force was {in_force:?}", view.node),
        ))
    }
}
