//! Messages, writes and events as one readable line each.

use std::fmt::Write as _;

use crate::engine::Event;
use crate::log_store::Write;
use crate::message::{AppendOutcome, Envelope, Message};
use crate::session::{SessionAction, SessionEntry};
use crate::types::{Entry, EntryId, HardState, Payload};

/// A message: `1->2 append t3 prev 1.4 [2.5 3.6] commit 4 round 7`.
pub fn envelope(envelope: &Envelope) -> String {
    format!("{}->{} {}", envelope.from.node, envelope.to.node, message(&envelope.message))
}

/// A message without its ends.
pub fn message(message: &Message) -> String {
    match message {
        Message::VoteRequest(m) => {
            let kind = if m.pre_vote { "pre-vote request" } else { "vote request" };
            let transfer = if m.transfer { " transfer" } else { "" };
            format!("{kind} t{} last {}{transfer}", m.term, m.last)
        }
        Message::VoteResponse(m) => {
            let kind = if m.pre_vote { "pre-vote" } else { "vote" };
            let answer = if m.granted { "granted" } else { "refused" };
            format!("{kind} {answer} t{}", m.term)
        }
        Message::AppendRequest(m) if m.entries.is_empty() => {
            format!("heartbeat t{} prev {} commit {} round {}", m.term, m.prev, m.commit, m.round)
        }
        Message::AppendRequest(m) => {
            format!(
                "append t{} prev {} {} commit {} round {}",
                m.term,
                m.prev,
                entries(&m.entries),
                m.commit,
                m.round
            )
        }
        Message::AppendResponse(m) => match m.outcome {
            AppendOutcome::Accepted { matched, received } => {
                format!("accepted t{} matched {matched} received {received} round {}", m.term, m.round)
            }
            AppendOutcome::Conflict { prev, hint, last } => {
                format!("conflict t{} prev {prev} hint {hint} last {last} round {}", m.term, m.round)
            }
            AppendOutcome::Stale => format!("stale t{} round {}", m.term, m.round),
        },
        Message::TimeoutNow(m) => format!("timeout-now t{} round {}", m.term, m.round),
        Message::ReadRequest(m) => {
            let lease = if m.lease { " by lease" } else { "" };
            format!("read request t{} {}{lease}", m.term, m.ticket.number)
        }
        Message::ReadResponse(m) => format!("read response t{} {} at {}", m.term, m.ticket.number, m.index),
        Message::IdentityRequest => "who are you".to_owned(),
        Message::IdentityResponse { founded: true, .. } => "identity, founded".to_owned(),
        Message::IdentityResponse { last: EntryId::ZERO, .. } => "identity, blank".to_owned(),
        Message::IdentityResponse { last, .. } => format!("identity, restored to {last}"),
        Message::Dismissed { membership, dismissal } => {
            format!("you are {} by {membership}", dismissal.as_str())
        }
    }
}

/// The ids of entries: `[2.5 3.6]`; a long run of one term is `[2.5..2.90]`.
pub fn entries(entries: &[Entry]) -> String {
    let mut text = String::from("[");
    let mut runs = entries.chunk_by(|a, b| a.term() == b.term()).peekable();
    while let Some(run) = runs.next() {
        match run {
            [first, .., last] if run.len() > 4 => {
                let _ = write!(text, "{}..{}", first.id, last.id);
            }
            _ => {
                let ids: Vec<String> = run.iter().map(|e| e.id.to_string()).collect();
                text.push_str(&ids.join(" "));
            }
        }
        if runs.peek().is_some() {
            text.push(' ');
        }
    }
    text.push(']');
    text
}

/// A payload: the command's text, `noop`, or the configuration.
pub fn payload(payload: &Payload) -> String {
    match payload {
        Payload::Noop => "noop".to_owned(),
        Payload::Command(command) => match std::str::from_utf8(command) {
            Ok(text) if text.len() <= 20 && text.chars().all(|c| !c.is_control()) => format!("'{text}'"),
            _ => format!("{} bytes", command.len()),
        },
        Payload::Membership(membership) => membership.to_string(),
        Payload::Session(entry) => session(entry),
    }
}

