//! State Machine Safety: every node applies the committed log and nothing else (paper, figure 3), and only what is
//! durable on itself.

use super::commits::Commits;
use super::{Broken, View};
use crate::types::Entry;

pub(super) fn check(view: &View<'_>, apply: &[Entry], commits: &Commits) -> Result<(), Broken> {
    for entry in apply {
        if commits.at(entry.index()) != Some(entry.id) {
            return Err(Broken::new(
                "only committed entries are applied",
                format!("{} applies {}; committed is {:?}", view.node, entry.id, commits.at(entry.index())),
            ));
        }
        if view.image.entry(entry.index()) != Some(entry) {
            return Err(Broken::new(
                "what is applied is durable on the node",
                format!("{} applies {}; its disk ends at {}", view.node, entry.id, view.image.last()),
            ));
        }
    }
    Ok(())
}
