//! What leases must survive, brought about on purpose: a rival that wants to lead, voters that can be had for it, and a leader that
//! hears of nothing (thesis, 6.4.1).

use super::world::{Event, World};
use crate::engine::{Engine, RoleName};
use crate::testing::invariants::Broken;
use crate::types::{NodeId, Term};

/// A leader, and the node that is to depose it unheard.
#[derive(Clone, Copy)]
pub(super) struct Rivalry {
    leader: usize,
    term: Term,
    rival: usize,
    way: Way,
    /// The two have been kept apart.
    apart: bool,
}

/// How the rival comes by its votes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The leader hands over to it.
    Transfer,
    /// Voters are restarted, and might forget what they promised.
    Forgotten,
    /// What voters promised has run out, but the leader is answered only now.
    SlowAnswers,
    /// What voters promised has run out, but the leader was told that it would last longer.
    Longer,
}

impl World {
    /// Lets clients only read for a while, so that a rival will not lack entries.
    pub(super) fn raise_rival(&mut self, rival: usize) -> Result<(), Broken> {
        let leads = self.latest_leader().filter(|&leader| leader != rival);
        let Some((leader, term)) = leads.and_then(|node| Some((node, self.engine(node)?.term()))) else {
            return Ok(());
        };
        let timeout = self.election_timeout();
        let ways = if self.settings.nemesis.lease > 0 { 5 } else { 3 };
        let way = match self.random.below(ways) {
            0 => Way::Transfer,
            1 => Way::Forgotten,
            2 => Way::SlowAnswers,
            _ => Way::Longer,
        };
        if way == Way::SlowAnswers {
            let by = self.random.between(timeout / 2, timeout);
            for other in 0..self.settings.size {
                self.network.slow(other, leader, by);
            }
        }
        let settled = 4 * self.settings.delay_max + 2 * self.settings.disk_max;
        self.rivalry_until = self.now + settled + 6 * timeout;
        self.nemesis_did("rival", &[rival]);
        self.plan(settled, Event::Rival(Rivalry { leader, term, rival, way, apart: false }));
        Ok(())
    }

    /// What comes next for a rival, if its leader still leads.
    pub(super) fn further_rival(&mut self, rivalry: Rivalry) -> Result<(), Broken> {
        let Rivalry { leader, term, rival, way, apart } = rivalry;
        let leads = |engine: &Engine| engine.role() == RoleName::Leader && engine.term() == term;
        if self.calm || !self.engine(leader).is_some_and(leads) {
            return Ok(());
        }
        if apart || way == Way::Transfer {
            return self.favour_rival(rivalry);
        }
        // By then it wants to lead.
        self.network.cut(leader, rival);
        self.network.cut(rival, leader);
        let timeout = self.election_timeout();
        let wait = self.random.between(timeout, 4 * timeout);
        self.plan(wait, Event::Rival(Rivalry { apart: true, ..rivalry }));
        Ok(())
    }

    /// The rival's time has come: the leader is heard no more, or has handed over, and hears nothing itself but old answers.
    fn favour_rival(&mut self, rivalry: Rivalry) -> Result<(), Broken> {
        let Rivalry { leader, rival, way, .. } = rivalry;
        let timeout = self.election_timeout();
        if way == Way::Transfer {
            let now = self.local_time(leader);
            let to = NodeId(1 + rival as u64);
            if let Some(engine) = self.cluster.nodes[leader].engine_mut() {
                // Refused, the rival comes to nothing.
                let _refused = engine.transfer_leadership(Some(to), now);
            }
            self.pump(leader)?;
        }
        if way == Way::Longer {
            self.ask_for_lease(leader, Some(4 * timeout))?;
        }
        let others = (0..self.settings.size).filter(|&other| other != leader);
        for other in others.clone() {
            if way != Way::Transfer {
                self.network.cut(leader, other);
            }
            if way != Way::SlowAnswers {
                self.network.cut(other, leader);
            }
        }
        let all = self.random.chance(500_000);
        for voter in others.filter(|&voter| voter != rival && way == Way::Forgotten) {
            if all || self.random.chance(500_000) {
                let keep = self.random_keep(voter);
                self.crash(voter, keep, "crash of a rival's voter")?;
                let down = self.random.below(timeout / 8);
                self.plan(down, Event::Restart { node: voter });
            }
        }
        self.nemesis_did("rival favoured", &[rival]);
        self.rivalry_until = self.now + self.random.between(timeout, 4 * timeout);
        self.plan(self.rivalry_until - self.now, Event::Heal);
        Ok(())
    }

    fn engine(&self, node: usize) -> Option<&Engine> {
        self.cluster.nodes[node].engine()
    }
}
