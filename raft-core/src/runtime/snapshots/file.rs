//! A snapshot's file, little-endian:
//!
//! | bytes | field |
//! | --- | --- |
//! | 8 | magic `RAFTSNAP` |
//! | 2 | version: 2 where there are sessions, else 1 |
//! | 2 | 0 |
//! | 4 | length of the header |
//! | length | header: cluster, group, last entry, configuration |
//! | 8 | length of the sessions; from version 2 on |
//! | length | the sessions, as [`SessionTable::write_to`] wrote them; from version 2 on |
//! | | the state, as the machine wrote it |
//! | 8 | length of the state |
//! | 4 | CRC-32C of everything before |
//!
//! The last field is also the snapshot's checksum in its [`SnapshotMeta`]. (A checksum over itself would be the same for all
//! files.)

use std::fs;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::place::{File, SnapshotPlace};
use crate::codec::cold;
use crate::membership::Membership;
use crate::session_table::SessionTable;
use crate::types::{ClusterId, EntryId, GroupId, SnapshotMeta};

const MAGIC: [u8; 8] = *b"RAFTSNAP";
/// The first version, which has no sessions: written where there never were any, so that the versions before can read it.
const WITHOUT_SESSIONS: u16 = 1;
const VERSION: u16 = 2;
const FIXED_BYTES: usize = 16;
const TRAILER_BYTES: u64 = 12;

/// The longest header: far beyond any configuration.
const MAX_HEADER_BYTES: usize = 1 << 20;

/// How much is read, written and sent at once.
pub(super) const CHUNK_BYTES: usize = 256 << 10;

/// How much is written before it is synced: a whole file at once would hold up the syncs of the log on the same disk.
const SYNC_BYTES: u64 = 16 << 20;

/// What a snapshot is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) cluster: ClusterId,
    pub(super) group: GroupId,
    pub(super) last: EntryId,
    pub(super) membership: Membership,
}

fn damaged(message: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.into())
}

