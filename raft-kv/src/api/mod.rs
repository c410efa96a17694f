//! The HTTP interface: what goes over it, and the server. `docs/kv.md` describes it for users.

mod backup;
mod consistency;
mod health;
mod leader;
mod log;
mod members;
mod membership;
mod metrics;
mod room;
mod server;
mod urls;

pub(crate) use consistency::{Level, ReadOptions};
pub use health::HealthBody;
pub(crate) use members::grouped;
pub use members::{
    ChangeBody, ChangeStateBody, ChangedBody, MemberChange, MemberStateBody, MembersBody, WaitBody,
};
pub use room::RequestLimits;
pub(crate) use server::members;
pub use server::{Api, router};
pub(crate) use urls::{host_and_port, percent_encode};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::command::{Page, Pair, Revision, Revisions};

/// Request header: how many milliseconds the caller waits, at most [`MAX_TIMEOUT_MS`].
pub const TIMEOUT_HEADER: &str = "raft-kv-timeout-ms";
/// Request header: a node passed the request on. The receiver answers by itself or not at all, so nothing goes round.
pub const FORWARDED_HEADER: &str = "raft-kv-forwarded";
/// Request header of a change: the session that it belongs to, as [`SessionBody`] named it. With it, a change that is repeated with
/// the same [`NUMBER_HEADER`] happens once.
pub const SESSION_HEADER: &str = "raft-kv-session";
/// Request header of a change in a session: its number.
pub const NUMBER_HEADER: &str = "raft-kv-number";
/// Request header of a change in a session: all changes with lower numbers are answered, or given up. Default: 0.
pub const SEEN_BELOW_HEADER: &str = "raft-kv-seen-below";
/// Response header: where clients reach the leader, as far as the node knows.
pub const LEADER_HEADER: &str = "raft-kv-leader";
/// Response header of a value: [`Revisions::create_revision`].
pub const CREATE_REVISION_HEADER: &str = "raft-kv-create-revision";
/// Response header of a value: [`Revisions::modify_revision`].
pub const MODIFY_REVISION_HEADER: &str = "raft-kv-modify-revision";
/// Response header of a value: [`Revisions::version`].
pub const VERSION_HEADER: &str = "raft-kv-version";

/// Response header of a read: the last index of the log that the answering node had applied.
pub const APPLIED_HEADER: &str = "raft-kv-applied";

/// How long a request waits where the caller does not say.
pub const DEFAULT_TIMEOUT_MS: u64 = 5_000;
/// The longest that a request may wait.
pub const MAX_TIMEOUT_MS: u64 = 60_000;
/// How many pairs a scan gives where the caller does not say.
pub const DEFAULT_SCAN_LIMIT: usize = 1_000;

/// Why a request was not carried out, or not known to be: the machine-readable half of an [`ErrorBody`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorCode {
    /// The request makes no sense as it is; the same again fails again.
    Invalid,
    /// The key, the path or the member does not exist.
    NotFound,
    /// The key is not as the condition wants it. Nothing changed.
    Mismatch,
    /// It does not fit how the cluster is: it exists already with other members, the node named cannot lead, or the members cannot
    /// be changed so.
    Conflict,
    /// Key, value or body is above its limit.
    TooLarge,
    /// The node belongs to no cluster yet: `raft-kv init` founds one.
    NotInitialized,
    /// No leader could be reached in time, or the request did not come whole in time. It was surely not carried out and may be repeated.
    Unavailable,
    /// There is no such session any more: it was not used for too long, or was closed. By this request nothing was changed; whether by
    /// an earlier one with the same number, nobody can tell.
    SessionExpired,
    /// Not every node is known to know sessions. The request was surely not carried out; without a session it may be.
    NoSessions,
    /// The node or its leader has too much to do. The request was surely not carried out and may be repeated, later.
    Overloaded,
    /// The outcome is unknown: the change may have happened, or may still happen.
    Unknown,
    /// The node has failed and must be restarted. The request was surely not carried out by it.
    Failed,
}

