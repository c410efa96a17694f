//! What committed means: durable on a majority, concluded by an entry of the leader's own term (paper, 5.4.2), never
//! changed, and held by every leader of a later term (Leader Completeness, paper, figure 3).

use std::collections::BTreeSet;

use super::logs::Logs;
use super::memberships::Memberships;
use super::{Broken, View};
use crate::testing::disk::Image;
use crate::testing::node::Node;
use crate::types::{EntryId, Index, NodeId, Term};

#[derive(Default)]
pub(super) struct Commits {
    committed: Vec<EntryId>,
    /// The term of the leader that was first seen to conclude each commit, ascending.
    concluded_in: Vec<Term>,
}

impl Commits {
    pub(super) fn committed(&self) -> &[EntryId] {
        &self.committed
    }

    /// The committed entry at `index`.
    pub(super) fn at(&self, index: Index) -> Option<EntryId> {
        let place = usize::try_from(index).ok()?.checked_sub(1)?;
        self.committed.get(place).copied()
    }

    /// A disk that knows of a commit from before the test began.
    pub(super) fn preloaded(&mut self, image: &Image) {
        for index in self.committed.len() as u64 + 1..=image.hard_state().commit {
            if let Some(entry) = image.entry(index) {
                self.committed.push(entry.id);
                self.concluded_in.push(entry.term());
            }
        }
    }

    /// A state was restored from a backup of another cluster. Its entries are gone; they count as of its last term.
    pub(super) fn restored(&mut self, last: EntryId) {
        self.committed = (1..=last.index).map(|index| EntryId::new(last.term, index)).collect();
        self.concluded_in = vec![last.term; self.committed.len()];
    }

    /// A node was elected: it holds all that was committed in earlier terms. (A leader of a *later* term may have
    /// committed more already, if this one learned late that it had won.)
    pub(super) fn elected(&self, view: &View<'_>, logs: &Logs) -> Result<(), Broken> {
        let earlier = self.concluded_in.partition_point(|&term| term < view.term);
        match self.at(earlier as u64) {
            Some(id) if logs.leader_term_at(view.term, id.index) != Some(id.term) => {
                Err(incomplete(view.term, id))
            }
            _ => Ok(()),
        }
    }

    /// A node's commit index may have moved.
    pub(super) fn advanced(
        &mut self,
        view: &View<'_>,
        led: bool,
        logs: &Logs,
        memberships: &Memberships,
        nodes: &[Node],
    ) -> Result<(), Broken> {
        let known = self.committed.len() as u64;
        if view.commit <= known {
            return Ok(());
        }
        if !led {
            return Err(Broken::new(
                "a follower learns of commits from a leader",
                format!("{} has commit {}; leaders concluded {known}", view.node, view.commit),
            ));
        }
        let last = logs.leader_term_at(view.term, view.commit);
        if last != Some(view.term) {
            return Err(Broken::new(
                "a leader concludes a commit only by an entry of its own term",
                format!("{} leads term {} and commits {last:?}.{}", view.node, view.term, view.commit),
            ));
        }
        let holds = |node: &&Node| {
            node.disk.image().holds(view.commit, last)
                || node.lost.iter().any(|image| image.holds(view.commit, last))
        };
        let durable: BTreeSet<NodeId> = nodes.iter().filter(holds).map(Node::id).collect();
        let (majority, membership) = memberships.is_majority(view, logs, &durable);
        if !majority {
            return Err(Broken::new(
                "what is committed is durable on a majority",
                format!(
                    "{} commits {}.{}, durable on {durable:?} of {membership}",
                    view.node, view.term, view.commit
                ),
            ));
        }
        for index in known + 1..=view.commit {
            let id = EntryId::new(logs.leader_term_at(view.term, index).unwrap_or_default(), index);
            for (leader, held) in logs.later_leaders_at(view.term, index) {
                if held != id.term {
                    return Err(incomplete(leader, id));
                }
            }
            self.committed.push(id);
            self.concluded_in.push(view.term);
        }
        Ok(())
    }
}

fn incomplete(leader: Term, id: EntryId) -> Broken {
    Broken::new(
        "a leader holds every entry committed in earlier terms",
        format!("the leader of term {leader} does not hold {id}"),
    )
}
