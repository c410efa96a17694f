//! Cold structures and the sample's commands: serde through bincode, with a limit on what decoding may allocate.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::CodecError;

/// The most that decoding one structure may read or allocate: above the largest entry, so that any command decodes.
pub const MAX_DECODED_BYTES: usize = 128 << 20;

/// Up to this length, bytes may allocate no more than this: a text's length is believed, within the limit, before the text is there.
const SHORT_BYTES: usize = 64 << 10;

/// bincode's fixed-width little-endian layout: that of bincode 1 too, and of the libraries that could replace it.
fn layout<const LIMIT: usize>() -> impl bincode::config::Config {
    bincode::config::legacy().with_limit::<LIMIT>()
}

/// Encodes a structure.
///
/// # Errors
/// [`CodecError::Malformed`] where serde refuses it, [`CodecError::TooLarge`] beyond [`MAX_DECODED_BYTES`].
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, CodecError> {
    let bytes = bincode::serde::encode_to_vec(value, layout::<MAX_DECODED_BYTES>())
        .map_err(|_| CodecError::Malformed)?;
    if bytes.len() > MAX_DECODED_BYTES { Err(CodecError::TooLarge) } else { Ok(bytes) }
}

/// Decodes a structure that [`encode`] made.
///
/// # Errors
/// [`CodecError::Malformed`] where the bytes are no such structure, [`CodecError::Trailing`] where they go on after it.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let decoded = if bytes.len() <= SHORT_BYTES {
        bincode::serde::decode_from_slice(bytes, layout::<SHORT_BYTES>())
    } else {
        bincode::serde::decode_from_slice(bytes, layout::<MAX_DECODED_BYTES>())
    };
    let (value, read) = decoded.map_err(|_| CodecError::Malformed)?;
    if read == bytes.len() { Ok(value) } else { Err(CodecError::Trailing) }
}
