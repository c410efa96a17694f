//! Opening and creating the file.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use raft_core::log_store::{StorageError, StorageErrorKind};
use redb::backends::FileBackend;
use redb::{Database, DatabaseError, Durability, ReadableDatabase, StorageBackend};

use crate::Options;
use crate::ahead::Ahead;
use crate::error::{Name, Panicked};
use crate::inspect::explain;
use crate::layout::{FORMAT, GROUPS, LOG, STORE, STORE_FORMAT, decode_format, encode_format};
use crate::pages::MAGIC;

const DOING: &str = "open";

/// Opens the log at `path`, its file as `wrap` presents it; creates it, and the folders above it, if it is not there.
pub(crate) fn open_file<B: StorageBackend>(
    path: &Path,
    name: &Name,
    options: &Options,
    wrap: impl FnOnce(FileBackend) -> B,
) -> Result<Database, StorageError> {
    let folder = folder_of(path);
    create_folder(folder).map_err(|e| name.io("create its folder", &e))?;
    if !path.try_exists().map_err(|e| name.io(DOING, &e))? {
        create_file(path, name)?;
    }
    check_magic(path, name)?;
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(|e| name.io(DOING, &e))?;
    let backend = FileBackend::new(file).map_err(|e| name.redb(DOING, e))?;
    let backend = Ahead::new(wrap(backend)).map_err(|e| name.io(DOING, &e))?;
    let opened = open_with(name, || options.builder().create_with_backend(backend));
    let database = opened.map_err(|error| match error.kind() {
        StorageErrorKind::Corrupt => explain(path, name, error),
        _ => error,
    })?;
    prepare(&database, name)?;
    // Also where the file was there: the run that created it may not have come this far.
    sync_folder(folder).map_err(|e| name.io("sync its folder", &e))?;
    Ok(database)
}

/// Makes the file of a log as small as its content allows.
pub(crate) fn compact_file(path: &Path, name: &Name, options: &Options) -> Result<(), StorageError> {
    check_magic(path, name)?;
    let mut database = open_with(name, || options.builder().open(path))?;
    prepare(&database, name)?;
    let compacted = catch_unwind(AssertUnwindSafe(|| database.compact()));
    compacted
        .map_err(|payload| name.panicked("compact", &Panicked::new(&*payload)))?
        .map_err(|e| name.redb("compact", e))?;
    database.close().map_err(|e| name.redb("compact", e))
}

/// Opens the log that `backend` holds, or begins one in it if it is empty.
pub(crate) fn open_backend(
    backend: impl StorageBackend,
    name: &Name,
    options: &Options,
) -> Result<Database, StorageError> {
    let backend = Ahead::new(backend).map_err(|e| name.io(DOING, &e))?;
    let database = open_with(name, || options.builder().create_with_backend(backend))?;
    prepare(&database, name)?;
    Ok(database)
}

/// redb may panic on a file that was altered behind its back.
fn open_with(
    name: &Name,
    open: impl FnOnce() -> Result<Database, DatabaseError>,
) -> Result<Database, StorageError> {
    catch_unwind(AssertUnwindSafe(open))
        .map_err(|payload| name.panicked(DOING, &Panicked::new(&*payload)))?
        .map_err(|e| name.redb(DOING, e))
}

/// Creates the file under another name and moves it into place once it is whole, so that a crash in between leaves no half
/// of one; never over a file that another process has put there meanwhile.
fn create_file(path: &Path, name: &Name) -> Result<(), StorageError> {
    let mut fresh = OsString::from(path);
    fresh.push(format!(".new-{}", std::process::id()));
    let fresh = PathBuf::from(fresh);
    let database = create_scratch(&fresh, name)?;
    database.close().map_err(|e| name.redb("create", e))?;
    match fs::hard_link(&fresh, path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        // A file system without links.
        Err(_) => fs::rename(&fresh, path).map_err(|e| name.io("create", &e))?,
    }
    remove_if_there(&fresh).map_err(|e| name.io("create", &e))
}

