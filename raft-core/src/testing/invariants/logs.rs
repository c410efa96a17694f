//! Log Matching: entries with the same index and term are the same, and so is all before them. Leader Append-Only: a
//! leader never rewrites its log (paper, figure 3).

use std::collections::BTreeMap;

use super::commits::Commits;
use super::{Broken, View};
use crate::engine::RoleName;
use crate::log_store::Write;
use crate::message::{Envelope, Message};
use crate::types::{Entry, EntryId, Index, Payload, Term};

#[derive(Default)]
pub(super) struct Logs {
    /// Every entry ever seen, by index: by Log Matching, its predecessor's term and its payload's hash fix all before it.
    seen: Vec<Vec<Seen>>,
    leaders: BTreeMap<Term, LeaderLog>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Seen {
    term: Term,
    before: Term,
    payload: u64,
}

/// A leader's log: what it held when elected, and after that only entries of its own term.
struct LeaderLog {
    term: Term,
    inherited: Vec<Term>,
}

impl LeaderLog {
    fn term_at(&self, index: Index) -> Term {
        match usize::try_from(index) {
            Ok(0) => 0,
            Ok(index) => self.inherited.get(index - 1).copied().unwrap_or(self.term),
            Err(_) => self.term,
        }
    }
}

impl Logs {
    /// The term of the entry that the leader of `term` holds at `index`, or would if its log were that long.
    pub(super) fn leader_term_at(&self, term: Term, index: Index) -> Option<Term> {
        self.leaders.get(&term).map(|log| log.term_at(index))
    }

    /// The leaders of later terms than `term`, each with the term of the entry that it holds at `index`.
    pub(super) fn later_leaders_at(
        &self,
        term: Term,
        index: Index,
    ) -> impl Iterator<Item = (Term, Term)> + '_ {
        self.leaders.range(term + 1..).map(move |(&leader, log)| (leader, log.term_at(index)))
    }

    /// Entries that were there before the test began.
    pub(super) fn learn(&mut self, entries: &[Entry]) {
        let mut before = 0;
        for entry in entries {
            let _ = self.see(before, entry);
            before = entry.term();
        }
    }

    /// A node was elected: its log is what its durable image holds, since a candidate campaigns with a durable log.
    pub(super) fn elected(&mut self, view: &View<'_>, commits: &Commits) -> Result<(), Broken> {
        // What it compacted is what was committed.
        let held = |index| view.image.term(index).or_else(|| commits.at(index).map(|id| id.term));
        let mut inherited: Vec<Term> = (1..=view.image.last_index()).filter_map(held).collect();
        // A sole voter needs no vote request, and may have appended its own entry already.
        while inherited.last() == Some(&view.term) {
            inherited.pop();
        }
        if let Some(&last) = inherited.last()
            && last > view.term
        {
            return Err(Broken::new(
                "a leader's log holds no entry of a later term",
                format!("{} leads term {} and holds {}", view.node, view.term, view.image.last()),
            ));
        }
        self.leaders.insert(view.term, LeaderLog { term: view.term, inherited });
        Ok(())
    }

    /// A node writes.
    pub(super) fn written(&mut self, view: &View<'_>, write: &Write) -> Result<(), Broken> {
        let leads = view.role == RoleName::Leader;
        if leads && let Some(from) = write.truncate_from {
            // What it truncated as a follower may still wait for its turn; never what it led with.
            let held = self.leaders.get(&view.term).map_or(0, |log| log.inherited.len() as u64);
            if from <= held {
                return Err(Broken::new(
                    "a leader only appends to its log",
                    format!("{} leads term {} and truncates from {from}", view.node, view.term),
                ));
            }
        }
        let Some(first) = write.entries.first() else { return Ok(()) };
        let before = first.index().saturating_sub(1);
        let installed =
            write.snapshot.as_ref().filter(|meta| write.truncate_from.is_some() && meta.last.index == before);
        let held = installed.map(|meta| meta.last.term).or_else(|| view.ahead.term(before));
        let Some(mut before) = held else { return Ok(()) };
        for entry in &write.entries {
            self.see(before, entry)?;
            before = entry.term();
            if leads {
                self.is_leaders(view.term, entry.id)?;
            }
        }
        Ok(())
    }

    /// A node sends.
    pub(super) fn sent(&mut self, view: &View<'_>, envelope: &Envelope) -> Result<(), Broken> {
        let Message::AppendRequest(append) = &envelope.message else { return Ok(()) };
        let mut before = append.prev;
        self.is_leaders(append.term, before)?;
        for entry in &append.entries {
            if entry.index() != before.index + 1 {
                return Err(Broken::new(
                    "an append's entries follow each other",
                    format!("{} sends {} after {before}", view.node, entry.id),
                ));
            }
            self.see(before.term, entry)?;
            self.is_leaders(append.term, entry.id)?;
            before = entry.id;
        }
        if append.commit > before.index {
            return Err(Broken::new(
                "an append's commit index is within what it lets the follower know",
                format!("{} sends commit {} with entries up to {before}", view.node, append.commit),
            ));
        }
        if append.commit > view.commit {
            return Err(Broken::new(
                "an append's commit index is within the leader's",
                format!("{} sends commit {} and has {}", view.node, append.commit, view.commit),
            ));
        }
        Ok(())
    }

    fn is_leaders(&self, term: Term, id: EntryId) -> Result<(), Broken> {
        match self.leader_term_at(term, id.index) {
            Some(held) if held == id.term => Ok(()),
            held => Err(Broken::new(
                "a leader never rewrites its log",
                format!("the leader of term {term} had term {held:?} at {}, now {id}", id.index),
            )),
        }
    }

    fn see(&mut self, before: Term, entry: &Entry) -> Result<(), Broken> {
        let place = entry.index() as usize;
        if self.seen.len() <= place {
            self.seen.resize_with(place + 1, Vec::new);
        }
        let now = Seen { term: entry.term(), before, payload: hash(&entry.payload) };
        match self.seen[place].iter().find(|seen| seen.term == now.term) {
            None => self.seen[place].push(now),
            Some(seen) if *seen == now => {}
            Some(_) => return Err(differs(entry.id)),
        }
        Ok(())
    }
}

fn differs(id: EntryId) -> Broken {
    Broken::new(
        "logs with an entry of the same index and term are the same up to it",
        format!("two logs hold {id} and differ there or just before"),
    )
}

fn hash(payload: &Payload) -> u64 {
    match payload {
        Payload::Noop => 1,
        Payload::Command(command) => 1 << 33 | u64::from(crc32c::crc32c(command)),
        Payload::Membership(membership) => {
            1 << 34 | u64::from(crc32c::crc32c(format!("{membership:?}").as_bytes()))
        }
        Payload::Session(session) => 1 << 35 | u64::from(crc32c::crc32c(format!("{session:?}").as_bytes())),
    }
}
