//! The application's log: `tracing`, or nothing without the feature of that name.

#[cfg(not(feature = "tracing"))]
pub(super) use silence::{nothing as debug, nothing as error, nothing as info, nothing as warn};
#[cfg(feature = "tracing")]
pub(super) use tracing::{debug, error, info, warn};

#[cfg(not(feature = "tracing"))]
mod silence {
    macro_rules! nothing {
        ($($told:tt)*) => {
            ()
        };
    }
    pub(in crate::runtime) use nothing;
}
