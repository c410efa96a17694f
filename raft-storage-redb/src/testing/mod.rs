//! Disks to test with (feature `testing`): one that gets into trouble when it is told to, for a store, a node or a process
//! that should survive it; one that loses its power; and one that counts.

mod count;
mod crash;
mod fault;

use std::path::Path;

use raft_core::log_store::StorageError;
use redb::StorageBackend;
use redb::backends::FileBackend;

pub use count::{CountingBackend, Counts, Tally};
pub use crash::{CrashDisk, Keep};
pub use fault::{Fault, FaultBackend, Faults, open_with_faults};

use crate::{Options, RedbLogStore};

/// As [`RedbLogStore::open_with`], with the file behind a backend of one's own. A new file is created without it.
///
/// # Errors
/// As [`RedbLogStore::open_with`].
pub fn open_wrapped<B: StorageBackend>(
    path: impl AsRef<Path>,
    options: &Options,
    wrap: impl FnOnce(FileBackend) -> B,
) -> Result<RedbLogStore, StorageError> {
    RedbLogStore::open_wrapped(path.as_ref(), options, wrap)
}
