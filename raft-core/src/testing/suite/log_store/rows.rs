//! Hard state, outline and snapshot: replaced or kept.

use super::bench::*;
use super::topic;
use crate::log_store::Write;
use crate::membership::{Membership, NodeInfo};
use crate::types::{EntryId, HardState, Incarnation, NodeId, Outline, SnapshotMeta};

topic! { Rows:
    hard_state_replaced "the last hard state written counts",
    hard_state_kept "a write without a hard state leaves the one before",
    no_vote_is_no_vote "no vote, and a vote for node 0, are two things",
    the_largest_numbers "term, vote and commit index may be any numbers",
    outline_replaced "the last outline written counts, also if it is smaller",
    outline_kept "a write without an outline leaves the one before",
    a_large_outline "an outline may hold many terms and configurations",
    snapshot_replaced "the last snapshot written counts",
    snapshot_kept "a write without a snapshot leaves the one before",
    each_by_itself "hard state, outline and snapshot do not depend on each other",
    as_they_are_given "a store does not judge: what is written comes back, whatever the entries say",
}

/// A configuration of `nodes` nodes, with addresses.
pub(super) fn membership(nodes: u64) -> Membership {
    let info = |node: u64| NodeInfo {
        address: format!("node-{node}.example.org:4000"),
        client_address: String::new(),
        incarnation: Incarnation(1_000 + node),
    };
    Membership {
        voters: (1..=nodes.min(5)).map(NodeId).collect(),
        learners: (6..=nodes).map(NodeId).collect(),
        nodes: (1..=nodes).map(|node| (NodeId(node), info(node))).collect(),
        ..Membership::default()
    }
}

/// One that differs by `number`.
pub(super) fn outline(number: u64) -> Outline {
    Outline {
        base: EntryId::new(number, number),
        terms: (1..=number % 5).map(|at| EntryId::new(number + at, number + 10 * at)).collect(),
        memberships: (0..number % 3).map(|at| (number + at, membership(1 + at))).collect(),
    }
}

/// One that differs by `number`.
pub(super) fn snapshot(number: u64) -> SnapshotMeta {
    SnapshotMeta {
        last: EntryId::new(number, number),
        membership: membership(1 + number % 4),
        size_bytes: number << 20,
        checksum: number as u32 ^ 0x5555_5555,
    }
}

fn state(hard_state: HardState) -> Write {
    Write { hard_state: Some(hard_state), ..append(Vec::new()) }
}

fn hard_state_replaced(bench: &mut Bench) -> Check {
    for term in 1..=8 {
        bench.write(state(hard_state(term, term % 3 + 1, 2 * term)))?;
        bench.check_state(GROUP)?;
    }
    bench.check_twice()
}

fn hard_state_kept(bench: &mut Bench) -> Check {
    bench.write(state(hard_state(4, 2, 1)))?;
    bench.write(append(entries(4, 1, 3)))?;
    bench.check()?;
    bench.write(Write { truncate_from: Some(2), outline: Some(outline(2)), ..append(Vec::new()) })?;
    bench.check()?;
    bench.write(Write { compact_to: Some(9), snapshot: Some(snapshot(2)), ..append(Vec::new()) })?;
    bench.check_twice()
}

fn no_vote_is_no_vote(bench: &mut Bench) -> Check {
    for vote in [None, Some(NodeId(0)), None, Some(NodeId(3)), None] {
        bench.write(state(HardState { term: 5, vote, commit: 1 }))?;
        bench.check_twice()?;
    }
    Ok(())
}

fn the_largest_numbers(bench: &mut Bench) -> Check {
    for number in [255, 256, 1 << 32, 1 << 63, u64::MAX] {
        bench.write(state(HardState { term: number, vote: Some(NodeId(number)), commit: number }))?;
        bench.check_state(GROUP)?;
    }
    bench.check_twice()
}

fn outline_replaced(bench: &mut Bench) -> Check {
    for number in [3, 14, 9, 0, 4, 5] {
        bench.write(Write { outline: Some(outline(number)), ..append(Vec::new()) })?;
        bench.check_state(GROUP)?;
    }
    bench.write(Write { outline: Some(Outline::default()), ..append(Vec::new()) })?;
    bench.check_twice()
}

fn outline_kept(bench: &mut Bench) -> Check {
    bench.write(Write { outline: Some(outline(14)), ..append(entries(1, 1, 5)) })?;
    bench.write(append(entries(1, 6, 7)))?;
    bench.write(state(hard_state(2, 1, 1)))?;
    bench.write(Write { truncate_from: Some(4), compact_to: Some(2), ..append(Vec::new()) })?;
    bench.write(Write { snapshot: Some(snapshot(1)), ..append(Vec::new()) })?;
    bench.check_twice()
}

fn a_large_outline(bench: &mut Bench) -> Check {
    let large = Outline {
        base: EntryId::new(1, 1),
        terms: (2..4_000).map(|at| EntryId::new(at, 3 * at)).collect(),
        memberships: (1..=40).map(|at| (at, membership(9))).collect(),
    };
    bench.write(Write { outline: Some(large), ..append(entries(1, 1, 2)) })?;
    bench.check_twice()?;
    bench.write(Write { outline: Some(outline(1)), ..append(Vec::new()) })?;
    bench.check_twice()
}

fn snapshot_replaced(bench: &mut Bench) -> Check {
    for number in [5, 7, 100, 101] {
        bench.write(Write { snapshot: Some(snapshot(number)), ..append(Vec::new()) })?;
        bench.check_state(GROUP)?;
    }
    bench.check_twice()
}

fn snapshot_kept(bench: &mut Bench) -> Check {
    bench.write(Write { snapshot: Some(snapshot(3)), compact_to: Some(3), ..append(Vec::new()) })?;
    bench.write(append(entries(4, 4, 6)))?;
    bench.write(state(hard_state(5, 1, 4)))?;
    bench.write(Write { outline: Some(outline(3)), ..append(Vec::new()) })?;
    bench.write(Write { truncate_from: Some(5), compact_to: Some(4), ..append(Vec::new()) })?;
    bench.check_twice()
}

fn each_by_itself(bench: &mut Bench) -> Check {
    for round in 1..=6 {
        bench.write(match round % 3 {
            0 => state(hard_state(round, 1, 0)),
            1 => Write { outline: Some(outline(round)), ..append(Vec::new()) },
            _ => Write { snapshot: Some(snapshot(round)), ..append(Vec::new()) },
        })?;
        bench.check_twice()?;
    }
    Ok(())
}

fn as_they_are_given(bench: &mut Bench) -> Check {
    bench.write(Write {
        hard_state: Some(hard_state(9, 1, 77)),
        outline: Some(outline(50)),
        snapshot: Some(snapshot(60)),
        ..append(entries(1, 1, 3))
    })?;
    bench.check()?;
    bench.write(state(hard_state(2, 2, 3)))?;
    bench.check_twice()
}
