//! What users bring: a state machine, a log store.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Place;
use std::sync::Arc;

use bytes::Bytes;

use super::clients::CALL_BYTES;
use super::world::World;
use super::{Failure, Options, Report};
use crate::codec::cold;
use crate::log_store::LogStore;
use crate::machine::{Machine, Typed};
use crate::state_machine::{Batch, Command, MachineError, StateMachine};
use crate::testing::invariants::Broken;
use crate::testing::polled::poll;
use crate::testing::random::Random;
use crate::types::{Entry, NodeId, Payload};

type NewMachine = dyn Fn() -> Box<dyn StateMachine> + Send + Sync;
type Generate = dyn Fn(&mut Random) -> Result<Bytes, MachineError> + Send + Sync;
type NewStore = dyn Fn(NodeId) -> Arc<dyn LogStore> + Send + Sync;

/// One's own parts in the simulator, in place of its own: a state machine, a log store, or both. All faults, invariants
/// and the calm at the end stay as they are.
#[derive(Clone, Default)]
pub struct Subject {
    pub(super) machine: Option<(Arc<NewMachine>, Arc<Generate>)>,
    pub(super) store: Option<Arc<NewStore>>,
}

impl Subject {
    /// Nothing of one's own yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Each node applies to what `machine` makes, anew at each start, the commands that `command` draws. A command's reply
    /// must be the same on each node and in each run; at the end all machines must give the same snapshot, byte for byte,
    /// and so must a machine that it was restored to.
    #[must_use]
    pub fn machine<M: Machine>(
        self,
        machine: impl Fn() -> M + Send + Sync + 'static,
        command: impl Fn(&mut Random) -> M::Command + Send + Sync + 'static,
    ) -> Self {
        self.commands(
            move || Typed(machine()),
            move |random| {
                cold::encode(&command(random))
                    .map(Bytes::from)
                    .map_err(|e| MachineError::new(format!("a command does not encode: {e}")))
            },
        )
    }

    /// The same for a machine over bytes. Its futures must need no runtime, and it must be volatile: rebuilt at each start.
    #[must_use]
    pub fn state_machine<M: StateMachine>(
        self,
        machine: impl Fn() -> M + Send + Sync + 'static,
        command: impl Fn(&mut Random) -> Bytes + Send + Sync + 'static,
    ) -> Self {
        self.commands(machine, move |random| Ok(command(random)))
    }

    fn commands<M: StateMachine>(
        mut self,
        machine: impl Fn() -> M + Send + Sync + 'static,
        command: impl Fn(&mut Random) -> Result<Bytes, MachineError> + Send + Sync + 'static,
    ) -> Self {
        self.machine = Some((Arc::new(move || Box::new(machine())), Arc::new(command)));
        self
    }

    /// Each node keeps its log in what `store` makes, empty, once in a run. The store lives on when the node dies; what it
    /// had not been given by then is lost. After each write, at each start and at each read it must hold what was written.
    /// Its futures must need no runtime.
    #[must_use]
    pub fn store<S: LogStore>(mut self, store: impl Fn(NodeId) -> S + Send + Sync + 'static) -> Self {
        self.store = Some(Arc::new(move |node| Arc::new(store(node))));
        self
    }

    /// Runs one seed, as [`run`](super::run) does.
    ///
    /// # Errors
    /// Where an invariant breaks, the cluster does not recover, or machine or store break their contract.
    pub fn run(&self, options: &Options) -> Result<Report, Box<Failure>> {
        self.run_once(options).map_err(|failure| {
            if options.keep_lines > 0 || options.print {
                return failure;
            }
            let traced = Options { keep_lines: 60, ..options.clone() };
            self.run_once(&traced).err().unwrap_or(failure)
        })
    }

    pub(super) fn run_once(&self, options: &Options) -> Result<Report, Box<Failure>> {
        World::new(options, self).run(self)
    }
}

/// The users' machines of one run, one a node.
pub(super) struct Machines {
    machine: Arc<NewMachine>,
    generate: Arc<Generate>,
    random: Random,
    running: Vec<Box<dyn StateMachine>>,
    /// The reply to the command at each index, as first given.
    replies: BTreeMap<u64, Bytes>,
}

