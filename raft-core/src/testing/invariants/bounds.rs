//! Nothing grows without a bound: each queue keeps within the setting that limits it, and one entry more where a single
//! one always goes. Pipelining (thesis, 10.2.2) sends ahead of the answers; the window is what keeps a slow or dead follower
//! from filling the leader's memory. That all queues are empty when nothing goes on is checked at the end of a simulation.

use super::{Broken, View};
use crate::config::Config;
use crate::engine::Queues;
use crate::types::Entry;

/// Group commit without a timer: one write on the disk, one that gathers.
const MAX_WRITES: usize = 2;

/// A follower has two requests for read indexes under way, and may have had two before it was restarted.
const MAX_ASKED: usize = 4;

/// A membership may be larger than the largest command.
const MEMBERSHIP_BYTES: usize = 4096;

pub(super) fn check(view: &View<'_>, config: &Config) -> Result<(), Broken> {
    let queues = view.queues;
    let entry = config.max_entry_bytes.max(MEMBERSHIP_BYTES) + Entry::OVERHEAD_BYTES;
    let append = config.max_append_bytes.max(entry);
    let limits = Queues {
        inflight_messages: config.max_inflight_messages,
        inflight_bytes: config.max_inflight_bytes + append,
        reads: config.max_pending_reads,
        asked: MAX_ASKED,
        apply_backlog_bytes: config.max_apply_bytes + entry,
        writes: MAX_WRITES,
        ..queues
    };
    let within = queues.inflight_messages <= limits.inflight_messages
        && queues.inflight_bytes <= limits.inflight_bytes
        && queues.reads <= limits.reads
        && queues.asked <= limits.asked
        && queues.apply_backlog_bytes <= limits.apply_backlog_bytes
        && queues.writes <= limits.writes;
    if within && queues.messages == 0 {
        return Ok(());
    }
    Err(Broken::new(
        "queues keep within their bounds",
        format!("{}: {queues:?}; limits {limits:?}", view.node),
    ))
}
