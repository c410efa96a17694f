//! How far a peer is, and what is on its way to it.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use crate::types::{Entry, Incarnation, Index, Level, Time};

/// What a leader knows of one peer. `matched < next`; the appends in flight end before `next`.
#[derive(Debug)]
pub(crate) struct Progress {
    /// The data folder that all of this is about.
    pub(crate) incarnation: Incarnation,
    /// The peer promised: its log is durable and equal to ours up to here. Never goes back within a term.
    pub(crate) matched: Index,
    /// The peer said: equal entries arrived up to here. No promise, it may forget them in a crash.
    pub(crate) received: Index,
    /// The next entry to send.
    pub(crate) next: Index,
    /// How freely it is sent to.
    pub(crate) flow: Flow,
    /// What was sent and is not matched yet; while probing, what arrived of it, and the probe's own append.
    pub(crate) inflights: Inflights,
    /// When an answer last came.
    pub(crate) heard_at: Time,
    /// Its priority, as it said.
    pub(crate) priority: u8,
    /// Which payloads it understands, as it said; 0 before it said anything.
    pub(crate) level: Level,
    /// Since when it has answered and kept up at every heartbeat.
    pub(crate) steady_since: Option<Time>,
    /// The highest round that it answered.
    pub(crate) round: u64,
    /// The highest round whose answer is a promise that a lease may rest on.
    pub(crate) lease_round: u64,
    /// The leader's round when `matched` last moved: an answer of a later round knows the promise.
    pub(crate) matched_round: u64,
    /// A round whose answer is waited for, and when it was sent.
    pub(crate) timed: Option<(u64, Time)>,
    /// How long the answer to such a round took the last time.
    pub(crate) round_trip: Option<Duration>,
    /// The highest commit index that it was sent.
    pub(crate) told_commit: Index,
    /// Something sent should have arrived.
    pub(crate) doubt: Option<Doubt>,
    /// Old entries for it, read back from the store.
    pub(crate) fetch: PeerFetch,
}

/// How freely a peer is sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Where the logs agree is not known: one append, then wait for its answer; heartbeats go on probing.
    Probe {
        /// Whether the append was sent.
        sent: bool,
    },
    /// The logs agree before `next`: appends are sent ahead of their answers.
    Replicate,
    /// What the peer needs next is gone from the log: it gets a snapshot, and no entries meanwhile.
    Snapshot {
        /// The last index that the snapshot covers.
        last: Index,
        /// How far that is.
        stage: SnapshotStage,
    },
}

/// How far the sending of a snapshot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SnapshotStage {
    /// To be sent, at this time at the earliest.
    Due {
        /// The time.
        at: Time,
    },
    /// On its way, however long that takes.
    Sending {
        /// The number of the transfer.
        transfer: u64,
    },
    /// The peer took it over; what it says from now on tells whether it has it.
    Delivered {
        /// The leader's round at that time.
        round: u64,
    },
}

/// Reading old entries back for a peer.
#[derive(Debug, Default)]
pub(crate) enum PeerFetch {
    /// None is wanted.
    #[default]
    Idle,
    /// Asked for.
    Asked,
    /// Here, to be sent.
    Here(Vec<Entry>),
}

impl Progress {
    /// A peer of which nothing is known, at the start of a term.
    pub(crate) fn new(incarnation: Incarnation, last: Index, now: Time) -> Self {
        Self {
            incarnation,
            matched: 0,
            received: 0,
            next: last + 1,
            flow: Flow::Probe { sent: false },
            inflights: Inflights::default(),
            heard_at: now,
            priority: 0,
            level: 0,
            steady_since: None,
            round: 0,
            lease_round: 0,
            matched_round: 0,
            timed: None,
            round_trip: None,
            told_commit: 0,
            doubt: None,
            fetch: PeerFetch::Idle,
        }
    }

    /// Whether the peer has said that it does not know all payloads up to `level`.
    pub(crate) const fn is_older_than(&self, level: Level) -> bool {
        self.level > 0 && self.level < level
    }

    /// What was read back for the peer and is not what it needs next is of no use to it any more.
    pub(crate) fn drop_stale_fetch(&mut self) {
        if let PeerFetch::Here(entries) = &self.fetch
            && entries.first().is_none_or(|first| first.index() != self.next)
        {
            self.fetch = PeerFetch::Idle;
        }
    }

    /// The peer accepted; what it matched leaves the window where `frees`.
    pub(crate) fn accept(&mut self, matched: Index, received: Index, leader_round: u64, frees: bool) {
        if matched > self.matched {
            self.matched = matched;
            self.matched_round = leader_round;
            if frees {
                self.inflights.free_to(matched);
            }
        }
        self.received = received.max(self.matched);
        if matches!(self.flow, Flow::Probe { .. }) && self.received + 1 >= self.next {
            self.flow = Flow::Replicate;
            self.next = self.received + 1;
            self.inflights.cut_from(self.next);
        }
        if let Flow::Snapshot { last, .. } = self.flow
            && self.received >= last
        {
            self.flow = Flow::Replicate;
            self.next = self.received + 1;
        }
        self.next = self.next.max(self.matched + 1);
    }

