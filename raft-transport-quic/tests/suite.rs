//! QUIC passes raft-core's conformance suite for transports.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use raft_core::testing::suite::transport::Suite;
use raft_transport_quic::{DevCa, QuicOptions, QuicTransport};

const QUEUE_BYTES: usize = 2 << 20;
/// Larger ones are encoded the same way, and encryption without optimization is slow.
const LARGEST_ENTRY_BYTES: usize = 8 << 20;

/// The default options, but for small queues, so that less must be sent to fill them, and patience with a busy machine.
fn options() -> QuicOptions {
    let mut options = QuicOptions::default();
    options.append_queue_bytes = QUEUE_BYTES;
    options.idle_timeout = Duration::from_secs(5);
    options.max_backoff = Duration::from_millis(200);
    options
}

#[test]
fn quic_passes() {
    let suite = Suite::new(|cluster| {
        let ca = DevCa::new(cluster).unwrap();
        move |node| QuicTransport::bind("127.0.0.1:0", ca.issue(node).unwrap(), options()).unwrap()
    });
    // Beside the queue, the windows of the connection and the sockets' buffers.
    let report = suite.queue_bytes(16 * QUEUE_BYTES).largest_entry_bytes(LARGEST_ENTRY_BYTES).run();
    println!("{report}");
    report.assert_passed();
}