impl ErrorCode {
    /// The HTTP status that goes with it.
    pub const fn status(self) -> u16 {
        match self {
            Self::Invalid => 400,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::SessionExpired => 410,
            Self::Mismatch => 412,
            Self::TooLarge => 413,
            Self::NotInitialized | Self::Unavailable | Self::NoSessions | Self::Overloaded | Self::Failed => {
                503
            }
            Self::Unknown => 504,
        }
    }

    /// The code as it is written in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::NotFound => "not_found",
            Self::Mismatch => "mismatch",
            Self::Conflict => "conflict",
            Self::TooLarge => "too_large",
            Self::NotInitialized => "not_initialized",
            Self::Unavailable => "unavailable",
            Self::SessionExpired => "session_expired",
            Self::NoSessions => "no_sessions",
            Self::Overloaded => "overloaded",
            Self::Unknown => "unknown",
            Self::Failed => "failed",
        }
    }
}

/// The body of every response that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What kind of error it is.
    pub error: ErrorCode,
    /// What happened and what to do, for people.
    pub message: String,
    /// With [`ErrorCode::Mismatch`]: what the key is instead; missing if it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<Revisions>,
}

impl ErrorBody {
    /// An error of this kind.
    pub fn new(error: ErrorCode, message: impl Into<String>) -> Self {
        Self { error, message: message.into(), current: None }
    }
}

/// The answer to a delete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletedBody {
    /// The store's revision after it.
    pub revision: Revision,
}

/// The answer to `POST /sessions`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionBody {
    /// The session's name.
    pub session: String,
}

/// A key with its value and revisions in JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairBody {
    /// The key.
    pub key: String,
    /// The value, where it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The value in base64, where it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_base64: Option<String>,
    /// Its revisions.
    #[serde(flatten)]
    pub revisions: Revisions,
}

impl From<Pair> for PairBody {
    fn from(pair: Pair) -> Self {
        let Pair { key, value, revisions } = pair;
        match String::from_utf8(value.into()) {
            Ok(text) => Self { key, value: Some(text), value_base64: None, revisions },
            Err(raw) => {
                Self { key, value: None, value_base64: Some(BASE64.encode(raw.as_bytes())), revisions }
            }
        }
    }
}

impl PairBody {
    /// The pair, if the value is there and decodes.
    pub fn into_pair(self) -> Option<Pair> {
        let value = match (self.value, self.value_base64) {
            (Some(text), None) => Bytes::from(text),
            (None, Some(encoded)) => Bytes::from(BASE64.decode(encoded).ok()?),
            _ => return None,
        };
        Some(Pair { key: self.key, value, revisions: self.revisions })
    }
}

/// The answer to a scan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageBody {
    /// The pairs in order.
    pub pairs: Vec<PairBody>,
    /// Where to go on (as `from`), if a limit ended the page.
    pub next: Option<String>,
    /// The store's revision at which this was so.
    pub revision: Revision,
}

impl From<Page> for PageBody {
    fn from(page: Page) -> Self {
        let pairs = page.pairs.into_iter().map(PairBody::from).collect();
        Self { pairs, next: page.next, revision: page.revision }
    }
}

/// A member to found a cluster with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Founder {
    /// The node's id, as in its certificate.
    pub id: u64,
    /// Where the other nodes reach it.
    pub address: String,
    /// Where clients reach it.
    pub client_address: String,
}

/// The body of `POST /init`, and of its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitBody {
    /// The founding members.
    pub members: Vec<Founder>,
}

/// The body of `POST /transfer`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransferBody {
    /// The node that is to lead; the best where none is named.
    #[serde(default)]
    pub to: Option<u64>,
}

/// The answer to `POST /transfer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferredBody {
    /// The node that leads now.
    pub leader: u64,
}

/// The body of `PUT /lease`: what lease reads rest on; and what a node's status shows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseBody {
    /// The election timeout that all nodes keep to.
    pub election_timeout_ms: u64,
    /// How much faster or slower than true a node's clock may run, in parts of a million.
    pub clock_drift_ppm: u32,
}

/// A member in a [`StatusBody`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberBody {
    /// The node's id.
    pub id: u64,
    /// `voter`, `outgoing` or `learner`.
    pub role: String,
    /// Where the other nodes reach it.
    pub address: String,
    /// Where clients reach it.
    pub client_address: String,
    /// The data folder that it belongs to.
    pub incarnation: String,
    /// Its disk went back in time: it counts in no majority until it is taken in again with another data folder.
    #[serde(default)]
    pub suspended: bool,
}

