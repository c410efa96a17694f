//! The log against a plain vector of entries.

use proptest::prelude::*;

use super::Log;
use crate::types::{Entry, EntryId, Index, Outline, Payload, Term};

#[derive(Clone, Debug)]
enum Step {
    /// Append this many entries, in a term this much later.
    Append(u8, u8),
    /// Keep this share of the log, in 256ths.
    Truncate(u8),
    /// Let go of this share, down to this many bytes.
    Evict(u8, u8),
    /// Restart: only outline and last index are left.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1_u8..6, 0_u8..3).prop_map(|(count, later)| Step::Append(count, later)),
        1 => any::<u8>().prop_map(Step::Truncate),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(share, bytes)| Step::Evict(share, bytes)),
        1 => Just(Step::Restart),
    ]
}

fn term_of(model: &[Term], index: Index) -> Option<Term> {
    if index == 0 { Some(0) } else { model.get(usize::try_from(index - 1).ok()?).copied() }
}

proptest! {
    #[test]
    fn behaves_like_a_vector(steps in prop::collection::vec(step(), 1..60)) {
        let mut model: Vec<Term> = Vec::new();
        let mut log = Log::new(Outline::default(), 0);
        for step in steps {
            let share = |share: u8| (model.len() * usize::from(share) / 256) as Index;
            match step {
                Step::Append(count, later) => {
                    let term = model.last().copied().unwrap_or(1) + Term::from(later);
                    for _ in 0..count {
                        model.push(term);
                        log.append(Entry { id: EntryId::new(term, model.len() as Index), payload: Payload::Noop });
                    }
                }
                Step::Truncate(kept) => {
                    let kept = share(kept);
                    log.truncate(kept + 1);
                    model.truncate(usize::try_from(kept).unwrap());
                }
                Step::Evict(to, bytes) => log.evict(share(to), usize::from(bytes)),
                Step::Restart => {
                    prop_assert!(log.outline.fits(log.last_index()));
                    log = Log::new(log.outline.clone(), log.last_index());
                }
            }
            let last = model.len() as Index;
            prop_assert_eq!(log.last(), EntryId::new(term_of(&model, last).unwrap(), last));
            for index in 0..last + 2 {
                prop_assert_eq!(log.term(index), term_of(&model, index));
                for term in 0..6 {
                    let known = index.min(last);
                    let expected = (0..=known).rev().find(|&at| term_of(&model, at).unwrap() <= term).unwrap();
                    prop_assert_eq!(log.last_not_above(index, term).index, expected);
                }
            }
            let first = log.first_in_memory();
            prop_assert!(first <= last + 1);
            prop_assert!(first == 1 || log.slice(first - 1, last, 1000).is_none());
            if first <= last {
                let (entries, bytes) = log.slice(first, last, 130).unwrap();
                prop_assert_eq!(bytes, entries.iter().map(Entry::bytes).sum::<usize>());
                prop_assert!(entries.len() == 1 || bytes <= 130);
                for (entry, index) in entries.iter().zip(first..) {
                    prop_assert_eq!(entry.id, EntryId::new(term_of(&model, index).unwrap(), index));
                }
            }
        }
    }
}

#[test]
fn an_outline_is_given_away_only_as_far_as_the_log_is_written() {
    let mut log = Log::new(Outline::default(), 0);
    for (term, index) in [(1, 1), (1, 2), (3, 3)] {
        log.append(Entry { id: EntryId::new(term, index), payload: Payload::Noop });
    }
    let early = log.take_outline(2).unwrap();
    assert_eq!(early.terms, [EntryId::new(1, 1)]);
    assert_eq!(log.take_outline(3).unwrap().terms.len(), 2);
    assert_eq!(log.take_outline(3), None);
}
