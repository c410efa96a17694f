//! Why a connection ends, and what the peer is told of it: a code, and no more, since a stranger need not know what it takes to get
//! in. Only a peer that has proved to be the node that it says, and that the cluster does not take, is told why.

use quinn::{ConnectionError, ReadError, ReadExactError, VarInt, WriteError};

/// Codes with which a connection is closed.
const GOODBYE: u32 = 0;
const SUPERSEDED: u32 = 1;
const REFUSED: u32 = 2;
const VERSION: u32 = 3;
const MALFORMED: u32 = 4;

/// The most that a peer is told, and heard of, beside the code: a packet has room for it.
const MAX_TOLD_BYTES: usize = 400;

/// TLS alerts are the transport error codes from 0x100 on (RFC 9001, 4.8).
const CRYPTO_ERRORS: std::ops::Range<u64> = 0x100..0x200;

/// Why a connection ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// It is not wanted any more.
    #[error("no longer wanted")]
    Goodbye,
    /// The pair has another connection.
    #[error("another connection to the peer is kept")]
    Superseded,
    /// We do not talk to this peer.
    #[error("refused: {0}")]
    Refused(String),
    /// The peer is who it says, and this node's configuration speaks against it: it is told why.
    #[error("refused: {0}")]
    NotAdmitted(String),
    /// No version in common.
    #[error("refused: {0}")]
    Version(String),
    /// The peer sent what a node of this cluster does not send.
    #[error("closed because of what the peer sent: {0}")]
    Malformed(String),
    /// It broke, or the peer ended it.
    #[error("{0}")]
    Lost(String),
}

impl Fault {
    pub(crate) fn code(&self) -> VarInt {
        VarInt::from_u32(match self {
            Self::Goodbye | Self::Lost(_) => GOODBYE,
            Self::Superseded => SUPERSEDED,
            Self::Refused(_) | Self::NotAdmitted(_) => REFUSED,
            Self::Version(_) => VERSION,
            Self::Malformed(_) => MALFORMED,
        })
    }

    /// What the peer is told beside the code.
    pub(crate) fn told(&self) -> &[u8] {
        match self {
            Self::NotAdmitted(reason) => &reason.as_bytes()[..reason.floor_char_boundary(MAX_TOLD_BYTES)],
            _ => &[],
        }
    }

    /// As what we did not get out of a connection at its beginning.
    pub(crate) fn timed_out(what: &str) -> Self {
        Self::Lost(format!("no {what} in time"))
    }
}

impl From<ConnectionError> for Fault {
    fn from(error: ConnectionError) -> Self {
        match error {
            // Found on this side, so it is our own TLS that does not take the peer's certificate.
            ConnectionError::TransportError(error) if CRYPTO_ERRORS.contains(&u64::from(error.code)) => {
                Self::Refused(error.to_string())
            }
            ConnectionError::ConnectionClosed(close)
                if CRYPTO_ERRORS.contains(&u64::from(close.error_code)) =>
            {
                Self::Lost(
                    "the peer does not accept our certificate, or has none that it may show".to_owned(),
                )
            }
            ConnectionError::ApplicationClosed(close) => {
                match u32::try_from(close.error_code.into_inner()).unwrap_or(u32::MAX) {
                    GOODBYE => Self::Lost("the peer closed the connection".to_owned()),
                    SUPERSEDED => Self::Superseded,
                    REFUSED => Self::Lost(refused_us(&close.reason)),
                    VERSION => Self::Lost("the peer speaks no version of the protocol that we do".to_owned()),
                    MALFORMED => Self::Lost("the peer could not read what we sent".to_owned()),
                    other => Self::Lost(format!("the peer closed the connection with code {other}")),
                }
            }
            ConnectionError::TimedOut => Self::Lost("the peer is silent".to_owned()),
            ConnectionError::Reset => Self::Lost("the peer was restarted".to_owned()),
            other => Self::Lost(other.to_string()),
        }
    }
}

/// A peer may say what it likes: what is no text is left out, what is too long is cut.
fn refused_us(reason: &[u8]) -> String {
    let reason = String::from_utf8_lossy(&reason[..reason.len().min(MAX_TOLD_BYTES)]);
    let text: String = reason.chars().filter(|c| !c.is_control()).collect();
    if text.is_empty() {
        "the peer refused us; its log says why".to_owned()
    } else {
        format!("the peer refused us: {text}")
    }
}

impl From<WriteError> for Fault {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::ConnectionLost(error) => error.into(),
            other => Self::Lost(other.to_string()),
        }
    }
}

impl From<ReadError> for Fault {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::ConnectionLost(error) => error.into(),
            other => Self::Lost(other.to_string()),
        }
    }
}

impl From<ReadExactError> for Fault {
    fn from(error: ReadExactError) -> Self {
        match error {
            ReadExactError::FinishedEarly(_) => Self::Malformed("a stream ended too early".to_owned()),
            ReadExactError::ReadError(error) => error.into(),
        }
    }
}
