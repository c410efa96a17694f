//! Why nothing goes on, in plain words with numbers: there is no leader, a write does not commit, a follower lags.

use std::fmt;
use std::time::Duration;

use super::candidate::Candidate;
use super::{Engine, Role, Wait};
use crate::progress::{Flow, Progress, SnapshotStage};
use crate::types::{Index, Level, NodeId, Term, Time};

/// Something that keeps a node or its cluster from going on. Its `Display` is a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finding {
    /// The group's own state was found broken.
    Broken {
        /// How.
        reason: String,
    },
    /// The node belongs to no cluster.
    NoCluster,
    /// The node founds a cluster and waits for members to say who they are.
    Founding,
    /// The node hears no leader.
    NoLeader {
        /// Since when there was one, where there was one in this term.
        silent_for: Option<Duration>,
        /// When the node campaigns; `None` where it has no vote.
        campaigns_in: Option<Duration>,
    },
    /// The node asks for votes.
    Election {
        /// The term.
        term: Term,
        /// It only asks whether it could win.
        pre_vote: bool,
        /// Who has granted it, this node included.
        granted: Vec<NodeId>,
        /// Which voters have not.
        missing: Vec<NodeId>,
    },
    /// A candidate's own vote is not on its disk yet, so it cannot ask for others.
    VoteNotDurable,
    /// The node lets nobody be elected, and does not campaign: it promised that to a leader, or may have before it was restarted.
    Promised {
        /// For how long yet.
        until_in: Duration,
    },
    /// A write of this node takes long.
    DiskWrites {
        /// How long it has been on its way.
        since: Duration,
    },
    /// A leader holds entries that are not committed.
    Uncommitted {
        /// The first of them.
        from: Index,
        /// The last.
        to: Index,
        /// How far each voter holds the log durably, this node included.
        durable: Vec<(NodeId, Index)>,
        /// The first entry of the leader's term: only with it, what is older is committed.
        first_of_term: Index,
        /// Members are being changed: a majority of the voters before and one of those after must hold them.
        joint: bool,
    },
    /// A follower does not hold the leader's whole log.
    Lags {
        /// The follower.
        node: NodeId,
        /// It holds the log durably up to here.
        matched: Index,
        /// The leader's last index.
        last: Index,
        /// Why.
        why: Lag,
    },
    /// What is committed waits to be applied.
    Unapplied {
        /// Applied up to here.
        applied: Index,
        /// Committed up to here.
        commit: Index,
        /// The node's own disk has the log up to here: nothing beyond is applied.
        durable: Index,
        /// Bytes handed to the state machine and not applied.
        backlog_bytes: usize,
    },
    /// The members are being changed, and that waits; only the leader knows for what.
    Changing {
        /// For what.
        waits: Vec<Wait>,
    },
    /// A leader hands over, and may refuse proposals meanwhile.
    Transferring {
        /// To this node.
        to: NodeId,
        /// For how long yet, at most.
        until_in: Duration,
    },
}

/// Why a follower lags.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lag {
    /// It does not answer.
    Silent {
        /// Since when.
        since: Duration,
    },
    /// It runs an older version, which cannot read what is in the log, and is sent nothing until it is upgraded.
    OlderVersion {
        /// The level of payloads that it knows.
        level: Level,
        /// The level that is in the log.
        needed: Level,
    },
    /// It needs a snapshot, which waits to be sent.
    SnapshotDue {
        /// The last index that the snapshot covers.
        last: Index,
    },
    /// It is sent a snapshot.
    SnapshotSending {
        /// The last index that the snapshot covers.
        last: Index,
    },
    /// It has a snapshot and restores it.
    SnapshotRestoring {
        /// The last index that the snapshot covers.
        last: Index,
    },
    /// Where its log agrees with the leader's is being found out.
    Probing {
        /// The next index to be tried.
        next: Index,
    },
    /// Entries arrived and are on their way to its disk.
    Disk {
        /// It received up to here.
        received: Index,
    },
    /// As much is on its way to it as may be.
    WindowFull {
        /// Appends on their way.
        appends: usize,
        /// Their bytes.
        bytes: usize,
    },
    /// Entries are on their way to it.
    OnTheWay {
        /// Appends on their way.
        appends: usize,
        /// Their bytes.
        bytes: usize,
    },
}

impl Engine {
    /// What keeps this node or its cluster from going on, as far as this node knows; nothing where all is well.
    pub fn explain(&self, now: Time) -> Vec<Finding> {
        let now = self.now.max(now);
        let mut findings = Vec::new();
        if let Some(violation) = &self.fatal {
            return vec![Finding::Broken { reason: violation.to_string() }];
        }
        if self.membership().is_empty() && self.founding.is_none() {
            return vec![Finding::NoCluster];
        }
        self.explain_leadership(now, &mut findings);
        if let Some(since) = self.durable.waits_since() {
            let since = now.saturating_sub(since);
            if since >= self.config.heartbeat_interval {
                findings.push(Finding::DiskWrites { since });
            }
        }
        self.explain_progress(now, &mut findings);
        let waits = self.change_status().map(|change| change.waits).unwrap_or_default();
        if !waits.is_empty() {
            findings.push(Finding::Changing { waits });
        }
        if self.applied < self.commit {
            findings.push(Finding::Unapplied {
                applied: self.applied,
                commit: self.commit,
                durable: self.durable.index,
                backlog_bytes: self.apply_backlog_bytes,
            });
        }
        findings
    }

