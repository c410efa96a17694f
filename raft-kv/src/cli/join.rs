//! `raft-kv serve --join`: a blank node asks a cluster to take it in.

use std::time::Duration;

use raft_core::{Raft, RaftStatus};
use tracing::{info, warn};

use crate::api::{ChangeBody, MemberChange};
use crate::client::Client;
use crate::store::Store;

/// How long to wait before asking again; the cluster may not be founded yet, or say no until an operator has been there.
const PAUSE: Duration = Duration::from_secs(1);

/// How long a cluster that agreed may take to come forward before it is asked again.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// Asks until the node is a member, however that comes to be. Only a blank node asks: one that has been a member comes back by itself,
/// or was removed on purpose.
pub(super) async fn join(raft: Raft<Store>, cluster: Client, change: MemberChange) {
    let node = raft.local().peer.node;
    let is_member = |status: &RaftStatus| status.membership.nodes.contains_key(&node);
    {
        let status = raft.status();
        let status = status.borrow();
        if is_member(&status) {
            return;
        }
        if !status.membership.is_empty() || status.last.index > 0 {
            warn!(
                "--join does nothing: this data folder has been used, and the node is no member of its cluster"
            );
            return;
        }
    }
    let body = ChangeBody { changes: vec![change], unchecked: true };
    let mut told = String::new();
    let mut status = raft.status();
    loop {
        let (agreed, state) = match cluster.change_members(&body).await {
            Ok(_) => (true, "the cluster takes this node in".to_owned()),
            Err(error) => (false, format!("not taken in yet, asking again: {error}")),
        };
        if state != told {
            if agreed {
                info!("{state}")
            } else {
                warn!("{state}")
            }
            told = state;
        }
        let wait = if agreed { ANSWER_WAIT } else { PAUSE };
        match tokio::time::timeout(
            wait,
            status.wait_for(|status| status.fatal.is_some() || is_member(status)),
        )
        .await
        {
            Ok(Ok(status)) if status.fatal.is_none() => break,
            // It has ended.
            Ok(_) => return,
            Err(_) => {}
        }
    }
    info!("this node is a member now");
}
