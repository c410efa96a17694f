//! How a node comes back: from log store and state machine to an engine.

use std::io;

use fastrand::Rng;

use super::error::StartError;
use super::options::NodeOptions;
use super::snapshots::{Folder, Lent, SnapshotFile, blocking, restore};
use super::trace;
use crate::codec::CodecError;
use crate::engine::{Engine, EngineOptions, SESSIONS_LEVEL};
use crate::log_store::{LogState, LogStore};
use crate::session_table::SessionTable;
use crate::transport::LocalNode;
use crate::types::{EntryId, Incarnation, Index, Peer, SnapshotMeta, Term, Time};

/// A node as it was when it stopped.
pub(super) struct Recovered {
    pub(super) engine: Engine,
    pub(super) local: LocalNode,
    /// The last entry that the state machine holds.
    pub(super) applied: EntryId,
    /// The clients' sessions at that entry.
    pub(super) sessions: SessionTable,
    /// The machine is durable by itself, and keeps the library's notes.
    pub(super) keeps_notes: bool,
    /// The newest snapshot that is there.
    pub(super) snapshot: Option<SnapshotMeta>,
}

/// Claims the store, reads what it holds, and checks it against itself and against the machine.
pub(super) async fn recover(
    options: &NodeOptions,
    store: &dyn LogStore,
    machine: &Lent,
    folder: &Folder,
    now: Time,
) -> Result<Recovered, StartError> {
    let mut random = Rng::new();
    let fresh = Incarnation(random.u64(1..));
    let claim = store.claim(options.cluster, options.node, fresh).await?;
    let peer = Peer { node: options.node, incarnation: claim.incarnation };
    let boot = LocalNode::boot(claim.boot, random.u64(..));
    let local = LocalNode { cluster: options.cluster, peer, boot };

    let mut state = store.load(options.group).await?;
    check_last(options, store, &state).await?;
    let notes = machine.lock().await.bookkeeping().await?;
    let keeps_notes = notes.is_some();
    let held = match notes.filter(|notes| !notes.is_empty()) {
        Some(notes) => SessionTable::from_notes(notes).map_err(|e| notes_error(&e))?,
        None => (SessionTable::default(), EntryId::ZERO),
    };
    let (mut sessions, applied) = recover_machine(&mut state, machine, held, folder).await?;
    check_applied(applied, &state)?;
    if keeps_notes {
        sessions.watch();
    }

    let mut config = options.config.clone();
    if folder.is_none() {
        (config.snapshot_entries, config.snapshot_bytes) = (u64::MAX, usize::MAX);
    }
    let snapshot = state.snapshot.clone();
    let mut engine = Engine::new(EngineOptions {
        config,
        group: options.group,
        local: peer,
        seed: random.u64(..) ^ options.node.0,
        state,
        applied: applied.index,
        now,
    })?;
    if sessions.is_used() {
        engine.note_level(SESSIONS_LEVEL);
    }
    Ok(Recovered { engine, local, applied, sessions, keeps_notes, snapshot })
}

fn notes_error(error: &CodecError) -> StartError {
    StartError::Inconsistent(match error {
        CodecError::Unsupported | CodecError::UnknownKind(_) => {
            "the library's notes in the state machine are of a later version: use the newer program"
                .to_owned()
        }
        _ => format!("the library's notes in the state machine are damaged ({error})"),
    })
}

/// Brings the machine to where the log can go on, and makes `state` name the newest snapshot that is there and sound. A machine
/// that is durable by itself goes on from its own state where the log reaches back to it.
async fn recover_machine(
    state: &mut LogState,
    machine: &Lent,
    (sessions, held): (SessionTable, EntryId),
    folder: &Folder,
) -> Result<(SessionTable, EntryId), StartError> {
    let place = folder.place_name();
    let failed = |error: io::Error| StartError::Snapshot(format!("{place}: {error}"));
    let base = state.outline.base;
    let goes_on = held > EntryId::ZERO && held.index >= base.index;
    let (looked, begins) = (folder.clone(), state.clone());
    let (found, troubles) = blocking(move || {
        looked.prepare()?;
        looked.clean(begins.snapshot.as_ref().map_or(0, |meta| meta.last.index))?;
        find(&looked, &begins, goes_on)
    })
    .await
    .map_err(failed)?;
    for trouble in &troubles {
        trace::error!(%place, %trouble, "a snapshot cannot be used");
    }
    state.snapshot = found.as_ref().map(Found::meta);
    match found {
        Some(Found::Whole(snapshot)) if !goes_on => {
            let last = snapshot.meta().last;
            let restored = restore(machine, snapshot).await;
            let restored =
                restored.map_err(|e| StartError::Snapshot(format!("{place}: restoring from {last}: {e}")))?;
            Ok((restored, last))
        }
        None if base.index > 0 => Err(StartError::Snapshot(format!(
            "{place}: {}. The log begins after entry {base} and is of no use without a snapshot of at least that: put the \
             file back, or remove the node from the cluster and add it again with an empty folder",
            troubles.join("; ")
        ))),
        _ => Ok((sessions, held)),
    }
}

/// A snapshot that can be used.
enum Found {
    Whole(SnapshotFile),
    /// Only its length was looked at.
    Unread(SnapshotMeta),
}

impl Found {
    fn meta(&self) -> SnapshotMeta {
        match self {
            Self::Whole(snapshot) => snapshot.meta(),
            Self::Unread(meta) => meta.clone(),
        }
    }
}

/// The newest snapshot that is sound and that the log reaches back to, and what is wrong with newer ones. Where it is not to be
/// restored from, one of the right length will do: a start must stay quick however large the state.
fn find(folder: &Folder, state: &LogState, unread: bool) -> io::Result<(Option<Found>, Vec<String>)> {
    let mut troubles = Vec::new();
    let Some(newest) = &state.snapshot else { return Ok((None, troubles)) };
    if unread && folder.size_of(newest.last)? == Some(newest.size_bytes) {
        return Ok((Some(Found::Unread(newest.clone())), troubles));
    }
    let older = folder.snapshots()?.into_iter().filter(|last| {
        last.index < newest.last.index
            && last.index >= state.outline.base.index
            && term_at(state, last.index) == Some(last.term)
    });
    let mut damaged = Vec::new();
    for last in std::iter::once(newest.last).chain(older) {
        let checked = if last == newest.last { folder.checked_as(newest) } else { folder.checked(last) };
        match checked {
            Ok(snapshot) => {
                // Else they would count among those to fall back on.
                damaged.into_iter().try_for_each(|last| folder.remove(last))?;
                return Ok((Some(Found::Whole(snapshot)), troubles));
            }
            Err(error) => troubles.push(format!("the snapshot of {last}: {error}")),
        }
        damaged.push(last);
    }
    Ok((None, troubles))
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
