//! Opening, claiming, and what is refused: one clear line, nothing changed.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use common::*;
use raft_core::LogStore;
use raft_core::log_store::{LogState, StorageError, StorageErrorKind, Write};
use raft_core::types::{ClusterId, Entry, Incarnation, NodeId, Outline};
use raft_storage_redb::{Inspector, Options, RedbLogStore};
use redb::{Database, TableDefinition};
use tempfile::TempDir;

/// Set for the copies of this test program that a test starts.
const CHILD_PATH: &str = "RAFT_STORAGE_REDB_TEST_PATH";

fn child(test: &str, path: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(CHILD_PATH, path).stdout(Stdio::piped());
    command
}

#[test]
fn folders_are_created() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a/b/c/log.redb");
    drop(RedbLogStore::open(&path).unwrap());
    let files: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().map(|f| f.unwrap().path()).collect();
    assert_eq!(files, [path]);
}

#[test]
fn a_second_open_is_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log.redb");
    let store = RedbLogStore::open(&path).unwrap();
    let message = assert_kind(RedbLogStore::open(&path), StorageErrorKind::Busy);
    assert!(message.contains("log.redb"), "{message}");
    write(&store, append(entries(1, 1, 1))).unwrap();
    drop(store);
    assert_eq!(last(&RedbLogStore::open(&path).unwrap()), 1);
}

#[test]
fn a_second_process_is_refused() {
    if let Some(path) = std::env::var_os(CHILD_PATH) {
        assert_kind(RedbLogStore::open(path), StorageErrorKind::Busy);
        println!("refused");
        return;
    }
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log.redb");
    let store = RedbLogStore::open(&path).unwrap();
    let output = child("a_second_process_is_refused", &path).output().unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("refused"));
    write(&store, append(entries(1, 1, 1))).unwrap();
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    if let Some(path) = std::env::var_os(CHILD_PATH) {
        let store = RedbLogStore::open(path).unwrap();
        for index in last(&store) + 1.. {
            write(&store, append(entries(1, index, index))).unwrap();
            println!("\nacknowledged {index}");
        }
    }
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log.redb");
    for _ in 0..size("RAFT_STORAGE_KILLS", 5) {
        let mut process = child("what_was_acknowledged_survives_a_kill", &path).spawn().unwrap();
        let mut acknowledged = 0;
        let mut seen = 0;
        for line in BufReader::new(process.stdout.take().unwrap()).lines() {
            if let Some(index) = line.unwrap().strip_prefix("acknowledged ") {
                acknowledged = index.parse().unwrap();
                seen += 1;
                if seen == 20 {
                    process.kill().unwrap();
                }
            }
        }
        process.wait().unwrap();
        assert!(seen >= 20);
        let store = RedbLogStore::open(&path).unwrap();
        let last = last(&store);
        assert!(last >= acknowledged, "{last} < {acknowledged}");
        assert_eq!(read_from(&store, 1), entries(1, 1, last));
    }
}

#[test]
fn claims_are_kept() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log.redb");
    let (cluster, node) = (ClusterId(7), NodeId(1));
    let store = RedbLogStore::open(&path).unwrap();
    assert_kind(block_on(store.claim(cluster, node, Incarnation::UNKNOWN)), StorageErrorKind::Invalid);
    let first = block_on(store.claim(cluster, node, Incarnation(11))).unwrap();
    assert_eq!((first.incarnation, first.boot), (Incarnation(11), 1));
    drop(store);

    let store = RedbLogStore::open(&path).unwrap();
    for (cluster, node) in [(ClusterId(8), node), (cluster, NodeId(2))] {
        let message =
            assert_kind(block_on(store.claim(cluster, node, Incarnation(12))), StorageErrorKind::Foreign);
        assert!(message.contains("belongs to node 1"), "{message}");
    }
    // Refused claims neither count nor stop the store.
    write(&store, append(entries(1, 1, 1))).unwrap();
    let second = block_on(store.claim(cluster, node, Incarnation(13))).unwrap();
    assert_eq!((second.incarnation, second.boot), (Incarnation(11), 2));
}