/// An empty log under a name of this process's own, where a crashed one of the same id may have left a file.
pub(crate) fn create_scratch(path: &Path, name: &Name) -> Result<Database, StorageError> {
    remove_if_there(path).map_err(|e| name.io("create", &e))?;
    let database = open_with(name, || Options::default().builder().create(path))?;
    prepare(&database, name)?;
    Ok(database)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Refuses what is no redb file before redb sees it. An empty file is one that was never written.
fn check_magic(path: &Path, name: &Name) -> Result<(), StorageError> {
    let mut start = Vec::new();
    let file = File::open(path).map_err(|e| name.io(DOING, &e))?;
    file.take(MAGIC.len() as u64).read_to_end(&mut start).map_err(|e| name.io(DOING, &e))?;
    if start.is_empty() || start == MAGIC {
        return Ok(());
    }
    Err(not_a_log(name, "not a redb file"))
}

fn not_a_log(name: &Name, why: &str) -> StorageError {
    let what = format_args!("not a Raft log ({why}); choose another path, nothing was changed");
    name.error(StorageErrorKind::Format, what)
}

/// Checks the format, or begins a log in an empty database.
fn prepare(database: &Database, name: &Name) -> Result<(), StorageError> {
    let damaged = |error| name.damaged(format_args!("the format row is damaged ({error})"));
    let checked = catch_unwind(AssertUnwindSafe(|| -> Result<Option<Vec<u8>>, redb::Error> {
        let txn = database.begin_read()?;
        let mut empty = true;
        for table in txn.list_tables()? {
            use redb::TableHandle;
            empty = false;
            if table.name() == STORE.name() {
                let row = txn.open_table(STORE)?.get(STORE_FORMAT)?.map(|row| row.value().to_vec());
                return Ok(Some(row.unwrap_or_default()));
            }
        }
        if empty && txn.list_multimap_tables()?.next().is_none() { Ok(None) } else { Ok(Some(Vec::new())) }
    }));
    let row = checked
        .map_err(|payload| name.panicked(DOING, &Panicked::new(&*payload)))?
        .map_err(|e| name.redb(DOING, e))?;
    match row {
        None => begin_log(database).map_err(|e| name.redb("create", e)),
        Some(row) if row.is_empty() => Err(not_a_log(name, "a redb file of something else")),
        Some(row) => match decode_format(&row).map_err(damaged)? {
            FORMAT => Ok(()),
            other => Err(unknown_format(name, other)),
        },
    }
}

pub(crate) fn unknown_format(name: &Name, format: u32) -> StorageError {
    let what =
        format_args!("of format {format}, this version knows format {FORMAT}; use the version that wrote it");
    name.error(StorageErrorKind::Format, what)
}

fn begin_log(database: &Database) -> Result<(), redb::Error> {
    let mut txn = database.begin_write()?;
    txn.set_durability(Durability::Immediate)?;
    // Two phases once, so that the first commit of the file is never in doubt.
    txn.set_two_phase_commit(true);
    txn.open_table(LOG)?;
    txn.open_table(GROUPS)?;
    txn.open_table(STORE)?.insert(STORE_FORMAT, encode_format().as_slice())?;
    txn.commit()?;
    Ok(())
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Makes the names in a file's folder durable.
pub(crate) fn sync_folder_of(path: &Path) -> io::Result<()> {
    sync_folder(folder_of(path))
}

/// Creates a folder and those above it, each durably: a folder is lost in a crash unless the one above it was synced.
fn create_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let above = folder_of(folder);
    create_folder(above)?;
    match fs::create_dir(folder) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists || !folder.is_dir() => Err(e),
        _ => sync_folder(above),
    }
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Elsewhere a folder cannot be opened as a file, and its entries need no sync of their own.
#[cfg(not(unix))]
fn sync_folder(_folder: &Path) -> io::Result<()> {
    Ok(())
}
