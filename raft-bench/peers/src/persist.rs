//! A durable log for openraft: raft-storage-redb, so that both write the same bytes in the same way, one `fdatasync` a commit. What
//! waits while a commit is on its way goes into the next.

use std::path::Path;
use std::sync::Arc;

use raft_core::log_store::Write;
use raft_core::types::{Entry, EntryId, GroupId, HardState, Incarnation, Index, NodeId, Payload};
use raft_core::{ClusterId, LogStore};
use raft_storage_redb::RedbLogStore;
use tokio::sync::{mpsc, oneshot};

use bytes::Bytes;

use crate::drive::Failure;

/// Called when what it belongs to is durable.
pub(crate) type Done = Box<dyn FnOnce() + Send>;

enum Order {
    Append(Vec<Entry>, Done),
    Vote(HardState, oneshot::Sender<()>),
    /// From this index on.
    Truncate(Index),
    /// Up to this index.
    Compact(Index),
}

/// The way to the task that writes. openraft counts entries from 0, and the log from 1.
#[derive(Clone)]
pub(crate) struct Persist(mpsc::UnboundedSender<Order>);

impl Persist {
    pub(crate) async fn open(folder: &Path, node: u64) -> Result<Self, Failure> {
        let store = RedbLogStore::open(folder.join(format!("node-{node}/log.redb")))?;
        store.claim(ClusterId(1), NodeId(node + 1), Incarnation(node + 1)).await?;
        let (sender, receiver) = mpsc::unbounded_channel();
        tokio::spawn(write(Arc::new(store), receiver));
        Ok(Self(sender))
    }

    /// `entries` are term, index and what they say.
    pub(crate) fn append(&self, entries: impl Iterator<Item = (u64, u64, Bytes)>, done: Done) {
        let entry = |(term, index, bytes)| Entry {
            id: EntryId::new(term, index + 1),
            payload: Payload::Command(bytes),
        };
        self.order(Order::Append(entries.map(entry).collect(), done));
    }

    pub(crate) async fn vote(&self, term: u64, node: u64) {
        let (done, written) = oneshot::channel();
        self.order(Order::Vote(HardState { term, vote: Some(NodeId(node + 1)), commit: 0 }, done));
        written.await.expect("the log is written");
    }

    pub(crate) fn truncate(&self, from: u64) {
        self.order(Order::Truncate(from + 1));
    }

    pub(crate) fn compact(&self, to: u64) {
        self.order(Order::Compact(to + 1));
    }

    fn order(&self, order: Order) {
        assert!(self.0.send(order).is_ok(), "the log is written as long as a node runs");
    }
}

async fn write(store: Arc<RedbLogStore>, mut orders: mpsc::UnboundedReceiver<Order>) {
    let mut waiting = Vec::new();
    let mut number = 0;
    while orders.recv_many(&mut waiting, 4096).await > 0 {
        let (mut writes, mut done, mut voted) = (Vec::<Write>::new(), Vec::new(), Vec::new());
        for order in waiting.drain(..) {
            number += 1;
            let mut write = Write { group: GroupId(0), number, ..Write::default() };
            match order {
                Order::Append(entries, then) => {
                    done.push(then);
                    // Appends that follow each other are one.
                    if let Some(last) = writes.last_mut().filter(|last| !last.entries.is_empty()) {
                        last.entries.extend(entries);
                        continue;
                    }
                    write.entries = entries;
                }
                Order::Vote(hard_state, then) => {
                    voted.push(then);
                    write.hard_state = Some(hard_state);
                }
                Order::Truncate(from) => write.truncate_from = Some(from),
                Order::Compact(to) => write.compact_to = Some(to),
            }
            writes.push(write);
        }
        store.write(&writes).await.expect("the log is written");
        done.into_iter().for_each(|then| then());
        for then in voted {
            let _gone = then.send(());
        }
    }
}
