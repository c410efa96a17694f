//! `/livez`, `/readyz` and `/health`: for whoever restarts a node, sends it clients, or looks why it has none.

use axum::http::StatusCode;
use axum::response::Response;
use raft_core::RaftStatus;
use serde::{Deserialize, Serialize};

use super::server::json;

/// The answer to `GET /livez`, `GET /readyz` and `GET /health`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthBody {
    /// The status of the answer is 200; else 503.
    pub ok: bool,
    /// Why not; with `/health`, also what holds the node or its cluster up where it is well enough.
    pub reasons: Vec<String>,
}

impl HealthBody {
    /// Whether a restart could help: not while the node takes part, whatever it waits for.
    pub(super) fn live(status: &RaftStatus) -> Self {
        Self::of(status.fatal.iter().map(|reason| format!("The group has stopped: {reason}.")).collect())
    }

    /// Whether clients are served here.
    pub(super) fn ready(status: &RaftStatus) -> Self {
        let mut reasons = Self::live(status).reasons;
        if status.membership.is_empty() {
            reasons.push("This node belongs to no cluster.".to_owned());
        } else if status.leader.is_none() {
            reasons.push("No leader is known.".to_owned());
        }
        Self::of(reasons)
    }

    fn of(reasons: Vec<String>) -> Self {
        Self { ok: reasons.is_empty(), reasons }
    }

    pub(super) fn response(&self) -> Response {
        json(if self.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, self)
    }
}
