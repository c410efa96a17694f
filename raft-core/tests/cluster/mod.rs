//! A small cluster in memory for the tests of the runtime.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use raft_core::engine::RoleName;
use raft_core::mem::{ChannelNetwork, MemLogStore};
use raft_core::{ClusterId, Machine, NodeId, NodeOptions, Raft, RaftError};
use serde::{Deserialize, Serialize};

pub(crate) const CLUSTER: ClusterId = ClusterId(0xc0ffee);

/// Appends words to a list; the reply is the list's new length.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Words(Vec<String>);

impl Machine for Words {
    type Command = String;
    type Reply = usize;
    type Query = ();
    type Answer = Vec<String>;

    fn apply(&mut self, word: String) -> usize {
        assert_ne!(word, "panic", "asked to panic");
        self.0.push(word);
        self.0.len()
    }

    fn query(&self, (): ()) -> Vec<String> {
        self.0.clone()
    }
}

pub(crate) fn options(node: u64) -> NodeOptions {
    let mut options = NodeOptions::new(CLUSTER, node);
    options.config.election_timeout = Duration::from_millis(150);
    options.config.heartbeat_interval = Duration::from_millis(20);
    options.client_address = format!("client:{node}");
    options
}

pub(crate) fn members() -> Vec<(u64, String, String)> {
    (1..=3).map(|id| (id, format!("mem:{id}"), format!("client:{id}"))).collect()
}

pub(crate) struct Cluster {
    pub(crate) network: ChannelNetwork,
    pub(crate) stores: BTreeMap<u64, MemLogStore>,
    pub(crate) nodes: BTreeMap<u64, Raft<Words>>,
}

impl Cluster {
    /// Three nodes, founded.
    pub(crate) async fn founded() -> Self {
        let cluster = Self::blank(options).await;
        cluster.nodes[&1].bootstrap(members()).await.unwrap();
        cluster
    }

    /// Three nodes, not founded.
    pub(crate) async fn blank(options: impl Fn(u64) -> NodeOptions) -> Self {
        let network = ChannelNetwork::new();
        let stores = (1..=3).map(|id| (id, MemLogStore::new())).collect();
        let mut cluster = Self { network, stores, nodes: BTreeMap::new() };
        for id in 1..=3 {
            cluster.start(id, options(id)).await;
        }
        cluster
    }

    pub(crate) async fn start(&mut self, id: u64, options: NodeOptions) {
        let (store, transport) = (self.stores[&id].clone(), self.network.transport(id));
        let node = Raft::start(options, store, transport, Words::default()).await.unwrap();
        self.nodes.insert(id, node);
    }

    /// The leader that the running nodes agree on.
    pub(crate) async fn leader(&self) -> u64 {
        within(async {
            loop {
                let leading = self.nodes.iter().find(|(_, node)| {
                    let status = node.status().borrow().clone();
                    status.role == RoleName::Leader
                        && self.nodes.values().all(|other| {
                            let other = other.status().borrow().clone();
                            other.leader == status.leader && other.term == status.term
                        })
                });
                if let Some((&id, _)) = leading {
                    return id;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await
    }

    /// Proposes to whoever leads until it is done.
    pub(crate) async fn propose(&self, word: &str) -> usize {
        within(async {
            loop {
                for node in self.nodes.values() {
                    match node.propose(&word.to_owned()).await {
                        Ok(length) => return length,
                        Err(error) => assert!(error.is_refused(), "{error}"),
                    }
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await
    }

    /// Proposes to one node until it is done.
    pub(crate) async fn propose_to(&self, id: u64, word: &str) -> usize {
        within(async {
            loop {
                match self.nodes[&id].propose(&word.to_owned()).await {
                    Ok(length) => return length,
                    Err(error) => assert!(error.is_refused(), "{error}"),
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await
    }

    /// Waits until a node's own state is `words`.
    pub(crate) async fn holds(&self, id: u64, words: &[&str]) {
        within(async {
            while self.nodes[&id].query_local(&()).await.unwrap() != words {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
    }

    pub(crate) async fn stop(&mut self, id: u64) {
        if let Some(node) = self.nodes.remove(&id) {
            within(node.shutdown()).await;
        }
    }

    /// Cuts a node off from both others.
    pub(crate) fn isolate(&self, id: u64) {
        (1..=3).filter(|&other| other != id).for_each(|other| self.network.cut(id, other));
    }
}

/// Far beyond what anything here takes, however slow the machine.
pub(crate) async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), work).await.expect("it takes too long")
}

pub(crate) fn hint(error: &RaftError) -> Option<(Option<NodeId>, Option<&str>)> {
    match error {
        RaftError::NotLeader { leader, address } => Some((*leader, address.as_deref())),
        _ => None,
    }
}
