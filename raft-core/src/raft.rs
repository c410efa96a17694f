//! The handles: what users hold of a running node.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::codec::cold;
use crate::engine::{Finding, Status};
use crate::log_store::LogStore;
use crate::machine::{Machine, Typed};
use crate::membership::{Lease, NodeInfo, Target};
#[cfg(feature = "metrics")]
use crate::runtime::Metrics;
use crate::runtime::{
    Consistency, Member, Node, NodeOptions, RaftError, RaftStatus, Reading, SnapshotFile, StartError, What,
};
#[cfg(doc)]
use crate::session::SessionError;
use crate::session::{Serial, SessionAction, SessionId};
use crate::state_machine::StateMachine;
use crate::transport::{LocalNode, Transport};
use crate::types::{Index, NodeId, SnapshotMeta};

/// A running node whose commands, replies, queries and answers are the types of a [`Machine`]. Cheap to clone; the node ends
/// when the last clone is dropped, in good order after [`shutdown`](Self::shutdown).
///
/// Calls may be cancelled by dropping their future; a cancelled proposal may still be applied.
///
/// Three nodes in one process:
///
/// ```
/// use raft_core::mem::{ChannelNetwork, MemLogStore};
/// use raft_core::{ClusterId, Machine, NodeOptions, Raft};
/// # #[derive(Default, serde::Serialize, serde::Deserialize)]
/// # struct Counter(u64);
/// # impl Machine for Counter {
/// #     type Command = u64;
/// #     type Reply = u64;
/// #     type Query = ();
/// #     type Answer = u64;
/// #     fn apply(&mut self, add: u64) -> u64 {
/// #         self.0 += add;
/// #         self.0
/// #     }
/// #     fn query(&self, _: ()) -> u64 {
/// #         self.0
/// #     }
/// # }
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let network = ChannelNetwork::new();
/// let mut nodes = Vec::new();
/// for id in 1..=3 {
///     let options = NodeOptions::new(ClusterId(7), id);
///     nodes.push(Raft::start(options, MemLogStore::new(), network.transport(id), Counter::default()).await?);
/// }
/// nodes[0].bootstrap([(1, "mem:1"), (2, "mem:2"), (3, "mem:3")]).await?;
/// let leader = nodes[0].wait_for(|status| status.leader.is_some()).await?.leader;
/// let leader = nodes.iter().find(|node| Some(node.local().peer.node) == leader).ok_or("no leader")?;
/// assert_eq!(leader.propose(&2).await?, 2);
/// assert_eq!(leader.propose(&3).await?, 5);
/// assert_eq!(leader.read(&()).await?, 5);
/// # Ok(())
/// # }
/// ```
pub struct Raft<M: Machine> {
    raw: RawRaft,
    machine: PhantomData<fn() -> M>,
}

impl<M: Machine> Clone for Raft<M> {
    fn clone(&self) -> Self {
        Self { raw: self.raw.clone(), machine: PhantomData }
    }
}

impl<M: Machine> std::fmt::Debug for Raft<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Raft").field("local", &self.local()).finish_non_exhaustive()
    }
}

impl<M: Machine> Raft<M> {
    /// Starts a node: claims the store, recovers what it and the machine hold, and joins in as soon as the transport
    /// listens. A node with an empty store waits to be founded ([`bootstrap`](Self::bootstrap)) or to be added.
    ///
    /// # Errors
    /// Where store, transport or settings cannot be used. Nothing runs then.
    pub async fn start(
        options: NodeOptions,
        store: impl LogStore,
        transport: impl Transport,
        machine: M,
    ) -> Result<Self, StartError> {
        let raw = RawRaft::start(options, store, transport, Typed(machine)).await?;
        Ok(Self { raw, machine: PhantomData })
    }

    /// Proposes a command and returns its reply once a majority holds it durably and this node has applied it.
    /// Proposals of one caller who does not wait may be applied in any order.
    ///
    /// # Errors
    /// See [`RaftError`]: after [`RaftError::is_refused`] it is safe to repeat.
    pub async fn propose(&self, command: &M::Command) -> Result<M::Reply, RaftError> {
        decode(&self.raw.propose(encode(command)?).await?)
    }

    /// See [`RawRaft::open_session`].
    ///
    /// # Errors
    /// See [`RawRaft::open_session`].
    pub async fn open_session(&self) -> Result<SessionId, RaftError> {
        self.raw.open_session().await
    }

