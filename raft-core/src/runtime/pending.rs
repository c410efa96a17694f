//! Proposals that wait for their entry to be applied.

use std::collections::VecDeque;
use std::vec;

use super::error::RaftError;
use super::mailbox::ReplyTo;
use crate::types::{Entry, EntryId, Index, Time};

/// Open proposals, ascending by index without overlap, and ascending by expiry.
#[derive(Default)]
pub(super) struct Pending {
    runs: VecDeque<Run>,
    count: usize,
}

/// Proposals that got consecutive entries of one term.
struct Run {
    first: EntryId,
    expires: Time,
    replies: vec::IntoIter<ReplyTo>,
}

impl Run {
    /// The index after the last one.
    fn end(&self) -> Index {
        self.first.index + self.replies.len() as Index
    }

    /// Parts with the proposals below `end`.
    fn split_to(&mut self, end: Index) -> Waiters {
        let first = self.first.index;
        let replies = if end >= self.end() {
            std::mem::take(&mut self.replies)
        } else {
            let count = usize::try_from(end.saturating_sub(first)).unwrap_or(usize::MAX);
            self.replies.by_ref().take(count).collect::<Vec<_>>().into_iter()
        };
        self.first.index += replies.len() as Index;
        Waiters { first, expires: self.expires, replies }
    }
}

/// Callers whose entries are committed: they get the replies of the entries from `first` on.
pub(super) struct Waiters {
    pub(super) first: Index,
    pub(super) expires: Time,
    pub(super) replies: vec::IntoIter<ReplyTo>,
}

impl Pending {
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// When the first of them expires.
    pub(super) fn expires(&self) -> Option<Time> {
        self.runs.front().map(|run| run.expires)
    }

    /// Adds proposals that got consecutive entries from `first` on. What waits at these places from an earlier term was
    /// truncated here. It is not committed now, since this node leads and does not hold it; but another node may hold it, lead
    /// later, and commit it then, if this node's entries reach no majority. So its fate is unknown.
    pub(super) fn push(&mut self, first: EntryId, replies: Vec<ReplyTo>, expires: Time) {
        while let Some(last) = self.runs.back_mut().filter(|last| last.end() > first.index) {
            let keep = last.split_to(first.index);
            let lost = std::mem::replace(&mut last.replies, keep.replies);
            last.first.index = keep.first;
            self.count -= lost.len();
            answer_all(lost, &RaftError::Unknown);
            if last.replies.len() == 0 {
                self.runs.pop_back();
            }
        }
        self.count += replies.len();
        self.runs.push_back(Run { first, expires, replies: replies.into_iter() });
    }

    /// Takes out those whose fate `entries`, which are committed, decide. Returns who gets replies; tells the others that
    /// their command was not committed.
    pub(super) fn resolve(&mut self, entries: &[Entry]) -> Vec<Waiters> {
        let mut resolved = Vec::new();
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return resolved };
        while let Some(run) = self.runs.front_mut().filter(|run| run.first.index <= last.index()) {
            // Terms never go back in a log: where the run's first and last entry are of its term, all are.
            let term = run.first.term;
            let term_at = |index: Index| {
                index
                    .checked_sub(first.index())
                    .and_then(|offset| entries.get(usize::try_from(offset).ok()?))
                    .map(Entry::term)
            };
            let from = run.first.index;
            if from < first.index() {
                // A snapshot stands in for these entries: nobody can tell what they were.
                let unknown = run.split_to(first.index());
                self.count -= unknown.replies.len();
                answer_all(unknown.replies, &RaftError::Unknown);
                if run.replies.len() == 0 {
                    self.runs.pop_front();
                }
                continue;
            }
            let end = run.end().min(last.index() + 1);
            let waiters = if term_at(from) == Some(term) && term_at(end - 1) == Some(term) {
                run.split_to(end)
            } else if term_at(from) == Some(term) {
                run.split_to(from + 1)
            } else {
                let lost = run.split_to(from + 1);
                self.count -= lost.replies.len();
                answer_all(lost.replies, &RaftError::NotCommitted);
                Waiters { first: from, expires: run.expires, replies: Vec::new().into_iter() }
            };
            if run.replies.len() == 0 {
                self.runs.pop_front();
            }
            if waiters.replies.len() > 0 {
                self.count -= waiters.replies.len();
                resolved.push(waiters);
            }
        }
        resolved
    }

    /// A snapshot takes the place of everything up to `last`: nobody can tell what the entries there were.
    pub(super) fn overtake(&mut self, last: Index) {
        while let Some(run) = self.runs.front_mut().filter(|run| run.first.index <= last) {
            let unknown = run.split_to(last + 1);
            self.count -= unknown.replies.len();
            answer_all(unknown.replies, &RaftError::Unknown);
            if run.replies.len() == 0 {
                self.runs.pop_front();
            }
        }
    }

    /// Gives up those whose time is over. Returns how many.
    pub(super) fn expire(&mut self, now: Time) -> usize {
        let before = self.count;
        while let Some(run) = self.runs.pop_front_if(|run| run.expires <= now) {
            self.count -= run.replies.len();
            answer_all(run.replies, &RaftError::Unknown);
        }
        before - self.count
    }

    /// Gives all of them up.
    pub(super) fn abandon(&mut self) {
        for run in self.runs.drain(..) {
            answer_all(run.replies, &RaftError::Unknown);
        }
        self.count = 0;
    }
}

