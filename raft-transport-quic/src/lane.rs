//! The way out: a bounded queue per lane, and the writer that packs what waits. Little in an idle lane goes past the writer: each task
//! that a message wakes on its way adds to its delay.

use std::collections::{HashSet, VecDeque};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use quinn::SendStream;
use raft_core::codec::{CodecError, wire};
use raft_core::message::{Envelope, Lane, Message};
use raft_core::types::GroupId;
use tokio::sync::Notify;

use crate::fault::Fault;
use crate::stats::Counters;
use crate::sync::lock;

/// What a frame holds at most, unless a single message is larger: beyond where a write's fixed cost matters, and little
/// enough that the receiver works on one frame while the next is on its way.
const PACK_BYTES: usize = 128 << 10;

/// What is sent at once, in the sender's own time.
const AT_ONCE_BYTES: usize = 8 << 10;

/// The first byte of a lane's stream.
pub(crate) const CONTROL_TAG: u8 = 1;
pub(crate) const APPEND_TAG: u8 = 2;

const CONTROL_PRIORITY: i32 = 1;
const APPEND_PRIORITY: i32 = 0;

/// What waits for one lane of one connection.
#[derive(Debug)]
pub(crate) struct LaneQueue {
    lane: Lane,
    limit_bytes: usize,
    /// Of the frames.
    version: u16,
    counters: Arc<Counters>,
    state: Mutex<State>,
    ready: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Envelope>,
    /// Of all that waits.
    bytes: usize,
    /// Takes nothing any more.
    closed: bool,
    /// The stream, while its writer has nothing to do.
    idle: Option<SendStream>,
    /// What of a frame did not fit into the stream at once: goes before all that waits.
    rest: Bytes,
}

/// What the writer is to do next.
struct Work {
    stream: SendStream,
    rest: Bytes,
    pack: Vec<Envelope>,
}

impl LaneQueue {
    pub(crate) fn new(lane: Lane, limit_bytes: usize, version: u16, counters: Arc<Counters>) -> Self {
        Self { lane, limit_bytes, version, counters, state: Mutex::default(), ready: Notify::new() }
    }

    /// Adds `envelopes` in order, and sends them if they are few and nothing waits; counts what is dropped for want of room,
    /// these or older ones.
    pub(crate) fn push(&self, envelopes: Vec<Envelope>) {
        let mut dropped = 0;
        let mut state = lock(&self.state);
        if state.closed {
            self.counters.dropped.add(envelopes.len());
            return;
        }
        for envelope in envelopes {
            let bytes = envelope.bytes();
            let full = state.bytes + bytes > self.limit_bytes && !state.waiting.is_empty();
            match self.lane {
                // A gap in the entries stays one, whichever is dropped: keep those that fit to what was sent before.
                Lane::Append if full => {
                    dropped += 1;
                    continue;
                }
                Lane::Control if full => dropped += state.make_room(self.limit_bytes),
                _ => {}
            }
            state.bytes += bytes;
            state.waiting.push_back(envelope);
        }
        self.counters.dropped.add(dropped);
        if state.bytes > AT_ONCE_BYTES || !self.send_at_once(&mut state) {
            drop(state);
            self.ready.notify_one();
        }
    }

    /// Sends what waits without waking the writer, if the stream is idle; whether nothing is left to do.
    fn send_at_once(&self, state: &mut State) -> bool {
        if !state.rest.is_empty() {
            return false;
        }
        let Some(mut stream) = state.idle.take() else { return false };
        let pack = state.take_pack();
        let (frames, count) = self.encode(&pack);
        let bytes = frames.len();
        let mut frames = [frames];
        let mut nobody = Context::from_waker(Waker::noop());
        while !frames[0].is_empty() {
            let written = pin!(stream.write_chunks(&mut frames)).poll(&mut nobody);
            match written {
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => {
                    // The connection has ended: the writer finds out why.
                    self.counters.dropped.add(count);
                    state.idle = Some(stream);
                    state.closed = true;
                    return false;
                }
                Poll::Pending => break,
            }
        }
        self.count_sent(count, bytes);
        let [rest] = frames;
        state.rest = rest;
        state.idle = Some(stream);
        state.is_done()
    }

    /// Takes nothing any more; what waits still goes.
    pub(crate) fn close(&self) {
        lock(&self.state).closed = true;
        self.ready.notify_one();
    }

    /// Takes nothing any more and forgets what waits, which counts as dropped.
    pub(crate) fn abandon(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        state.bytes = 0;
        self.counters.dropped.add(std::mem::take(&mut state.waiting).len());
    }