    /// Proposes a command within a session, see [`RawRaft::propose_in`].
    ///
    /// # Errors
    /// See [`RawRaft::propose_in`].
    pub async fn propose_in(&self, serial: Serial, command: &M::Command) -> Result<M::Reply, RaftError> {
        decode(&self.raw.propose_in(serial, encode(command)?).await?)
    }

    /// See [`RawRaft::keep_session`].
    ///
    /// # Errors
    /// See [`RawRaft::keep_session`].
    pub async fn keep_session(&self, session: SessionId, seen_below: u64) -> Result<(), RaftError> {
        self.raw.keep_session(session, seen_below).await
    }

    /// See [`RawRaft::close_session`].
    ///
    /// # Errors
    /// See [`RawRaft::close_session`].
    pub async fn close_session(&self, session: SessionId) -> Result<(), RaftError> {
        self.raw.close_session(session).await
    }

    /// Asks the state machine. The answer is linearizable: it holds every command that was answered anywhere before this
    /// call. The leader asks a majority whether it still leads, one round for all reads that wait; any other node asks the leader
    /// for the index that it must have applied, and answers from its own state. Nothing is written.
    ///
    /// # Errors
    /// See [`RaftError`]. A read can always be repeated.
    pub async fn read(&self, query: &M::Query) -> Result<M::Answer, RaftError> {
        decode(&self.raw.read(encode(query)?).await?)
    }

    /// Asks the state machine, as fresh as `consistency` says, and tells at which index its state was.
    ///
    /// # Errors
    /// See [`RaftError`]: [`RaftError::NotLeader`] where this node does not lead and there is no leader that it could ask, or it
    /// changed. A read can always be repeated.
    pub async fn read_with(
        &self,
        query: &M::Query,
        consistency: Consistency,
    ) -> Result<Reading<M::Answer>, RaftError> {
        self.raw.read_with(encode(query)?, consistency).await?.try_map(|answer| decode(&answer))
    }

    /// Asks this node's state as it is: without a round, on any node, and perhaps old, by seconds or, on a
    /// node that was cut off, by any time.
    ///
    /// # Errors
    /// See [`RaftError`]. A query can always be repeated.
    pub async fn query_local(&self, query: &M::Query) -> Result<M::Answer, RaftError> {
        decode(&self.raw.query_local(encode(query)?).await?)
    }

    /// See [`RawRaft::metrics`].
    #[cfg(feature = "metrics")]
    pub fn metrics(&self) -> Metrics {
        self.raw.metrics()
    }

    /// See [`RawRaft::explain`].
    ///
    /// # Errors
    /// See [`RawRaft::explain`].
    pub async fn explain(&self) -> Result<Vec<Finding>, RaftError> {
        self.raw.explain().await
    }

    /// See [`RawRaft::bootstrap`].
    ///
    /// # Errors
    /// See [`RawRaft::bootstrap`].
    pub async fn bootstrap(
        &self,
        members: impl IntoIterator<Item = impl Into<Member>>,
    ) -> Result<(), RaftError> {
        self.raw.bootstrap(members).await
    }

    /// See [`RawRaft::transfer_leadership`].
    ///
    /// # Errors
    /// See [`RawRaft::transfer_leadership`].
    pub async fn transfer_leadership(&self, to: Option<NodeId>) -> Result<NodeId, RaftError> {
        self.raw.transfer_leadership(to).await
    }

    /// See [`RawRaft::set_members`].
    ///
    /// # Errors
    /// See [`RawRaft::set_members`].
    pub async fn set_members(&self, target: Target, based_on: Option<Index>) -> Result<Index, RaftError> {
        self.raw.set_members(target, based_on).await
    }

    /// See [`RawRaft::change_members`].
    ///
    /// # Errors
    /// See [`RawRaft::change_members`].
    pub async fn change_members(&self, change: impl Fn(Target) -> Target + Send) -> Result<Index, RaftError> {
        self.raw.change_members(change).await
    }

    /// See [`RawRaft::give_up_change`].
    ///
    /// # Errors
    /// See [`RawRaft::give_up_change`].
    pub async fn give_up_change(&self) -> Result<Index, RaftError> {
        self.raw.give_up_change().await
    }

