//! What a truncation drops, and what it leaves.

use super::bench::*;
use super::topic;
use crate::log_store::Write;
use crate::types::{EntryId, GroupId, Index, Outline, SnapshotMeta};

topic! { Truncation:
    at_every_position "entries at the position and above are gone, those below stay",
    at_every_position_with_new_entries "what is appended in the same write follows what stays",
    at_every_position_of_a_large_write "a truncation may cut anywhere into what was written at once",
    all_of_the_log "a log may be truncated to nothing, and begins at 1 again",
    beyond_the_end "a truncation beyond the last entry drops nothing",
    just_behind_the_end "a truncation right after the last entry drops nothing",
    down_to_the_compacted "a log may be truncated down to what is compacted, and goes on from there",
    shorter_than_before "of a log that is replaced by a shorter one, no entry comes back",
    longer_than_before "a log may be replaced by a longer one",
    by_less_than_before_and_again "entries that were truncated do not come back when the log grows over their places",
    twice_in_a_row "truncations follow each other",
    twice_in_one_call "truncations follow each other, also in one call",
    again_and_again "one place may be written many times; the last counts",
    with_compaction_in_the_same_batch "a batch that is cut at both ends keeps its middle",
    leaves_the_rows "a truncation changes neither hard state nor snapshot nor outline",
}

const BATCHES: [(Index, Index); 5] = [(1, 1), (2, 5), (6, 6), (7, 18), (19, 20)];
const LAST: Index = 20;

fn truncate(from: Index) -> Write {
    Write { truncate_from: Some(from), ..append(Vec::new()) }
}

/// The log of [`BATCHES`] in as many groups as there are places to cut, and those places.
fn one_log_a_position(bench: &mut Bench) -> Result<impl Iterator<Item = Index> + use<>, Failure> {
    for (first, last) in BATCHES {
        let groups = 1..=LAST + 1;
        bench.write_all(groups.map(|at| append_to(GroupId(at), entries(1, first, last))).collect())?;
    }
    Ok(1..=LAST + 1)
}

fn at_every_position(bench: &mut Bench) -> Check {
    for from in one_log_a_position(bench)? {
        bench.write(Write { group: GroupId(from), ..truncate(from) })?;
        bench.check_group(GroupId(from))?;
        bench.gone(GroupId(from), from)?;
    }
    bench.reopen()?;
    bench.check()?;
    for from in 1..=LAST + 1 {
        bench.gone(GroupId(from), from)?;
        bench.write(append_to(GroupId(from), entries(2, from, from + 1)))?;
    }
    bench.check_twice()
}

fn at_every_position_with_new_entries(bench: &mut Bench) -> Check {
    for from in one_log_a_position(bench)? {
        bench.write(Write {
            truncate_from: Some(from),
            ..append_to(GroupId(from), entries(2, from, from + from % 4))
        })?;
        bench.check_group(GroupId(from))?;
    }
    bench.reopen()?;
    bench.check()
}

fn at_every_position_of_a_large_write(bench: &mut Bench) -> Check {
    const CUTS: [Index; 9] = [1, 2, 50, 149, 150, 151, 299, 300, 301];
    let log = |&at: &Index| append_to(GroupId(at), entries(1, 1, 300));
    bench.write_all(CUTS.iter().map(log).collect())?;
    for from in CUTS {
        bench.write(Write { group: GroupId(from), ..truncate(from) })?;
        bench.gone(GroupId(from), from)?;
    }
    bench.check()?;
    for from in CUTS {
        bench.write(append_to(GroupId(from), entries(2, from, from)))?;
    }
    bench.check_twice()
}

fn all_of_the_log(bench: &mut Bench) -> Check {
    bench.write(append(entries(1, 1, 9)))?;
    bench.write(truncate(1))?;
    bench.check_twice()?;
    bench.gone(GROUP, 1)?;
    bench.write(append(entries(2, 1, 3)))?;
    bench.check_twice()
}

fn beyond_the_end(bench: &mut Bench) -> Check {
    bench.write(truncate(7))?;
    bench.check_state(GROUP)?;
    bench.write(append(entries(1, 1, 9)))?;
    for from in [11, 12, 100, Index::MAX] {
        bench.write(truncate(from))?;
        bench.check()?;
    }
    bench.write(Write { truncate_from: Some(500), ..append(entries(1, 10, 11)) })?;
    bench.check_twice()
}

