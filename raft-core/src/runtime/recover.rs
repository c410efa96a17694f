//! How a node comes back: from log store and state machine to an engine.

use fastrand::Rng;

use super::applier::Bookkeeping;
use super::error::StartError;
use super::options::NodeOptions;
use crate::engine::{Engine, EngineOptions};
use crate::log_store::{LogState, LogStore};
use crate::state_machine::StateMachine;
use crate::transport::LocalNode;
use crate::types::{EntryId, Incarnation, Index, Peer, Term, Time};

/// A node as it was when it stopped.
pub(super) struct Recovered {
    pub(super) engine: Engine,
    pub(super) local: LocalNode,
    /// The last entry that the state machine holds.
    pub(super) applied: EntryId,
}

/// Claims the store, reads what it holds, and checks it against itself and against the machine.
pub(super) async fn recover(
    options: &NodeOptions,
    store: &dyn LogStore,
    machine: &mut dyn StateMachine,
    now: Time,
) -> Result<Recovered, StartError> {
    let mut random = Rng::new();
    let fresh = Incarnation(random.u64(1..));
    let claim = store.claim(options.cluster, options.node, fresh).await?;
    let peer = Peer { node: options.node, incarnation: claim.incarnation };
    let local = LocalNode { cluster: options.cluster, peer, boot: claim.boot };

    let state = store.load(options.group).await?;
    check_last(options, store, &state).await?;
    let applied = match machine.bookkeeping().await? {
        Some(note) => Bookkeeping::decode(&note).map_err(StartError::Inconsistent)?.applied,
        None => EntryId::ZERO,
    };
    check_applied(applied, &state)?;

    let engine = Engine::new(EngineOptions {
        config: options.config.clone(),
        group: options.group,
        local: peer,
        seed: random.u64(..) ^ options.node.0,
        state,
        applied: applied.index,
        now,
    })?;
    Ok(Recovered { engine, local, applied })
}

/// The outline's term of `index`; `None` where the log does not reach.
fn term_at(state: &LogState, index: Index) -> Option<Term> {
    let base = state.outline.base;
    if index == base.index {
        return Some(base.term);
    }
    if index < base.index || index > state.last {
        return None;
    }
    state.outline.terms.iter().rev().find(|first| first.index <= index).map(|first| first.term)
}

/// The last entry can be read and is what the outline says: a cheap look that finds a log put together from two.
async fn check_last(options: &NodeOptions, store: &dyn LogStore, state: &LogState) -> Result<(), StartError> {
    if state.last <= state.outline.base.index {
        return Ok(());
    }
    let read = store.read(options.group, state.last..=state.last, 1).await?;
    let found = read.last().map(|entry| entry.id);
    let noted = term_at(state, state.last).map(|term| EntryId::new(term, state.last));
    if found.is_none() || found != noted {
        let text = |id: Option<EntryId>| id.map_or_else(|| "none".to_owned(), |id| id.to_string());
        return Err(StartError::Inconsistent(format!(
            "the log's last entry is {} and its outline says {}: the log store is damaged; remove the node from the \
             cluster and add it again with an empty folder",
            text(found),
            text(noted)
        )));
    }
    Ok(())
}

/// The machine is at a place that the log knows.
fn check_applied(applied: EntryId, state: &LogState) -> Result<(), StartError> {
    let base = state.outline.base;
    if applied.index < base.index {
        return Err(StartError::Inconsistent(format!(
            "the log begins after entry {base} and the state machine ends at {applied}: what lies between is missing"
        )));
    }
    if term_at(state, applied.index) != Some(applied.term) {
        return Err(StartError::Inconsistent(format!(
            "the state machine has applied entry {applied}, which the log does not hold: they are of different nodes, or \
             one of them is an older copy"
        )));
    }
    Ok(())
}
