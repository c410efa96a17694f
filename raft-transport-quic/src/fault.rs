//! Why a connection ends, and what the peer is told of it: a plain code. The reason stays in our log.

use quinn::{ConnectionError, ReadError, ReadExactError, VarInt, WriteError};

/// Codes with which a connection is closed.
const GOODBYE: u32 = 0;
const SUPERSEDED: u32 = 1;
const REFUSED: u32 = 2;
const VERSION: u32 = 3;
const MALFORMED: u32 = 4;

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
            Self::Refused(_) => REFUSED,
            Self::Version(_) => VERSION,
            Self::Malformed(_) => MALFORMED,
        })
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
                    REFUSED => Self::Lost("the peer refused us; its log says why".to_owned()),
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
