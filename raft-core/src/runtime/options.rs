//! What a node is started with.

use std::time::Duration;

use super::snapshots::SnapshotPlace;
use crate::config::Config;
use crate::membership::NodeInfo;
use crate::session::SessionLimits;
use crate::types::{ClusterId, GroupId, Incarnation, NodeId};

/// What a node is started with.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NodeOptions {
    /// The cluster that the node belongs to, the same on all its nodes.
    pub cluster: ClusterId,
    /// This node.
    pub node: NodeId,
    /// The group. Default: 0.
    pub group: GroupId,
    /// The engine's settings.
    pub config: Config,
    /// Where the application's clients reach this node, for `NotLeader` hints. Default: empty.
    pub client_address: String,
    /// How long a call may stay open before it is answered with `Unknown`. Default: 10 s, several elections.
    pub proposal_timeout: Duration,
    /// The most bytes of calls that wait for the driver, each with a fixed cost beside its own bytes; beyond, a
    /// call gets `Overloaded`. Default: 64 MiB.
    pub max_queued_bytes: usize,
    /// The most proposals open at once that are not handed to the state machine yet, where
    /// [`max_apply_bytes`](Config::max_apply_bytes) bounds them; beyond, a proposal gets `Overloaded`. Default: 262,144.
    pub max_open_proposals: usize,
    /// The most bytes of received messages that wait for the driver; beyond, messages are dropped and counted, which
    /// the protocol repairs. Default: 64 MiB.
    pub max_inbox_bytes: usize,
    /// What a client's session may cost: those that are opened while this node leads.
    pub sessions: SessionLimits,
    /// Where snapshots are kept. Default: [`SnapshotPlace::none`], with which the log grows without end and
    /// a node that needs a snapshot cannot catch up.
    pub snapshots: SnapshotPlace,
    /// The largest snapshot that is taken or received, in bytes; beyond, it is refused. Default: 64 GiB.
    pub max_snapshot_bytes: u64,
    /// The most bytes of snapshots sent a second, to all nodes together; `None`: as fast as it goes. On a link that snapshots
    /// could fill, half of what it carries keeps heartbeats and entries quick. Default: `None`.
    pub snapshot_bytes_per_second: Option<u64>,
}

impl NodeOptions {
    /// The defaults for `node` of `cluster`.
    pub fn new(cluster: ClusterId, node: impl Into<NodeId>) -> Self {
        Self {
            cluster,
            node: node.into(),
            group: GroupId::default(),
            config: Config::default(),
            client_address: String::new(),
            proposal_timeout: Duration::from_secs(10),
            max_queued_bytes: 64 << 20,
            max_open_proposals: 1 << 18,
            max_inbox_bytes: 64 << 20,
            sessions: SessionLimits::default(),
            snapshots: SnapshotPlace::none(),
            max_snapshot_bytes: 64 << 30,
            snapshot_bytes_per_second: None,
        }
    }
}

/// A founding member: its id, the address of its transport, and the address of its clients. Tuples of two or three convert
/// into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The node.
    pub node: NodeId,
    /// Where its transport listens.
    pub address: String,
    /// Where the application's clients reach it; may be empty.
    pub client_address: String,
}

impl<N: Into<NodeId>, A: Into<String>> From<(N, A)> for Member {
    fn from((node, address): (N, A)) -> Self {
        Self { node: node.into(), address: address.into(), client_address: String::new() }
    }
}

impl<N: Into<NodeId>, A: Into<String>, C: Into<String>> From<(N, A, C)> for Member {
    fn from((node, address, client_address): (N, A, C)) -> Self {
        Self { node: node.into(), address: address.into(), client_address: client_address.into() }
    }
}

impl From<Member> for (NodeId, NodeInfo) {
    fn from(member: Member) -> Self {
        let info = NodeInfo {
            address: member.address,
            client_address: member.client_address,
            incarnation: Incarnation::UNKNOWN,
        };
        (member.node, info)
    }
}
