//! Callers who want other members: those whose intent cannot be taken yet, and those who wait until it is committed.

use std::time::Duration;

use tokio::sync::oneshot;

use super::error::RaftError;
use crate::engine::{ChangeError, Engine};
use crate::membership::{Lease, Target};
use crate::types::{Index, NodeId, Term, Time};

/// A caller's wish.
pub(crate) struct Wish {
    pub(crate) what: What,
    /// How long to wait until it can be taken and is committed.
    pub(crate) patience: Duration,
    pub(crate) reply: oneshot::Sender<Result<Index, RaftError>>,
}

/// What is wanted of the membership.
#[derive(Clone)]
pub(crate) enum What {
    /// These members; only where the configuration is still that of the index, if one is named.
    Become(Target, Option<Index>),
    /// Nothing more.
    GiveUp,
    /// Leases that rest on this, or none.
    Lease(Option<Lease>),
}

/// The most wishes that are open: far beyond what operators ask for, and each costs a look at every turn.
const MAX_OPEN: usize = 64;

/// Callers whose wish is open.
#[derive(Default)]
pub(super) struct Changes(Vec<Open>);

struct Open {
    wish: Wish,
    until: Time,
    /// The entry that holds the intent, once it is appended.
    appended: Option<(Term, Index)>,
}

impl Changes {
    /// Takes a wish; beyond the limit its caller hears so at once, and this is false.
    pub(super) fn add(&mut self, wish: Wish, now: Time) -> bool {
        if self.0.len() >= MAX_OPEN {
            let _gone = wish.reply.send(Err(RaftError::Overloaded));
            return false;
        }
        let until = now.saturating_add(wish.patience);
        self.0.push(Open { wish, until, appended: None });
        true
    }

    /// Hands wishes to the engine and answers those that came to an end. `not_leader` makes the error of a node that does not lead.
    /// Returns how many were given up because their time was over.
    pub(super) fn settle(
        &mut self,
        engine: &mut Engine,
        now: Time,
        not_leader: impl Fn(&Engine, Option<NodeId>) -> RaftError,
    ) -> u64 {
        let mut expired = 0;
        for mut open in std::mem::take(&mut self.0) {
            match open.outcome(engine, now, &not_leader) {
                Some(outcome) => {
                    expired += u64::from(outcome == Err(RaftError::Unknown) && now >= open.until);
                    let _gone = open.wish.reply.send(outcome);
                }
                None => self.0.push(open),
            }
        }
        expired
    }

    /// When to settle at the latest.
    pub(super) fn due(&self) -> Option<Time> {
        self.0.iter().map(|open| open.until).min()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The group ends.
    pub(super) fn abandon(&mut self, error: &RaftError) {
        for open in self.0.drain(..) {
            let outcome = if open.appended.is_some() { RaftError::Unknown } else { error.clone() };
            let _gone = open.wish.reply.send(Err(outcome));
        }
    }
}

impl Open {
    fn outcome(
        &mut self,
        engine: &mut Engine,
        now: Time,
        not_leader: impl Fn(&Engine, Option<NodeId>) -> RaftError,
    ) -> Option<Result<Index, RaftError>> {
        if let Some((term, index)) = self.appended {
            if engine.commit() < index {
                return (now >= self.until).then_some(Err(RaftError::Unknown));
            }
            return Some(match engine.term_at(index) {
                Some(committed) if committed == term => Ok(index),
                Some(_) => Err(RaftError::NotCommitted),
                // A snapshot stands in for the entry: nobody can tell what it was.
                None => Err(RaftError::Unknown),
            });
        }
        let taken = match self.wish.what.clone() {
            What::Become(target, based_on) => engine.set_members(target, based_on, now),
            What::GiveUp => engine.give_up_change(now),
            What::Lease(lease) => engine.set_lease(lease, now),
        };
        match taken {
            // Nothing to be done: what is wanted is in force already.
            Ok(index) if index <= engine.commit() => Some(Ok(index)),
            Ok(index) => {
                self.appended = Some((engine.term(), index));
                None
            }
            Err(ChangeError::NotLeader { leader }) => Some(Err(not_leader(engine, leader))),
            Err(ChangeError::NotYet | ChangeError::Transferring) if now < self.until => None,
            Err(ChangeError::Fatal) => Some(Err(RaftError::Fatal { reason: "the group has stopped".into() })),
            Err(ChangeError::Outdated { .. }) => Some(Err(RaftError::Outdated)),
            Err(error) => Some(Err(RaftError::Membership(error.to_string()))),
        }
    }
}