/// An entry's term and index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryIdBody {
    /// The term.
    pub term: u64,
    /// The index.
    pub index: u64,
}

/// A node's snapshots in a [`StatusBody`]; what is counted, since it was started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SnapshotsBody {
    /// The last entry that the newest covers; 0 where there is none.
    pub index: u64,
    /// The last entry that the log does not hold any more.
    pub log_after: u64,
    /// The one that is coming in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receiving: Option<SnapshotProgressBody>,
    /// Those on their way to other nodes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sending: Vec<SnapshotProgressBody>,
    /// How many were taken.
    pub taken: u64,
    /// How many transfers to other nodes were begun.
    pub sends_begun: u64,
    /// How many transfers from other nodes were begun.
    pub receives_begun: u64,
    /// The last that went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<String>,
}

/// How far a transfer is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotProgressBody {
    /// The receiver, where it is another node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<u64>,
    /// The last entry that the snapshot covers.
    pub index: u64,
    /// The bytes that are there.
    pub bytes: u64,
    /// The bytes of the whole.
    pub size_bytes: u64,
}

/// What a node exchanged with the others since it was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransportBody {
    /// Bytes of messages sent, without what QUIC adds.
    pub sent_bytes: u64,
    /// Bytes of messages received, likewise.
    pub received_bytes: u64,
    /// Bytes of snapshots sent, and of answers about them.
    pub snapshot_sent_bytes: u64,
    /// Bytes of snapshots received, and of answers about them.
    pub snapshot_received_bytes: u64,
    /// Messages not sent: no connection, no room in the queue, or too large.
    pub dropped: u64,
}

/// The answer to `GET /status`: one node as it sees itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusBody {
    /// The node's id.
    pub node: u64,
    /// The cluster's id.
    pub cluster: String,
    /// `follower`, `pre-candidate`, `candidate` or `leader`.
    pub role: String,
    /// The term.
    pub term: u64,
    /// Who got this node's vote in the term.
    pub vote: Option<u64>,
    /// The leader, where one is known.
    pub leader: Option<u64>,
    /// The highest index known to be committed.
    pub commit: u64,
    /// The highest index applied.
    pub applied: u64,
    /// The highest index durable on this node.
    pub durable: u64,
    /// The last entry.
    pub last: EntryIdBody,
    /// The configuration in force; empty before the node belongs to a cluster.
    pub members: Vec<MemberBody>,
    /// How many keys the node's state holds.
    pub keys: u64,
    /// The revision of the node's state.
    pub revision: Revision,
    /// The hash of the node's state: equal on nodes of equal state.
    pub state_hash: String,
    /// How much the node is wanted as leader.
    #[serde(default)]
    pub priority: u8,
    /// Whom the node hands its leadership to at the moment.
    #[serde(default)]
    pub transferring: Option<u64>,
    /// The data folder that the node has.
    #[serde(default)]
    pub incarnation: String,
    /// `removed` or `suspended`, where the node knows that it does not count any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dismissed: Option<String>,
    /// Whether a change of the members is under way.
    #[serde(default)]
    pub changing: bool,
    /// What lease reads rest on; null where the cluster has none.
    #[serde(default)]
    pub lease: Option<LeaseBody>,
    /// The history of the cluster that the node belongs to; all zero before it belongs to one.
    #[serde(default)]
    pub lineage: String,
    /// What holds the node or its cluster up, as far as it knows, in sentences.
    #[serde(default)]
    pub findings: Vec<String>,
    /// Its snapshots.
    #[serde(default)]
    pub snapshots: SnapshotsBody,
    /// What it exchanged with the other nodes, where it counts that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<TransportBody>,
    /// Why the node has stopped working, if it has.
    pub fatal: Option<String>,
    /// What kind of reason that is: `disk_full`, `disk_failed`, `log_damaged`, `log_unusable`, `machine_failed`, `state_broken`.
    #[serde(default)]
    pub fatal_kind: Option<String>,
}
