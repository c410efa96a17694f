//! Snapshots: taking them, sending them to peers whose entries are gone, installing them, and compacting the log behind them
//! (paper, 7; thesis, 5).

use std::collections::BTreeSet;

use super::event::{Event, Refusal};
use super::planted::Planted;
use super::ready::{Ready, SendSnapshot, SnapshotOutcome, SnapshotRequest};
use super::{ApplyFetch, Engine, NUMBER_LIMIT, Role, SnapshotError, TERM_LEAP_LIMIT};
use crate::membership::Membership;
use crate::progress::{Flow, SnapshotStage};
use crate::types::{EntryId, Index, Peer, SnapshotMeta, Time};

/// For how many election timeouts a leader keeps the log behind a snapshot for a peer that fell silent while it was sent it.
const RETURN_TIMEOUTS: u32 = 20;

/// What the engine knows of this node's snapshots.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    /// The newest whose file is durable.
    pub(super) latest: Option<SnapshotMeta>,
    /// The one before, while it is kept: a transfer that broke goes on with the snapshot that it began with.
    previous: Option<SnapshotMeta>,
    /// `latest` is to be noted in the log store.
    pub(super) unwritten: bool,
    /// `latest` replaces the log and the state, once its write is durable.
    pub(super) installing: bool,
    /// One is being taken.
    taking: bool,
    /// One was asked for that covers this index at least.
    requested: Option<Index>,
    /// Where the last one was taken or tried, and the bytes handed out to be applied since.
    tried_at: Index,
    applied_bytes: usize,
    /// Handed out to be sent, by number, and to whom.
    sending: BTreeSet<u64>,
    next_transfer: u64,
}

impl Snapshots {
    pub(super) fn new(latest: Option<SnapshotMeta>) -> Self {
        let tried_at = latest.as_ref().map_or(0, |meta| meta.last.index);
        Self { latest, tried_at, ..Self::default() }
    }

    /// The last index that the newest one covers; 0 where there is none.
    pub(super) fn index(&self) -> Index {
        self.latest.as_ref().map_or(0, |meta| meta.last.index)
    }

    pub(super) fn note_applied(&mut self, bytes: usize) {
        self.applied_bytes = self.applied_bytes.saturating_add(bytes);
    }
}

impl Engine {
    /// Asks for a snapshot of what is committed now, at the next moment that it is applied. The index that it will
    /// cover at least: it is there once [`Status::snapshot`](super::Status::snapshot) says so.
    ///
    /// # Errors
    /// Where nothing is committed yet, or the group has stopped.
    pub fn request_snapshot(&mut self, now: Time) -> Result<Index, SnapshotError> {
        self.set_now(now);
        if self.fatal.is_some() {
            return Err(SnapshotError::Fatal);
        }
        if self.commit == 0 {
            return Err(SnapshotError::Nothing);
        }
        if self.commit > self.snapshots.index() {
            self.snapshots.requested = Some(self.commit);
        }
        Ok(self.commit)
    }

    /// The snapshot of [`Ready::snapshot`] is there: its file and folder are synced. `None`: it failed, and will be asked for
    /// again when the next is due. Returns whether it is of use; one that a newer one has overtaken is not, and its file
    /// may go.
    pub fn snapshot_taken(&mut self, taken: Option<SnapshotMeta>, now: Time) -> bool {
        self.set_now(now);
        self.snapshots.taking = false;
        let Some(meta) = taken else {
            self.snapshots.requested = None;
            self.events.push(Event::SnapshotFailed);
            return false;
        };
        let known = self.log.term(meta.last.index) == Some(meta.last.term);
        if meta.last.index <= self.snapshots.index() {
            return false;
        }
        if meta.last.index > self.applied || !known {
            let detail = format!("snapshot of {}, applied {}", meta.last, self.applied);
            self.violate("a snapshot covers only what is applied", detail);
            return false;
        }
        self.snapshots.requested = self.snapshots.requested.filter(|&index| index > meta.last.index);
        self.events.push(Event::SnapshotTaken { last: meta.last });
        self.snapshots.previous = self.snapshots.latest.replace(meta);
        self.snapshots.unwritten = true;
        self.check();
        true
    }

