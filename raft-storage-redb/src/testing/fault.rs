//! A disk that stalls, fails or fills up when it is told to.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use raft_core::log_store::StorageError;
use redb::StorageBackend;
use redb::backends::FileBackend;

use super::open_wrapped;
use crate::delegate::delegate_locks;
use crate::{Options, RedbLogStore};

/// How often a stalled operation looks whether it may go on.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// What is wrong with a disk. In a [control file](Faults::control_file) it is the word in quotes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Nothing; an empty or missing control file.
    #[default]
    None,
    /// `"stall"`: writes and syncs wait until the fault changes. Reads are answered.
    Stall,
    /// `"fail"`: writes and syncs fail as on a broken device.
    Fail,
    /// `"fail-sync"`: only syncs fail.
    FailSync,
    /// `"fail-read"`: only reads fail.
    FailRead,
    /// `"full"`: no room is left for any write. Syncs of what was written before succeed.
    Full,
    /// `"full N"`: there is room for this many bytes more, counted from when the fault was set; the write that does not fit
    /// is cut short.
    FullAfter(u64),
}

impl Fault {
    fn parse(text: &str) -> io::Result<Self> {
        let mut words = text.split_whitespace();
        let fault = match (words.next(), words.next(), words.next()) {
            (None, ..) => Self::None,
            (Some("stall"), None, _) => Self::Stall,
            (Some("fail"), None, _) => Self::Fail,
            (Some("fail-sync"), None, _) => Self::FailSync,
            (Some("fail-read"), None, _) => Self::FailRead,
            (Some("full"), None, _) => Self::Full,
            (Some("full"), Some(bytes), None) => match bytes.parse() {
                Ok(bytes) => Self::FullAfter(bytes),
                Err(_) => return Err(unknown(text)),
            },
            _ => return Err(unknown(text)),
        };
        Ok(fault)
    }
}

