//! The bytes that a read may give.

use super::bench::*;
use super::topic;
use crate::types::{Entry, EntryId, Index, Payload};

topic! { Limits:
    at_least_one "a read gives one entry, however low the limit",
    to_the_byte "as many entries as keep their bytes within the limit, not one less or more",
    the_overhead_counts "an entry counts for its payload and Entry::OVERHEAD_BYTES",
    configurations_count "a configuration counts for what Entry::bytes says",
    a_large_entry_comes_alone "an entry beyond the limit is given if it is the first, and alone",
    a_large_entry_ends_the_read "an entry that does not fit ends the read, though a later one would fit",
    over_many_writes "the limit does not depend on how entries were written",
    no_limit "the highest limit gives the whole range",
    the_range_ends_first "a high limit does not read beyond the range",
    in_portions "a log read in portions comes whole, each entry once",
}

fn sized(sizes: &[usize]) -> Vec<Entry> {
    (1..).zip(sizes).map(|(index, &size)| command(1, index, vec![index as u8; size])).collect()
}

fn at_least_one(bench: &mut Bench) -> Check {
    let all = sized(&[100; 5]);
    bench.write(append(all.clone()))?;
    for max_bytes in [0, 1, 99, 100, all[0].bytes() - 1] {
        bench.reads(GROUP, 1..=5, max_bytes, &all[..1])?;
        bench.reads(GROUP, 5..=5, max_bytes, &all[4..])?;
    }
    Ok(())
}

/// Reads from each place on, with limits around each sum of bytes.
fn check_sums(bench: &mut Bench, all: &[Entry]) -> Check {
    let last = all.len() as Index;
    for (start, first) in (1..=last).zip(0..) {
        let mut sum = 0;
        for (count, entry) in (1..).zip(&all[first..]) {
            sum += entry.bytes();
            bench.reads(GROUP, start..=last, sum, &all[first..first + count])?;
            bench.reads(GROUP, start..=last, sum - 1, &all[first..first + count.max(2) - 1])?;
        }
    }
    Ok(())
}

fn to_the_byte(bench: &mut Bench) -> Check {
    let all = sized(&[10, 300, 1, 0, 77, 5000, 64]);
    bench.write(append(all.clone()))?;
    check_sums(bench, &all)
}

fn the_overhead_counts(bench: &mut Bench) -> Check {
    let all = sized(&[0; 30]);
    bench.write(append(all.clone()))?;
    for count in [1, 2, 10, 30] {
        bench.reads(GROUP, 1..=30, count * Entry::OVERHEAD_BYTES, &all[..count])?;
    }
    bench.reads(GROUP, 1..=30, 10 * Entry::OVERHEAD_BYTES - 1, &all[..9])
}

fn configurations_count(bench: &mut Bench) -> Check {
    let payload = Payload::Membership(Box::new(super::rows::membership(7)));
    let all: Vec<Entry> =
        (1..=6).map(|index| Entry { id: EntryId::new(1, index), payload: payload.clone() }).collect();
    bench.write(append(all.clone()))?;
    check_sums(bench, &all)
}

fn a_large_entry_comes_alone(bench: &mut Bench) -> Check {
    let all = sized(&[50, 20_000, 50, 50]);
    bench.write(append(all.clone()))?;
    bench.reads(GROUP, 2..=4, 1_000, &all[1..2])?;
    bench.reads(GROUP, 3..=4, 1_000, &all[2..])
}

fn a_large_entry_ends_the_read(bench: &mut Bench) -> Check {
    let all = sized(&[50, 50, 20_000, 50, 50]);
    bench.write(append(all.clone()))?;
    bench.reads(GROUP, 1..=5, 1_000, &all[..2])
}

fn over_many_writes(bench: &mut Bench) -> Check {
    let all = sized(&[900, 20, 4000, 0, 333, 64, 8000, 1]);
    for part in [0..1, 1..4, 4..5, 5..8] {
        bench.write(append(all[part].to_vec()))?;
    }
    check_sums(bench, &all)
}

fn no_limit(bench: &mut Bench) -> Check {
    let all = sized(&[2_000; 200]);
    for part in all.chunks(70) {
        bench.write(append(part.to_vec()))?;
    }
    bench.reads(GROUP, 1..=200, usize::MAX, &all)?;
    bench.reads(GROUP, 2..=199, usize::MAX, &all[1..199])
}

fn the_range_ends_first(bench: &mut Bench) -> Check {
    let all = sized(&[10; 20]);
    bench.write(append(all.clone()))?;
    for last in [3, 4, 11] {
        bench.reads(GROUP, 3..=last, 1 << 20, &all[2..last as usize])?;
    }
    Ok(())
}

fn in_portions(bench: &mut Bench) -> Check {
    let sizes: Vec<usize> = (0..120).map(|at| at * 37 % 900).collect();
    let all = sized(&sizes);
    for part in all.chunks(25) {
        bench.write(append(part.to_vec()))?;
    }
    for max_bytes in [0, 700, 3_000, 50_000] {
        let mut read: Vec<Entry> = Vec::new();
        while read.len() < all.len() {
            let portion = bench.read(GROUP, read.len() as Index + 1..=120, max_bytes)?;
            if portion.is_empty() || !all[read.len()..].starts_with(&portion) {
                let expected = format!("the entries from {} on, at least one", read.len() + 1);
                let came = crate::testing::display::entries(&portion);
                return Err(bench.failure(expected, came));
            }
            read.extend(portion);
        }
    }
    Ok(())
}
