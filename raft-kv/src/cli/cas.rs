//! `raft-kv cas`

use bytes::Bytes;
use clap::{ArgGroup, Args};

use super::{ClientArgs, Failure, Output, value_of};
use crate::client::Client;
use crate::command::Expected;

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("expected").required(true).args(["if_revision", "if_value", "if_absent"]))]
pub(super) struct CasArgs {
    /// The key.
    key: String,
    /// The new value; `-` reads it from stdin.
    #[arg(allow_negative_numbers = true)]
    value: String,
    /// Only if the key was last changed at this revision.
    #[arg(long, value_name = "REVISION")]
    if_revision: Option<u64>,
    /// Only if the key has this value.
    #[arg(long, value_name = "VALUE", allow_negative_numbers = true)]
    if_value: Option<String>,
    /// Only if there is no such key.
    #[arg(long)]
    if_absent: bool,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) async fn run(args: CasArgs, output: Output) -> Result<(), Failure> {
    let expected = match (args.if_revision, args.if_value) {
        (Some(revision), _) => Expected::Revision(revision),
        (None, Some(value)) => Expected::Value(Bytes::from(value)),
        (None, None) => Expected::Revision(0),
    };
    let value = value_of(args.value)?;
    let swap = async |client: &Client| client.compare_and_swap(&args.key, &expected, value).await;
    let revisions = args.client.change(swap).await?;
    output.result(&format!("OK revision {}", revisions.modify_revision), &revisions)
}
