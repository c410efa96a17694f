//! A file whose holes are filled a little ahead of need.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

use crate::delegate::delegate_locks;

/// How much is filled at a time: enough that it is seldom, little enough that the commit in which it happens is not late.
const STEP_BYTES: u64 = 1 << 18;
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// redb makes its file longer by doubling it, and then writes into the hole. Each write of blocks that the file does not have
/// yet makes the next sync write the system's own records of them too. So what follows a write into the hole is filled with
/// zeros in larger steps: the bytes are those that were read there before, and redb neither sees nor needs it.
#[derive(Debug)]
pub(crate) struct Ahead<B> {
    inner: B,
    /// Below it nothing is filled: either it is, or it was there when the file was opened.
    filled: Mutex<u64>,
}

impl<B: StorageBackend> Ahead<B> {
    pub(crate) fn new(inner: B) -> io::Result<Self> {
        let filled = Mutex::new(inner.len()?);
        Ok(Self { inner, filled })
    }

    fn filled(&self) -> MutexGuard<'_, u64> {
        self.filled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fills the hole up to `end`, which is about to be written to, and some more.
    fn fill(&self, filled: &mut u64, end: u64) -> io::Result<()> {
        let stop = end.max(filled.saturating_add(STEP_BYTES)).min(self.inner.len()?);
        while *filled < stop {
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
        let mut filled = self.filled();
        *filled = (*filled).min(len);
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let end = offset.saturating_add(data.len() as u64);
        let mut filled = self.filled();
        if end > *filled {
            self.fill(&mut filled, end)?;
        }
        drop(filled);
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
                    let bytes = usize::try_from(rng.u64(1..=(len - at).min(9000))).expect("is small");
                    plain.write(at, &vec![step; bytes]).expect("is memory");
                    ahead.write(at, &vec![step; bytes]).expect("is memory");
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
}
