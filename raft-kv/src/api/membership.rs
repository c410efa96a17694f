//! Changes of the members as they are asked for over HTTP, carried out on the leader: what they make of the cluster's intent, and
//! why they are refused.

use std::collections::BTreeSet;
use std::time::Duration;

use raft_core::engine::{ChangeStatus, Wait};
use raft_core::types::Lineage;
use raft_core::{Incarnation, Lease, Membership, NodeId, NodeInfo, RaftError, RaftStatus, Target};

use super::members::{
    ChangeBody, ChangeStateBody, ChangedBody, MemberChange, MemberStateBody, MembersBody, WaitBody,
};
use super::server::{Api, members, snapshots};
use super::{ErrorBody, ErrorCode, LeaseBody, StatusBody, host_and_port};
use crate::client::read_body;

/// How long a node that is to come in may take to answer.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// Why the members are not changed.
pub(super) enum NotChanged {
    /// The request does not fit the cluster.
    Refused(ErrorBody),
    /// The cluster could not.
    Failed(RaftError),
}

impl From<ErrorBody> for NotChanged {
    fn from(error: ErrorBody) -> Self {
        Self::Refused(error)
    }
}

impl From<RaftError> for NotChanged {
    fn from(error: RaftError) -> Self {
        Self::Failed(error)
    }
}

