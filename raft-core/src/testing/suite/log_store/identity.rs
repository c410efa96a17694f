//! Whose store it is.

use super::bench::*;
use super::topic;
use crate::log_store::{Claim, StorageErrorKind};
use crate::types::Incarnation;

topic! { Identity:
    the_first_claim "the first claim takes the fresh incarnation, in boot 1",
    boots_are_counted "each claim is one boot more, also over reopening",
    the_incarnation_stays "a later claim gives the incarnation of the first, whatever it brings",
    another_node "a store of one node is refused to another",
    another_cluster "a store of one cluster is refused to a node of another",
    a_refused_claim_changes_nothing "a refused claim neither counts nor rebinds, and the store goes on",
    no_unknown_incarnation "a store is never bound to the incarnation that means unknown",
    beside_the_log "claims leave the log alone, and writes the claim",
    the_largest_numbers "cluster, node and incarnation may be any numbers",
}

fn claims(bench: &mut Bench, fresh: u64, expected: Claim) -> Check {
    claims_as(bench, 7, 3, fresh, expected)
}

fn claims_as(bench: &mut Bench, cluster: u128, node: u64, fresh: u64, expected: Claim) -> Check {
    let claimed = bench.try_claim(cluster, node, fresh)?;
    let came = bench.succeeds("claim", claimed)?;
    if came == expected { Ok(()) } else { Err(bench.failure(format!("{expected:?}"), format!("{came:?}"))) }
}

const fn boot(boot: u64) -> Claim {
    Claim { incarnation: Incarnation(11), boot }
}

fn the_first_claim(bench: &mut Bench) -> Check {
    claims(bench, 11, boot(1))
}

fn boots_are_counted(bench: &mut Bench) -> Check {
    for number in 1..=6 {
        claims(bench, 11, boot(number))?;
        if number % 2 == 0 {
            bench.reopen()?;
        }
    }
    Ok(())
}

fn the_incarnation_stays(bench: &mut Bench) -> Check {
    claims(bench, 11, boot(1))?;
    claims(bench, 99, boot(2))?;
    bench.reopen()?;
    claims(bench, 98, boot(3))?;
    // What is not used need not make sense.
    claims(bench, 0, boot(4))
}

fn refused(bench: &mut Bench, cluster: u128, node: u64) -> Check {
    let claimed = bench.try_claim(cluster, node, 55)?;
    bench.fails("claim", claimed, StorageErrorKind::Foreign)
}

fn another_node(bench: &mut Bench) -> Check {
    claims(bench, 11, boot(1))?;
    refused(bench, 7, 4)?;
    bench.reopen()?;
    refused(bench, 7, 4)
}

fn another_cluster(bench: &mut Bench) -> Check {
    claims(bench, 11, boot(1))?;
    refused(bench, 8, 3)?;
    refused(bench, 7 + (1 << 64), 3)?;
    bench.reopen()?;
    refused(bench, 8, 3)
}

fn a_refused_claim_changes_nothing(bench: &mut Bench) -> Check {
    claims(bench, 11, boot(1))?;
    bench.write(append(entries(1, 1, 3)))?;
    refused(bench, 8, 4)?;
    bench.write(append(entries(1, 4, 5)))?;
    claims(bench, 12, boot(2))?;
    refused(bench, 7, 4)?;
    bench.check_twice()?;
    claims(bench, 13, boot(3))
}

fn no_unknown_incarnation(bench: &mut Bench) -> Check {
    let claimed = bench.try_claim(7, 3, Incarnation::UNKNOWN.0)?;
    bench.fails("claim", claimed, StorageErrorKind::Invalid)?;
    claims(bench, 11, boot(1))
}

fn beside_the_log(bench: &mut Bench) -> Check {
    bench.write(append(entries(1, 1, 3)))?;
    claims(bench, 11, boot(1))?;
    bench.check_twice()?;
    bench.write(append(entries(1, 4, 6)))?;
    claims(bench, 11, boot(2))?;
    bench.check_twice()?;
    claims(bench, 11, boot(3))
}

fn the_largest_numbers(bench: &mut Bench) -> Check {
    for number in 1..=3 {
        let expected = Claim { incarnation: Incarnation(u64::MAX), boot: number };
        claims_as(bench, u128::MAX, u64::MAX, u64::MAX, expected)?;
        bench.reopen()?;
    }
    refused(bench, u128::MAX, u64::MAX - 1)?;
    refused(bench, u128::MAX >> 1, u64::MAX)
}
