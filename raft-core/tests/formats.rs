//! Files of each version, kept in `tests/files`, open for ever; and what is written for them today is the same, byte for byte. Each was
//! written by the version that it is named after: `1` by the last without sessions, `2` by the first with them, `2-lease` by the first that
//! could keep a lease in the configuration. In each a node alone has applied `color red`, `shape round` and `color blue`; in those of version
//! 2 a session did `color green`, `size large` and `color gray` after that.
#![cfg(feature = "runtime")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use raft_core::log_store::Write as LogWrite;
use raft_core::mem::{ChannelNetwork, MemLogStore};
use raft_core::session::{Serial, SessionId};
use raft_core::session_table::SessionTable;
use raft_core::state_machine::{Batch, MachineError, Note, SnapshotView};
use raft_core::types::{HardState, Lineage, Outline};
use raft_core::{
    ClusterId, EntryId, GroupId, Lease, LogStore, NodeId, NodeOptions, RawRaft, SnapshotFile, SnapshotPlace,
    StateMachine,
};

const CLUSTER: ClusterId = ClusterId(0x601d);

/// A kept file, and what it holds.
struct Kept {
    name: &'static str,
    last: EntryId,
    lineage: Lineage,
    lease: Option<Lease>,
    words: &'static str,
    session: Option<SessionId>,
}

fn kept() -> [Kept; 3] {
    let session = |mark| Some(SessionId { index: 6, mark });
    let words = "color gray\nshape round\nsize large\n";
    let lease = Lease { election_timeout_micros: 500_000, clock_drift_ppm: 1_000 };
    [
        Kept {
            name: "1",
            last: EntryId::new(1, 5),
            lineage: Lineage(5_426_662_820_001_536_793),
            lease: None,
            words: "color blue\nshape round\n",
            session: None,
        },
        Kept {
            name: "2",
            last: EntryId::new(1, 9),
            lineage: Lineage(5_374_274_354_618_853_475),
            lease: None,
            words,
            session: session(0xb2ed_bb1e_1c83_371f),
        },
        Kept {
            name: "2-lease",
            last: EntryId::new(1, 9),
            lineage: Lineage(16_208_270_077_067_046_031),
            lease: Some(lease),
            words,
            session: session(0xb199_1d39_1ca4_c9c6),
        },
    ]
}

impl Kept {
    fn path(&self, kind: &str) -> PathBuf {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files");
        folder.join(format!("{}.{kind}", self.name))
    }

    /// What the library had noted in a machine that is durable by itself, by key.
    fn notes(&self) -> BTreeMap<Bytes, Bytes> {
        let mut rest = Bytes::from(fs::read(self.path("notes")).unwrap());
        let mut notes = BTreeMap::new();
        while rest[0] != 0xff {
            let key = usize::from(rest[0]);
            let value = u32::from_le_bytes(rest[1..5].try_into().unwrap()) as usize;
            let key = rest.split_to(5 + key).split_off(5);
            notes.insert(key, rest.split_to(value));
        }
        notes
    }

    /// A store that names the snapshot, whose file is in `folder`, and holds nothing after it.
    async fn store(&self, folder: &Path) -> MemLogStore {
        let meta = SnapshotFile::open(self.path("snapshot")).unwrap().meta();
        let name = format!("{:016x}-{:016x}-{:016x}.snap", 0, meta.last.term, meta.last.index);
        fs::copy(self.path("snapshot"), folder.join(name)).unwrap();
        let store = MemLogStore::new();
        store.claim(CLUSTER, NodeId(1), meta.membership.nodes[&NodeId(1)].incarnation).await.unwrap();
        let outline = Outline {
            base: meta.last,
            terms: Vec::new(),
            memberships: BTreeMap::from([(1, meta.membership.clone())]),
        };
        let write = LogWrite {
            hard_state: Some(HardState { term: 1, vote: Some(NodeId(1)), commit: meta.last.index }),
            outline: Some(outline),
            compact_to: Some(meta.last.index),
            snapshot: Some(meta),
            ..LogWrite::default()
        };
        store.write(&[write]).await.unwrap();
        store
    }

    /// The words are there; a command of the session is not applied again, and a new one is.
    async fn goes_on(&self, node: &RawRaft) {
        let read = |key: &'static str| async move { node.read(Bytes::from(key)).await.unwrap() };
        node.wait_for(|status| status.leader.is_some()).await.unwrap();
        for line in self.words.lines() {
            let (key, value) = line.split_once(' ').unwrap();
            assert_eq!(read(key).await, value, "{}", self.name);
        }
        if let Some(session) = self.session {
            let serial = |number| Serial { session, number, seen_below: 1 };
            let again = node.propose_in(serial(1), Bytes::from("color green")).await.unwrap();
            assert_eq!((again, read("color").await), (Bytes::from("blue"), Bytes::from("gray")));
            let next = node.propose_in(serial(4), Bytes::from("color black")).await.unwrap();
            assert_eq!((next, read("color").await), (Bytes::from("gray"), Bytes::from("black")));
        }
        node.propose(Bytes::from("shape square")).await.unwrap();
        assert_eq!(read("shape").await, "square");
    }
}

/// Words by key; a command sets one and is answered with the one before.
#[derive(Default)]
struct Words {
    words: BTreeMap<String, String>,
    /// What a machine that is durable by itself keeps for the library.
    notes: Option<BTreeMap<Bytes, Bytes>>,
}