    /// Gives the stream back, and waits for something to do; the stream by itself when closed and empty.
    async fn next(&self, stream: SendStream) -> Result<Work, SendStream> {
        lock(&self.state).idle = Some(stream);
        loop {
            {
                let mut state = lock(&self.state);
                if (!state.is_done() || state.closed)
                    && let Some(stream) = state.idle.take()
                {
                    if state.is_done() {
                        return Err(stream);
                    }
                    let rest = std::mem::take(&mut state.rest);
                    return Ok(Work { stream, rest, pack: state.take_pack() });
                }
            }
            self.ready.notified().await;
        }
    }

    /// Sends what is pushed until the queue is closed and the peer has acknowledged all, or the connection ends.
    pub(crate) async fn write(&self, mut stream: SendStream) -> Result<(), Fault> {
        let (tag, priority): (&'static [u8], i32) = match self.lane {
            Lane::Control => (&[CONTROL_TAG], CONTROL_PRIORITY),
            Lane::Append => (&[APPEND_TAG], APPEND_PRIORITY),
        };
        // Fails only where the stream is closed, which the first write finds out.
        let _ = stream.set_priority(priority);
        stream.write_chunk(Bytes::from_static(tag)).await?;
        let mut stream = loop {
            match self.next(stream).await {
                Ok(mut work) => {
                    if !work.rest.is_empty() {
                        work.stream.write_chunk(work.rest).await?;
                    }
                    let (frames, count) = self.encode(&work.pack);
                    drop(work.pack);
                    let bytes = frames.len();
                    if bytes > 0 {
                        work.stream.write_chunk(frames).await?;
                        self.count_sent(count, bytes);
                    }
                    stream = work.stream;
                }
                Err(stream) => break stream,
            }
        };
        let _ = stream.finish();
        match stream.stopped().await {
            Ok(_) => Ok(()),
            Err(error) => Err(Fault::Lost(error.to_string())),
        }
    }

    fn count_sent(&self, messages: usize, bytes: usize) {
        self.counters.sent.add(messages);
        self.counters.sent_bytes.add(bytes);
    }

    /// The frames of `pack`, and how many of its messages are in them: one frame of all, or, where a message cannot be encoded,
    /// one of each that can.
    fn encode(&self, pack: &[Envelope]) -> (Bytes, usize) {
        if pack.is_empty() {
            return (Bytes::new(), 0);
        }
        let bytes = wire::FRAME_HEADER_BYTES + pack.iter().map(Envelope::bytes).sum::<usize>();
        let mut frames = Vec::with_capacity(bytes);
        let mut sent = pack.len();
        if wire::encode_frame(self.version, pack, &mut frames).is_err() {
            sent = pack.iter().filter(|envelope| self.encode_one(envelope, &mut frames)).count();
        }
        self.counters.dropped.add(pack.len() - sent);
        (frames.into(), sent)
    }

    fn encode_one(&self, envelope: &Envelope, frames: &mut Vec<u8>) -> bool {
        match wire::encode_frame(self.version, [envelope], frames) {
            Ok(()) => return true,
            // The peer is to be upgraded: the engine holds such messages back until every member has announced the version.
            Err(CodecError::Unsupported) => {
                tracing::debug!(group = %envelope.group, version = self.version, "a message cannot be carried");
            }
            Err(error) => tracing::error!(group = %envelope.group, %error, "a message cannot be sent"),
        }
        false
    }
}

impl State {
    fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.rest.is_empty()
    }

    fn take_pack(&mut self) -> Vec<Envelope> {
        let mut bytes = 0;
        let mut count = 0;
        for envelope in &self.waiting {
            let next = envelope.bytes();
            if count > 0 && bytes + next > PACK_BYTES {
                break;
            }
            bytes += next;
            count += 1;
        }
        self.bytes -= bytes;
        self.waiting.drain(..count).collect()
    }

    /// Drops what a later message says again, and then the oldest, until a quarter is free: so that it is seldom done.
    fn make_room(&mut self, limit_bytes: usize) -> usize {
        let before = self.waiting.len();
        let mut later = HashSet::new();
        let mut kept = VecDeque::with_capacity(before);
        while let Some(envelope) = self.waiting.pop_back() {
            if repeatable(&envelope).is_none_or(|key| later.insert(key)) {
                kept.push_front(envelope);
            }
        }
        self.waiting = kept;
        self.bytes = self.waiting.iter().map(Envelope::bytes).sum();
        while self.bytes > limit_bytes / 4 * 3
            && let Some(oldest) = self.waiting.pop_front()
        {
            self.bytes -= oldest.bytes();
        }
        before - self.waiting.len()
    }
}

