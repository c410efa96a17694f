//! What is loaded.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use raft_core::RaftError;
use raft_kv::client::{Client, ClientError};

use super::Outcome;
use crate::backend::Failure;
use crate::cluster::{Cluster, ClusterOptions};
use crate::process::{Usage, Watch};

/// A cluster that takes no write for so long cannot be loaded.
const FIRST_WRITE: Duration = Duration::from_secs(5);

/// What is loaded.
pub enum Target {
    /// A cluster within this process: what clients and nodes take is counted together.
    Cluster(Box<Cluster>),
    /// A raft-kv that runs elsewhere, reached over HTTP.
    Kv {
        /// The way to it.
        client: Box<Client>,
        /// The processes of its nodes, where they run on this machine and are to be watched.
        processes: Option<Mutex<Watch>>,
        /// How many keys are written, in turn.
        keys: u64,
        /// How many nodes were named.
        nodes: usize,
    },
}

/// What a target took so far.
pub(super) struct Taken {
    /// Of its processes, where they are watched, and how many of those have ended.
    pub(super) usage: Option<Usage>,
    pub(super) ended: usize,
}

impl Target {
    /// A cluster of this process.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub async fn start(options: &ClusterOptions) -> Result<Arc<Self>, Failure> {
        let options = ClusterOptions { meter: true, ..options.clone() };
        Ok(Arc::new(Self::Cluster(Box::new(Cluster::start(&options).await?))))
    }

    /// The raft-kv whose nodes listen at these HTTP addresses, once it has taken a write; and how many nodes it has. The processes, if any, are
    /// watched.
    ///
    /// # Errors
    /// Where an address is none, a process is not there, or no write succeeds.
    pub async fn kv(nodes: &[String], processes: &[u32], keys: u64) -> Result<(Arc<Self>, usize), Failure> {
        let processes = match processes {
            [] => None,
            some => Some(Mutex::new(Watch::new(some)?)),
        };
        let first = Client::new(nodes)?.with_timeout(FIRST_WRITE);
        let about = |error: ClientError| format!("raft-kv at {} takes no write: {error}", nodes.join(","));
        first.put("load-0", Bytes::from_static(b"first")).await.map_err(about)?;
        let members = first.members(false).await.map_err(about)?.members.len();
        let client = Box::new(Client::new(nodes)?);
        let kv = Self::Kv { client, processes, keys: keys.max(1), nodes: nodes.len() };
        Ok((Arc::new(kv), members))
    }

    /// One operation.
    ///
    /// # Errors
    /// Where no operation can ever succeed.
    pub(super) async fn write(&self, number: u64, payload: Bytes) -> Result<Outcome, Failure> {
        match self {
            Self::Cluster(cluster) => match cluster.leader().propose(payload).await {
                Ok(_) => Ok(Outcome::Done),
                Err(error @ (RaftError::TooLarge { .. } | RaftError::Fatal { .. } | RaftError::Stopped)) => {
                    Err(error.into())
                }
                Err(error) if error.is_refused() => {
                    cluster.learn_leader(&error);
                    Ok(Outcome::Refused)
                }
                Err(_) => Ok(Outcome::Unknown),
            },
            Self::Kv { client, keys, .. } => {
                match client.put(&format!("load-{}", number % keys), payload).await {
                    Ok(_) => Ok(Outcome::Done),
                    Err(ClientError::Refused(_)) => Ok(Outcome::Refused),
                    Err(ClientError::Unknown(_)) => Ok(Outcome::Unknown),
                    Err(error) => Err(error.into()),
                }
            }
        }
    }

    pub(super) fn taken(&self) -> Result<Taken, Failure> {
        Ok(match self {
            Self::Cluster(_) => Taken { usage: Some(Usage::own()?), ended: 0 },
            Self::Kv { processes: None, .. } => Taken { usage: None, ended: 0 },
            Self::Kv { processes: Some(watch), .. } => {
                let mut watch = watch.lock().unwrap_or_else(PoisonError::into_inner);
                Taken { usage: Some(watch.look()), ended: watch.ended() }
            }
        })
    }

    /// Bytes of messages that were given to transports until now, of all nodes; nothing where a node does not tell.
    pub(super) async fn sent_bytes(&self) -> Option<u64> {
        match self {
            Self::Cluster(cluster) => cluster.sent_bytes(),
            Self::Kv { client, nodes, .. } => {
                let mut sum = 0;
                for place in 0..*nodes {
                    sum += client.status(place).await.ok()?.transport?.sent_bytes;
                }
                Some(sum)
            }
        }
    }

    /// Ends it, if it is ours.
    pub async fn end(&self) {
        if let Self::Cluster(cluster) = self {
            cluster.shutdown().await;
        }
    }
}
