#![no_main]
//! The rows of the file: the first byte says which kind, the rest is the row, once as it is and once behind a right checksum.
//! What decodes encodes to the same bytes again, and nothing panics.

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use raft_core::codec::entry;
use raft_core::types::GroupId;

#[allow(dead_code, reason = "only the decoders are of interest here")]
#[path = "../../src/layout.rs"]
mod layout;

const GROUP: GroupId = GroupId(7);

fuzz_target!(|bytes: &[u8]| {
    let Some((&kind, row)) = bytes.split_first() else { return };
    match kind % 4 {
        0 => {
            state(row);
            state(&layout::seal(&layout::group_key(GROUP, layout::GROUP_STATE), row));
        }
        1 => {
            identity(row);
            identity(&layout::seal(layout::STORE_IDENTITY.as_bytes(), row));
        }
        2 => {
            let _format_or_not = layout::decode_format(row);
            let _format_or_not = layout::decode_format(&layout::seal(layout::STORE_FORMAT.as_bytes(), row));
        }
        _ => chunk(row),
    }
});

fn state(row: &[u8]) {
    if let Ok(state) = layout::GroupState::decode(GROUP, row) {
        assert_eq!(state.encode(GROUP), row);
    }
}

fn identity(row: &[u8]) {
    if let Ok(identity) = layout::Identity::decode(row) {
        assert_eq!(identity.encode(), row);
    }
}

fn chunk(row: &[u8]) {
    let mut rest = Bytes::copy_from_slice(row);
    let mut index = 1;
    while let Ok(taken) = layout::take_entry(&mut rest, index) {
        index = taken.index() + 1;
        let mut again = Vec::new();
        entry::encode(&taken, &mut again).expect("what decoded is within the limits");
    }
    if let Ok(kept) = layout::prefix_bytes(row, 1, index) {
        assert!(kept <= row.len());
    }
}
