//! Decides whether a history of a key-value store is linearizable: whether its calls could have taken effect one at a
//! time, each between its call and its return, on a single copy (Herlihy and Wing, 1990).
//!
//! The search is Wing and Gong's (1993) with Lowe's memory of states (2017): take a call that may come next, see whether
//! what it returned fits, go on, go back where nothing fits, and never look at the same state twice. Keys are independent,
//! so each is searched alone. Two shortcuts keep it fast and lose nothing: a call that fits and changes nothing is taken
//! at once, without alternatives; a call whose outcome is unknown is taken only right before one that could see it.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::BuildHasherDefault;

/// What a call did to one key, and what it saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Wrote the value.
    Put(u64),
    /// Saw the value, or none.
    Get(Option<u64>),
    /// Found the value `seen`, and wrote `new` if that was `expected`.
    CompareAndSwap {
        /// The value that it asked for.
        expected: Option<u64>,
        /// The value that it wrote.
        new: u64,
        /// The value that it found. Of no meaning where the outcome is unknown.
        seen: Option<u64>,
    },
}

/// One call of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// The key.
    pub key: u64,
    /// What was done.
    pub operation: Operation,
    /// When it was called: any clock that all calls share, no two moments alike.
    pub called: u64,
    /// When it returned; `None` where the outcome is unknown: it may have taken effect, or may yet.
    pub returned: Option<u64>,
}

/// What the search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The history is linearizable.
    Linearizable,
    /// It is not.
    Violation {
        /// The key whose calls cannot be put in order.
        key: u64,
        /// How far the longest order came, and what could not come next.
        detail: String,
    },
    /// The search gave up after looking at as many states as it may.
    Undecided {
        /// The key that it was at.
        key: u64,
    },
}

/// How many states are looked at for one key before giving up.
pub const MAX_STATES: usize = 1_000_000;

/// Checks a history. The store was empty before.
pub fn check(history: &[Call]) -> Verdict {
    let mut keys: BTreeMap<u64, Vec<Call>> = BTreeMap::new();
    for call in history {
        keys.entry(call.key).or_default().push(*call);
    }
    for (key, mut calls) in keys {
        calls.sort_by_key(|call| call.called);
        let verdict = Search::new(key, &calls).run();
        if verdict != Verdict::Linearizable {
            return verdict;
        }
    }
    Verdict::Linearizable
}

/// A call that returned.
#[derive(Clone, Copy)]
struct Known {
    operation: Operation,
    called: u64,
    returned: u64,
}

struct Search {
    key: u64,
    /// Calls that returned, by the time of their call.
    known: Vec<Known>,
    /// Writes whose outcome is unknown, with the time of their call.
    open: Vec<(Operation, u64)>,
}

/// Which calls were taken, and the value that they left.
#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    /// All known calls before this one were taken.
    low: usize,
    /// Bits of the known calls from `low` on that were taken too; no zero words at the end.
    window: Vec<u64>,
    /// Bits of the open calls that were taken.
    open: Vec<u64>,
    value: Option<u64>,
}

impl State {
    fn has(&self, index: usize) -> bool {
        index < self.low || bit(&self.window, index - self.low)
    }

    fn take(&mut self, index: usize) {
        set(&mut self.window, index - self.low);
        let mut advance = 0;
        while bit(&self.window, advance) {
            advance += 1;
        }
        if advance > 0 {
            self.low += advance;
            shift(&mut self.window, advance);
        }
    }
}

fn bit(words: &[u64], index: usize) -> bool {
    words.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
}

fn set(words: &mut Vec<u64>, index: usize) {
    if words.len() <= index / 64 {
        words.resize(index / 64 + 1, 0);
    }
    words[index / 64] |= 1 << (index % 64);
}

