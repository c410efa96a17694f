//! TCP passes raft-core's conformance suite for transports.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use raft_bench::transports::tcp::TcpTransport;
use raft_bench::transports::tls::Tls;
use raft_core::testing::suite::transport::Suite;
use raft_transport_quic::DevCa;

#[test]
fn tcp_passes() {
    let suite = Suite::new(|cluster| {
        let ca = DevCa::new(cluster).unwrap();
        move |node| TcpTransport::bind("127.0.0.1:0", Tls::issue(&ca, node).unwrap()).unwrap()
    });
    // Beside the queue, the system's buffers of both ends.
    let report = suite.queue_bytes(32 << 20).largest_entry_bytes(8 << 20).run();
    println!("{report}");
    report.assert_passed();
}
