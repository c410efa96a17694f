//! `raft-kv log repair`

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgGroup, Args};
use raft_core::GroupId;
use raft_storage_redb::{Inspector, Repair};
use serde::Serialize;

use super::{DataArgs, Failure, Output, log_file, refused};
use crate::api::ErrorCode;
use crate::cli::parse_address;
use crate::client::{Client, ClientError};

/// How long one answer of a running node may take. It holds a few megabytes at most.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("from").required(true).multiple(true).args(["from_data", "from_node"]))]
pub(super) struct RepairArgs {
    #[command(flatten)]
    data: DataArgs,
    /// The data folder of another member that does not run, or a copy of one; may be repeated.
    #[arg(long, value_name = "DIR")]
    from_data: Vec<PathBuf>,
    /// The HTTP address of another member that runs; may be repeated. It gives committed entries only.
    #[arg(long, value_name = "ADDRESS", value_parser = parse_address)]
    from_node: Vec<String>,
}

#[derive(Serialize)]
struct RepairBody {
    file: String,
    /// How many entries came from other logs.
    replaced: u64,
    /// The damaged file under its new name; missing if nothing was damaged.
    #[serde(skip_serializing_if = "Option::is_none")]
    kept: Option<String>,
}

/// Replaces what is damaged, all of it or nothing. What a node has promised is never changed, and an entry is only taken where its
/// term and index are those that the node itself noted: see [`Repair`].
pub(super) async fn run(args: RepairArgs, output: Output) -> Result<(), Failure> {
    let file = args.data.file()?;
    let shown = file.display().to_string();
    let sources: Vec<PathBuf> = args.from_data.iter().map(|data| log_file(data)).collect::<Result<_, _>>()?;
    for source in &sources {
        if is_same(source, &file)? {
            let message =
                format!("{} is the log to be repaired: name another member's folder", source.display());
            return Err(Failure::Usage(message));
        }
    }
    let cluster = {
        let log = Inspector::open(&file).map_err(|e| refused(&e))?;
        if log.verify().is_sound() {
            let body = RepairBody { file: shown, replaced: 0, kept: None };
            return output.result("OK nothing is damaged, nothing was changed", &body);
        }
        log.owner().map(|owner| owner.cluster.to_string())
    };
    let mut repair = Repair::open(&file).map_err(|e| refused(&e))?;
    for source in &sources {
        if !repair.missing().is_empty() {
            let healthy = Inspector::open(source).map_err(|e| refused(&e))?;
            repair.replace_from(&healthy).map_err(|e| refused(&e))?;
        }
    }
    for node in &args.from_node {
        if !repair.missing().is_empty() {
            replace_from_node(&mut repair, node, cluster.as_deref()).await?;
        }
    }
    let repaired = repair.finish().map_err(|e| refused(&e))?;
    let kept = repaired.kept.display().to_string();
    let text = format!("OK {} entries replaced; the damaged file is kept as {kept}", repaired.replaced);
    output.result(&text, &RepairBody { file: shown, replaced: repaired.replaced, kept: Some(kept) })
}

fn is_same(a: &Path, b: &Path) -> Result<bool, Failure> {
    Ok(a.canonicalize()? == b.canonicalize()?)
}

/// Takes what is missing and the node can give.
async fn replace_from_node(repair: &mut Repair, node: &str, cluster: Option<&str>) -> Result<(), Failure> {
    let client = Client::new(&[node.to_owned()])?.with_timeout(ANSWER_TIMEOUT);
    let status = client.status(0).await?;
    if Some(status.cluster.as_str()) != cluster {
        let message =
            format!("the node at {node} belongs to another cluster, {}: ask a member", status.cluster);
        return Err(Failure::Refused { code: ErrorCode::Conflict.as_str(), message });
    }
    for (group, range) in repair.missing().to_vec() {
        if group != GroupId::default() {
            // A node of this program has one group.
            continue;
        }
        let (mut next, last) = range.into_inner();
        while next <= last {
            let entries = match client.log_entries(next, last).await {
                Ok(entries) => entries,
                // It does not hold them: another source may.
                Err(ClientError::Refused(body)) if body.error == ErrorCode::NotFound => break,
                Err(error) => return Err(error.into()),
            };
            let beyond = entries.last().map_or(next, |entry| entry.index().saturating_add(1));
            if beyond <= next {
                let message =
                    format!("the node at {node} gave other entries than were asked for: ask another");
                return Err(Failure::refused(message));
            }
            repair.replace_entries(group, &entries).map_err(|e| refused(&e))?;
            next = beyond;
        }
    }
    Ok(())
}