fn unknown(text: &str) -> io::Error {
    let what = format!(
        "the control file says {:?}; it may say stall, fail, fail-sync, fail-read, full, full BYTES, or nothing",
        text.trim()
    );
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

#[derive(Debug, Default)]
struct State {
    told: Fault,
    /// The fault in effect, and how much was written since it is.
    current: Fault,
    written: u64,
    stalled: usize,
}

#[derive(Debug, Default)]
struct Shared {
    control: Option<PathBuf>,
    state: Mutex<State>,
    changed: Condvar,
}

/// The handle by which a [`FaultBackend`] is put into trouble, and out of it. Its clones are the same handle.
///
/// ```
/// use raft_storage_redb::Options;
/// use raft_storage_redb::testing::{Fault, Faults, open_with_faults};
///
/// let folder = tempfile::tempdir()?;
/// let faults = Faults::new();
/// let store = open_with_faults(folder.path().join("log.redb"), &Options::default(), &faults)?;
/// faults.set(Fault::Full); // from now on, every write fails for want of room
/// # faults.set(Fault::None);
/// # drop(store);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Shared>);

impl Faults {
    /// A sound disk, until [`set`](Self::set) is called.
    pub fn new() -> Self {
        Self::default()
    }

    /// As [`new`](Self::new), and the file at `path` is read before every operation, and again and again while one is
    /// stalled: so another process can cause trouble. What it says goes before what [`set`](Self::set) says, unless it is
    /// empty or not there. The words are those at [`Fault`]; others fail every operation with a message that lists them.
    pub fn control_file(path: impl Into<PathBuf>) -> Self {
        Self(Arc::new(Shared { control: Some(path.into()), ..Shared::default() }))
    }

    /// From now on the disk has this fault, and no other; what is stalled looks at it anew.
    pub fn set(&self, fault: Fault) {
        let mut state = self.lock();
        state.told = fault;
        state.current = fault;
        state.written = 0;
        self.0.changed.notify_all();
    }

    /// How many operations are stalled at this moment.
    pub fn stalled(&self) -> usize {
        self.lock().stalled
    }

    /// Waits until an operation is stalled; `false` if none was within `timeout`.
    pub fn wait_stalled(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut state = self.lock();
        while state.stalled == 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.0.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fault in effect now.
    fn update(&self, state: &mut State) -> io::Result<Fault> {
        let asked = match &self.0.control {
            None => Fault::None,
            Some(path) => match fs::read_to_string(path) {
                Ok(text) => Fault::parse(&text)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => Fault::None,
                Err(error) => return Err(error),
            },
        };
        let now = if asked == Fault::None { state.told } else { asked };
        if now != state.current {
            state.current = now;
            state.written = 0;
        }
        Ok(now)
    }

    /// Waits while the disk is stalled; the fault in effect then.
    fn pass(&self) -> io::Result<(MutexGuard<'_, State>, Fault)> {
        let mut state = self.lock();
        let mut fault = self.update(&mut state)?;
        if fault == Fault::Stall {
            state.stalled += 1;
            self.0.changed.notify_all();
            while fault == Fault::Stall {
                let waited = self.0.changed.wait_timeout(state, POLL_INTERVAL);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
                match self.update(&mut state) {
                    Ok(now) => fault = now,
                    Err(error) => {
                        state.stalled -= 1;
                        return Err(error);
                    }
                }
            }
            state.stalled -= 1;
        }
        Ok((state, fault))
    }

    /// How many of `bytes` may be written, and what is to be reported then.
    fn admit(&self, bytes: u64) -> io::Result<(u64, Option<io::Error>)> {
        let (mut state, fault) = self.pass()?;
        match fault {
            Fault::Fail => return Err(broken("write")),
            Fault::Full => return Ok((0, Some(full()))),
            Fault::FullAfter(room) => {
                let fits = bytes.min(room.saturating_sub(state.written));
                state.written += fits;
                return Ok((fits, (fits < bytes).then(full)));
            }
            Fault::None | Fault::Stall | Fault::FailSync | Fault::FailRead => {}
        }
        Ok((bytes, None))
    }
}

fn broken(doing: &str) -> io::Error {
    io::Error::other(format!("injected fault: {doing} failed"))
}

fn full() -> io::Error {
    io::Error::new(io::ErrorKind::StorageFull, "injected fault: no space left on device")
}

/// A storage backend of redb's that does what another one does, until its [`Faults`] say otherwise.
///
/// A store on a stalled disk cannot be dropped before the stall is over: it waits for what was handed to it.
#[derive(Debug)]
pub struct FaultBackend<B = FileBackend> {
    inner: B,
    faults: Faults,
}

impl FaultBackend {
    /// The file at `path`, made if it is not there. [`open_with_faults`] is this with a log around it.
    ///
    /// # Errors
    /// Where the file cannot be opened.
    pub fn open(path: impl AsRef<Path>, faults: &Faults) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        Ok(Self::new(FileBackend::new(file).map_err(io::Error::other)?, faults))
    }
}

impl<B: StorageBackend> FaultBackend<B> {
    /// `inner`, with the faults that are set by `faults`.
    pub fn new(inner: B, faults: &Faults) -> Self {
        Self { inner, faults: faults.clone() }
    }
}

/// As [`RedbLogStore::open_with`], on a disk with `faults`. A new file is created without them.
///
/// # Errors
/// As [`RedbLogStore::open_with`].
pub fn open_with_faults(
    path: impl AsRef<Path>,
    options: &Options,
    faults: &Faults,
) -> Result<RedbLogStore, StorageError> {
    open_wrapped(path, options, |file| FaultBackend::new(file, faults))
}

impl<B: StorageBackend> StorageBackend for FaultBackend<B> {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let fault = {
            let mut state = self.faults.lock();
            self.faults.update(&mut state)?
        };
        if fault == Fault::FailRead { Err(broken("read")) } else { self.inner.read(offset, out) }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        // A longer file is one with a hole, which takes no room yet.
        let (_, error) = self.faults.admit(0)?;
        error.map_or_else(|| self.inner.set_len(len), Err)
    }

    fn sync_data(&self) -> io::Result<()> {
        let fault = self.faults.pass()?.1;
        match fault {
            Fault::Fail | Fault::FailSync => Err(broken("sync")),
            _ => self.inner.sync_data(),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let (fits, error) = self.faults.admit(data.len() as u64)?;
        let fitting = usize::try_from(fits).ok().and_then(|fits| data.get(..fits)).unwrap_or(data);
        if !fitting.is_empty() {
            self.inner.write(offset, fitting)?;
        }
        error.map_or(Ok(()), Err)
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }

    delegate_locks!();
}
