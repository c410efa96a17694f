//! The test bench: what drives engines without a clock, a thread or a runtime, and suites for the parts around them.
//!
//! * [`script`]: text files that drive named nodes step by step and hold the expected output.
//! * [`sim`]: a simulator in which one seed decides everything: network, disks, clocks, clients and faults.
//! * [`invariants`]: what must hold after every event; scripts and simulator check the same.
//! * [`linearizable`]: decides whether a history of a key-value store could have come from a single copy.
//! * [`suite`]: the contracts of the traits as cases that any implementation can be put through.
//! * [`cluster`], [`node`], [`disk`]: the fixture below them all.
//! * [`suite`]: what a log store must pass, case by case; it uses threads and a clock, and needs no runtime either.
//!
//! # A state machine of one's own
//!
//! ```
//! use raft_core::Machine;
//! use raft_core::testing::sim::{Options, Subject};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Default, Serialize, Deserialize)]
//! struct Counter(u64);
//!
//! impl Machine for Counter {
//!     type Command = u64;
//!     type Reply = u64;
//!     type Query = ();
//!     type Answer = u64;
//!
//!     fn apply(&mut self, add: u64) -> u64 {
//!         self.0 += add;
//!         self.0
//!     }
//!
//!     fn query(&self, _: ()) -> u64 {
//!         self.0
//!     }
//! }
//!
//! let subject = Subject::new().machine(Counter::default, |random| random.below(10));
//! for seed in 0..5 {
//!     subject.run(&Options::new(seed).events(1_000)).expect("the counters stay equal");
//! }
//! ```
//!
//! # A log store of one's own
//!
//! First the contract, case by case:
//!
//! ```
//! use raft_core::mem::MemLogStore;
//! use raft_core::testing::suite::log_store::Suite;
//!
//! let suite = Suite::new(|| {
//!     let disk = MemLogStore::new(); // a new and empty place
//!     move || disk.clone() // opens the store that is there
//! });
//! suite.run().assert_passed();
//! ```
//!
//! Then below a simulated cluster:
//!
//! ```
//! use raft_core::mem::MemLogStore;
//! use raft_core::testing::sim::{Options, Subject};
//!
//! let subject = Subject::new().store(|_node| MemLogStore::new());
//! for seed in 0..5 {
//!     subject.run(&Options::new(seed).events(1_000)).expect("the store keeps its contract");
//! }
//! ```
//!
//! `docs/testing.md` in the repository tells how to replay a seed, read a trace and add a script or an invariant.

pub mod cluster;
pub mod disk;
pub mod display;
mod faults;
pub mod invariants;
pub mod linearizable;
pub mod node;
mod polled;
pub mod random;
pub mod script;
pub mod shelf;
pub mod sim;
mod stored;
pub mod suite;

pub use cluster::Cluster;
pub use faults::{FaultStore, StoreFaults};
pub use invariants::Broken;
pub use random::Random;
