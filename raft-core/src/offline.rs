//! What is done to a log while no node runs on it: a new lineage after a majority was lost, and a new cluster from a backup.
//! `docs/operations.md` has the procedures.

use crate::engine::{Violation, check_restored};
use crate::log::Log;
use crate::log_store::{LogState, LogStore, StorageError, Write};
use crate::membership::{Membership, NodeInfo};
use crate::types::{
    ClusterId, Entry, EntryId, GroupId, HardState, Incarnation, Index, Lineage, NodeId, Outline, Payload,
    Peer, SnapshotMeta, Term,
};

/// What a log held before [`new_lineage`], and what was made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NewLineage {
    /// The term that the node had seen.
    pub term: Term,
    /// What the node knew to be committed. What lies beyond counts as committed from now on.
    pub commit: Index,
    /// The last entry of the log.
    pub last: EntryId,
    /// The configuration in force, and with it the lineage that is left behind.
    pub membership: Membership,
    /// The new lineage.
    pub lineage: Lineage,
    /// The entry that begins it: the configuration with the node as its only voter.
    pub first: EntryId,
}

/// Makes the log of `node` the beginning of a new lineage of its cluster, for when a majority of the voters is lost for good: all
/// that the log holds counts as committed, and the node becomes the only voter. The write is one, so it happens or not.
///
/// Entries that only the lost nodes held are lost, and among the kept ones may be some that were never confirmed to anybody.
/// Whoever still runs in the old lineage is refused from then on. `lineage` is [`Lineage::drawn`] from a random number. No node
/// may run on the store.
///
/// # Errors
/// Where the log is not that of a member, or there is nothing to recover from. Nothing was changed then, unless the store failed.
pub async fn new_lineage(
    store: &dyn LogStore,
    cluster: ClusterId,
    node: NodeId,
    group: GroupId,
    lineage: Lineage,
) -> Result<NewLineage, OfflineError> {
    let state = store.load(group).await?;
    if state == LogState::default() {
        return Err(OfflineError::Blank);
    }
    let claim = store.claim(cluster, node, Incarnation::UNKNOWN).await?;
    let local = Peer { node, incarnation: claim.incarnation };
    let (write, done) = plan_new_lineage(state, group, local, lineage)?;
    store.write(&[write]).await?;
    Ok(done)
}

/// What [`new_lineage`] would do to a log, which `state` is of.
///
/// # Errors
/// As [`new_lineage`].
pub fn preview_new_lineage(
    state: LogState,
    local: Peer,
    lineage: Lineage,
) -> Result<NewLineage, OfflineError> {
    plan_new_lineage(state, GroupId::default(), local, lineage).map(|(_, done)| done)
}

pub(crate) fn plan_new_lineage(
    state: LogState,
    group: GroupId,
    local: Peer,
    lineage: Lineage,
) -> Result<(Write, NewLineage), OfflineError> {
    check_restored(&state, state.outline.base.index)?;
    let LogState { hard_state, outline, last, .. } = state;
    let mut log = Log::new(outline, last);
    let (_, membership) = log.membership().ok_or(OfflineError::Blank)?;
    let membership = membership.clone();
    let node = local.node;
    let info = membership.nodes.get(&node).ok_or(OfflineError::NotMember { node })?;
    if ![Incarnation::UNKNOWN, local.incarnation].contains(&info.incarnation) {
        return Err(OfflineError::OtherFolder { node, bound: info.incarnation, found: local.incarnation });
    }
    if membership.voters.iter().eq([&node]) && membership.outgoing.is_empty() {
        return Err(OfflineError::Alone { node, lineage: membership.lineage });
    }
    let info = NodeInfo { incarnation: local.incarnation, ..info.clone() };
    let alone =
        Membership { lineage, lease: membership.lease, ..Membership::of_voters([(node, info)].into()) };
    alone.validate().map_err(|error| OfflineError::Log(error.to_string()))?;

    let done = NewLineage {
        term: hard_state.term,
        commit: hard_state.commit,
        last: log.last(),
        membership,
        lineage,
        first: EntryId::new(hard_state.term + 1, last + 1),
    };
    let entry = Entry { id: done.first, payload: Payload::Membership(Box::new(alone)) };
    log.append(entry.clone());
    let write = Write {
        group,
        entries: vec![entry],
        hard_state: Some(HardState { term: done.first.term, vote: Some(node), commit: done.first.index }),
        outline: log.take_outline(done.first.index),
        ..Write::default()
    };
    Ok((write, done))
}

/// Begins an empty log with a snapshot of another cluster as all that came before: the state without the members. A new cluster is
/// then founded by [`bootstrap`](crate::Engine::bootstrap) on this node, which brings blank members up by the snapshot; on any other
/// it fails, since no blank node can win an election against this one. The snapshot's file is already in its place. No node may
/// run on the store.
///
/// # Errors
/// Where the store is not empty or belongs to another node. Nothing was changed then, unless the store failed.
pub async fn begin_from_snapshot(
    store: &dyn LogStore,
    cluster: ClusterId,
    node: NodeId,
    fresh: Incarnation,
    group: GroupId,
    snapshot: SnapshotMeta,
) -> Result<(), OfflineError> {
    if store.load(group).await? != LogState::default() {
        return Err(OfflineError::NotBlank);
    }
    let last = snapshot.last;
    if last.index == 0 || last.term == 0 {
        return Err(OfflineError::Log(format!("a snapshot of entry {last} covers nothing")));
    }
    store.claim(cluster, node, fresh).await?;
    store.write(&[write_from_snapshot(group, snapshot)]).await?;
    Ok(())
}

pub(crate) fn write_from_snapshot(group: GroupId, snapshot: SnapshotMeta) -> Write {
    let last = snapshot.last;
    Write {
        group,
        snapshot: Some(SnapshotMeta { membership: Membership::default(), ..snapshot }),
        hard_state: Some(HardState { term: last.term, vote: None, commit: last.index }),
        outline: Some(Outline { base: last, ..Outline::default() }),
        compact_to: Some(last.index),
        ..Write::default()
    }
}

/// Why nothing was done to a log.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OfflineError {
    /// The log holds no configuration: it never was a member of a cluster.
    #[error("the log holds nothing to recover: its node never was a member of a cluster")]
    Blank,
    /// The log holds something already.
    #[error("the log is not empty: restore into a new data folder")]
    NotBlank,
    /// The configuration in force does not know the node.
    #[error("node {node} is not a member of the configuration in force: recover from a member's data folder")]
    NotMember {
        /// The node.
        node: NodeId,
    },
    /// The configuration in force binds the node to another data folder.
    #[error(
        "the configuration in force binds node {node} to the data folder {bound}, and this one is {found}: its promises are \
         not those of the member"
    )]
    OtherFolder {
        /// The node.
        node: NodeId,
        /// The folder that it is bound to.
        bound: Incarnation,
        /// The folder that the log is of.
        found: Incarnation,
    },
    /// No majority is lost: the node alone is one.
    #[error("node {node} already is the only voter (lineage {lineage}): start it as it is")]
    Alone {
        /// The node.
        node: NodeId,
        /// The lineage that it belongs to.
        lineage: Lineage,
    },
    /// The log contradicts itself.
    #[error("the log cannot be used: {0}")]
    Log(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StorageError),
}

impl From<Violation> for OfflineError {
    fn from(violation: Violation) -> Self {
        Self::Log(violation.to_string())
    }
}
