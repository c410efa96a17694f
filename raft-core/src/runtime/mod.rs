//! The tokio runtime: one driver task a group, one log writer a store, one applier a state machine.
//!
//! ```text
//!  callers ──▶ mailbox ──▶ driver (engine) ──▶ outbox ──▶ transport ──▶ peers
//!  transport ─▶    ▲          │     │
//!                  │          ▼     ▼
//!                  ├──── log writer  applier ──▶ callers
//!                  └───────────────────┘
//! ```
//!
//! The driver waits for nothing but its mailbox and its deadline.

#![cfg_attr(not(feature = "tracing"), expect(unused_variables, reason = "some are there for the log only"))]

mod applier;
mod change;
mod clock;
mod driver;
mod error;
mod guard;
mod handover;
mod log_writer;
mod mailbox;
#[cfg_attr(not(feature = "metrics"), path = "unmeasured.rs")]
mod metrics;
mod node;
mod options;
mod outbox;
mod passage;
mod pending;
mod reading;
mod recover;
mod snapshots;
mod status;
mod trace;

pub(crate) use self::mailbox::lock;
pub use error::{RaftError, StartError};
#[cfg(feature = "metrics")]
pub use metrics::{Distribution, Metrics};
pub use options::{Member, NodeOptions};
pub use reading::{Consistency, Reading};
pub use snapshots::{SnapshotFile, SnapshotPlace, SnapshotStatus, TransferStatus};
pub use status::{Counters, FatalKind, RaftStatus};

pub(crate) use change::What;
pub(crate) use node::Node;
