//! `raft-kv transfer`

use clap::Args;

use super::{ClientArgs, Failure, Output};
use crate::api::TransferredBody;

#[derive(Debug, Args)]
pub(super) struct TransferArgs {
    /// The id of the node that is to lead; if not given, the best: one that keeps up, of the highest priority.
    #[arg(long, value_name = "NODE")]
    to: Option<u64>,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) async fn run(args: TransferArgs, output: Output) -> Result<(), Failure> {
    let leader = args.client.client()?.transfer(args.to).await?;
    output.result(&format!("OK node {leader} leads"), &TransferredBody { leader })
}
