//! Structures that are stored and whose layout has grown: each with all its formats, in this one place.
//!
//! | bytes | field |
//! | --- | --- |
//! | 2 | format, from 2 on |
//! | 6 | `ff` each |
//! | rest | the structure in that format, as [`cold`] encodes it |
//!
//! Format 1 has none of the first eight bytes. It begins with a number of eight bytes (a count or a term) that is never as
//! high as those are when taken for one, so the two cannot be confused.
//!
//! What is written is the lowest format that can hold the value: a cluster that does not use what is new can still be read by
//! the versions before.
//!
//! | format | new in it |
//! | --- | --- |
//! | 1 | |
//! | 2 | the lineage of a configuration; without it, [`Lineage::UNMARKED`] |
//! | 3 | what a configuration is on its way to, and its suspended members |
//! | 4 | the lease of a configuration: election timeout in microseconds (8 bytes), clock drift (4); without it, none |

use std::collections::{BTreeMap, BTreeSet};

use serde::de::{self, DeserializeOwned};
use serde::ser::{self, Serializer};
use serde::{Deserialize, Deserializer, Serialize};

use super::{CodecError, cold};
use crate::membership::{Lease, Membership, NodeInfo, Target};
use crate::types::{EntryId, Index, Lineage, NodeId, Outline, SnapshotMeta};

/// The latest format.
pub const FORMAT: u16 = 4;

const MARK: [u8; 6] = [0xff; 6];

/// A structure that knows all its formats.
pub trait Versioned: Sized {
    /// The lowest format that can hold this value.
    fn format(&self) -> u16;

    /// The value in `format`, without what stands before it.
    ///
    /// # Errors
    /// [`CodecError::Unsupported`] for an unknown format; where it cannot be encoded.
    #[doc(hidden)]
    fn encode_body(&self, format: u16) -> Result<Vec<u8>, CodecError>;

    /// The value in `format`, without what stands before it.
    ///
    /// # Errors
    /// [`CodecError::Unsupported`] for an unknown format; where the bytes are no such structure.
    #[doc(hidden)]
    fn decode_body(format: u16, body: &[u8]) -> Result<Self, CodecError>;
}

/// Encodes a structure in the lowest format that can hold it.
///
/// # Errors
/// As [`cold::encode`].
pub fn encode(value: &impl Versioned) -> Result<Vec<u8>, CodecError> {
    let format = value.format();
    let body = value.encode_body(format)?;
    if format == 1 {
        return Ok(body);
    }
    Ok([&format.to_le_bytes()[..], &MARK, &body].concat())
}

/// Decodes a structure in any of its formats.
///
/// # Errors
/// [`CodecError::Unsupported`] for a format that this version does not know; [`CodecError::Malformed`] and
/// [`CodecError::Trailing`] as [`cold::decode`].
pub fn decode<T: Versioned>(bytes: &[u8]) -> Result<T, CodecError> {
    let (format, body) = match bytes.split_first_chunk::<8>() {
        Some(([low, high, mark @ ..], body)) if *mark == MARK => (u16::from_le_bytes([*low, *high]), body),
        _ => (1, bytes),
    };
    let value = T::decode_body(format, body)?;
    // One value has one encoding.
    if value.format() == format { Ok(value) } else { Err(CodecError::Malformed) }
}

/// Within another structure, as serde encodes it, each is the bytes that [`encode`] makes: so what holds one needs no formats of
/// its own for it.
macro_rules! as_bytes {
    ($($structure:ty),*) => {$(
        impl Serialize for $structure {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_bytes(&encode(self).map_err(ser::Error::custom)?)
            }
        }

        impl<'de> Deserialize<'de> for $structure {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                decode(&Vec::<u8>::deserialize(deserializer)?).map_err(de::Error::custom)
            }
        }
    )*};
}

as_bytes!(Membership, Outline, SnapshotMeta);

/// One format of a configuration.
trait Layout: Serialize + DeserializeOwned {
    fn pack(membership: &Membership) -> Self;
    fn unpack(self) -> Membership;
}

#[derive(Serialize, Deserialize)]
struct Membership1 {
    voters: BTreeSet<NodeId>,
    outgoing: BTreeSet<NodeId>,
    learners: BTreeSet<NodeId>,
    nodes: BTreeMap<NodeId, NodeInfo>,
}

impl Layout for Membership1 {
    fn pack(membership: &Membership) -> Self {
        let Membership { voters, outgoing, learners, nodes, .. } = membership.clone();
        Self { voters, outgoing, learners, nodes }
    }

    fn unpack(self) -> Membership {
        let Self { voters, outgoing, learners, nodes } = self;
        let lineage = Lineage::UNMARKED;
        Membership { voters, outgoing, learners, nodes, lineage, ..Membership::default() }
    }
}

#[derive(Serialize, Deserialize)]
struct Membership2 {
    base: Membership1,
    lineage: Lineage,
}

impl Layout for Membership2 {
    fn pack(membership: &Membership) -> Self {
        Self { base: Membership1::pack(membership), lineage: membership.lineage }
    }

    fn unpack(self) -> Membership {
        Membership { lineage: self.lineage, ..self.base.unpack() }
    }
}

#[derive(Serialize, Deserialize)]
struct Membership3 {
    base: Membership2,
    target: Option<Target>,
    suspended: BTreeSet<NodeId>,
}

