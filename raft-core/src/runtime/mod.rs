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

mod applier;
mod change;
mod clock;
mod driver;
mod error;
mod guard;
mod handover;
mod log_writer;
mod mailbox;
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

pub(crate) use self::mailbox::lock;
pub use error::{RaftError, StartError};
pub use metrics::{Distribution, Metrics};
pub use options::{Member, NodeOptions};
pub use reading::{Consistency, Reading};
pub use snapshots::{SnapshotFile, SnapshotPlace, SnapshotStatus, TransferStatus};
pub use status::{Counters, FatalKind, RaftStatus};

pub(crate) use change::What;
pub(crate) use node::Node;
