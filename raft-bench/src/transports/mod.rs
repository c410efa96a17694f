//! Transports to compare with, and to learn from: `docs/writing-a-transport.md` walks through [`tcp`].

pub mod tcp;
pub mod tls;
