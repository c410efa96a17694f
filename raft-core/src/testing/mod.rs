//! The test bench: what drives engines without a clock, a thread or a runtime.
//!
//! * [`script`]: text files that drive named nodes step by step and hold the expected output.
//! * [`sim`]: a simulator in which one seed decides everything: network, disks, clocks, clients and faults.
//! * [`invariants`]: what must hold after every event; scripts and simulator check the same.
//! * [`linearizable`]: decides whether a history of a key-value store could have come from a single copy.
//! * [`cluster`], [`node`], [`disk`]: the fixture below them all.
//!
//! `docs/testing.md` in the repository tells how to replay a seed, read a trace and add a script or an invariant.

pub mod cluster;
pub mod disk;
pub mod display;
pub mod invariants;
pub mod linearizable;
pub mod node;
pub mod random;
pub mod script;
pub mod sim;

pub use cluster::Cluster;
pub use invariants::Broken;
pub use random::Random;
