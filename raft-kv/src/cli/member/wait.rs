//! Waiting until a change of the members is carried out.

use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{ChangeArgs, Output, waits_for};
use crate::api::{ErrorCode, MemberChange, MembersBody};
use crate::cli::Failure;
use crate::client::{Client, ClientError};

/// How often the leader is asked.
const INTERVAL: Duration = Duration::from_millis(200);

/// The longest that one question may take: the leader may have gone.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);

/// A change that is waited for.
pub(super) struct Wait<'a> {
    pub(super) args: &'a ChangeArgs,
    /// The members before it.
    pub(super) before: &'a MembersBody,
    pub(super) changes: &'a [MemberChange],
    pub(super) output: Output,
}

#[derive(Serialize)]
struct ProgressBody<'a> {
    progress: &'a str,
}

impl Wait<'_> {
    /// Waits until the intent of entry `index` is carried out.
    pub(super) async fn carried_out(&self, index: u64) -> Result<MembersBody, Failure> {
        let mut cluster = Cluster::new(self.args, self.before)?;
        let deadline = Instant::now() + self.args.wait;
        let mut told = String::new();
        loop {
            let state = match cluster.members().await {
                Ok(members) if members.index < index => "the node that answers lags".to_owned(),
                Ok(members) => match waits_for(&members) {
                    Some(waits) if self.is_wanted(&members) => waits,
                    None if !members.committed => "waits for a majority to hold it".to_owned(),
                    None if self.is_so(&members) => return Ok(members),
                    _ => return Err(overtaken()),
                },
                Err(error) => format!("no leader answers: {error}"),
            };
            if state != told {
                self.tell(&state);
                told = state;
            }
            if Instant::now() + INTERVAL >= deadline {
                let after = self.args.wait.as_secs_f64();
                return Err(Failure::Unknown(format!(
                    "not carried out after {after} s: {told}; the cluster goes on with it, see `raft-kv member list`, or give it \
                     up with `raft-kv member cancel`"
                )));
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// The answer was lost: looks whether the cluster has the intent, and waits if so.
    pub(super) async fn found_out(&self, lost: String) -> Result<MembersBody, Failure> {
        let mut cluster = Cluster::new(self.args, self.before)?;
        let deadline = Instant::now() + self.args.client.timeout;
        while Instant::now() + INTERVAL < deadline {
            if let Ok(members) = cluster.members().await
                && members.index > self.before.index
                && self.is_wanted(&members)
                && members.committed
            {
                return self.carried_out(members.index).await;
            }
            tokio::time::sleep(INTERVAL).await;
        }
        Err(Failure::Unknown(lost))
    }

    /// Whether the cluster is on its way to what was asked for, or has come there.
    fn is_wanted(&self, members: &MembersBody) -> bool {
        let Some(change) = &members.change else { return self.is_so(members) };
        let votes = |id: &u64| change.voters.contains(id);
        let learns = |id: &u64| change.learners.contains(id);
        let comes_back = |id: &u64| change.readmit.contains(id) || self.has_other_folder(members, *id);
        self.changes.iter().all(|wanted| match wanted {
            MemberChange::Add { id, learner, .. } | MemberChange::Join { id, learner, .. } => {
                if *learner {
                    learns(id)
                } else {
                    votes(id)
                }
            }
            MemberChange::Remove { id } => !votes(id) && !learns(id),
            MemberChange::Promote { id } => votes(id),
            MemberChange::Demote { id } => learns(id),
            MemberChange::Replace { old, id, .. } => !votes(old) && !learns(old) && (votes(id) || learns(id)),
            MemberChange::Readmit { id } => comes_back(id),
            // The addresses of an intent are not shown; those of the members are compared in the end.
            MemberChange::Move { id, .. } => votes(id) || learns(id),
        })
    }

    /// Whether the members are as was asked for.
    fn is_so(&self, members: &MembersBody) -> bool {
        let role = |id: u64| members.member(id).map(|state| state.member.role.as_str());
        let at = |id: u64, addresses: [&String; 2]| {
            let member = members.member(id).map(|state| &state.member);
            member.is_some_and(|member| [&member.address, &member.client_address] == addresses)
        };
        self.changes.iter().all(|wanted| match wanted {
            MemberChange::Add { id, learner, .. } | MemberChange::Join { id, learner, .. } => {
                role(*id) == Some(if *learner { "learner" } else { "voter" })
            }
            MemberChange::Remove { id } => role(*id).is_none(),
            MemberChange::Promote { id } => role(*id) == Some("voter"),
            MemberChange::Demote { id } => role(*id) == Some("learner"),
            MemberChange::Replace { old, id, .. } => role(*old).is_none() && role(*id).is_some(),
            MemberChange::Readmit { id } => self.has_other_folder(members, *id),
            MemberChange::Move { id, address, client_address } => at(*id, [address, client_address]),
        })
    }

    fn has_other_folder(&self, members: &MembersBody, id: u64) -> bool {
        let folder = |members: &MembersBody| members.member(id).map(|state| state.member.incarnation.clone());
        let (before, now) = (folder(self.before), folder(members));
        now.is_some() && now != before
    }

    /// Tells on stderr what is waited for. Nobody may be there to read it.
    fn tell(&self, progress: &str) {
        let line = if self.output.json {
            serde_json::to_string(&ProgressBody { progress }).unwrap_or_else(|_| progress.to_owned())
        } else {
            progress.to_owned()
        };
        let _ = writeln!(io::stderr(), "{line}");
    }
}

fn overtaken() -> Failure {
    let message = "it was given up, or another change took its place: see `raft-kv member list`";
    Failure::Refused { code: ErrorCode::Conflict.as_str(), message: message.to_owned() }
}

/// The cluster while its members come and go: whoever was a member since it is watched may be asked.
struct Cluster {
    nodes: Vec<String>,
    client: Client,
}

impl Cluster {
    fn new(args: &ChangeArgs, members: &MembersBody) -> Result<Self, Failure> {
        let mut nodes = args.client.nodes.clone();
        learn(&mut nodes, members);
        Ok(Self { client: client(&nodes)?, nodes })
    }

    async fn members(&mut self) -> Result<MembersBody, ClientError> {
        let members = self.client.members(false).await?;
        if learn(&mut self.nodes, &members) {
            self.client = client(&self.nodes)?;
        }
        Ok(members)
    }
}

fn client(nodes: &[String]) -> Result<Client, ClientError> {
    Ok(Client::new(nodes)?.with_timeout(ASK_TIMEOUT))
}

/// Notes where members are reached; whether there is one more.
fn learn(nodes: &mut Vec<String>, members: &MembersBody) -> bool {
    let known = nodes.len();
    for state in &members.members {
        let address = &state.member.client_address;
        if !address.is_empty() && !nodes.contains(address) {
            nodes.push(address.clone());
        }
    }
    nodes.len() > known
}
