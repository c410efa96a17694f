//! `raft-kv member list`

use std::time::Duration;

use clap::Args;

use super::{Output, waits_for};
use crate::api::{MemberStateBody, MembersBody};
use crate::cli::table::table;
use crate::cli::{ClientArgs, Failure};
use crate::client::ClientError;

/// How long the leader is looked for before another node is asked for what it knows.
const LEADER_WAIT: Duration = Duration::from_secs(3);

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    client: ClientArgs,
}

/// Asks the leader; where there is none, any node for what it knows.
pub(super) async fn run(args: ListArgs, output: Output) -> Result<(), Failure> {
    let client = args.client.client()?.with_timeout(LEADER_WAIT.min(args.client.timeout / 2));
    let members = match client.members(false).await {
        Err(ClientError::Refused(_)) => client.members(true).await?,
        answered => answered?,
    };
    output.result(text(&members).trim_end(), &members)
}

fn text(members: &MembersBody) -> String {
    if members.members.is_empty() {
        return format!("node {} belongs to no cluster yet: see `raft-kv init --help`", members.by);
    }
    let header = ["node", "role", "raft", "http", "folder", "answers", "holds"].map(str::to_owned);
    let rows = members.members.iter().map(|state| row(members, state));
    let mut text = table(&std::iter::once(header).chain(rows).collect::<Vec<_>>());
    if members.leader != Some(members.by) {
        text += &format!("no leader answers: this is what node {} knows\n", members.by);
    }
    if !members.committed {
        text += &format!("not committed yet: the configuration of entry {}\n", members.index);
    }
    if let Some(waits) = waits_for(members) {
        text += &format!("change: {waits}\n");
    }
    text
}

fn row(members: &MembersBody, state: &MemberStateBody) -> [String; 7] {
    let MemberStateBody { member, becomes, answers, holds, .. } = state;
    let mut role = member.role.clone();
    if member.suspended {
        role += ", suspended";
    }
    if let Some(becomes) = becomes {
        role += &format!(" -> {becomes}");
    }
    let answers = match answers {
        _ if members.leader == Some(member.id) => "leads",
        Some(true) => "yes",
        Some(false) => "no",
        None => "-",
    };
    [
        member.id.to_string(),
        role,
        member.address.clone(),
        member.client_address.clone(),
        member.incarnation.clone(),
        answers.to_owned(),
        holds.map_or_else(|| "-".to_owned(), |holds| holds.to_string()),
    ]
}
