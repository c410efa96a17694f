//! What a group's log must hold, as simply as it can be said.

use std::collections::BTreeMap;

use crate::log_store::{LogState, Write};
use crate::types::{Entry, Index};

#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    /// `last` in it is not kept up to date.
    rows: LogState,
    /// All entries at this index and below are compacted.
    pub(super) mark: Index,
    entries: BTreeMap<Index, Entry>,
}

impl Model {
    pub(super) fn last(&self) -> Index {
        self.entries.keys().next_back().copied().unwrap_or(self.mark)
    }

    pub(super) fn state(&self) -> LogState {
        LogState { last: self.last(), ..self.rows.clone() }
    }

    pub(super) fn entries(&self) -> Vec<Entry> {
        self.entries.values().cloned().collect()
    }

    /// A write that fits.
    pub(super) fn write(&mut self, write: &Write) {
        if let Some(snapshot) = &write.snapshot {
            self.rows.snapshot = Some(snapshot.clone());
        }
        if let Some(from) = write.truncate_from {
            self.entries.retain(|&index, _| index < from);
        }
        self.entries.extend(write.entries.iter().map(|entry| (entry.index(), entry.clone())));
        self.rows.hard_state = write.hard_state.unwrap_or(self.rows.hard_state);
        if let Some(outline) = &write.outline {
            self.rows.outline = outline.clone();
        }
        self.mark = self.mark.max(write.compact_to.unwrap_or(0));
        let mark = self.mark;
        self.entries.retain(|&index, _| index > mark);
    }
}
