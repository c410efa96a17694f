//! What the replicated store is asked, and what it answers: its commands, queries and their limits.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The longest key in bytes. Keys are UTF-8 and kept in memory on every node.
pub const MAX_KEY_BYTES: usize = 1024;

/// The largest value in bytes. A compare-and-swap holds two of them and must fit into one log entry of 1 MiB.
pub const MAX_VALUE_BYTES: usize = 500 << 10;

/// The most pairs that one scan gives; for more, go on from where it ended.
pub const MAX_SCAN_LIMIT: usize = 10_000;

/// The most bytes of keys and values that one scan gives, unless a single pair is larger.
pub const MAX_SCAN_BYTES: usize = 4 << 20;

/// Counts the changes of the store, from 1; 0 is the empty store before the first.
pub type Revision = u64;

/// A change of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Sets a key.
    Put {
        /// The key.
        key: String,
        /// Its new value.
        value: Bytes,
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: String,
        /// Only if this holds.
        expected: Option<Expected>,
    },
    /// Sets a key, if it is now as expected.
    CompareAndSwap {
        /// The key.
        key: String,
        /// What must hold.
        expected: Expected,
        /// Its new value.
        value: Bytes,
    },
}

/// What a key must be for a conditional change to happen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expected {
    /// Last changed at this revision; 0: the key is absent.
    Revision(Revision),
    /// Holding this value.
    Value(Bytes),
}

/// What became of a [`Command`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The key holds the new value, and these are its revisions.
    Written(Revisions),
    /// The key is gone, by the change with this number.
    Deleted {
        /// The store's revision after the change.
        revision: Revision,
    },
    /// There was no such key to delete; nothing changed.
    Absent,
    /// The key was not as expected; nothing changed.
    Mismatch {
        /// What the key is instead; `None`: it is absent.
        current: Option<Revisions>,
    },
}

/// A question to the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// One key.
    Get {
        /// The key.
        key: String,
    },
    /// Keys in order.
    Scan(Range),
    /// What the state is as a whole.
    Summary,
}

/// Which keys a scan gives, in the order of their bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// From this key on, itself included.
    pub from: String,
    /// Up to this key, itself not included; `None`: to the end.
    pub to: Option<String>,
    /// Only keys that begin so.
    pub prefix: String,
    /// At most so many; at most [`MAX_SCAN_LIMIT`].
    pub limit: usize,
}

/// The answer to a [`Query`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To [`Query::Get`].
    Got(Option<Pair>),
    /// To [`Query::Scan`].
    Scanned(Page),
    /// To [`Query::Summary`].
    Summary(Summary),
}

/// A key's place in the history of the store, with etcd's meanings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revisions {
    /// The store's revision when the key came into being, after it was last absent.
    pub create_revision: Revision,
    /// The store's revision when the key was last set.
    pub modify_revision: Revision,
    /// How often the key was set since it came into being, that time included.
    pub version: u64,
}

/// A key with all that is kept of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: Bytes,
    /// Its revisions.
    pub revisions: Revisions,
}

/// A part of what was scanned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// The pairs in order.
    pub pairs: Vec<Pair>,
    /// Where to go on, if a limit ended the page.
    pub next: Option<String>,
    /// The store's revision at which this was so.
    pub revision: Revision,
}

/// The state as a whole. Nodes with the same state have the same summary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// How many keys there are.
    pub keys: u64,
    /// The store's revision.
    pub revision: Revision,
    /// Hash of everything: see [`Store::hash`](crate::store::Store::hash).
    pub hash: u128,
}

/// A key or value that the store does not take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LimitError {
    /// The empty key.
    #[error("a key must not be empty")]
    EmptyKey,
    /// `.` and `..` have a meaning of their own in a path: no HTTP client could ask for them.
    #[error("the keys `.` and `..` cannot be used")]
    DotKey,
    /// Longer than [`MAX_KEY_BYTES`].
    #[error("the key has {bytes} bytes: at most {MAX_KEY_BYTES}")]
    KeyTooLong {
        /// Its length.
        bytes: usize,
    },
    /// Larger than [`MAX_VALUE_BYTES`].
    #[error("the value has {bytes} bytes: at most {MAX_VALUE_BYTES}")]
    ValueTooLarge {
        /// Its length.
        bytes: usize,
    },
}

/// Checks a key.
///
/// # Errors
/// Says which limit it breaks.
pub fn check_key(key: &str) -> Result<(), LimitError> {
    match key {
        "" => Err(LimitError::EmptyKey),
        "." | ".." => Err(LimitError::DotKey),
        _ if key.len() > MAX_KEY_BYTES => Err(LimitError::KeyTooLong { bytes: key.len() }),
        _ => Ok(()),
    }
}

/// Checks a value.
///
/// # Errors
/// Says which limit it breaks.
pub fn check_value(value: &[u8]) -> Result<(), LimitError> {
    if value.len() > MAX_VALUE_BYTES {
        return Err(LimitError::ValueTooLarge { bytes: value.len() });
    }
    Ok(())
}
