//! What was written is there when the store is opened again.

use super::bench::*;
use super::topic;
use crate::log_store::Write;
use crate::testing::Random;
use crate::types::{GroupId, Index, Term};

topic! { Reopening:
    an_empty_store "a store that nothing was written to can be opened again",
    everything "entries, hard state, outline and snapshot are there",
    after_every_write "each write that returned is there",
    and_going_on "the log goes on where it ended",
    many_times "opening changes nothing",
    after_a_truncation "what was truncated stays gone",
    after_a_compaction "what was compacted stays gone",
    after_a_refused_write "a store that is opened anew writes again",
    a_long_log "a log of thousands of entries is there",
    a_random_workload "whatever was written and dropped, the store holds what a simple model holds",
}

fn an_empty_store(bench: &mut Bench) -> Check {
    for _ in 0..3 {
        bench.reopen()?;
        bench.check_state(GROUP)?;
    }
    bench.write(append(entries(1, 1, 1)))?;
    bench.check_twice()
}

fn everything(bench: &mut Bench) -> Check {
    bench.write(Write {
        hard_state: Some(hard_state(3, 2, 5)),
        outline: Some(super::rows::outline(3)),
        snapshot: Some(super::rows::snapshot(3)),
        compact_to: Some(2),
        ..append(entries(3, 1, 9))
    })?;
    bench.reopen()?;
    bench.check()?;
    bench.gone(GROUP, 2)?;
    bench.gone(GROUP, 10)
}

fn after_every_write(bench: &mut Bench) -> Check {
    for index in 1..=12 {
        bench.write(Write {
            hard_state: Some(hard_state(index, 1, index - 1)),
            ..append(entries(index, index, index))
        })?;
        bench.reopen()?;
        bench.check()?;
    }
    Ok(())
}

fn and_going_on(bench: &mut Bench) -> Check {
    bench.write(append(entries(1, 1, 7)))?;
    bench.reopen()?;
    bench.write(append(entries(1, 8, 10)))?;
    bench.reopen()?;
    bench.write(Write { truncate_from: Some(6), ..append(entries(2, 6, 12)) })?;
    bench.reopen()?;
    bench.write(Write { compact_to: Some(8), ..append(entries(2, 13, 14)) })?;
    bench.check_twice()
}

fn many_times(bench: &mut Bench) -> Check {
    bench.write_all((1..=3).map(|group| append_to(GroupId(group), entries(1, 1, 5))).collect())?;
    for _ in 0..10 {
        bench.reopen()?;
        bench.check()?;
    }
    Ok(())
}

fn after_a_truncation(bench: &mut Bench) -> Check {
    bench.write(append(entries(1, 1, 9)))?;
    bench.write(Write { truncate_from: Some(4), ..append(Vec::new()) })?;
    for next in 4..=6 {
        bench.reopen()?;
        bench.check()?;
        bench.gone(GROUP, next)?;
        bench.write(append(entries(2, next, next)))?;
    }
    bench.check_twice()
}

fn after_a_compaction(bench: &mut Bench) -> Check {
    bench.write(append(entries(1, 1, 9)))?;
    for mark in [3, 7, 9, 15] {
        bench.write(Write { compact_to: Some(mark), ..append(Vec::new()) })?;
        bench.reopen()?;
        bench.check()?;
        bench.gone(GROUP, mark)?;
    }
    bench.write(append(entries(2, 16, 17)))?;
    bench.check_twice()
}

fn after_a_refused_write(bench: &mut Bench) -> Check {
    bench.write(append(entries(1, 1, 3)))?;
    for round in 0..3 {
        bench.refuse(append(entries(1, 50, 50)))?;
        bench.reopen()?;
        bench.check()?;
        bench.write(append(entries(1, 4 + round, 4 + round)))?;
    }
    bench.check_twice()
}

fn a_long_log(bench: &mut Bench) -> Check {
    for first in (1..=9_001).step_by(1_000) {
        bench.write(append(entries(1, first, first + 999)))?;
    }
    bench.check_twice()?;
    bench.write(Write {
        truncate_from: Some(9_900),
        compact_to: Some(150),
        ..append(entries(2, 9_900, 9_900))
    })?;
    bench.check_twice()
}

/// A write that fits a log between `mark` and `last`.
fn random_write(random: &mut Random, group: GroupId, mark: Index, last: Index, term: Term) -> Write {
    let mut write = Write { group, ..Write::default() };
    let mut last = last;
    if random.chance(250_000) {
        let from = random.between(mark + 1, last + 2);
        write.truncate_from = Some(from);
        last = last.min(from - 1);
    }
    if random.chance(200_000) {
        write.compact_to = Some(random.below(last + 4));
    }
    let first = match write.compact_to {
        Some(to) if last == mark && to > mark => to + 1,
        _ => last + 1,
    };
    let count = [0, 1, 1, 2, 30][random.index(5)];
    for index in first..first + count {
        let size = if random.chance(20_000) { 40_000 } else { random.index(200) };
        write.entries.push(command(term, index, vec![random.next() as u8; size]));
    }
    if random.chance(500_000) {
        write.hard_state = Some(hard_state(term, random.below(4), random.below(last + 1)));
    }
    if random.chance(200_000) {
        write.outline = Some(super::rows::outline(term));
    }
    if random.chance(100_000) {
        write.snapshot = Some(super::rows::snapshot(term));
    }
    write
}

fn a_random_workload(bench: &mut Bench) -> Check {
    let mut random = Random::new(7);
    for term in 1..=120 {
        let groups = (0..=2).map(GroupId).filter(|_| random.chance(600_000)).collect::<Vec<_>>();
        let mut writes = Vec::new();
        for group in groups {
            let model = bench.model(group);
            writes.push(random_write(&mut random, group, model.mark, model.last(), term));
        }
        bench.write_all(writes)?;
        if random.chance(60_000) {
            bench.reopen()?;
        }
        if term % 4 == 0 {
            bench.check()?;
        }
    }
    bench.check_twice()
}
