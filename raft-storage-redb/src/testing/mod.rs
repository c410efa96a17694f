//! Disks to test with (feature `testing`): one that gets into trouble when it is told to, for a store, a node or a process
//! that should survive it.

mod fault;

pub use fault::{Fault, FaultBackend, Faults, open_with_faults};
