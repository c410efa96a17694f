//! The first words on a connection: who speaks, in which versions. See `docs/transport.md` for the bytes.

use bytes::{Buf, BufMut};
use quinn::{RecvStream, SendStream};
use raft_core::codec::wire;
use raft_core::transport::LocalNode;
use raft_core::types::{ClusterId, Incarnation, Lineage, NodeId, Peer};

use crate::fault::Fault;

/// The oldest version of frames, lanes and streams that this node speaks.
const MIN_VERSION: u16 = *wire::VERSIONS.start();
/// The newest.
const MAX_VERSION: u16 = *wire::VERSIONS.end();
/// From this one on the hello says the lineage, and there are streams for snapshots.
pub(crate) const SNAPSHOT_VERSION: u16 = 2;

const MAGIC: [u8; 4] = *b"RAFT";
pub(crate) const HEADER_BYTES: usize = 6;
/// The body of a version 1's hello, and so the least of any.
pub(crate) const MIN_BODY_BYTES: usize = 52;
/// With the lineage.
pub(crate) const BODY_BYTES: usize = 60;
/// A later version may say more, but no hello needs more than this.
const MAX_BODY_BYTES: usize = 1024;

/// Says who speaks. The one who dials says it first; the other one answers in the version that both speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) min_version: u16,
    pub(crate) max_version: u16,
    pub(crate) cluster: ClusterId,
    pub(crate) from: Peer,
    pub(crate) boot: u64,
    pub(crate) to: NodeId,
    /// Unknown where the speaker's version does not say it.
    pub(crate) lineage: Lineage,
}

impl Hello {
    /// What `local`, now of `lineage`, says first to the node `to`.
    pub(crate) fn offer(local: LocalNode, lineage: Lineage, to: NodeId) -> Self {
        Self {
            min_version: MIN_VERSION,
            max_version: MAX_VERSION,
            cluster: local.cluster,
            from: local.peer,
            boot: local.boot,
            to,
            lineage,
        }
    }

    /// What `local`, now of `lineage`, answers.
    ///
    /// # Errors
    /// Where the two have no version in common.
    pub(crate) fn answer(&self, local: LocalNode, lineage: Lineage) -> Result<Self, Fault> {
        let version = self.max_version.min(MAX_VERSION);
        if version < self.min_version.max(MIN_VERSION) {
            return Err(Fault::Version(format!(
                "the peer speaks the versions {} to {}, and we {MIN_VERSION} to {MAX_VERSION}",
                self.min_version, self.max_version
            )));
        }
        Ok(Self { min_version: version, max_version: version, ..Self::offer(local, lineage, self.from.node) })
    }

    /// Checks an answer's version.
    pub(crate) fn check_answer(&self) -> Result<(), Fault> {
        if self.min_version == self.max_version && (MIN_VERSION..=MAX_VERSION).contains(&self.max_version) {
            Ok(())
        } else {
            Err(Fault::Version(format!("the peer answered in version {}", self.max_version)))
        }
    }

