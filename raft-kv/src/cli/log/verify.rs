//! `raft-kv log verify`

use raft_storage_redb::{Damage, Inspector};
use serde::Serialize;

use super::{DataArgs, Failure, Output, refuse_damaged, refused};

#[derive(Serialize)]
struct VerifyBody {
    file: String,
    size_bytes: u64,
    sound: bool,
    /// Sound entries.
    entries: u64,
    /// What these entries say, in bytes.
    payload_bytes: u64,
    damage: Vec<DamageBody>,
}

#[derive(Serialize)]
pub(super) struct DamageBody {
    #[serde(flatten)]
    place: Place,
    /// The same in words.
    message: String,
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Place {
    Entries { group: u64, first: u64, last: u64 },
    Row { group: Option<u64>, row: &'static str },
    Page { table: String, offset: u64, bytes: u64 },
    Other,
}

impl DamageBody {
    pub(super) fn new(damage: &Damage) -> Self {
        let place = match damage {
            Damage::Entries { group, first, last } => {
                Place::Entries { group: group.0, first: *first, last: *last }
            }
            Damage::Row { group, row, .. } => Place::Row { group: group.map(|group| group.0), row },
            Damage::Page { table, offset, bytes, .. } => {
                Place::Page { table: table.clone(), offset: *offset, bytes: *bytes }
            }
            _ => Place::Other,
        };
        Self { place, message: damage.to_string() }
    }
}

/// Checks everything, prints what was found, and is refused where something is damaged.
pub(super) fn run(args: &DataArgs, output: Output) -> Result<(), Failure> {
    let log = Inspector::open(args.file()?).map_err(|e| refused(&e))?;
    let report = log.verify();
    let body = VerifyBody {
        file: log.path().display().to_string(),
        size_bytes: log.file_bytes(),
        sound: report.is_sound(),
        entries: report.entries,
        payload_bytes: report.payload_bytes,
        damage: report.damage.iter().map(DamageBody::new).collect(),
    };
    let sound = format!("{} entries are sound, {} bytes of payload", body.entries, body.payload_bytes);
    if report.is_sound() {
        return output.result(&format!("OK all of {} bytes checked: {sound}", body.size_bytes), &body);
    }
    let found: Vec<String> = report.damage.iter().map(ToString::to_string).collect();
    output.result(&format!("{}\n{sound}", found.join("\n")), &body)?;
    refuse_damaged(&log, &report.damage)
}