impl Machines {
    pub(super) fn new(subject: &Subject, size: usize, random: Random) -> Option<Self> {
        let (machine, generate) = subject.machine.clone()?;
        let running = (0..size).map(|_| machine()).collect();
        Some(Self { machine, generate, random, running, replies: BTreeMap::new() })
    }

    pub(super) fn command(&mut self) -> Result<Bytes, Broken> {
        (self.generate)(&mut self.random).map_err(|e| machine_broken(&e))
    }

    /// The node died with its machine.
    pub(super) fn restart(&mut self, node: usize) {
        self.running[node] = (self.machine)();
    }

    pub(super) fn apply<'a>(
        &mut self,
        node: usize,
        entries: impl Iterator<Item = &'a Entry>,
    ) -> Result<(), Broken> {
        let commands: Vec<Command> = entries
            .filter_map(|entry| match &entry.payload {
                Payload::Command(bytes) if bytes.len() >= CALL_BYTES => {
                    Some(Command { id: entry.id, bytes: bytes.slice(CALL_BYTES..) })
                }
                _ => None,
            })
            .collect();
        if commands.is_empty() {
            return Ok(());
        }
        let ids: Vec<_> = commands.iter().map(|command| command.id).collect();
        let batch = Batch { commands, ..Batch::default() };
        let replies = done(self.running[node].apply(batch))?;
        if replies.len() != ids.len() {
            return Err(Broken::new(
                "a machine gives one reply a command",
                format!("{} to {}", replies.len(), ids.len()),
            ));
        }
        for (id, reply) in ids.into_iter().zip(replies) {
            match self.replies.entry(id.index) {
                Place::Vacant(place) => {
                    place.insert(reply);
                }
                Place::Occupied(first) if *first.get() == reply => {}
                Place::Occupied(first) => {
                    return Err(Broken::new(
                        "a command's reply is the same on each node and in each run",
                        format!("{id} on node {}: {reply:?}, before {:?}", node + 1, first.get()),
                    ));
                }
            }
        }
        Ok(())
    }

    pub(super) fn snapshot(&mut self, node: usize) -> Result<Vec<u8>, Broken> {
        snapshot(self.running[node].as_mut())
    }

    pub(super) fn restore(&mut self, node: usize, bytes: &[u8]) -> Result<(), Broken> {
        let mut source = bytes;
        done(self.running[node].restore(&mut source))
    }

    /// All members have applied the same.
    pub(super) fn end_equal(&mut self, members: &[usize]) -> Result<(), Broken> {
        let mut first: Option<Vec<u8>> = None;
        for &node in members {
            let machine = &mut self.running[node];
            let snapshot = snapshot(machine.as_mut())?;
            let first = first.get_or_insert_with(|| snapshot.clone());
            if *first != snapshot {
                return Err(Broken::new(
                    "all machines end with the same snapshot",
                    format!("that of node {} is not that of node 1", node + 1),
                ));
            }
        }
        let Some(first) = first else { return Ok(()) };
        let mut restored = (self.machine)();
        done(restored.restore(&mut first.as_slice()))?;
        if snapshot(restored.as_mut())? == first {
            return Ok(());
        }
        Err(Broken::new(
            "a restored machine gives the snapshot that it was restored from",
            "another came out",
        ))
    }
}

fn snapshot(machine: &mut dyn StateMachine) -> Result<Vec<u8>, Broken> {
    let mut bytes = Vec::new();
    let view = done(machine.snapshot())?;
    view.write_to(&mut bytes).map_err(|e| machine_broken(&MachineError::new(e.to_string())))?;
    Ok(bytes)
}

fn done<T>(future: impl Future<Output = Result<T, MachineError>>) -> Result<T, Broken> {
    let waits = || MachineError::new("it waits for a runtime: only futures that need none can be simulated");
    poll(future).ok_or_else(waits).and_then(|result| result).map_err(|e| machine_broken(&e))
}

fn machine_broken(error: &MachineError) -> Broken {
    Broken::new("a state machine does not fail", error.to_string())
}
