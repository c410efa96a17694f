//! `raft-kv status`

use std::fmt::Write as _;

use clap::Args;
use serde::Serialize;

use super::{ClientArgs, Failure, Output};
use crate::api::{ErrorCode, StatusBody};
use crate::client::Client;

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Serialize)]
struct NodeBody {
    address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<StatusBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
struct NodesBody {
    nodes: Vec<NodeBody>,
}

/// Asks the nodes that were named, then the members that those know of.
pub(super) async fn run(args: StatusArgs, output: Output) -> Result<(), Failure> {
    let mut nodes: Vec<NodeBody> = Vec::new();
    let mut to_ask = args.client.nodes.clone();
    while let Some(address) = (!to_ask.is_empty()).then(|| to_ask.remove(0)) {
        if nodes.iter().any(|node| node.address == address) {
            continue;
        }
        let client = Client::new(std::slice::from_ref(&address))?.with_timeout(args.client.timeout);
        let node = match client.status(0).await {
            Ok(status) => {
                to_ask.extend(status.members.iter().map(|member| member.client_address.clone()));
                NodeBody { address, status: Some(status), error: None }
            }
            Err(error) => NodeBody { address, status: None, error: Some(error.to_string()) },
        };
        nodes.push(node);
    }
    if nodes.iter().all(|node| node.status.is_none()) {
        let reasons: Vec<String> = nodes.into_iter().filter_map(|node| node.error).collect();
        return Err(Failure::Refused { code: ErrorCode::Unavailable.as_str(), message: reasons.join("; ") });
    }
    // The same node may answer at two addresses.
    let mut seen = std::collections::BTreeSet::new();
    nodes.retain(|node| node.status.as_ref().is_none_or(|status| seen.insert(status.node)));
    let table = table(&nodes);
    output.result(table.trim_end(), &NodesBody { nodes })
}

fn table(nodes: &[NodeBody]) -> String {
    let mut rows = vec![
        ["node", "http", "role", "term", "leader", "commit", "applied", "keys", "state hash"]
            .map(str::to_owned),
    ];
    let mut changing = false;
    let mut notes = String::new();
    for node in nodes {
        let Some(status) = &node.status else {
            let _ = writeln!(notes, "{}", node.error.as_deref().unwrap_or_default());
            continue;
        };
        if let Some(fatal) = &status.fatal {
            let kind = status.fatal_kind.as_deref().unwrap_or("failed");
            let _ = writeln!(notes, "node {} has stopped ({kind}): {fatal}", status.node);
        }
        for finding in &status.findings {
            let _ = writeln!(notes, "node {}: {finding}", status.node);
        }
        if status.members.is_empty() {
            let _ =
                writeln!(notes, "node {} belongs to no cluster yet: see `raft-kv init --help`", status.node);
        }
        changing |= status.role == "leader" && status.changing;
        rows.push([
            status.node.to_string(),
            node.address.clone(),
            role(status).to_owned(),
            status.term.to_string(),
            status.leader.map_or_else(|| "-".to_owned(), |leader| leader.to_string()),
            status.commit.to_string(),
            status.applied.to_string(),
            status.keys.to_string(),
            status.state_hash.get(..16).unwrap_or(&status.state_hash).to_owned(),
        ]);
    }
    if changing {
        notes += "the members are being changed: see `raft-kv member list`\n";
    }
    super::table::table(&rows) + &notes
}

/// What the node does, or that it does not count.
fn role(status: &StatusBody) -> &str {
    let own = status.members.iter().find(|member| member.id == status.node);
    match (&status.dismissed, own) {
        (Some(dismissed), _) => dismissed.as_str(),
        (None, Some(own)) if own.suspended => "suspended",
        (None, Some(own)) if own.role == "learner" && status.role == "follower" => "learner",
        _ => &status.role,
    }
}