    /// A round is sent: its answer is timed where none is.
    pub(crate) fn time_round(&mut self, round: u64, now: Time) {
        self.timed.get_or_insert((round, now));
    }

    /// An answer of this round came; how long it took, if it was timed. One of a later round says nothing: its own may have been lost.
    pub(crate) fn note_round_trip(&mut self, round: u64, now: Time) -> Option<Duration> {
        let (timed, sent) = self.timed.take_if(|(timed, _)| *timed <= round)?;
        let took = now.saturating_sub(sent);
        if timed < round {
            return None;
        }
        self.round_trip = Some(took);
        Some(took)
    }

    /// Waits for a snapshot up to `last` to be sent.
    pub(crate) fn await_snapshot(&mut self, last: Index, now: Time) {
        self.flow = Flow::Snapshot { last, stage: SnapshotStage::Due { at: now } };
        self.inflights.cut_from(0);
        self.doubt = None;
    }

    /// The last index of the snapshot that the peer needs.
    pub(crate) fn snapshot(&self) -> Option<Index> {
        match self.flow {
            Flow::Snapshot { last, .. } => Some(last),
            _ => None,
        }
    }

    /// Whether a snapshot is to be sent to the peer and is not on its way.
    pub(crate) fn waits_for_snapshot(&self) -> bool {
        matches!(self.flow, Flow::Snapshot { stage: SnapshotStage::Due { .. }, .. })
    }

    /// Whether a snapshot is on its way to the peer.
    pub(crate) fn is_sent_snapshot(&self) -> bool {
        matches!(self.flow, Flow::Snapshot { stage: SnapshotStage::Sending { .. }, .. })
    }

    /// Whether the peer took a snapshot over and then says that it does not have it: it crashed before that was durable.
    /// However long it takes to write or to restore it, it says that it has it.
    pub(crate) fn lost_snapshot(&self) -> bool {
        matches!(self.flow, Flow::Snapshot { last, stage: SnapshotStage::Delivered { round } }
            if self.round > round && self.received < last)
    }

    /// Sends again from `next`, carefully.
    pub(crate) fn probe_from(&mut self, next: Index) {
        self.next = next.max(self.matched + 1);
        self.flow = Flow::Probe { sent: false };
        self.inflights.cut_from(self.next);
        self.doubt = None;
    }

    /// Whether an append must be taken for lost. The peer answered something sent after it and had not received it: that
    /// raises a doubt, since the append may only have been overtaken. It is settled by an answer to what was sent after
    /// the doubt, and `patience` later, if nothing else arrived meanwhile: however long the way is, and however many rounds
    /// are on it. With nothing in flight
    /// all that was sent should have been received: a peer may have received it and forgotten it in a crash.
    pub(crate) fn lost_append(&mut self, leader_round: u64, now: Time, patience: Duration) -> bool {
        if !matches!(self.flow, Flow::Replicate) {
            return false;
        }
        let (last, round) =
            self.inflights.oldest().map_or((self.next - 1, 0), |oldest| (oldest.last, oldest.round));
        if self.received >= last || self.round <= round {
            return false;
        }
        let received = self.received;
        match &self.doubt {
            Some(doubt) if doubt.last == last && doubt.received >= received => {
                self.round > doubt.round && now >= doubt.at.saturating_add(patience)
            }
            _ => {
                self.doubt = Some(Doubt { last, received, round: leader_round, at: now });
                false
            }
        }
    }
}

/// Entries that should have arrived.
#[derive(Debug)]
pub(crate) struct Doubt {
    /// The last of them.
    last: Index,
    /// What had arrived.
    received: Index,
    /// The leader's round when the doubt came up.
    round: u64,
    /// When it came up.
    at: Time,
}

/// Appends sent and not matched, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Inflights {
    appends: VecDeque<Inflight>,
    bytes: usize,
}

/// One append that is not matched yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inflight {
    /// Its last entry.
    pub(crate) last: Index,
    /// Its bytes.
    pub(crate) bytes: usize,
    /// The leader's round when it was sent.
    pub(crate) round: u64,
}

impl Inflights {
    pub(crate) fn push(&mut self, inflight: Inflight) {
        self.bytes += inflight.bytes;
        self.appends.push_back(inflight);
    }

    pub(crate) fn free_to(&mut self, matched: Index) {
        while let Some(oldest) = self.appends.front() {
            if oldest.last > matched {
                return;
            }
            self.bytes -= oldest.bytes;
            self.appends.pop_front();
        }
    }

    /// Forgets the appends that reach `next` or beyond: they will be sent again.
    fn cut_from(&mut self, next: Index) {
        while let Some(newest) = self.appends.back() {
            if newest.last < next {
                return;
            }
            self.bytes -= newest.bytes;
            self.appends.pop_back();
        }
    }

    pub(crate) fn is_full(&self, max_messages: usize, max_bytes: usize) -> bool {
        self.appends.len() >= max_messages || self.bytes >= max_bytes
    }

    pub(crate) fn len(&self) -> usize {
        self.appends.len()
    }

    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    fn oldest(&self) -> Option<&Inflight> {
        self.appends.front()
    }
}
