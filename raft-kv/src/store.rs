//! The replicated state machine: an ordered map in which every key knows its revisions.

use std::io::{self, Read, Write};

use bytes::{Buf, BufMut, Bytes};
use raft_core::Machine;
use raft_core::machine::Snapshot;
use raft_core::state_machine::{MachineError, SnapshotView};

use crate::command::{
    Answer, Command, Expected, MAX_SCAN_BYTES, MAX_SCAN_LIMIT, Page, Pair, Query, Range, Reply, Revision,
    Revisions, Summary,
};
use crate::leaf_map::LeafMap;

/// The store. Every change counts its revision up by one, and a command that changes nothing leaves it alone.
///
/// ```
/// use raft_core::Machine;
/// use raft_kv::command::{Command, Expected, Reply};
/// use raft_kv::store::Store;
///
/// let mut store = Store::default();
/// store.apply(Command::Put { key: "a".into(), value: "1".into() });
/// let reply = store.apply(Command::CompareAndSwap {
///     key: "a".into(),
///     expected: Expected::Revision(1),
///     value: "2".into(),
/// });
/// let Reply::Written(revisions) = reply else { panic!("it was as expected") };
/// assert_eq!((revisions.create_revision, revisions.modify_revision, revisions.version), (1, 2, 2));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Store {
    entries: LeafMap<Entry>,
    revision: Revision,
    /// The sum of all entries' hashes. It does not depend on their order, so a change costs only the hashes of the entry
    /// that went and of the one that came.
    digest: u128,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    value: Bytes,
    revisions: Revisions,
}

impl Store {
    /// A hash of everything: live keys, values, revisions, and the store's own revision. Equal states have equal hashes on
    /// every machine; states that differ have different ones, but for an accident of about 2^-128. It compares nodes
    /// that trust each other. It is no defence against values made to collide.
    pub fn hash(&self) -> u128 {
        let mut hasher = Hasher::new();
        hasher.number(self.revision);
        hasher.number(self.entries.len() as u64);
        hasher.number(self.digest as u64);
        hasher.number((self.digest >> 64) as u64);
        hasher.finish()
    }

    fn set(&mut self, key: String, value: Bytes) -> Reply {
        self.revision += 1;
        let before = self.entries.get(&key);
        let before_hash = before.map(|entry| entry.hash(&key));
        let before = before.map(|entry| entry.revisions);
        let revisions = Revisions {
            create_revision: before.map_or(self.revision, |before| before.create_revision),
            modify_revision: self.revision,
            version: before.map_or(1, |before| before.version + 1),
        };
        let entry = Entry { value, revisions };
        self.digest = self.digest.wrapping_add(entry.hash(&key));
        if let Some(old) = before_hash {
            self.digest = self.digest.wrapping_sub(old);
        }
        self.entries.insert(key, entry);
        Reply::Written(revisions)
    }

    /// What the key is, where that is not what is expected.
    fn mismatch(&self, key: &str, expected: &Expected) -> Option<Reply> {
        let current = self.entries.get(key);
        let holds = match expected {
            Expected::Revision(revision) => {
                current.map_or(0, |entry| entry.revisions.modify_revision) == *revision
            }
            Expected::Value(value) => current.is_some_and(|entry| entry.value == value),
        };
        (!holds).then(|| Reply::Mismatch { current: current.map(|entry| entry.revisions) })
    }

    fn scan(&self, range: Range) -> Page {
        let from = range.from.max(range.prefix.clone());
        let limit = range.limit.min(MAX_SCAN_LIMIT);
        let mut page = Page { revision: self.revision, ..Page::default() };
        let mut bytes = 0;
        for (key, entry) in self.entries.range(&from) {
            if !key.starts_with(&range.prefix) || range.to.as_ref().is_some_and(|to| key >= to.as_str()) {
                break;
            }
            bytes += key.len() + entry.value.len();
            if page.pairs.len() == limit || (bytes > MAX_SCAN_BYTES && !page.pairs.is_empty()) {
                page.next = Some(key.to_owned());
                break;
            }
            page.pairs.push(entry.pair(key.to_owned()));
        }
        page
    }
}

