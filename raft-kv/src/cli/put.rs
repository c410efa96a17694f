//! `raft-kv put`

use clap::Args;

use super::{ClientArgs, Failure, Output, value_of};

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
    let client = args.client.client()?;
    let revisions = client.put(&args.key, value_of(args.value)?).await?;
    output.result(&format!("OK revision {}", revisions.modify_revision), &revisions)
}
