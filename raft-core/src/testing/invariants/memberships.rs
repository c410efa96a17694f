//! Changing the membership (paper, 6; thesis, 4): one step at a time, each after the one before is committed, votes only by way of a
//! joint configuration, and never before the leader has committed in its own term. Majorities are counted here from the
//! configurations themselves.

use std::collections::{BTreeMap, BTreeSet};

use super::logs::Logs;
use super::{Broken, View};
use crate::engine::{Event, Ready, RoleName};
use crate::membership::Membership;
use crate::types::{EntryId, Index, NodeId, Payload, Term};

#[derive(Default)]
pub(super) struct Memberships {
    /// Every configuration that was ever in a log.
    seen: BTreeMap<EntryId, Membership>,
}

impl Memberships {
    /// A configuration that was there before the test began.
    pub(super) fn learn(&mut self, id: EntryId, membership: &Membership) {
        self.seen.insert(id, membership.clone());
    }

    /// The configuration that the leader of a term works by: the latest in its log.
    fn of_leader(&self, logs: &Logs, term: Term, last: Index) -> Option<(EntryId, &Membership)> {
        let held = |id: &EntryId| {
            id.index == 0 || (id.index <= last && logs.leader_term_at(term, id.index) == Some(id.term))
        };
        let of_leader = self.seen.iter().filter(|(id, _)| held(id)).map(|(&id, membership)| (id, membership));
        of_leader.max_by_key(|(id, _)| id.index)
    }

    /// Whether `holders` are a majority of each half of the configuration that the leader works by; and that configuration.
    pub(super) fn is_majority(
        &self,
        view: &View<'_>,
        logs: &Logs,
        holders: &BTreeSet<NodeId>,
    ) -> (bool, String) {
        let Some((_, membership)) = self.of_leader(logs, view.term, view.last.index) else {
            return (false, "no configuration".to_owned());
        };
        let half = |voters: &BTreeSet<NodeId>| {
            let count = voters
                .iter()
                .filter(|voter| holders.contains(voter) && !membership.suspended.contains(voter));
            count.count() > voters.len() / 2
        };
        let joint = membership.outgoing.is_empty() || half(&membership.outgoing);
        (half(&membership.voters) && joint, membership.to_string())
    }

    /// Learns what a node writes and, before that, what a leader appends; checks each of its steps.
    pub(super) fn check(&mut self, view: &View<'_>, ready: &Ready, logs: &Logs) -> Result<(), Broken> {
        for event in &ready.events {
            if let Event::MembershipAppended { index, membership } = event
                && view.role == RoleName::Leader
            {
                self.appended(view, *index, membership, logs)?;
            }
        }
        for entry in ready.write.iter().flat_map(|write| &write.entries) {
            if let Payload::Membership(membership) = &entry.payload {
                self.learn(entry.id, membership);
            }
        }
        Ok(())
    }

    fn appended(
        &mut self,
        view: &View<'_>,
        index: Index,
        next: &Membership,
        logs: &Logs,
    ) -> Result<(), Broken> {
        let broken =
            |property, detail: String| Err(Broken::new(property, format!("{}: {detail}", view.node)));
        if let Some((before, in_force)) = self.of_leader(logs, view.term, index - 1) {
            if logs.leader_term_at(view.term, view.commit) != Some(view.term) {
                return broken(
                    "no configuration before the leader has committed in its term",
                    format!("{next} at {index}, commit {}", view.commit),
                );
            }
            if before.index > view.commit {
                return broken(
                    "at most one configuration is uncommitted",
                    format!("{next} at {index} after {in_force} of {before}, commit {}", view.commit),
                );
            }
            let same = next.voters == in_force.voters && next.outgoing == in_force.outgoing;
            let enters = in_force.outgoing.is_empty() && next.outgoing == in_force.voters;
            let leaves = next.voters == in_force.voters && next.outgoing.is_empty();
            if !(same || enters || leaves) {
                return broken(
                    "votes change only by way of a joint configuration",
                    format!("{next} after {in_force}"),
                );
            }
            if next.lineage != in_force.lineage {
                return broken("a change keeps the lineage", format!("{next} after {in_force}"));
            }
        }
        if let Err(error) = next.validate() {
            return broken("each configuration can be lived in", format!("{next}: {error}"));
        }
        self.learn(EntryId::new(view.term, index), next);
        Ok(())
    }

    /// What a restarted node takes for the configuration in force is the latest that its disk holds.
    pub(super) fn started(view: &View<'_>, in_force: &Membership) -> Result<(), Broken> {
        let entries = view.image.entries().iter().rev();
        let latest = entries.into_iter().find_map(|entry| match &entry.payload {
            Payload::Membership(membership) => Some(&**membership),
            _ => None,
        });
        match latest {
            Some(latest) if latest != in_force => Err(Broken::new(
                "a restart forgets no configuration",
                format!("{} holds {latest} and goes by {in_force}", view.node),
            )),
            _ => Ok(()),
        }
    }
}
