//! What only goes forward (paper, figure 2): the term and the vote over the whole life of a node, commit and applied within a run; and
//! their order: applied, then commit, then the last entry.

use super::{Broken, View};
use crate::engine::Ready;
use crate::types::{HardState, Index, Term};

pub(super) struct Progress {
    nodes: Vec<Seen>,
}

#[derive(Clone, Default)]
struct Seen {
    term: Term,
    commit: Index,
    applied: Index,
    handed_to_apply: Index,
    handed_to_disk: HardState,
    write: u64,
}

impl Progress {
    pub(super) fn new(size: usize) -> Self {
        Self { nodes: vec![Seen::default(); size] }
    }

    /// How far the node was told to apply.
    pub(super) fn handed_to_apply(&self, place: usize) -> Index {
        self.nodes[place].handed_to_apply
    }

    /// A node starts, with so much restored from a snapshot.
    pub(super) fn started(&mut self, view: &View<'_>, restored: Index) -> Result<(), Broken> {
        let durable = view.image.hard_state();
        self.nodes[view.place] = Seen {
            term: durable.term,
            handed_to_disk: durable,
            handed_to_apply: restored,
            ..Seen::default()
        };
        if view.term != durable.term {
            return Err(Broken::new(
                "a node starts in its durable term",
                format!("{} starts in term {}, durable is {}", view.node, view.term, durable.term),
            ));
        }
        Ok(())
    }

    pub(super) fn check(&mut self, view: &View<'_>, ready: &Ready) -> Result<(), Broken> {
        let seen = &mut self.nodes[view.place];
        for (name, before, now) in [
            ("the term", seen.term, view.term),
            ("the commit index", seen.commit, view.commit),
            ("the applied index", seen.applied, view.applied),
        ] {
            if now < before {
                return Err(Broken::new(
                    "term, commit and applied never go back",
                    format!("{}: {name} goes from {before} to {now}", view.node),
                ));
            }
        }
        if view.applied > view.commit || view.commit > view.last.index {
            return Err(Broken::new(
                "applied, commit and last are in order",
                format!(
                    "{}: applied {}, commit {}, last {}",
                    view.node, view.applied, view.commit, view.last
                ),
            ));
        }
        (seen.term, seen.commit, seen.applied) = (view.term, view.commit, view.applied);
        if let Some(write) = &ready.write {
            if write.number <= seen.write {
                return Err(Broken::new(
                    "writes are numbered upwards",
                    format!("{}: {} after {}", view.node, write.number, seen.write),
                ));
            }
            seen.write = write.number;
            if let Some(state) = write.hard_state {
                let before = seen.handed_to_disk;
                let vote_changed =
                    before.term == state.term && before.vote.is_some() && before.vote != state.vote;
                if state.term < before.term || vote_changed || state.commit < before.commit {
                    return Err(Broken::new(
                        "a written hard state never goes back",
                        format!("{}: {state:?} after {before:?}", view.node),
                    ));
                }
                seen.handed_to_disk = state;
            }
        }
        if let Some(meta) = &ready.restore {
            if meta.last.index <= seen.handed_to_apply {
                return Err(Broken::new(
                    "a restored snapshot is ahead of what is applied",
                    format!("{}: {} after {}", view.node, meta.last, seen.handed_to_apply),
                ));
            }
            seen.handed_to_apply = meta.last.index;
        }
        for entry in &ready.apply {
            if entry.index() != seen.handed_to_apply + 1 {
                return Err(Broken::new(
                    "entries are applied once and in order",
                    format!("{}: {} after {}", view.node, entry.id, seen.handed_to_apply),
                ));
            }
            seen.handed_to_apply = entry.index();
        }
        Ok(())
    }
}
