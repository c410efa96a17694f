//! Members that come and go, folders that are lost or go back in time, and the operator who sees to it.

use std::collections::BTreeSet;

use super::world::{Event, World, place};
use crate::engine::RoleName;
use crate::membership::{Membership, NodeInfo, Target};
use crate::testing::disk::Image;
use crate::testing::invariants::Broken;
use crate::testing::shelf::Shelf;
use crate::types::{Incarnation, NodeId, Payload};

/// A copy of a data folder.
pub(super) struct Copy {
    image: Image,
    shelf: Shelf,
}

impl World {
    /// The node that leads in the latest term, as far as running nodes know.
    pub(super) fn latest_leader(&self) -> Option<usize> {
        let leads = |node: &usize| {
            self.cluster.nodes[*node].engine().is_some_and(|engine| engine.role() == RoleName::Leader)
        };
        let term = |node: &usize| self.cluster.nodes[*node].engine().map(crate::engine::Engine::term);
        (0..self.settings.size).filter(leads).max_by_key(term)
    }

    fn membership(&self, node: usize) -> Option<&Membership> {
        self.cluster.nodes[node].engine().map(crate::engine::Engine::membership)
    }

    /// The members of a leader's configuration that run on the folder that is bound to them, and count.
    pub(super) fn members(&self, leader: usize) -> Vec<usize> {
        let Some(membership) = self.membership(leader) else { return Vec::new() };
        let counts = |&node: &usize| {
            let peer = self.cluster.nodes[node].peer();
            membership.nodes.get(&peer.node).is_some_and(|info| info.incarnation == peer.incarnation)
                && !membership.suspended.contains(&peer.node)
        };
        (0..self.settings.size).filter(counts).collect()
    }

    /// Members that came back on another folder, or whose disk went back: an operator has to see to them.
    fn lost(&self, membership: &Membership) -> Vec<NodeId> {
        let is_lost = |node: &NodeId| {
            let bound = membership.nodes.get(node).map_or(Incarnation::UNKNOWN, |info| info.incarnation);
            let folder = self.cluster.nodes.get(place(node.0)).map(|node| node.peer().incarnation);
            folder.is_some_and(|folder| bound.contradicts(folder)) || membership.suspended.contains(node)
        };
        membership.members().filter(is_lost).collect()
    }

    /// Whether a leader's configuration is what it is to be, whole and committed.
    pub(super) fn is_settled(&self, leader: usize) -> bool {
        self.cluster.nodes[leader].engine().is_some_and(|engine| {
            let membership = engine.membership();
            membership.target.is_none()
                && membership.outgoing.is_empty()
                && engine.status().membership_index <= engine.commit()
                && membership.nodes.values().all(|info| info.incarnation != Incarnation::UNKNOWN)
                && self.lost(membership).is_empty()
        })
    }

    /// Asks whoever leads for other members.
    pub(super) fn change_members(&mut self, first: usize) -> Result<(), Broken> {
        let size = self.settings.size as u64;
        let leads = |node: &usize| {
            self.cluster.nodes[*node].engine().is_some_and(|engine| engine.role() == RoleName::Leader)
        };
        let places = (0..self.settings.size).map(|step| (first + step) % self.settings.size);
        let Some(leader) = places.into_iter().find(leads) else { return Ok(()) };
        let Some(membership) = self.membership(leader).cloned() else { return Ok(()) };
        let now = self.local_time(leader);
        let gives_up = self.random.chance(150_000);
        let mut target = membership.intent();
        let lost = self.lost(&membership);
        for _ in 0..1 + self.random.below(4) {
            let node = NodeId(1 + self.random.below(size));
            target = self.draw_change(target, node, &lost);
        }
        let Some(engine) = self.cluster.nodes[leader].engine_mut() else { return Ok(()) };
        let asked = if gives_up { engine.give_up_change(now) } else { engine.set_members(target, None, now) };
        let name = match (asked, gives_up) {
            (Ok(_), true) => "change of members given up",
            (Ok(_), false) => "change of members",
            (Err(_), _) => "change of members refused",
        };
        self.nemesis_did(name, &[leader]);
        self.pump(leader)
    }

    fn draw_change(&mut self, target: Target, node: NodeId, lost: &[NodeId]) -> Target {
        if let Some(&lost) = lost.first() {
            // The operator knows: first that node is seen to.
            let member = target.nodes.contains_key(&lost);
            return match self.random.below(2) {
                0 if member => target.readmit(lost),
                1 if member => target.remove(lost),
                _ => target,
            };
        }
        let known = target.nodes.contains_key(&node);
        let info = NodeInfo::at(format!("n{node}:1"));
        match self.random.below(8) {
            0..3 if known => target.promote(node),
            0..3 => target.voter(node, info),
            3 if known => target.demote(node),
            3 => target.learner(node, info),
            4..6 => target.remove(node),
            _ => target,
        }
    }