fn shift(words: &mut Vec<u64>, by: usize) {
    words.drain(..(by / 64).min(words.len()));
    let bits = by % 64;
    if bits > 0 {
        for place in 0..words.len() {
            let above = words.get(place + 1).copied().unwrap_or(0);
            words[place] = words[place] >> bits | above << (64 - bits);
        }
    }
    while words.last() == Some(&0) {
        words.pop();
    }
}

/// The value after the operation, if what it answered fits `value`.
fn after(operation: Operation, value: Option<u64>) -> Option<Option<u64>> {
    match operation {
        Operation::Put(new) => Some(Some(new)),
        Operation::Get(seen) => (seen == value).then_some(value),
        Operation::CompareAndSwap { expected, new, seen } => {
            (seen == value).then_some(if seen == expected { Some(new) } else { value })
        }
    }
}

/// The value after an operation of unknown outcome, where it changes it.
fn after_open(operation: Operation, value: Option<u64>) -> Option<u64> {
    match operation {
        Operation::Put(new) => Some(new),
        Operation::CompareAndSwap { expected, new, .. } if expected == value => Some(new),
        _ => None,
    }
}

impl Search {
    fn new(key: u64, calls: &[Call]) -> Self {
        let mut search = Self { key, known: Vec::new(), open: Vec::new() };
        for call in calls {
            match (call.returned, call.operation) {
                (Some(returned), operation) => {
                    search.known.push(Known { operation, called: call.called, returned });
                }
                (None, Operation::Get(_)) => {}
                (None, operation) => search.open.push((operation, call.called)),
            }
        }
        search.forget_unseen();
        search
    }

    /// Drops the open writes that nobody saw, neither directly nor through another open write that somebody saw: a history
    /// that is in order with them is in order without them.
    fn forget_unseen(&mut self) {
        let mut seen: BTreeSet<u64> = BTreeSet::new();
        for call in &self.known {
            match call.operation {
                Operation::Put(_) => {}
                Operation::Get(value) | Operation::CompareAndSwap { seen: value, .. } => seen.extend(value),
            }
        }
        loop {
            let before = seen.len();
            for (operation, _) in &self.open {
                if let Operation::CompareAndSwap { expected: Some(expected), new, .. } = operation
                    && seen.contains(new)
                {
                    seen.insert(*expected);
                }
            }
            if seen.len() == before {
                break;
            }
        }
        self.open.retain(|(operation, _)| match operation {
            Operation::Put(new) | Operation::CompareAndSwap { new, .. } => seen.contains(new),
            Operation::Get(_) => false,
        });
    }

    fn run(&self) -> Verdict {
        let start = State { low: 0, window: Vec::new(), open: Vec::new(), value: None };
        let mut seen: HashSet<State, BuildHasherDefault<DefaultHasher>> = HashSet::default();
        let mut furthest = start.clone();
        let mut todo = vec![start];
        while let Some(state) = todo.pop() {
            if state.low == self.known.len() {
                return Verdict::Linearizable;
            }
            if state.low > furthest.low {
                furthest = state.clone();
            }
            if seen.len() >= MAX_STATES {
                return Verdict::Undecided { key: self.key };
            }
            if seen.insert(state.clone()) {
                self.follow(&state, &mut todo);
            }
        }
        Verdict::Violation { key: self.key, detail: self.describe(&furthest) }
    }

    /// The known calls that may come next: those called before any other that is left had returned.
    fn candidates(&self, state: &State) -> (Vec<usize>, u64) {
        let mut first_return = u64::MAX;
        let mut candidates = Vec::new();
        for (index, call) in self.known.iter().enumerate().skip(state.low) {
            if call.called > first_return {
                break;
            }
            if !state.has(index) {
                first_return = first_return.min(call.returned);
                candidates.push(index);
            }
        }
        candidates.retain(|&index| self.known[index].called < first_return);
        (candidates, first_return)
    }

