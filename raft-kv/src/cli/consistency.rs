//! How fresh a command reads.

use std::time::Duration;

use clap::Args;
use raft_core::Consistency;

use super::{Failure, parse_seconds};
use crate::api::{Level, ReadOptions};

#[derive(Debug, Args)]
pub(super) struct ConsistencyArgs {
    /// How fresh the answer is to be.
    #[arg(long, value_enum, value_name = "LEVEL")]
    consistency: Option<Level>,
    /// As `--consistency stale`: faster, but it may lag behind confirmed writes.
    #[arg(long, conflicts_with = "consistency")]
    stale: bool,
    /// With a stale read: the most seconds that its answer may lag behind; if not given, as much as it does.
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    max_age: Option<Duration>,
}

impl ConsistencyArgs {
    pub(super) fn consistency(&self) -> Result<Consistency, Failure> {
        let max_age_ms = self.max_age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        if max_age_ms.is_some() && !self.stale && self.consistency != Some(Level::Stale) {
            return Err(Failure::Usage("--max-age is for --consistency stale only".to_owned()));
        }
        let options = ReadOptions { level: self.consistency, stale: self.stale, max_age_ms };
        options.consistency().map_err(|wrong| Failure::Usage(wrong.message))
    }
}
