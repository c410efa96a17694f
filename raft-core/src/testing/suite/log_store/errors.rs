//! What is refused, how, and what follows.

use super::bench::*;
use super::topic;
use crate::log_store::{StorageErrorKind, Write};
use crate::types::{GroupId, Index};

topic! { Errors:
    a_gap "entries that leave a gap after the last are refused",
    a_gap_in_an_empty_log "an empty log begins at 1",
    a_gap_inside "entries that leave a gap between each other are refused",
    a_gap_after_the_mark "an empty log goes on right after its mark",
    an_overlap "an entry in a place that is taken is refused: truncations are explicit",
    an_entry_twice "an index twice in one write is refused",
    entries_backwards "entries in descending order are refused",
    entry_zero "there is no entry 0",
    a_mark_under_entries "entries may follow the mark of their write only where the log holds none",
    a_truncation_of_the_compacted "what is compacted cannot be truncated",
    a_truncation_at_zero "there is no entry 0 to truncate from",
    a_read_beyond_the_end "a range that reaches beyond the last entry is refused, not cut",
    a_read_of_the_compacted "a range that begins at the mark or below is refused",
    a_read_of_nothing "an empty range is refused",
    a_read_of_another_group "a group without entries has no range to read",
    a_refused_read_is_not_final "after a refused read the store goes on",
    nothing_is_written_after_an_error "after a write failed every later one fails, with kind Failed",
    nothing_is_claimed_after_an_error "after a write failed every claim fails, with kind Failed",
    of_one_group_for_all "an error in one group's write is final for the whole store",
    messages "an error's message is one line that says something",
}

/// `write` is refused after `before`, and leaves it as it is.
fn refused_after(bench: &mut Bench, before: Vec<Write>, write: Write) -> Check {
    bench.write_all(before)?;
    bench.refuse(write)?;
    bench.reopen()?;
    bench.check()
}

fn nine() -> Vec<Write> {
    vec![append(entries(1, 1, 4)), append(entries(1, 5, 9))]
}

fn compacted() -> Vec<Write> {
    let mut writes = nine();
    writes.push(Write { compact_to: Some(4), ..append(Vec::new()) });
    writes
}

fn a_gap(bench: &mut Bench) -> Check {
    refused_after(bench, nine(), append(entries(1, 11, 12)))?;
    bench.refuse(Write { truncate_from: Some(5), ..append(entries(2, 6, 7)) })?;
    bench.reopen()?;
    bench.check()
}

fn a_gap_in_an_empty_log(bench: &mut Bench) -> Check {
    refused_after(bench, Vec::new(), append(entries(1, 2, 3)))?;
    bench.check_state(GROUP)
}

fn a_gap_inside(bench: &mut Bench) -> Check {
    let mut gap = entries(1, 10, 14);
    gap.remove(2);
    refused_after(bench, nine(), append(gap))?;
    // A mark in the same write fills no gap.
    let mut gap = entries(1, 1, 7);
    gap.drain(1..5);
    let group = GroupId(2);
    bench.refuse(Write { compact_to: Some(5), ..append_to(group, gap) })?;
    bench.reopen()?;
    bench.check_state(group)
}

fn a_gap_after_the_mark(bench: &mut Bench) -> Check {
    let mark = vec![Write { compact_to: Some(20), ..append(Vec::new()) }];
    refused_after(bench, mark, append(entries(1, 22, 23)))?;
    bench.refuse(Write { compact_to: Some(30), ..append(entries(1, 32, 33)) })?;
    bench.reopen()?;
    bench.check()
}

fn an_overlap(bench: &mut Bench) -> Check {
    refused_after(bench, nine(), append(entries(2, 9, 10)))?;
    bench.refuse(append(entries(2, 3, 3)))?;
    bench.reopen()?;
    bench.check()
}

fn an_entry_twice(bench: &mut Bench) -> Check {
    let mut twice = entries(1, 10, 12);
    twice.insert(1, twice[0].clone());
    refused_after(bench, nine(), append(twice))
}

fn entries_backwards(bench: &mut Bench) -> Check {
    let mut backwards = entries(1, 10, 12);
    backwards.swap(1, 2);
    refused_after(bench, nine(), append(backwards))
}

fn entry_zero(bench: &mut Bench) -> Check {
    refused_after(bench, Vec::new(), append(entries(1, 0, 2)))?;
    bench.check_state(GROUP)
}

fn a_mark_under_entries(bench: &mut Bench) -> Check {
    refused_after(bench, nine(), Write { compact_to: Some(20), ..append(entries(2, 21, 22)) })
}

fn a_truncation_of_the_compacted(bench: &mut Bench) -> Check {
    refused_after(bench, compacted(), Write { truncate_from: Some(4), ..append(Vec::new()) })?;
    bench.refuse(Write { truncate_from: Some(1), ..append(entries(2, 1, 9)) })?;
    bench.reopen()?;
    bench.check()
}

