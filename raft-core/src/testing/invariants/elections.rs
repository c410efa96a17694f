//! Election Safety: at most one leader a term (paper, figure 3); at most one vote, and one campaign, a node and term,
//! crashes included (paper, 5.2).

use std::collections::BTreeMap;

use super::{Broken, View};
use crate::message::{Envelope, Message};
use crate::types::{EntryId, Incarnation, NodeId, Term};

#[derive(Default)]
pub(super) struct Elections {
    leaders: BTreeMap<Term, NodeId>,
    /// By the node and its data folder: who lost it is another voter, and is refused as the one before.
    votes: BTreeMap<(NodeId, Incarnation, Term), NodeId>,
    campaigns: BTreeMap<(NodeId, Incarnation, Term), Campaign>,
}

#[derive(PartialEq, Eq)]
struct Campaign {
    run: u64,
    last: EntryId,
}

impl Elections {
    pub(super) fn leader(&self, term: Term) -> Option<NodeId> {
        self.leaders.get(&term).copied()
    }

    /// A node leads; returns whether that is news.
    pub(super) fn elected(&mut self, view: &View<'_>) -> Result<bool, Broken> {
        match self.leaders.insert(view.term, view.node) {
            None => Ok(true),
            Some(other) if other == view.node => Ok(false),
            Some(other) => Err(Broken::new(
                "a term has at most one leader",
                format!("{other} and {} lead term {}", view.node, view.term),
            )),
        }
    }

    pub(super) fn sent(&mut self, view: &View<'_>, envelope: &Envelope) -> Result<(), Broken> {
        match &envelope.message {
            Message::VoteRequest(m) if !m.pre_vote => {
                let campaign = Campaign { run: view.run, last: m.last };
                let first = self.campaigns.entry((view.node, view.incarnation, m.term)).or_insert(campaign);
                if (first.run, first.last) != (view.run, m.last) {
                    return Err(Broken::new(
                        "a node campaigns once in a term, with one log",
                        format!(
                            "{} campaigned in term {} with {} in run {}, now with {} in run {}",
                            view.node, m.term, first.last, first.run, m.last, view.run
                        ),
                    ));
                }
                self.vote(view, m.term, view.node)
            }
            Message::VoteResponse(m) if m.granted && !m.pre_vote => self.vote(view, m.term, envelope.to.node),
            Message::AppendRequest(m) if self.leader(m.term) != Some(view.node) => Err(Broken::new(
                "only the leader of a term sends appends in it",
                format!("{} sends in term {}", view.node, m.term),
            )),
            _ => Ok(()),
        }
    }

    fn vote(&mut self, view: &View<'_>, term: Term, candidate: NodeId) -> Result<(), Broken> {
        let voter = view.node;
        let first = *self.votes.entry((voter, view.incarnation, term)).or_insert(candidate);
        if first == candidate {
            return Ok(());
        }
        Err(Broken::new(
            "a node votes at most once in a term",
            format!("{voter} votes in term {term} for {first} and for {candidate}"),
        ))
    }
}
