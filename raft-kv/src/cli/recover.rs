//! `raft-kv recover`

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use raft_core::Membership;
use raft_core::log_store::LogState;
use raft_core::offline::{NewLineage, OfflineError, new_lineage, preview_new_lineage};
use raft_core::types::{GroupId, Lineage, Peer};
use raft_storage_redb::{Inspector, RedbLogStore};
use serde::Serialize;

use super::log::{log_file, refuse_damaged, refused};
use super::{Failure, Output};

#[derive(Debug, Args)]
pub(super) struct RecoverArgs {
    /// The data folder of the node to go on with. The node must not run.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The node's id, to be sure that it is the right folder.
    #[arg(long, value_name = "ID")]
    node: u64,
    /// Do it. Without this, only what would be done is told.
    #[arg(long)]
    yes_i_lose_what_others_have: bool,
}

#[derive(Serialize)]
struct RecoverBody {
    cluster: String,
    node: u64,
    found: FoundBody,
    /// Missing where it was not confirmed.
    #[serde(skip_serializing_if = "Option::is_none")]
    done: Option<DoneBody>,
}

#[derive(Serialize)]
struct FoundBody {
    term: u64,
    commit: u64,
    last: EntryBody,
    voters: Vec<u64>,
    learners: Vec<u64>,
    lineage: String,
}

#[derive(Serialize)]
struct DoneBody {
    lineage: String,
    voter: u64,
    entry: EntryBody,
    /// Entries that were not known to be committed, and count as committed now.
    newly_committed: u64,
}

#[derive(Serialize)]
struct EntryBody {
    term: u64,
    index: u64,
}

impl From<raft_core::EntryId> for EntryBody {
    fn from(id: raft_core::EntryId) -> Self {
        Self { term: id.term, index: id.index }
    }
}

pub(super) async fn run(args: RecoverArgs, output: Output) -> Result<(), Failure> {
    let file = log_file(&args.data)?;
    let group = GroupId::default();
    let (owner, state) = {
        let log = Inspector::open(&file).map_err(|e| refused(&e))?;
        refuse_damaged(&log, &log.verify().damage)?;
        let owner = log.owner().ok_or_else(|| failure(&OfflineError::Blank))?;
        let held = log.group(group).ok_or_else(|| failure(&OfflineError::Blank))?;
        let state = LogState {
            hard_state: held.hard_state,
            outline: held.outline.clone(),
            snapshot: held.snapshot.clone(),
            last: held.last,
        };
        (owner, state)
    };
    if owner.node.0 != args.node {
        let message = format!("{} is of node {}, not of node {}", file.display(), owner.node, args.node);
        return Err(Failure::refused(message));
    }
    let lineage = Lineage::drawn(fastrand::u64(..));
    let local = Peer { node: owner.node, incarnation: owner.claim.incarnation };
    let plan = preview_new_lineage(state, local, lineage).map_err(|e| failure(&e))?;
    let mut body = RecoverBody {
        cluster: owner.cluster.to_string(),
        node: args.node,
        found: FoundBody {
            term: plan.term,
            commit: plan.commit,
            last: plan.last.into(),
            voters: ids(&plan.membership, |membership, node| membership.voters.contains(&node)),
            learners: ids(&plan.membership, |membership, node| membership.learners.contains(&node)),
            lineage: plan.membership.lineage.to_string(),
        },
        done: None,
    };
    if !args.yes_i_lose_what_others_have {
        output.result(&text(&plan, args.node, false), &body)?;
        return Err(Failure::Refused {
            code: "not_confirmed",
            message: "nothing was changed; if a majority of these nodes is lost for good, repeat it with \
                      --yes-i-lose-what-others-have"
                .to_owned(),
        });
    }
    let store = RedbLogStore::open(&file).map_err(|e| refused(&e))?;
    let done =
        new_lineage(&store, owner.cluster, owner.node, group, lineage).await.map_err(|e| failure(&e))?;
    body.done = Some(DoneBody {
        lineage: lineage.to_string(),
        voter: args.node,
        entry: done.first.into(),
        newly_committed: done.last.index.saturating_sub(done.commit),
    });
    output.result(&text(&done, args.node, true), &body)
}

fn failure(error: &OfflineError) -> Failure {
    match error {
        OfflineError::Store(error) => refused(error),
        other => Failure::refused(other.to_string()),
    }
}

fn ids(membership: &Membership, of: impl Fn(&Membership, raft_core::NodeId) -> bool) -> Vec<u64> {
    membership.members().filter(|&node| of(membership, node)).map(|node| node.0).collect()
}

fn text(plan: &NewLineage, node: u64, done: bool) -> String {
    let mut text = format!(
        "found: {}, lineage {}, term {}, last entry {}, committed up to {} as far as this node knows",
        plan.membership, plan.membership.lineage, plan.term, plan.last, plan.commit
    );
    let counted = plan.last.index.saturating_sub(plan.commit);
    let (verb, fate) = if done { ("OK", "is") } else { ("to be done:", "would be") };
    let _ = write!(
        text,
        "\n{verb} node {node} {fate} the only voter of lineage {}, from entry {} on; {counted} entries more count as committed",
        plan.lineage, plan.first
    );
    text
}
