//! A simulated node: an engine, its disk, and what was applied.

use crate::config::Config;
use crate::engine::{Engine, EngineError, EngineOptions};
use crate::testing::disk::{Disk, Image};
use crate::testing::random::mix;
use crate::testing::shelf::{Shelf, SnapshotFile};
use crate::types::{Entry, EntryId, GroupId, Incarnation, NodeId, Payload, Peer, Time};

/// What a volatile state machine knows: where it is, and one number that stands for all that it applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The last entry applied.
    pub last: EntryId,
    /// A hash chain over every command applied so far, with its index.
    pub chain: u64,
}

impl Applied {
    /// Applies one entry.
    ///
    /// # Errors
    /// Where it is not the next.
    pub fn apply(&mut self, entry: &Entry) -> Result<(), String> {
        if entry.index() != self.last.index + 1 {
            return Err(format!("{} is applied after {}", entry.id, self.last));
        }
        self.last = entry.id;
        if let Payload::Command(command) = &entry.payload {
            self.chain = mix(self.chain ^ mix(entry.index()) ^ u64::from(crc32c::crc32c(command)));
        }
        if let Payload::Session(session) = &entry.payload {
            let hash = crc32c::crc32c(format!("{session:?}").as_bytes());
            self.chain = mix(self.chain ^ mix(entry.index()) ^ mix(u64::from(hash)));
        }
        Ok(())
    }
}

/// A simulated node. Its disk outlives crashes; everything else is lost in one.
pub struct Node {
    peer: Peer,
    config: Config,
    engine: Option<Engine>,
    run: u64,
    /// The disk.
    pub disk: Disk,
    /// Its snapshots.
    pub shelf: Shelf,
    /// What was on folders that it lost: it had promised to hold that, and leaders may count on it for a while.
    pub(crate) lost: Vec<Image>,
    /// What was applied in this run, or restored.
    pub applied: Applied,
}

impl Node {
    /// A node that is not running, on a disk that holds `image`.
    pub fn new(id: NodeId, config: Config, image: Image) -> Self {
        Self {
            peer: Peer { node: id, incarnation: incarnation(id) },
            config,
            engine: None,
            run: 0,
            disk: Disk::new(image),
            shelf: Shelf::default(),
            lost: Vec::new(),
            applied: Applied::default(),
        }
    }

    /// Who it is.
    pub const fn id(&self) -> NodeId {
        self.peer.node
    }

    /// Who it is, on which data folder.
    pub const fn peer(&self) -> Peer {
        self.peer
    }

    /// The settings of its engine.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Gives it a priority, from its next start on.
    pub(crate) const fn prioritize(&mut self, priority: u8) {
        self.config.priority = priority;
    }

    /// Which run of its process this is, counted from 1.
    pub const fn run(&self) -> u64 {
        self.run
    }

    /// Its engine, where the node runs.
    pub const fn engine(&self) -> Option<&Engine> {
        self.engine.as_ref()
    }

    /// Its engine, to be called; afterwards comes [`Cluster::ready`](super::Cluster::ready).
    pub const fn engine_mut(&mut self) -> Option<&mut Engine> {
        self.engine.as_mut()
    }

    /// Puts the state of a snapshot in the place of what was applied; what its driver added to the file.
    ///
    /// # Errors
    /// Where the file is damaged.
    pub fn restore(&mut self, file: &SnapshotFile) -> Result<Vec<u8>, String> {
        let (applied, added) = file.open()?;
        self.applied = applied;
        Ok(added)
    }

    /// Starts the process from what is durable.
    ///
    /// # Errors
    /// Where the engine refuses the disk's content.
    pub fn start(&mut self, seed: u64, now: Time) -> Result<(), EngineError> {
        self.run += 1;
        self.engine = Some(Engine::new(EngineOptions {
            config: self.config.clone(),
            group: GroupId::default(),
            local: self.peer,
            seed: mix(seed ^ mix(self.peer.node.0) ^ self.run),
            state: self.disk.image().state(),
            applied: self.applied.last.index,
            now,
        })?);
        Ok(())
    }

    /// The process dies and its data folder is lost: what starts next is blank, under another mark.
    pub fn wipe(&mut self) {
        const NEXT_FOLDER: u64 = 0x1_0000;
        self.engine = None;
        self.lost.push(self.disk.image().clone());
        self.disk = Disk::default();
        self.shelf = Shelf::default();
        self.peer.incarnation.0 += NEXT_FOLDER;
    }

    /// The process dies; of the writes on their way, the first `keep` were durable after all.
    ///
    /// # Errors
    /// Where a write breaks the contract of the log store.
    pub fn crash(&mut self, keep: usize) -> Result<(), String> {
        self.engine = None;
        self.disk.crash(keep)
    }
}

/// The mark of a simulated node's data folder.
pub const fn incarnation(id: NodeId) -> Incarnation {
    Incarnation(0xF01D_0000 + id.0)
}