    /// In the calm an operator takes in again who has lost its folder.
    pub(super) fn mend(&mut self) -> Result<(), Broken> {
        let pause = self.election_timeout();
        self.plan(pause, Event::Mend);
        let Some(leader) = self.latest_leader() else { return Ok(()) };
        let Some(membership) = self.membership(leader).cloned() else { return Ok(()) };
        let mut target = membership.intent();
        let before = target.clone();
        for node in self.lost(&membership) {
            if target.nodes.contains_key(&node) && !target.readmit.contains(&node) {
                target = target.readmit(node);
            }
        }
        if target == before {
            return Ok(());
        }
        let now = self.local_time(leader);
        if let Some(engine) = self.cluster.nodes[leader].engine_mut() {
            // Refused, it is tried again.
            let _refused = engine.set_members(target, None, now);
        }
        self.pump(leader)
    }

    /// Every configuration that a running node goes by, or that a disk holds.
    fn known_memberships(&self) -> Vec<Membership> {
        let running = (0..self.settings.size).filter_map(|node| self.membership(node)).cloned();
        let images = self.cluster.nodes.iter().flat_map(|node| [node.disk.image(), node.disk.ahead()]);
        let written = images.flat_map(|image| {
            let outlined = image.state().outline.memberships.into_values();
            let appended = image.entries().iter().filter_map(|entry| match &entry.payload {
                Payload::Membership(membership) => Some(Membership::clone(membership)),
                _ => None,
            });
            outlined.chain(appended).collect::<Vec<_>>()
        });
        running.chain(written).filter(|membership| !membership.is_empty()).collect()
    }

    /// Whether the cluster can go on for good without what is on a node's disk, whichever of its configurations comes to count, and
    /// without a vote of that node until an operator sees to it. Nobody else may be lost already.
    fn survives_loss_of(&self, node: usize) -> bool {
        let id = self.cluster.nodes[node].id();
        let safe = |half: &BTreeSet<NodeId>| !half.contains(&id) || half.len() >= 3;
        self.known_memberships().iter().all(|membership| {
            self.lost(membership).is_empty() && safe(&membership.voters) && safe(&membership.outgoing)
        })
    }

    /// A node loses its data folder, and comes back blank.
    pub(super) fn lose_folder(&mut self, node: usize) -> Result<(), Broken> {
        let settled = self.latest_leader().is_some_and(|leader| self.is_settled(leader));
        if !settled || !self.survives_loss_of(node) {
            return Ok(());
        }
        self.nemesis_did("folder lost", &[node]);
        let up = self.is_up(node);
        self.crash(node, 0, "crash with its folder")?;
        if !up {
            let down = self.random.below(self.settings.downtime_max + 1);
            self.plan(down, Event::Restart { node });
        }
        self.copies.remove(&node);
        self.cluster.nodes[node].wipe();
        Ok(())
    }

    /// Somebody copies a data folder, and later puts the old copy in its place. Only where a leader can find it out, or nothing is
    /// lost by it: all members are equal, and term and vote have not changed since.
    pub(super) fn copy_folder(&mut self, node: usize) -> Result<(), Broken> {
        let current = &self.cluster.nodes[node];
        let image = current.disk.image();
        let fits = |copy: &Copy| {
            let (then, now) = (copy.image.hard_state(), image.hard_state());
            (then.term, then.vote) == (now.term, now.vote)
                && copy.image.last_index() < image.last_index()
                && copy.image.base() == image.base()
                && copy.image.state().outline.memberships == image.state().outline.memberships
                && current.disk.in_flight().len() == 0
        };
        let settled = self.latest_leader().filter(|&leader| leader != node && self.is_settled(leader));
        let quiet = settled.is_some_and(|leader| {
            let last = image.last();
            let members = self.members(leader);
            members.contains(&node)
                && members.iter().all(|&member| {
                    let disk = &self.cluster.nodes[member].disk;
                    disk.image().last() == last && disk.ahead().last() == last
                })
                && self.cluster.invariants.committed().len() as u64 == last.index
        });
        if quiet && self.survives_loss_of(node) && self.copies.get(&node).is_some_and(fits) {
            let Some(Copy { image, shelf }) = self.copies.remove(&node) else { return Ok(()) };
            self.nemesis_did("old folder put back", &[node]);
            self.crash(node, 0, "crash with its folder")?;
            self.cluster.nodes[node].shelf = shelf;
            self.cluster.put_back(node, image);
            return Ok(());
        }
        if !image.entries().is_empty() {
            let copy = Copy { image: image.clone(), shelf: current.shelf.clone() };
            self.copies.insert(node, copy);
        }
        Ok(())
    }
}