impl Machine for Store {
    type Command = Command;
    type Reply = Reply;
    type Query = Query;
    type Answer = Answer;

    fn apply(&mut self, command: Command) -> Reply {
        match command {
            Command::Put { key, value } => self.set(key, value),
            Command::CompareAndSwap { key, expected, value } => match self.mismatch(&key, &expected) {
                Some(mismatch) => mismatch,
                None => self.set(key, value),
            },
            Command::Delete { key, expected } => {
                if let Some(mismatch) = expected.and_then(|expected| self.mismatch(&key, &expected)) {
                    return mismatch;
                }
                let Some(entry) = self.entries.remove(&key) else { return Reply::Absent };
                self.digest = self.digest.wrapping_sub(entry.hash(&key));
                self.revision += 1;
                Reply::Deleted { revision: self.revision }
            }
        }
    }

    fn query(&self, query: Query) -> Answer {
        match query {
            Query::Get { key } => Answer::Got(self.entries.get(&key).map(|entry| entry.pair(key))),
            Query::Scan(range) => Answer::Scanned(self.scan(range)),
            Query::Summary => Answer::Summary(Summary {
                keys: self.entries.len() as u64,
                revision: self.revision,
                hash: self.hash(),
            }),
        }
    }
}

/// What a snapshot begins with, its version included.
const MAGIC: [u8; 8] = *b"RAFTKV\x01\0";

/// The bytes before the first key: magic, revision, number of keys, state hash.
const HEADER_BYTES: usize = 8 + 8 + 8 + 16;

/// The bytes of a key before its text and value: two lengths and three revisions.
const KEY_HEADER_BYTES: usize = 4 + 4 + 3 * 8;

/// A state waiting to be written out. It shares all that the store does not change meanwhile.
struct View(Store);

impl SnapshotView for View {
    fn write_to(self: Box<Self>, sink: &mut dyn Write) -> io::Result<()> {
        let Self(store) = *self;
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.put_slice(&MAGIC);
        out.put_u64_le(store.revision);
        out.put_u64_le(store.entries.len() as u64);
        out.put_u128_le(store.hash());
        sink.write_all(&out)?;
        for (key, Entry { value, revisions }) in store.entries.range("") {
            out.clear();
            out.put_u32_le(length(key.as_bytes())?);
            out.put_u32_le(length(value)?);
            out.put_u64_le(revisions.create_revision);
            out.put_u64_le(revisions.modify_revision);
            out.put_u64_le(revisions.version);
            out.put_slice(key.as_bytes());
            sink.write_all(&out)?;
            sink.write_all(value)?;
        }
        Ok(())
    }
}

fn length(bytes: &[u8]) -> io::Result<u32> {
    u32::try_from(bytes.len()).map_err(|_| io::Error::other("a key or value of 4 GiB"))
}

impl Snapshot for Store {
    fn snapshot(&self) -> Result<Box<dyn SnapshotView>, MachineError> {
        Ok(Box::new(View(self.clone())))
    }

    fn restore(source: &mut dyn Read) -> Result<Self, MachineError> {
        let cannot = |e: io::Error| MachineError::new(format!("cannot read the snapshot: {e}"));
        let mut header = [0; HEADER_BYTES];
        source.read_exact(&mut header).map_err(cannot)?;
        let mut header = &header[..];
        if header[..MAGIC.len()] != MAGIC {
            let text = "the snapshot is not one of this version of raft-kv: use the version that wrote it, or a newer one";
            return Err(MachineError::new(text));
        }
        header.advance(MAGIC.len());
        let (revision, keys, hash) = (header.get_u64_le(), header.get_u64_le(), header.get_u128_le());
        let mut store = Self { revision, ..Self::default() };
        for _ in 0..keys {
            let (key, entry) = read_entry(source).map_err(cannot)?;
            store.digest = store.digest.wrapping_add(entry.hash(&key));
            store.entries.insert(key, entry);
        }
        if source.read(&mut [0]).map_err(cannot)? != 0 || store.hash() != hash {
            let text = "the snapshot is damaged: its keys do not make up the state that it was taken of";
            return Err(MachineError::new(text));
        }
        Ok(store)
    }
}

