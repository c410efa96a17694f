//! Committed entries of this node's log, as they are: for `raft-kv log repair` on another member.

use std::sync::{Arc, Weak};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use raft_core::codec::entry;
use raft_core::log_store::{LogStore, StorageErrorKind};
use raft_core::{GroupId, Index};
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::server::{Api, Options, options_of, refuse, respond};
use super::{ErrorBody, ErrorCode};

/// The most bytes of entries in one answer, unless a single one is larger.
const MAX_ANSWER_BYTES: usize = 4 << 20;

/// How many such reads at once: they hold their answers in memory, and keep the log's reader from followers that lag.
const MAX_READS: usize = 4;

/// A node's log beside the node. It does not keep the store open: where the node has stopped, there is nothing to read.
#[derive(Debug)]
pub(super) struct CommittedLog {
    store: Weak<dyn LogStore>,
    room: Semaphore,
}

impl CommittedLog {
    pub(super) fn new(store: Weak<dyn LogStore>) -> Self {
        Self { store, room: Semaphore::new(MAX_READS) }
    }

    /// Encoded entries from `from` on, up to `to`; both are within what is committed and durable here.
    async fn read(&self, from: Index, to: Index) -> Result<Vec<u8>, ErrorBody> {
        let Ok(_room) = self.room.try_acquire() else {
            return Err(ErrorBody::new(
                ErrorCode::Overloaded,
                "too many reads of the log at once: repeat it later",
            ));
        };
        let Some(store) = self.store.upgrade() else {
            return Err(ErrorBody::new(ErrorCode::Failed, "the node has stopped"));
        };
        let read = store.read(GroupId::default(), from..=to, MAX_ANSWER_BYTES).await;
        let entries = read.map_err(|error| match error.kind() {
            StorageErrorKind::Invalid => ErrorBody::new(ErrorCode::NotFound, error.to_string()),
            _ => ErrorBody::new(ErrorCode::Failed, error.to_string()),
        })?;
        let mut bytes = Vec::new();
        for e in &entries {
            entry::encode(e, &mut bytes).map_err(|error| {
                ErrorBody::new(ErrorCode::Failed, format!("entry {} cannot be sent: {error}", e.index()))
            })?;
        }
        Ok(bytes)
    }
}

/// What stands behind the `?`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EntriesOptions {
    from: Index,
    to: Index,
}

/// `GET /log/entries`
pub(super) async fn entries(State(api): State<Arc<Api>>, options: Options<EntriesOptions>) -> Response {
    let (from, to) = match options_of(options) {
        Ok(EntriesOptions { from, to }) if 0 < from && from <= to => (from, to),
        Ok(_) => return refuse(ErrorCode::Invalid, "from must be at least 1, and not beyond to"),
        Err(error) => return respond(&error),
    };
    let Some(log) = api.log() else {
        return refuse(ErrorCode::NotFound, "this node gives no entries of its log");
    };
    let committed = {
        let status = api.raft().status();
        let status = status.borrow();
        status.commit.min(status.durable)
    };
    if from > committed {
        let message = format!("entry {from} is not committed here; {committed} is the last one that is");
        return refuse(ErrorCode::NotFound, message);
    }
    match log.read(from, to.min(committed)).await {
        Ok(bytes) => {
            (StatusCode::OK, [(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response()
        }
        Err(error) => respond(&error),
    }
}
