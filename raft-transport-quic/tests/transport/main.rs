//! Transports on loopback, from outside: what gets through, what comes back, and who is turned away.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
mod doors;
mod exchange;
mod logs;
mod matrix;
mod restart;
mod snapshots;
mod stranger;
