//! What the tests share. No async runtime: the store's futures run under any executor, so under this one.

#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod model;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use bytes::Bytes;
use raft_core::LogStore;
use raft_core::log_store::{StorageError, StorageErrorKind, Write};
use raft_core::types::{Entry, EntryId, GroupId, HardState, Index, NodeId, Payload, Term};
use raft_storage_redb::RedbLogStore;

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

pub(crate) const GROUP: GroupId = GroupId(1);

pub(crate) fn entry(term: Term, index: Index, command: impl Into<Vec<u8>>) -> Entry {
    Entry { id: EntryId::new(term, index), payload: Payload::Command(Bytes::from(command.into())) }
}

/// Entries `first..=last` of `term`, each with a command that names it.
pub(crate) fn entries(term: Term, first: Index, last: Index) -> Vec<Entry> {
    (first..=last).map(|index| entry(term, index, format!("command {term}.{index}"))).collect()
}

pub(crate) fn append(entries: Vec<Entry>) -> Write {
    Write { group: GROUP, entries, ..Write::default() }
}

pub(crate) fn hard_state(term: Term, vote: u64, commit: Index) -> HardState {
    HardState { term, vote: Some(NodeId(vote)), commit }
}

pub(crate) fn write(store: &RedbLogStore, write: Write) -> Result<(), StorageError> {
    block_on(store.write(&[write]))
}

pub(crate) fn last(store: &RedbLogStore) -> Index {
    block_on(store.load(GROUP)).unwrap().last
}

/// All entries from `first` on.
pub(crate) fn read_from(store: &RedbLogStore, first: Index) -> Vec<Entry> {
    let last = last(store);
    if first > last {
        return Vec::new();
    }
    block_on(store.read(GROUP, first..=last, usize::MAX)).unwrap()
}

#[track_caller]
pub(crate) fn assert_kind<T: std::fmt::Debug>(
    result: Result<T, StorageError>,
    kind: StorageErrorKind,
) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    let message = error.to_string();
    assert!(!message.contains('\n'), "more than one line: {message}");
    message
}

/// How much of something to do: the variable's value, or a small number for every day.
pub(crate) fn size(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(value) => value.parse().unwrap_or_else(|_| panic!("{variable}={value} is no number")),
        Err(_) => default,
    }
}
