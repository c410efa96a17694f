//! What is read: where entries lie is looked up under the lock, and they are read without it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use raft_core::codec::entry;
use raft_core::log_store::{StorageError, StorageErrorKind};
use raft_core::types::{Entry, GroupId, Index};

use super::format::segment_name;
use super::index::{Found, Log, Place};
use super::{damaged, error, io_error, lock};

/// Entries are read together with what lies between them, if that is no more than this: a frame's header and a head, mostly.
const READ_OVER_BYTES: u64 = 256;

pub(super) struct Reader {
    pub(super) log: Arc<Mutex<Log>>,
    pub(super) folder: PathBuf,
}

impl Reader {
    pub(super) fn read(
        &self,
        group: GroupId,
        range: RangeInclusive<Index>,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        let first = *range.start();
        let found = lock(&self.log).find(group, range, max_bytes);
        let found = found.map_err(|why| error(StorageErrorKind::Invalid, &self.folder, why))?;
        let mut entries = Vec::new();
        for Found { segment, file, places } in found {
            let near = |a: &Place, b: &Place| {
                b.offset.checked_sub(a.end()).is_some_and(|between| between <= READ_OVER_BYTES)
            };
            for run in places.chunk_by(near) {
                let bytes = read_run(&file, run).map_err(|e| io_error(&self.folder, "read", &e))?;
                for place in run {
                    let index = first + entries.len() as Index;
                    let at = (place.offset - run[0].offset) as usize;
                    let decoded = entry::decode(&mut bytes.slice(at..at + place.length as usize));
                    let entry = decoded.ok().filter(|entry| entry.index() == index);
                    entries.push(entry.ok_or_else(|| {
                        let (at, file) = (place.offset, segment_name(segment));
                        let what = format!("group {group}: entry {index} is damaged, at byte {at} of {file}");
                        damaged(&self.folder, what)
                    })?);
                }
            }
        }
        Ok(entries)
    }
}

/// The bytes from the first of these places to the end of the last. Nobody else moves this handle's position.
fn read_run(mut file: &File, run: &[Place]) -> io::Result<Bytes> {
    let (start, end) = (run[0].offset, run[run.len() - 1].end());
    let mut bytes = vec![0; (end - start) as usize];
    file.seek(SeekFrom::Start(start))?;
    file.read_exact(&mut bytes)?;
    Ok(bytes.into())
}