    /// See [`RawRaft::set_lease`].
    ///
    /// # Errors
    /// See [`RawRaft::set_lease`].
    pub async fn set_lease(&self, lease: Option<Lease>) -> Result<Index, RaftError> {
        self.raw.set_lease(lease).await
    }

    /// See [`RawRaft::snapshot`].
    ///
    /// # Errors
    /// See [`RawRaft::snapshot`].
    pub async fn snapshot(&self) -> Result<SnapshotMeta, RaftError> {
        self.raw.snapshot().await
    }

    /// See [`RawRaft::latest_snapshot`].
    ///
    /// # Errors
    /// See [`RawRaft::latest_snapshot`].
    pub async fn latest_snapshot(&self) -> Result<Option<SnapshotFile>, RaftError> {
        self.raw.latest_snapshot().await
    }

    /// The status, as a watch that changes with it. Role, term, leader and configuration show at once, progress
    /// within a few milliseconds. It keeps the last status after the node has ended.
    pub fn status(&self) -> watch::Receiver<RaftStatus> {
        self.raw.status()
    }

    /// See [`RawRaft::wait_for`].
    ///
    /// # Errors
    /// See [`RawRaft::wait_for`].
    pub async fn wait_for(&self, wanted: impl FnMut(&Status) -> bool) -> Result<Status, RaftError> {
        self.raw.wait_for(wanted).await
    }

    /// See [`RawRaft::shutdown`].
    pub async fn shutdown(&self) {
        self.raw.shutdown().await;
    }

    /// Where the transport listens.
    pub fn address(&self) -> &str {
        self.raw.address()
    }

    /// This node, its data folder, and how often it was started.
    pub fn local(&self) -> LocalNode {
        self.raw.local()
    }

    /// The same node, over bytes.
    pub const fn raw(&self) -> &RawRaft {
        &self.raw
    }
}

fn encode(value: &impl Serialize) -> Result<Bytes, RaftError> {
    cold::encode(value).map(Bytes::from).map_err(RaftError::Encode)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, RaftError> {
    cold::decode(bytes).map_err(RaftError::Decode)
}

/// A running node over bytes: what [`Raft`] is made of, for those who bring their own [`StateMachine`] and codec.
/// Cheap to clone; the node ends when the last clone is dropped.
#[derive(Clone)]
pub struct RawRaft {
    node: Arc<Node>,
}

impl std::fmt::Debug for RawRaft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawRaft").field("local", &self.local()).finish_non_exhaustive()
    }
}

impl RawRaft {
    /// Starts a node, see [`Raft::start`].
    ///
    /// # Errors
    /// Where store, transport, machine or settings cannot be used. Nothing runs then.
    pub async fn start(
        options: NodeOptions,
        store: impl LogStore,
        transport: impl Transport,
        machine: impl StateMachine,
    ) -> Result<Self, StartError> {
        let node = Node::start(options, Arc::new(store), Arc::new(transport), Box::new(machine)).await?;
        Ok(Self { node: Arc::new(node) })
    }

    /// Proposes a command, see [`Raft::propose`].
    ///
    /// # Errors
    /// See [`RaftError`]: after [`RaftError::is_refused`] it is safe to repeat.
    pub async fn propose(&self, command: Bytes) -> Result<Bytes, RaftError> {
        self.node.propose(command).await
    }

    /// Opens a client's session: a command in it may be repeated, at any node that leads and as often as need be, and is applied once
    /// ([`Client`](crate::Client) does all of this by itself). It costs an entry in the log, and memory on every node
    /// ([`NodeOptions::sessions`]) until it is closed or was not used for too long. Repeated after an unknown outcome, this may
    /// leave a session that nobody uses.
    ///
    /// # Errors
    /// See [`RaftError`]; [`SessionError::TooMany`] and [`SessionError::NotYet`].
    pub async fn open_session(&self) -> Result<SessionId, RaftError> {
        self.node.open_session().await
    }

    /// Proposes a command within a session. Repeated with the same [`Serial::number`], on this node or another that leads, after a
    /// restart or a snapshot, it is applied once, and gets its first answer again.
    ///
    /// # Errors
    /// See [`RaftError`]; after [`RaftError::Unknown`] repeat it with the same number. See [`SessionError`] for those of the session.
    pub async fn propose_in(&self, serial: Serial, command: Bytes) -> Result<Bytes, RaftError> {
        self.node.act(SessionAction::Command { serial, command }).await
    }