    fn explain_leadership(&self, now: Time, findings: &mut Vec<Finding>) {
        let timeout = self.config.election_timeout;
        match &self.role {
            Role::Follower(follower) => {
                let silent_for = follower.heard_at.map(|heard| now.saturating_sub(heard));
                if self.leader.is_some() && silent_for.is_some_and(|silent| silent < timeout) {
                    return;
                }
                if self.founding.is_some() && self.membership().is_empty() {
                    findings.push(Finding::Founding);
                    return;
                }
                let votes = self.membership().is_voter(self.local.node);
                let campaigns_in = votes.then(|| follower.deadline.saturating_sub(now));
                findings.push(Finding::NoLeader { silent_for, campaigns_in });
                if let Some(until) = self.promised_until().filter(|until| now < *until) {
                    findings.push(Finding::Promised { until_in: until.saturating_sub(now) });
                }
            }
            Role::PreCandidate(asking) => findings.push(self.election(asking, self.term + 1, true)),
            Role::Candidate(candidate) => {
                findings.push(self.election(candidate, self.term, false));
                if !self.candidacy_is_durable() {
                    findings.push(Finding::VoteNotDurable);
                }
            }
            Role::Leader(leader) => {
                if let Some(transfer) = &leader.transfer {
                    let until_in = transfer.deadline.saturating_sub(now);
                    findings.push(Finding::Transferring { to: transfer.to, until_in });
                }
            }
        }
    }

    fn election(&self, candidate: &Candidate, term: Term, pre_vote: bool) -> Finding {
        let voters = self.peers().map(|peer| peer.node).chain([self.local.node]);
        let voters = voters.filter(|&node| self.membership().is_voter(node));
        let (mut granted, mut missing): (Vec<_>, Vec<_>) =
            voters.partition(|node| *node == self.local.node || candidate.granted.contains(node));
        granted.sort_unstable();
        missing.sort_unstable();
        Finding::Election { term, pre_vote, granted, missing }
    }

    fn explain_progress(&self, now: Time, findings: &mut Vec<Finding>) {
        let Role::Leader(leader) = &self.role else { return };
        let last = self.log.last_index();
        if self.commit < last {
            let held = |node| match leader.progress.get(&node) {
                Some(peer) => peer.matched,
                None => self.durable.index,
            };
            let voters = self.membership().nodes.keys().filter(|&&node| self.membership().is_voter(node));
            findings.push(Finding::Uncommitted {
                from: self.commit + 1,
                to: last,
                durable: voters.map(|&node| (node, held(node))).collect(),
                first_of_term: leader.first_index,
                joint: !self.membership().outgoing.is_empty(),
            });
        }
        for (&node, peer) in &leader.progress {
            if peer.matched < last {
                findings.push(Finding::Lags { node, matched: peer.matched, last, why: self.lag(peer, now) });
            }
        }
    }

