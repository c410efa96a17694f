//! What must always hold, of one state and from one state to the next; checked after every input, in every build.

use std::fmt;

use super::transfer::Transfer;
use super::{Engine, NUMBER_LIMIT, Role};
use crate::types::{EntryId, Index, NodeId, Term};
use crate::write::LogState;

/// The group's own state breaks a rule that safety rests on. The group stops; the process does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The rule, in words.
    pub rule: &'static str,
    /// The numbers that break it.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "broken invariant: {}: {}", self.rule, self.detail)
    }
}

impl std::error::Error for Violation {}

/// The numbers that the invariants speak of.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Summary {
    term: Term,
    vote: Option<NodeId>,
    leads: bool,
    /// Whether another node was told to take over.
    told: bool,
    base: Index,
    last: Index,
    commit: Index,
    applying: Index,
    applied: Index,
    durable: Index,
    durable_term: Term,
    handed: Index,
    snapshot: Index,
    installing: bool,
}

impl Engine {
    pub(super) fn summary(&self) -> Summary {
        Summary {
            term: self.term,
            vote: self.vote,
            leads: matches!(self.role, Role::Leader(_)),
            told: matches!(&self.role, Role::Leader(leader)
                if leader.transfer.as_ref().is_some_and(Transfer::is_told)),
            base: self.log.base().index,
            last: self.log.last_index(),
            commit: self.commit,
            applying: self.applying,
            applied: self.applied,
            durable: self.durable.index,
            durable_term: self.durable.term,
            handed: self.durable.handed,
            snapshot: self.snapshots.index(),
            installing: self.snapshots.installing,
        }
    }
}

impl Summary {
    pub(super) fn check(&self, before: &Self) -> Result<(), Violation> {
        let holds = |holds: bool, rule: &'static str| {
            if holds { Ok(()) } else { Err(Violation { rule, detail: format!("{self:?} after {before:?}") }) }
        };
        holds(self.base <= self.commit && self.commit <= self.last, "base <= commit <= last")?;
        holds(
            self.applied <= self.applying && self.applying <= self.commit,
            "applied <= applying <= commit",
        )?;
        holds(self.applying <= self.durable, "only what is durable here is applied")?;
        holds(self.base <= self.snapshot, "the log is not compacted beyond a durable snapshot")?;
        holds(self.snapshot <= self.commit, "a snapshot covers only what is committed")?;
        holds(
            self.installing || self.snapshot == before.snapshot || self.snapshot <= self.applying,
            "a snapshot covers only what is applied, or is being installed",
        )?;
        holds(self.snapshot >= before.snapshot, "snapshots never go back")?;
        holds(self.durable <= self.handed && self.handed <= self.last, "durable <= handed out <= last")?;
        holds(self.durable_term <= self.term, "the durable term is not ahead")?;
        holds(self.term >= before.term, "the term never goes back")?;
        let vote_kept = self.term > before.term || before.vote.is_none() || self.vote == before.vote;
        holds(vote_kept, "one vote a term")?;
        holds(self.commit >= before.commit, "the commit index never goes back")?;
        holds(self.applied >= before.applied, "the applied index never goes back")?;
        let led_on = self.leads && before.leads && self.term == before.term;
        holds(!led_on || self.last >= before.last, "a leader only appends to its log")?;
        let handing_over = led_on && self.told && before.told;
        holds(!handing_over || self.last == before.last, "a leader that hands over takes no entries")
    }
}

/// Above what peers can bring a node to, and far below where counting on would overflow.
const RESTORED_LIMIT: u64 = 2 * NUMBER_LIMIT;

/// Whether what a store gives back can be a group's state.
pub(crate) fn check_restored(state: &LogState, applied: Index) -> Result<(), Violation> {
    let LogState { hard_state, outline, snapshot, last } = state;
    let wrong = |rule, detail| Err(Violation { rule, detail });
    let highest = hard_state.term.max(*last).max(outline.base.index);
    if highest > RESTORED_LIMIT {
        return wrong("stored terms and indexes leave room to count on", format!("{highest}"));
    }
    if !outline.fits(*last) {
        return wrong("the stored outline fits the stored log", format!("{outline:?}, last index {last}"));
    }
    let last_term = outline.term(*last).unwrap_or(0);
    if last_term > hard_state.term {
        let detail = format!("last term {last_term}, term {}", hard_state.term);
        return wrong("no stored entry is of a later term than the stored one", detail);
    }
    if hard_state.commit > *last {
        let detail = format!("commit index {}, last index {last}", hard_state.commit);
        return wrong("the stored commit index is within the stored log", detail);
    }
    let covered = snapshot.as_ref().map_or(EntryId::ZERO, |meta| meta.last);
    if covered.index < outline.base.index {
        let detail = format!("snapshot of {covered}, log from {}", outline.base.index + 1);
        return wrong("what the log does not hold any more is in a stored snapshot", detail);
    }
    if covered.index > *last || outline.term(covered.index) != Some(covered.term) {
        let detail = format!("snapshot of {covered}, last index {last}");
        return wrong("the stored snapshot is one of the stored log", detail);
    }
    if applied > *last || applied < outline.base.index {
        let detail = format!("applied index {applied}, log from {} to {last}", outline.base.index + 1);
        return wrong("the state machine goes on within the stored log", detail);
    }
    Ok(())
}
