//! A leader answers a read by a round that was sent after the read came, and that a majority answered in the leader's term (thesis,
//! 6.4): an answer to anything else proves nothing. That no answer is older than what was told before is checked by who asks.

use std::collections::{BTreeMap, BTreeSet};

use super::logs::Logs;
use super::memberships::Memberships;
use super::{Broken, View};
use crate::engine::{Ready, RoleName};
use crate::message::{AppendOutcome, Envelope, Message};
use crate::types::{NodeId, Term};

#[derive(Default)]
pub(super) struct Reads {
    /// The last round that the leader of a term sent.
    sent: BTreeMap<Term, u64>,
    /// The last round of a term that a node answered as its follower.
    answered: BTreeMap<(Term, NodeId), u64>,
    begun: BTreeMap<NodeId, Begun>,
}

/// The reads of one run of a node.
#[derive(Default)]
struct Begun {
    run: u64,
    /// How many began in all.
    count: u64,
    /// Those on a leader: its term, and the last round that it had sent when each came.
    open: BTreeMap<u64, (Term, u64)>,
}

impl Reads {
    pub(super) fn check(
        &mut self,
        view: &View<'_>,
        ready: &Ready,
        logs: &Logs,
        memberships: &Memberships,
    ) -> Result<(), Broken> {
        let leads = view.role == RoleName::Leader;
        let begun = self.begun.entry(view.node).or_default();
        if begun.run != view.run {
            *begun = Begun { run: view.run, ..Begun::default() };
        }
        let sent = self.sent.get(&view.term).copied().unwrap_or(0);
        for id in begun.count + 1..=view.reads_begun {
            if leads {
                begun.open.insert(id, (view.term, sent));
            }
        }
        begun.count = view.reads_begun;
        for id in &ready.failed_reads {
            begun.open.remove(&id.0);
        }
        for read in &ready.reads {
            let Some((term, before)) = begun.open.remove(&read.id.0) else { continue };
            if read.until.is_some() {
                continue;
            }
            let answered = |node: &NodeId| {
                *node == view.node || self.answered.get(&(term, *node)).is_some_and(|&round| round > before)
            };
            let membership = view.membership;
            let answered: BTreeSet<NodeId> = membership.members().filter(answered).collect();
            let (majority, known) = memberships.is_majority(view, logs, &answered);
            // It may have appended another configuration since it confirmed the round, and nobody has that yet.
            let of_newest = membership.quorum(|voter| u64::from(answered.contains(&voter))) == 1;
            if term != view.term || !(majority || of_newest) {
                return Err(Broken::new(
                    "a read is confirmed by a majority that answered a round sent after it came",
                    format!(
                        "{} leads term {} and answers a read that came after round {before} of term {term}; later rounds were \
                         answered by {answered:?} of {known}",
                        view.node, view.term
                    ),
                ));
            }
        }
        Ok(())
    }

    pub(super) fn sent(&mut self, view: &View<'_>, envelope: &Envelope) {
        match &envelope.message {
            Message::AppendRequest(m) => {
                let sent = self.sent.entry(m.term).or_default();
                *sent = m.round.max(*sent);
            }
            Message::AppendResponse(m) if m.outcome != AppendOutcome::Stale => {
                let answered = self.answered.entry((m.term, view.node)).or_default();
                *answered = m.round.max(*answered);
            }
            _ => {}
        }
    }
}