#[test]
fn files_of_something_else_are_refused_and_unchanged() {
    let folder = TempDir::new().unwrap();
    for (at, content) in
        [b"r".to_vec(), b"hello".to_vec(), vec![0; 100_000], vec![0xff; 4096], b"redb but not quite".to_vec()]
            .into_iter()
            .enumerate()
    {
        let path = folder.path().join(format!("{at}.redb"));
        fs::write(&path, &content).unwrap();
        assert_kind(RedbLogStore::open(&path), StorageErrorKind::Format);
        assert_eq!(fs::read(&path).unwrap(), content);
    }
    let path = folder.path().join("other.redb");
    let other: TableDefinition<'_, u64, u64> = TableDefinition::new("other");
    let database = Database::create(&path).unwrap();
    let txn = database.begin_write().unwrap();
    txn.open_table(other).unwrap().insert(1, 2).unwrap();
    txn.commit().unwrap();
    drop(database);
    assert_kind(RedbLogStore::open(&path), StorageErrorKind::Format);
    let database = Database::create(&path).unwrap();
    let txn = redb::ReadableDatabase::begin_read(&database).unwrap();
    assert_eq!(txn.open_table(other).unwrap().get(1).unwrap().unwrap().value(), 2);
    assert_eq!(txn.list_tables().unwrap().count(), 1);
}

#[test]
fn a_folder_in_place_of_the_file_is_refused() {
    let folder = TempDir::new().unwrap();
    assert_kind(RedbLogStore::open(folder.path()), StorageErrorKind::Io);
}

#[test]
fn a_later_format_is_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log.redb");
    drop(RedbLogStore::open(&path).unwrap());
    let database = Database::create(&path).unwrap();
    let txn = database.begin_write().unwrap();
    let version = 2_u32.to_le_bytes();
    let mut row = crc32c::crc32c(&[b"format".as_slice(), &version].concat()).to_le_bytes().to_vec();
    row.extend(version);
    let store: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("raft_store");
    txn.open_table(store).unwrap().insert("format", row.as_slice()).unwrap();
    txn.commit().unwrap();
    drop(database);
    let message = assert_kind(RedbLogStore::open(&path), StorageErrorKind::Format);
    assert!(message.contains("format 2"), "{message}");
}

#[test]
fn a_row_of_a_later_format_is_no_damage() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log.redb");
    let store = RedbLogStore::open(&path).unwrap();
    write(&store, Write { outline: Some(Outline::default()), ..append(entries(1, 1, 1)) }).unwrap();
    drop(store);
    // An outline of format 99, and an entry of kind 9, both whole.
    let seal =
        |key: &[u8], body: &[u8]| [&crc32c::crc32c(&[key, body].concat()).to_le_bytes(), body].concat();
    let outline = seal(&[1, 0, 0, 0, 0, 0, 0, 0, 1], &[99, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 5]);
    let entry = seal(&[], &[&[0; 4][..], &1_u64.to_le_bytes(), &1_u64.to_le_bytes(), &[9]].concat());
    let database = Database::create(&path).unwrap();
    let txn = database.begin_write().unwrap();
    let groups: TableDefinition<'_, (u64, u8), &[u8]> = TableDefinition::new("raft_groups");
    let log: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("raft_log");
    txn.open_table(groups).unwrap().insert((1, 1), outline.as_slice()).unwrap();
    txn.open_table(log).unwrap().insert((1, 1), entry.as_slice()).unwrap();
    txn.commit().unwrap();
    drop(database);
    let message = assert_kind(Inspector::open(&path), StorageErrorKind::Format);
    assert!(message.contains("the outline row is of a later format"), "{message}");
    let store = RedbLogStore::open(&path).unwrap();
    assert_kind(block_on(store.load(GROUP)), StorageErrorKind::Format);
    let message = assert_kind(block_on(store.read(GROUP, 1..=1, 100)), StorageErrorKind::Format);
    assert!(message.contains("use the version that wrote it"), "{message}");
}

#[test]
fn an_empty_file_and_a_left_over_one_are_no_obstacle() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log.redb");
    fs::write(&path, []).unwrap();
    fs::write(folder.path().join(format!("fresh.redb.new-{}", std::process::id())), b"torn").unwrap();
    for path in [path, folder.path().join("fresh.redb")] {
        let store = RedbLogStore::open(&path).unwrap();
        write(&store, append(entries(1, 1, 1))).unwrap();
        drop(store);
        assert_eq!(last(&RedbLogStore::open(&path).unwrap()), 1);
    }
}

