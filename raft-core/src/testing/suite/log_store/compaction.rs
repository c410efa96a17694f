//! What a compaction drops, and where the log goes on; snapshots that replace the log.

use super::bench::*;
use super::topic;
use crate::log_store::Write;
use crate::types::{EntryId, GroupId, Index, SnapshotMeta, Term};

topic! { Compaction:
    at_every_position "entries at the mark and below are gone, those above stay",
    step_by_step "marks follow each other",
    all_of_the_log "a log that is compacted to its end goes on after it",
    beyond_the_last_entry "the mark may lie beyond the last entry: the log is empty then, and ends at the mark",
    of_a_group_never_written "a group may begin at a mark",
    with_entries_after_it "an empty log may begin after the mark of the same write",
    with_entries_after_it_beyond_an_older_mark "an empty log may go on after the mark of the same write",
    a_lower_mark "a mark at or below the highest drops nothing",
    of_entries_of_the_same_write "a write may compact what it appends",
    a_sliding_window "a log that is compacted as it grows holds just what is between",
    of_a_large_write "a compaction may cut anywhere into what was written at once",
    compacted_and_truncated "what was compacted does not come back with a truncation",
    snapshot_replaces_the_log "a snapshot, a truncation of everything and its mark in one write leave an empty log at the mark",
    snapshot_replaces_a_compacted_log "a snapshot may replace a log that does not begin at 1",
    snapshot_with_entries_after_it "entries may follow a snapshot's mark in the same write",
    snapshot_within_the_log "a snapshot whose mark lies within the log leaves what follows",
    snapshot_after_snapshot "a snapshot may replace another",
}

fn compact(mark: Index) -> Write {
    Write { compact_to: Some(mark), ..append(Vec::new()) }
}

fn snapshot(term: Term, index: Index) -> Option<SnapshotMeta> {
    let last = EntryId::new(term, index);
    Some(SnapshotMeta { last, membership: Default::default(), size_bytes: 100 * index, checksum: 7 })
}

/// Now and after opening again: nothing at the mark and below, and the model's entries.
fn check_mark(bench: &mut Bench) -> Check {
    for _ in 0..2 {
        bench.check()?;
        for index in [1, bench.model(GROUP).mark] {
            bench.gone(GROUP, index)?;
        }
        bench.reopen()?;
    }
    Ok(())
}

fn at_every_position(bench: &mut Bench) -> Check {
    const MARKS: std::ops::RangeInclusive<Index> = 1..=22;
    for (first, last) in [(1, 1), (2, 5), (6, 6), (7, 18), (19, 20)] {
        bench.write_all(MARKS.map(|mark| append_to(GroupId(mark), entries(1, first, last))).collect())?;
    }
    for mark in MARKS {
        bench.write(Write { group: GroupId(mark), ..compact(mark) })?;
        bench.check_group(GroupId(mark))?;
        bench.gone(GroupId(mark), mark)?;
    }
    bench.reopen()?;
    bench.check()?;
    for mark in MARKS {
        bench.gone(GroupId(mark), mark)?;
        let next = mark.max(20) + 1;
        bench.write(append_to(GroupId(mark), entries(2, next, next + 1)))?;
    }
    bench.check_twice()
}

fn step_by_step(bench: &mut Bench) -> Check {
    bench.write(append(entries(1, 1, 6)))?;
    bench.write(append(entries(1, 7, 15)))?;
    for mark in 1..=15 {
        bench.write(compact(mark))?;
        bench.check()?;
        bench.gone(GROUP, mark)?;
    }
    check_mark(bench)
}

fn all_of_the_log(bench: &mut Bench) -> Check {
    bench.write(append(entries(1, 1, 9)))?;
    bench.write(compact(9))?;
    check_mark(bench)?;
    bench.write(append(entries(2, 10, 12)))?;
    check_mark(bench)
}

fn beyond_the_last_entry(bench: &mut Bench) -> Check {
    bench.write(append(entries(1, 1, 9)))?;
    bench.write(compact(30))?;
    check_mark(bench)?;
    bench.gone(GROUP, 9)?;
    bench.gone(GROUP, 31)?;
    bench.write(append(entries(2, 31, 33)))?;
    check_mark(bench)?;
    bench.gone(GROUP, 30)
}

fn of_a_group_never_written(bench: &mut Bench) -> Check {
    bench.write(compact(7))?;
    check_mark(bench)?;
    bench.write(append(entries(2, 8, 9)))?;
    check_mark(bench)
}

fn with_entries_after_it(bench: &mut Bench) -> Check {
    bench.write(Write { compact_to: Some(40), ..append(entries(3, 41, 45)) })?;
    check_mark(bench)?;
    bench.write(append(entries(3, 46, 46)))?;
    check_mark(bench)
}