    /// Keeps a session from expiring, and lets go of the answers to all numbers below `seen_below`. May be repeated.
    ///
    /// # Errors
    /// See [`RaftError`]; [`SessionError::Expired`].
    pub async fn keep_session(&self, session: SessionId, seen_below: u64) -> Result<(), RaftError> {
        self.node.act(SessionAction::Keep { session, seen_below }).await.map(drop)
    }

    /// Ends a session and all that is kept of it. May be repeated.
    ///
    /// # Errors
    /// See [`RaftError`].
    pub async fn close_session(&self, session: SessionId) -> Result<(), RaftError> {
        self.node.act(SessionAction::Close { session }).await.map(drop)
    }

    /// Asks the state machine, linearizably, see [`Raft::read`].
    ///
    /// # Errors
    /// See [`RaftError`]. A read can always be repeated.
    pub async fn read(&self, query: Bytes) -> Result<Bytes, RaftError> {
        self.read_with(query, Consistency::Linearizable).await.map(|reading| reading.answer)
    }

    /// Asks the state machine, as fresh as `consistency` says, see [`Raft::read_with`].
    ///
    /// # Errors
    /// See [`Raft::read_with`].
    pub async fn read_with(
        &self,
        query: Bytes,
        consistency: Consistency,
    ) -> Result<Reading<Bytes>, RaftError> {
        self.node.read(query, consistency).await
    }

    /// Asks this node's state as it is, which may be old, see [`Raft::query_local`].
    ///
    /// # Errors
    /// See [`RaftError`]. A query can always be repeated.
    pub async fn query_local(&self, query: Bytes) -> Result<Bytes, RaftError> {
        let stale = Consistency::Stale { max_age: None };
        self.read_with(query, stale).await.map(|reading| reading.answer)
    }

    /// What this node has measured since it was started: how long proposals, writes, heartbeats and the state machine took, and how
    /// often what happened.
    #[cfg(feature = "metrics")]
    pub fn metrics(&self) -> Metrics {
        self.node.metrics()
    }

    /// Why there is no leader, why writes do not commit, why a follower lags, as far as this node knows: each a sentence with numbers;
    /// nothing where all is well.
    ///
    /// # Errors
    /// Where the node has ended; a group that has stopped says why.
    pub async fn explain(&self) -> Result<Vec<Finding>, RaftError> {
        self.node.explain().await
    }

    /// Founds the cluster with these members, this node among them, and returns once its first configuration is
    /// committed. All members must run with empty stores; it waits until it has reached each of them. It may be called on
    /// one member or on several at once, and repeated: it is `Ok` where the cluster is founded with the same members
    /// already.
    ///
    /// # Errors
    /// [`RaftError::Bootstrap`] where the members make no cluster, or it is founded with others.
    pub async fn bootstrap(
        &self,
        members: impl IntoIterator<Item = impl Into<Member>>,
    ) -> Result<(), RaftError> {
        let mut nodes: BTreeMap<NodeId, NodeInfo> = BTreeMap::new();
        for member in members {
            let (node, info) = member.into().into();
            if nodes.insert(node, info).is_some() {
                return Err(RaftError::Bootstrap(format!("node {node} is named twice")));
            }
        }
        self.node.bootstrap(nodes).await
    }

    /// Hands leadership to `to`, or, where none is named, to the best: a live voter that keeps up, of the highest priority.
    /// Returns who leads, when this node knows it; at once where it is to lead itself and does. Other proposals are
    /// refused with [`RaftError::Transferring`] for about a round trip and a write. Only the leader can do this.
    ///
    /// # Errors
    /// [`RaftError::NotLeader`], and [`RaftError::Transfer`] where the node cannot lead, or did not take over within an election
    /// timeout: this node then goes on leading.
    pub async fn transfer_leadership(&self, to: Option<NodeId>) -> Result<NodeId, RaftError> {
        self.node.transfer_leadership(to).await
    }