/// A file with a log of some hundred entries, and its bytes.
fn sample(path: &Path) -> Vec<u8> {
    let store = RedbLogStore::open(path).unwrap();
    for first in (1..=300).step_by(20) {
        write(&store, append(entries(1, first, first + 19))).unwrap();
    }
    drop(store);
    fs::read(path).unwrap()
}

#[test]
fn damage_is_found_at_open_or_at_read() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log.redb");
    let sound = sample(&path);
    let command = b"command 1.150";
    let mut rotten = sound.clone();
    let places: Vec<_> = sound.windows(command.len()).enumerate().filter(|(_, w)| w == command).collect();
    assert!(!places.is_empty());
    for (at, _) in places {
        rotten[at + 8] ^= 1;
    }
    fs::write(&path, &rotten).unwrap();
    let message = assert_kind(RedbLogStore::open(&path), StorageErrorKind::Corrupt);
    assert!(message.contains("log.redb") && message.contains("set the file aside"), "{message}");
    assert!(fs::read(&path).unwrap() == rotten, "the file was changed");

    let store = RedbLogStore::open_with(&path, &Options::default().verify_on_open(false)).unwrap();
    let message = assert_kind(block_on(store.read(GROUP, 1..=300, usize::MAX)), StorageErrorKind::Corrupt);
    assert!(message.contains("log.redb: group 1: entry 150 is damaged"), "{message}");
    assert_eq!(block_on(store.read(GROUP, 1..=140, usize::MAX)).unwrap(), entries(1, 1, 140));
    assert_eq!(block_on(store.read(GROUP, 161..=300, usize::MAX)).unwrap(), entries(1, 161, 300));
}

/// Flips a bit, or cuts the end off, and checks that all of the log is read, or none of what is damaged.
fn check_damage(path: &Path, rotten: &[u8], verify: bool, expected: &[Entry], what: &str) -> bool {
    fs::write(path, rotten).unwrap();
    let opened = RedbLogStore::open_with(path, &Options::default().verify_on_open(verify));
    let read = opened.and_then(|store| {
        let state = block_on(store.load(GROUP))?;
        let last = expected.len() as u64;
        assert_eq!(state, LogState { last, ..LogState::default() }, "{what}");
        block_on(store.read(GROUP, 1..=last, usize::MAX))
    });
    match read {
        Ok(read) => {
            assert!(read == expected, "{what}");
            false
        }
        Err(error) => {
            assert_says_what_to_do(&error, what);
            true
        }
    }
}

fn assert_says_what_to_do(error: &StorageError, what: &str) {
    let (kind, message) = (error.kind(), error.to_string());
    assert!(!message.contains('\n'), "{what}: {message}");
    let says = |words: &str| message.contains(words);
    let told = match kind {
        StorageErrorKind::Corrupt => says("set the file aside") && (says("damaged") || says("missing")),
        StorageErrorKind::Format => says("choose another") || says("use the version"),
        _ => false,
    };
    assert!(told || says("open it with the version"), "{what}: {kind:?}: {message}");
}

#[test]
fn no_damage_panics_or_goes_unseen() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log.redb");
    let sound = sample(&path);
    let expected = entries(1, 1, 300);
    let mut rng = fastrand::Rng::with_seed(1);
    // Every byte of the header, places in every page, more all over the file, then ends that are missing.
    let pages = (1..sound.len() / 4096).flat_map(|page| [page * 4096, page * 4096 + 20 + page % 64]);
    let more = size("RAFT_STORAGE_FLIPS", 100);
    let places: Vec<_> = (0..320).chain(pages).chain((0..more).map(|_| rng.usize(..sound.len()))).collect();
    let mut refused = 0;
    for at in places {
        let mut rotten = sound.clone();
        rotten[at] ^= 1 << rng.u8(..8);
        refused += usize::from(check_damage(&path, &rotten, rng.bool(), &expected, &format!("byte {at}")));
    }
    for _ in 0..30 {
        let length = rng.usize(1..sound.len());
        check_damage(&path, &sound[..length], rng.bool(), &expected, &format!("length {length}"));
    }
    assert!(refused > 40, "{refused}");
}

