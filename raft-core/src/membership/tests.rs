use super::*;

fn info(number: u64) -> NodeInfo {
    NodeInfo { incarnation: Incarnation(100 + number), ..NodeInfo::at(format!("n{number}:1")) }
}

fn voters(ids: &[u64]) -> Membership {
    Membership::of_voters(ids.iter().map(|&id| (NodeId(id), info(id))).collect())
}

fn everybody(_: NodeId) -> bool {
    true
}

/// Takes steps as a leader does, binding whoever is asked for; all configurations on the way.
fn walk(from: &Membership, target: Target) -> Vec<Membership> {
    let mut way = vec![from.aim(target)];
    loop {
        let Some(at) = way.last() else { return way };
        assert_eq!(at.validate(), Ok(()), "{at}");
        let unknown = at.nodes.iter().find(|(_, info)| info.incarnation == Incarnation::UNKNOWN);
        let next = match unknown {
            Some((&node, _)) => at.bind(node, Incarnation(500 + node.0)),
            None => match at.next_step(everybody) {
                Step::Rest => return way,
                Step::Enter(next) => *next,
                Step::CatchUp(nodes) => panic!("{nodes:?} are caught up"),
            },
        };
        assert!(way.len() < 10, "{next}");
        way.push(next);
    }
}

fn shown(way: &[Membership]) -> Vec<String> {
    way.iter().map(ToString::to_string).collect()
}

#[test]
fn a_new_voter_learns_first_and_comes_in_by_a_joint_configuration() {
    let target = voters(&[1, 2, 3]).intent().voter(4, NodeInfo::at("n4:1"));
    let way = walk(&voters(&[1, 2, 3]), target);
    assert_eq!(
        shown(&way),
        [
            "voters(1 2 3) learners(4) -> voters(1 2 3 4)",
            "voters(1 2 3) learners(4) -> voters(1 2 3 4)",
            "voters(1 2 3 4) outgoing(1 2 3) -> voters(1 2 3 4)",
            "voters(1 2 3 4)",
        ]
    );
    assert_eq!(way[1].nodes[&NodeId(4)].incarnation, Incarnation(504));
}

#[test]
fn all_are_replaced_at_once() {
    let mut target = voters(&[1, 2, 3]).intent();
    for id in 1..=3 {
        target = target.remove(id).voter(id + 3, info(id + 3));
    }
    assert_eq!(
        shown(&walk(&voters(&[1, 2, 3]), target)),
        [
            "voters(1 2 3) learners(4 5 6) -> voters(4 5 6)",
            "voters(4 5 6) outgoing(1 2 3) -> voters(4 5 6)",
            "voters(4 5 6)"
        ]
    );
}

#[test]
fn a_demoted_voter_becomes_a_learner_when_the_joint_configuration_is_left() {
    let target = voters(&[1, 2, 3]).intent().demote(2).remove(3);
    assert_eq!(
        shown(&walk(&voters(&[1, 2, 3]), target)),
        [
            "voters(1 2 3) -> voters(1) learners(2)",
            "voters(1) outgoing(1 2 3) learners(2) -> voters(1) learners(2)",
            "voters(1) learners(2)"
        ]
    );
}

#[test]
fn learners_and_addresses_change_without_a_joint_configuration() {
    let target = voters(&[1, 2]).intent().learner(3, info(3)).voter(2, NodeInfo::at("elsewhere:1"));
    let way = walk(&voters(&[1, 2]), target);
    assert_eq!(shown(&way), ["voters(1 2) learners(3)"]);
    assert_eq!(way[0].nodes[&NodeId(2)].address, "elsewhere:1");
    assert_eq!(way[0].nodes[&NodeId(2)].incarnation, Incarnation(102));
}

#[test]
fn a_lost_folder_leaves_as_voter_and_comes_back_as_learner() {
    let from = voters(&[1, 2, 3]);
    let way = walk(&from, from.intent().readmit(3));
    assert_eq!(
        shown(&way),
        [
            "voters(1 2 3) -> voters(1 2 3) readmit(3)",
            "voters(1 2) outgoing(1 2 3) learners(3) -> voters(1 2 3) readmit(3)",
            "voters(1 2) learners(3) -> voters(1 2 3)",
            "voters(1 2) learners(3) -> voters(1 2 3)",
            "voters(1 2 3) outgoing(1 2) -> voters(1 2 3)",
            "voters(1 2 3)"
        ]
    );
    assert_eq!(way[1].nodes[&NodeId(3)].incarnation, Incarnation(103));
    assert_eq!(way[2].nodes[&NodeId(3)].incarnation, Incarnation::UNKNOWN);
    assert_eq!(way[5].nodes[&NodeId(3)].incarnation, Incarnation(503));
}

