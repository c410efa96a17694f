//! The kinds of faults, so that a run can do without some of them.

use std::fmt;
use std::str::FromStr;

use super::settings::Settings;

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident $text:literal => $($field:ident).+;)*) => {
        /// A kind of fault that a seed may draw.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Fault {
            $($(#[$doc])* $name,)*
        }

        impl Fault {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Its name in `RAFT_WITHOUT`.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }

        impl Settings {
            /// The same without one kind of fault.
            pub(super) fn switch_off(&mut self, fault: Fault) {
                match fault {
                    $(Fault::$name => self.$($field).+ = 0,)*
                }
            }
        }
    };
}

faults! {
    /// Messages are lost.
    Loss "loss" => loss;
    /// Messages arrive twice.
    Duplicate "duplicate" => duplicate;
    /// Messages are held back.
    Straggle "straggle" => straggle;
    /// Messages of the past arrive again.
    Replay "replay" => replay;
    /// Writes take long.
    DiskStall "disk-stall" => disk_stall;
    /// Writes fail.
    DiskFailure "disk-failure" => disk_failure;
    /// Writes fail until room is made.
    DiskFull "disk-full" => disk_full;
    /// The process dies at a write.
    CrashAtWrite "crash-at-write" => crash_at_write;
    /// A node dies.
    Crash "crash" => nemesis.crash;
    /// All nodes die at once.
    CrashAll "crash-all" => nemesis.crash_all;
    /// All nodes die one after the other.
    RollingRestart "rolling-restart" => nemesis.rolling_restart;
    /// A node stands still.
    Pause "pause" => nemesis.pause;
    /// A clock jumps.
    ClockJump "clock-jump" => nemesis.jump;
    /// Clocks run at different rates.
    ClockDrift "clock-drift" => clock_drift;
    /// A node is cut off.
    Isolate "isolate" => nemesis.isolate;
    /// The cluster falls in two.
    Split "split" => nemesis.split;
    /// Some ways are cut in one direction.
    OneWay "one-way" => nemesis.one_way;
    /// Each node hears only its neighbours.
    Ring "ring" => nemesis.ring;
    /// Two halves share one node.
    Bridge "bridge" => nemesis.bridge;
    /// Leadership is handed over.
    Transfer "transfer" => nemesis.transfer;
    /// Leases are switched on and off.
    Lease "lease" => nemesis.lease;
    /// A leader with a lease is deposed unheard.
    Rival "rival" => nemesis.rival;
    /// A disk hangs.
    Stall "stall" => nemesis.stall;
    /// An operator asks for snapshots.
    Snapshot "snapshot" => nemesis.snapshot;
    /// Operators change the members.
    Members "members" => nemesis.members;
    /// Nodes lose their data folders.
    LostFolder "lost-folder" => nemesis.lost_folder;
    /// Old copies of data folders are put back.
    OldFolder "old-folder" => nemesis.old_folder;
    /// Snapshots cannot be written or sent.
    SnapshotFailure "snapshot-failure" => snapshot_failure;
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.iter().copied().find(|fault| fault.as_str() == text).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|fault| fault.as_str()).collect();
            format!("{text}: no such fault; there are {}", names.join(", "))
        })
    }
}