    /// How the transfer `transfer` of [`Ready::send_snapshots`] ended. One that was abandoned needs no answer.
    pub fn snapshot_sent(&mut self, transfer: u64, outcome: SnapshotOutcome, now: Time) {
        self.set_now(now);
        if !self.snapshots.sending.remove(&transfer) {
            return;
        }
        let Role::Leader(leader) = &mut self.role else { return };
        let round = leader.round;
        let sent = leader.progress.iter_mut().find_map(|(&node, peer)| match &mut peer.flow {
            Flow::Snapshot { stage, last } if *stage == SnapshotStage::Sending { transfer } => {
                Some((node, stage, last))
            }
            _ => None,
        });
        let Some((node, stage, last)) = sent else { return };
        if outcome == SnapshotOutcome::Damaged {
            *last = 0;
        }
        *stage = match outcome {
            SnapshotOutcome::Delivered => SnapshotStage::Delivered { round },
            SnapshotOutcome::Failed | SnapshotOutcome::Damaged => {
                SnapshotStage::Due { at: self.now.saturating_add(self.config.election_timeout) }
            }
            SnapshotOutcome::Refused => {
                SnapshotStage::Due { at: self.now.saturating_add(4 * self.config.election_timeout) }
            }
        };
        self.events.push(Event::SnapshotSent { peer: node, outcome });
        if outcome == SnapshotOutcome::Damaged && self.commit > self.snapshots.index() {
            self.snapshots.requested = Some(self.commit);
        }
    }

    /// A whole snapshot came from `from`, is checked, and its file and folder are synced. Returns whether it will be
    /// installed: then [`Ready::write`] names it, and [`Ready::restore`] follows. If not, this node has no need of it.
    pub fn snapshot_received(&mut self, from: Peer, meta: SnapshotMeta, now: Time) -> bool {
        self.set_now(now);
        if self.fatal.is_some() {
            return false;
        }
        let last = meta.last;
        let plausible = last.index <= NUMBER_LIMIT
            && last.term <= NUMBER_LIMIT
            && last.term <= self.term.saturating_add(TERM_LEAP_LIMIT)
            && last.term > 0
            && last.index > 0
            && (meta.membership.validate().is_ok() || self.may_be_restored(&meta));
        if !plausible {
            self.refuse(from, Refusal::BadSnapshot);
            return false;
        }
        if self.lineage().contradicts(meta.membership.lineage) {
            self.refuse(from, Refusal::OtherLineage);
            return false;
        }
        // A leader has everything that is committed; a second install waits for the first.
        if matches!(self.role, Role::Leader(_)) || self.snapshots.installing {
            return false;
        }
        if last.index <= self.commit && !self.has(Planted::SnapshotBehindCommit) {
            return false;
        }
        if last.term > self.term || !matches!(self.role, Role::Follower(_)) {
            self.become_follower(self.term.max(last.term), None);
        }
        let same = self.log.term(last.index) == Some(last.term) && !self.has(Planted::MatchingSuffixDropped);
        if same {
            // The log holds all that the snapshot covers (Log Matching): what is known now is that it is committed.
            self.commit = last.index;
        } else {
            self.install(meta);
        }
        if let Role::Follower(follower) = &mut self.role {
            // What is committed is in every later leader's log.
            follower.verified = follower.verified.max(last.index);
            follower.owed = true;
        }
        self.check();
        !same
    }

    /// Whether the snapshot is of a restored cluster that is being founded: its members come with the first entry after it.
    fn may_be_restored(&self, meta: &SnapshotMeta) -> bool {
        meta.membership == Membership::default() && self.log.membership().is_none()
    }

