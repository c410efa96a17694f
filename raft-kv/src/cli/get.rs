//! `raft-kv get`

use clap::Args;

use super::consistency::ConsistencyArgs;
use super::{ClientArgs, Failure, Output};
use crate::api::{ErrorCode, PairBody};

#[derive(Debug, Args)]
pub(super) struct GetArgs {
    /// The key.
    key: String,
    #[command(flatten)]
    reading: ConsistencyArgs,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) async fn run(args: GetArgs, output: Output) -> Result<(), Failure> {
    let Some(pair) = args.client.client()?.get_with(&args.key, args.reading.consistency()?).await? else {
        let message = format!("there is no key `{}`", args.key);
        return Err(Failure::Refused { code: ErrorCode::NotFound.as_str(), message });
    };
    if output.json {
        output.result("", &PairBody::from(pair))
    } else {
        // As it is: a value need not be text.
        output.raw(&pair.value, true)
    }
}
