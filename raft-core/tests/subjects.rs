//! Parts of one's own in the simulator: good ones pass, bad ones are found.

#![cfg(feature = "testing")]

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use raft_core::log_store::{Claim, LogState, StorageError, Write};
use raft_core::machine::Typed;
use raft_core::mem::MemLogStore;
use raft_core::testing::sim::{Options, Subject};
use raft_core::types::{ClusterId, Entry, GroupId, Incarnation, Index, NodeId};
use raft_core::{LogStore, Machine};
use serde::{Deserialize, Serialize};

const EVENTS: u64 = 3_000;

#[derive(Default, Serialize, Deserialize)]
struct Accounts(BTreeMap<u8, i64>);

impl Machine for Accounts {
    type Command = (u8, u8, i64);
    type Reply = i64;
    type Query = u8;
    type Answer = i64;

    fn apply(&mut self, (from, to, amount): Self::Command) -> i64 {
        *self.0.entry(from).or_default() -= amount;
        let balance = self.0.entry(to).or_default();
        *balance += amount;
        *balance
    }

    fn query(&self, account: u8) -> i64 {
        self.0.get(&account).copied().unwrap_or_default()
    }
}

#[test]
fn a_machine_and_a_store_of_ones_own_pass() {
    let subject = Subject::new()
        .machine(Accounts::default, |random| {
            (random.below(9) as u8, random.below(9) as u8, random.below(100) as i64)
        })
        .store(|_| MemLogStore::new());
    let mut applied = 0;
    for seed in 0..40 {
        match subject.run(&Options::new(seed).events(EVENTS)) {
            Ok(report) => applied += report.counters.get("proposals acknowledged").copied().unwrap_or(0),
            Err(failure) => panic!("\n{failure}"),
        }
    }
    assert!(applied > 1_000, "{applied} commands");
}

/// Counts in a static what it should count in itself: its replies differ from node to node.
#[derive(Default, Serialize, Deserialize)]
struct Impure(u64);

static CALLS: AtomicU64 = AtomicU64::new(0);

impl Machine for Impure {
    type Command = ();
    type Reply = u64;
    type Query = ();
    type Answer = ();

    fn apply(&mut self, (): ()) -> u64 {
        CALLS.fetch_add(1, Ordering::Relaxed)
    }

    fn query(&self, (): ()) {}
}

#[test]
fn a_machine_that_is_not_deterministic_is_found() {
    let subject = Subject::new().machine(Impure::default, |_| ());
    let failure = (0..20).find_map(|seed| subject.run(&Options::new(seed).events(EVENTS)).err());
    let failure = failure.expect("one of 20 seeds finds it");
    assert_eq!(failure.broken.property, "a command's reply is the same on each node and in each run");
}

#[test]
fn a_command_that_is_too_large_is_told() {
    let subject = Subject::new().state_machine(|| Typed(Accounts::default()), |_| vec![0; 70_000].into());
    let failure = (0..5).find_map(|seed| subject.run(&Options::new(seed).events(EVENTS)).err());
    assert_eq!(failure.expect("the first command").broken.property, "a command fits into an entry");
}

/// Writes to its snapshot what it does not read back.
#[derive(Default, Serialize, Deserialize)]
struct OneWay {
    #[serde(skip_deserializing)]
    total: u64,
}

impl Machine for OneWay {
    type Command = u64;
    type Reply = u64;
    type Query = ();
    type Answer = ();

    fn apply(&mut self, add: u64) -> u64 {
        self.total += add;
        self.total
    }

    fn query(&self, (): ()) {}
}

#[test]
fn a_machine_whose_snapshot_is_not_its_state_is_found() {
    let subject = Subject::new().machine(OneWay::default, |random| random.below(9));
    let failure = subject.run(&Options::new(1).events(EVENTS)).expect_err("at the end of any run");
    assert_eq!(failure.broken.property, "a state machine does not fail");
}

/// A store over a map that forgets to drop what a truncation drops: overwritten entries are right, what lies behind
/// them stays.
#[derive(Default)]
struct KeepsTail {
    inner: MemLogStore,
    entries: Mutex<BTreeMap<Index, Entry>>,
}

#[async_trait]
impl LogStore for KeepsTail {
    async fn claim(&self, c: ClusterId, n: NodeId, fresh: Incarnation) -> Result<Claim, StorageError> {
        self.inner.claim(c, n, fresh).await
    }

    async fn load(&self, group: GroupId) -> Result<LogState, StorageError> {
        let mut state = self.inner.load(group).await?;
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        state.last = entries.last_key_value().map_or(0, |(&index, _)| index);
        Ok(state)
    }

    async fn write(&self, writes: &[Write]) -> Result<(), StorageError> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for entry in writes.iter().flat_map(|write| &write.entries) {
            entries.insert(entry.index(), entry.clone());
        }
        *self.entries.lock().unwrap_or_else(PoisonError::into_inner) = entries;
        self.inner.write(writes).await
    }

    async fn read(
        &self,
        group: GroupId,
        range: RangeInclusive<Index>,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        self.inner.read(group, range, max_bytes).await
    }
}

#[test]
fn a_store_that_forgets_a_truncation_is_found() {
    let subject = Subject::new().store(|_| KeepsTail::default());
    let failure = (0..100).find_map(|seed| subject.run(&Options::new(seed).events(EVENTS)).err());
    let failure = failure.expect("one of 100 seeds truncates");
    assert_eq!(failure.broken.property, "writes keep the contract of the log store");
    assert!(failure.broken.detail.contains("the store holds"), "{}", failure.broken.detail);
}

/// Waits for a runtime that is not there.
struct Waits(Arc<MemLogStore>);

#[async_trait]
impl LogStore for Waits {
    async fn claim(&self, c: ClusterId, n: NodeId, fresh: Incarnation) -> Result<Claim, StorageError> {
        std::future::pending::<()>().await;
        self.0.claim(c, n, fresh).await
    }

    async fn load(&self, group: GroupId) -> Result<LogState, StorageError> {
        self.0.load(group).await
    }

    async fn write(&self, writes: &[Write]) -> Result<(), StorageError> {
        self.0.write(writes).await
    }

    async fn read(
        &self,
        group: GroupId,
        range: RangeInclusive<Index>,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        self.0.read(group, range, max_bytes).await
    }
}

#[test]
fn a_store_that_waits_for_a_runtime_is_told_so() {
    let subject = Subject::new().store(|_| Waits(Arc::default()));
    let failure = subject.run(&Options::new(0).events(EVENTS)).expect_err("it never starts");
    assert!(failure.broken.detail.contains("waits for a runtime"), "{}", failure.broken.detail);
}
