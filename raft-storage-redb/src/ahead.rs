//! A file whose holes are filled a little ahead of need.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

use crate::delegate::delegate_locks;

/// How much is filled at a time: enough that it is seldom, little enough that the commit in which it happens is not late.
const STEP_BYTES: u64 = 1 << 18;
/// Who writes as much between two syncs has the file system's records written seldom enough; to fill first would write all
/// of it twice.
const MUCH_BYTES: u64 = STEP_BYTES / 2;
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// redb makes its file longer by doubling it, and then writes into the hole. Each write of blocks that the file does not have
/// yet makes the next sync write the system's own records of them too. So what follows a small write into the hole is filled
/// with zeros in larger steps: the bytes are those that were read there before, and redb neither sees nor needs it.
#[derive(Debug)]
pub(crate) struct Ahead<B> {
    inner: B,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Below it nothing is filled: either it is, or it was there when the file was opened, or it was not worth it.
    filled: u64,
    /// What was written since the last sync, and between it and the one before.
    unsynced: u64,
    synced: u64,
}

impl<B: StorageBackend> Ahead<B> {
    pub(crate) fn new(inner: B) -> io::Result<Self> {
        let filled = inner.len()?;
        Ok(Self { inner, state: Mutex::new(State { filled, ..State::default() }) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fills the hole up to `end`, which is about to be written to, and some more.
    fn fill(&self, state: &mut State, end: u64) -> io::Result<()> {
        let filled = &mut state.filled;
        let stop = end.max(filled.saturating_add(STEP_BYTES)).min(self.inner.len()?);
        while *filled < stop && state.unsynced.max(state.synced) < MUCH_BYTES {
            let bytes = (stop - *filled).min(ZEROS.len() as u64);
            // In range: it is the length of a slice at most.
            match self.inner.write(*filled, &ZEROS[..bytes as usize]) {
                Ok(()) => *filled += bytes,
                // What is written itself may still fit.
                Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
                Err(error) => return Err(error),
            }
        }
        *filled = (*filled).max(end);
        Ok(())
    }
}

impl<B: StorageBackend> StorageBackend for Ahead<B> {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state();
        state.filled = state.filled.min(len);
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        {
            let mut state = self.state();
            state.synced = std::mem::take(&mut state.unsynced);
        }
        self.inner.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let end = offset.saturating_add(data.len() as u64);
        let mut state = self.state();
        state.unsynced = state.unsynced.saturating_add(data.len() as u64);
        if end > state.filled {
            self.fill(&mut state, end)?;
        }
        drop(state);
        self.inner.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }

    delegate_locks!();
}

#[cfg(test)]
mod tests {
    use super::*;
    use fastrand::Rng;
    use redb::backends::InMemoryBackend;

    #[test]
    fn what_is_read_is_what_would_be_there_without_it() {
        let mut rng = Rng::with_seed(1);
        for _ in 0..20 {
            let plain = InMemoryBackend::new();
            let inner = InMemoryBackend::new();
            let held = rng.usize(..100_000);
            for backend in [&plain, &inner] {
                backend.set_len(held as u64).expect("is memory");
                backend.write(0, &vec![9; held]).expect("is memory");
            }
            let ahead = Ahead::new(inner).expect("is memory");
            let mut len = held as u64;
            for step in 0..60_u8 {
                if rng.u8(..4) == 0 || len == 0 {
                    len = rng.u64(1..4 * STEP_BYTES);
                    plain.set_len(len).expect("is memory");
                    ahead.set_len(len).expect("is memory");
                } else {
                    let at = rng.u64(..len);
                    let most = if rng.bool() { 9000 } else { STEP_BYTES };
                    let bytes = usize::try_from(rng.u64(1..=(len - at).min(most))).expect("is small");
                    plain.write(at, &vec![step; bytes]).expect("is memory");
                    ahead.write(at, &vec![step; bytes]).expect("is memory");
                }
                if rng.u8(..8) == 0 {
                    ahead.sync_data().expect("is memory");
                }
                let all = |backend: &dyn StorageBackend| {
                    let mut bytes = vec![0; usize::try_from(len).expect("is small")];
                    backend.read(0, &mut bytes).map(|()| bytes)
                };
                assert_eq!(ahead.len().expect("is memory"), len);
                assert!(all(&ahead).expect("is memory") == all(&plain).expect("is memory"));
            }
        }
    }
    #[test]
    fn what_is_written_in_large_pieces_is_not_filled_first() {
        let inner = InMemoryBackend::new();
        inner.set_len(64 * STEP_BYTES).expect("is memory");
        let ahead = Ahead { inner, state: Mutex::default() };
        let small = vec![1; 4096];
        let large = vec![1; usize::try_from(MUCH_BYTES).expect("is small")];
        let mut at = 0;
        let mut write = |data: &[u8]| {
            ahead.write(at, data).expect("is memory");
            at += data.len() as u64;
            ahead.state().filled - at
        };
        assert_eq!(write(&small), STEP_BYTES - 4096);
        assert_eq!(write(&large), STEP_BYTES - 4096 - MUCH_BYTES);
        // From here on nothing, until a commit was small again.
        assert_eq!((write(&large), write(&small)), (0, 0));
        ahead.sync_data().expect("is memory");
        assert_eq!(write(&small), 0);
        ahead.sync_data().expect("is memory");
        assert_eq!(write(&small), STEP_BYTES - 4096);
    }
}
