//! Entries come back as they were, each in its place.

use super::bench::*;
use super::topic;
use crate::log_store::Write;
use crate::membership::{Membership, NodeInfo};
use crate::types::{Entry, EntryId, NodeId, Payload};

topic! { Order:
    nothing_in_a_new_store "a group that nothing was written for is all default",
    one_write "the entries of a write are read in the order in which they were given",
    one_entry_a_write "entries of many writes are one log",
    batches_of_many_sizes "where one write ends and the next begins does not show",
    several_writes_in_one_call "the writes of a call take effect in their order",
    each_entry_by_itself "every entry can be read alone",
    every_range "every range within the log can be read",
    indexes_of_one_and_two_bytes "order is that of numbers, also where their bytes or digits grow",
    indexes_of_four_and_five_bytes "order is that of numbers, also where their bytes or digits grow",
    large_and_leaping_terms "an entry keeps its term, however large",
    kinds_of_payload "a no-op, a command and a configuration come back as what they were",
    the_same_command_again_and_again "equal commands stay entries of their own",
    an_empty_call "a call without writes, and a write without parts, change nothing",
}

fn nothing_in_a_new_store(bench: &mut Bench) -> Check {
    bench.check_state(GROUP)?;
    bench.gone(GROUP, 1)?;
    bench.reopen()?;
    bench.check_state(GROUP)
}

fn one_write(bench: &mut Bench) -> Check {
    bench.write(append(entries(1, 1, 12)))?;
    bench.check_twice()
}

fn one_entry_a_write(bench: &mut Bench) -> Check {
    for index in 1..=40 {
        bench.write(append(entries(1, index, index)))?;
        bench.check_state(GROUP)?;
    }
    bench.check_twice()
}

fn batches_of_many_sizes(bench: &mut Bench) -> Check {
    let mut next = 1;
    for size in [1, 2, 3, 5, 1, 8, 13, 1, 1, 34, 55] {
        bench.write(append(entries(1, next, next + size - 1)))?;
        next += size;
    }
    bench.check_twice()
}

fn several_writes_in_one_call(bench: &mut Bench) -> Check {
    bench.write_all((0..20).map(|at| append(entries(at + 1, 3 * at + 1, 3 * at + 3))).collect())?;
    bench.check_twice()
}

fn each_entry_by_itself(bench: &mut Bench) -> Check {
    bench.write_all(vec![append(entries(1, 1, 9)), append(entries(2, 10, 30))])?;
    for entry in bench.model(GROUP).entries() {
        bench.reads(GROUP, entry.index()..=entry.index(), usize::MAX, &[entry])?;
    }
    Ok(())
}

fn every_range(bench: &mut Bench) -> Check {
    for (first, last) in [(1, 1), (2, 6), (7, 7), (8, 12)] {
        bench.write(append(entries(1, first, last)))?;
    }
    let all = bench.model(GROUP).entries();
    for first in 1..=12_usize {
        for last in first..=12 {
            bench.reads(GROUP, first as u64..=last as u64, usize::MAX, &all[first - 1..last])?;
        }
    }
    Ok(())
}

fn indexes_of_one_and_two_bytes(bench: &mut Bench) -> Check {
    bench.write(append(entries(1, 1, 8)))?;
    bench.write(append(entries(1, 9, 250)))?;
    for index in 251..=262 {
        bench.write(append(entries(1, index, index)))?;
    }
    bench.check_twice()?;
    bench.reads(GROUP, 254..=257, usize::MAX, &entries(1, 254, 257))
}

fn indexes_of_four_and_five_bytes(bench: &mut Bench) -> Check {
    let edge = 1_u64 << 32;
    bench.write(Write { compact_to: Some(edge - 4), ..append(Vec::new()) })?;
    for index in edge - 3..edge + 4 {
        bench.write(append(entries(1, index, index)))?;
    }
    bench.check_twice()
}

fn large_and_leaping_terms(bench: &mut Bench) -> Check {
    let terms = [1, 1, 2, 200, 256, 300, 65_536, 1 << 32, (1 << 48) + 5];
    let all = (1..).zip(terms).map(|(index, term)| command(term, index, format!("{term}"))).collect();
    bench.write(append(all))?;
    bench.check_twice()
}

fn kinds_of_payload(bench: &mut Bench) -> Check {
    let info = NodeInfo { address: "host:1".to_owned(), ..NodeInfo::default() };
    let mut membership = Membership::of_voters((1..=3).map(|id| (NodeId(id), info.clone())).collect());
    membership.outgoing.insert(NodeId(9));
    membership.nodes.insert(NodeId(9), NodeInfo::default());
    let payloads = [
        Payload::Noop,
        Payload::Command("text".into()),
        Payload::Membership(Box::new(membership)),
        Payload::Command(Vec::new().into()),
        Payload::Membership(Box::default()),
        Payload::Noop,
    ];
    let all = (1..).zip(payloads).map(|(index, payload)| Entry { id: EntryId::new(1, index), payload });
    bench.write(append(all.collect()))?;
    bench.check_twice()
}

fn the_same_command_again_and_again(bench: &mut Bench) -> Check {
    bench.write(append((1..=20).map(|index| command(1, index, "same")).collect()))?;
    bench.write(append((21..=30).map(|index| command(2, index, "same")).collect()))?;
    bench.check_twice()
}

fn an_empty_call(bench: &mut Bench) -> Check {
    bench.write_all(Vec::new())?;
    bench.write(Write::default())?;
    bench.check_state(Write::default().group)?;
    bench.write(append(entries(1, 1, 3)))?;
    bench.write_all(Vec::new())?;
    bench.write_all(vec![append(Vec::new()), append(Vec::new())])?;
    bench.write(append(entries(1, 4, 5)))?;
    bench.check_twice()
}