fn just_behind_the_end(bench: &mut Bench) -> Check {
    bench.write(append(entries(1, 1, 9)))?;
    bench.write(Write { truncate_from: Some(10), ..append(entries(2, 10, 11)) })?;
    bench.check()?;
    bench.write(truncate(12))?;
    bench.check_twice()
}

fn down_to_the_compacted(bench: &mut Bench) -> Check {
    bench.write(append(entries(1, 1, 9)))?;
    bench.write(Write { compact_to: Some(4), ..append(Vec::new()) })?;
    bench.write(truncate(5))?;
    bench.check_twice()?;
    bench.gone(GROUP, 5)?;
    bench.write(append(entries(2, 5, 6)))?;
    bench.check()?;
    bench.write(Write { truncate_from: Some(5), ..append(entries(3, 5, 5)) })?;
    bench.check_twice()
}

fn shorter_than_before(bench: &mut Bench) -> Check {
    bench.write(append(entries(1, 1, 40)))?;
    bench.write(Write { truncate_from: Some(10), ..append(entries(2, 10, 12)) })?;
    bench.check_twice()?;
    bench.gone(GROUP, 13)
}

fn longer_than_before(bench: &mut Bench) -> Check {
    bench.write(append(entries(1, 1, 12)))?;
    bench.write(Write { truncate_from: Some(3), ..append(entries(2, 3, 60)) })?;
    bench.check_twice()
}

fn by_less_than_before_and_again(bench: &mut Bench) -> Check {
    for index in 1..=12 {
        bench.write(append(entries(1, index, index)))?;
    }
    bench.write(truncate(5))?;
    for index in 5..=8 {
        bench.write(append(entries(2, index, index)))?;
        bench.gone(GROUP, index + 1)?;
        bench.check()?;
    }
    bench.reopen()?;
    bench.gone(GROUP, 9)?;
    bench.write(append(entries(3, 9, 14)))?;
    bench.check_twice()
}

fn twice_in_a_row(bench: &mut Bench) -> Check {
    bench.write(append(entries(1, 1, 20)))?;
    for from in [15, 8, 8, 3] {
        bench.write(truncate(from))?;
        bench.check()?;
    }
    bench.write(append(entries(2, 3, 20)))?;
    bench.check_twice()
}

fn twice_in_one_call(bench: &mut Bench) -> Check {
    bench.write(append(entries(1, 1, 20)))?;
    bench.write_all(vec![
        Write { truncate_from: Some(10), ..append(entries(2, 10, 15)) },
        Write { truncate_from: Some(13), ..append(entries(3, 13, 14)) },
        truncate(14),
        append(entries(4, 14, 16)),
        Write { truncate_from: Some(5), ..append(entries(5, 5, 5)) },
    ])?;
    bench.check_twice()
}

fn again_and_again(bench: &mut Bench) -> Check {
    bench.write(append(entries(1, 1, 5)))?;
    for term in 2..=40 {
        bench.write(Write { truncate_from: Some(4), ..append(entries(term, 4, 4 + term % 3)) })?;
        bench.check()?;
    }
    bench.check_twice()
}

fn with_compaction_in_the_same_batch(bench: &mut Bench) -> Check {
    bench.write(append(entries(1, 1, 200)))?;
    bench.write(Write { compact_to: Some(60), ..append(Vec::new()) })?;
    bench.write(truncate(140))?;
    bench.check_twice()?;
    bench.write(Write { compact_to: Some(61), ..append(Vec::new()) })?;
    bench.write(Write { truncate_from: Some(63), ..append(entries(2, 63, 64)) })?;
    bench.check_twice()?;
    bench.gone(GROUP, 61)?;
    bench.gone(GROUP, 65)
}

fn leaves_the_rows(bench: &mut Bench) -> Check {
    let base = EntryId::new(1, 2);
    let snapshot = SnapshotMeta { last: base, membership: Default::default(), size_bytes: 9, checksum: 9 };
    bench.write(Write {
        hard_state: Some(hard_state(3, 1, 6)),
        outline: Some(Outline { base, terms: vec![EntryId::new(1, 3)], ..Outline::default() }),
        snapshot: Some(snapshot),
        ..append(entries(1, 1, 9))
    })?;
    bench.write(truncate(4))?;
    bench.check()?;
    bench.write(truncate(1))?;
    bench.check_twice()
}
