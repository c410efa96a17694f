//! Empty, odd, huge and many entries.

use super::bench::*;
use super::topic;
use crate::codec::entry;
use crate::types::{Entry, EntryId, Payload};

topic! { Sizes:
    empty_commands "a command of no bytes is a command",
    no_ops "an entry may hold nothing",
    around_powers_of_two "a command may have any length",
    every_byte "a command may hold any bytes",
    bytes_of_an_entry "a command may hold what looks like the store's own records",
    one_mebibyte "a command of 1 MiB, the default limit, comes back",
    the_largest_entry "a command of the largest size comes back",
    huge_between_small "a huge command does not disturb its neighbours",
    many_in_one_write "a write may hold thousands of entries",
    many_bytes_in_one_call "a call may hold writes of many MiB",
    a_large_configuration "a configuration of many nodes comes back",
}

/// Bytes that repeat late.
fn bytes(size: usize, seed: u64) -> Vec<u8> {
    let mut random = crate::testing::Random::new(seed);
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size.min(1 << 16) {
        bytes.extend(random.next().to_le_bytes());
    }
    while bytes.len() < size {
        bytes.extend_from_within(..bytes.len().min(size - bytes.len()));
    }
    bytes.truncate(size);
    bytes
}

fn sized(sizes: impl IntoIterator<Item = usize>) -> Vec<Entry> {
    (1..).zip(sizes).map(|(index, size)| command(1, index, bytes(size, index))).collect()
}

fn empty_commands(bench: &mut Bench) -> Check {
    bench.write(append(sized([0, 0, 5, 0])))?;
    bench.check_twice()
}

fn no_ops(bench: &mut Bench) -> Check {
    let noop = |index| Entry { id: EntryId::new(index, index), payload: Payload::Noop };
    bench.write(append((1..=5).map(noop).collect()))?;
    bench.write(append((6..=6).map(noop).collect()))?;
    bench.check_twice()
}

fn around_powers_of_two(bench: &mut Bench) -> Check {
    let sizes = [8, 9, 10, 12, 13, 16].into_iter().flat_map(|bits| {
        let power = 1_usize << bits;
        (power - 80..power - 8).step_by(16).chain(power - 2..power + 3)
    });
    let all = sized(sizes);
    for part in all.chunks(10) {
        bench.write(append(part.to_vec()))?;
    }
    bench.check_twice()
}

fn every_byte(bench: &mut Bench) -> Check {
    let each = (1..=256).map(|index| command(1, index, [(index - 1) as u8]));
    let mut all: Vec<Entry> = each.collect();
    all.push(command(1, 257, (0..=255).collect::<Vec<u8>>()));
    bench.write(append(all))?;
    bench.check_twice()
}

fn bytes_of_an_entry(bench: &mut Bench) -> Check {
    for index in 1..=4 {
        let mut inside = Vec::new();
        for entry in entries(9, index, index + 5) {
            entry::encode(&entry, &mut inside)
                .map_err(|error| bench.failure("an entry of a few bytes encodes", error.to_string()))?;
        }
        bench.write(append(vec![command(1, index, inside)]))?;
    }
    bench.check_twice()
}

fn one_mebibyte(bench: &mut Bench) -> Check {
    let size = bench.largest_entry_bytes.min(1 << 20);
    bench.write(append(sized([size, size - 1, size])))?;
    bench.check_twice()
}

fn the_largest_entry(bench: &mut Bench) -> Check {
    bench.write(append(sized([3, bench.largest_entry_bytes, 3])))?;
    bench.reopen()?;
    bench.check()
}

fn huge_between_small(bench: &mut Bench) -> Check {
    let huge = bench.largest_entry_bytes.min(3 << 20);
    let all = sized([1, 0, huge, 2, huge, 40_000, 3]);
    bench.write(append(all[..4].to_vec()))?;
    bench.write(append(all[4..].to_vec()))?;
    bench.check_twice()?;
    bench.reads(GROUP, 2..=7, 10_000, &all[1..2])?;
    bench.reads(GROUP, 3..=7, 10_000, &all[2..3])
}

fn many_in_one_write(bench: &mut Bench) -> Check {
    bench.write(append(entries(1, 1, 10_000)))?;
    bench.check_twice()?;
    bench.reads(GROUP, 9_990..=10_000, usize::MAX, &entries(1, 9_990, 10_000))
}

fn many_bytes_in_one_call(bench: &mut Bench) -> Check {
    let size = bench.largest_entry_bytes.min(1 << 20);
    let all = sized([size; 16]);
    bench.write_all(all.chunks(2).map(|part| append(part.to_vec())).collect())?;
    bench.check_twice()
}

fn a_large_configuration(bench: &mut Bench) -> Check {
    let payload = Payload::Membership(Box::new(super::rows::membership(500)));
    let all = (1..=3).map(|index| Entry { id: EntryId::new(1, index), payload: payload.clone() });
    bench.write(append(all.collect()))?;
    bench.check_twice()
}
