//! openraft 0.9, with the stores and the network of its own benchmark (`cluster_benchmark` in its repository): logs in B-trees, calls
//! between nodes as calls. The settings are that benchmark's.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::io::Cursor;
use std::ops::RangeBounds;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use openraft::error::{InstallSnapshotError, RPCError, RaftError, RemoteError};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use openraft::storage::{
    LogFlushed, LogState, RaftLogReader, RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine, Snapshot,
};
use openraft::{
    Config, Entry, EntryPayload, LogId, OptionalSend, Raft, RaftLogId, SnapshotMeta, StorageError,
    StoredMembership, Vote,
};
use openraft_0_9 as openraft;
use tokio::sync::RwLock;

use crate::drive::{Failure, Load, Measured, NODES, command, drive};
use crate::persist::Persist;

type NodeId = u64;

openraft::declare_raft_types!(
    pub(crate) Types:
        D = Bytes,
        R = (),
        Node = (),
);

#[derive(Default)]
struct Log {
    vote: RwLock<Option<Vote<NodeId>>>,
    entries: RwLock<BTreeMap<u64, Entry<Types>>>,
    purged: RwLock<Option<LogId<NodeId>>>,
    disk: Option<Persist>,
}

/// What an entry says, for the disk.
fn bytes_of(payload: &EntryPayload<Types>) -> Bytes {
    match payload {
        EntryPayload::Normal(command) => command.clone(),
        EntryPayload::Blank => Bytes::new(),
        EntryPayload::Membership(membership) => Bytes::from(format!("{membership:?}")),
    }
}

impl RaftLogReader<Types> for Arc<Log> {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry<Types>>, StorageError<NodeId>> {
        Ok(self.entries.read().await.range(range).map(|(_, entry)| entry.clone()).collect())
    }
}

impl RaftLogStorage<Types> for Arc<Log> {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError<NodeId>> {
        let last = self.entries.read().await.last_key_value().map(|(_, entry)| *entry.get_log_id());
        let purged = *self.purged.read().await;
        Ok(LogState { last_purged_log_id: purged, last_log_id: last.or(purged) })
    }