/// Counts, sums up and now and then syncs what goes to a file; `observe` hears how much it is, and may end it.
struct Sink<'a> {
    file: &'a mut File,
    bytes: u64,
    synced: u64,
    checksum: u32,
    observe: &'a mut dyn FnMut(u64) -> io::Result<()>,
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (self.observe)(self.bytes)?;
        let count = self.file.write(bytes)?;
        self.checksum = crc32c::crc32c_append(self.checksum, &bytes[..count]);
        self.bytes += count as u64;
        if self.bytes - self.synced >= SYNC_BYTES {
            self.file.sync_data()?;
            self.synced = self.bytes;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How much would be written.
struct Counter(u64);

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a whole snapshot into an empty file and makes it durable, but for its name.
pub(super) fn write(
    file: &mut File,
    header: Header,
    sessions: &SessionTable,
    state: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    observe: &mut dyn FnMut(u64) -> io::Result<()>,
) -> io::Result<SnapshotMeta> {
    let encoded = cold::encode(&header).map_err(|e| damaged(format!("cannot encode the header: {e}")))?;
    let length = u32::try_from(encoded.len()).ok().filter(|&length| length as usize <= MAX_HEADER_BYTES);
    let length = length.ok_or_else(|| damaged("the configuration is too large for a snapshot"))?;
    let mut sink = Sink { file, bytes: 0, synced: 0, checksum: 0, observe };
    let mut buffer = BufWriter::with_capacity(CHUNK_BYTES, &mut sink);
    buffer.write_all(&MAGIC)?;
    let version = if sessions.is_used() { VERSION } else { WITHOUT_SESSIONS };
    buffer.write_all(&version.to_le_bytes())?;
    buffer.write_all(&[0; 2])?;
    buffer.write_all(&length.to_le_bytes())?;
    buffer.write_all(&encoded)?;
    if sessions.is_used() {
        let mut length = Counter(0);
        sessions.write_to(header.last, &mut length)?;
        buffer.write_all(&length.0.to_le_bytes())?;
        sessions.write_to(header.last, &mut buffer)?;
    }
    buffer.flush()?;
    let start = buffer.get_ref().bytes;
    state(&mut buffer)?;
    buffer.flush()?;
    let state_bytes = buffer.get_ref().bytes - start;
    buffer.write_all(&state_bytes.to_le_bytes())?;
    buffer.flush()?;
    let checksum = buffer.get_ref().checksum;
    buffer.write_all(&checksum.to_le_bytes())?;
    buffer.flush()?;
    drop(buffer);
    let size_bytes = sink.bytes;
    file.sync_all()?;
    let Header { last, membership, .. } = header;
    Ok(SnapshotMeta { last, membership, size_bytes, checksum })
}

/// CRC-32C of the first `bytes` of a file; its position is behind them then.
pub(super) fn checksum_of(file: &mut File, bytes: u64) -> io::Result<u32> {
    file.seek(SeekFrom::Start(0))?;
    let mut checksum = 0;
    let mut left = bytes;
    let mut buffer = vec![0; CHUNK_BYTES];
    while left > 0 {
        let want = usize::try_from(left).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
        file.read_exact(&mut buffer[..want])?;
        checksum = crc32c::crc32c_append(checksum, &buffer[..want]);
        left -= want as u64;
    }
    Ok(checksum)
}

/// A whole snapshot whose checksum was found to be right.
///
/// Its file stays readable while this is held, also where it is removed meanwhile.
#[derive(Debug)]
pub struct SnapshotFile {
    file: File,
    header: Header,
    size_bytes: u64,
    checksum: u32,
    /// Where the sessions are, and how long; `None` in a file that has none.
    sessions: Option<(u64, u64)>,
    state_at: u64,
}

impl SnapshotFile {
    /// Opens and checks a file that [`bytes`](Self::bytes) gave. Reads all of it, and blocks meanwhile.
    ///
    /// # Errors
    /// I/O; [`InvalidData`](io::ErrorKind::InvalidData) where it is not a whole and sound snapshot.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::check(File::from(fs::File::open(path)?))
    }

    pub(super) fn check(mut file: File) -> io::Result<Self> {
        let size_bytes = file.len()?;
        let summed = size_bytes.checked_sub(4).ok_or_else(|| damaged("it is too short for a snapshot"))?;
        // First what kind of file it is: a newer version may be summed up otherwise.
        let (version, header_bytes) = read_fixed(&mut file)?;
        let checksum = checksum_of(&mut file, summed)?;
        let mut field = [0; 4];
        file.read_exact(&mut field)?;
        if checksum != u32::from_le_bytes(field) {
            return Err(damaged("its checksum does not match: it is damaged or cut short"));
        }
        let header = read_header(&mut file, header_bytes)?;
        let mut state_at = (FIXED_BYTES + header_bytes) as u64;
        let state_end = size_bytes.saturating_sub(TRAILER_BYTES);
        let mut sessions = None;
        if version > WITHOUT_SESSIONS {
            let mut field = [0; 8];
            file.read_exact(&mut field)?;
            let (at, length) = (state_at + 8, u64::from_le_bytes(field));
            state_at = at.saturating_add(length);
            sessions = Some((at, length));
        }
        file.seek(SeekFrom::Start(state_end))?;
        let mut field = [0; 8];
        file.read_exact(&mut field)?;
        if state_end.checked_sub(state_at) != Some(u64::from_le_bytes(field)) {
            return Err(damaged("the length of its state does not match"));
        }
        Ok(Self { file, header, size_bytes, checksum, sessions, state_at })
    }

    /// The cluster that it is of.
    pub const fn cluster(&self) -> ClusterId {
        self.header.cluster
    }

    /// The group that it is of.
    pub const fn group(&self) -> GroupId {
        self.header.group
    }

    /// What it covers, and how to know it again.
    pub fn meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            last: self.header.last,
            membership: self.header.membership.clone(),
            size_bytes: self.size_bytes,
            checksum: self.checksum,
        }
    }

    pub(super) const fn header(&self) -> &Header {
        &self.header
    }

    /// The whole file's bytes, such as for a backup: [`open`](Self::open) takes them.
    ///
    /// # Errors
    /// I/O.
    pub fn bytes(mut self) -> io::Result<impl Read + Send + 'static> {
        self.file.seek(SeekFrom::Start(0))?;
        Ok(self.file.take(self.size_bytes))
    }

    /// The clients' sessions.
    pub(super) fn sessions(&mut self) -> io::Result<SessionTable> {
        let Some((at, bytes)) = self.sessions else { return Ok(SessionTable::default()) };
        self.file.seek(SeekFrom::Start(at))?;
        let mut source = BufReader::with_capacity(CHUNK_BYTES, (&mut self.file).take(bytes));
        let (sessions, applied) = SessionTable::read_from(&mut source)?;
        if applied != self.header.last || source.read(&mut [0])? != 0 {
            return Err(damaged("its sessions are not those of its state"));
        }
        Ok(sessions)
    }

    /// The state, as [`SnapshotView::write_to`](crate::state_machine::SnapshotView::write_to) wrote it.
    ///
    /// # Errors
    /// I/O.
    pub fn state(mut self) -> io::Result<impl Read + Send + 'static> {
        self.file.seek(SeekFrom::Start(self.state_at))?;
        let bytes = self.size_bytes - TRAILER_BYTES - self.state_at;
        Ok(BufReader::with_capacity(CHUNK_BYTES, self.file.take(bytes)))
    }
}

