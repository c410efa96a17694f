//! openraft 0.10, a pinned alpha, with the stores and the network of its own benchmark (`benchmarks/minimal` in its repository): logs
//! in B-trees, calls between nodes as calls. The settings are that benchmark's.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::io::Cursor;
use std::ops::RangeBounds;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::alias::{EntryOf, LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf, VoteOf};
use openraft::entry::RaftEntry;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::storage::{
    EntryResponder, IOFlushed, LogState, RaftLogReader, RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine,
};
use openraft::{Config, EntryPayload, OptionalSend, Raft};
use openraft_0_10 as openraft;
use tokio::sync::RwLock;

use crate::drive::{self, Failure, Load, Measured, NODES, drive};
use crate::persist::Persist;

type NodeId = u64;
type Node = Raft<Types, Arc<Machine>>;

/// openraft wants commands that can be printed.
#[derive(Clone, Debug)]
pub(crate) struct Command(Bytes);

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// As the benchmark of openraft has it; the macro that declares such types cannot name the responder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Types;

impl openraft::RaftTypeConfig for Types {
    type D = Command;
    type R = ();
    type NodeId = NodeId;
    type Node = ();
    type Term = u64;
    type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, NodeId>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = EntryPayload<Command, NodeId, ()>;
    type Entry = openraft::alias::DefaultEntryOf<Self>;
    type AsyncRuntime = openraft::impls::TokioRuntime;
    type Responder<T>
        = openraft::impls::OneshotResponder<Self, T>
    where
        T: Send + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: Send + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

#[derive(Default)]
struct Log {
    vote: RwLock<Option<VoteOf<Types>>>,
    entries: RwLock<BTreeMap<u64, EntryOf<Types>>>,
    purged: RwLock<Option<LogIdOf<Types>>>,
    disk: Option<Persist>,
}

/// What an entry says, for the disk.
fn bytes_of(entry: &EntryOf<Types>) -> Bytes {
    match &entry.payload {
        EntryPayload::Normal(command) => command.0.clone(),
        EntryPayload::Blank => Bytes::new(),
        EntryPayload::Membership(membership) => Bytes::from(format!("{membership:?}")),
    }
}

impl RaftLogReader<Types> for Arc<Log> {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<EntryOf<Types>>, io::Error> {
        Ok(self.entries.read().await.range(range).map(|(_, entry)| entry.clone()).collect())
    }

    async fn read_vote(&mut self) -> Result<Option<VoteOf<Types>>, io::Error> {
        Ok(*self.vote.read().await)
    }
}

impl RaftLogStorage<Types> for Arc<Log> {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let last = self.entries.read().await.last_key_value().map(|(_, entry)| entry.log_id());
        let purged = *self.purged.read().await;
        Ok(LogState { last_purged_log_id: purged, last_log_id: last.or(purged) })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<Types>) -> Result<(), io::Error> {
        if let Some(disk) = &self.disk {
            disk.vote(vote.leader_id.term, vote.leader_id.node_id).await;
        }
        *self.vote.write().await = Some(*vote);
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = EntryOf<Types>> + Send,
    {
        let Some(disk) = &self.disk else {
            self.entries.write().await.extend(entries.into_iter().map(|entry| (entry.index(), entry)));
            callback.io_completed(Ok(()));
            return Ok(());
        };
        let entries: Vec<EntryOf<Types>> = entries.into_iter().collect();
        let rows: Vec<_> = entries
            .iter()
            .map(|entry| (entry.log_id.leader_id.term, entry.index(), bytes_of(entry)))
            .collect();
        self.entries.write().await.extend(entries.into_iter().map(|entry| (entry.index(), entry)));
        disk.append(rows.into_iter(), Box::new(move || callback.io_completed(Ok(()))));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<Types>>) -> Result<(), io::Error> {
        let from = last.map_or(0, |last| last.index() + 1);
        self.entries.write().await.split_off(&from);
        if let Some(disk) = &self.disk {
            disk.truncate(from);
        }
        Ok(())
    }

    async fn purge(&mut self, to: LogIdOf<Types>) -> Result<(), io::Error> {
        *self.purged.write().await = Some(to);
        let mut entries = self.entries.write().await;
        *entries = entries.split_off(&(to.index() + 1));
        if let Some(disk) = &self.disk {
            disk.compact(to.index());
        }
        Ok(())
    }
}

#[derive(Default)]
struct State {
    applied: Option<LogIdOf<Types>>,
    membership: StoredMembershipOf<Types>,
    snapshot: Option<SnapshotMetaOf<Types>>,
}

#[derive(Default)]
pub(crate) struct Machine(RwLock<State>);

type SnapshotData = Cursor<Vec<u8>>;

fn snapshot(meta: SnapshotMetaOf<Types>) -> SnapshotOf<Types, SnapshotData> {
    SnapshotOf::<Types, SnapshotData> { meta, snapshot: Cursor::new(vec![0; 8]) }
}

impl RaftSnapshotBuilder<Types> for Arc<Machine> {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Types, SnapshotData>, io::Error> {
        let mut state = self.0.write().await;
        let meta =
            SnapshotMetaOf::<Types> { last_log_id: state.applied, last_membership: state.membership.clone() };
        state.snapshot = Some(meta.clone());
        Ok(snapshot(meta))
    }
}

impl RaftStateMachine<Types> for Arc<Machine> {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Self;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogIdOf<Types>>, StoredMembershipOf<Types>), io::Error> {
        let state = self.0.read().await;
        Ok((state.applied, state.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        let mut state = self.0.write().await;
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            state.applied = Some(entry.log_id);
            if let EntryPayload::Membership(membership) = entry.payload {
                state.membership = StoredMembershipOf::<Types>::new(Some(entry.log_id), membership);
            }
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<Types>,
        _snapshot: SnapshotData,
    ) -> Result<(), io::Error> {
        *self.0.write().await = State {
            applied: meta.last_log_id,
            membership: meta.last_membership.clone(),
            snapshot: Some(meta.clone()),
        };
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<Types, SnapshotData>>, io::Error> {
        Ok(self.0.read().await.snapshot.clone().map(snapshot))
    }
}

#[derive(Clone, Default)]
struct Router(Arc<Mutex<BTreeMap<NodeId, Node>>>);

impl Router {
    fn node(&self, id: NodeId) -> Node {
        self.0.lock().expect("no holder panics").get(&id).expect("all nodes are there").clone()
    }
}

impl RaftNetworkFactory<Types> for Router {
    type Network = Line;

    async fn new_client(&mut self, target: NodeId, _node: &()) -> Self::Network {
        Line(self.node(target))
    }
}

struct Line(Node);

fn lost(error: &(impl std::error::Error + 'static)) -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::new(error))
}

impl RaftNetworkV2<Types> for Line {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        self.0.append_entries(rpc).await.map_err(|error| lost(&error))
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.0.vote(rpc).await.map_err(|error| lost(&error))
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<Types>,
        snapshot: SnapshotOf<Types, SnapshotData>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let installed = self.0.install_full_snapshot(vote, snapshot).await;
        installed.map_err(|error| StreamingError::Unreachable(Unreachable::new(&error)))
    }
}

pub(crate) async fn run(load: Load, folder: Option<&Path>) -> Result<Measured, Failure> {
    let config = Config {
        election_timeout_min: 200,
        election_timeout_max: 2000,
        purge_batch_size: 1024,
        max_payload_entries: 1024,
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
            leader.client_write(Command(drive::command())).await?;
            Ok(())
        }
    };
    drive(load, call).await
}
