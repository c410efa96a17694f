//! The suite for transports: the one over channels passes it, and transports with one fault each fail the cases that they
//! should.
#![cfg(all(feature = "runtime", feature = "testing"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod broken;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use broken::{Fault, FaultyNetwork};
use raft_core::mem::ChannelNetwork;
use raft_core::testing::suite::transport::{Suite, cases};

#[test]
fn channels_pass() {
    let suite = Suite::new(|_cluster| {
        let network = ChannelNetwork::new();
        move |node| network.transport(node)
    });
    let report = suite.run();
    println!("{report}");
    report.assert_passed();
}

/// What each fault must be found by. Other cases may find it too.
const FOUND_BY: &[(Fault, &[&str])] = &[
    (Fault::AltersCommands, &["delivery/every_message"]),
    (Fault::OneWay, &["delivery/both_ways"]),
    (Fault::LosesTheLastOfABatch, &["delivery/batches"]),
    (Fault::DeliversEmptyBatches, &["delivery/empty_batch"]),
    (Fault::LosesLargeEntries, &["delivery/largest_entry"]),
    (Fault::MixesPeersUp, &["delivery/mesh"]),
    (Fault::LosesSome, &["delivery/healthy_link"]),
    (Fault::Reorders, &["lanes/order_of_control", "lanes/order_of_appends"]),
    (Fault::OneQueue, &["lanes/control_overtakes", "queues/burst", "stopping/last_words"]),
    (Fault::KeepsForStrangers, &["queues/stranger", "queues/unreachable_peer"]),
    (Fault::BlocksForStrangers, &["queues/stranger"]),
    (Fault::BothOrNone, &["peers/both_at_once"]),
    (Fault::NoSecondLife, &["peers/restart", "peers/crash", "peers/restarts_in_a_row"]),
    (Fault::NeverMoves, &["peers/moves"]),
    (Fault::ConnectsAnew, &["peers/repeated_connect"]),
    (Fault::NeverDisconnects, &["peers/disconnect", "doors/removed", "streams/disconnected"]),
    (Fault::NeverConnectsAgain, &["peers/reconnect"]),
    (Fault::AdmitsAll, &["doors/not_admitted", "doors/not_admitted_by_the_dialed"]),
    (Fault::AsksOnce, &["doors/admitted_later", "peers/wiped"]),
    (Fault::NoLineage, &["doors/hello"]),
    (Fault::AnyName, &["doors/another_name"]),
    (Fault::GoesByAddress, &["doors/another_node_at_the_address"]),
    (Fault::AnyCluster, &["doors/another_cluster"]),
    (Fault::TrustsTheContent, &["doors/forged_sender"]),
    (Fault::MergesFrames, &["streams/transfer", "streams/both_directions"]),
    (Fault::FinishesLate, &["streams/finish_and_drop"]),
    (Fault::TakesAnyFrame, &["streams/frame_limits"]),
    (Fault::LosesCancelledFrames, &["streams/cancelled_receive"]),
    (Fault::BuffersFrames, &["streams/backpressure"]),
    (Fault::HoldsMessagesUp, &["streams/beside_messages"]),
    (Fault::OneStream, &["streams/several"]),
    (Fault::OpensToNobody, &["streams/no_connection", "stopping/calls_after"]),
    (Fault::EndsInsteadOfBreaking, &["streams/sender_drops", "streams/stopped", "streams/resume"]),
    (Fault::LeaksStreams, &["streams/receiver_drops", "streams/refused", "streams/resume"]),
    (Fault::NeverFails, &["streams/receiver_drops", "streams/restarted"]),
    (Fault::StopsLater, &["stopping/nothing_after"]),
    (Fault::StopsOnce, &["stopping/repeated"]),
    (Fault::HangsWithNobody, &["stopping/never_connected"]),
    (Fault::LeavesATask, &["stopping/nothing_left"]),
    (Fault::KeepsTheInbox, &["stopping/nothing_left"]),
];

fn suite(fault: Fault) -> Suite {
    let suite = Suite::new(move |_cluster| {
        let network = FaultyNetwork::new(fault);
        move |node| network.transport(node)
    });
    suite.queue_bytes(8 << 20).largest_entry_bytes(2 << 20)
}

/// So what is found below is the fault and not what is around it.
#[test]
fn no_fault_is_found_where_there_is_none() {
    suite(Fault::None).run().assert_passed();
}

#[test]
fn each_fault_is_found() {
    let pairs: Vec<(Fault, &str)> =
        FOUND_BY.iter().flat_map(|(fault, names)| names.iter().map(|name| (*fault, *name))).collect();
    let next = AtomicUsize::new(0);
    let missed = Mutex::new(Vec::new());
    // They mostly wait for what does not come.
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while let Some(&(fault, name)) = pairs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let report = suite(fault).only(name).patience(Duration::from_millis(800)).run();
                    if !report.failed().any(|(case, _)| case.to_string() == name) {
                        missed.lock().unwrap().push(format!("{fault:?} by {name}"));
                    }
                }
            });
        }
    });
    let missed = missed.into_inner().unwrap();
    assert!(missed.is_empty(), "not found: {missed:#?}");
}

#[test]
fn each_case_finds_something() {
    let finders: BTreeSet<&str> = FOUND_BY.iter().flat_map(|(_, names)| names.iter().copied()).collect();
    let idle: Vec<String> =
        cases().map(ToString::to_string).filter(|name| !finders.contains(name.as_str())).collect();
    assert!(idle.is_empty(), "no fault is known that these cases find: {idle:?}");
}

#[test]
fn a_case_can_be_run_alone() {
    let suite = Suite::new(|_cluster| {
        let network = ChannelNetwork::new();
        move |node| network.transport(node)
    });
    let report = suite.only("streams/transfer").run();
    assert_eq!(report.passed().map(ToString::to_string).collect::<Vec<_>>(), ["streams/transfer"]);
    let nothing = Suite::new(|_cluster| |_node| -> raft_core::mem::ChannelTransport { panic!("no network") });
    let report = nothing.only("streams/transfer").run();
    let (_, failure) = report.failed().next().unwrap();
    assert_eq!(failure.came(), "a panic: no network");
}
