//! What is found when the log is opened.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use raft_core::codec::{CodecError, cold};
use raft_core::log_store::{StorageError, StorageErrorKind};

use super::format::{self, CHECKPOINT, FRAME_HEADER_BYTES, Frame, SEGMENT_HEADER_BYTES, WRITES};
use super::index::{Checkpoint, Log};
use super::writer::{Active, Writer, new_segment};
use super::{damaged, error, io_error};

/// Reads the log in `folder`, or begins one.
pub(super) fn open(folder: &Path, segment_bytes: u64) -> Result<Writer, StorageError> {
    fs::create_dir_all(folder).map_err(|e| io_error(folder, "make the folder", &e))?;
    let lock = File::create(folder.join("lock")).map_err(|e| io_error(folder, "open its lock", &e))?;
    lock.try_lock().map_err(|e| match e {
        fs::TryLockError::WouldBlock => {
            error(StorageErrorKind::Busy, folder, "already open; stop that process or use another folder")
        }
        fs::TryLockError::Error(e) => io_error(folder, "lock it", &e),
    })?;
    let numbers = segments(folder).map_err(|e| io_error(folder, "list it", &e))?;
    let (mut log, mut next_frame, mut active) = (Log::default(), None, None);
    for (at, &number) in numbers.iter().enumerate() {
        if at > 0 && number != numbers[at - 1] + 1 {
            let name = format::segment_name(number - 1);
            return Err(damaged(folder, format_args!("{name} is missing")));
        }
        let newest = at + 1 == numbers.len();
        active = Some(open_segment(folder, number, newest, &mut log, &mut next_frame)?);
    }
    if let Some((group, index)) = log.missing() {
        return Err(damaged(folder, format_args!("group {group}: entry {index} is missing")));
    }
    let active = match active {
        Some(active) => active,
        None => {
            let made = new_segment(folder, 1, 0, &log.checkpoint());
            let (active, file) = made.map_err(|e| io_error(folder, "begin the log", &e))?;
            log.add_segment(active.number, file);
            active
        }
    };
    let mut writer = Writer {
        folder: folder.to_owned(),
        segment_bytes,
        log: Arc::new(Mutex::new(log)),
        active,
        next_frame: next_frame.unwrap_or(1),
        buffer: Vec::new(),
        failed: false,
        _lock: lock,
    };
    writer.drop_segments()?;
    Ok(writer)
}

/// The numbers of the segments in a folder, ascending.
fn segments(folder: &Path) -> io::Result<Vec<u64>> {
    let names = fs::read_dir(folder)?.map(|file| Ok(file?.file_name()));
    let names = names.collect::<io::Result<Vec<_>>>()?;
    let mut numbers: Vec<u64> =
        names.iter().filter_map(|name| format::segment_number(name.to_str()?)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Takes a segment into the log, frame by frame.
fn open_segment(
    folder: &Path,
    number: u64,
    newest: bool,
    log: &mut Log,
    next_frame: &mut Option<u64>,
) -> Result<Active, StorageError> {
    let name = format::segment_name(number);
    let path = folder.join(&name);
    let io = |e: io::Error| io_error(folder, &format!("open {name}"), &e);
    let bytes = Bytes::from(fs::read(&path).map_err(io)?);
    let salt = format::read_segment_header(&bytes, number).map_err(|e| match e {
        CodecError::UnknownKind(_) => {
            let what = format_args!("{name} is no segment of this format; choose another folder");
            error(StorageErrorKind::Format, folder, what)
        }
        e => damaged(folder, format_args!("the header of {name} is damaged ({e})")),
    })?;
    log.add_segment(number, File::open(&path).map_err(io)?);
    let mut at = SEGMENT_HEADER_BYTES;
    loop {
        let broken = |why: &dyn std::fmt::Display| {
            damaged(folder, format_args!("{name} is damaged at byte {at} ({why})"))
        };
        let first = at == SEGMENT_HEADER_BYTES;
        let Some(frame) = format::frame(bytes.slice(at..), salt, *next_frame) else {
            // At the end of the newest segment, and only there, a write may have been cut short.
            let ends = at == bytes.len() && !first;
            let torn =
                newest && next_frame.is_some_and(|next| !format::later_frame(&bytes[at..], salt, next));
            if first || !ends && !torn {
                return Err(broken(&"no frame"));
            }
            break;
        };
        let length = FRAME_HEADER_BYTES + frame.body.len();
        let next = frame.number.saturating_add(1);
        if first && frame.kind != CHECKPOINT {
            return Err(broken(&"no checkpoint"));
        }
        let oldest = next_frame.is_none();
        take_frame(frame, number, (at + FRAME_HEADER_BYTES) as u64, log, oldest).map_err(|e| broken(&e))?;
        *next_frame = Some(next);
        at += length;
    }
    let mut file = OpenOptions::new().write(true).open(&path).map_err(io)?;
    if at < bytes.len() {
        // It must go, lest a shorter one leave its end behind.
        file.set_len(at as u64).and_then(|()| file.sync_all()).map_err(io)?;
    }
    file.seek(SeekFrom::Start(at as u64)).map_err(io)?;
    Ok(Active { number, file, salt, end: at as u64 })
}

fn take_frame(
    Frame { kind, mut body, .. }: Frame,
    segment: u64,
    start: u64,
    log: &mut Log,
    oldest: bool,
) -> Result<(), CodecError> {
    match kind {
        CHECKPOINT => {
            let checkpoint: Checkpoint = cold::decode(&body)?;
            if oldest {
                log.begin(checkpoint);
            } else if checkpoint.groups == log.checkpoint().groups {
                // That is how a claim is written.
                log.owner = checkpoint.owner;
            } else {
                return Err(CodecError::Malformed);
            }
        }
        WRITES => {
            let whole = body.len();
            while !body.is_empty() {
                let base = start + (whole - body.len()) as u64;
                let (write, lies) = format::decode_write(&mut body)?;
                log.span(write.group).after(&write).map_err(|_| CodecError::Malformed)?;
                log.apply(
                    &write,
                    segment,
                    lies.into_iter().map(|(from, to)| (base + from as u64, base + to as u64)),
                );
            }
        }
        other => return Err(CodecError::UnknownKind(other)),
    }
    Ok(())
}
