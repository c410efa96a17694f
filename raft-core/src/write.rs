//! What is asked of a log store, and what it holds.

use crate::types::{Entry, GroupId, HardState, Index, Outline, SnapshotMeta};

/// One atomic step of one group's log. All of it is durable, or none of it. The parts take effect in the order of the
/// fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Write {
    /// The group.
    pub group: GroupId,
    /// The engine's number of this write, ascending by one within a run of the process. A store may log it and
    /// need not keep it.
    pub number: u64,
    /// A snapshot that is durable in its own file. `None`: the one before stays.
    pub snapshot: Option<SnapshotMeta>,
    /// Drop every entry at this index and above; beyond the last entry, that is none. Entries that are compacted cannot be
    /// dropped so, nor entry 0: invalid. `None`: drop nothing.
    pub truncate_from: Option<Index>,
    /// Entries to append: ascending without gaps. The first follows [`LogState::last`] as `truncate_from` leaves it: the last
    /// entry, or, where the log holds none, what was compacted, or 0. A log that holds none may also go on after this
    /// write's own `compact_to`. Anything else is invalid: nothing is overwritten without `truncate_from`.
    pub entries: Vec<Entry>,
    /// The hard state. `None`: the one before stays.
    pub hard_state: Option<HardState>,
    /// The log's outline after this write. `None`: the one before stays.
    pub outline: Option<Outline>,
    /// Drop every entry at this index and below, those of this write too. Beyond the last entry, the log is empty and ends at this
    /// index; at or below what is compacted already, it changes nothing. `None`: drop nothing.
    pub compact_to: Option<Index>,
}

/// What a store holds of a group, without the entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    /// The last hard state written.
    pub hard_state: HardState,
    /// The last outline written.
    pub outline: Outline,
    /// The last snapshot written.
    pub snapshot: Option<SnapshotMeta>,
    /// The last entry's index; the highest index compacted if no entry is held; 0 if none ever was.
    pub last: Index,
}
