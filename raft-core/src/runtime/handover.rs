//! Callers who wait for a transfer of leadership.

use std::time::Duration;

use tokio::sync::oneshot;

use super::error::RaftError;
use crate::engine::{Engine, RoleName};
use crate::types::{NodeId, Time};

/// A caller's wish that another node lead.
pub(crate) struct Handover {
    /// Which; the best where none is named.
    pub(crate) to: Option<NodeId>,
    /// How long to wait for it.
    pub(crate) patience: Duration,
    pub(crate) reply: oneshot::Sender<Result<NodeId, RaftError>>,
}

/// The most callers that wait: far beyond what operators ask for, and each costs a look at every turn.
const MAX_OPEN: usize = 64;

/// Those whose transfer is under way.
#[derive(Default)]
pub(super) struct Handovers(Vec<Waiting>);

struct Waiting {
    to: NodeId,
    named: bool,
    until: Time,
    reply: oneshot::Sender<Result<NodeId, RaftError>>,
}

impl Handovers {
    /// Waits for the transfer to `to`, which has begun; beyond the limit the caller hears at once that it does not wait, and this is false. So many wait only
    /// for a transfer that others had begun.
    pub(super) fn wait(&mut self, wish: Handover, to: NodeId, now: Time) -> bool {
        let Handover { to: named, patience, reply } = wish;
        if self.0.len() >= MAX_OPEN {
            let _gone = reply.send(Err(RaftError::Overloaded));
            return false;
        }
        let until = now.saturating_add(patience);
        self.0.push(Waiting { to, named: named.is_some(), until, reply });
        true
    }

    /// Answers those whose transfer has ended.
    pub(super) fn settle(&mut self, engine: &Engine, now: Time) {
        for waiting in std::mem::take(&mut self.0) {
            match waiting.outcome(engine, now) {
                Some(outcome) => {
                    let _gone = waiting.reply.send(outcome);
                }
                None => self.0.push(waiting),
            }
        }
    }

    /// When to settle at the latest.
    pub(super) fn due(&self) -> Option<Time> {
        self.0.iter().map(|waiting| waiting.until).min()
    }
}

impl Waiting {
    fn outcome(&self, engine: &Engine, now: Time) -> Option<Result<NodeId, RaftError>> {
        let to = self.to;
        let leads = engine.role() == RoleName::Leader;
        match engine.leader() {
            Some(leader) if leader == to || (!leads && !self.named) => Some(Ok(leader)),
            Some(leader) if !leads => {
                Some(Err(RaftError::Transfer(format!("node {leader} came to lead, not node {to}"))))
            }
            Some(leader) if engine.transferring() != Some(to) => Some(Err(RaftError::Transfer(format!(
                "node {to} did not take over in time: node {leader} goes on leading"
            )))),
            _ if now >= self.until => Some(Err(RaftError::Transfer(format!(
                "node {to} was told to take over; no leader is known yet"
            )))),
            _ => None,
        }
    }
}
