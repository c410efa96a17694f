//! Keeps wanted peers connected.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{ClientConfig, Connection};
use raft_core::types::NodeId;
use tokio::net::lookup_host;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::fault::Fault;
use crate::hello::Hello;
use crate::link::Link;
use crate::shared::Shared;
use crate::tls::{self, Reason};

/// The first wait between two attempts.
const MIN_BACKOFF: Duration = Duration::from_millis(50);
/// A connection that lived this long was a good one: the next attempt waits no longer than the first.
const GOOD_AGE: Duration = Duration::from_secs(1);
/// Addresses of one name that are tried in one attempt.
const MAX_ADDRESSES: usize = 8;

/// Keeps `peer` connected at the address that is wanted. Ends by being aborted.
pub(crate) async fn keep_connected(shared: Arc<Shared>, peer: NodeId, mut address: watch::Receiver<String>) {
    let mut backoff = Backoff::new(shared.options.max_backoff);
    let mut warned = None;
    loop {
        let wanted = address.borrow_and_update().clone();
        let mut wait = None;
        if let Some(link) = serving(&shared, peer, &wanted) {
            tokio::select! {
                _ = link.connection.closed() => {}
                moved = address.changed() => match moved {
                    Ok(()) => continue,
                    Err(_) => return,
                },
            }
            if link.age() >= GOOD_AGE {
                backoff.reset();
            }
            wait = Some(backoff.next());
            warned = None;
        } else {
            let dialed = tokio::select! {
                dialed = dial(&shared, peer, &wanted) => dialed,
                moved = address.changed() => match moved {
                    Ok(()) => {
                        backoff.reset();
                        continue;
                    }
                    Err(_) => return,
                },
            };
            match dialed {
                Ok(()) => {}
                Err(fault) => {
                    shared.count(&fault);
                    let reason = fault.to_string();
                    if fault == Fault::Superseded || warned.as_ref() == Some(&reason) {
                        tracing::debug!(%peer, address = wanted, reason, "not connected");
                    } else {
                        tracing::warn!(%peer, address = wanted, reason, "not connected; trying again");
                        warned = Some(reason);
                    }
                    wait = Some(backoff.next());
                }
            }
        }
        if let Some(wait) = wait {
            tokio::select! {
                () = sleep(wait) => {}
                moved = address.changed() => match moved {
                    Ok(()) => backoff.reset(),
                    Err(_) => return,
                },
            }
        }
    }
}

/// The link to `peer`, if it makes dialing `wanted` needless: the peer is there, and not at an address that is no longer
/// the wanted one. (Until the new address answers, the old connection is kept.)
fn serving(shared: &Shared, peer: NodeId, wanted: &str) -> Option<Arc<Link>> {
    shared.peers.link(peer).filter(|link| link.dialed.as_deref().is_none_or(|dialed| dialed == wanted))
}

/// Connects to `peer` at `address`, whose name is resolved each time.
async fn dial(shared: &Arc<Shared>, peer: NodeId, address: &str) -> Result<(), Fault> {
    let limit = shared.options.connect_timeout;
    let found = timeout(limit, lookup_host(address))
        .await
        .map_err(|_| Fault::timed_out("answer about the name"))?
        .map_err(|error| Fault::Lost(format!("the address is unknown: {error}")))?;
    let only_v4 = shared.endpoint.local_addr().is_ok_and(|local| local.is_ipv4());
    let mut fault = Fault::Lost("the name has no address that can be reached from ours".to_owned());
    for socket in found.filter(|found| found.is_ipv4() || !only_v4).take(MAX_ADDRESSES) {
        let dialed = timeout(limit, dial_socket(shared, peer, address, socket)).await;
        match dialed.unwrap_or_else(|_| Err(Fault::timed_out("answer"))) {
            Ok(()) => return Ok(()),
            Err(last) => fault = last,
        }
    }
    Err(fault)
}

async fn dial_socket(
    shared: &Arc<Shared>,
    peer: NodeId,
    address: &str,
    socket: SocketAddr,
) -> Result<(), Fault> {
    let reason = Reason::default();
    let tls = tls::client_config(&shared.credentials(), peer, &reason)
        .map_err(|error| Fault::Lost(error.to_string()))?;
    let mut config = ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::clone(shared.paths.to(socket)));
    let connection = shared
        .endpoint
        .connect_with(config, socket, tls::SERVER_NAME)
        .map_err(|error| Fault::Lost(error.to_string()))?
        .await
        .map_err(|error| reason.explain(error))?;
    let introduced = introduce(shared, &connection, peer, address).await;
    introduced.inspect_err(|fault| connection.close(fault.code(), fault.told()))
}

/// Says hello, and hears who answers.
async fn introduce(
    shared: &Arc<Shared>,
    connection: &Connection,
    peer: NodeId,
    address: &str,
) -> Result<(), Fault> {
    let authenticated = shared.authenticated(connection)?;
    // The peer has come to us meanwhile, as one does that was just restarted: what is under way there had better not break.
    if serving(shared, peer, address).is_some() {
        return Err(Fault::Superseded);
    }
    let (mut send, mut receive) = connection.open_bi().await?;
    Hello::offer(shared.local, shared.inbox.lineage(), peer).write(&mut send).await?;
    let answer = Hello::read(&mut receive).await?;
    answer.check_answer()?;
    answer.check_names(authenticated.node, shared.local)?;
    shared.admit(connection, &answer, answer.max_version, Some(address.to_owned()))
}

/// Waits that double, each drawn from its upper half so that nodes that lost each other do not meet in step.
#[derive(Debug)]
struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    fn new(max: Duration) -> Self {
        Self { next: MIN_BACKOFF.min(max), max }
    }

    fn reset(&mut self) {
        *self = Self::new(self.max);
    }

    fn next(&mut self) -> Duration {
        let wait = self.next.mul_f64(0.5 + 0.5 * fastrand::f64());
        self.next = (self.next * 2).min(self.max);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_limit() {
        let mut backoff = Backoff::new(Duration::from_millis(300));
        for expected in [50, 100, 200, 300, 300] {
            let wait = backoff.next();
            let expected = Duration::from_millis(expected);
            assert!((expected / 2..=expected).contains(&wait), "{wait:?} for {expected:?}");
        }
        backoff.reset();
        assert!(backoff.next() <= MIN_BACKOFF);
    }
}
