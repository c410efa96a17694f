//! `raft-kv log --data DIR`

use std::fmt::Write as _;

use raft_core::types::EntryId;
use raft_storage_redb::{GroupLog, Inspector, Shutdown};
use serde::Serialize;

use super::body::{ConfigurationBody, MembershipBody, SnapshotBody, id_body};
use super::verify::DamageBody;
use super::{DataArgs, Failure, Output, refuse_damaged, refused};
use crate::api::EntryIdBody;

/// How many of the terms the text shows; JSON shows all.
const SHOWN_TERMS: usize = 8;

#[derive(Serialize)]
struct LogBody {
    file: String,
    size_bytes: u64,
    format: u32,
    /// `orderly`, `crash` or `crash_in_commit`.
    shutdown: &'static str,
    #[serde(flatten)]
    owner: Option<OwnerBody>,
    groups: Vec<GroupBody>,
    /// What is damaged of all this; entries are not looked at.
    damage: Vec<DamageBody>,
}

#[derive(Serialize)]
struct OwnerBody {
    cluster: String,
    node: u64,
    incarnation: String,
    boots: u64,
}

#[derive(Serialize)]
struct GroupBody {
    group: u64,
    term: u64,
    vote: Option<u64>,
    commit: u64,
    /// The last entry that is compacted.
    base: EntryIdBody,
    /// The first index held; one above the last if none is.
    first: u64,
    last: EntryIdBody,
    entries: u64,
    /// The first entry of each term.
    terms: Vec<EntryIdBody>,
    configurations: Vec<ConfigurationBody>,
    snapshot: Option<SnapshotBody>,
}

impl GroupBody {
    fn new(log: &GroupLog) -> Self {
        let outline = &log.outline;
        let id = |index| id_body(EntryId::new(outline.term(index).unwrap_or_default(), index));
        let configuration =
            |(&index, membership)| ConfigurationBody { index, membership: MembershipBody::new(membership) };
        Self {
            group: log.group.0,
            term: log.hard_state.term,
            vote: log.hard_state.vote.map(|node| node.0),
            commit: log.hard_state.commit,
            base: id(log.base),
            first: log.base.saturating_add(1),
            last: id(log.last),
            entries: log.last.saturating_sub(log.base),
            terms: outline.terms.iter().copied().map(id_body).collect(),
            configurations: outline.memberships.iter().map(configuration).collect(),
            snapshot: log.snapshot.as_ref().map(SnapshotBody::new),
        }
    }
}

/// Prints what a log holds as a whole, and is refused where some of that is damaged. Reads no entries.
pub(super) fn run(args: &DataArgs, output: Output) -> Result<(), Failure> {
    let log = Inspector::open(args.file()?).map_err(|e| refused(&e))?;
    let body = LogBody {
        file: log.path().display().to_string(),
        size_bytes: log.file_bytes(),
        format: log.format(),
        shutdown: match log.shutdown() {
            Shutdown::Orderly => "orderly",
            Shutdown::CrashInCommit => "crash_in_commit",
            _ => "crash",
        },
        owner: log.owner().map(|owner| OwnerBody {
            cluster: owner.cluster.to_string(),
            node: owner.node.0,
            incarnation: owner.claim.incarnation.to_string(),
            boots: owner.claim.boot,
        }),
        groups: log.groups().into_iter().map(GroupBody::new).collect(),
        damage: log.rows_damage().iter().map(DamageBody::new).collect(),
    };
    output.result(text(&body).trim_end(), &body)?;
    refuse_damaged(&log, log.rows_damage())
}

fn text(log: &LogBody) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: String| {
        // A String takes everything.
        let _ = writeln!(text, "{}", format!("{name:<15} {value}").trim_end());
    };
    row("file", format!("{}, {} bytes, format {}", log.file, log.size_bytes, log.format));
    row(
        "closed",
        match log.shutdown {
            "orderly" => "in good order".to_owned(),
            "crash" => "not: its process died; the last commit is whole".to_owned(),
            _ => "not: its process died within a commit, which the next start undoes; nobody was told of it"
                .to_owned(),
        },
    );
    row(
        "belongs to",
        match &log.owner {
            None => "nobody yet: no node has started on it".to_owned(),
            Some(owner) => format!(
                "node {} of cluster {}, incarnation {}, boot {}",
                owner.node, owner.cluster, owner.incarnation, owner.boots
            ),
        },
    );
    for group in &log.groups {
        row("", String::new());
        row("group", group.group.to_string());
        let vote = group.vote.map_or_else(|| "no vote".to_owned(), |node| format!("vote for node {node}"));
        row("term", format!("{}, {vote}", group.term));
        row("commit", group.commit.to_string());
        row(
            "entries",
            match group.entries {
                0 => "none".to_owned(),
                count => format!("{} to {}, {count} of them", group.first, group.last.index),
            },
        );
        if group.base.index > 0 {
            row("compacted", format!("up to {}.{}", group.base.term, group.base.index));
        }
        let shown = &group.terms[group.terms.len().saturating_sub(SHOWN_TERMS)..];
        let terms: Vec<String> =
            shown.iter().map(|first| format!("{} from {}", first.term, first.index)).collect();
        if !terms.is_empty() {
            let more = if shown.len() < group.terms.len() { ".., " } else { "" };
            row("terms", format!("{more}{}", terms.join(", ")));
        }
        for configuration in &group.configurations {
            row("configuration", format!("at {}: {}", configuration.index, configuration.membership.text()));
        }
        if let Some(snapshot) = &group.snapshot {
            let last = snapshot.last;
            row(
                "snapshot",
                format!(
                    "up to {}.{}, {} bytes, checksum {}; {}",
                    last.term,
                    last.index,
                    snapshot.size_bytes,
                    snapshot.checksum,
                    snapshot.membership.text()
                ),
            );
        }
    }
    text
}