#[test]
fn another_folder_of_a_voter_is_a_readmission() {
    let from = voters(&[1, 2, 3]);
    let target = from.intent().voter(3, NodeInfo { incarnation: Incarnation(9), ..info(3) });
    let way = walk(&from, target);
    assert_eq!(shown(&way)[0], "voters(1 2 3) -> voters(1 2 3) readmit(3)");
    assert_eq!(shown(&way)[2], "voters(1 2) learners(3) -> voters(1 2 3)");
    assert_eq!(way[2].nodes[&NodeId(3)].incarnation, Incarnation(9));
}

#[test]
fn what_was_suspended_counts_again_only_with_a_new_folder() {
    let suspended = Membership { suspended: [NodeId(3)].into(), ..voters(&[1, 2, 3]) };
    assert_eq!(suspended.quorum(|_| 1), 1);
    assert_eq!(suspended.quorum(|node| u64::from(node != NodeId(2))), 0);
    let way = walk(&suspended, suspended.intent().readmit(3));
    assert_eq!(
        shown(&way)[1],
        "voters(1 2) outgoing(1 2 3) learners(3) suspended(3) -> voters(1 2 3) readmit(3)"
    );
    assert_eq!(shown(&way)[2], "voters(1 2) learners(3) -> voters(1 2 3)");
}

#[test]
fn given_up_before_the_joint_configuration_new_nodes_go_and_old_learners_stay() {
    let from = Membership { learners: [NodeId(5)].into(), ..voters(&[1, 2, 3]) };
    let from = Membership { nodes: [1, 2, 3, 5].map(|id| (NodeId(id), info(id))).into(), ..from };
    let aimed = from.aim(from.intent().promote(5).voter(4, info(4)));
    assert_eq!(aimed.to_string(), "voters(1 2 3) learners(4 5) -> voters(1 2 3 4 5)");
    assert_eq!(aimed.give_up(), from);
}

#[test]
fn given_up_within_the_joint_configuration_what_was_chosen_stays() {
    let from = voters(&[1, 2, 3]);
    let way = walk(&from, from.intent().voter(4, info(4)).remove(3));
    assert_eq!(way[1].to_string(), "voters(1 2 4) outgoing(1 2 3) -> voters(1 2 4)");
    let given_up = way[1].give_up();
    assert_eq!(given_up.outgoing, way[1].outgoing);
    assert_eq!(given_up.next_step(everybody), Step::Enter(Box::new(way[2].clone())));
}

#[test]
fn replaced_within_the_joint_configuration_it_goes_on_from_there() {
    let from = voters(&[1, 2, 3]);
    let way = walk(&from, from.intent().voter(4, info(4)).remove(3));
    let back = walk(&way[1], from.intent());
    assert_eq!(
        shown(&back),
        [
            "voters(1 2 4) outgoing(1 2 3) -> voters(1 2 3)",
            "voters(1 2 4) learners(3) -> voters(1 2 3)",
            "voters(1 2 3) outgoing(1 2 4) -> voters(1 2 3)",
            "voters(1 2 3)"
        ]
    );
}

#[test]
fn nobody_is_promoted_who_lags() {
    let aimed = voters(&[1]).aim(voters(&[1]).intent().voter(2, info(2)).voter(3, info(3)));
    let step = aimed.next_step(|node| node == NodeId(2));
    assert_eq!(step, Step::CatchUp([NodeId(3)].into()));
}

#[test]
fn targets_that_cannot_be_lived_in() {
    let three = voters(&[1, 2, 3]);
    assert_eq!(three.intent().remove(1).remove(2).remove(3).validate(), Err(MembershipError::NoVoters));
    assert_eq!(voters(&[1]).intent().readmit(1).validate(), Err(MembershipError::NoVoters));
    let node = NodeId(4);
    assert_eq!(three.intent().promote(4).validate(), Err(MembershipError::NoAddress { node }));
    assert_eq!(three.intent().readmit(4).validate(), Err(MembershipError::NoRole { node }));
}
