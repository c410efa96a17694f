//! All parts of a write, or none; a call's writes as a prefix.

use std::collections::BTreeMap;
use std::task::{Context, Waker};

use super::bench::*;
use super::topic;
use crate::log_store::{LogState, StorageErrorKind, Write};
use crate::types::{EntryId, GroupId, Index, Outline, SnapshotMeta, Term};

topic! { Atomicity:
    all_parts_together "every part of a write takes effect",
    parts_in_the_order_of_the_fields "truncation before entries, entries before compaction",
    many_groups_in_one_call "a call may hold writes of many groups, and all take effect",
    nothing_of_a_write_with_a_gap "of a write that is refused, no part is there",
    nothing_of_a_write_with_a_gap_inside "of a write that is refused, no part is there, not even the entries before the gap",
    nothing_of_a_refused_truncation "of a write that is refused, no part is there",
    nothing_of_the_first_write_of_a_group "a refused write leaves a group as if it had never been named",
    a_prefix_of_a_refused_call "of a call that fails, only writes before those missing are there, each whole",
    none_after_the_refused "no write after a refused one in the same call is there",
    a_dropped_call "a call that is dropped early is there as a prefix of its writes, each whole",
}

fn rows(term: Term, base: Index) -> Write {
    let last = EntryId::new(term, base);
    Write {
        hard_state: Some(hard_state(term, 2, base)),
        outline: Some(Outline {
            base: last,
            terms: vec![EntryId::new(term, base + 1)],
            memberships: BTreeMap::new(),
        }),
        snapshot: Some(SnapshotMeta {
            last,
            membership: Default::default(),
            size_bytes: 10 * base,
            checksum: 1,
        }),
        ..append(Vec::new())
    }
}

fn all_parts_together(bench: &mut Bench) -> Check {
    bench.write(append(entries(1, 1, 9)))?;
    bench.write(Write {
        truncate_from: Some(7),
        entries: entries(2, 7, 12),
        compact_to: Some(4),
        ..rows(2, 4)
    })?;
    bench.check()?;
    bench.gone(GROUP, 4)?;
    bench.reopen()?;
    bench.check()
}

fn parts_in_the_order_of_the_fields(bench: &mut Bench) -> Check {
    bench.write(append(entries(1, 1, 9)))?;
    // Entries that the same write compacts again, with and without one that stays.
    bench.write(Write { truncate_from: Some(5), compact_to: Some(8), ..append(entries(2, 5, 10)) })?;
    bench.check_twice()?;
    bench.write(Write { truncate_from: Some(10), compact_to: Some(12), ..append(entries(3, 10, 12)) })?;
    bench.check_twice()?;
    bench.write(append(entries(3, 13, 14)))?;
    bench.check_twice()
}

fn many_groups_in_one_call(bench: &mut Bench) -> Check {
    bench.write_all(
        (0..50)
            .map(|group| Write { group: GroupId(group), entries: entries(1, 1, 1 + group % 4), ..rows(1, 0) })
            .collect(),
    )?;
    bench.check_twice()
}

/// A log of nine entries, of which two are compacted, with all rows.
fn begun(bench: &mut Bench) -> Check {
    bench.write(Write { entries: entries(1, 1, 9), compact_to: Some(2), ..rows(1, 2) })
}

/// `write` is refused, and after opening again the log is as it was.
fn leaves_nothing(bench: &mut Bench, write: Write) -> Check {
    bench.refuse(write)?;
    bench.reopen()?;
    bench.check()?;
    bench.write(append(entries(1, 10, 11)))?;
    bench.check()
}

fn nothing_of_a_write_with_a_gap(bench: &mut Bench) -> Check {
    begun(bench)?;
    leaves_nothing(bench, Write { entries: entries(5, 11, 12), compact_to: Some(5), ..rows(5, 5) })
}

fn nothing_of_a_write_with_a_gap_inside(bench: &mut Bench) -> Check {
    begun(bench)?;
    let mut gap = entries(5, 6, 14);
    gap.remove(4);
    leaves_nothing(bench, Write { truncate_from: Some(6), entries: gap, ..rows(5, 5) })
}

fn nothing_of_a_refused_truncation(bench: &mut Bench) -> Check {
    begun(bench)?;
    leaves_nothing(bench, Write { truncate_from: Some(2), entries: entries(5, 2, 4), ..rows(5, 2) })
}

fn nothing_of_the_first_write_of_a_group(bench: &mut Bench) -> Check {
    begun(bench)?;
    let other = GroupId(2);
    leaves_nothing(bench, Write { group: other, entries: entries(5, 2, 3), ..rows(5, 2) })?;
    bench.check_state(other)?;
    bench.gone(other, 2)
}

/// Ten groups in one call, of which that in the middle does not fit; which of them are there afterwards.
fn refused_in_the_middle(bench: &mut Bench) -> Result<Vec<bool>, Failure> {
    let mut writes: Vec<Write> = (0..10)
        .map(|group| Write { group: GroupId(group), entries: entries(1, 1, 3), ..rows(1, 0) })
        .collect();
    writes[5].entries = entries(1, 2, 3);
    let refused = bench.try_write(&writes)?;
    bench.fails("write", refused, StorageErrorKind::Invalid)?;
    bench.reopen()?;
    let mut there = Vec::new();
    for write in &writes {
        let here = bench.load(write.group)? != LogState::default();
        if here {
            bench.note(std::slice::from_ref(write));
        }
        there.push(here);
    }
    Ok(there)
}

fn a_prefix_of_a_refused_call(bench: &mut Bench) -> Check {
    let there = refused_in_the_middle(bench)?;
    if !there.is_sorted_by(|before, after| before >= after) {
        return Err(bench.failure("the first writes of the call or none", format!("those there: {there:?}")));
    }
    bench.check()
}

fn none_after_the_refused(bench: &mut Bench) -> Check {
    let there = refused_in_the_middle(bench)?;
    if there[5..].contains(&true) {
        let expected = "nothing of the refused write, the sixth, nor of those after it";
        return Err(bench.failure(expected, format!("those there: {there:?}")));
    }
    Ok(())
}

fn a_dropped_call(bench: &mut Bench) -> Check {
    bench.write(append(entries(1, 1, 4)))?;
    let writes = [
        Write { entries: entries(1, 5, 9), ..rows(1, 2) },
        Write { truncate_from: Some(3), entries: entries(2, 3, 3), ..rows(2, 2) },
    ];
    bench.step("a call of two writes, polled once and dropped");
    {
        let mut call = bench.store()?.write(&writes);
        let _done_or_not = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    }
    bench.reopen()?;
    let last = bench.load(GROUP)?.last;
    let there = match last {
        4 => 0,
        9 => 1,
        3 => 2,
        other => {
            let expected = "a last index of 4 (none of the writes), 9 (the first) or 3 (both)";
            return Err(bench.failure(expected, other.to_string()));
        }
    };
    bench.note(&writes[..there]);
    bench.check()?;
    bench.write(append(entries(3, last + 1, last + 2)))?;
    bench.check_twice()
}
