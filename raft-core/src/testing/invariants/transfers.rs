//! Handing over: only who holds the whole log is told to campaign, nothing is taken meanwhile, it ends in time, and nothing of it
//! is left to the next term (thesis, 3.10).

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Broken, View};
use crate::engine::RoleName;
use crate::membership::Lease;
use crate::message::{Envelope, Message};
use crate::testing::node::Node;
use crate::types::{EntryId, NodeId, Term, Time};

#[derive(Default)]
pub(super) struct Transfers {
    under_way: BTreeMap<NodeId, UnderWay>,
}

struct UnderWay {
    term: Term,
    run: u64,
    deadline: Time,
    latest: Time,
    /// The leader's last entry when it told another to take over.
    told: Option<EntryId>,
}

impl Transfers {
    pub(super) fn check(&mut self, view: &View<'_>, timeout: Duration) -> Result<(), Broken> {
        let Some((to, deadline)) = view.transfer else {
            self.under_way.remove(&view.node);
            return Ok(());
        };
        // A lease sets the election timeout, and another lease may have come since the transfer began.
        let timeout = view.membership.lease.map_or(timeout, Lease::election_timeout);
        let fresh =
            || UnderWay { term: view.term, run: view.run, deadline, latest: view.now + timeout, told: None };
        let before = self.under_way.entry(view.node).or_insert_with(fresh);
        if (before.term, before.run, before.deadline) != (view.term, view.run, deadline) {
            *before = fresh();
        }
        let latest = before.latest;
        if view.role != RoleName::Leader || view.now >= deadline || deadline > latest {
            return Err(Broken::new(
                "a transfer ends with the role, and after an election timeout",
                format!("{} is {:?} and hands over to {to} until {deadline:?}", view.node, view.role),
            ));
        }
        match before.told {
            Some(told) if told != view.last => Err(Broken::new(
                "a leader that told another to take over takes nothing",
                format!("{} ended at {told} and ends at {}", view.node, view.last),
            )),
            _ => Ok(()),
        }
    }

    pub(super) fn sent(
        &mut self,
        view: &View<'_>,
        envelope: &Envelope,
        nodes: &[Node],
    ) -> Result<(), Broken> {
        let Message::TimeoutNow(told) = &envelope.message else { return Ok(()) };
        let target = nodes.iter().find(|node| node.id() == envelope.to.node);
        let held = target.and_then(|node| node.disk.image().term(view.last.index));
        // A later leader may have changed what the target had promised, and this one does not know yet.
        let holds = target.is_some_and(|node| {
            let image = node.disk.image();
            // Or its folder was lost, and the leader cannot know that either.
            let mut images = node.lost.iter().chain([image]);
            images.any(|image| image.holds(view.last.index, Some(view.last.term)))
                || image.hard_state().term > view.term
        });
        let voter = view.membership.voters.contains(&envelope.to.node);
        if told.term != view.term || view.role != RoleName::Leader || !holds || !voter {
            return Err(Broken::new(
                "a leader tells only a voter that holds its whole log to take over",
                format!(
                    "{} {:?} of term {}, last {}, tells {} in term {}, which holds term {held:?} there",
                    view.node, view.role, view.term, view.last, envelope.to.node, told.term
                ),
            ));
        }
        if let Some(under_way) = self.under_way.get_mut(&view.node) {
            under_way.told = Some(view.last);
        }
        Ok(())
    }
}