/// What comes before the header: the version, and the header's length.
fn read_fixed(file: &mut File) -> io::Result<(u16, usize)> {
    file.seek(SeekFrom::Start(0))?;
    let mut fixed = [0; FIXED_BYTES];
    file.read_exact(&mut fixed)?;
    if fixed[..8] != MAGIC {
        return Err(damaged("it is not a snapshot of this library"));
    }
    let version = u16::from_le_bytes([fixed[8], fixed[9]]);
    if !(WITHOUT_SESSIONS..=VERSION).contains(&version) {
        let text = format!(
            "it has version {version}, and this program knows versions up to {VERSION}: use the newer one"
        );
        return Err(damaged(text));
    }
    Ok((version, u32::from_le_bytes([fixed[12], fixed[13], fixed[14], fixed[15]]) as usize))
}

fn read_header(file: &mut File, bytes: usize) -> io::Result<Header> {
    if bytes > MAX_HEADER_BYTES {
        return Err(damaged("its header is too long"));
    }
    file.seek(SeekFrom::Start(FIXED_BYTES as u64))?;
    let mut encoded = vec![0; bytes];
    file.read_exact(&mut encoded)?;
    cold::decode(&encoded).map_err(|e| damaged(format!("its header does not decode: {e}")))
}

impl SnapshotPlace {
    /// Writes a snapshot of `cluster` and `group` that covers everything up to `last`, with `membership` in force there and
    /// the state that `state` gives, durably, under the name that a node looks for. Blocks meanwhile. For programs that make
    /// a data folder while no node runs on it, such as from a backup. It has no sessions: clients open new ones.
    ///
    /// # Errors
    /// I/O, of the place or of `state`. Nothing of it is left then.
    pub fn write(
        &self,
        cluster: ClusterId,
        group: GroupId,
        last: EntryId,
        membership: &Membership,
        state: &mut dyn Read,
    ) -> io::Result<SnapshotMeta> {
        let folder = super::Folder::new(self.clone(), cluster, group, u64::MAX);
        self.prepare()?;
        let copy = |sink: &mut dyn Write| io::copy(state, sink).map(|_| ());
        folder.write(last, membership.clone(), &SessionTable::default(), copy, &mut |_| Ok(()))
    }
}
