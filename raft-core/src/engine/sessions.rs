//! What sessions need of the engine: log time, and the certainty that every member understands their entries.

use super::{Engine, ProposeError, Role};
use crate::progress::Progress;
use crate::session::{SessionAction, SessionEntry};
use crate::types::{Entry, EntryId, LEVEL, Level, NodeId, Payload, Time};

/// The level that sessions came with.
pub const SESSIONS_LEVEL: Level = 2;

impl Engine {
    /// Whether payloads of `level` may be written: each other member has told this leader that it knows it, or has been silent for an
    /// election timeout, so that a dead one holds nobody up; or there are such payloads in what is applied already. Who turns out to
    /// run an older version gets nothing that it cannot read ([`Wait::OlderVersion`](super::Wait::OlderVersion)), and whoever is to
    /// become a member must know it too.
    pub fn all_know(&self, level: Level) -> bool {
        if level <= self.written_level {
            return true;
        }
        match &self.role {
            Role::Leader(leader) => {
                let silent = |peer: &Progress| peer.level == 0 && !self.is_active(peer);
                level <= LEVEL && leader.progress.values().all(|peer| peer.level >= level || silent(peer))
            }
            _ => false,
        }
    }

    /// The same for those members that answer in this term, at once. A change of the members must be possible where one is dead.
    pub(super) fn answering_know(&self, level: Level) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        let mut answering = leader.progress.values().filter(|peer| self.is_active(peer) && peer.matched > 0);
        self.all_know(level) || (level <= LEVEL && answering.all(|peer| peer.level >= level))
    }

    /// Says from now on that it knows payloads up to `level` only, as an older version does. Such must not be given to it then.
    #[cfg(feature = "testing")]
    pub const fn play_older(&mut self, level: Level) {
        self.older_level = Some(level);
    }

    /// What this node says that it knows.
    #[cfg(feature = "testing")]
    pub(super) fn own_level(&self) -> Level {
        self.older_level.unwrap_or(LEVEL)
    }

    /// What this node says that it knows.
    #[cfg(not(feature = "testing"))]
    #[expect(clippy::unused_self, reason = "with the feature it is used")]
    pub(super) const fn own_level(&self) -> Level {
        LEVEL
    }

    /// The highest level that is in the log, as far as this node knows without reading it: who does not know it cannot take the log.
    pub(super) fn log_level(&self) -> Level {
        self.written_level.max(self.membership().level())
    }

    /// What a peer must know to be sent the log; nothing where none of them is known to run an older version.
    pub(super) fn needed_level(&self) -> Level {
        let Role::Leader(leader) = &self.role else { return 0 };
        let older = leader.progress.values().any(|peer| peer.is_older_than(LEVEL));
        if older { self.log_level() } else { 0 }
    }

    /// The level that a peer knows, where it has said so and that is less than what is in the log.
    pub(super) fn older_level(&self, node: NodeId) -> Option<Level> {
        let Role::Leader(leader) = &self.role else { return None };
        leader.progress.get(&node).filter(|peer| peer.is_older_than(self.log_level())).map(|peer| peer.level)
    }

    /// The state that this node has, from a snapshot or from a machine that is durable by itself, was made with payloads of `level`.
    pub fn note_level(&mut self, level: Level) {
        self.written_level = self.written_level.max(level);
    }

    pub(super) fn note_levels(&mut self, applied: &[Entry]) {
        if self.written_level < LEVEL {
            let highest = applied.iter().map(|entry| entry.payload.level()).max();
            self.note_level(highest.unwrap_or(1));
        }
    }

    /// Appends what is asked of the sessions to the log, like [`propose`](Self::propose), and gives it log time.
    ///
    /// # Errors
    /// It was not taken, and never will be.
    pub fn propose_sessions(
        &mut self,
        actions: Vec<SessionAction>,
        now: Time,
    ) -> Result<EntryId, ProposeError> {
        self.set_now(now);
        let lengths = actions.iter().map(SessionAction::command_bytes);
        self.may_propose(lengths, SessionEntry::OVERHEAD_BYTES)?;
        if !self.all_know(SESSIONS_LEVEL) {
            return Err(ProposeError::NotKnown { level: SESSIONS_LEVEL });
        }
        let first = EntryId::new(self.term, self.log.last_index() + 1);
        let mut elapsed_ms = self.pass_log_time();
        self.append_own(actions.into_iter().map(|action| {
            let elapsed_ms = std::mem::take(&mut elapsed_ms);
            Payload::Session(Box::new(SessionEntry { elapsed_ms, action }))
        }));
        self.check();
        Ok(first)
    }

    /// The whole milliseconds since this leader's log time was last moved on, and moves it on. A leader's entries follow each
    /// other in the log, so what is added up there is never more than the time in which it led.
    fn pass_log_time(&mut self) -> u64 {
        let Role::Leader(leader) = &mut self.role else { return 0 };
        let passed = self.now.saturating_sub(leader.stamped_at).as_millis();
        let passed = u64::try_from(passed).unwrap_or(u64::MAX);
        leader.stamped_at = leader.stamped_at.saturating_add(Time::from_millis(passed));
        passed
    }
}
