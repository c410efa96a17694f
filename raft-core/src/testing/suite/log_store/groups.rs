//! Groups share nothing but the file.

use super::bench::*;
use super::topic;
use crate::log_store::Write;
use crate::types::GroupId;

topic! { Groups:
    a_hundred_groups "each group has a log of its own",
    any_number "a group may have any number, of few or many bytes",
    writes_in_turn "writes of groups in turn do not mix their entries",
    one_group_twice_in_a_call "later writes of a call see the earlier ones of their group",
    truncation_stays_within "a truncation drops entries of its group only",
    compaction_stays_within "a compaction drops entries of its group only",
    rows_stay_within "hard state, outline and snapshot are of one group",
    a_group_without_entries "a group may have a hard state and no entry",
    an_empty_group_between "a group that is emptied leaves its neighbours",
    groups_come_late "a group may begin when others are old",
}

fn a_hundred_groups(bench: &mut Bench) -> Check {
    let first = |group| append_to(GroupId(group), entries(group + 1, 1, 1 + group % 7));
    bench.write_all((0..100).map(first).collect())?;
    let then = |group| append_to(GroupId(group), entries(group + 2, 2 + group % 7, 4 + group % 7));
    bench.write_all((0..100).rev().map(then).collect())?;
    bench.check_twice()
}

fn any_number(bench: &mut Bench) -> Check {
    let numbers = [0, 1, 255, 256, 257, 511, 1 << 16, 1 << 32, (1 << 32) + 1, u64::MAX - 1, u64::MAX];
    for (term, group) in (1..).zip(numbers) {
        bench.write(append_to(GroupId(group), entries(term, 1, term)))?;
    }
    bench.check_twice()?;
    bench.check_state(GroupId(2))?;
    bench.check_state(GroupId(1 << 40))
}

fn writes_in_turn(bench: &mut Bench) -> Check {
    for index in 1..=12 {
        for group in [3, 1, 2] {
            bench.write(append_to(GroupId(group), entries(group, index, index)))?;
        }
    }
    bench.check_twice()
}

fn one_group_twice_in_a_call(bench: &mut Bench) -> Check {
    bench.write_all(vec![
        append_to(GroupId(1), entries(1, 1, 3)),
        append_to(GroupId(2), entries(1, 1, 1)),
        append_to(GroupId(1), entries(1, 4, 6)),
        Write { truncate_from: Some(5), ..append_to(GroupId(1), entries(2, 5, 5)) },
        append_to(GroupId(2), entries(1, 2, 2)),
        Write { compact_to: Some(2), hard_state: Some(hard_state(2, 1, 3)), ..append(Vec::new()) },
        Write { hard_state: Some(hard_state(3, 1, 3)), ..append(Vec::new()) },
    ])?;
    bench.check_twice()
}

fn five_groups(bench: &mut Bench) -> Check {
    bench.write_all((1..=5).map(|group| append_to(GroupId(group), entries(group, 1, 9))).collect())
}

fn truncation_stays_within(bench: &mut Bench) -> Check {
    five_groups(bench)?;
    for (group, from) in [(3, 4), (3, 1), (5, 9), (1, 2)] {
        bench.write(Write { truncate_from: Some(from), ..append_to(GroupId(group), Vec::new()) })?;
        bench.check()?;
    }
    bench.check_twice()
}

fn compaction_stays_within(bench: &mut Bench) -> Check {
    five_groups(bench)?;
    for (group, mark) in [(3, 4), (3, 9), (5, 1), (1, 40)] {
        bench.write(Write { compact_to: Some(mark), ..append_to(GroupId(group), Vec::new()) })?;
        bench.check()?;
    }
    bench.check_twice()
}

fn rows_stay_within(bench: &mut Bench) -> Check {
    for group in [4, 1, 3] {
        bench.write(Write {
            hard_state: Some(hard_state(group, group + 1, 0)),
            outline: Some(super::rows::outline(group)),
            snapshot: Some(super::rows::snapshot(group)),
            ..append_to(GroupId(group), Vec::new())
        })?;
        bench.check()?;
    }
    bench.check_state(GroupId(2))?;
    bench.check_twice()
}

fn a_group_without_entries(bench: &mut Bench) -> Check {
    let alone = Write { hard_state: Some(hard_state(4, 2, 0)), ..append_to(GroupId(8), Vec::new()) };
    bench.write_all(vec![alone, append_to(GroupId(9), entries(1, 1, 3))])?;
    bench.check_twice()?;
    bench.gone(GroupId(8), 1)?;
    bench.write(append_to(GroupId(8), entries(4, 1, 2)))?;
    bench.check_twice()
}

fn an_empty_group_between(bench: &mut Bench) -> Check {
    five_groups(bench)?;
    bench.write(Write { truncate_from: Some(1), ..append_to(GroupId(2), Vec::new()) })?;
    bench.write(Write { compact_to: Some(9), ..append_to(GroupId(4), Vec::new()) })?;
    bench.check_twice()?;
    for group in [2, 4] {
        bench.gone(GroupId(group), 1)?;
    }
    bench.write_all(vec![
        append_to(GroupId(4), entries(7, 10, 10)),
        append_to(GroupId(2), entries(7, 1, 1)),
    ])?;
    bench.check_twice()
}

fn groups_come_late(bench: &mut Bench) -> Check {
    for group in 1..=15 {
        bench.write_all(vec![
            append_to(GroupId(1000), entries(1, group, group)),
            append_to(GroupId(group), entries(group, 1, 2)),
        ])?;
        if group % 5 == 0 {
            bench.reopen()?;
        }
    }
    bench.check_twice()
}