    fn lag(&self, peer: &Progress, now: Time) -> Lag {
        let since = now.saturating_sub(peer.heard_at);
        if since >= self.config.election_timeout {
            return Lag::Silent { since };
        }
        if peer.is_older_than(self.log_level()) {
            return Lag::OlderVersion { level: peer.level, needed: self.log_level() };
        }
        let (appends, bytes) = (peer.inflights.len(), peer.inflights.bytes());
        match peer.flow {
            Flow::Snapshot { last, stage: SnapshotStage::Due { .. } } => Lag::SnapshotDue { last },
            Flow::Snapshot { last, stage: SnapshotStage::Sending { .. } } => Lag::SnapshotSending { last },
            Flow::Snapshot { last, stage: SnapshotStage::Delivered { .. } } => {
                Lag::SnapshotRestoring { last }
            }
            Flow::Probe { .. } => Lag::Probing { next: peer.next },
            Flow::Replicate if peer.received > peer.matched => Lag::Disk { received: peer.received },
            Flow::Replicate => {
                let config = &self.config;
                if peer.inflights.is_full(config.max_inflight_messages, config.max_inflight_bytes) {
                    Lag::WindowFull { appends, bytes }
                } else {
                    Lag::OnTheWay { appends, bytes }
                }
            }
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken { reason } => write!(f, "The group has stopped: {reason}."),
            Self::NoCluster => {
                f.write_str("This node belongs to no cluster: it waits to be founded or added.")
            }
            Self::Founding => f.write_str(
                "This node founds a cluster: it waits until each member has said who it is, so all must run.",
            ),
            Self::NoLeader { silent_for, campaigns_in } => {
                match silent_for {
                    Some(silent) => write!(f, "The leader has been silent for {} ms", silent.as_millis())?,
                    None => f.write_str("No leader is known")?,
                }
                match campaigns_in {
                    Some(time) => write!(f, "; this node campaigns in {} ms.", time.as_millis()),
                    None => f.write_str("; this node has no vote and waits for one."),
                }
            }
            Self::Election { term, pre_vote, granted, missing } => {
                let what = if *pre_vote { "asks whether it could win" } else { "campaigns for" };
                let voters = granted.len() + missing.len();
                write!(f, "This node {what} term {term}: {} of {voters} voters granted it", granted.len())?;
                if missing.is_empty() { f.write_str(".") } else { write!(f, ", not {}.", list(missing)) }
            }
            Self::VoteNotDurable => {
                f.write_str("Its own vote is not on its disk yet: until then it asks nobody else.")
            }
            Self::Promised { until_in } => write!(
                f,
                "For {} ms it votes for nobody and does not campaign: it promised that to a leader, or may have before it was \
                 restarted.",
                until_in.as_millis()
            ),
            Self::DiskWrites { since } => {
                write!(f, "A write to this node's disk has been on its way for {} ms.", since.as_millis())
            }
            Self::Uncommitted { from, to, durable, first_of_term, joint } => {
                let what = if from == to {
                    format!("Entry {from} is")
                } else {
                    format!("Entries {from} to {to} are")
                };
                let whose = if *joint {
                    "a majority of the voters before the change of members and one of those after it"
                } else {
                    "a majority of the voters"
                };
                write!(f, "{what} not committed: {whose} must hold as much durably; ")?;
                for (place, (node, index)) in durable.iter().enumerate() {
                    write!(f, "{}node {node} holds up to {index}", if place == 0 { "" } else { ", " })?;
                }
                if from < first_of_term {
                    write!(
                        f,
                        "; what is older than entry {first_of_term}, the first of this term, is committed with it"
                    )?;
                }
                f.write_str(".")
            }
            Self::Lags { node, matched, last, why } => {
                let behind = entries(last - matched);
                write!(f, "Node {node} is {behind} behind ({matched} of {last}): {why}.")
            }
            Self::Unapplied { applied, commit, durable, backlog_bytes } => {
                write!(f, "Committed is {commit}, applied {applied}: ")?;
                if durable < commit {
                    write!(f, "the log is on this node's disk up to {durable}.")
                } else {
                    write!(f, "the state machine has {backlog_bytes} bytes to apply.")
                }
            }
            Self::Changing { waits } => {
                f.write_str("The change of members waits for ")?;
                for (place, wait) in waits.iter().enumerate() {
                    write!(f, "{}{wait}", if place == 0 { "" } else { "; for " })?;
                }
                f.write_str(".")
            }
            Self::Transferring { to, until_in } => write!(
                f,
                "Leadership is being handed to node {to}, for {} ms at most; proposals may be refused meanwhile.",
                until_in.as_millis()
            ),
        }
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FirstCommit => f.write_str("the leader's first commit of its term"),
            Self::Commit { index } => write!(f, "the commit of the configuration at {index}"),
            Self::Identity { node } => write!(f, "node {node} to say which data folder it has"),
            Self::Silent { node } => write!(f, "node {node}, which does not answer"),
            Self::CatchUp { node, matched, goal, slow_rounds } => {
                write!(f, "node {node} to catch up: it holds {matched} of {goal} entries")?;
                if *slow_rounds > 0 { write!(f, ", too slowly in {slow_rounds} rounds") } else { Ok(()) }
            }
            Self::OlderVersion { node, level, needed } => write!(
                f,
                "node {node} to be upgraded: it knows payloads up to level {level}, and there are some of level {needed} in the log"
            ),
            Self::Transfer => f.write_str("leadership to be handed over"),
        }
    }
}

impl fmt::Display for Lag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent { since } => write!(f, "it has not answered for {} ms", since.as_millis()),
            Self::OlderVersion { level, needed } => write!(
                f,
                "it runs a version that knows payloads up to level {level}, and there are some of level {needed} in the log; it \
                 is sent nothing until it is upgraded"
            ),
            Self::SnapshotDue { last } => {
                write!(f, "it needs the snapshot up to {last}, which waits to be sent")
            }
            Self::SnapshotSending { last } => write!(f, "it is sent the snapshot up to {last}"),
            Self::SnapshotRestoring { last } => write!(f, "it restores the snapshot up to {last}"),
            Self::Probing { next } => write!(f, "where its log agrees is being found out, at {next} now"),
            Self::Disk { received } => {
                write!(f, "it received up to {received}, which its disk has not got yet")
            }
            Self::WindowFull { appends, bytes } => {
                write!(f, "on its way to it: {}, {bytes} bytes, as much as may be", count_of(*appends))
            }
            Self::OnTheWay { appends, bytes } => {
                write!(f, "on its way to it: {}, {bytes} bytes", count_of(*appends))
            }
        }
    }
}

fn count_of(appends: usize) -> String {
    if appends == 1 { "1 append".to_owned() } else { format!("{appends} appends") }
}

fn entries(count: u64) -> String {
    if count == 1 { "1 entry".to_owned() } else { format!("{count} entries") }
}

fn list(nodes: &[NodeId]) -> String {
    let names: Vec<String> = nodes.iter().map(NodeId::to_string).collect();
    names.join(", ")
}
