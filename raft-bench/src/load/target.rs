//! What is loaded.

use std::sync::Arc;

use bytes::Bytes;
use raft_core::RaftError;
use raft_kv::client::{Client, ClientError};

use super::Outcome;
use crate::backend::Failure;
use crate::cluster::{Cluster, ClusterOptions};
use crate::process::Usage;

/// What is loaded.
pub enum Target {
    /// A cluster within this process: what clients and nodes take is counted together.
    Cluster(Box<Cluster>),
    /// A raft-kv that runs elsewhere, reached over HTTP.
    Kv {
        /// The way to it.
        client: Client,
        /// The processes of its nodes, where they run on this machine and are to be watched.
        processes: Vec<u32>,
        /// How many keys are written, in turn.
        keys: u64,
    },
}

/// What a target took so far.
pub(super) struct Taken {
    pub(super) usage: Usage,
    /// Bytes given to transports, where they are counted.
    pub(super) sent: Option<u64>,
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

    /// The raft-kv whose nodes listen at these HTTP addresses.
    ///
    /// # Errors
    /// Where an address is none.
    pub fn kv(nodes: &[String], processes: Vec<u32>, keys: u64) -> Result<Arc<Self>, Failure> {
        Ok(Arc::new(Self::Kv { client: Client::new(nodes)?, processes, keys: keys.max(1) }))
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
                Err(error) if error.is_refused() => Ok(Outcome::Refused),
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

    pub(super) fn usage(&self) -> Result<Taken, Failure> {
        Ok(match self {
            Self::Cluster(cluster) => Taken { usage: Usage::own()?, sent: cluster.sent_bytes() },
            Self::Kv { processes, .. } => Taken { usage: Usage::of(processes)?, sent: None },
        })
    }

    /// Ends it, if it is ours.
    pub async fn end(self: Arc<Self>) {
        if let Some(Self::Cluster(cluster)) = Arc::into_inner(self) {
            cluster.shutdown().await;
        }
    }
}