impl Api {
    /// Makes the changes the cluster's intent; only on the leader. Made anew where the configuration changes meanwhile.
    pub(super) async fn change_members(&self, asked: &ChangeBody) -> Result<ChangedBody, NotChanged> {
        let mut checked = asked.unchecked;
        loop {
            let status = self.raft().status().borrow().clone();
            let before = status.membership_index;
            let target = aim(&status.membership, &asked.changes)?;
            if !checked {
                for change in &asked.changes {
                    self.check_newcomer(change, &status).await?;
                }
                checked = true;
            }
            match self.raft().set_members(target, Some(before)).await {
                Ok(index) => return Ok(ChangedBody { index, changed: index != before }),
                Err(RaftError::Outdated) => {
                    self.raft().wait_for(|status| status.membership_index != before).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Gives up the change that is under way; only on the leader.
    pub(super) async fn give_up_change(&self) -> Result<ChangedBody, NotChanged> {
        if self.raft().status().borrow().membership.target.is_none() {
            return Err(conflict("no change of the members is under way").into());
        }
        let index = self.raft().give_up_change().await?;
        Ok(ChangedBody { index, changed: true })
    }

    /// Switches lease reads on or off, or changes what they rest on; only on the leader.
    pub(super) async fn set_lease(&self, lease: Option<LeaseBody>) -> Result<ChangedBody, NotChanged> {
        let before = self.raft().status().borrow().membership_index;
        let index = self.raft().set_lease(lease.map(Lease::from)).await?;
        Ok(ChangedBody { index, changed: index != before })
    }

    /// That a node that is to come in runs, and is who it should be: a wrong address would keep the change waiting for ever.
    async fn check_newcomer(&self, change: &MemberChange, status: &RaftStatus) -> Result<(), ErrorBody> {
        let (id, client_address, bound) = match change {
            MemberChange::Add { id, client_address, .. }
            | MemberChange::Replace { id, client_address, .. } => (*id, client_address.clone(), None),
            MemberChange::Readmit { id } => match status.membership.nodes.get(&NodeId(*id)) {
                Some(info) if !info.client_address.is_empty() => {
                    (*id, info.client_address.clone(), Some(info.incarnation.to_string()))
                }
                _ => return Ok(()),
            },
            _ => return Ok(()),
        };
        let there = self.status_at(&client_address).await.map_err(|reason| {
            let what = format!(
                "node {id} does not answer at {client_address} ({reason}): start it first, or say --unchecked"
            );
            conflict(what)
        })?;
        let local = self.raft().local();
        if there.node != id {
            return Err(conflict(format!("at {client_address} answers node {}, not node {id}", there.node)));
        }
        if there.cluster != local.cluster.to_string() {
            let what = format!(
                "node {id} at {client_address} is of cluster {}, this is {}",
                there.cluster, local.cluster
            );
            return Err(conflict(what));
        }
        let unknown = Lineage::UNKNOWN.to_string();
        if there.lineage != unknown && there.lineage != status.lineage.to_string() {
            return Err(conflict(format!(
                "node {id} at {client_address} belongs to lineage {} of this cluster, and this is {}: empty its data folder first",
                there.lineage, status.lineage
            )));
        }
        if there.lineage == unknown && there.members.is_empty() && there.last.index > 0 {
            return Err(conflict(format!(
                "node {id} at {client_address} holds a restored state: empty its data folder first"
            )));
        }
        if bound.is_some_and(|bound| bound == there.incarnation) {
            return Err(conflict(format!(
                "node {id} has the data folder that the cluster knows it by: stop it, empty the folder and start it again first"
            )));
        }
        Ok(())
    }

    async fn status_at(&self, client_address: &str) -> Result<StatusBody, String> {
        let asked = async {
            let response = self.http().get(format!("http://{client_address}/status")).send().await?;
            read_body(response).await
        };
        let body = tokio::time::timeout(CHECK_TIMEOUT, asked)
            .await
            .map_err(|_| "the time is up".to_owned())?
            .map_err(|error| {
                let what = if error.is_connect() { "no connection" } else { "the connection broke" };
                what.to_owned()
            })?;
        serde_json::from_slice(&body).map_err(|_| "it is no raft-kv node".to_owned())
    }
}

/// What the changes make of the cluster's intent.
fn aim(membership: &Membership, changes: &[MemberChange]) -> Result<Target, ErrorBody> {
    if changes.is_empty() {
        return Err(ErrorBody::new(ErrorCode::Invalid, "there is no change"));
    }
    let mut target = membership.intent();
    for change in changes {
        target = Wish { membership, target }.apply(change)?;
    }
    target.validate().map_err(|error| conflict(error.to_string()))?;
    Ok(target)
}

/// The intent while it is being changed.
struct Wish<'a> {
    membership: &'a Membership,
    target: Target,
}

impl Wish<'_> {
    fn apply(self, change: &MemberChange) -> Result<Target, ErrorBody> {
        match change {
            MemberChange::Add { id, address, client_address, learner } => {
                self.absent(*id)?;
                self.add(*id, address, client_address, *learner)
            }
            MemberChange::Join { id, address, client_address, learner, incarnation } => {
                if self.has(*id) {
                    return self.joined(*id, incarnation);
                }
                self.absent(*id)?;
                self.add(*id, address, client_address, *learner)
            }
            MemberChange::Remove { id } => self.remove(*id),
            MemberChange::Promote { id } => {
                self.present(*id)?;
                if self.votes(*id) {
                    return Err(conflict(format!("node {id} votes already")));
                }
                Ok(self.target.promote(*id))
            }
            MemberChange::Demote { id } => {
                self.present(*id)?;
                if !self.votes(*id) {
                    return Err(conflict(format!("node {id} is a learner already")));
                }
                self.not_the_last(*id)?;
                Ok(self.target.demote(*id))
            }
            MemberChange::Replace { old, id, address, client_address } => {
                self.present(*old)?;
                self.absent(*id)?;
                let learner = !self.votes(*old);
                let target = self.target.remove(*old);
                Self { target, ..self }.add(*id, address, client_address, learner)
            }
            MemberChange::Readmit { id } => {
                self.present(*id)?;
                let stays = |voter: &NodeId| *voter != NodeId(*id) && !self.target.readmit.contains(voter);
                if self.votes(*id) && !self.target.voters.iter().any(stays) {
                    return Err(conflict(format!(
                        "without node {id} no voter would be left: it cannot leave to come in again"
                    )));
                }
                Ok(self.target.readmit(*id))
            }
            MemberChange::Move { id, address, client_address } => self.relocate(*id, address, client_address),
        }
    }

    fn has(&self, id: u64) -> bool {
        self.target.nodes.contains_key(&NodeId(id))
    }

    fn votes(&self, id: u64) -> bool {
        self.target.voters.contains(&NodeId(id))
    }

    fn present(&self, id: u64) -> Result<(), ErrorBody> {
        if self.has(id) {
            return Ok(());
        }
        let members: Vec<String> = self.target.nodes.keys().map(ToString::to_string).collect();
        let what = format!("node {id} is no member: the members are {}", members.join(", "));
        Err(ErrorBody::new(ErrorCode::NotFound, what))
    }

    fn absent(&self, id: u64) -> Result<(), ErrorBody> {
        if self.has(id) {
            let role = if self.votes(id) { "voter" } else { "learner" };
            let what =
                format!("node {id} is a member already, as a {role}: see promote, demote, move and readmit");
            return Err(conflict(what));
        }
        if self.membership.nodes.contains_key(&NodeId(id)) {
            return Err(conflict(format!("node {id} is being removed: wait until that is done")));
        }
        Ok(())
    }

    /// The node that asks to come in is in already; if it is the same.
    fn joined(self, id: u64, incarnation: &str) -> Result<Target, ErrorBody> {
        let node = NodeId(id);
        let bound = self.membership.nodes.get(&node).map_or(Incarnation::UNKNOWN, |info| info.incarnation);
        let same = bound == Incarnation::UNKNOWN || bound.to_string() == incarnation;
        if same || self.target.readmit.contains(&node) {
            return Ok(self.target);
        }
        Err(conflict(format!(
            "node {id} is a member with the data folder {bound} and comes with {incarnation}: if the folder was lost, take it \
             in again with `raft-kv member readmit {id}`"
        )))
    }

    fn add(self, id: u64, address: &str, client_address: &str, learner: bool) -> Result<Target, ErrorBody> {
        let info = self.info(id, address, client_address)?;
        Ok(if learner { self.target.learner(id, info) } else { self.target.voter(id, info) })
    }

    fn remove(self, id: u64) -> Result<Target, ErrorBody> {
        self.present(id)?;
        self.not_the_last(id)?;
        Ok(self.target.remove(id))
    }

    fn not_the_last(&self, id: u64) -> Result<(), ErrorBody> {
        if self.target.voters.iter().eq([&NodeId(id)]) {
            return Err(conflict(format!("node {id} is the last voter: add another one first")));
        }
        Ok(())
    }

    fn relocate(mut self, id: u64, address: &str, client_address: &str) -> Result<Target, ErrorBody> {
        self.present(id)?;
        let NodeInfo { address, client_address, .. } = self.info(id, address, client_address)?;
        if let Some(info) = self.target.nodes.get_mut(&NodeId(id)) {
            if (&info.address, &info.client_address) == (&address, &client_address) {
                return Err(conflict(format!("node {id} is known at these addresses already")));
            }
            (info.address, info.client_address) = (address, client_address);
        }
        Ok(self.target)
    }

    /// Addresses that are well formed, and no other member's.
    fn info(&self, id: u64, address: &str, client_address: &str) -> Result<NodeInfo, ErrorBody> {
        for given in [address, client_address] {
            host_and_port(given).map_err(|wrong| ErrorBody::new(ErrorCode::Invalid, wrong))?;
        }
        let others = self.target.nodes.iter().filter(|(node, _)| **node != NodeId(id));
        for (other, info) in others {
            for (given, taken) in [(address, &info.address), (client_address, &info.client_address)] {
                if given == taken {
                    return Err(conflict(format!("{given} is the address of node {other}")));
                }
            }
        }
        Ok(NodeInfo { client_address: client_address.to_owned(), ..NodeInfo::at(address) })
    }
}

fn conflict(message: impl Into<String>) -> ErrorBody {
    ErrorBody::new(ErrorCode::Conflict, message)
}

/// The members as a node knows them.
pub(super) fn members_of(status: &RaftStatus) -> MembersBody {
    let membership = &status.membership;
    let local = status.local.peer.node;
    let leads = status.leader == Some(local);
    let sending = snapshots(status).sending;
    let becomes = |node: NodeId| {
        let target = membership.target.as_ref()?;
        let wanted = match node {
            _ if target.readmit.contains(&node) => "readmitted",
            _ if target.voters.contains(&node) => "voter",
            _ if target.learners.contains(&node) => "learner",
            _ => "removed",
        };
        Some(wanted.to_owned())
    };
    let state = |member: super::MemberBody| {
        let node = NodeId(member.id);
        let peer = status.peers.get(&node);
        let own = node == local;
        MemberStateBody {
            becomes: becomes(node).filter(|wanted| *wanted != member.role),
            answers: leads.then(|| own || peer.is_some_and(|peer| peer.active)),
            holds: leads
                .then(|| if own { Some(status.durable) } else { peer.map(|peer| peer.matched) })
                .flatten(),
            snapshot: sending.iter().find(|transfer| transfer.to == Some(member.id)).cloned(),
            member,
        }
    };
    MembersBody {
        by: local.0,
        leader: status.leader.map(|leader| leader.0),
        last: status.last.index,
        index: status.membership_index,
        committed: status.commit >= status.membership_index,
        members: members(membership).into_iter().map(state).collect(),
        change: status.change.as_ref().map(|change| change_of(membership, change)),
    }
}

fn change_of(membership: &Membership, change: &ChangeStatus) -> ChangeStateBody {
    let ids = |nodes: &BTreeSet<NodeId>| nodes.iter().map(|node| node.0).collect();
    let target = membership.intent();
    let wait = |wait: &Wait| match *wait {
        Wait::FirstCommit => WaitBody::FirstCommit,
        Wait::Commit { index } => WaitBody::Commit { index },
        Wait::Identity { node } => WaitBody::Identity { node: node.0 },
        Wait::Silent { node } => WaitBody::Silent { node: node.0 },
        Wait::CatchUp { node, matched, goal, slow_rounds } => {
            WaitBody::CatchUp { node: node.0, matched, goal, slow_rounds }
        }
        Wait::OlderVersion { node, level, needed } => WaitBody::OlderVersion { node: node.0, level, needed },
        Wait::Transfer => WaitBody::Transfer,
        _ => WaitBody::Other,
    };
    ChangeStateBody {
        voters: ids(&target.voters),
        learners: ids(&target.learners),
        readmit: ids(&target.readmit),
        joint: change.joint,
        waits: change.waits.iter().map(wait).collect(),
    }
}

impl From<Lease> for LeaseBody {
    fn from(lease: Lease) -> Self {
        Self {
            election_timeout_ms: lease.election_timeout_micros / 1_000,
            clock_drift_ppm: lease.clock_drift_ppm,
        }
    }
}

impl From<LeaseBody> for Lease {
    fn from(body: LeaseBody) -> Self {
        let election_timeout_micros = body.election_timeout_ms.saturating_mul(1_000);
        Self { election_timeout_micros, clock_drift_ppm: body.clock_drift_ppm }
    }
}
