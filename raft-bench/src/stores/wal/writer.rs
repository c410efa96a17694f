//! What is written: a frame a call, one fdatasync.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use raft_core::codec::{CodecError, cold};
use raft_core::log_store::{Claim, StorageError, StorageErrorKind, Write};
use raft_core::types::Incarnation;

use super::format::{self, CHECKPOINT, Salt, WRITES};
use super::index::{Checkpoint, Log, Owner};
use super::{error, io_error, lock};

/// A buffer that one huge frame has grown beyond this is given back.
const KEPT_BUFFER_BYTES: usize = 4 << 20;

/// The newest segment, open for writing at its end.
pub(super) struct Active {
    pub(super) number: u64,
    pub(super) file: File,
    pub(super) salt: Salt,
    pub(super) end: u64,
}

pub(super) struct Writer {
    pub(super) folder: PathBuf,
    pub(super) segment_bytes: u64,
    pub(super) log: Arc<Mutex<Log>>,
    pub(super) active: Active,
    pub(super) next_frame: u64,
    pub(super) buffer: Vec<u8>,
    /// A write failed, or may have: nothing is written any more.
    pub(super) failed: bool,
    /// Keeps other processes out while it is open.
    pub(super) _lock: File,
}

impl Writer {
    /// Carries out a call in one frame. Any error is final.
    pub(super) fn write(&mut self, writes: &[Write]) -> Result<(), StorageError> {
        self.last_try(|writer| writer.try_write(writes))
    }

    /// Runs what may fail at most once: after an error only a log opened anew knows what is on disk.
    fn last_try<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        if self.failed {
            let what = "an earlier write failed, nothing is written any more; restart the node";
            return Err(error(StorageErrorKind::Failed, &self.folder, what));
        }
        self.failed = true;
        let done = work(self)?;
        self.failed = false;
        Ok(done)
    }

    fn try_write(&mut self, writes: &[Write]) -> Result<(), StorageError> {
        let mut spans = HashMap::new();
        for write in writes {
            let span = spans.entry(write.group).or_insert_with(|| lock(&self.log).span(write.group));
            *span = span.after(write).map_err(|e| error(e.kind(), &self.folder, e))?;
        }
        if writes.is_empty() {
            return Ok(());
        }
        if self.active.end >= self.segment_bytes {
            self.next_segment()?;
        }
        format::begin_frame(&mut self.buffer);
        let lies: Result<Vec<_>, _> =
            writes.iter().map(|write| format::encode_write(write, &mut self.buffer)).collect();
        let lies = lies.map_err(|e| self.unfit(e))?;
        let Active { number, end, .. } = self.active;
        self.append(WRITES)?;
        // All at once: a reader sees a call whole.
        let mut log = lock(&self.log);
        for (write, lies) in writes.iter().zip(lies) {
            log.apply(write, number, lies.into_iter().map(|(from, to)| (end + from as u64, end + to as u64)));
        }
        drop(log);
        self.drop_segments()
    }

    fn unfit(&self, why: CodecError) -> StorageError {
        error(StorageErrorKind::Invalid, &self.folder, format_args!("a write cannot be stored ({why})"))
    }

    /// Binds the log to a node, or checks that it is bound to it, and counts the boot.
    pub(super) fn claim(&mut self, asked: Owner) -> Result<Claim, StorageError> {
        let mut checkpoint = lock(&self.log).checkpoint();
        let owner = match checkpoint.owner {
            Some(kept) if (kept.cluster, kept.node) != (asked.cluster, asked.node) => {
                let what = format!(
                    "belongs to node {} of cluster {}, not to node {} of cluster {}; give each node its own folder",
                    kept.node, kept.cluster, asked.node, asked.cluster
                );
                return Err(error(StorageErrorKind::Foreign, &self.folder, what));
            }
            Some(kept) => Owner { boot: kept.boot.saturating_add(1), ..kept },
            None if asked.incarnation == Incarnation::UNKNOWN => {
                return Err(error(StorageErrorKind::Invalid, &self.folder, "incarnation 0 marks no folder"));
            }
            None => asked,
        };
        checkpoint.owner = Some(owner);
        self.last_try(|writer| {
            format::begin_frame(&mut writer.buffer);
            writer.buffer.extend(cold::encode(&checkpoint).map_err(|e| writer.unfit(e))?);
            writer.append(CHECKPOINT)
        })?;
        lock(&self.log).owner = Some(owner);
        Ok(Claim { incarnation: owner.incarnation, boot: owner.boot })
    }

    /// Appends the frame in the buffer; it is durable on return.
    fn append(&mut self, kind: u8) -> Result<(), StorageError> {
        let finished = format::finish_frame(&mut self.buffer, self.active.salt, self.next_frame, kind);
        finished.map_err(|e| self.unfit(e))?;
        let io = |e: io::Error| io_error(&self.folder, "write", &e);
        self.active.file.write_all(&self.buffer).map_err(io)?;
        self.active.file.sync_data().map_err(io)?;
        self.active.end += self.buffer.len() as u64;
        self.next_frame += 1;
        if self.buffer.capacity() > KEPT_BUFFER_BYTES {
            self.buffer = Vec::new();
        }
        Ok(())
    }

    fn next_segment(&mut self) -> Result<(), StorageError> {
        let checkpoint = lock(&self.log).checkpoint();
        let made = new_segment(&self.folder, self.active.number + 1, self.next_frame, &checkpoint);
        let (active, file) = made.map_err(|e| io_error(&self.folder, "begin a segment", &e))?;
        lock(&self.log).add_segment(active.number, file);
        self.active = active;
        self.next_frame += 1;
        Ok(())
    }

    /// Deletes segments of which nothing is held, the oldest first and one at a time, so that a crash leaves no gap.
    pub(super) fn drop_segments(&mut self) -> Result<(), StorageError> {
        loop {
            let Some(number) = lock(&self.log).drop_oldest() else { return Ok(()) };
            fs::remove_file(self.folder.join(format::segment_name(number)))
                .and_then(|()| sync_folder(&self.folder))
                .map_err(|e| io_error(&self.folder, "delete an old segment", &e))?;
        }
    }
}