impl Layout for Membership3 {
    fn pack(membership: &Membership) -> Self {
        let Membership { target, suspended, .. } = membership.clone();
        Self { base: Membership2::pack(membership), target, suspended }
    }

    fn unpack(self) -> Membership {
        let Self { base, target, suspended } = self;
        Membership { target, suspended, ..base.unpack() }
    }
}

#[derive(Serialize, Deserialize)]
struct Membership4 {
    base: Membership3,
    lease: Lease,
}

impl Layout for Membership4 {
    fn pack(membership: &Membership) -> Self {
        Self { base: Membership3::pack(membership), lease: membership.lease.unwrap_or(Lease::NONE) }
    }

    fn unpack(self) -> Membership {
        let lease = Some(self.lease).filter(|lease| *lease != Lease::NONE);
        Membership { lease, ..self.base.unpack() }
    }
}

impl Versioned for Membership {
    fn format(&self) -> u16 {
        if self.lease.is_some() {
            4
        } else if self.target.is_some() || !self.suspended.is_empty() {
            3
        } else if self.lineage == Lineage::UNMARKED {
            1
        } else {
            2
        }
    }

    fn encode_body(&self, format: u16) -> Result<Vec<u8>, CodecError> {
        match format {
            1 => cold::encode(&Membership1::pack(self)),
            2 => cold::encode(&Membership2::pack(self)),
            3 => cold::encode(&Membership3::pack(self)),
            4 => cold::encode(&Membership4::pack(self)),
            _ => Err(CodecError::Unsupported),
        }
    }

    fn decode_body(format: u16, body: &[u8]) -> Result<Self, CodecError> {
        match format {
            1 => cold::decode::<Membership1>(body).map(Layout::unpack),
            2 => cold::decode::<Membership2>(body).map(Layout::unpack),
            3 => cold::decode::<Membership3>(body).map(Layout::unpack),
            4 => cold::decode::<Membership4>(body).map(Layout::unpack),
            _ => Err(CodecError::Unsupported),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct OutlineOf<M> {
    base: EntryId,
    terms: Vec<EntryId>,
    memberships: BTreeMap<Index, M>,
}

impl<M: Layout> OutlineOf<M> {
    fn encode(outline: &Outline) -> Result<Vec<u8>, CodecError> {
        let memberships = outline.memberships.iter().map(|(&index, m)| (index, M::pack(m))).collect();
        cold::encode(&Self { base: outline.base, terms: outline.terms.clone(), memberships })
    }

    fn decode(body: &[u8]) -> Result<Outline, CodecError> {
        let Self { base, terms, memberships } = cold::decode(body)?;
        let memberships = memberships.into_iter().map(|(index, m)| (index, m.unpack())).collect();
        Ok(Outline { base, terms, memberships })
    }
}

impl Versioned for Outline {
    fn format(&self) -> u16 {
        self.memberships.values().map(Versioned::format).max().unwrap_or(1)
    }

    fn encode_body(&self, format: u16) -> Result<Vec<u8>, CodecError> {
        match format {
            1 => OutlineOf::<Membership1>::encode(self),
            2 => OutlineOf::<Membership2>::encode(self),
            3 => OutlineOf::<Membership3>::encode(self),
            4 => OutlineOf::<Membership4>::encode(self),
            _ => Err(CodecError::Unsupported),
        }
    }

    fn decode_body(format: u16, body: &[u8]) -> Result<Self, CodecError> {
        match format {
            1 => OutlineOf::<Membership1>::decode(body),
            2 => OutlineOf::<Membership2>::decode(body),
            3 => OutlineOf::<Membership3>::decode(body),
            4 => OutlineOf::<Membership4>::decode(body),
            _ => Err(CodecError::Unsupported),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct SnapshotMetaOf<M> {
    last: EntryId,
    membership: M,
    size_bytes: u64,
    checksum: u32,
}

impl<M: Layout> SnapshotMetaOf<M> {
    fn encode(meta: &SnapshotMeta) -> Result<Vec<u8>, CodecError> {
        let &SnapshotMeta { last, ref membership, size_bytes, checksum } = meta;
        cold::encode(&Self { last, membership: M::pack(membership), size_bytes, checksum })
    }

    fn decode(body: &[u8]) -> Result<SnapshotMeta, CodecError> {
        let Self { last, membership, size_bytes, checksum } = cold::decode(body)?;
        Ok(SnapshotMeta { last, membership: membership.unpack(), size_bytes, checksum })
    }
}

impl Versioned for SnapshotMeta {
    fn format(&self) -> u16 {
        self.membership.format()
    }

    fn encode_body(&self, format: u16) -> Result<Vec<u8>, CodecError> {
        match format {
            1 => SnapshotMetaOf::<Membership1>::encode(self),
            2 => SnapshotMetaOf::<Membership2>::encode(self),
            3 => SnapshotMetaOf::<Membership3>::encode(self),
            4 => SnapshotMetaOf::<Membership4>::encode(self),
            _ => Err(CodecError::Unsupported),
        }
    }

    fn decode_body(format: u16, body: &[u8]) -> Result<Self, CodecError> {
        match format {
            1 => SnapshotMetaOf::<Membership1>::decode(body),
            2 => SnapshotMetaOf::<Membership2>::decode(body),
            3 => SnapshotMetaOf::<Membership3>::decode(body),
            4 => SnapshotMetaOf::<Membership4>::decode(body),
            _ => Err(CodecError::Unsupported),
        }
    }
}
