//! A disk in memory that loses its power.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fastrand::Rng;
use redb::StorageBackend;

/// What is never torn: a disk writes a sector whole or not at all.
const SECTOR_BYTES: usize = 512;

/// What a crash leaves of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Keep {
    /// Nothing.
    Synced,
    /// All of it: the process died, the system lived on.
    All,
    /// What was written first, the last write of it cut at any byte.
    Prefix,
    /// Any of the writes, in any order among them.
    Subset,
    /// Any of the sectors of any of the writes.
    Sectors,
}

impl Keep {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Synced, Self::All, Self::Prefix, Self::Subset, Self::Sectors];
}

#[derive(Clone, Debug)]
enum Operation {
    Write { at: usize, data: Vec<u8> },
    Resize(usize),
    Sync,
}

impl Operation {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write { at, data } => write_at(bytes, *at, data),
            Self::Resize(length) => bytes.resize(*length, 0),
            Self::Sync => {}
        }
    }
}

fn write_at(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    let end = at + data.len();
    bytes.resize(bytes.len().max(end), 0);
    bytes[at..end].copy_from_slice(data);
}

#[derive(Debug, Default)]
struct State {
    first: Vec<u8>,
    bytes: Vec<u8>,
    history: Vec<Operation>,
    stops_at: Option<usize>,
}

/// A disk in memory that remembers every write, resize and sync, so that it can say what a crash at any of them leaves. Its
/// clones are the same disk.
///
/// ```
/// use raft_core::LogStore;
/// use raft_core::log_store::Write;
/// use raft_core::types::{Entry, EntryId, Payload};
/// use raft_storage_redb::testing::{CrashDisk, Keep};
/// use raft_storage_redb::{Options, RedbLogStore};
///
/// let disk = CrashDisk::new();
/// let store = RedbLogStore::with_backend(disk.clone(), &Options::default())?;
/// let entry = Entry { id: EntryId::new(1, 1), payload: Payload::Noop };
/// let write = Write { entries: vec![entry], ..Write::default() };
/// let runtime = tokio::runtime::Builder::new_current_thread().build()?;
/// runtime.block_on(store.write(&[write]))?;
///
/// // The power goes: whatever else is lost, what was acknowledged is there.
/// for keep in Keep::ALL {
///     let left = disk.left_at(disk.operations(), keep, 7);
///     let store = RedbLogStore::with_backend(CrashDisk::holding(left), &Options::default())?;
///     assert_eq!(runtime.block_on(store.load(Default::default()))?.last, 1);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct CrashDisk(Arc<Mutex<State>>);

impl CrashDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// A disk that holds `bytes`, synced.
    pub fn holding(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(State { first: bytes.clone(), bytes, ..State::default() })))
    }

    /// How many writes, resizes and syncs there were.
    pub fn operations(&self) -> usize {
        self.state().history.len()
    }

    /// The operation of this number, counted from 0, and all after it fail, reads among them.
    pub fn stop_at(&self, operation: usize) {
        self.state().stops_at = Some(operation);
    }

    /// What the disk holds after a crash right before the operation of this number, counted from 0. `seed` draws what is
    /// kept, where there is a choice.
    pub fn left_at(&self, operation: usize, keep: Keep, seed: u64) -> Vec<u8> {
        let state = self.state();
        let history = &state.history[..operation.min(state.history.len())];
        let synced = history.iter().rposition(|op| matches!(op, Operation::Sync)).map_or(0, |at| at + 1);
        let mut left = state.first.clone();
        history[..synced].iter().for_each(|op| op.apply(&mut left));
        keep.apply(&history[synced..], &mut left, &mut Rng::with_seed(seed));
        left
    }

    /// The disk after its user was killed right before the operation of this number, counted from 0: it holds all that was
    /// written, and of that a crash still takes what was not synced. Its operations go on from that number.
    #[must_use]
    pub fn killed_at(&self, operation: usize) -> Self {
        let state = self.state();
        let history = state.history[..operation.min(state.history.len())].to_vec();
        let mut bytes = state.first.clone();
        history.iter().for_each(|op| op.apply(&mut bytes));
        Self(Arc::new(Mutex::new(State { first: state.first.clone(), bytes, history, stops_at: None })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn operate(&self, operation: Operation) -> io::Result<()> {
        let mut state = self.state();
        state.check()?;
        operation.apply(&mut state.bytes);
        state.history.push(operation);
        Ok(())
    }
}

impl Keep {
    fn apply(self, unsynced: &[Operation], left: &mut Vec<u8>, rng: &mut Rng) {
        let count = match self {
            Self::Synced => 0,
            Self::Prefix => rng.usize(..=unsynced.len()),
            Self::All | Self::Subset | Self::Sectors => unsynced.len(),
        };
        for operation in &unsynced[..count] {
            match operation {
                Operation::Write { at, data } if self == Self::Sectors => {
                    for (number, sector) in data.chunks(SECTOR_BYTES).enumerate() {
                        if rng.bool() {
                            write_at(left, at + number * SECTOR_BYTES, sector);
                        }
                    }
                }
                Operation::Write { .. } if self == Self::Subset && rng.bool() => {}
                operation => operation.apply(left),
            }
        }
        if let (Self::Prefix, Some(Operation::Write { at, data })) = (self, unsynced.get(count)) {
            write_at(left, *at, &data[..rng.usize(..=data.len())]);
        }
    }
}

impl State {
    fn check(&self) -> io::Result<()> {
        match self.stops_at {
            Some(stop) if self.history.len() >= stop => Err(io::Error::other("the disk has stopped")),
            _ => Ok(()),
        }
    }
}

fn position(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

impl StorageBackend for CrashDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state();
        state.check()?;
        let bytes = state.bytes.get(position(offset)?..).and_then(|bytes| bytes.get(..out.len()));
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.operate(Operation::Resize(position(len)?))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.operate(Operation::Sync)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.operate(Operation::Write { at: position(offset)?, data: data.to_vec() })
    }
}
