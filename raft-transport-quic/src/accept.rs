//! Takes connections in: the door.

use std::sync::Arc;

use quinn::{Connection, Incoming};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::fault::Fault;
use crate::hello::Hello;
use crate::shared::Shared;
use crate::tls::Reason;

/// Takes connections in until the transport stops.
pub(crate) async fn accept_all(shared: Arc<Shared>) {
    let max = shared.options.max_handshakes;
    let handshakes = Arc::new(Semaphore::new(max));
    loop {
        let incoming = tokio::select! {
            incoming = shared.endpoint.accept() => incoming,
            () = shared.stopping() => return,
        };
        let Some(incoming) = incoming else { return };
        // Under load a stranger first proves that it can be reached at its address: that costs us no handshake.
        if handshakes.available_permits() * 2 <= max && incoming.may_retry() {
            // Fails only where the address is proved already.
            let _ = incoming.retry();
            continue;
        }
        let Ok(permit) = Arc::clone(&handshakes).try_acquire_owned() else {
            shared.counters.refused.add(1);
            if shared.may_warn() {
                tracing::warn!(from = %incoming.remote_address(), max, "too many handshakes at once: refused");
            }
            incoming.refuse();
            continue;
        };
        shared.spawn({
            let shared = Arc::clone(&shared);
            async move {
                tokio::select! {
                    () = receive(&shared, incoming) => {}
                    () = shared.stopping() => {}
                }
                drop(permit);
            }
        });
    }
}

async fn receive(shared: &Arc<Shared>, incoming: Incoming) {
    let from = incoming.remote_address();
    let received = timeout(shared.options.connect_timeout, welcome(shared, incoming)).await;
    match received.unwrap_or_else(|_| Err(Fault::timed_out("hello"))) {
        Ok(()) => {}
        Err(fault) => {
            shared.count(&fault);
            if fault != Fault::Superseded && shared.may_warn() {
                tracing::warn!(%from, reason = %fault, "connection not taken");
            } else {
                tracing::debug!(%from, reason = %fault, "connection not taken");
            }
        }
    }
}

async fn welcome(shared: &Arc<Shared>, incoming: Incoming) -> Result<(), Fault> {
    let reason = Reason::default();
    let config = shared
        .server_config(incoming.remote_address(), &reason)
        .map_err(|error| Fault::Lost(error.to_string()))?;
    let accepted = incoming.accept_with(Arc::new(config));
    let connection = match accepted {
        Ok(connecting) => connecting.await,
        Err(error) => Err(error),
    };
    let connection = connection.map_err(|error| reason.explain(error))?;
    introduce(shared, &connection).await.inspect_err(|fault| connection.close(fault.code(), fault.told()))
}

/// Hears who speaks, and answers.
async fn introduce(shared: &Arc<Shared>, connection: &Connection) -> Result<(), Fault> {
    let authenticated = shared.authenticated(connection)?;
    let (mut send, mut receive) = connection.accept_bi().await?;
    let hello = Hello::read(&mut receive).await?;
    hello.check_names(authenticated.node, shared.local)?;
    let answer = hello.answer(shared.local, shared.inbox.lineage())?;
    shared.admit(connection, &hello, answer.max_version, None)?;
    answer.write(&mut send).await
}
