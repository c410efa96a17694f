//! `raft-kv del`

use clap::Args;

use super::{ClientArgs, Failure, Output};
use crate::api::DeletedBody;
use crate::client::Client;
use crate::command::Expected;

#[derive(Debug, Args)]
pub(super) struct DelArgs {
    /// The key.
    key: String,
    /// Only if the key was last changed at this revision.
    #[arg(long, value_name = "REVISION")]
    if_revision: Option<u64>,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) async fn run(args: DelArgs, output: Output) -> Result<(), Failure> {
    let expected = args.if_revision.map(Expected::Revision);
    let delete = async |client: &Client| client.delete(&args.key, expected.as_ref()).await;
    let revision = args.client.change(delete).await?;
    output.result(&format!("OK revision {revision}"), &DeletedBody { revision })
}