    /// Puts the snapshot in the place of the log: nothing in it is known to follow what the snapshot covers.
    fn install(&mut self, meta: SnapshotMeta) {
        let held = self.log.base().index + 1;
        self.events.push(Event::SnapshotInstalled { last: meta.last, dropped: self.log.last() });
        let membership = (!self.has(Planted::SnapshotWithoutMembership)).then(|| meta.membership.clone());
        self.log.replace(meta.last, membership.unwrap_or_default());
        self.durable.replace(self.commit, held, meta.last.index);
        self.commit = meta.last.index;
        if matches!(self.apply_fetch, ApplyFetch::Asked) {
            self.apply_fetch = ApplyFetch::Overtaken;
        } else if matches!(self.apply_fetch, ApplyFetch::Here(_)) {
            self.apply_fetch = ApplyFetch::Idle;
        }
        self.snapshots.requested = self.snapshots.requested.filter(|&index| index > meta.last.index);
        self.snapshots.latest = Some(meta);
        self.snapshots.previous = None;
        self.snapshots.unwritten = true;
        self.snapshots.installing = true;
        self.overtake_founding();
    }

    /// The snapshot that replaces the state, once the write that names it is durable: only then is it this node's.
    pub(super) fn emit_restore(&mut self, ready: &mut Ready) {
        if !self.snapshots.installing || self.durable.index < self.snapshots.index() {
            return;
        }
        self.snapshots.installing = false;
        self.applying = self.snapshots.index();
        self.snapshots.tried_at = self.applying;
        self.snapshots.applied_bytes = 0;
        // Applied like a batch, with the one answer.
        self.apply_backlog.push_back((self.applying, 0));
        ready.restore.clone_from(&self.snapshots.latest);
    }

    /// Asks for a snapshot where one is due, exactly at what this `Ready` has handed out to be applied.
    pub(super) fn emit_snapshot(&mut self, ready: &mut Ready) {
        let snapshots = &self.snapshots;
        let entries = self.applying.saturating_sub(snapshots.tried_at);
        let due = entries >= self.config.snapshot_entries
            || snapshots.applied_bytes >= self.config.snapshot_bytes
            || snapshots.requested.is_some_and(|index| self.applying >= index)
            || (self.is_of_earlier_lineage(snapshots.latest.as_ref()) && self.applying > snapshots.tried_at);
        let at = self.applying;
        if snapshots.taking || snapshots.installing || !due || at <= snapshots.index() {
            return;
        }
        let Some(term) = self.log.term(at) else { return };
        let membership = self.log.membership_at(at).cloned().unwrap_or_default();
        ready.snapshot = Some(SnapshotRequest { last: EntryId::new(term, at), membership });
        self.snapshots.taking = true;
        self.snapshots.tried_at = at;
        self.snapshots.applied_bytes = 0;
    }

    /// Whether the snapshot was taken before this lineage began. It is good here and of no use to others: a new node would take
    /// itself for one of that lineage.
    fn is_of_earlier_lineage(&self, snapshot: Option<&SnapshotMeta>) -> bool {
        snapshot.is_some_and(|meta| self.lineage().contradicts(meta.membership.lineage))
    }

    /// Takes the snapshot that the next write is to name, and compacts the log behind it. How far.
    pub(super) fn take_unwritten_snapshot(&mut self) -> Option<(SnapshotMeta, Option<Index>)> {
        if !self.snapshots.unwritten {
            return None;
        }
        let meta = self.snapshots.latest.clone()?;
        self.snapshots.unwritten = false;
        if self.snapshots.installing {
            let to = meta.last.index;
            return Some((meta, Some(to)));
        }
        let to = self.compaction_point(meta.last.index);
        let compact_to = (to > self.log.base().index).then(|| {
            self.log.compact(to);
            to
        });
        Some((meta, compact_to))
    }

