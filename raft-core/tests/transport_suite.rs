//! The suite for transports: the one over channels passes it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![cfg(all(feature = "runtime", feature = "testing"))]

use raft_core::mem::ChannelNetwork;
use raft_core::testing::suite::transport::Suite;

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
