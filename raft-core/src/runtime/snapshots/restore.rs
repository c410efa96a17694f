//! Restoring a machine from a snapshot.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Mutex;

use super::super::guard::guarded;
use super::file::SnapshotFile;
use crate::state_machine::{Batch, StateMachine};

/// A machine that may be lent to a thread where blocking is allowed. Never contended: whoever lends it waits.
pub(crate) type Lent = Arc<Mutex<Box<dyn StateMachine>>>;

/// Replaces the machine's state by the snapshot's, on a thread of its own: it may take minutes. Then notes where it ends.
pub(crate) async fn restore(
    machine: &Lent,
    snapshot: SnapshotFile,
    bookkeeping: Bytes,
) -> Result<(), String> {
    let machine = Arc::clone(machine);
    let runtime = tokio::runtime::Handle::current();
    let work = tokio::task::spawn_blocking(move || {
        let mut source = snapshot.state().map_err(|error| error.to_string())?;
        runtime
            .block_on(guarded(async {
                let mut machine = machine.lock().await;
                machine.restore(&mut source).await?;
                machine.apply(Batch { commands: Vec::new(), bookkeeping }).await
            }))?
            .map(|_none| ())
            .map_err(|error| error.to_string())
    });
    work.await.map_err(|error| error.to_string())?
}
