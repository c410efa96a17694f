//! The nouns of client sessions: what a client's retried command is known by (thesis, 6.3).

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::types::Index;

/// Names a client's session. The index is that of its opening entry, so no session is ever opened a second time; the mark is a
/// random number, so that a log that lost entries, or was begun from a backup, does not give one client's session to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId {
    /// The index of the opening entry.
    pub index: Index,
    /// Drawn by whoever opened it.
    pub mark: u64,
}

impl SessionId {
    /// The bytes of [`to_bytes`](Self::to_bytes).
    pub const BYTES: usize = 16;

    /// Index and mark, little-endian.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        (u128::from(self.mark) << 64 | u128::from(self.index)).to_le_bytes()
    }

    /// What [`to_bytes`](Self::to_bytes) gave.
    pub const fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let number = u128::from_le_bytes(bytes);
        Self { index: number as u64, mark: (number >> 64) as u64 }
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:016x}", self.index, self.mark)
    }
}

impl FromStr for SessionId {
    type Err = ParseSessionIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (index, mark) = text.split_once('-').ok_or(ParseSessionIdError)?;
        let plain =
            |text: &str, digit: fn(&u8) -> bool| !text.is_empty() && text.as_bytes().iter().all(digit);
        if !plain(index, u8::is_ascii_digit) || !plain(mark, u8::is_ascii_hexdigit) || mark.len() != 16 {
            return Err(ParseSessionIdError);
        }
        let index = index.parse().map_err(|_| ParseSessionIdError)?;
        let mark = u64::from_str_radix(mark, 16).map_err(|_| ParseSessionIdError)?;
        Ok(Self { index, mark })
    }
}

/// A text is not a [`SessionId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a session is named by a number, a dash and 16 hexadecimal digits")]
pub struct ParseSessionIdError;

/// How much a session may cost every node. They are written into its opening entry, so that all nodes keep to the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionLimits {
    /// A session that is not used for so long is over, in log time: the time in which there was a leader. Default: an hour.
    pub idle: Duration,
    /// The most sessions at once; beyond, none is opened. Default: 10,000.
    pub max_sessions: u32,
    /// The most answers kept a session: how many commands a client may have under way. Default: 1,024.
    pub max_answers: u32,
    /// The most bytes of answers kept a session; beyond, the answer of the lowest number goes, and who asks for it again learns
    /// only that its command was applied. Default: 64 KiB.
    pub max_answer_bytes: u32,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(3600),
            max_sessions: 10_000,
            max_answers: 1_024,
            max_answer_bytes: 64 << 10,
        }
    }
}

/// A command within a session: what makes it known again when it is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Serial {
    /// The session.
    pub session: SessionId,
    /// The command's number, counted by the client; repeated, a command has the same.
    pub number: u64,
    /// The client has seen the answer to every number below this, or gave up on it: none of them will be applied from now on,
    /// and their answers go.
    pub seen_below: u64,
}

/// What is asked of the sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionAction {
    /// A new one; its id is the index of this entry, and the mark.
    Open {
        /// A random number.
        mark: u64,
        /// What it may cost.
        limits: SessionLimits,
    },
    /// A command for the state machine, to be applied once.
    Command {
        /// What it is known by.
        serial: Serial,
        /// The command, opaque to the library.
        command: Bytes,
    },
    /// The session is in use, though it has no command.
    Keep {
        /// The session.
        session: SessionId,
        /// As in [`Serial::seen_below`].
        seen_below: u64,
    },
    /// It is not needed any more.
    Close {
        /// The session.
        session: SessionId,
    },
}

impl SessionAction {
    /// The bytes of a command in it.
    pub fn command_bytes(&self) -> usize {
        match self {
            Self::Command { command, .. } => command.len(),
            _ => 0,
        }
    }
}

/// What an entry says that concerns sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionEntry {
    /// How much log time passes with this entry: the milliseconds since the leader's last entry of this kind, or since it leads.
    /// The sum over the log is the same on every node, and no clock is asked for it when it is applied.
    pub elapsed_ms: u64,
    /// What is asked.
    pub action: SessionAction,
}

impl SessionEntry {
    /// What it takes beside its command, at most.
    pub const OVERHEAD_BYTES: usize = 41;

    /// The bytes that it counts for.
    pub fn bytes(&self) -> usize {
        Self::OVERHEAD_BYTES + self.action.command_bytes()
    }
}

/// A client's own account of its session: which numbers are given out and not ended. Shared by all its calls under way.
#[derive(Clone, Debug)]
pub struct Numbers {
    session: SessionId,
    next: u64,
    under_way: BTreeSet<u64>,
}

impl Numbers {
    /// Those of a new session.
    pub const fn new(session: SessionId) -> Self {
        Self { session, next: 0, under_way: BTreeSet::new() }
    }

    /// The session.
    pub const fn session(&self) -> SessionId {
        self.session
    }

    /// The number of a new call.
    pub fn begin(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        self.under_way.insert(number);
        number
    }

    /// What a command is to be sent with, the first time and each time again.
    pub fn serial(&self, number: u64) -> Serial {
        let seen_below = self.under_way.first().copied().unwrap_or(self.next).min(number);
        Serial { session: self.session, number, seen_below }
    }

    /// The call has its answer, or is given up: if its command was not applied by now, it never will be once a later one was.
    pub fn end(&mut self, number: u64) {
        self.under_way.remove(&number);
    }
}

/// Why a call in a session did not do what it asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// There is no such session: it was not used for too long, or was closed. The command was not applied by this call; whether an
    /// earlier call with the same number applied it, nobody can tell any more.
    #[error("the session has expired")]
    Expired,
    /// There are as many sessions as there may be.
    #[error("there are too many sessions: repeat it later")]
    TooMany,
    /// The number is too far beyond the answers that the client has not seen: repeat it when one of those has come.
    #[error("too many commands of the session are under way: repeat it when one of them is answered")]
    Full,
    /// The client said that it had seen the answer to this number, or gave up on it. The command was not applied by this call.
    #[error("the session's client has said that it needs no answer to this number any more")]
    Seen,
    /// The command was applied, once, and its answer is not kept any more.
    #[error("the command was applied, and its answer is not kept any more")]
    AnswerGone,
    /// Not every member is known to understand sessions: one may run an older version. Repeat it when all do.
    #[error("not every member is known to understand sessions yet")]
    NotYet,
}

impl SessionError {
    /// Whether the command of the failed call has not been applied by it, and never will be.
    pub const fn is_refused(self) -> bool {
        !matches!(self, Self::AnswerGone | Self::Seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_written() {
        let id = SessionId { index: 70, mark: 0xabc };
        assert_eq!(id.to_string(), "70-0000000000000abc");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(SessionId::from_bytes(id.to_bytes()), id);
        assert_eq!(id.to_bytes()[..9], [70, 0, 0, 0, 0, 0, 0, 0, 0xbc]);
        for wrong in
            ["", "7", "7-", "-0000000000000abc", "7-abc", "+7-0000000000000abc", "7-+000000000000abc"]
        {
            assert_eq!(wrong.parse::<SessionId>(), Err(ParseSessionIdError), "{wrong}");
        }
    }
}
