//! A log store of one's own below a simulated disk: it is given each write at the moment that it becomes durable, and must
//! hold what the disk's model holds.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::disk::Image;
use super::polled::poll;
use crate::log_store::{LogState, LogStore, StorageError, Write};
use crate::types::{ClusterId, Entry, GroupId, Index, Peer};

const CLUSTER: ClusterId = ClusterId(1);
const GROUP: GroupId = GroupId(0);

/// A node's own store.
#[derive(Clone)]
pub(crate) struct Stored {
    store: Arc<dyn LogStore>,
    boot: u64,
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a store in its boot {}", self.boot)
    }
}

impl Stored {
    /// An empty store, given what `image` holds.
    ///
    /// # Errors
    /// Where it breaks the contract of `LogStore`.
    pub(crate) fn new(store: Arc<dyn LogStore>, image: &Image) -> Result<Self, String> {
        let stored = Self { store, boot: 0 };
        let state = image.state();
        if state != LogState::default() {
            let first = Write {
                group: GROUP,
                entries: image.entries().to_vec(),
                hard_state: Some(state.hard_state),
                outline: Some(state.outline),
                ..Write::default()
            };
            stored.write(&[first], image)?;
        }
        Ok(stored)
    }

    /// The node starts: the store is claimed and gives back what was written, entry by entry.
    pub(crate) fn open(&mut self, local: Peer, image: &Image) -> Result<(), String> {
        let claim = done("claim", self.store.claim(CLUSTER, local.node, local.incarnation))?;
        if claim.incarnation != local.incarnation || claim.boot <= self.boot {
            return Err(format!(
                "the claim gives {claim:?}; was {} in boot {}",
                local.incarnation, self.boot
            ));
        }
        self.boot = claim.boot;
        self.check(image, "at the start")?;
        let (first, last) = (image.entries().first().map_or(1, Entry::index), image.last_index());
        if first <= last {
            self.read(&(first..=last), usize::MAX, image)?;
        }
        Ok(())
    }

    /// The writes that the disk's model has just taken.
    pub(crate) fn write(&self, writes: &[Write], image: &Image) -> Result<(), String> {
        done("write", self.store.write(writes))?;
        let number = writes.last().map_or(0, |write| write.number);
        self.check(image, &format!("after write {number}"))
    }

    /// Entries read back.
    pub(crate) fn read(
        &self,
        range: &RangeInclusive<Index>,
        max_bytes: usize,
        image: &Image,
    ) -> Result<Vec<Entry>, String> {
        let expected = image.read(range, max_bytes);
        if *range.end() > image.last_index() || *range.start() <= image.base().index {
            // A truncation or a compaction overtook the question: the store may refuse it.
            return Ok(expected);
        }
        let read = done("read", self.store.read(GROUP, range.clone(), max_bytes))?;
        if read == expected {
            return Ok(read);
        }
        let ids = |entries: &[Entry]| entries.iter().map(|e| e.id.to_string()).collect::<Vec<_>>().join(" ");
        Err(format!(
            "the store reads {range:?} as [{}]; what was written is [{}]",
            ids(&read),
            ids(&expected)
        ))
    }

    fn check(&self, image: &Image, when: &str) -> Result<(), String> {
        let (held, expected) = (done("load", self.store.load(GROUP))?, image.state());
        if held == expected {
            return Ok(());
        }
        Err(format!("{when} the store holds {held:?}; what was written is {expected:?}"))
    }
}

fn done<T>(call: &str, future: impl Future<Output = Result<T, StorageError>>) -> Result<T, String> {
    match poll(future) {
        Some(Ok(value)) => Ok(value),
        Some(Err(error)) => Err(format!("the store's {call} fails: {error}")),
        None => Err(format!(
            "the store's {call} waits for a runtime: only futures that need none can be simulated"
        )),
    }
}