    /// How far to compact behind a snapshot: some entries stay for followers that are a little behind, and more for one
    /// that lives and still needs them, since a snapshot would cost it more. Never beyond the snapshot.
    fn compaction_point(&self, snapshot: Index) -> Index {
        if self.has(Planted::CompactPastSnapshot) {
            return self.applied;
        }
        let Membership { nodes, .. } = self.membership();
        let config = &self.config;
        let usual = snapshot
            .saturating_sub(config.keep_entries)
            .max(self.log.first_within(snapshot, config.keep_bytes).saturating_sub(1));
        let needed = match &self.role {
            Role::Leader(leader) => leader
                .progress
                .iter()
                .filter(|(node, peer)| {
                    // One that is sent a snapshot may die on the way, and goes on with the same when it is back soon.
                    let patience = if peer.snapshot().is_some() { RETURN_TIMEOUTS } else { 1 };
                    nodes.contains_key(node)
                        && self.now < peer.heard_at.saturating_add(patience * config.election_timeout)
                })
                .map(|(_, peer)| match peer.flow {
                    Flow::Snapshot { last, .. } => last,
                    _ => peer.matched,
                })
                .min()
                .unwrap_or(usual),
            _ => usual,
        };
        let limit = self.log.first_within(snapshot, config.keep_live_bytes).saturating_sub(1);
        usual.min(needed.max(limit)).min(snapshot).max(self.log.base().index)
    }

    /// Snapshots for peers that need what the log does not hold any more.
    pub(super) fn emit_send_snapshots(&mut self, ready: &mut Ready) {
        let mut wanted = BTreeSet::new();
        let of_use = !self.is_of_earlier_lineage(self.snapshots.latest.as_ref());
        let level = self.needed_level();
        if let Role::Leader(leader) = &mut self.role {
            let base = self.log.base().index;
            let membership = self.log.membership().map(|(_, membership)| membership);
            for (&node, peer) in leader.progress.iter_mut().filter(|(_, peer)| !peer.is_older_than(level)) {
                let active = self.now < peer.heard_at.saturating_add(self.config.election_timeout);
                let Some(meta) =
                    self.snapshots.latest.as_ref().filter(|_| of_use && (active || peer.is_sent_snapshot()))
                else {
                    continue;
                };
                if peer.next <= base && !matches!(peer.flow, Flow::Snapshot { .. }) {
                    peer.await_snapshot(meta.last.index, self.now);
                }
                if peer.next > base && peer.waits_for_snapshot() {
                    peer.probe_from(peer.next);
                }
                let Flow::Snapshot { last, stage } = &mut peer.flow else { continue };
                match stage {
                    SnapshotStage::Sending { transfer } => {
                        wanted.insert(*transfer);
                    }
                    SnapshotStage::Due { at } if active && self.now >= *at => {
                        let Some(info) = membership.and_then(|membership| membership.nodes.get(&node)) else {
                            continue;
                        };
                        let begun = self.snapshots.previous.as_ref();
                        let begun = begun.filter(|begun| begun.last.index == *last && *last >= base);
                        let meta = begun.unwrap_or(meta);
                        self.snapshots.next_transfer += 1;
                        let transfer = self.snapshots.next_transfer;
                        *last = meta.last.index;
                        *stage = SnapshotStage::Sending { transfer };
                        wanted.insert(transfer);
                        ready.send_snapshots.push(SendSnapshot {
                            transfer,
                            to: Peer { node, incarnation: info.incarnation },
                            term: self.term,
                            meta: meta.clone(),
                        });
                    }
                    SnapshotStage::Due { .. } | SnapshotStage::Delivered { .. } => {}
                }
            }
        }
        if self.snapshots.sending == wanted {
            return;
        }
        let sending = std::mem::replace(&mut self.snapshots.sending, wanted);
        ready.abandon_snapshots.extend(sending.difference(&self.snapshots.sending));
    }
}
