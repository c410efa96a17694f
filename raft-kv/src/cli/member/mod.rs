//! `raft-kv member`: who belongs to the cluster, and changing it.

mod change;
mod list;
mod wait;

use std::time::Duration;

use clap::{Args, Subcommand};

use super::init::parse_founder;
use super::{ClientArgs, Failure, Output, seconds_up_to};
use crate::api::{Founder, MemberChange, MembersBody, WaitBody, grouped};

#[derive(Debug, Args)]
pub(super) struct MemberArgs {
    #[command(subcommand)]
    command: MemberCommand,
}

#[derive(Debug, Subcommand)]
enum MemberCommand {
    /// Show the members: who votes, who answers, how far each is, and what a change waits for.
    List(list::ListArgs),
    /// Take nodes in that run with empty data folders: as voters, once they hold the log.
    Add(AddArgs),
    /// Remove members for good. They need not run.
    Remove(IdsArgs),
    /// Let learners vote, once they hold the log.
    Promote(IdsArgs),
    /// Let voters be learners: they go on getting the log and do not count.
    Demote(IdsArgs),
    /// Let a new node take a member's place, in the same role.
    Replace(ReplaceArgs),
    /// Take members in again whose data folders were lost or emptied, with the folders that they have now.
    Readmit(ReadmitArgs),
    /// Tell the cluster that members are reached at other addresses.
    Move(MoveArgs),
    /// Give up the change that is under way.
    Cancel(CancelArgs),
}

#[derive(Debug, Args)]
struct AddArgs {
    /// Each node as id=raft-address,http-address, such as 4=127.0.0.1:7004,127.0.0.1:8004.
    #[arg(required = true, value_name = "MEMBER", value_parser = parse_founder)]
    members: Vec<Founder>,
    /// They get the log and no vote, for good: read replicas.
    #[arg(long)]
    learner: bool,
    #[command(flatten)]
    check: CheckArgs,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Debug, Args)]
struct IdsArgs {
    /// Their ids.
    #[arg(required = true, value_name = "ID")]
    ids: Vec<u64>,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Debug, Args)]
struct ReplaceArgs {
    /// The id of the member that goes.
    #[arg(value_name = "OLD")]
    old: u64,
    /// The node that comes, as id=raft-address,http-address, such as 4=127.0.0.1:7004,127.0.0.1:8004.
    #[arg(value_name = "NEW", value_parser = parse_founder)]
    new: Founder,
    #[command(flatten)]
    check: CheckArgs,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Debug, Args)]
struct ReadmitArgs {
    /// Their ids.
    #[arg(required = true, value_name = "ID")]
    ids: Vec<u64>,
    #[command(flatten)]
    check: CheckArgs,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Debug, Args)]
struct MoveArgs {
    /// Each member as id=raft-address,http-address, such as 2=127.0.0.1:7102,127.0.0.1:8102.
    #[arg(required = true, value_name = "MEMBER", value_parser = parse_founder)]
    members: Vec<Founder>,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Debug, Args)]
struct CancelArgs {
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// Do not look first whether they answer at their addresses and are who they should be.
    #[arg(long)]
    unchecked: bool,
}

/// How to ask for a change, and how long to wait for it.
#[derive(Debug, Args)]
struct ChangeArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// Return once the cluster has taken the change for its intent: it carries it out by itself.
    #[arg(long)]
    no_wait: bool,
    /// The longest to wait until the change is carried out, in seconds. It goes on all the same.
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = parse_wait, conflicts_with = "no_wait")]
    wait: Duration,
}

pub(super) async fn run(args: MemberArgs, output: Output) -> Result<(), Failure> {
    let mut unchecked = false;
    let (changes, how): (Vec<MemberChange>, ChangeArgs) = match args.command {
        MemberCommand::List(args) => return list::run(args, output).await,
        MemberCommand::Cancel(args) => return change::cancel(args.change, output).await,
        MemberCommand::Add(AddArgs { members, learner, check, change }) => {
            unchecked = check.unchecked;
            let add = |Founder { id, address, client_address }| MemberChange::Add {
                id,
                address,
                client_address,
                learner,
            };
            (members.into_iter().map(add).collect(), change)
        }
        MemberCommand::Remove(args) => (of_each(args.ids, |id| MemberChange::Remove { id }), args.change),
        MemberCommand::Promote(args) => (of_each(args.ids, |id| MemberChange::Promote { id }), args.change),
        MemberCommand::Demote(args) => (of_each(args.ids, |id| MemberChange::Demote { id }), args.change),
        MemberCommand::Replace(ReplaceArgs { old, new, check, change }) => {
            unchecked = check.unchecked;
            let Founder { id, address, client_address } = new;
            (vec![MemberChange::Replace { old, id, address, client_address }], change)
        }
        MemberCommand::Readmit(args) => {
            unchecked = args.check.unchecked;
            (of_each(args.ids, |id| MemberChange::Readmit { id }), args.change)
        }
        MemberCommand::Move(args) => {
            let relocate =
                |Founder { id, address, client_address }| MemberChange::Move { id, address, client_address };
            (args.members.into_iter().map(relocate).collect(), args.change)
        }
    };
    change::run(changes, unchecked, how, output).await
}

fn of_each(ids: Vec<u64>, change: impl Fn(u64) -> MemberChange) -> Vec<MemberChange> {
    ids.into_iter().map(change).collect()
}

fn parse_wait(text: &str) -> Result<Duration, String> {
    seconds_up_to(24 * 3600, text)
}

/// The members in one line, by role.
fn in_line(members: &MembersBody) -> String {
    let mut parts = Vec::new();
    for (role, name) in [("voter", "voters"), ("outgoing", "outgoing"), ("learner", "learners")] {
        let ids: Vec<String> = members
            .members
            .iter()
            .filter(|state| state.member.role == role)
            .map(|state| state.member.id.to_string())
            .collect();
        if !ids.is_empty() {
            parts.push(format!("{name} {}", ids.join(" ")));
        }
    }
    parts.join(", ")
}

/// What the change that is under way waits for; nothing where there is none.
fn waits_for(members: &MembersBody) -> Option<String> {
    let change = members.change.as_ref()?;
    let waits: Vec<String> = change
        .waits
        .iter()
        .map(|wait| match snapshot_of(members, wait) {
            Some(snapshot) => snapshot,
            None => wait.to_string(),
        })
        .collect();
    if waits.is_empty() {
        let state = if change.joint { "both the old and the new voters count" } else { "it goes on" };
        return Some(format!("under way: {state}"));
    }
    Some(format!("waits for {}", waits.join("; for ")))
}

/// Of a node that gets a snapshot, how much of it is there says more than its entries.
fn snapshot_of(members: &MembersBody, wait: &WaitBody) -> Option<String> {
    let WaitBody::CatchUp { node, .. } = wait else { return None };
    let snapshot = members.member(*node)?.snapshot.as_ref()?;
    let kib = |bytes: u64| grouped(bytes.div_ceil(1024));
    Some(format!("node {node}: snapshot, {} of {} KiB", kib(snapshot.bytes), kib(snapshot.size_bytes)))
}
