//! While a leader may answer by its lease, nobody leads in a later term (thesis, 6.4.1). Time decides here, so it is checked where each
//! node's clock is known and keeps to its bound, whether or not anybody reads just then.

use super::Broken;
use crate::engine::{Engine, RoleName};
use crate::testing::node::Node;
use crate::types::Time;

pub(crate) fn check(nodes: &[Node], clock: impl Fn(usize) -> Time) -> Result<(), Broken> {
    let leads = |engine: &&Engine| engine.role() == RoleName::Leader;
    let leaders = || {
        let running = nodes.iter().enumerate();
        running.filter_map(|(place, node)| Some((place, node, node.engine().filter(leads)?)))
    };
    let Some((newest, successor)) =
        leaders().map(|(_, node, engine)| (engine.term(), node.id())).max_by_key(|(term, _)| *term)
    else {
        return Ok(());
    };
    for (place, node, engine) in leaders().filter(|(.., engine)| engine.term() < newest) {
        let now = clock(place);
        if let Some(until) = engine.lease_until().filter(|&until| now < until) {
            return Err(Broken::new(
                "while a leader has a lease, nobody leads in a later term",
                format!(
                    "{} of term {} has one until {until:?}, at {now:?}, and {successor} leads term {newest}",
                    node.id(),
                    engine.term()
                ),
            ));
        }
    }
    Ok(())
}
