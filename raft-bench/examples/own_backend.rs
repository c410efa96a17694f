//! One's own log store, transport or state machine, in the tables of ours: the lines of `backends` are all that it takes. In a crate of one's
//! own this is a benchmark without harness, with `raft-bench` and its feature `matrix` among the dev-dependencies:
//!
//!     cargo run --release -p raft-bench --features matrix,wal --example own_backend -- --bench 'tuned|small'
//!
//! Here they are variants of ours: a write-ahead log in small segments, and QUIC with larger packets.

use std::process::ExitCode;

use raft_bench::backend::{Backends, Kept, Sum, Wire};
use raft_bench::stores::wal::WalLogStore;
use raft_core::transport::TransportError;
use raft_transport_quic::{DevCa, QuicOptions, QuicTransport};

pub(crate) fn backends() -> Backends {
    Backends::ours()
        .store("small-segments", Kept::Durable, |folder| WalLogStore::open_with(folder, 1 << 20))
        .machine("my-sum", Sum::default)
        .transport("quic-tuned", Wire::Socket, |cluster| {
            let (ca, mut options) = (DevCa::new(cluster), QuicOptions::default());
            options.max_mtu = Some(6500);
            move |node| {
                let failed = |error: &dyn std::fmt::Display| TransportError::new(error.to_string());
                let credentials = ca.as_ref().map_err(|e| failed(e))?.issue(node).map_err(|e| failed(&e))?;
                QuicTransport::bind("127.0.0.1:0", credentials, options.clone())
            }
        })
}

#[allow(dead_code, reason = "a test compiles this file too, for what is above")]
fn main() -> ExitCode {
    raft_bench::matrix::run(&backends())
}
