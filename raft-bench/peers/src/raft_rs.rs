//! raft-rs: an engine without threads or messages of its own, so it gets what suits it: a thread a node with one queue, emptied whole
//! before each `ready`; proposals that wait together go in as one message; its own `MemStorage`.

use std::collections::{HashMap, VecDeque};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_rs::eraftpb::{Entry, EntryType, Message, MessageType};
use raft_rs::storage::MemStorage;
use raft_rs::{Config, RawNode, StateRole};
use tokio::sync::oneshot;

use crate::drive::{Failure, Load, Measured, NODES, command, drive};

const TICK: Duration = Duration::from_millis(50);

/// The log is compacted each time so many entries were applied.
const COMPACT_EVERY: u64 = 100_000;

/// What stays behind, for followers that are a little behind.
const KEPT: u64 = 10_000;

enum Input {
    Message(Message),
    Propose(Bytes, oneshot::Sender<()>),
    Campaign,
    Leads(oneshot::Sender<bool>),
    Stop,
}

struct Node {
    raw: RawNode<MemStorage>,
    inputs: Receiver<Input>,
    peers: HashMap<u64, Sender<Input>>,
    /// In the order of their entries.
    waiting: VecDeque<oneshot::Sender<()>>,
    compacted: u64,
}

impl Node {
    fn run(mut self) -> Result<(), raft_rs::Error> {
        let mut tick_at = Instant::now() + TICK;
        let mut proposals = Vec::new();
        loop {
            let mut next = match self.inputs.recv_timeout(tick_at.saturating_duration_since(Instant::now())) {
                Ok(input) => Some(input),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            };
            while let Some(input) = next {
                match input {
                    Input::Message(message) => self.raw.step(message)?,
                    Input::Propose(command, reply) => {
                        let mut entry = Entry::default();
                        entry.data = command;
                        proposals.push(entry);
                        self.waiting.push_back(reply);
                    }
                    Input::Campaign => self.raw.campaign()?,
                    Input::Leads(reply) => {
                        let _gone = reply.send(self.raw.raft.state == StateRole::Leader);
                    }
                    Input::Stop => return Ok(()),
                }
                next = self.inputs.try_recv().ok();
            }
            if !proposals.is_empty() {
                let mut message = Message::default();
                message.set_msg_type(MessageType::MsgPropose);
                message.from = self.raw.raft.id;
                message.set_entries(std::mem::take(&mut proposals).into());
                self.raw.step(message)?;
            }
            if Instant::now() >= tick_at {
                self.raw.tick();
                tick_at = Instant::now() + TICK;
            }
            while self.raw.has_ready() {
                self.on_ready()?;
            }
        }
    }

    fn on_ready(&mut self) -> Result<(), raft_rs::Error> {
        let mut ready = self.raw.ready();
        self.send(ready.take_messages());
        self.apply(ready.take_committed_entries());
        let store = self.raw.raft.raft_log.store.clone();
        store.wl().append(ready.entries())?;
        if let Some(hard_state) = ready.hs() {
            store.wl().set_hardstate(hard_state.clone());
        }
        self.send(ready.take_persisted_messages());
        let mut light = self.raw.advance(ready);
        if let Some(commit) = light.commit_index() {
            store.wl().mut_hard_state().set_commit(commit);
        }
        self.send(light.take_messages());
        self.apply(light.take_committed_entries());
        self.raw.advance_apply();
        let applied = self.raw.raft.raft_log.applied;
        if applied > self.compacted + COMPACT_EVERY + KEPT {
            self.compacted = applied - KEPT;
            store.wl().compact(self.compacted)?;
        }
        Ok(())
    }

    fn send(&self, messages: Vec<Message>) {
        for message in messages {
            if let Some(peer) = self.peers.get(&message.to) {
                let _stopped = peer.send(Input::Message(message));
            }
        }
    }

    fn apply(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            if entry.get_entry_type() == EntryType::EntryNormal
                && !entry.data.is_empty()
                && let Some(reply) = self.waiting.pop_front()
            {
                let _gone = reply.send(());
            }
        }
    }
}

pub(crate) async fn run(load: Load) -> Result<Measured, Failure> {
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    let mut ends = HashMap::new();
    let mut queues = Vec::new();
    for id in 1..=NODES {
        let (sender, receiver) = channel();
        ends.insert(id, sender);
        queues.push((id, receiver));
    }
    let mut threads = Vec::new();
    for (id, inputs) in queues {
        let config = Config {
            id,
            election_tick: 10,
            heartbeat_tick: 1,
            max_size_per_msg: 256 << 10,
            max_inflight_msgs: 256,
            batch_append: true,
            ..Config::default()
        };
        let storage = MemStorage::new_with_conf_state(((1..=NODES).collect::<Vec<_>>(), vec![]));
        let raw = RawNode::new(&config, storage, &logger)?;
        let node = Node { raw, inputs, peers: ends.clone(), waiting: VecDeque::new(), compacted: 0 };
        threads.push(thread::spawn(move || node.run()));
    }
    let leader = ends.get(&1).ok_or("no node")?.clone();
    leader.send(Input::Campaign)?;
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let (reply, answer) = oneshot::channel();
        leader.send(Input::Leads(reply))?;
        if answer.await? {
            break;
        }
        if Instant::now() > deadline {
            return Err("nobody leads".into());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let call = {
        let leader = leader.clone();
        move || {
            let leader = leader.clone();
            async move {
                let (reply, answer) = oneshot::channel();
                leader.send(Input::Propose(command(), reply))?;
                answer.await?;
                Ok(())
            }
        }
    };
    let measured = drive(load, call).await?;
    for end in ends.values() {
        end.send(Input::Stop)?;
    }
    for thread in threads {
        thread.join().map_err(|_| "a node panicked")??;
    }
    Ok(measured)
}