fn a_truncation_at_zero(bench: &mut Bench) -> Check {
    refused_after(bench, nine(), Write { truncate_from: Some(0), ..append(Vec::new()) })?;
    bench.refuse(Write { truncate_from: Some(0), ..append_to(GroupId(2), Vec::new()) })?;
    bench.reopen()?;
    bench.check_state(GroupId(2))
}

fn refused_reads(bench: &mut Bench, ranges: &[(Index, Index)]) -> Check {
    for &(first, last) in ranges {
        for max_bytes in [0, 10, usize::MAX] {
            let read = bench.try_read(GROUP, first..=last, max_bytes)?;
            let call = format!("read of {first} to {last}, at most {max_bytes} bytes,");
            bench.fails(&call, read, StorageErrorKind::Invalid)?;
        }
    }
    bench.check()
}

fn a_read_beyond_the_end(bench: &mut Bench) -> Check {
    bench.write_all(nine())?;
    refused_reads(bench, &[(10, 10), (9, 10), (1, 10), (1, Index::MAX), (Index::MAX, Index::MAX)])
}

fn a_read_of_the_compacted(bench: &mut Bench) -> Check {
    bench.write_all(compacted())?;
    refused_reads(bench, &[(4, 4), (4, 6), (1, 9), (0, 5), (1, 2)])
}

fn a_read_of_nothing(bench: &mut Bench) -> Check {
    bench.write_all(nine())?;
    refused_reads(bench, &[(5, 4), (9, 1), (1, 0), (0, 0), (10, 9)])
}

fn a_read_of_another_group(bench: &mut Bench) -> Check {
    bench.write_all(nine())?;
    bench.write(Write { hard_state: Some(hard_state(1, 1, 0)), ..append_to(GroupId(3), Vec::new()) })?;
    for group in [0, 2, 3] {
        bench.gone(GroupId(group), 1)?;
    }
    bench.check()
}

fn a_refused_read_is_not_final(bench: &mut Bench) -> Check {
    bench.write_all(nine())?;
    bench.gone(GROUP, 10)?;
    bench.write(append(entries(1, 10, 11)))?;
    bench.gone(GroupId(9), 1)?;
    bench.write(append(entries(1, 12, 12)))?;
    bench.check_twice()
}

fn nothing_is_written_after_an_error(bench: &mut Bench) -> Check {
    bench.write_all(nine())?;
    bench.refuse(append(entries(1, 20, 20)))?;
    let fitting = [append(entries(1, 10, 11)), append_to(GroupId(2), entries(1, 1, 1))];
    for write in fitting.into_iter().chain([append(entries(1, 30, 30))]) {
        let written = bench.try_write(&[write])?;
        bench.fails("a write after an error", written, StorageErrorKind::Failed)?;
    }
    bench.reopen()?;
    bench.check()?;
    bench.check_state(GroupId(2))
}

fn nothing_is_claimed_after_an_error(bench: &mut Bench) -> Check {
    let first = bench.try_claim(1, 1, 5)?;
    bench.succeeds("claim", first)?;
    bench.refuse(append(entries(1, 20, 20)))?;
    let claimed = bench.try_claim(1, 1, 5)?;
    bench.fails("a claim after an error", claimed, StorageErrorKind::Failed)?;
    bench.reopen()?;
    let again = bench.try_claim(1, 1, 5)?;
    let boot = bench.succeeds("claim", again)?.boot;
    if boot == 2 { Ok(()) } else { Err(bench.failure("boot 2", format!("boot {boot}"))) }
}

fn of_one_group_for_all(bench: &mut Bench) -> Check {
    bench.write_all(nine())?;
    bench.refuse(append_to(GroupId(2), entries(1, 20, 20)))?;
    let written = bench.try_write(&[append(entries(1, 10, 10))])?;
    bench.fails("a write of another group after an error", written, StorageErrorKind::Failed)?;
    bench.reopen()?;
    bench.check()
}

fn messages(bench: &mut Bench) -> Check {
    bench.write_all(nine())?;
    let read = bench.try_read(GROUP, 30..=31, 10)?.map(drop);
    let invalid = bench.try_write(&[append(entries(1, 20, 20))])?;
    let failed = bench.try_write(&[append(entries(1, 10, 10))])?;
    for (what, result) in [("a refused read", read), ("a refused write", invalid), ("a later write", failed)]
    {
        let message = result.err().map(|error| error.to_string()).unwrap_or_default();
        if message.trim().is_empty() || message.contains('\n') {
            return Err(
                bench.failure(format!("{what} fails with a message of one line"), format!("{message:?}"))
            );
        }
    }
    Ok(())
}
