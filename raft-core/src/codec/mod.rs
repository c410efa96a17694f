//! Bytes on wire and disk. Entries and messages have one hand-kept layout ([`entry`], [`wire`]), decoded without
//! copying payloads, and so have sessions ([`session`]); cold structures go through serde and bincode ([`cold`]), and those whose layout has grown keep all their
//! formats in [`versioned`].

pub mod cold;
pub mod entry;
pub mod session;
pub mod transfer;
pub mod versioned;
pub mod wire;

/// Bytes that are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// They end too early.
    #[error("the bytes end too early")]
    Truncated,
    /// They go on after their end.
    #[error("there are bytes after the end")]
    Trailing,
    /// The checksum is another.
    #[error("the checksum does not match")]
    Checksum,
    /// A kind, version or flag that this version does not know.
    #[error("unknown kind {0}")]
    UnknownKind(u8),
    /// A length, count or number beyond its limit.
    #[error("a length or number is beyond its limit")]
    TooLarge,
    /// A version that is not known, or one that cannot carry the value.
    #[error("this version is not known, or cannot carry the value")]
    Unsupported,
    /// A structure does not decode.
    #[error("the structure does not decode")]
    Malformed,
}