    /// Checks that the speaker is the `authenticated` node, and speaks to `local`.
    pub(crate) fn check_names(&self, authenticated: NodeId, local: LocalNode) -> Result<(), Fault> {
        if self.cluster != local.cluster {
            return Err(Fault::Refused(format!("it is of cluster {}", self.cluster)));
        }
        if self.from.node != authenticated {
            return Err(Fault::Refused(format!(
                "its certificate is node {authenticated}'s, and it claims to be node {}",
                self.from.node
            )));
        }
        if self.from.incarnation == Incarnation::UNKNOWN {
            return Err(Fault::Malformed("the hello names no incarnation".to_owned()));
        }
        if self.to != local.peer.node {
            return Err(Fault::Refused(format!("it wants to talk to node {}", self.to)));
        }
        Ok(())
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES + BODY_BYTES);
        out.put_slice(&MAGIC);
        out.put_u16_le(BODY_BYTES as u16);
        out.put_u16_le(self.min_version);
        out.put_u16_le(self.max_version);
        out.put_u128_le(self.cluster.0);
        out.put_u64_le(self.from.node.0);
        out.put_u64_le(self.from.incarnation.0);
        out.put_u64_le(self.boot);
        out.put_u64_le(self.to.0);
        out.put_u64_le(self.lineage.0);
        out
    }

    pub(crate) fn body_bytes(header: [u8; HEADER_BYTES]) -> Result<usize, Fault> {
        let length = usize::from(u16::from_le_bytes([header[4], header[5]]));
        if header[..4] != MAGIC || !(MIN_BODY_BYTES..=MAX_BODY_BYTES).contains(&length) {
            return Err(Fault::Malformed("the hello is none".to_owned()));
        }
        Ok(length)
    }

    /// Takes a hello from `body`, which [`Self::body_bytes`] has found long enough; what a later version added is skipped.
    ///
    /// # Errors
    /// Where it says less than its version must.
    pub(crate) fn decode(mut body: &[u8]) -> Result<Self, Fault> {
        let mut hello = Self {
            min_version: body.get_u16_le(),
            max_version: body.get_u16_le(),
            cluster: ClusterId(body.get_u128_le()),
            from: Peer { node: NodeId(body.get_u64_le()), incarnation: Incarnation(body.get_u64_le()) },
            boot: body.get_u64_le(),
            to: NodeId(body.get_u64_le()),
            lineage: Lineage::UNKNOWN,
        };
        match body.try_get_u64_le() {
            Ok(lineage) => hello.lineage = Lineage(lineage),
            Err(_) if hello.max_version < SNAPSHOT_VERSION => {}
            Err(_) => return Err(Fault::Malformed("the hello names no lineage".to_owned())),
        }
        Ok(hello)
    }

    /// Says it; the stream says nothing else.
    pub(crate) async fn write(&self, stream: &mut SendStream) -> Result<(), Fault> {
        stream.write_all(&self.encode()).await?;
        // Fails only where the connection is closed, which whoever waits for the next word finds out.
        let _ = stream.finish();
        Ok(())
    }

    /// Hears one.
    pub(crate) async fn read(stream: &mut RecvStream) -> Result<Self, Fault> {
        let mut header = [0; HEADER_BYTES];
        stream.read_exact(&mut header).await?;
        let mut body = vec![0; Self::body_bytes(header)?];
        stream.read_exact(&mut body).await?;
        Self::decode(&body)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn local(node: u64) -> LocalNode {
        let peer = Peer { node: NodeId(node), incarnation: Incarnation(0x1122) };
        LocalNode { cluster: ClusterId(0xfeed), peer, boot: 3 }
    }

    fn offer() -> Hello {
        Hello::offer(local(7), Lineage(5), NodeId(9))
    }

    fn decode(bytes: &[u8]) -> Result<Hello, Fault> {
        let (header, body) = bytes.split_at(HEADER_BYTES);
        let length = Hello::body_bytes(header.try_into().expect("six bytes"))?;
        assert_eq!(length, body.len());
        Hello::decode(body)
    }

    /// As [`Hello::read`] takes it off a stream: the bytes taken, or that there were too few.
    fn read(stream: &[u8]) -> Result<Option<(Hello, usize)>, Fault> {
        let Some((header, rest)) = stream.split_first_chunk() else { return Ok(None) };
        let length = Hello::body_bytes(*header)?;
        assert!(length <= MAX_BODY_BYTES);
        rest.get(..length).map(|body| Ok((Hello::decode(body)?, HEADER_BYTES + length))).transpose()
    }

    /// Refused or understood, and then the same bytes again, but for what a later version added.
    fn check(stream: &[u8]) {
        let Ok(Some((hello, taken))) = read(stream) else { return };
        let again = hello.encode();
        let said = taken.min(again.len());
        assert_eq!(again[HEADER_BYTES..said], stream[HEADER_BYTES..said]);
        let _refused_or_not = hello.check_names(NodeId(7), local(9));
        let _in_range_or_not = hello.check_answer();
        if let Ok(answer) = hello.answer(local(9), Lineage(6)) {
            assert_eq!(answer.check_answer(), Ok(()));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_hello_or_none(stream in prop::collection::vec(any::<u8>(), 0..1200)) {
            check(&stream);
        }

        #[test]
        fn any_body_is_a_hello(body in prop::collection::vec(any::<u8>(), 0..=MAX_BODY_BYTES + 9)) {
            let mut stream = MAGIC.to_vec();
            stream.extend(u16::try_from(body.len()).expect("is short").to_le_bytes());
            stream.extend(&body);
            let brief = body.len() < BODY_BYTES && body.get(2..4) > Some(&[1, 0]);
            let fits = (MIN_BODY_BYTES..=MAX_BODY_BYTES).contains(&body.len());
            prop_assert!(brief || matches!(read(&stream), Ok(Some(_))) == fits);
            check(&stream);
        }

        #[test]
        fn a_changed_hello_is_refused_or_another(
            changes in prop::collection::vec((0..HEADER_BYTES + BODY_BYTES, any::<u8>()), 1..6),
            length in 0..=HEADER_BYTES + BODY_BYTES,
        ) {
            let mut stream = offer().encode();
            changes.into_iter().for_each(|(at, value)| stream[at] = value);
            check(&stream);
            check(&stream[..length]);
        }
    }

    #[test]
    fn the_bytes_of_version_4() {
        let expected: &[u8] = &[
            b'R', b'A', b'F', b'T', 60, 0, // magic, length
            1, 0, 4, 0, // versions
            0xed, 0xfe, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // cluster
            7, 0, 0, 0, 0, 0, 0, 0, 0x22, 0x11, 0, 0, 0, 0, 0, 0, // node, incarnation
            3, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, // boot, receiver
            5, 0, 0, 0, 0, 0, 0, 0, // lineage
        ];
        assert_eq!(offer().encode(), expected);
        assert_eq!(decode(expected), Ok(offer()));
    }

    /// What a node of version 1 says.
    const VERSION_1: &[u8] = &[
        b'R', b'A', b'F', b'T', 52, 0, // magic, length
        1, 0, 1, 0, // versions
        0xed, 0xfe, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // cluster
        7, 0, 0, 0, 0, 0, 0, 0, 0x22, 0x11, 0, 0, 0, 0, 0, 0, // node, incarnation
        3, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, // boot, receiver
    ];

    #[test]
    fn the_bytes_of_version_1_are_understood_and_answered() {
        let hello = decode(VERSION_1).expect("is understood");
        assert_eq!(hello, Hello { max_version: 1, lineage: Lineage::UNKNOWN, ..offer() });
        let answer = hello.answer(local(9), Lineage(6)).expect("has version 1 in common");
        assert_eq!((answer.min_version, answer.max_version), (1, 1));
        assert_eq!(hello.check_answer(), Ok(()));
    }

    /// Beside the version, it says what we say.
    #[test]
    fn a_hello_of_version_2_or_3_is_answered_in_it() {
        for version in [2, 3] {
            let mut bytes = offer().encode();
            bytes[8] = version;
            let version = u16::from(version);
            let hello = decode(&bytes).expect("is understood");
            assert_eq!(hello, Hello { max_version: version, ..offer() });
            let answer = hello.answer(local(9), Lineage(6)).expect("has that version in common");
            assert_eq!((answer.min_version, answer.max_version), (version, version));
        }
    }

    #[test]
    fn a_later_version_may_say_more_but_not_less() {
        let mut bytes = Hello { max_version: 9, ..offer() }.encode();
        bytes.extend([0xff; 10]);
        bytes[4] += 10;
        let hello = decode(&bytes).expect("is understood");
        assert_eq!(hello.lineage, Lineage(5));
        let answer = hello.answer(local(9), Lineage(6)).expect("has our version in common");
        let ours = (MAX_VERSION, MAX_VERSION, NodeId(7));
        assert_eq!((answer.min_version, answer.max_version, answer.to), ours);
        assert_eq!(answer.check_answer(), Ok(()));

        let mut bytes = VERSION_1.to_vec();
        bytes[8] = 2;
        assert!(matches!(decode(&bytes), Err(Fault::Malformed(_))));
    }

    #[test]
    fn no_version_in_common() {
        let later = Hello { min_version: MAX_VERSION + 1, max_version: MAX_VERSION + 2, ..offer() };
        assert!(matches!(later.answer(local(9), Lineage(6)), Err(Fault::Version(_))));
        assert!(matches!(later.check_answer(), Err(Fault::Version(_))));
        let inverted = Hello { min_version: 1, max_version: 0, ..later };
        assert!(matches!(inverted.answer(local(9), Lineage(6)), Err(Fault::Version(_))));
    }

    #[test]
    fn a_hello_that_is_none() {
        let bytes = offer().encode();
        for (at, value) in [(0, b'X'), (4, 51), (5, 5)] {
            let mut header: [u8; HEADER_BYTES] = bytes[..HEADER_BYTES].try_into().expect("six bytes");
            header[at] = value;
            assert!(matches!(Hello::body_bytes(header), Err(Fault::Malformed(_))), "{header:?}");
        }
    }

    #[test]
    fn names_must_fit() {
        let hello = offer();
        assert_eq!(hello.check_names(NodeId(7), local(9)), Ok(()));
        assert!(matches!(hello.check_names(NodeId(8), local(9)), Err(Fault::Refused(_))));
        assert!(matches!(hello.check_names(NodeId(7), local(8)), Err(Fault::Refused(_))));
        let foreign = Hello { cluster: ClusterId(1), ..hello };
        assert!(matches!(foreign.check_names(NodeId(7), local(9)), Err(Fault::Refused(_))));
        let unknown = Hello { from: Peer { incarnation: Incarnation::UNKNOWN, ..hello.from }, ..hello };
        assert!(matches!(unknown.check_names(NodeId(7), local(9)), Err(Fault::Malformed(_))));
    }
}
