//! Nothing is promised that the disk does not back at that moment: a vote, a campaign, a matched index (paper, figure 2:
//! "updated on stable storage before responding"); nor does a leader count itself for what its disk does not hold (thesis,
//! 10.2.1: it may write in parallel with its followers, and must wait for its own disk before it counts itself).

use super::logs::Logs;
use super::{Broken, View};
use crate::message::{AppendOutcome, Envelope, Message};
use crate::types::NodeId;

pub(super) fn check(view: &View<'_>, envelope: &Envelope, logs: &Logs) -> Result<(), Broken> {
    let durable = view.image.hard_state();
    let backed = |term, vote: NodeId| durable.term == term && durable.vote == Some(vote);
    match &envelope.message {
        Message::VoteRequest(m) if !m.pre_vote => {
            if !backed(m.term, view.node) {
                return Err(Broken::new(
                    "a vote request leaves when the candidate's own vote is durable",
                    format!("{} campaigns in term {}; durable is {durable:?}", view.node, m.term),
                ));
            }
            if view.image.last() != m.last {
                return Err(Broken::new(
                    "a vote request advertises a durable log",
                    format!("{} says {}; durable is {}", view.node, m.last, view.image.last()),
                ));
            }
        }
        Message::VoteResponse(m) if m.granted && !m.pre_vote && !backed(m.term, envelope.to.node) => {
            return Err(Broken::new(
                "a vote leaves when it is durable",
                format!(
                    "{} votes for {} in term {}; durable is {durable:?}",
                    view.node, envelope.to.node, m.term
                ),
            ));
        }
        Message::AppendResponse(m) => {
            let AppendOutcome::Accepted { matched, received } = m.outcome else { return Ok(()) };
            if matched == 0 {
                return Ok(());
            }
            if durable.term != m.term {
                return Err(Broken::new(
                    "a match is promised when the term is durable",
                    format!("{} promises {matched} in term {}; durable is {durable:?}", view.node, m.term),
                ));
            }
            let held = view.image.term(matched);
            if !view.image.holds(matched, logs.leader_term_at(m.term, matched)) {
                return Err(Broken::new(
                    "a match is durable and the leader's",
                    format!(
                        "{} promises {matched} in term {}; it holds term {held:?} there, the leader {:?}",
                        view.node,
                        m.term,
                        logs.leader_term_at(m.term, matched)
                    ),
                ));
            }
            if received < matched {
                return Err(Broken::new(
                    "what is promised was received",
                    format!("{} promises {matched} and received {received}", view.node),
                ));
            }
        }
        _ => {}
    }
    Ok(())
}

/// What a leader counts as durable on itself is durable, and of its own log.
pub(super) fn own_count(view: &View<'_>, logs: &Logs) -> Result<(), Broken> {
    if view.image.holds(view.durable, logs.leader_term_at(view.term, view.durable)) {
        return Ok(());
    }
    Err(Broken::new(
        "a leader counts itself only for what its disk holds",
        format!(
            "{} leads term {} and counts itself to {}; its disk ends at {}",
            view.node,
            view.term,
            view.durable,
            view.image.last()
        ),
    ))
}
