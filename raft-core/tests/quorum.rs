//! The quorum function against a naive second implementation: the highest number that some majority of each half reaches.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use raft_core::membership::{MAX_VOTERS, MembershipError};
use raft_core::{Membership, NodeId, NodeInfo};

fn info(node: NodeId) -> (NodeId, NodeInfo) {
    (node, NodeInfo { address: format!("n{node}:1"), ..NodeInfo::default() })
}

fn membership(voters: &[u64], outgoing: &[u64]) -> Membership {
    let set = |ids: &[u64]| ids.iter().map(|&id| NodeId(id)).collect::<BTreeSet<_>>();
    let (voters, outgoing) = (set(voters), set(outgoing));
    let nodes = voters.union(&outgoing).copied().map(info).collect();
    Membership { voters, outgoing, nodes, ..Membership::default() }
}

fn naive(membership: &Membership, numbers: &BTreeMap<NodeId, u64>) -> u64 {
    let reached = |half: &BTreeSet<NodeId>, number: u64| {
        let count = half.iter().filter(|node| numbers.get(node).copied().unwrap_or(0) >= number).count();
        half.is_empty() || 2 * count > half.len()
    };
    let candidates = numbers.values().copied().chain([0]);
    candidates
        .filter(|&number| reached(&membership.voters, number) && reached(&membership.outgoing, number))
        .max()
        .unwrap()
}

#[test]
fn a_majority_by_hand() {
    let numbers = |all: &'static [u64]| move |node: NodeId| all[usize::try_from(node.0).unwrap() - 1];
    for (voters, values, expected) in [
        (&[1][..], &[5][..], 5),
        (&[1, 2], &[5, 3], 3),
        (&[1, 2, 3], &[5, 3, 1], 3),
        (&[1, 2, 3, 4], &[5, 3, 2, 1], 2),
        (&[1, 2, 3, 4, 5], &[9, 8, 7, 1, 1], 7),
    ] {
        assert_eq!(membership(voters, &[]).quorum(numbers(values)), expected, "{voters:?} {values:?}");
    }
    // Each half of a joint configuration counts: 1, 2, 3 have 4; 3, 4, 5 have 2.
    assert_eq!(membership(&[1, 2, 3], &[3, 4, 5]).quorum(numbers(&[4, 4, 9, 2, 1])), 2);
    assert_eq!(Membership::default().quorum(|_| 7), 0);
}

proptest! {
    #[test]
    fn the_same_as_the_naive_one(
        voters in prop::collection::vec(1_u64..12, 1..=9),
        outgoing in prop::collection::vec(1_u64..12, 0..=9),
        numbers in prop::collection::btree_map((1_u64..12).prop_map(NodeId), 0_u64..6, 0..12),
    ) {
        let membership = membership(&voters, &outgoing);
        let number = |node: NodeId| numbers.get(&node).copied().unwrap_or(0);
        prop_assert_eq!(membership.quorum(number), naive(&membership, &numbers));
    }
}

#[test]
fn what_cannot_be_lived_in_is_refused() {
    let nodes = |count: u64| (1..=count).map(|id| info(NodeId(id))).collect::<BTreeMap<_, _>>();
    assert_eq!(Membership::default().validate(), Err(MembershipError::NoVoters));
    assert_eq!(Membership::of_voters(nodes(9)).validate(), Ok(()));
    let too_many = Membership::of_voters(nodes(10)).validate();
    assert_eq!(too_many, Err(MembershipError::TooManyVoters { count: MAX_VOTERS + 1 }));
    let mut lost = Membership::of_voters(nodes(3));
    lost.nodes.remove(&NodeId(2));
    assert_eq!(lost.validate(), Err(MembershipError::NoAddress { node: NodeId(2) }));
    let mut both = Membership::of_voters(nodes(3));
    both.learners.insert(NodeId(1));
    assert_eq!(both.validate(), Err(MembershipError::VoterAndLearner { node: NodeId(1) }));
    let mut idle = Membership::of_voters(nodes(3));
    idle.voters.remove(&NodeId(3));
    assert_eq!(idle.validate(), Err(MembershipError::NoRole { node: NodeId(3) }));
}