impl Words {
    fn of(text: &str) -> BTreeMap<String, String> {
        let pairs = text.lines().filter_map(|line| line.split_once(' '));
        pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }
}

struct View;

impl SnapshotView for View {
    fn write_to(self: Box<Self>, _: &mut dyn Write) -> io::Result<()> {
        Err(io::Error::other("no snapshot is taken here"))
    }
}

#[async_trait]
impl StateMachine for Words {
    async fn bookkeeping(&mut self) -> Result<Option<Vec<Note>>, MachineError> {
        let note = |(key, value)| Note { key, value: Some(value) };
        Ok(self.notes.clone().map(|notes| notes.into_iter().map(note).collect()))
    }

    async fn apply(&mut self, batch: Batch) -> Result<Vec<Bytes>, MachineError> {
        let replies = batch.commands.iter().map(|command| {
            let text = std::str::from_utf8(&command.bytes).unwrap();
            let (key, value) = text.split_once(' ').unwrap();
            let before = self.words.insert(key.to_owned(), value.to_owned());
            Bytes::from(before.unwrap_or_else(|| "nothing".to_owned()))
        });
        let replies: Vec<Bytes> = replies.collect();
        if let Some(kept) = &mut self.notes {
            for Note { key, value } in batch.bookkeeping.notes(&replies) {
                match value {
                    Some(value) => kept.insert(key, value),
                    None => kept.remove(&key),
                };
            }
        }
        Ok(replies)
    }

    async fn query(&mut self, query: Bytes) -> Result<Bytes, MachineError> {
        let found = std::str::from_utf8(&query).ok().and_then(|key| self.words.get(key)).cloned();
        Ok(found.unwrap_or_default().into())
    }

    async fn snapshot(&mut self) -> Result<Box<dyn SnapshotView>, MachineError> {
        Ok(Box::new(View))
    }

    async fn restore(&mut self, source: &mut (dyn Read + Send)) -> Result<(), MachineError> {
        assert!(self.notes.is_none(), "a machine that has applied everything is not restored");
        let mut text = String::new();
        source.read_to_string(&mut text).unwrap();
        self.words = Self::of(&text);
        Ok(())
    }
}

async fn start(store: MemLogStore, folder: &Path, machine: Words) -> RawRaft {
    let mut options = NodeOptions::new(CLUSTER, 1);
    options.snapshots = SnapshotPlace::folder(folder);
    RawRaft::start(options, store, ChannelNetwork::new().transport(1), machine).await.unwrap()
}

#[test]
fn a_kept_snapshot_opens() {
    for kept in kept() {
        let file = SnapshotFile::open(kept.path("snapshot")).unwrap();
        let meta = file.meta();
        assert_eq!((file.cluster(), file.group(), meta.last), (CLUSTER, GroupId::default(), kept.last));
        assert_eq!((meta.membership.lineage, meta.membership.lease), (kept.lineage, kept.lease));
        assert_eq!(meta.membership.nodes[&NodeId(1)].address, "mem:1");
        let mut state = String::new();
        file.state().unwrap().read_to_string(&mut state).unwrap();
        assert_eq!(state, kept.words);
    }
}

#[tokio::test]
async fn a_node_goes_on_from_a_kept_snapshot() {
    for kept in kept() {
        let folder = tempfile::tempdir().unwrap();
        let node = start(kept.store(folder.path()).await, folder.path(), Words::default()).await;
        kept.goes_on(&node).await;
        node.shutdown().await;
    }
}

#[tokio::test]
async fn a_durable_machine_goes_on_from_kept_notes() {
    for kept in kept() {
        let folder = tempfile::tempdir().unwrap();
        let machine = Words { words: Words::of(kept.words), notes: Some(kept.notes()) };
        let node = start(kept.store(folder.path()).await, folder.path(), machine).await;
        kept.goes_on(&node).await;
        node.shutdown().await;
    }
}

/// A snapshot without sessions is written as the first version wrote it.
#[test]
fn a_snapshot_without_sessions_is_still_of_version_1() {
    let [first, ..] = kept();
    let file = SnapshotFile::open(first.path("snapshot")).unwrap();
    let meta = file.meta();
    let folder = tempfile::tempdir().unwrap();
    let place = SnapshotPlace::folder(folder.path());
    let mut state = first.words.as_bytes();
    let written = place.write(CLUSTER, GroupId::default(), meta.last, &meta.membership, &mut state).unwrap();
    assert_eq!(written, meta);
    let name = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    assert_eq!(fs::read(name).unwrap(), fs::read(first.path("snapshot")).unwrap());
}

/// Notes and the sessions in a snapshot of version 2 are written as they were.
#[test]
fn sessions_are_still_noted_as_in_version_2() {
    for kept in kept() {
        let notes = fs::read(kept.path("notes")).unwrap();
        let (table, applied) = SessionTable::read_from(&mut &notes[..]).unwrap();
        assert_eq!(applied, kept.last);
        assert_eq!(table.ids().collect::<Vec<_>>(), Vec::from_iter(kept.session));
        if kept.session.is_some() {
            let mut again = Vec::new();
            table.write_to(applied, &mut again).unwrap();
            assert_eq!(again, notes);
            // The very bytes are in the snapshot.
            let file = fs::read(kept.path("snapshot")).unwrap();
            assert!(file.windows(notes.len()).any(|part| part == notes));
        }
    }
}
