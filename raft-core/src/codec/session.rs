//! A session entry's payload, little-endian:
//!
//! | bytes | field |
//! | --- | --- |
//! | 8 | log time that passes, in milliseconds |
//! | 1 | action: 1 open, 2 command, 3 keep, 4 close |
//!
//! and then, for an opening
//!
//! | bytes | field |
//! | --- | --- |
//! | 8 | mark |
//! | 8 | idle time in milliseconds |
//! | 4, 4, 4 | most sessions, most answers, most bytes of answers |
//!
//! for a command
//!
//! | bytes | field |
//! | --- | --- |
//! | 8, 8 | session: index, mark |
//! | 8 | number |
//! | 8 | seen below |
//! | rest | the command |
//!
//! for a keeping the session and what is seen below, for a closing the session.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};

use super::CodecError;
use crate::session::{Serial, SessionAction, SessionEntry, SessionId, SessionLimits};

const OPEN: u8 = 1;
const COMMAND: u8 = 2;
const KEEP: u8 = 3;
const CLOSE: u8 = 4;

/// What comes before the command.
pub(super) fn encode_head(entry: &SessionEntry) -> Vec<u8> {
    let mut head = Vec::with_capacity(SessionEntry::OVERHEAD_BYTES);
    head.put_u64_le(entry.elapsed_ms);
    match &entry.action {
        SessionAction::Open { mark, limits } => {
            head.put_u8(OPEN);
            head.put_u64_le(*mark);
            put_limits(limits, &mut head);
        }
        SessionAction::Command { serial, .. } => {
            head.put_u8(COMMAND);
            head.put_slice(&serial.session.to_bytes());
            head.put_u64_le(serial.number);
            head.put_u64_le(serial.seen_below);
        }
        SessionAction::Keep { session, seen_below } => {
            head.put_u8(KEEP);
            head.put_slice(&session.to_bytes());
            head.put_u64_le(*seen_below);
        }
        SessionAction::Close { session } => {
            head.put_u8(CLOSE);
            head.put_slice(&session.to_bytes());
        }
    }
    head
}

/// The command; empty where there is none.
pub(super) fn command(entry: &SessionEntry) -> &[u8] {
    match &entry.action {
        SessionAction::Command { command, .. } => command,
        _ => &[],
    }
}

/// Decodes a payload; the command's bytes are a slice of it.
pub(super) fn decode(mut payload: Bytes) -> Result<SessionEntry, CodecError> {
    let elapsed_ms = take_u64(&mut payload)?;
    let action = match payload.try_get_u8().map_err(|_| CodecError::Truncated)? {
        OPEN => SessionAction::Open { mark: take_u64(&mut payload)?, limits: take_limits(&mut payload)? },
        COMMAND => {
            let session = take_session(&mut payload)?;
            let (number, seen_below) = (take_u64(&mut payload)?, take_u64(&mut payload)?);
            let command = std::mem::take(&mut payload);
            SessionAction::Command { serial: Serial { session, number, seen_below }, command }
        }
        KEEP => {
            SessionAction::Keep { session: take_session(&mut payload)?, seen_below: take_u64(&mut payload)? }
        }
        CLOSE => SessionAction::Close { session: take_session(&mut payload)? },
        other => return Err(CodecError::UnknownKind(other)),
    };
    if payload.is_empty() { Ok(SessionEntry { elapsed_ms, action }) } else { Err(CodecError::Trailing) }
}

/// Appends limits: idle time, sessions, answers, their bytes.
pub(crate) fn put_limits(limits: &SessionLimits, out: &mut Vec<u8>) {
    out.put_u64_le(u64::try_from(limits.idle.as_millis()).unwrap_or(u64::MAX));
    out.put_u32_le(limits.max_sessions);
    out.put_u32_le(limits.max_answers);
    out.put_u32_le(limits.max_answer_bytes);
}

/// Takes what [`put_limits`] put.
pub(crate) fn take_limits(bytes: &mut Bytes) -> Result<SessionLimits, CodecError> {
    let idle = Duration::from_millis(take_u64(bytes)?);
    let mut number = || bytes.try_get_u32_le().map_err(|_| CodecError::Truncated);
    Ok(SessionLimits { idle, max_sessions: number()?, max_answers: number()?, max_answer_bytes: number()? })
}

fn take_session(bytes: &mut Bytes) -> Result<SessionId, CodecError> {
    Ok(SessionId { index: take_u64(bytes)?, mark: take_u64(bytes)? })
}

fn take_u64(bytes: &mut Bytes) -> Result<u64, CodecError> {
    bytes.try_get_u64_le().map_err(|_| CodecError::Truncated)
}
