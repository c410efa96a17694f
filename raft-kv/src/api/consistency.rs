//! How fresh a read is to be, as it is written behind the `?` of a request.

use std::time::Duration;

use raft_core::Consistency;
use serde::Deserialize;

use super::{ErrorBody, ErrorCode};

/// A level by its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Level {
    /// Every write confirmed before the read is seen; a majority confirms it.
    #[default]
    Linearizable,
    /// The same by the leader's lease, in a cluster that has leases: faster, and right while clocks keep to their bound.
    Lease,
    /// The state of the node that is asked, which may be old.
    Stale,
}

/// What a request says of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReadOptions {
    pub(crate) level: Option<Level>,
    pub(crate) stale: bool,
    pub(crate) max_age_ms: Option<u64>,
}

impl ReadOptions {
    /// Whether the request says nothing of it, as a change must.
    pub(crate) fn is_empty(self) -> bool {
        self == Self::default()
    }

    pub(crate) fn consistency(self) -> Result<Consistency, ErrorBody> {
        let wrong = |rule| Err(ErrorBody::new(ErrorCode::Invalid, rule));
        let level = match (self.level, self.stale) {
            (None, true) => Level::Stale,
            (None, false) => Level::Linearizable,
            (Some(level), false) => level,
            (Some(_), true) => return wrong("give stale or consistency, not both"),
        };
        match (level, self.max_age_ms) {
            (Level::Linearizable, None) => Ok(Consistency::Linearizable),
            (Level::Lease, None) => Ok(Consistency::Lease),
            (Level::Stale, age) => Ok(Consistency::Stale { max_age: age.map(Duration::from_millis) }),
            (_, Some(_)) => wrong("max_age_ms is for stale reads only"),
        }
    }

    /// As [`consistency`](Self::consistency) reads it, to stand behind the `?`; empty for a linearizable read.
    pub(crate) fn query(consistency: Consistency) -> String {
        match consistency {
            Consistency::Lease => "consistency=lease".to_owned(),
            Consistency::Stale { max_age: None } => "consistency=stale".to_owned(),
            Consistency::Stale { max_age: Some(age) } => {
                format!("consistency=stale&max_age_ms={}", age.as_millis())
            }
            _ => String::new(),
        }
    }
}
