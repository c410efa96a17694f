//! What `/members` takes and gives: the members, where a change of them stands, and changes to be made.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{MemberBody, SnapshotProgressBody};

/// The answer to `GET /members`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembersBody {
    /// The node that tells: the leader, unless the state of another was asked for.
    pub by: u64,
    /// The leader, where one is known.
    pub leader: Option<u64>,
    /// The last entry of the log of the node that tells.
    pub last: u64,
    /// The entry of the configuration in force.
    pub index: u64,
    /// Whether it is known to be committed.
    pub committed: bool,
    /// Its members.
    pub members: Vec<MemberStateBody>,
    /// The change that is under way.
    pub change: Option<ChangeStateBody>,
}

impl MembersBody {
    /// The member of this id.
    pub fn member(&self, id: u64) -> Option<&MemberStateBody> {
        self.members.iter().find(|state| state.member.id == id)
    }
}

/// A member in a [`MembersBody`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStateBody {
    /// Who it is.
    #[serde(flatten)]
    pub member: MemberBody,
    /// What it becomes by the change that is under way: `voter`, `learner`, `removed` or `readmitted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub becomes: Option<String>,
    /// Whether it answers, where the leader tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<bool>,
    /// How far it holds the leader's log, where the leader tells and has heard of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holds: Option<u64>,
    /// The snapshot that it is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotProgressBody>,
}

/// Where a change of the members stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeStateBody {
    /// Who votes in the end.
    pub voters: Vec<u64>,
    /// Who gets the log and does not vote in the end.
    pub learners: Vec<u64>,
    /// Who is to be taken in again with another data folder.
    pub readmit: Vec<u64>,
    /// Whether a joint configuration is in force, in which a majority of the old voters and one of the new is needed.
    pub joint: bool,
    /// What it waits for, as far as the node that tells can know.
    pub waits: Vec<WaitBody>,
}

/// What a change of the members waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "for", rename_all = "snake_case")]
#[non_exhaustive]
pub enum WaitBody {
    /// The leader's first entry of its term is not committed.
    FirstCommit,
    /// The configuration of this entry is not committed.
    Commit {
        /// The entry.
        index: u64,
    },
    /// The node was asked which data folder it has, and has not answered.
    Identity {
        /// The node.
        node: u64,
    },
    /// The node does not answer.
    Silent {
        /// The node.
        node: u64,
    },
    /// The node must hold the log before it may vote.
    CatchUp {
        /// The node.
        node: u64,
        /// How far it is.
        matched: u64,
        /// How far it must come.
        goal: u64,
        /// How often it came there too slowly.
        slow_rounds: u32,
    },
    /// The node runs an older version, which cannot read what is in the log.
    OlderVersion {
        /// The node.
        node: u64,
        /// The level of payloads that it knows.
        level: u8,
        /// The level that is in the log.
        needed: u8,
    },
    /// Leadership is being handed over.
    Transfer,
    /// Something that this version does not know.
    #[serde(other)]
    Other,
}

impl fmt::Display for WaitBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FirstCommit => write!(f, "the leader's first commit"),
            Self::Commit { index } => write!(f, "a majority to hold the configuration of entry {index}"),
            Self::Identity { node } => write!(f, "node {node} to say which data folder it has"),
            Self::Silent { node } => write!(f, "node {node}, which does not answer"),
            Self::CatchUp { node, matched, goal, slow_rounds } => {
                write!(f, "node {node}: {} of {} entries", grouped(*matched), grouped(*goal))?;
                if *slow_rounds > 0 { write!(f, " (too slow so far)") } else { Ok(()) }
            }
            Self::OlderVersion { node, level, needed } => write!(
                f,
                "node {node} to be upgraded: it knows payloads up to level {level}, and there are some of level {needed} in the log"
            ),
            Self::Transfer => write!(f, "leadership to be handed over"),
            Self::Other => write!(f, "something that this version does not know"),
        }
    }
}

/// A number with a comma before each three digits.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The body of `POST /members`: changes that are made together, each to what the ones before lead to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeBody {
    /// The changes.
    pub changes: Vec<MemberChange>,
    /// Do not look first whether nodes that are to come in answer and are who they should be.
    #[serde(default)]
    pub unchecked: bool,
}

/// One change of the members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum MemberChange {
    /// A node that is no member comes in.
    Add {
        /// The node's id, as in its certificate.
        id: u64,
        /// Where the other nodes reach it.
        address: String,
        /// Where clients reach it.
        client_address: String,
        /// It is to get the log and no vote.
        #[serde(default)]
        learner: bool,
    },
    /// The node itself asks to come in. Nothing happens where it is in already, with this data folder.
    Join {
        /// The node's id, as in its certificate.
        id: u64,
        /// Where the other nodes reach it.
        address: String,
        /// Where clients reach it.
        client_address: String,
        /// It wants the log and no vote.
        #[serde(default)]
        learner: bool,
        /// The data folder that it has.
        incarnation: String,
    },
    /// A member goes.
    Remove {
        /// The member's id.
        id: u64,
    },
    /// A learner is to vote.
    Promote {
        /// The learner's id.
        id: u64,
    },
    /// A voter is to become a learner.
    Demote {
        /// The voter's id.
        id: u64,
    },
    /// A member goes, and a node that is no member comes in, in the same role.
    Replace {
        /// The member's id.
        old: u64,
        /// The new node's id, as in its certificate.
        id: u64,
        /// Where the other nodes reach it.
        address: String,
        /// Where clients reach it.
        client_address: String,
    },
    /// A member whose data folder was lost or emptied is taken in again, with the one that it has now.
    Readmit {
        /// The member's id.
        id: u64,
    },
    /// A member is reached elsewhere.
    Move {
        /// The member's id.
        id: u64,
        /// Where the other nodes reach it.
        address: String,
        /// Where clients reach it.
        client_address: String,
    },
}

/// The answer to `POST /members` and `POST /members/cancel`: what was asked for is committed as the cluster's intent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedBody {
    /// The entry that holds the intent.
    pub index: u64,
    /// Whether there was anything to change.
    pub changed: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_three_digits() {
        for (number, text) in
            [(0, "0"), (999, "999"), (1_200, "1,200"), (28_300, "28,300"), (1_000_000, "1,000,000")]
        {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn what_a_change_waits_for_is_said() {
        let wait = WaitBody::CatchUp { node: 4, matched: 1_200, goal: 5_000, slow_rounds: 0 };
        assert_eq!(wait.to_string(), "node 4: 1,200 of 5,000 entries");
        let json = serde_json::to_value(&wait).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"for": "catch_up", "node": 4, "matched": 1200, "goal": 5000, "slow_rounds": 0})
        );
        let later: WaitBody = serde_json::from_str(r#"{"for":"a_later_version","node":1}"#).unwrap();
        assert_eq!(later, WaitBody::Other);
    }
}
