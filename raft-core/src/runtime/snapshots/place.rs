//! Where snapshots are kept: a folder, or memory. The few things that are done with files, for both.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::super::mailbox::lock;

/// Where a node keeps its snapshots. A clone is the same place.
#[derive(Clone, Debug, Default)]
pub struct SnapshotPlace(Kind);

#[derive(Clone, Debug, Default)]
enum Kind {
    #[default]
    None,
    Folder(PathBuf),
    Memory(Memory),
}

/// Files in memory, by name.
#[derive(Clone, Debug)]
struct Memory {
    files: Arc<Mutex<BTreeMap<String, Blob>>>,
    max_bytes: u64,
}

type Blob = Arc<Mutex<Vec<u8>>>;

impl SnapshotPlace {
    /// A folder on disk, of this node alone; made if it is not there. Best beside the log, and on a disk with room for
    /// four times the state: two snapshots are kept, one more is being taken, and one more may be coming in.
    pub fn folder(path: impl Into<PathBuf>) -> Self {
        Self(Kind::Folder(path.into()))
    }

    /// **Volatile**: memory of at most `max_bytes` for all files together, gone with the last clone. Only for a log that is
    /// volatile too: a log on disk is compacted behind its snapshots, and is worth nothing without them.
    pub fn memory(max_bytes: u64) -> Self {
        Self(Kind::Memory(Memory { files: Arc::default(), max_bytes }))
    }

    /// No place: no snapshot is taken or received, and the log is never compacted.
    pub const fn none() -> Self {
        Self(Kind::None)
    }

    /// Whether there is no place.
    pub const fn is_none(&self) -> bool {
        matches!(self.0, Kind::None)
    }

    /// What the place is called in messages.
    pub(super) fn name(&self) -> String {
        match &self.0 {
            Kind::None => "nowhere".to_owned(),
            Kind::Folder(path) => path.display().to_string(),
            Kind::Memory(_) => "memory".to_owned(),
        }
    }

    /// Makes the folder and those above it, durably.
    pub(super) fn prepare(&self) -> io::Result<()> {
        let Kind::Folder(path) = &self.0 else { return Ok(()) };
        let missing = path.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.is_dir());
        let missing: Vec<&Path> = missing.collect();
        fs::create_dir_all(path).map_err(|e| about(path, &e))?;
        for made in missing {
            let parent = made.parent().filter(|parent| !parent.as_os_str().is_empty());
            sync_folder(parent.unwrap_or(Path::new(".")))?;
        }
        Ok(())
    }

    /// The names of all files.
    pub(super) fn list(&self) -> io::Result<Vec<String>> {
        match &self.0 {
            Kind::None => Ok(Vec::new()),
            Kind::Memory(memory) => Ok(lock(&memory.files).keys().cloned().collect()),
            Kind::Folder(path) => {
                let mut names = Vec::new();
                for entry in fs::read_dir(path).map_err(|e| about(path, &e))? {
                    let entry = entry.map_err(|e| about(path, &e))?;
                    names.extend(entry.file_name().into_string());
                }
                Ok(names)
            }
        }
    }

    /// A new, empty file; one that is there is emptied.
    pub(super) fn create(&self, name: &str) -> io::Result<File> {
        match &self.0 {
            Kind::None => Err(nowhere()),
            Kind::Memory(memory) => {
                let blob = Blob::default();
                lock(&memory.files).insert(name.to_owned(), Arc::clone(&blob));
                Ok(File(Handle::Memory { memory: memory.clone(), blob, position: 0 }))
            }
            Kind::Folder(folder) => {
                let path = folder.join(name);
                let mut options = fs::OpenOptions::new();
                options.read(true).write(true).create(true).truncate(true);
                options.open(&path).map(|file| File(Handle::Disk(file))).map_err(|e| about(&path, &e))
            }
        }
    }

    /// An existing file, to be read.
    pub(super) fn open(&self, name: &str) -> io::Result<File> {
        self.existing(name, false)
    }

    /// An existing file, to be gone on with.
    pub(super) fn resume(&self, name: &str) -> io::Result<File> {
        self.existing(name, true)
    }

    fn existing(&self, name: &str, write: bool) -> io::Result<File> {
        match &self.0 {
            Kind::None => Err(nowhere()),
            Kind::Memory(memory) => match lock(&memory.files).get(name) {
                Some(blob) => {
                    Ok(File(Handle::Memory { memory: memory.clone(), blob: Arc::clone(blob), position: 0 }))
                }
                None => Err(io::Error::new(io::ErrorKind::NotFound, format!("{name} is not there"))),
            },
            Kind::Folder(folder) => {
                let path = folder.join(name);
                let opened = fs::OpenOptions::new().read(true).write(write).open(&path);
                opened.map(|file| File(Handle::Disk(file))).map_err(|e| about(&path, &e))
            }
        }
    }

    /// Gives a file its final name, durably; one of that name is replaced.
    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        match &self.0 {
            Kind::None => Err(nowhere()),
            Kind::Memory(memory) => {
                let mut files = lock(&memory.files);
                let blob = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
                files.insert(to.to_owned(), blob);
                Ok(())
            }
            Kind::Folder(folder) => {
                let path = folder.join(to);
                fs::rename(folder.join(from), &path).map_err(|e| about(&path, &e))?;
                sync_folder(folder)
            }
        }
    }

    /// Removes a file, if it is there. Not durably: it may be there again after a crash.
    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        match &self.0 {
            Kind::None => {}
            Kind::Memory(memory) => drop(lock(&memory.files).remove(name)),
            Kind::Folder(folder) => {
                let path = folder.join(name);
                if let Err(error) = fs::remove_file(&path)
                    && error.kind() != io::ErrorKind::NotFound
                {
                    return Err(about(&path, &error));
                }
            }
        }
        Ok(())
    }
}

