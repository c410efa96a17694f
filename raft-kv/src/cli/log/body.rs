//! What a log holds, as JSON and as text.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use raft_core::Membership;
use raft_core::codec::cold;
use raft_core::session::SessionAction;
use raft_core::types::{Entry, EntryId, Index, Payload, SnapshotMeta};
use serde::Serialize;

use crate::api::{EntryIdBody, MemberBody, members};
use crate::command::{Command, Expected};

/// How much of a value one line of text shows, in characters.
const SHOWN_CHARS: usize = 60;

/// One entry. The kinds `put`, `delete` and `compare_and_swap` are this program's commands.
#[derive(Debug, Serialize)]
pub(super) struct EntryBody {
    index: u64,
    term: u64,
    committed: bool,
    /// The size of its payload, as limits count it.
    payload_bytes: usize,
    #[serde(flatten)]
    payload: PayloadBody,
}

#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum PayloadBody {
    Noop,
    Membership(MembershipBody),
    Put {
        key: String,
        #[serde(flatten)]
        value: ValueBody,
    },
    Delete {
        key: String,
        #[serde(flatten)]
        expected: ExpectedBody,
    },
    CompareAndSwap {
        key: String,
        #[serde(flatten)]
        expected: ExpectedBody,
        #[serde(flatten)]
        value: ValueBody,
    },
    SessionOpen,
    SessionKeep {
        session: String,
    },
    SessionClose {
        session: String,
    },
    /// A command that does not decode as one of this program's.
    Unknown {
        command_base64: String,
    },
}

/// A value: text where it is UTF-8.
#[derive(Debug, Default, Serialize)]
struct ValueBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

#[derive(Debug, Default, Serialize)]
struct ExpectedBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    if_revision: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    if_value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    if_value_base64: Option<String>,
}

/// A configuration.
#[derive(Debug, Serialize)]
pub(super) struct MembershipBody {
    members: Vec<MemberBody>,
}

/// A configuration and where it stands in the log.
#[derive(Debug, Serialize)]
pub(super) struct ConfigurationBody {
    pub(super) index: u64,
    #[serde(flatten)]
    pub(super) membership: MembershipBody,
}

/// A snapshot that the log goes on from.
#[derive(Debug, Serialize)]
pub(super) struct SnapshotBody {
    pub(super) last: EntryIdBody,
    pub(super) size_bytes: u64,
    pub(super) checksum: String,
    #[serde(flatten)]
    pub(super) membership: MembershipBody,
}

pub(super) fn id_body(id: EntryId) -> EntryIdBody {
    EntryIdBody { term: id.term, index: id.index }
}

impl EntryBody {
    /// The entry as JSON shows it, in a log that is committed up to `commit`.
    pub(super) fn new(entry: &Entry, commit: Index) -> Self {
        Self {
            index: entry.index(),
            term: entry.term(),
            committed: entry.index() <= commit,
            payload_bytes: entry.bytes() - Entry::OVERHEAD_BYTES,
            payload: PayloadBody::new(&entry.payload),
        }
    }

    /// The entry in one line.
    pub(super) fn text(&self) -> String {
        let mark = if self.committed { "" } else { "  (not known to be committed)" };
        format!("{}.{}\t{}{mark}", self.term, self.index, self.payload.text())
    }
}

impl PayloadBody {
    fn new(payload: &Payload) -> Self {
        let command = match payload {
            Payload::Noop => return Self::Noop,
            Payload::Membership(membership) => return Self::Membership(MembershipBody::new(membership)),
            Payload::Command(command) => command,
            Payload::Session(entry) => match &entry.action {
                SessionAction::Command { command, .. } => command,
                SessionAction::Open { .. } => return Self::SessionOpen,
                SessionAction::Close { session } => {
                    return Self::SessionClose { session: session.to_string() };
                }
                SessionAction::Keep { session, .. } => {
                    return Self::SessionKeep { session: session.to_string() };
                }
                // An action that a later version of the library adds.
                _ => return Self::Unknown { command_base64: String::new() },
            },
            // A kind that a later version of the library adds.
            _ => return Self::Unknown { command_base64: String::new() },
        };
        match cold::decode(command) {
            Ok(Command::Put { key, value }) => Self::Put { key, value: value.into() },
            Ok(Command::Delete { key, expected }) => {
                Self::Delete { key, expected: expected.map(ExpectedBody::from).unwrap_or_default() }
            }
            Ok(Command::CompareAndSwap { key, expected, value }) => {
                Self::CompareAndSwap { key, expected: expected.into(), value: value.into() }
            }
            Err(_) => Self::Unknown { command_base64: BASE64.encode(command) },
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Noop => "noop".to_owned(),
            Self::SessionOpen => "open a session".to_owned(),
            Self::SessionKeep { session } => format!("keep session {session}"),
            Self::SessionClose { session } => format!("close session {session}"),
            Self::Membership(membership) => format!("membership {}", membership.text()),
            Self::Put { key, value } => format!("put {key:?} {}", value.text()),
            Self::Delete { key, expected } => format!("delete {key:?}{}", expected.text()),
            Self::CompareAndSwap { key, expected, value } => {
                format!("compare-and-swap {key:?} {}{}", value.text(), expected.text())
            }
            Self::Unknown { command_base64 } => {
                format!("unknown command, base64 {}", quoted(command_base64))
            }
        }
    }
}

impl From<Bytes> for ValueBody {
    fn from(value: Bytes) -> Self {
        match String::from_utf8(value.into()) {
            Ok(text) => Self { value: Some(text), value_base64: None },
            Err(raw) => Self { value: None, value_base64: Some(BASE64.encode(raw.as_bytes())) },
        }
    }
}

impl ValueBody {
    fn text(&self) -> String {
        match (&self.value, &self.value_base64) {
            (Some(text), _) => quoted(text),
            (None, encoded) => format!("base64 {}", quoted(encoded.as_deref().unwrap_or_default())),
        }
    }
}

impl From<Expected> for ExpectedBody {
    fn from(expected: Expected) -> Self {
        match expected {
            Expected::Revision(revision) => Self { if_revision: Some(revision), ..Self::default() },
            Expected::Value(value) => {
                let ValueBody { value, value_base64 } = value.into();
                Self { if_revision: None, if_value: value, if_value_base64: value_base64 }
            }
        }
    }
}

impl ExpectedBody {
    fn text(&self) -> String {
        match (&self.if_revision, &self.if_value, &self.if_value_base64) {
            (Some(0), ..) => " if absent".to_owned(),
            (Some(revision), ..) => format!(" if revision {revision}"),
            (_, Some(text), _) => format!(" if {}", quoted(text)),
            (_, _, Some(encoded)) => format!(" if base64 {}", quoted(encoded)),
            _ => String::new(),
        }
    }
}

/// A text in quotes; of a long one the beginning, and how long it is.
fn quoted(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{:?}.. ({} characters)", &text[..end], text.chars().count()),
        None => format!("{text:?}"),
    }
}

impl MembershipBody {
    pub(super) fn new(membership: &Membership) -> Self {
        Self { members: members(membership) }
    }

    /// Its nodes in one line.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for member in &self.members {
            let before = if text.is_empty() { "" } else { ", " };
            let _ = write!(text, "{before}{} {} at {:?}", member.role, member.id, member.address);
        }
        text
    }
}

impl SnapshotBody {
    pub(super) fn new(snapshot: &SnapshotMeta) -> Self {
        Self {
            last: id_body(snapshot.last),
            size_bytes: snapshot.size_bytes,
            checksum: format!("{:08x}", snapshot.checksum),
            membership: MembershipBody::new(&snapshot.membership),
        }
    }
}
