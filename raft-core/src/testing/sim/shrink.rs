//! Makes a failing run smaller: fewer events, fewer kinds of faults, and the same broken property.

use super::{Failure, Fault, Options, Subject};

impl Subject {
    /// Looks for the smallest run of the same seed that breaks the same property: bisects the number of events, then does
    /// without each kind of fault that is not needed, then bisects again. `None` where the run does not fail. Takes some
    /// fifty runs, most of them short ones. What a fault does not do changes what happens after it, so the result is small,
    /// not the smallest that there is.
    #[must_use]
    pub fn shrink(&self, options: &Options) -> Option<Box<Failure>> {
        let mut smallest = self.run(options).err()?;
        let property = smallest.broken.property;
        let mut options = options.clone();
        let fails = |options: &Options| {
            // Without the lines of the trace, which make it slow.
            self.run_once(options).err().filter(|failure| failure.broken.property == property)
        };
        // An event of the calm counts too, and is none to be shortened to.
        options.events = options.events.min(smallest.event);
        match fails(&options) {
            Some(_) => {}
            None => options.events = smallest.events,
        }
        fewer_events(&mut options, fails);
        for &fault in Fault::ALL {
            let mut without = options.clone();
            without.without.push(fault);
            // It may then happen later.
            for events in [options.events, options.events.saturating_mul(4)] {
                without.events = events.min(smallest.events);
                if !options.without.contains(&fault) && fails(&without).is_some() {
                    options = without;
                    break;
                }
            }
        }
        fewer_events(&mut options, fails);
        if let Err(failure) = self.run(&options) {
            smallest = failure;
        }
        Some(smallest)
    }
}

fn fewer_events(options: &mut Options, fails: impl Fn(&Options) -> Option<Box<Failure>>) {
    let (mut passes, mut events) = (0, options.events);
    while passes + 1 < events {
        let middle = passes + (events - passes) / 2;
        if fails(&options.clone().events(middle)).is_some() {
            events = middle;
        } else {
            passes = middle;
        }
    }
    options.events = events;
}
