//! `raft-kv log verify`

use raft_storage_redb::{Damage, GroupSize, Inspector};
use serde::Serialize;

use super::{DataArgs, Failure, Output, refuse_damaged, refused};

#[derive(Serialize)]
struct VerifyBody {
    file: String,
    size_bytes: u64,
    sound: bool,
    groups: Vec<SizeBody>,
    damage: Vec<DamageBody>,
}

#[derive(Serialize)]
struct SizeBody {
    group: u64,
    /// Sound entries.
    entries: u64,
    /// What these entries say, in bytes.
    payload_bytes: u64,
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

impl SizeBody {
    fn new(size: &GroupSize) -> Self {
        Self { group: size.group.0, entries: size.entries, payload_bytes: size.payload_bytes }
    }
}

fn sizes_text(groups: &[SizeBody]) -> String {
    let text = |size: &SizeBody| {
        let SizeBody { group, entries, payload_bytes } = size;
        format!("group {group}: {entries} entries are sound, {payload_bytes} bytes of payload")
    };
    if groups.is_empty() {
        "no entries".to_owned()
    } else {
        groups.iter().map(text).collect::<Vec<_>>().join("\n")
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
        groups: report.groups.iter().map(SizeBody::new).collect(),
        damage: report.damage.iter().map(DamageBody::new).collect(),
    };
    let sound = sizes_text(&body.groups);
    if report.is_sound() {
        return output.result(&format!("OK all of {} bytes checked\n{sound}", body.size_bytes), &body);
    }
    let found: Vec<String> = report.damage.iter().map(ToString::to_string).collect();
    output.result(&format!("{}\n{sound}", found.join("\n")), &body)?;
    refuse_damaged(&log, &report.damage)
}
