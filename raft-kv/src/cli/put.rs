//! `raft-kv put`

use clap::Args;

use super::{ClientArgs, Failure, Output, value_of};
use crate::client::Client;

#[derive(Debug, Args)]
pub(super) struct PutArgs {
    /// The key: UTF-8, at most 1024 bytes.
    key: String,
    /// The value, at most 512,000 bytes; `-` reads it from stdin.
    #[arg(allow_negative_numbers = true)]
    value: String,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) async fn run(args: PutArgs, output: Output) -> Result<(), Failure> {
    let value = value_of(args.value)?;
    let revisions = args.client.change(async |client: &Client| client.put(&args.key, value).await).await?;
    output.result(&format!("OK revision {}", revisions.modify_revision), &revisions)
}
