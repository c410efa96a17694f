//! Preferred leaders, without churn: who comes and goes waits longer each time.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Engine;
use crate::types::{NodeId, Time};

/// How long a preferred voter must have kept up before it is handed the leadership, in election timeouts: long enough to be past
/// its start, short beside the time that leaders last.
const TRIAL_TIMEOUTS: u32 = 8;

/// The trial doubles with each loss, up to 16 times: half a minute to a minute with the default timeouts.
const MAX_DOUBLINGS: u32 = 4;

/// The leaders that this node lost: they fell silent, or gave their leadership up.
#[derive(Debug, Default)]
pub(super) struct LostLeaders {
    times: BTreeMap<NodeId, u32>,
    /// Since when the present leader is followed.
    followed_since: Time,
}

impl Engine {
    pub(super) fn note_new_leader(&mut self) {
        self.lost_leaders.followed_since = self.now;
    }

    /// The leader, if there is one, is one no more. If it had lasted, it starts afresh.
    pub(super) fn note_lost_leader(&mut self) {
        let Some(leader) = self.leader else { return };
        let lasted =
            self.now.saturating_sub(self.lost_leaders.followed_since) > 2 * self.trial_of(leader.node);
        let mut times = std::mem::take(&mut self.lost_leaders.times);
        times.retain(|&node, _| self.membership().nodes.contains_key(&node));
        let lost = times.entry(leader.node).or_default();
        *lost = if lasted { 1 } else { (*lost + 1).min(MAX_DOUBLINGS) };
        self.lost_leaders.times = times;
    }

    /// How long `node` must keep up before the leadership is handed to it.
    pub(super) fn trial_of(&self, node: NodeId) -> Duration {
        let lost = self.lost_leaders.times.get(&node).copied().unwrap_or(0);
        self.config.election_timeout * (TRIAL_TIMEOUTS << lost)
    }

    /// When to campaign if nothing is heard, or, without a vote, to ask whether one is still a member; never, where this node
    /// belongs to no cluster or was told that it does not count. From one to two election timeouts (paper,
    /// 5.2); the highest priority draws from the first half of that, which leaves enough to keep two of them apart.
    pub(super) fn election_deadline(&mut self) -> Time {
        if self.membership().is_empty() || self.dismissal().is_some() {
            return Time::MAX;
        }
        let timeout = self.config.election_timeout;
        let beyond = self.random.one_to_two_times(timeout) - timeout;
        let part = 512 - u32::from(self.config.priority);
        self.now.saturating_add(timeout + beyond * part / 512)
    }
}