/// A caller who is gone does not mind.
fn answer_all(replies: impl IntoIterator<Item = ReplyTo>, error: &RaftError) {
    for reply in replies {
        let _gone = reply.send(Err(error.clone()));
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::sync::oneshot;

    use super::*;
    use crate::types::Payload;

    type Answer = oneshot::Receiver<Result<Bytes, RaftError>>;

    fn callers(count: usize) -> (Vec<ReplyTo>, Vec<Answer>) {
        (0..count).map(|_| oneshot::channel()).unzip()
    }

    fn entries(ids: &[(u64, u64)]) -> Vec<Entry> {
        ids.iter()
            .map(|&(term, index)| Entry { id: EntryId::new(term, index), payload: Payload::Noop })
            .collect()
    }

    fn ms(ms: u64) -> Time {
        Time::from_millis(ms)
    }

    #[test]
    fn entries_resolve_parts_and_wholes_of_runs() {
        let mut pending = Pending::default();
        let (replies, _answers) = callers(3);
        pending.push(EntryId::new(2, 5), replies, ms(1));
        let (more, _more_answers) = callers(2);
        pending.push(EntryId::new(2, 8), more, ms(2));
        assert!(pending.resolve(&entries(&[(1, 3), (2, 4)])).is_empty());
        let parts = |waiters: Vec<Waiters>| -> Vec<(u64, usize)> {
            waiters.into_iter().map(|w| (w.first, w.replies.len())).collect()
        };
        assert_eq!(parts(pending.resolve(&entries(&[(2, 5), (2, 6)]))), [(5, 2)]);
        assert_eq!(parts(pending.resolve(&entries(&[(2, 7), (2, 8), (2, 9), (3, 10)]))), [(7, 1), (8, 2)]);
        assert_eq!(pending.len(), 0);
    }

    #[test]
    fn another_term_at_the_place_means_not_committed() {
        let mut pending = Pending::default();
        let (replies, mut answers) = callers(3);
        pending.push(EntryId::new(2, 5), replies, ms(1));
        let waiters = pending.resolve(&entries(&[(2, 5), (3, 6), (3, 7)]));
        assert_eq!(waiters.len(), 1);
        assert!(answers[0].try_recv().is_err(), "committed: answered by the applier");
        assert_eq!(answers[1].try_recv(), Ok(Err(RaftError::NotCommitted)));
        assert_eq!(answers[2].try_recv(), Ok(Err(RaftError::NotCommitted)));
    }

    #[test]
    fn a_later_term_takes_the_places_of_an_earlier_one() {
        let mut pending = Pending::default();
        let (old, mut old_answers) = callers(3);
        pending.push(EntryId::new(2, 5), old, ms(1));
        let (new, _new_answers) = callers(2);
        pending.push(EntryId::new(4, 6), new, ms(2));
        assert_eq!(old_answers[1].try_recv(), Ok(Err(RaftError::Unknown)));
        assert_eq!(old_answers[2].try_recv(), Ok(Err(RaftError::Unknown)));
        assert_eq!(pending.len(), 3);
        assert_eq!(pending.resolve(&entries(&[(2, 5), (4, 6), (4, 7)])).len(), 2);
        assert!(old_answers[0].try_recv().is_err());
    }

    #[test]
    fn expiry_is_unknown_and_in_order() {
        let mut pending = Pending::default();
        let (first, mut first_answers) = callers(1);
        pending.push(EntryId::new(1, 1), first, ms(10));
        let (second, mut second_answers) = callers(1);
        pending.push(EntryId::new(1, 2), second, ms(20));
        assert_eq!(pending.expire(ms(10)), 1);
        assert_eq!(first_answers[0].try_recv(), Ok(Err(RaftError::Unknown)));
        assert_eq!(pending.expires(), Some(ms(20)));
        pending.abandon();
        assert_eq!(second_answers[0].try_recv(), Ok(Err(RaftError::Unknown)));
    }
}