    fn follow(&self, state: &State, todo: &mut Vec<State>) {
        let (mut candidates, first_return) = self.candidates(state);
        let next = |index: usize, value: Option<u64>| {
            let mut next = state.clone();
            next.take(index);
            next.value = value;
            next
        };
        for &index in &candidates {
            if after(self.known[index].operation, state.value) == Some(state.value) {
                todo.push(next(index, state.value));
                return;
            }
        }
        let may_open = |place: usize| !bit(&state.open, place) && self.open[place].1 < first_return;
        for place in (0..self.open.len()).filter(|&place| may_open(place)) {
            let Some(value) = after_open(self.open[place].0, state.value) else { continue };
            let seen_by_known = candidates.iter().any(|&index| match self.known[index].operation {
                Operation::Put(_) => false,
                operation => after(operation, Some(value)).is_some(),
            });
            let seen_by_open = (0..self.open.len()).filter(|&other| other != place && may_open(other)).any(
                |other| matches!(self.open[other].0, Operation::CompareAndSwap { expected, .. } if expected == Some(value)),
            );
            if Some(value) != state.value && (seen_by_known || seen_by_open) {
                let mut next = state.clone();
                set(&mut next.open, place);
                next.value = Some(value);
                todo.push(next);
            }
        }
        // The one that returned first is tried first: it is on top of the stack.
        candidates.sort_by_key(|&index| std::cmp::Reverse(self.known[index].returned));
        for index in candidates {
            if let Some(value) = after(self.known[index].operation, state.value) {
                todo.push(next(index, value));
            }
        }
    }