    async fn save_vote(&mut self, vote: &Vote<NodeId>) -> Result<(), StorageError<NodeId>> {
        if let Some(disk) = &self.disk {
            disk.vote(vote.leader_id().term, vote.leader_id().node_id).await;
        }
        *self.vote.write().await = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<NodeId>>, StorageError<NodeId>> {
        Ok(*self.vote.read().await)
    }

    async fn truncate(&mut self, log_id: LogId<NodeId>) -> Result<(), StorageError<NodeId>> {
        self.entries.write().await.split_off(&log_id.index);
        if let Some(disk) = &self.disk {
            disk.truncate(log_id.index);
        }
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId<NodeId>) -> Result<(), StorageError<NodeId>> {
        *self.purged.write().await = Some(log_id);
        let mut entries = self.entries.write().await;
        *entries = entries.split_off(&(log_id.index + 1));
        if let Some(disk) = &self.disk {
            disk.compact(log_id.index);
        }
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Result<(), StorageError<NodeId>>
    where
        I: IntoIterator<Item = Entry<Types>> + Send,
    {
        let Some(disk) = &self.disk else {
            let entries = entries.into_iter().map(|entry| (entry.log_id.index, entry));
            self.entries.write().await.extend(entries);
            callback.log_io_completed(Ok(()));
            return Ok(());
        };
        let entries: Vec<Entry<Types>> = entries.into_iter().collect();
        let rows: Vec<_> = entries
            .iter()
            .map(|entry| (entry.log_id.leader_id.term, entry.log_id.index, bytes_of(&entry.payload)))
            .collect();
        self.entries.write().await.extend(entries.into_iter().map(|entry| (entry.log_id.index, entry)));
        disk.append(rows.into_iter(), Box::new(move || callback.log_io_completed(Ok(()))));
        Ok(())
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }
}

#[derive(Default)]
struct State {
    applied: Option<LogId<NodeId>>,
    membership: StoredMembership<NodeId, ()>,
    snapshot: Option<SnapshotMeta<NodeId, ()>>,
}

#[derive(Default)]
struct Machine(RwLock<State>);

impl RaftSnapshotBuilder<Types> for Arc<Machine> {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, StorageError<NodeId>> {
        let mut state = self.0.write().await;
        let snapshot_id = state.applied.map_or(String::new(), |applied| format!("{applied}"));
        let meta = SnapshotMeta {
            last_log_id: state.applied,
            last_membership: state.membership.clone(),
            snapshot_id,
        };
        state.snapshot = Some(meta.clone());
        Ok(Snapshot { meta, snapshot: Box::new(Cursor::new(vec![0; 8])) })
    }
}

impl RaftStateMachine<Types> for Arc<Machine> {
    type SnapshotBuilder = Self;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogId<NodeId>>, StoredMembership<NodeId, ()>), StorageError<NodeId>> {
        let state = self.0.read().await;
        Ok((state.applied, state.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<()>, StorageError<NodeId>>
    where
        I: IntoIterator<Item = Entry<Types>> + Send,
    {
        let mut state = self.0.write().await;
        let mut replies = Vec::new();
        for entry in entries {
            state.applied = Some(entry.log_id);
            if let EntryPayload::Membership(membership) = entry.payload {
                state.membership = StoredMembership::new(Some(entry.log_id), membership);
            }
            replies.push(());
        }
        Ok(replies)
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError<NodeId>> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<NodeId, ()>,
        _snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError<NodeId>> {
        *self.0.write().await = State {
            applied: meta.last_log_id,
            membership: meta.last_membership.clone(),
            snapshot: Some(meta.clone()),
        };
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, StorageError<NodeId>> {
        let meta = self.0.read().await.snapshot.clone();
        Ok(meta.map(|meta| Snapshot { meta, snapshot: Box::new(Cursor::new(vec![0; 8])) }))
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        self.clone()
    }
}

#[derive(Clone, Default)]
struct Router(Arc<Mutex<BTreeMap<NodeId, Raft<Types>>>>);

impl Router {
    fn node(&self, id: NodeId) -> Raft<Types> {
        self.0.lock().expect("no holder panics").get(&id).expect("all nodes are there").clone()
    }
}

impl RaftNetworkFactory<Types> for Router {
    type Network = Line;

    async fn new_client(&mut self, target: NodeId, _node: &()) -> Self::Network {
        Line { target, node: self.node(target) }
    }
}

struct Line {
    target: NodeId,
    node: Raft<Types>,
}

impl RaftNetwork<Types> for Line {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<NodeId>, RPCError<NodeId, (), RaftError<NodeId>>> {
        self.node.append_entries(rpc).await.map_err(|e| RemoteError::new(self.target, e).into())
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest<Types>,
        _option: RPCOption,
    ) -> Result<InstallSnapshotResponse<NodeId>, RPCError<NodeId, (), RaftError<NodeId, InstallSnapshotError>>>
    {
        self.node.install_snapshot(rpc).await.map_err(|e| RemoteError::new(self.target, e).into())
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<NodeId>,
        _option: RPCOption,
    ) -> Result<VoteResponse<NodeId>, RPCError<NodeId, (), RaftError<NodeId>>> {
        self.node.vote(rpc).await.map_err(|e| RemoteError::new(self.target, e).into())
    }
}

pub(crate) async fn run(load: Load, folder: Option<&Path>) -> Result<Measured, Failure> {
    let config = Config {
        election_timeout_min: 200,
        election_timeout_max: 2000,
        purge_batch_size: 1024,
        ..Config::default()
    };
    let config = Arc::new(config.validate()?);
    let router = Router::default();
    let mut nodes = BTreeMap::new();
    for id in 0..NODES {
        let disk = match folder {
            Some(folder) => Some(Persist::open(folder, id).await?),
            None => None,
        };
        let log = Arc::new(Log { disk, ..Log::default() });
        let raft = Raft::new(id, Arc::clone(&config), router.clone(), log, Arc::<Machine>::default()).await?;
        nodes.insert(id, raft);
    }
    router.0.lock().map_err(|_| "a holder panicked")?.clone_from(&nodes);
    let leader = router.node(0);
    leader.initialize((0..NODES).collect::<BTreeSet<_>>()).await?;
    for node in nodes.values() {
        node.wait(Some(Duration::from_secs(10))).applied_index(Some(1), "founded").await?;
    }
    let call = move || {
        let leader = leader.clone();
        async move {
            leader.client_write(command()).await?;
            Ok(())
        }
    };
    drive(load, call).await
}