/// What a later message of the same kind and group makes superfluous: heartbeats and answers to appends are cumulative.
fn repeatable(envelope: &Envelope) -> Option<(GroupId, bool)> {
    match &envelope.message {
        Message::AppendRequest(append) if append.entries.is_empty() => Some((envelope.group, false)),
        Message::AppendResponse(_) => Some((envelope.group, true)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use raft_core::message::{AppendOutcome, AppendRequest, AppendResponse, VoteResponse};
    use raft_core::types::{Entry, EntryId, Lineage, Payload, Peer};

    use super::*;

    fn envelope(group: u64, message: Message) -> Envelope {
        Envelope {
            group: GroupId(group),
            from: Peer::default(),
            to: Peer::default(),
            lineage: Lineage::UNKNOWN,
            message,
        }
    }

    fn heartbeat(group: u64, round: u64) -> Envelope {
        let append = AppendRequest { term: 1, prev: EntryId::ZERO, entries: Vec::new(), commit: 0, round };
        envelope(group, Message::AppendRequest(append))
    }

    fn answer(round: u64) -> Envelope {
        let outcome = AppendOutcome::Accepted { matched: round, received: round };
        envelope(
            1,
            Message::AppendResponse(AppendResponse { term: 1, round, outcome, priority: 0, level: 1 }),
        )
    }

    fn vote(term: u64) -> Envelope {
        envelope(1, Message::VoteResponse(VoteResponse { term, granted: true, pre_vote: false }))
    }

    fn append(index: u64, size: usize) -> Envelope {
        let payload = Payload::Command(Bytes::from(vec![7; size]));
        let entries = vec![Entry { id: EntryId::new(1, index), payload }];
        let prev = EntryId::new(1, index - 1);
        envelope(1, Message::AppendRequest(AppendRequest { term: 1, prev, entries, commit: 0, round: 0 }))
    }

    fn queue(lane: Lane, limit_bytes: usize) -> LaneQueue {
        LaneQueue::new(lane, limit_bytes, 2, Arc::default())
    }

    /// Adds `envelopes`; how many were dropped for them.
    fn push(queue: &LaneQueue, envelopes: Vec<Envelope>) -> u64 {
        let dropped = || queue.counters.snapshot(0).dropped;
        let before = dropped();
        queue.push(envelopes);
        dropped() - before
    }

    fn waiting(queue: &LaneQueue) -> Vec<Envelope> {
        lock(&queue.state).waiting.iter().cloned().collect()
    }

    #[test]
    fn superseded_heartbeats_and_answers_go_first() {
        let each = heartbeat(1, 1).bytes();
        let queue = queue(Lane::Control, 8 * each);
        let first = vec![
            vote(4),
            heartbeat(1, 1),
            heartbeat(2, 1),
            answer(1),
            heartbeat(1, 2),
            answer(2),
            heartbeat(1, 3),
            answer(3),
        ];
        assert_eq!(push(&queue, first), 0);
        assert_eq!(push(&queue, vec![vote(5)]), 4);
        assert_eq!(waiting(&queue), [vote(4), heartbeat(2, 1), heartbeat(1, 3), answer(3), vote(5)]);
    }

    #[test]
    fn then_the_oldest_goes() {
        let each = vote(1).bytes();
        let queue = queue(Lane::Control, 8 * each);
        assert_eq!(push(&queue, (1..=9).map(vote).collect()), 2);
        assert_eq!(waiting(&queue), (3..=9).map(vote).collect::<Vec<_>>());
        assert_eq!(lock(&queue.state).bytes, 7 * each);
    }

    #[test]
    fn entries_that_do_not_fit_are_dropped() {
        let each = append(1, 1000).bytes();
        let queue = queue(Lane::Append, 2 * each);
        assert_eq!(push(&queue, (1..=4).map(|index| append(index, 1000)).collect()), 2);
        assert_eq!(waiting(&queue), [append(1, 1000), append(2, 1000)]);
    }

    #[test]
    fn a_message_above_the_limit_goes_alone() {
        let queue = queue(Lane::Append, 10);
        assert_eq!(push(&queue, vec![append(1, 1000), append(2, 1000)]), 1);
        assert_eq!(waiting(&queue), [append(1, 1000)]);
    }

    #[test]
    fn packs_are_bounded_and_in_order() {
        let queue = queue(Lane::Append, usize::MAX);
        let all: Vec<_> =
            [10, 10, PACK_BYTES * 2, 10, PACK_BYTES / 2, PACK_BYTES / 2].into_iter().enumerate().collect();
        push(&queue, all.iter().map(|(at, size)| append(*at as u64 + 1, *size)).collect());
        let mut packs = Vec::new();
        while !waiting(&queue).is_empty() {
            packs.push(lock(&queue.state).take_pack().len());
        }
        assert_eq!(packs, [2, 1, 2, 1]);
        assert_eq!(lock(&queue.state).bytes, 0);
        queue.close();
        assert_eq!(push(&queue, vec![append(9, 1)]), 1, "closed");
    }
}
