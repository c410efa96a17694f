//! Progress against a second implementation that keeps everything it was ever told, and recomputes.

use std::time::Duration;

use proptest::prelude::*;

use super::{Flow, Inflight, Inflights, Progress};
use crate::types::{Incarnation, Index, Time};

const PATIENCE: Duration = Duration::from_millis(100);

/// What a leader knows of a peer, the slow way.
#[derive(Debug)]
struct Model {
    matched: Index,
    received: Index,
    next: Index,
    /// Where the logs agree is not known.
    probing: bool,
    window: Vec<Inflight>,
    /// The answers since the last probe that made an append doubtful, oldest first.
    doubts: Vec<Doubtful>,
}

#[derive(Clone, Copy, Debug)]
struct Doubtful {
    last: Index,
    received: Index,
    leader_round: u64,
    at: Time,
}

impl Model {
    fn accept(&mut self, matched: Index, received: Index) {
        self.matched = self.matched.max(matched);
        self.received = received.max(self.matched);
        self.window.retain(|append| append.last > self.matched);
        if self.probing && self.received >= self.next - 1 {
            self.probing = false;
            self.next = self.received + 1;
            self.window.retain(|append| append.last <= self.received);
        }
        self.next = self.next.max(self.matched + 1);
    }

    fn probe_from(&mut self, next: Index) {
        self.probing = true;
        self.next = next.max(self.matched + 1);
        self.window.retain(|append| append.last < self.next);
        self.doubts.clear();
    }

    /// Lost is what was doubtful before, with nothing arrived since, if the peer now answers what was sent after that.
    fn lost_append(&mut self, leader_round: u64, peer_round: u64, now: Time) -> bool {
        let oldest = self.window.first().map_or((self.next - 1, 0), |append| (append.last, append.round));
        if self.probing || self.received >= oldest.0 || peer_round <= oldest.1 {
            return false;
        }
        let answer = Doubtful { last: oldest.0, received: self.received, leader_round, at: now };
        self.doubts.push(answer);
        // The doubt began with the last answer that was about another append, or after which something arrived.
        let mut began = self.doubts[0];
        for doubt in &self.doubts {
            if doubt.last != began.last || doubt.received > began.received {
                began = *doubt;
            }
        }
        peer_round > began.leader_round && now >= began.at + PATIENCE
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// The leader appends this many entries.
    Append(u8),
    /// One append goes out, of at most this many entries and so many bytes each.
    Send(u8, u8),
    /// The leader begins a round and so many milliseconds pass.
    Round(u8),
    /// The peer accepts: a matched and a received index, and a round, each a share of what there is, in 255ths.
    Accept(u8, u8, u8),
    /// The peer answers as one does that holds all that was sent.
    AcceptAll,
    /// So much of what was sent arrived, and nothing is durable yet.
    Arrived(u8),
    /// An answer that was long on its way: so many entries less had been received then.
    Late(u8),
    /// The peer refuses, and may share this much of the log.
    Refuse(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0_u8..6).prop_map(Step::Append),
        4 => (1_u8..4, any::<u8>()).prop_map(|(count, bytes)| Step::Send(count, bytes)),
        4 => prop::sample::select(vec![0, 20, 50, 100]).prop_map(Step::Round),
        2 => (any::<u8>(), any::<u8>(), any::<u8>()).prop_map(|(m, r, round)| Step::Accept(m, r, round)),
        1 => Just(Step::AcceptAll),
        4 => any::<u8>().prop_map(Step::Arrived),
        4 => (0_u8..6).prop_map(Step::Late),
        1 => any::<u8>().prop_map(Step::Refuse),
    ]
}

fn share_of(all: u64, share: u8) -> u64 {
    all * u64::from(share) / 255
}

