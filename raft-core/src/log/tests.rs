//! The log against a plain vector of entries.

use proptest::prelude::*;

use super::Log;
use crate::membership::Membership;
use crate::types::{Entry, EntryId, Index, NodeId, Outline, Payload, Term};

#[derive(Clone, Debug)]
enum Step {
    /// Append this many entries, in a term this much later.
    Append(u8, u8),
    /// Keep this share of the log, in 256ths.
    Truncate(u8),
    /// Let go of this share, down to this many bytes.
    Evict(u8, u8),
    /// Compact this share of what is not compacted.
    Compact(u8),
    /// A snapshot that ends this much later takes the log's place.
    Replace(u8),
    /// Restart: only outline and last index are left.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1_u8..6, 0_u8..3).prop_map(|(count, later)| Step::Append(count, later)),
        1 => any::<u8>().prop_map(Step::Truncate),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(share, bytes)| Step::Evict(share, bytes)),
        1 => any::<u8>().prop_map(Step::Compact),
        1 => (0_u8..4).prop_map(Step::Replace),
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
        let mut base = 0;
        // Of each entry the bytes, where this run knows them.
        let mut weights: Vec<Option<usize>> = Vec::new();
        let mut log = Log::new(Outline::default(), 0);
        for step in steps {
            let share = |share: u8| (model.len() * usize::from(share) / 256) as Index;
            match step {
                Step::Append(count, later) => {
                    let term = model.last().copied().unwrap_or(1) + Term::from(later);
                    for _ in 0..count {
                        model.push(term);
                        let entry = Entry { id: EntryId::new(term, model.len() as Index), payload: Payload::Noop };
                        weights.push(Some(entry.bytes()));
                        log.append(entry);
                    }
                }
                Step::Truncate(kept) => {
                    let kept = share(kept).max(base);
                    log.truncate(kept + 1);
                    model.truncate(usize::try_from(kept).unwrap());
                    weights.truncate(model.len());
                }
                Step::Evict(to, bytes) => log.evict(share(to), usize::from(bytes)),
                Step::Compact(to) => {
                    base = base.max(share(to));
                    log.compact(base);
                }
                Step::Replace(later) => {
                    let term = model.last().copied().unwrap_or(1);
                    model.extend(std::iter::repeat_n(term, usize::from(later) + 1));
                    base = model.len() as Index;
                    weights.resize(model.len(), None);
                    let membership = Membership { learners: [NodeId(base)].into(), ..Membership::default() };
                    log.replace(EntryId::new(term, base), membership.clone());
                    prop_assert_eq!(log.membership(), Some((base, &membership)));
                    prop_assert_eq!(log.membership_at(base), Some(&membership));
                    prop_assert!(log.take_outline(base).is_some());
                }
                Step::Restart => {
                    weights.fill(None);
                    prop_assert!(log.outline.fits(log.last_index()));
                    log = Log::new(log.outline.clone(), log.last_index());
                }
            }
            let last = model.len() as Index;
            prop_assert_eq!(log.last(), EntryId::new(term_of(&model, last).unwrap(), last));
            prop_assert_eq!(log.base(), EntryId::new(term_of(&model, base).unwrap(), base));
            for index in 0..base {
                prop_assert_eq!(log.term(index), None);
            }
            // Pieces are larger than all entries here together.
            let known = weights.iter().rev().take_while(|weight| weight.is_some()).count() as Index;
            let kept = log.first_within(last, 1 << 20);
            prop_assert!(kept > last - known.min(last), "{kept} {last} {known}");
            for index in base..last + 2 {
                prop_assert_eq!(log.term(index), term_of(&model, index));
                for term in 0..6 {
                    let known = index.min(last);
                    let expected =
                        (base..=known).rev().find(|&at| term_of(&model, at).unwrap() <= term).unwrap_or(base);
                    prop_assert_eq!(log.last_not_above(index, term).index, expected);
                }
            }
            let first = log.first_in_memory();
            prop_assert!(first <= last + 1);
            prop_assert!(first > base);
            prop_assert!(first == base + 1 || log.slice(first - 1, last, 1000).is_none());
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

#[test]
fn the_weight_of_the_newest_entries_is_known_about() {
    const PIECE: usize = 256 << 10;
    let mut log = Log::new(Outline::default(), 0);
    for index in 1..=4096 {
        let payload = Payload::Command(vec![0; 1024 - Entry::OVERHEAD_BYTES].into());
        log.append(Entry { id: EntryId::new(1, index), payload });
    }
    for kept in [0, 1, PIECE - 1, PIECE, 3 * PIECE, 100 * PIECE] {
        let first = log.first_within(4096, kept);
        let bytes = (4097 - first) as usize * 1024;
        assert!(bytes <= kept && (first == 1 || bytes + PIECE > kept), "{kept}: from {first}, {bytes} bytes");
    }
    log.compact(3000);
    assert_eq!(log.first_within(4096, 100 * PIECE), 2817);
    log.truncate(3500);
    assert!(log.first_within(3500, PIECE) >= 3072);
}

#[test]
fn compaction_keeps_the_configuration_in_force() {
    let membership = |learner| Membership { learners: [NodeId(learner)].into(), ..Membership::default() };
    let mut log = Log::new(Outline::default(), 0);
    for index in 1..=6 {
        let payload = match index {
            1 | 4 => Payload::Membership(Box::new(membership(index))),
            _ => Payload::Noop,
        };
        log.append(Entry { id: EntryId::new(index.div_ceil(2), index), payload });
    }
    log.compact(3);
    assert_eq!(log.membership_at(3), Some(&membership(1)));
    assert_eq!(log.membership(), Some((4, &membership(4))));
    let outline = log.take_outline(6).unwrap();
    assert_eq!(outline.base, EntryId::new(2, 3));
    assert_eq!(outline.terms, [EntryId::new(2, 4), EntryId::new(3, 5)]);
    assert!(outline.fits(6) && outline.memberships.len() == 2);
    log.compact(6);
    let outline = log.take_outline(6).unwrap();
    assert!(outline.terms.is_empty() && outline.fits(6));
    assert_eq!(outline.memberships.keys().copied().collect::<Vec<_>>(), [4]);
}