    /// States which members the cluster is to have, and returns once that intent is committed: the index of its configuration. From
    /// then on each leader carries it out to the end: new nodes join as learners and catch up, votes change by a joint
    /// configuration (paper, 6). [`Status::change`] shows where it stands and what it waits for; it is done when
    /// [`Membership::target`](crate::Membership::target) is `None` again. Another target replaces one that is under way.
    ///
    /// With `based_on`, only where the configuration is still that of [`Status::membership_index`]. Only the leader can do this.
    ///
    /// # Errors
    /// [`RaftError::NotLeader`], [`RaftError::Membership`] where the target makes no cluster or the configuration changed, and
    /// [`RaftError::Unknown`]: the intent may be committed yet.
    pub async fn set_members(&self, target: Target, based_on: Option<Index>) -> Result<Index, RaftError> {
        self.node.change(What::Become(target, based_on)).await
    }

    /// Changes what the cluster is on its way to, or is: `change` is given that and returns what is wanted. It is called again
    /// where the configuration changed meanwhile. See [`Self::set_members`].
    ///
    /// # Errors
    /// See [`Self::set_members`].
    pub async fn change_members(&self, change: impl Fn(Target) -> Target + Send) -> Result<Index, RaftError> {
        loop {
            let (target, index) = {
                let status = self.node.status.borrow();
                (change(status.membership.intent()), status.membership_index)
            };
            match self.set_members(target, Some(index)).await {
                Err(RaftError::Outdated) => {
                    self.wait_for(|status| status.membership_index != index).await?;
                }
                outcome => return outcome,
            }
        }
    }

    /// Gives up the change of the members that is under way: who became a member only for its sake goes; a joint configuration is
    /// left for the one that it leads to. Returns once that is committed. Only the leader can do this.
    ///
    /// # Errors
    /// As [`Self::set_members`].
    pub async fn give_up_change(&self) -> Result<Index, RaftError> {
        self.node.change(What::GiveUp).await
    }

    /// Switches lease reads on or off in a running cluster, or changes what they rest on: the election timeout that all nodes keep to from
    /// then on, and the bound on the drift of their clocks ([`Consistency::Lease`]). It is a configuration with the same members, and returns
    /// once that is committed: its index. [`Membership::lease`](crate::Membership::lease) in the status shows what is in force. Only the
    /// leader can do this; while leases are off, reads that ask for one are linearizable all the same, by a round.
    ///
    /// # Errors
    /// As [`Self::set_members`]; [`RaftError::Membership`] also where the lease is out of range, or a member is not known to understand leases:
    /// it has to be upgraded, or has not answered since this node leads.
    pub async fn set_lease(&self, lease: Option<Lease>) -> Result<Index, RaftError> {
        self.node.change(What::Lease(lease)).await
    }

    /// Takes a snapshot of this node's state now, whatever the policy, and returns what it covers once it is durable and the log
    /// store names it: at least what this node knew to be committed. One that covers this already will do.
    ///
    /// # Errors
    /// [`RaftError::Snapshot`] where nothing is committed yet, there is no place for snapshots, or it could not be written.
    pub async fn snapshot(&self) -> Result<SnapshotMeta, RaftError> {
        self.node.snapshot().await
    }

    /// This node's newest durable snapshot, its checksum found to be right, such as to make a backup of; `None` if there is
    /// none yet.
    ///
    /// # Errors
    /// [`RaftError::Snapshot`] where its file cannot be read or is damaged.
    pub async fn latest_snapshot(&self) -> Result<Option<SnapshotFile>, RaftError> {
        self.node.latest_snapshot().await
    }

    /// The status, see [`Raft::status`].
    pub fn status(&self) -> watch::Receiver<RaftStatus> {
        self.node.status.clone()
    }

    /// Waits until the status is as wanted, and returns it.
    ///
    /// # Errors
    /// Where the node has ended.
    pub async fn wait_for(&self, mut wanted: impl FnMut(&Status) -> bool) -> Result<Status, RaftError> {
        self.node.wait_for(|status| wanted(&status.engine)).await.map(|status| status.engine)
    }

    /// Ends the node in good order: hands its leadership over if it has it (within a few election timeouts; then it ends all the
    /// same), takes no more calls, finishes what is on its way to disk, applies and answers what is
    /// committed, answers the rest with `Unknown`, stops the transport, and lets go of store and machine. Repeating it
    /// does nothing.
    pub async fn shutdown(&self) {
        self.node.shut_down().await;
    }

    /// Where the transport listens.
    pub fn address(&self) -> &str {
        &self.node.address
    }

    /// This node, its data folder, and how often it was started.
    pub fn local(&self) -> LocalNode {
        self.node.local
    }
}
