//! Transports on loopback, from outside: what gets through, what comes back, and who is turned away.

mod common;
mod doors;
mod exchange;
mod restart;
mod stranger;