#[test]
fn pages_that_are_lost_or_in_the_wrong_place_are_found() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log.redb");
    let sound = sample(&path);
    let expected = entries(1, 1, 300);
    let pages = sound.len() / 4096;
    let start = size("RAFT_STORAGE_ROT_START", 0);
    for seed in start..start + size("RAFT_STORAGE_ROT_SEEDS", 150) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut rotten = sound.clone();
        for _ in 0..rng.usize(1..3) {
            let page = rng.usize(1..pages) * 4096;
            match rng.u8(..4) {
                // A write that went nowhere, one that went to the wrong place, garbage, and a range of bytes.
                0 => rotten[page..page + 4096].fill(0),
                1 => {
                    let from = rng.usize(1..pages) * 4096;
                    rotten.copy_within(from..from + 4096, page);
                }
                2 => (0..4096).for_each(|at| rotten[page + at] = rng.u8(..)),
                _ => (0..rng.usize(1..200)).for_each(|_| rotten[page + rng.usize(..4096)] = rng.u8(..)),
            }
        }
        check_damage(&path, &rotten, rng.bool(), &expected, &format!("seed {seed}"));
    }
}

/// After a kill, damage to what only the last commit wrote may look like a commit that was cut short, and the commit before it
/// is served; with two phases not even that.
#[test]
fn damage_after_a_kill_undoes_the_last_commit_or_is_found() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log.redb");
    let flips = size("RAFT_STORAGE_FLIPS", 100);
    for (name, options, may_undo) in [
        ("one phase", Options::default(), true),
        ("two phases", Options::default().two_phase_commit(true), false),
        ("quick repair", Options::default().quick_repair(true), false),
        ("quick repair, not verified", Options::default().quick_repair(true).verify_on_open(false), false),
    ] {
        fs::remove_file(&path).unwrap_or_default();
        let store = RedbLogStore::open_with(&path, &options).unwrap();
        for first in (1..=320).step_by(20) {
            let hard_state = Some(hard_state(first, 1, first - 1));
            write(&store, Write { hard_state, ..append(entries(1, first, first + 19)) }).unwrap();
        }
        // What a kill leaves is what is in the file now.
        let killed = fs::read(&path).unwrap();
        drop(store);
        let mut rng = fastrand::Rng::with_seed(6);
        let pages = (1..killed.len() / 4096).map(|page| page * 4096 + page % 64);
        let more: Vec<_> = (0..flips).map(|_| rng.usize(..killed.len())).collect();
        let (mut found, mut undone) = (0, 0);
        for at in (0..320).step_by(3).chain(pages).chain(more) {
            let mut rotten = killed.clone();
            rotten[at] ^= 1 << rng.u8(..8);
            fs::write(&path, &rotten).unwrap();
            let read = RedbLogStore::open_with(&path, &options).and_then(|store| {
                let state = block_on(store.load(GROUP))?;
                Ok((state.hard_state, block_on(store.read(GROUP, 1..=state.last, usize::MAX))?))
            });
            match read {
                Ok((held, read)) if read.len() == 320 => {
                    assert!(
                        held == hard_state(301, 1, 300) && read == entries(1, 1, 320),
                        "{name}, byte {at}"
                    );
                }
                Ok((held, read)) => {
                    assert!(may_undo, "{name}, byte {at}: an acknowledged commit was undone");
                    assert!(
                        held == hard_state(281, 1, 280) && read == entries(1, 1, 300),
                        "{name}, byte {at}"
                    );
                    undone += 1;
                }
                Err(error) => {
                    assert_says_what_to_do(&error, &format!("{name}, byte {at}"));
                    found += 1;
                }
            }
        }
        println!("{name}: {found} found, {undone} taken for a commit that was cut short");
        assert!(found > 5 && (undone > 0) == may_undo, "{name}: {found}, {undone}");
    }
}

#[test]
fn with_every_page_checked_any_changed_byte_that_counts_is_found_at_open() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log.redb");
    let sound = sample(&path);
    let mut rng = fastrand::Rng::with_seed(2);
    for page in 1..sound.len() / 4096 {
        let mut rotten = sound.clone();
        let at = page * 4096 + rng.usize(..4096);
        rotten[at] ^= 1 << rng.u8(..8);
        fs::write(&path, &rotten).unwrap();
        let damage = Inspector::open(&path).unwrap().verify().damage;
        match RedbLogStore::open(&path) {
            Ok(_) => assert!(damage.is_empty(), "byte {at}: {damage:?}"),
            Err(error) => {
                assert_eq!(error.kind(), StorageErrorKind::Corrupt);
                let named = damage.iter().any(|damage| error.to_string().contains(&damage.to_string()));
                assert!(named, "byte {at}: {error}, {damage:?}");
            }
        }
    }
}