/// What is asked of the sessions, and the log time that passes: `session 4 #1 seen 1 'a' +20ms`.
fn session(entry: &SessionEntry) -> String {
    let text = match &entry.action {
        SessionAction::Open { .. } => "open a session".to_owned(),
        SessionAction::Command { serial, command } => format!(
            "session {} #{} seen {} {}",
            serial.session.index,
            serial.number,
            serial.seen_below,
            payload(&Payload::Command(command.clone()))
        ),
        SessionAction::Keep { session, seen_below } => {
            format!("keep session {} seen {seen_below}", session.index)
        }
        SessionAction::Close { session } => format!("close session {}", session.index),
    };
    format!("{text} +{}ms", entry.elapsed_ms)
}

/// A hard state: `t3 vote 1 commit 4`.
pub fn hard_state(state: &HardState) -> String {
    let mut text = format!("t{}", state.term);
    if let Some(vote) = state.vote {
        let _ = write!(text, " vote {vote}");
    }
    let _ = write!(text, " commit {}", state.commit);
    text
}

/// A write: `w3 truncate 5 [2.5 3.6] t3 vote 1 commit 4`.
pub fn write(write: &Write) -> String {
    let mut text = format!("w{}", write.number);
    if let Some(snapshot) = &write.snapshot {
        let _ = write!(text, " snapshot {}", snapshot.last);
    }
    if let Some(from) = write.truncate_from {
        let _ = write!(text, " truncate {from}");
    }
    if !write.entries.is_empty() {
        let _ = write!(text, " {}", entries(&write.entries));
    }
    if let Some(state) = &write.hard_state {
        let _ = write!(text, " {}", hard_state(state));
    }
    if let Some(through) = write.compact_to {
        let _ = write!(text, " compact {through}");
    }
    text
}

/// An event.
pub fn event(event: &Event) -> String {
    match event {
        Event::PreCampaign { term } => format!("asks for pre-votes t{term}"),
        Event::Campaign { term } => format!("campaigns t{term}"),
        Event::Elected { term } => format!("leads t{term}"),
        Event::Following { term, leader: Some(leader) } => format!("follows {leader} t{term}"),
        Event::Following { term, leader: None } => format!("follows nobody t{term}"),
        Event::QuorumLost { term } => format!("hears no majority, stops leading t{term}"),
        Event::DiskStalled { term } => format!("has a stalled disk, stops leading t{term}"),
        Event::Transferring { to, term, reason } => format!("hands over to {to} t{term}: {reason}"),
        Event::TransferFailed { to, term } => format!("goes on leading t{term}, {to} did not take over"),
        Event::Truncated { from, last } => format!("drops {from} to {last}"),
        Event::Resend { peer, from } => format!("sends again to {peer} from {from}"),
        Event::PromiseBroken { peer, matched, last } => {
            format!("finds that {peer} promised {matched} and holds {last}")
        }
        Event::Refused { from, reason } => format!("refuses a message of {}: {reason}", from.node),
        Event::SnapshotTaken { last } => format!("has a snapshot of {last}"),
        Event::SnapshotFailed => "could not take a snapshot".to_owned(),
        Event::SnapshotSent { peer, outcome } => {
            format!("sent a snapshot to {peer}: {outcome:?}").to_lowercase()
        }
        Event::SnapshotLost { peer } => format!("finds that {peer} lost its snapshot"),
        Event::SnapshotInstalled { last, dropped } => format!("installs a snapshot of {last} over {dropped}"),
        Event::MembershipAppended { index, membership } => format!("enters {membership} at {index}"),
        Event::MembershipCommitted { index } => {
            format!("knows that the configuration of {index} is committed")
        }
        Event::CatchUpSlow { peer, rounds } => {
            format!("finds that {peer} did not keep up in {rounds} rounds")
        }
        Event::LeftOffice { term } => format!("votes no more, stops leading t{term}"),
        Event::Dismissed { by, dismissal } => format!("hears from {by} that it is {}", dismissal.as_str()),
        Event::Founding => "founds the cluster".to_owned(),
        Event::FoundingEnded { reason } => format!("founds no more: {reason}"),
    }
}