    fn describe(&self, state: &State) -> String {
        use std::fmt::Write as _;
        let mut text =
            format!("{} of {} calls fit; then, with value {:?}:", state.low, self.known.len(), state.value);
        for index in self.candidates(state).0 {
            let call = &self.known[index];
            let _ = write!(text, " {:?} called {} returned {};", call.operation, call.called, call.returned);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    fn call(operation: Operation, called: u64, returned: impl Into<Option<u64>>) -> Call {
        Call { key: 1, operation, called, returned: returned.into() }
    }

    fn put(value: u64, called: u64, returned: impl Into<Option<u64>>) -> Call {
        call(Operation::Put(value), called, returned)
    }

    fn get(value: impl Into<Option<u64>>, called: u64, returned: u64) -> Call {
        call(Operation::Get(value.into()), called, returned)
    }

    fn cas(expected: u64, new: u64, seen: u64, called: u64, returned: impl Into<Option<u64>>) -> Call {
        let (expected, seen) = (Some(expected), Some(seen));
        call(Operation::CompareAndSwap { expected, new, seen }, called, returned)
    }

    fn good(history: &[Call]) {
        assert_eq!(check(history), Verdict::Linearizable);
    }

    fn bad(history: &[Call]) {
        assert!(matches!(check(history), Verdict::Violation { key: 1, .. }), "{history:?}");
    }

    #[test]
    fn known_good_histories() {
        good(&[]);
        good(&[get(None, 1, 2), put(1, 3, 4), get(1, 5, 6)]);
        // Concurrent: either order.
        good(&[put(1, 1, 10), get(None, 2, 3), get(1, 4, 5)]);
        good(&[put(1, 1, 10), put(2, 2, 9), get(2, 11, 12)]);
        good(&[put(1, 1, 10), put(2, 2, 9), get(1, 11, 12)]);
        // A compare-and-swap that fails saw another value.
        good(&[put(1, 1, 2), cas(2, 3, 1, 3, 4), cas(1, 3, 1, 5, 6), get(3, 7, 8)]);
    }

    #[test]
    fn known_bad_histories() {
        bad(&[get(1, 1, 2)]);
        // A stale read.
        bad(&[put(1, 1, 2), put(2, 3, 4), get(1, 5, 6)]);
        // A lost write.
        bad(&[put(1, 1, 2), get(None, 3, 4)]);
        // The value goes back between two reads.
        bad(&[put(1, 1, 2), put(2, 3, 20), get(2, 4, 5), get(1, 6, 7)]);
        // Two swaps of one value.
        bad(&[put(1, 1, 2), cas(1, 2, 1, 3, 10), cas(1, 3, 1, 4, 11)]);
        bad(&[put(1, 1, 2), cas(1, 2, 7, 3, 4)]);
    }

    #[test]
    fn unknown_outcomes_may_happen_late_once_or_never() {
        good(&[put(1, 1, 2), put(2, 3, None), get(1, 5, 6), get(1, 7, 8)]);
        good(&[put(1, 1, 2), put(2, 3, None), get(1, 5, 6), get(2, 7, 8)]);
        bad(&[put(1, 1, 2), put(2, 3, None), get(2, 5, 6), get(1, 7, 8)]);
        // Once only.
        bad(&[put(2, 1, None), get(2, 3, 4), put(3, 5, 6), get(3, 7, 8), get(2, 9, 10)]);
        // Not before its call.
        bad(&[get(2, 1, 2), put(2, 3, None)]);
        // A chain of two.
        good(&[put(1, 1, 2), cas(1, 2, 0, 3, None), cas(2, 3, 0, 4, None), get(3, 6, 7)]);
        bad(&[put(1, 1, 2), cas(1, 2, 0, 3, None), cas(9, 3, 0, 4, None), get(3, 6, 7)]);
        // A swap fails because an unknown write came before it.
        good(&[put(1, 1, 2), put(5, 3, None), cas(1, 2, 5, 4, 5), get(5, 6, 7)]);
    }

    #[test]
    fn keys_are_independent() {
        let other = Call { key: 2, ..get(7, 5, 6) };
        assert!(matches!(check(&[put(7, 1, 2), other]), Verdict::Violation { key: 2, .. }));
    }

    /// Calls of `clients` clients on one register that takes each effect at one moment between call and return.
    fn history(seed: u64, calls: usize, clients: usize, unknown: usize) -> Vec<Call> {
        let mut random = Random::new(seed);
        let mut value = None;
        let mut clock = 0;
        let mut busy: Vec<Option<(Call, bool)>> = vec![None; clients];
        let mut history = Vec::new();
        let mut left_unknown = unknown;
        while history.len() < calls {
            clock += 1;
            let client = random.index(clients);
            match &mut busy[client] {
                None => {
                    let operation = match random.below(3) {
                        0 => Operation::Put(clock),
                        1 => Operation::Get(None),
                        _ => Operation::CompareAndSwap { expected: value, new: clock, seen: None },
                    };
                    busy[client] = Some((call(operation, clock, None), false));
                }
                Some((call, effect @ false)) => {
                    *effect = true;
                    match &mut call.operation {
                        Operation::Put(new) => value = Some(*new),
                        Operation::Get(seen) => *seen = value,
                        Operation::CompareAndSwap { expected, new, seen } => {
                            *seen = value;
                            if *expected == value {
                                value = Some(*new);
                            }
                        }
                    }
                }
                Some((call, _)) => {
                    let forget = left_unknown > 0
                        && !matches!(call.operation, Operation::Get(_))
                        && random.chance(5_000);
                    left_unknown -= usize::from(forget);
                    call.returned = (!forget).then_some(clock);
                    history.push(*call);
                    busy[client] = None;
                }
            }
        }
        // Those still under way may have taken effect.
        history.extend(busy.into_iter().flatten().map(|(call, _)| call));
        history
    }

    #[test]
    fn long_histories_of_many_clients_are_decided() {
        for seed in 0..3 {
            let mut calls = history(seed, 20_000, 8, 16);
            good(&calls);
            // A read near the end sees a value that was overwritten long before.
            let stale = calls.iter().filter(|c| c.returned.is_some()).find_map(|c| match c.operation {
                Operation::Put(value) => Some(value),
                _ => None,
            });
            let is_read = |c: &&mut Call| c.returned.is_some() && matches!(c.operation, Operation::Get(_));
            calls.iter_mut().rev().find(is_read).unwrap().operation = Operation::Get(stale);
            bad(&calls);
        }
    }
}