fn with_entries_after_it_beyond_an_older_mark(bench: &mut Bench) -> Check {
    bench.write(append(entries(1, 1, 9)))?;
    bench.write(compact(9))?;
    bench.write(Write { compact_to: Some(40), ..append(entries(3, 41, 45)) })?;
    check_mark(bench)?;
    bench.gone(GROUP, 10)
}

fn a_lower_mark(bench: &mut Bench) -> Check {
    bench.write(append(entries(1, 1, 9)))?;
    bench.write(compact(0))?;
    bench.check()?;
    bench.write(compact(5))?;
    for mark in [5, 4, 1, 0] {
        bench.write(compact(mark))?;
        bench.check()?;
        bench.gone(GROUP, 5)?;
    }
    bench.write(compact(20))?;
    bench.write(Write { compact_to: Some(3), ..append(entries(2, 21, 21)) })?;
    check_mark(bench)
}

fn of_entries_of_the_same_write(bench: &mut Bench) -> Check {
    bench.write(append(entries(1, 1, 4)))?;
    bench.write(Write { compact_to: Some(7), ..append(entries(1, 5, 9)) })?;
    check_mark(bench)?;
    bench.write(Write { compact_to: Some(12), ..append(entries(1, 10, 12)) })?;
    check_mark(bench)
}

fn a_sliding_window(bench: &mut Bench) -> Check {
    for round in 0..40_u64 {
        let first = 3 * round + 1;
        let mark = first.checked_sub(5);
        bench.write(Write { compact_to: mark, ..append(entries(1, first, first + 2)) })?;
        bench.check()?;
    }
    check_mark(bench)
}

fn of_a_large_write(bench: &mut Bench) -> Check {
    bench.write(append(entries(1, 1, 300)))?;
    for mark in [1, 2, 50, 149, 150, 151, 298, 299] {
        bench.write(compact(mark))?;
        bench.check()?;
        bench.gone(GROUP, mark)?;
    }
    check_mark(bench)
}

fn compacted_and_truncated(bench: &mut Bench) -> Check {
    bench.write(append(entries(1, 1, 12)))?;
    bench.write(compact(6))?;
    bench.write(Write { truncate_from: Some(7), ..append(Vec::new()) })?;
    check_mark(bench)?;
    bench.gone(GROUP, 7)?;
    bench.write(append(entries(2, 7, 8)))?;
    check_mark(bench)
}

fn snapshot_replaces_the_log(bench: &mut Bench) -> Check {
    bench.write(append(entries(1, 1, 9)))?;
    bench.write(Write {
        snapshot: snapshot(3, 20),
        truncate_from: Some(1),
        hard_state: Some(hard_state(3, 2, 20)),
        ..compact(20)
    })?;
    check_mark(bench)?;
    bench.gone(GROUP, 9)?;
    bench.write(append(entries(3, 21, 23)))?;
    check_mark(bench)
}

fn snapshot_replaces_a_compacted_log(bench: &mut Bench) -> Check {
    bench.write(append(entries(1, 1, 9)))?;
    bench.write(compact(4))?;
    bench.write(Write { snapshot: snapshot(3, 7), truncate_from: Some(5), ..compact(7) })?;
    check_mark(bench)?;
    bench.gone(GROUP, 8)?;
    bench.write(append(entries(3, 8, 9)))?;
    check_mark(bench)
}

fn snapshot_with_entries_after_it(bench: &mut Bench) -> Check {
    bench.write(append(entries(1, 1, 9)))?;
    bench.write(Write {
        snapshot: snapshot(3, 20),
        truncate_from: Some(1),
        compact_to: Some(20),
        ..append(entries(3, 21, 25))
    })?;
    check_mark(bench)?;
    bench.gone(GROUP, 20)?;
    bench.gone(GROUP, 26)
}

fn snapshot_within_the_log(bench: &mut Bench) -> Check {
    bench.write(append(entries(1, 1, 9)))?;
    bench.write(Write { snapshot: snapshot(1, 5), ..compact(5) })?;
    check_mark(bench)?;
    bench.write(append(entries(1, 10, 10)))?;
    check_mark(bench)
}

fn snapshot_after_snapshot(bench: &mut Bench) -> Check {
    bench.write(Write { snapshot: snapshot(2, 10), truncate_from: Some(1), ..compact(10) })?;
    bench.write(append(entries(2, 11, 13)))?;
    bench.write(Write { snapshot: snapshot(4, 30), truncate_from: Some(11), ..compact(30) })?;
    check_mark(bench)?;
    bench.write(append(entries(4, 31, 31)))?;
    bench.write(Write { snapshot: snapshot(4, 31), ..compact(31) })?;
    check_mark(bench)
}
