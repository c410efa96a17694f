//! How a command fails: an exit code and one line that says what to do.

use std::io;

use clap::error::{ContextKind, ErrorKind};
use serde::Serialize;

use crate::api::ErrorCode;
use crate::client::ClientError;

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Refused, not found, or impossible here: exit code 1.
    Refused {
        /// For programs.
        code: &'static str,
        /// For people.
        message: String,
    },
    /// The command line is wrong: exit code 2.
    Usage(String),
    /// It may have happened: exit code 3.
    Unknown(String),
    /// Nobody reads the output any more.
    ClosedPipe,
}

#[derive(Serialize)]
struct FailureBody<'a> {
    error: &'a str,
    message: &'a str,
}

impl Failure {
    /// Refused for a reason that programs need not tell apart.
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::Refused { code: "failed", message: message.into() }
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::ClosedPipe => 0,
            Self::Refused { .. } => 1,
            Self::Usage(_) => 2,
            Self::Unknown(_) => 3,
        }
    }

    /// What happened, in one line whatever the cause wrote.
    pub(crate) fn line(&self) -> String {
        let message = match self {
            Self::Refused { message, .. } | Self::Usage(message) => message.clone(),
            Self::Unknown(message) => format!("{message} (outcome unknown: it may have happened)"),
            Self::ClosedPipe => "nobody reads the output".to_owned(),
        };
        message.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    pub(crate) fn json(&self) -> String {
        let error = match self {
            Self::Refused { code, .. } => code,
            Self::Usage(_) => "usage",
            Self::Unknown(_) => "unknown",
            Self::ClosedPipe => "closed_pipe",
        };
        let line = self.line();
        // Two texts always encode.
        serde_json::to_string(&FailureBody { error, message: &line }).unwrap_or(line)
    }

    /// clap's report, drawn together into one line.
    pub(crate) fn usage_of(error: &clap::Error) -> Self {
        let rendered = error.render().to_string();
        let what: Vec<&str> = rendered
            .lines()
            .map(str::trim)
            .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
            .filter(|line| !line.is_empty())
            .collect();
        let what = match error.kind() {
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => "a command is missing".to_owned(),
            _ => what.join(" ").trim_start_matches("error: ").to_owned(),
        };
        // Where a command is missing, the report is the help, and the usage a line of it.
        let usage = error.get(ContextKind::Usage).map(ToString::to_string);
        let usage =
            usage.or_else(|| rendered.lines().find(|line| line.starts_with("Usage:")).map(str::to_owned));
        let command = usage.map_or_else(|| "raft-kv".to_owned(), |usage| command_in(&usage));
        Self::Usage(format!("{what}; see `{command} --help`"))
    }
}

/// The command that a usage line is about: `Usage: raft-kv put [OPTIONS] ..` is about `raft-kv put`.
fn command_in(usage: &str) -> String {
    let words: Vec<&str> = usage
        .split_whitespace()
        .skip_while(|word| *word != "raft-kv")
        .take_while(|word| {
            word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-') && !word.starts_with("--")
        })
        .collect();
    if words.is_empty() { "raft-kv".to_owned() } else { words.join(" ") }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::ClosedPipe,
            _ => Self::refused(error.to_string()),
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Refused(body) if body.error == ErrorCode::Unknown => Self::Unknown(body.message),
            ClientError::Refused(body) => Self::Refused { code: body.error.as_str(), message: body.message },
            ClientError::Unknown(message) => Self::Unknown(message),
            ClientError::Input(message) => Self::Usage(message),
        }
    }
}
