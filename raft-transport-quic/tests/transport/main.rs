//! Transports on loopback, from outside: what gets through, what comes back, and who is turned away.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
mod doors;
mod exchange;
mod floods;
mod logs;
mod matrix;
mod replay;
mod restart;
mod snapshots;
mod stranger;
mod versions;