/// A new segment that begins with what is known, whole on disk before it has its name; and a handle to read it by.
pub(super) fn new_segment(
    folder: &Path,
    number: u64,
    frame: u64,
    known: &Checkpoint,
) -> io::Result<(Active, File)> {
    let salt = Salt(fastrand::u64(..));
    let mut bytes = Vec::new();
    format::begin_frame(&mut bytes);
    bytes.extend(cold::encode(known).map_err(io::Error::other)?);
    format::finish_frame(&mut bytes, salt, frame, CHECKPOINT).map_err(io::Error::other)?;
    bytes.splice(..0, format::segment_header(number, salt));
    let path = folder.join(format::segment_name(number));
    let new = path.with_extension("wal.new");
    let mut file = File::create(&new)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&new, &path)?;
    sync_folder(folder)?;
    Ok((Active { number, file, salt, end: bytes.len() as u64 }, File::open(&path)?))
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    // Elsewhere a folder cannot be opened as a file.
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_failed_sync_is_final() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = crate::stores::wal::open::open(folder.path(), 1 << 20).unwrap();
        let write = Write { hard_state: Some(Default::default()), ..Write::default() };
        writer.write(std::slice::from_ref(&write)).unwrap();
        // Takes every byte, and cannot be synced.
        let segment = std::mem::replace(&mut writer.active.file, File::create("/dev/null").unwrap());
        let error = writer.write(std::slice::from_ref(&write)).unwrap_err();
        assert_eq!(error.kind(), StorageErrorKind::Io, "{error}");
        writer.active.file = segment;
        for _ in 0..2 {
            let error = writer.write(std::slice::from_ref(&write)).unwrap_err();
            assert_eq!(error.kind(), StorageErrorKind::Failed, "{error}");
        }
    }

    #[test]
    fn a_full_disk_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = crate::stores::wal::open::open(folder.path(), 1 << 20).unwrap();
        writer.active.file = File::options().write(true).open("/dev/full").unwrap();
        let error = writer.write(&[Write::default()]).unwrap_err();
        assert_eq!(error.kind(), StorageErrorKind::Full, "{error}");
        assert!(error.to_string().contains("make room"), "{error}");
    }
}
