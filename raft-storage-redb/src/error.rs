//! Errors that name the file and say what to do.

use std::any::Any;
use std::fmt::Display;
use std::io;
use std::sync::Arc;

use raft_core::codec::CodecError;
use raft_core::log_store::{StorageError, StorageErrorKind};

/// What to do about damage: a Raft log is replicated, so a node is replaced rather than mended.
const REPLACE: &str = "set the file aside, and let this node join the cluster again as a new node, or restore the file \
     if no other member holds the log";

/// What to do where others hold what is damaged.
const REPAIR: &str = "with the node stopped, repair it from another node's log (`Repair`)";

/// The store in messages: the path of its file.
#[derive(Clone, Debug)]
pub(crate) struct Name(Arc<str>);

impl Name {
    pub(crate) fn new(name: impl Display) -> Self {
        Self(name.to_string().into())
    }

    pub(crate) fn error(&self, kind: StorageErrorKind, what: impl Display) -> StorageError {
        StorageError::new(kind, format!("log {}: {what}", self.0))
    }

    /// What was read is not what was written.
    pub(crate) fn damaged(&self, what: impl Display) -> StorageError {
        self.error(StorageErrorKind::Corrupt, format_args!("{what}; {REPLACE}"))
    }

    /// As [`damaged`](Self::damaged), of entries that other nodes hold.
    pub(crate) fn repairable(&self, what: impl Display) -> StorageError {
        self.error(StorageErrorKind::Corrupt, format_args!("{what}; {REPAIR}; or {REPLACE}"))
    }

    /// What was read is whole, but not of a kind that this version knows; `None` where `error` is another one.
    pub(crate) fn later(&self, what: impl Display, error: CodecError) -> Option<StorageError> {
        let later = matches!(error, CodecError::Unsupported | CodecError::UnknownKind(_));
        let text = format_args!("{what} is of a later format; use the version that wrote it");
        later.then(|| self.error(StorageErrorKind::Format, text))
    }

    /// The system refused something to us directly.
    pub(crate) fn io(&self, doing: &str, error: &io::Error) -> StorageError {
        let (kind, advice) = io_kind(error);
        self.error(kind, format_args!("cannot {doing}: {error}; {advice}"))
    }

    /// redb refused.
    pub(crate) fn redb(&self, doing: &str, error: impl Into<redb::Error>) -> StorageError {
        match error.into() {
            redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => self.error(
                StorageErrorKind::Busy,
                "already open, in another process or in this one; stop that process or use another folder",
            ),
            redb::Error::UpgradeRequired(version) => self.error(
                StorageErrorKind::Format,
                format_args!("a redb file of version {version}; open it with the version that wrote it"),
            ),
            // redb follows a pointer in the file to beyond its end.
            redb::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.damaged(format_args!("cannot {doing}: the file is damaged, or its end is missing"))
            }
            redb::Error::Io(error) => self.io(doing, &error),
            redb::Error::PreviousIo | redb::Error::DatabaseClosed => self.error(
                StorageErrorKind::Failed,
                format_args!("cannot {doing}: an operation failed before; restart the node"),
            ),
            redb::Error::Corrupted(what) => {
                self.damaged(format_args!("cannot {doing}: the file is damaged ({what})"))
            }
            error @ (redb::Error::TableTypeMismatch { .. }
            | redb::Error::TableIsMultimap(_)
            | redb::Error::TypeDefinitionChanged { .. }) => self.error(
                StorageErrorKind::Format,
                format_args!("not a Raft log of this format ({error}); choose another file"),
            ),
            redb::Error::TableDoesNotExist(table) => {
                self.damaged(format_args!("cannot {doing}: table {table} is missing"))
            }
            error => {
                self.error(StorageErrorKind::Io, format_args!("cannot {doing}: {error}; restart the node"))
            }
        }
    }

    /// redb panicked, which it does on files that were altered behind its back.
    pub(crate) fn panicked(&self, doing: &str, panic: &Panicked) -> StorageError {
        self.damaged(format_args!("cannot {doing}: redb gave up ({}), the file is probably damaged", panic.0))
    }
}

/// The text of a caught panic.
#[derive(Debug)]
pub(crate) struct Panicked(String);

impl Panicked {
    pub(crate) fn new(payload: &(dyn Any + Send)) -> Self {
        let text = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned());
        // One line: the message ends up in one.
        Self(text.unwrap_or_else(|| "panic".to_owned()).replace('\n', " "))
    }

    /// A thread is gone, which nothing but a panic outside its jobs can cause.
    pub(crate) fn stopped() -> Self {
        Self("its thread has stopped".to_owned())
    }
}

fn io_kind(error: &io::Error) -> (StorageErrorKind, &'static str) {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            (StorageErrorKind::Full, "make room on the device, then restart the node")
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            (StorageErrorKind::Io, "let this user write there, then restart the node")
        }
        _ => (StorageErrorKind::Io, "check the path and the device, then restart the node"),
    }
}
