//! `raft-kv scan`

use clap::Args;

use super::consistency::ConsistencyArgs;
use super::{ClientArgs, Failure, Output, to_json};
use crate::api::DEFAULT_SCAN_LIMIT;
use crate::command::{MAX_SCAN_LIMIT, Range};

#[derive(Debug, Args)]
pub(super) struct ScanArgs {
    /// Only keys that begin so.
    #[arg(default_value = "")]
    prefix: String,
    /// From this key on, itself included.
    #[arg(long, default_value = "")]
    from: String,
    /// Up to this key, itself not included.
    #[arg(long)]
    to: Option<String>,
    /// At most so many keys.
    #[arg(long, default_value_t = DEFAULT_SCAN_LIMIT as u64)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=MAX_SCAN_LIMIT as u64))]
    limit: u64,
    #[command(flatten)]
    reading: ConsistencyArgs,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) async fn run(args: ScanArgs, output: Output) -> Result<(), Failure> {
    let limit = args.limit as usize;
    let range = Range { from: args.from, to: args.to, prefix: args.prefix, limit };
    let page = args.client.client()?.scan_with(&range, args.reading.consistency()?).await?;
    if output.json {
        return output.line(&to_json(&page)?);
    }
    let mut lines = Vec::new();
    for pair in page.pairs {
        let Some(pair) = pair.into_pair() else {
            return Err(Failure::refused("the answer holds no value: check the address of the node"));
        };
        lines.extend_from_slice(pair.key.as_bytes());
        lines.push(b'\t');
        lines.extend_from_slice(&pair.value);
        lines.push(b'\n');
    }
    output.raw(&lines, false)?;
    if let Some(next) = page.next {
        use std::io::Write as _;
        // Only a hint: it goes aside, and may fail.
        let _ = writeln!(std::io::stderr(), "raft-kv: there is more: go on with --from '{next}'");
    }
    Ok(())
}