proptest! {
    #[test]
    fn behaves_like_the_slow_way(first_last in 0_u64..20, steps in prop::collection::vec(step(), 1..120)) {
        let (mut last, mut round, mut now) = (first_last, 1_u64, Time::from_secs(1));
        let mut peer = Progress::new(Incarnation(7), last, now);
        let mut model = Model {
            matched: 0,
            received: 0,
            next: last + 1,
            probing: true,
            window: Vec::new(),
            doubts: Vec::new(),
        };
        for step in steps {
            match step {
                Step::Append(count) => last += u64::from(count),
                Step::Send(count, bytes) => {
                    let probe_sent = matches!(peer.flow, Flow::Probe { sent: true });
                    if peer.next > last || probe_sent {
                        continue;
                    }
                    let append = Inflight {
                        last: last.min(peer.next - 1 + u64::from(count)),
                        bytes: usize::from(bytes),
                        round,
                    };
                    peer.inflights.push(append);
                    model.window.push(append);
                    match &mut peer.flow {
                        Flow::Probe { sent } => *sent = true,
                        Flow::Replicate => {
                            peer.next = append.last + 1;
                            model.next = append.last + 1;
                        }
                        Flow::Snapshot { .. } => prop_assert!(false, "nobody asked for a snapshot"),
                    }
                }
                Step::Round(millis) => {
                    round += 1;
                    now += Duration::from_millis(u64::from(millis));
                }
                Step::Accept(..) | Step::AcceptAll | Step::Arrived(_) | Step::Late(_) => {
                    let (matched, received, answered) = match step {
                        Step::Accept(m, r, answered) => (share_of(last, m), share_of(last, r), share_of(round, answered)),
                        Step::Arrived(share) => (0, share_of(peer.next - 1, share), round),
                        Step::Late(less) => (0, peer.received.saturating_sub(less.into()), round),
                        _ => (peer.next - 1, peer.next - 1, round),
                    };
                    let (before, known_at) = (peer.matched, peer.matched_round);
                    peer.round = peer.round.max(answered);
                    peer.accept(matched, received, round, true);
                    model.accept(matched, received);
                    prop_assert_eq!(peer.matched_round, if matched > before { round } else { known_at });
                    let lost = peer.lost_append(round, now, PATIENCE);
                    prop_assert_eq!(lost, model.lost_append(round, peer.round, now));
                    if lost {
                        peer.probe_from(peer.received + 1);
                        model.probe_from(model.received + 1);
                    }
                }
                Step::Refuse(shared) => {
                    peer.probe_from(share_of(last, shared) + 1);
                    model.probe_from(share_of(last, shared) + 1);
                }
            }
            prop_assert_eq!((peer.matched, peer.received, peer.next), (model.matched, model.received, model.next));
            prop_assert_eq!(matches!(peer.flow, Flow::Probe { .. }), model.probing);
            prop_assert!(peer.matched < peer.next);
            let lasts: Vec<Index> = peer.inflights.appends.iter().map(|append| append.last).collect();
            prop_assert_eq!(&lasts, &model.window.iter().map(|append| append.last).collect::<Vec<_>>());
            prop_assert!(lasts.windows(2).all(|pair| pair[0] < pair[1]), "{lasts:?}");
            prop_assert!(model.probing || lasts.last().is_none_or(|&last| last < peer.next));
            let bytes: usize = model.window.iter().map(|append| append.bytes).sum();
            prop_assert_eq!(peer.inflights.bytes, bytes);
        }
        // Whatever came before: a peer that now holds everything leaves nothing behind.
        peer.accept(last, last, round, true);
        prop_assert_eq!((peer.matched, peer.received, peer.next), (last, last, last + 1));
        prop_assert_eq!((peer.inflights.len(), peer.inflights.bytes), (0, 0));
        prop_assert_eq!(peer.flow, Flow::Replicate);
    }

    #[test]
    fn a_window_is_what_is_left_of_a_list(
        steps in prop::collection::vec((0_u8..3, 1_u64..5, 0_usize..100), 1..80),
        max_messages in 1_usize..6,
        max_bytes in 1_usize..200,
    ) {
        let mut window = Inflights::default();
        let mut list: Vec<Inflight> = Vec::new();
        let mut end = 0;
        for (step, number, bytes) in steps {
            match step {
                0 => {
                    end = list.last().map_or(end, |append| append.last) + number;
                    let append = Inflight { last: end, bytes, round: number };
                    window.push(append);
                    list.push(append);
                }
                1 => {
                    let matched = list.first().map_or(0, |append| append.last) + number - 1;
                    window.free_to(matched);
                    list.retain(|append| append.last > matched);
                }
                _ => {
                    let next = (end + 2).saturating_sub(number);
                    window.cut_from(next);
                    list.retain(|append| append.last < next);
                }
            }
            let held: usize = list.iter().map(|append| append.bytes).sum();
            prop_assert_eq!(window.len(), list.len());
            prop_assert_eq!(window.bytes, held);
            prop_assert_eq!(window.is_full(max_messages, max_bytes), list.len() >= max_messages || held >= max_bytes);
            prop_assert_eq!(window.oldest().map(|append| append.last), list.first().map(|append| append.last));
        }
    }
}

#[test]
fn a_snapshot_is_sent_once_however_long_it_takes() {
    let mut peer = Progress::new(Incarnation(7), 100, Time::ZERO);
    peer.inflights.push(Inflight { last: 101, bytes: 10, round: 0 });
    peer.await_snapshot(90, Time::ZERO);
    assert_eq!((peer.snapshot(), peer.inflights.len(), peer.inflights.bytes), (Some(90), 0, 0));
    assert!(peer.waits_for_snapshot());
    peer.flow = Flow::Snapshot { last: 90, stage: super::SnapshotStage::Sending { transfer: 1 } };
    for round in 1..1000 {
        peer.round = round;
        peer.accept(7, 8, round, true);
        let much_later = Time::from_secs(round);
        assert!(
            !peer.lost_snapshot() && !peer.lost_append(round, much_later, Duration::ZERO),
            "round {round}"
        );
    }
    assert_eq!((peer.matched, peer.received), (7, 8));
    peer.flow = Flow::Snapshot { last: 90, stage: super::SnapshotStage::Delivered { round: 1000 } };
    // An answer that was on its way already, then the first that knows of the snapshot.
    peer.round = 1000;
    peer.accept(7, 8, 1000, true);
    assert!(!peer.lost_snapshot());
    peer.round = 1001;
    peer.accept(7, 90, 1001, true);
    assert!(!peer.lost_snapshot());
    assert_eq!((peer.flow, peer.next, peer.matched), (Flow::Replicate, 91, 7));
}

#[test]
fn a_snapshot_that_the_peer_forgot_is_lost() {
    let mut peer = Progress::new(Incarnation(7), 100, Time::ZERO);
    peer.await_snapshot(90, Time::ZERO);
    peer.flow = Flow::Snapshot { last: 90, stage: super::SnapshotStage::Delivered { round: 5 } };
    peer.round = 6;
    peer.accept(7, 8, 6, true);
    assert!(peer.lost_snapshot());
    peer.probe_from(peer.received + 1);
    assert_eq!((peer.flow, peer.next), (Flow::Probe { sent: false }, 9));
}