fn nowhere() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "there is no place for snapshots: set NodeOptions::snapshots")
}

fn about(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Makes names in a folder durable.
fn sync_folder(path: &Path) -> io::Result<()> {
    fs::File::open(path).and_then(|folder| folder.sync_all()).map_err(|e| about(path, &e))
}

/// An open file of a [`SnapshotPlace`]; it stays readable when it is removed.
#[derive(Debug)]
pub(super) struct File(Handle);

#[derive(Debug)]
enum Handle {
    Disk(fs::File),
    Memory { memory: Memory, blob: Blob, position: usize },
}

impl From<fs::File> for File {
    fn from(file: fs::File) -> Self {
        Self(Handle::Disk(file))
    }
}

impl File {
    pub(super) fn len(&self) -> io::Result<u64> {
        match &self.0 {
            Handle::Disk(file) => file.metadata().map(|metadata| metadata.len()),
            Handle::Memory { blob, .. } => Ok(lock(blob).len() as u64),
        }
    }

    pub(super) fn set_len(&mut self, bytes: u64) -> io::Result<()> {
        match &mut self.0 {
            Handle::Disk(file) => file.set_len(bytes),
            Handle::Memory { blob, .. } => {
                lock(blob).truncate(usize::try_from(bytes).unwrap_or(usize::MAX));
                Ok(())
            }
        }
    }

    /// Makes what is written so far durable.
    pub(super) fn sync_data(&self) -> io::Result<()> {
        match &self.0 {
            Handle::Disk(file) => file.sync_data(),
            Handle::Memory { .. } => Ok(()),
        }
    }

    /// Makes everything durable.
    pub(super) fn sync_all(&self) -> io::Result<()> {
        match &self.0 {
            Handle::Disk(file) => file.sync_all(),
            Handle::Memory { .. } => Ok(()),
        }
    }
}

impl Read for File {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Handle::Disk(file) => file.read(buffer),
            Handle::Memory { blob, position, .. } => {
                let bytes = lock(blob);
                let rest = bytes.get(*position..).unwrap_or_default();
                let count = rest.len().min(buffer.len());
                buffer[..count].copy_from_slice(&rest[..count]);
                *position += count;
                Ok(count)
            }
        }
    }
}

impl Write for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Handle::Disk(file) => file.write(bytes),
            Handle::Memory { memory, blob, position } => {
                let held: usize = lock(&memory.files).values().map(|blob| lock(blob).len()).sum();
                let mut blob = lock(blob);
                let end = *position + bytes.len();
                let grown = (held + end.saturating_sub(blob.len())) as u64;
                if grown > memory.max_bytes {
                    let text =
                        format!("the snapshots in memory are full: at most {} bytes", memory.max_bytes);
                    return Err(io::Error::new(io::ErrorKind::StorageFull, text));
                }
                if blob.len() < end {
                    blob.resize(end, 0);
                }
                blob[*position..end].copy_from_slice(bytes);
                *position = end;
                Ok(bytes.len())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Handle::Disk(file) => file.flush(),
            Handle::Memory { .. } => Ok(()),
        }
    }
}

impl Seek for File {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match &mut self.0 {
            Handle::Disk(file) => file.seek(to),
            Handle::Memory { blob, position, .. } => {
                let end = lock(blob).len();
                let at = match to {
                    SeekFrom::End(offset) => (end as u64).checked_add_signed(offset),
                    SeekFrom::Start(at) => Some(at),
                    SeekFrom::Current(offset) => (*position as u64).checked_add_signed(offset),
                };
                let at = at.ok_or(io::ErrorKind::InvalidInput)?;
                *position = usize::try_from(at).map_err(|_| io::ErrorKind::InvalidInput)?;
                Ok(at)
            }
        }
    }
}
