//! Restoring a machine from a snapshot.

use std::sync::Arc;

use tokio::sync::Mutex;

use super::super::guard::guarded;
use super::file::SnapshotFile;
use crate::session_table::SessionTable;
use crate::state_machine::{Batch, Bookkeeping, StateMachine};

/// A machine that may be lent to a thread where blocking is allowed. Never contended: whoever lends it waits.
pub(crate) type Lent = Arc<Mutex<Box<dyn StateMachine>>>;

/// Replaces the machine's state by the snapshot's, on a thread of its own: it may take minutes. Then gives it the notes of where it
/// ends, and of the sessions, which are returned.
pub(crate) async fn restore(machine: &Lent, mut snapshot: SnapshotFile) -> Result<SessionTable, String> {
    let machine = Arc::clone(machine);
    let runtime = tokio::runtime::Handle::current();
    let work = tokio::task::spawn_blocking(move || {
        let last = snapshot.header().last;
        let sessions = snapshot.sessions().map_err(|error| error.to_string())?;
        let mut source = snapshot.state().map_err(|error| error.to_string())?;
        let noted = sessions.clone();
        let bookkeeping = Bookkeeping::new(move |_| noted.notes(last).collect());
        runtime
            .block_on(guarded(async {
                let mut machine = machine.lock().await;
                machine.restore(&mut source).await?;
                machine.apply(Batch { commands: Vec::new(), bookkeeping }).await
            }))?
            .map(|_none| sessions)
            .map_err(|error| error.to_string())
    });
    work.await.map_err(|error| error.to_string())?
}