fn read_entry(source: &mut dyn Read) -> io::Result<(String, Entry)> {
    let mut header = [0; KEY_HEADER_BYTES];
    source.read_exact(&mut header)?;
    let mut header = &header[..];
    let (key, value) = (header.get_u32_le(), header.get_u32_le());
    let revisions = Revisions {
        create_revision: header.get_u64_le(),
        modify_revision: header.get_u64_le(),
        version: header.get_u64_le(),
    };
    let key = String::from_utf8(read_bytes(source, key)?).map_err(io::Error::other)?;
    Ok((key, Entry { value: read_bytes(source, value)?.into(), revisions }))
}

/// Allocates no more than there is, whatever the length says.
fn read_bytes(source: &mut dyn Read, length: u32) -> io::Result<Vec<u8>> {
    const AT_ONCE: usize = 1 << 20;
    let length = length as usize;
    let mut bytes = Vec::with_capacity(length.min(AT_ONCE));
    source.take(length as u64).read_to_end(&mut bytes)?;
    if bytes.len() == length { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

impl Entry {
    fn pair(&self, key: String) -> Pair {
        Pair { key, value: self.value.clone(), revisions: self.revisions }
    }

    fn hash(&self, key: &str) -> u128 {
        let mut hasher = Hasher::new();
        hasher.bytes(key.as_bytes());
        hasher.bytes(&self.value);
        hasher.number(self.revisions.create_revision);
        hasher.number(self.revisions.modify_revision);
        hasher.number(self.revisions.version);
        hasher.finish()
    }
}

/// Two lanes of multiply-and-fold with odd constants (the fractions of the square roots of 2, 3, 5 and 7), the same on
/// every machine and in every version: nodes of different versions compare their hashes.
struct Hasher {
    lanes: [u64; 2],
}

impl Hasher {
    const SEEDS: [u64; 2] = [0x6a09_e667_f3bc_c909, 0xbb67_ae85_84ca_a73b];
    const FACTORS: [u64; 2] = [0x3c6e_f372_fe94_f82b, 0xa54f_f53a_5f1d_36f1];

    fn new() -> Self {
        Self { lanes: Self::SEEDS }
    }

    fn number(&mut self, number: u64) {
        for ((lane, factor), seed) in self.lanes.iter_mut().zip(Self::FACTORS).zip(Self::SEEDS) {
            let product = u128::from(*lane ^ number) * u128::from(factor);
            // The seed keeps a lane from sticking at zero.
            *lane = (product as u64 ^ (product >> 64) as u64).wrapping_add(seed);
        }
    }

    /// Eight bytes at a time and the length first, so that no two sequences of fields give the same numbers.
    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        for chunk in bytes.chunks(8) {
            let mut padded = [0; 8];
            padded[..chunk.len()].copy_from_slice(chunk);
            self.number(u64::from_le_bytes(padded));
        }
    }

    fn finish(mut self) -> u128 {
        let [first, second] = self.lanes;
        self.number(first.rotate_left(32) ^ second);
        u128::from(self.lanes[0]) << 64 | u128::from(self.lanes[1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(store: &mut Store, key: &str, value: &str) -> Revisions {
        match store.apply(Command::Put { key: key.into(), value: Bytes::copy_from_slice(value.as_bytes()) }) {
            Reply::Written(revisions) => revisions,
            other => panic!("a put gave {other:?}"),
        }
    }

    fn delete(store: &mut Store, key: &str) -> Reply {
        store.apply(Command::Delete { key: key.into(), expected: None })
    }

    fn scan(store: &Store, range: Range) -> (Vec<String>, Option<String>) {
        let page = store.scan(range);
        (page.pairs.into_iter().map(|pair| pair.key).collect(), page.next)
    }

    #[test]
    fn revisions_are_those_of_etcd() {
        let mut store = Store::default();
        assert_eq!(
            put(&mut store, "a", "1"),
            Revisions { create_revision: 1, modify_revision: 1, version: 1 }
        );
        assert_eq!(
            put(&mut store, "b", "1"),
            Revisions { create_revision: 2, modify_revision: 2, version: 1 }
        );
        assert_eq!(
            put(&mut store, "a", "2"),
            Revisions { create_revision: 1, modify_revision: 3, version: 2 }
        );
        assert_eq!(delete(&mut store, "a"), Reply::Deleted { revision: 4 });
        assert_eq!(delete(&mut store, "a"), Reply::Absent, "nothing to delete changes nothing");
        assert_eq!(
            put(&mut store, "a", "3"),
            Revisions { create_revision: 5, modify_revision: 5, version: 1 }
        );
    }

    #[test]
    fn compare_and_swap_changes_only_what_is_as_expected() {
        let mut store = Store::default();
        let cas = |store: &mut Store, expected, value: &'static str| {
            store.apply(Command::CompareAndSwap { key: "k".into(), expected, value: value.into() })
        };
        assert_eq!(cas(&mut store, Expected::Revision(7), "x"), Reply::Mismatch { current: None });
        assert_eq!(cas(&mut store, Expected::Value("".into()), "x"), Reply::Mismatch { current: None });
        let first = Revisions { create_revision: 1, modify_revision: 1, version: 1 };
        assert_eq!(cas(&mut store, Expected::Revision(0), "x"), Reply::Written(first));
        assert_eq!(cas(&mut store, Expected::Revision(0), "y"), Reply::Mismatch { current: Some(first) });
        assert_eq!(
            cas(&mut store, Expected::Value("y".into()), "z"),
            Reply::Mismatch { current: Some(first) }
        );
        let second = Revisions { create_revision: 1, modify_revision: 2, version: 2 };
        assert_eq!(cas(&mut store, Expected::Value("x".into()), "z"), Reply::Written(second));
        let stale = Command::Delete { key: "k".into(), expected: Some(Expected::Revision(1)) };
        assert_eq!(store.apply(stale), Reply::Mismatch { current: Some(second) });
        let fresh = Command::Delete { key: "k".into(), expected: Some(Expected::Revision(2)) };
        assert_eq!(store.apply(fresh), Reply::Deleted { revision: 3 });
    }

    #[test]
    fn a_scan_keeps_to_its_range_and_says_where_to_go_on() {
        let mut store = Store::default();
        for key in ["a", "b/1", "b/2", "b/3", "c"] {
            put(&mut store, key, "v");
        }
        let all = Range { limit: 10, ..Range::default() };
        assert_eq!(scan(&store, all.clone()).0, ["a", "b/1", "b/2", "b/3", "c"]);
        let prefix = Range { prefix: "b/".into(), ..all.clone() };
        assert_eq!(scan(&store, prefix.clone()), (vec!["b/1".into(), "b/2".into(), "b/3".into()], None));
        let first = scan(&store, Range { limit: 2, ..prefix.clone() });
        assert_eq!(first, (vec!["b/1".into(), "b/2".into()], Some("b/3".into())));
        assert_eq!(scan(&store, Range { from: "b/3".into(), ..prefix }), (vec!["b/3".into()], None));
        let half_open = Range { from: "b/2".into(), to: Some("c".into()), ..all.clone() };
        assert_eq!(scan(&store, half_open).0, ["b/2", "b/3"]);
        let backwards = Range { from: "c".into(), to: Some("a".into()), ..all.clone() };
        assert_eq!(scan(&store, backwards), (vec![], None));
        assert_eq!(scan(&store, Range { limit: 0, ..all }), (vec![], Some("a".into())));
    }

    #[test]
    fn a_scan_is_bounded_in_bytes_and_still_gives_one_pair() {
        let mut store = Store::default();
        let large = "v".repeat(MAX_SCAN_BYTES / 2 + 1);
        for key in ["a", "b", "c"] {
            put(&mut store, key, &large);
        }
        let all = Range { limit: 10, ..Range::default() };
        assert_eq!(scan(&store, all.clone()), (vec!["a".into()], Some("b".into())));
        assert_eq!(scan(&store, Range { from: "c".into(), ..all }), (vec!["c".into()], None));
    }

    #[test]
    fn the_kept_hash_is_the_hash_of_what_is_there() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut store = Store::default();
        let mut seen = std::collections::BTreeSet::from([store.hash()]);
        for _ in 0..2000 {
            let key = format!("k{}", random.u8(..40));
            let before = store.revision;
            if random.bool() {
                put(&mut store, &key, &"x".repeat(random.usize(..20)));
            } else {
                delete(&mut store, &key);
            }
            let whole = store.entries.range("").fold(0u128, |sum, (key, e)| sum.wrapping_add(e.hash(key)));
            assert_eq!(store.digest, whole);
            assert_eq!(seen.insert(store.hash()), store.revision != before, "a new hash for each new state");
        }
    }

    #[test]
    fn the_hash_is_the_same_in_every_version() {
        let mut store = Store::default();
        put(&mut store, "EDDB", "Berlin Brandenburg");
        put(&mut store, "RJTT", "東京");
        assert_eq!(format!("{:032x}", store.hash()), "b2b0d544bf4de8d5a256509fe8871231");
    }

    fn written(store: &Store) -> Vec<u8> {
        let mut bytes = Vec::new();
        store.snapshot().unwrap().write_to(&mut bytes).unwrap();
        bytes
    }

    fn everything(store: &Store) -> Page {
        store.scan(Range { limit: MAX_SCAN_LIMIT, ..Range::default() })
    }

    #[test]
    fn a_restored_store_is_the_same_store() {
        let mut store = Store::default();
        put(&mut store, "a", "1");
        put(&mut store, "b", "");
        put(&mut store, "東京", "c");
        delete(&mut store, "a");
        let mut restored = Store::restore(&mut &written(&store)[..]).unwrap();
        assert_eq!(everything(&restored), everything(&store));
        assert_eq!(restored.hash(), store.hash());
        assert_eq!(delete(&mut restored, "a"), Reply::Absent, "what was deleted stays deleted");
        assert_eq!(put(&mut restored, "b", "2"), put(&mut store, "b", "2"), "and the revisions go on");
    }

    #[test]
    fn a_view_stays_as_it_was() {
        let mut random = fastrand::Rng::with_seed(11);
        let mut store = Store::default();
        for _ in 0..3000 {
            put(&mut store, &format!("k{}", random.u16(..2000)), "before");
        }
        let (view, then) = (store.snapshot().unwrap(), store.clone());
        for _ in 0..3000 {
            let key = format!("k{}", random.u16(..4000));
            if random.bool() {
                put(&mut store, &key, "after");
            } else {
                delete(&mut store, &key);
            }
        }
        let mut bytes = Vec::new();
        view.write_to(&mut bytes).unwrap();
        let restored = Store::restore(&mut &bytes[..]).unwrap();
        assert_eq!(everything(&restored), everything(&then));
        assert_ne!(restored.hash(), store.hash());
    }

    #[test]
    fn a_damaged_snapshot_is_refused() {
        let mut store = Store::default();
        put(&mut store, "key", "value");
        put(&mut store, "other", "value");
        let bytes = written(&store);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(Store::restore(&mut &damaged[..]).is_err(), "byte {at}");
            assert!(Store::restore(&mut &bytes[..at]).is_err(), "cut at {at}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(Store::restore(&mut &longer[..]).is_err());
        let mut huge = bytes;
        huge[HEADER_BYTES..HEADER_BYTES + 4].fill(0xff);
        assert!(Store::restore(&mut &huge[..]).is_err(), "a length beyond all there is");
    }
}
